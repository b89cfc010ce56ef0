//! The example `key_value`, as its users meet it.
//!
//! See `support/program.rs` for how it is built.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use support::program::{PATIENCE, Program};

/// Runs the example to its end; what it prints, if all is well.
fn run(arguments: &[&str]) -> Vec<String> {
    let mut program = Program::start("key_value", arguments);
    let (code, lines) = program.finish();
    let errors: Vec<String> = program.errors.iter().collect();
    assert_eq!((code, &*errors), (Some(0), &[][..]), "{lines:?}");
    lines
}

#[test]
fn nodes_of_one_process_share_a_map() {
    let expected = [
        "left puts blue, there was null",
        "right gets \"blue\"",
        "right puts red, there was \"blue\"",
        "left gets \"red\"",
        "left asks map for {\"push\":5}: the peer's concern gave no answer",
        "left asks list for {}: the peer has no concern with the command list",
    ];
    assert_eq!(run(&[]), expected);
}

#[test]
fn other_processes_put_and_get() {
    let mut serve = Program::start("key_value", &["serve"]);
    let line = serve.output.recv_timeout(PATIENCE).unwrap();
    let address = line.strip_prefix("serving on ").unwrap();
    assert_eq!(run(&["get", "--to", address, "colour"]), ["null"]);
    let put = |value: &str| run(&["put", "--to", address, "colour", value]);
    assert_eq!(put("\"blue\""), ["null"]);
    assert_eq!(put("{\"red\":255}"), ["\"blue\""]);
    assert_eq!(run(&["get", "--to", address, "colour"]), ["{\"red\":255}"]);
    assert_eq!(serve.finish(), (Some(0), vec![]));
    // Nobody is there any more.
    let mut late = Program::start("key_value", &["get", "--to", address, "colour"]);
    assert_eq!(late.finish(), (Some(1), vec![]));
    late.error_with("Error: ");
}

#[test]
fn wrong_usage_is_an_error() {
    let cases: [&[&str]; 4] = [
        &["take"],
        &["get", "colour"],
        &["put", "--to", "127.0.0.1:1", "colour"],
        &["put", "--to", "127.0.0.1:1", "colour", "blue"],
    ];
    for arguments in cases {
        let mut program = Program::start("key_value", arguments);
        assert_eq!(program.end(), (Some(2), vec![]), "{arguments:?}");
    }
}
