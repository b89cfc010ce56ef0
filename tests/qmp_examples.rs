//! The QMP examples as their users meet them: what `qmp_cli` and `qmp_soak` do is fixed, and held
//! here sentence by sentence against built programs; `qmp_shell` is tried.
//!
//! See `support/program.rs` for how they are built.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

#[path = "../examples/qmp_shell/line.rs"]
mod line; // for its tests
#[path = "support/qemu.rs"]
mod qemu;
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, unbounded};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use qemu::Program::{Emulator, StorageDaemon};
use qemu::present;
use support::program::Program;
use support::qmp::{Act, Folder, Script, Server, event, greeting};
use support::{ms, pause, secs, spawn};

/// What is to happen within a second, on a machine that does many other things as well.
const SOON: Duration = secs(10);

/// A session of the command-line example.
fn cli(server: &Server) -> Program {
    Program::start("qmp_cli", &[server.address()])
}

fn parsed(lines: Vec<String>) -> Vec<Value> {
    let parse = |line: String| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
    lines.into_iter().map(parse).collect()
}

/// Waits for its end with this status and nothing on standard error; the rest of the output.
#[track_caller]
fn ends_quietly(mut cli: Program) -> Vec<Value> {
    let (status, rest) = cli.end();
    let errors: Vec<String> = cli.errors.iter().collect();
    assert_eq!((status, errors), (Some(0), vec![]), "after {rest:?}");
    parsed(rest)
}

/// Waits for its end with status 1 and one line on standard error; the rest of the output, and
/// the line.
#[track_caller]
fn fails(mut cli: Program) -> (Vec<Value>, String) {
    let (status, rest) = cli.end();
    let mut errors: Vec<String> = cli.errors.iter().collect();
    assert_eq!((status, errors.len()), (Some(1), 1), "{rest:?}, {errors:?}");
    (parsed(rest), errors.remove(0))
}

/// As [`fails`], while its input stays open and silent; not long after `fact`.
#[track_caller]
fn fails_soon(mut cli: Program, fact: Instant) -> (Vec<Value>, String) {
    let input = cli.input.take();
    let failed = fails(cli);
    assert!(fact.elapsed() < SOON, "{:?}", fact.elapsed());
    drop(input);
    failed
}

/// A command whose replies come when the server is told; all others are as in [`Script::new`].
fn hangs() -> Act {
    Act::After(never(), Box::new(Act::SILENCE))
}

fn echo(script: Script) -> Script {
    script.on("echo", |command| Act::Return(command.arguments.clone()))
}

fn names(server: &Server) -> Vec<String> {
    let commands = server.commands().into_iter();
    commands.map(|command| command.name).collect()
}

/// A real server and the path of its socket, unless it is not there.
fn real(program: qemu::Program) -> Option<(qemu::Server, String)> {
    if !present(program) {
        return None;
    }
    let server = qemu::Server::start(program).unwrap();
    let socket = server.socket().to_str().unwrap().to_owned();
    Some((server, socket))
}

#[test]
fn each_line_is_sent_as_soon_as_it_is_read() {
    let server = Script::new().on("hang", |_| hangs()).start_unix();
    let mut cli = cli(&server);
    for n in 1..=3 {
        cli.say(json!({"execute": "hang"}));
        server.nth(n, "hang");
    }
    // What is behind the window waits in the client, and holds up neither reading nor printing.
    for _ in 0..5000 {
        cli.say(json!({"execute": "hang"}));
    }
    cli.say("x");
    assert_eq!(cli.line()["error"]["class"], "InvalidInput");
    server.send(&event("SEEN", json!({})));
    assert_eq!(cli.line()["event"]["event"], "SEEN");
    cli.say(json!({"exec-oob": "query-version", "id": 1}));
    assert_eq!(cli.line()["id"], 1);
}

#[test]
fn output_is_in_the_order_of_arrival() {
    let step = |command: &support::qmp::Command| {
        let n = command.arguments["n"].clone();
        Act::All(vec![
            Act::Send(event("BEFORE", n.clone())),
            Act::Return(n.clone()),
            Act::Send(event("AFTER", n)),
        ])
    };
    let server = Script::new().on("step", step).start_unix();
    let mut cli = cli(&server);
    const STEPS: usize = 2000;
    for n in 0..STEPS {
        cli.say(json!({"execute": "step", "arguments": {"n": n}, "id": n}));
    }
    for n in 0..STEPS {
        assert_eq!(cli.line(), json!({"event": event("BEFORE", json!(n))}));
        assert_eq!(cli.line(), json!({"reply": n, "id": n}));
        assert_eq!(cli.line(), json!({"event": event("AFTER", json!(n))}));
    }
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn out_of_band_replies_come_as_they_arrive() {
    let (release, held) = Act::Return(json!("in band")).later();
    let held = parking_lot::Mutex::new(Some(held));
    let server = Script::new()
        .on("hold", move |_| held.lock().take().unwrap())
        .start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "hold", "id": 1}));
    server.first("hold");
    cli.say(json!({"exec-oob": "query-version", "id": 2}));
    assert_eq!(cli.line()["id"], 2);
    release.send(()).unwrap();
    assert_eq!(cli.line(), json!({"reply": "in band", "id": 1}));
    let enabled = &server.first("qmp_capabilities").arguments;
    assert_eq!(*enabled, json!({"enable": ["oob"]}));
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn an_id_comes_back_as_it_was_given_if_it_was() {
    let ids = json!([
        null, true, 0, -1, u64::MAX, i64::MIN, 1.5, 1e300, "", "text \"\\ é \u{1F600}\n", [], {},
        [1, [2, null]], {"id": {"b": 1, "a": [2]}}, 0
    ]);
    let ids: Vec<Value> = ids.as_array().unwrap().clone();
    let server = echo(Script::new()).start_unix();
    let mut cli = cli(&server);
    let unknown = "The command unknown has not been found";
    for id in &ids {
        cli.say(json!({"id": id, "execute": "echo", "arguments": {"id": "other"}}));
        cli.say(json!({"execute": "unknown", "id": id}));
    }
    for id in &ids {
        assert_eq!(cli.line(), json!({"reply": {"id": "other"}, "id": id}));
        let error = json!({"class": "CommandNotFound", "desc": unknown});
        assert_eq!(cli.line(), json!({"error": error, "id": id}));
    }
    cli.say(json!({"execute": "echo", "arguments": {"id": 1}}));
    assert_eq!(cli.line(), json!({"reply": {"id": 1}}));
    cli.say(json!({"execute": "unknown"}));
    let error = json!({"class": "CommandNotFound", "desc": unknown});
    assert_eq!(cli.line(), json!({"error": error}));
    for id in &ids {
        cli.say(json!({"execute": 5, "id": id}));
        let line = cli.line();
        assert_eq!(line["error"]["class"], "InvalidInput");
        assert_eq!(line.get("id"), Some(id));
    }
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn events_from_before_the_session_are_printed_and_strangers_replies_are_not() {
    let early = |name| Act::Send(event(name, Value::Null));
    // The ids that commands are going to have begin below 1,000.
    let strange = |text: &str| {
        let replies = (0..1100).map(|id| Act::Send(json!({"return": text, "id": id})));
        Act::All(replies.collect())
    };
    let opening = vec![early("A"), early("B"), Act::Send(greeting(&[]))];
    let acts = parking_lot::Mutex::new(vec![Act::All(vec![
        strange("stale"),
        early("C"),
        Act::Send(json!({"return": {}, "id": {"x": 1}})),
        Act::Return(json!({})),
        early("D"),
    ])]);
    let server = echo(Script::new())
        .opening(Act::All(opening))
        .on("qmp_capabilities", move |_| acts.lock().pop().unwrap())
        .start_unix();
    let mut cli = cli(&server);
    for name in ["A", "B", "C", "D"] {
        assert_eq!(cli.line(), json!({"event": event(name, Value::Null)}));
    }
    for n in 0..20 {
        cli.say(json!({"execute": "echo", "arguments": {"n": n}}));
        assert_eq!(cli.line(), json!({"reply": {"n": n}}));
    }
    let last = server.nth(20, "echo").id;
    server.send(&json!({"return": "again", "id": last}));
    for id in [json!(null), json!("x"), json!(1.5), json!(99_999)] {
        server.send(&json!({"return": "to nobody", "id": id}));
    }
    server.send(&json!({"neither": "this nor that"}));
    server.send(&json!({"event": 5, "id": last}));
    server.send(&event("E", json!({"id": 1})));
    assert_eq!(cli.line()["event"]["event"], "E");
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn a_strangers_reply_is_never_taken_for_one_of_ours_however_late_it_is_looked_at() {
    // More events than a pipe holds, then replies with all ids that commands can have at first.
    let events = (0..5000).map(|n| Act::Send(event("EARLY", json!(n))));
    let strange = (0..1100).map(|id| Act::Send(json!({"return": "strange", "id": id})));
    let late = Act::Send(event("LATE", json!({})));
    let all = events.chain(strange).chain([late, Act::Return(json!({}))]);
    let acts = parking_lot::Mutex::new(Some(Act::All(all.collect())));
    let server = echo(Script::new())
        .on("qmp_capabilities", move |_| acts.lock().take().unwrap())
        .start_unix();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut cli = Program::start_as("qmp_cli", &[server.address()], |command| {
        command.stdout(writer);
    });
    for n in 0..20 {
        cli.say(json!({"execute": "echo", "arguments": {"n": n}, "id": n}));
    }
    server.nth(20, "echo");
    pause(ms(200));
    let mut lines = BufReader::new(reader)
        .lines()
        .map(Result::unwrap)
        .skip(5000);
    assert!(lines.next().unwrap().contains("LATE"));
    for n in 0..20 {
        let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(line, json!({"reply": {"n": n}, "id": n}));
    }
    cli.input = None;
    assert_eq!(lines.next(), None);
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn a_line_that_is_no_command_is_told_at_once_and_not_sent() {
    let server = echo(Script::new()).on("hang", |_| hangs()).start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "hang"}));
    let deep = format!(
        r#"{{"execute": "x", "arguments": {}{}}}"#,
        r#"{"a":"#.repeat(1000) + "1",
        "}".repeat(1000)
    );
    let deeper = "[".repeat(1_000_000);
    let lines: [&[u8]; 25] = [
        b"x",
        b"{",
        b"{\"execute\": \"echo\"",
        b"{\"execute\": \"echo\"} {\"execute\": \"echo\"}",
        b"{'execute': 'echo'}",
        b"[]",
        b"[{\"execute\": \"echo\"}]",
        b"5",
        b"null",
        b"\"echo\"",
        b"{}",
        b"{\"arguments\": {}}",
        b"{\"execute\": 5}",
        b"{\"execute\": null}",
        b"{\"execute\": \"echo\", \"exec-oob\": \"echo\"}",
        b"{\"execute\": \"echo\", \"more\": 1}",
        b"{\"execute\": \"echo\", \"arguments\": []}",
        b"{\"execute\": \"echo\", \"arguments\": null}",
        b"{\"execute\": \"echo\", \"arguments\": {\"a\": 1e400}}",
        b"{\"execute\": \"echo\", \"arguments\": {\"a\": NaN}}",
        b"{\"execute\": \"echo\", \"arguments\": {\"a\": \"\\ud800\"}}",
        b"{\"execute\": \"echo\xFF\"}",
        b"\xEF\xBB\xBF{\"execute\": \"echo\"}",
        deep.as_bytes(),
        deeper.as_bytes(),
    ];
    for line in lines {
        cli.input.as_mut().unwrap().write_all(line).unwrap();
        cli.say("");
        let told = cli.line();
        assert_eq!(told["error"]["class"], "InvalidInput", "{told}");
        assert!(
            told["error"]["desc"]
                .as_str()
                .is_some_and(|desc| !desc.is_empty())
        );
        assert_eq!(told.as_object().unwrap().len(), 1, "{told}");
    }
    assert_eq!(names(&server), ["qmp_capabilities", "hang"]);
}

#[test]
fn what_is_deep_or_large_passes() {
    let server = echo(Script::new()).start_unix();
    let mut cli = cli(&server);
    let deep = (2..990).fold(json!({}), |inner, _| json!([inner]));
    let large = json!("\u{E9}[{\"".repeat(1_000_000));
    cli.say(json!({"execute": "echo", "arguments": {"a": large}, "id": deep}));
    assert!(cli.line() == json!({"reply": {"a": large}, "id": deep}));
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn blank_lines_are_skipped_and_the_last_line_needs_no_end() {
    let server = echo(Script::new()).start_unix();
    let mut cli = cli(&server);
    let input =
        "\n\r\n \t \n{\"execute\":\"echo\",\"id\":1}\r\n\n  {\"execute\":\"echo\",\"id\":2}";
    write!(cli.input.take().unwrap(), "{input}").unwrap();
    let replies = [1, 2].map(|id| json!({"reply": null, "id": id}));
    assert_eq!(ends_quietly(cli), replies);
}

#[test]
fn the_end_of_input_waits_for_replies_and_disconnects() {
    let (release, held) = Act::Return(json!("late")).later();
    let held = parking_lot::Mutex::new(Some(held));
    let server = Script::new()
        .on("hold", move |_| held.lock().take().unwrap())
        .start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "hold", "id": 1}));
    cli.say(json!({"execute": "query-version", "id": 2}));
    cli.input = None;
    server.first("query-version");
    pause(ms(200));
    assert!(cli.child.try_wait().unwrap().is_none());
    server.send(&event("MEANWHILE", json!({})));
    assert_eq!(cli.line()["event"]["event"], "MEANWHILE");
    release.send(()).unwrap();
    assert_eq!(cli.line(), json!({"reply": "late", "id": 1}));
    assert_eq!(cli.line()["id"], 2);
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
    server.wait_gone(1);
}

#[test]
fn no_input_at_all_is_a_session_too() {
    let server = Script::new().start_unix();
    let mut cli = cli(&server);
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
    assert_eq!(names(&server), ["qmp_capabilities"]);
}

#[test]
fn the_end_that_follows_a_quit_is_a_good_one() {
    for (reset, at_end) in [(false, false), (false, true), (true, false), (true, true)] {
        let script = Script::new();
        let script = if reset {
            script.deaf_after("quit")
        } else {
            script
        };
        let server = script.start_unix();
        let mut cli = cli(&server);
        cli.say(json!({"execute": "quit", "id": "bye"}));
        let input = cli.input.take().filter(|_| !at_end);
        let rest = ends_quietly(cli);
        assert_eq!(rest[0]["event"]["event"], "SHUTDOWN");
        assert_eq!(rest[1..], [json!({"reply": {}, "id": "bye"})]);
        drop(input);
    }
}

#[test]
fn commands_behind_a_quit_are_told_that_it_is_over() {
    let server = Script::new().deaf_after("quit").start_unix();
    let mut cli = cli(&server);
    let lines = ["quit", "query-version", "query-version"].map(|name| json!({"execute": name}));
    cli.say(lines.map(|line| line.to_string()).join("\n"));
    let rest = ends_quietly(cli);
    let classes: Vec<_> = rest[2..]
        .iter()
        .map(|line| &line["error"]["class"])
        .collect();
    assert!(
        classes.iter().all(|class| **class == "Disconnected"),
        "{rest:?}"
    );
    // What is read after the end is not pending, and nothing is said about it.
    assert!(classes.len() <= 2, "{rest:?}");
}

#[test]
fn a_quit_that_fails_is_no_excuse() {
    let server = Script::new()
        .on("quit", |_| {
            let refusal = Act::Error("GenericError", "not now".to_owned());
            Act::All(vec![refusal, Act::Close])
        })
        .start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "quit"}));
    let (rest, _) = fails_soon(cli, Instant::now());
    assert_eq!(rest[0]["error"]["desc"], "not now");
}

#[test]
fn a_server_that_goes_away_ends_it_while_the_input_is_silent() {
    type Case = (fn() -> Act, bool, &'static str);
    let cases: [Case; 7] = [
        (|| Act::Close, false, "the server closed the connection"),
        (|| Act::Close, true, "connection lost: "),
        (|| Act::Raw(b"garbage".to_vec()), false, ""),
        (|| Act::Raw(b"[]".to_vec()), false, ""),
        (|| Act::Raw(b"{\"return\": inf}".to_vec()), false, ""),
        (
            || Act::Raw(vec![b'{', b'"', b'\xFF', b'"', b':', b'1', b'}']),
            false,
            "",
        ),
        (|| Act::Raw(b"{\"a\":".repeat(600)), false, ""),
    ];
    for (act, reset, words) in cases {
        let script = Script::new()
            .on("hang", |_| hangs())
            .on("fail", move |_| act());
        let script = if reset {
            script.deaf_after("fail")
        } else {
            script
        };
        let server = script.start_unix();
        let mut cli = cli(&server);
        cli.say(json!({"execute": "fail", "id": [1]}));
        server.first("fail");
        let (rest, error) = fails_soon(cli, Instant::now());
        assert!(error.contains(words), "{error}");
        let [line] = rest.as_slice() else {
            panic!("{rest:?}");
        };
        assert_eq!(line["error"]["class"], "Disconnected");
        assert_eq!(line["id"], json!([1]));
        let desc = line["error"]["desc"].as_str().unwrap();
        assert!(
            desc.starts_with("fail interrupted, may have run: "),
            "{desc}"
        );
    }
}

#[test]
fn pending_calls_are_told_in_their_order_each_with_its_id() {
    let server = Script::new().on("hang", |_| hangs()).start_unix();
    let mut cli = cli(&server);
    for id in 0..20 {
        cli.say(json!({"execute": "hang", "id": id}));
    }
    cli.say(json!({"execute": "hang"}));
    server.nth(8, "hang"); // the others wait in the client
    cli.say("x"); // has been read when the rest has been
    assert_eq!(cli.line()["error"]["class"], "InvalidInput");
    let fact = Instant::now();
    server.close();
    let (rest, error) = fails_soon(cli, fact);
    assert!(
        error.ends_with("the server closed the connection"),
        "{error}"
    );
    let ids: Vec<_> = rest.iter().map(|line| line.get("id").cloned()).collect();
    let expected: Vec<_> = (0..20).map(|id| Some(json!(id))).chain([None]).collect();
    assert_eq!(ids, expected);
    for (n, line) in rest.iter().enumerate() {
        assert_eq!(line["error"]["class"], "Disconnected");
        let sent = if n < 8 {
            "may have run"
        } else {
            "was not sent"
        };
        let desc = line["error"]["desc"].as_str().unwrap();
        assert!(desc.contains(sent), "{n}: {desc}");
    }
}

#[test]
fn a_server_that_is_told_to_stop_by_others_fails_the_session() {
    let server = Script::new().start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "query-version"}));
    cli.line();
    server.send(&event(
        "SHUTDOWN",
        json!({"guest": false, "reason": "host-signal"}),
    ));
    assert_eq!(cli.line()["event"]["event"], "SHUTDOWN");
    let fact = Instant::now();
    server.close();
    let (rest, error) = fails_soon(cli, fact);
    assert_eq!(rest, [Value::Null; 0]);
    assert!(error.contains("after a SHUTDOWN event"), "{error}");
}

#[test]
fn a_reply_that_is_cut_off_is_never_printed() {
    let whole = json!({"return": {"a": [1, 2]}, "id": 0}).to_string();
    // A server that knows the id of the command it cuts the reply to.
    for missing in [1, 2, 5, whole.len() - 1] {
        let server = Script::new()
            .on("cut", move |command| {
                let reply = json!({"return": {"a": [1, 2]}, "id": command.id}).to_string();
                let cut = reply.len().saturating_sub(missing).max(1);
                Act::All(vec![
                    Act::Send(event("BEFORE", json!({}))),
                    Act::Raw(reply.as_bytes()[..cut].to_vec()),
                    Act::Close,
                ])
            })
            .start_unix();
        let mut cli = cli(&server);
        cli.say(json!({"execute": "cut", "id": 7}));
        let (rest, error) = fails_soon(cli, Instant::now());
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert_eq!(rest[0]["event"]["event"], "BEFORE");
        assert_eq!(rest[1]["error"]["class"], "Disconnected");
        assert_eq!(rest[1]["id"], 7);
        assert!(!error.is_empty());
    }
    // One that is complete but for its end of line is a reply.
    let server = Script::new()
        .on("whole", |command| {
            let reply = json!({"return": "whole", "id": command.id}).to_string();
            Act::All(vec![Act::Raw(reply.into_bytes()), Act::Close])
        })
        .start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "whole", "id": 7}));
    let (rest, _) = fails_soon(cli, Instant::now());
    assert_eq!(rest, [json!({"reply": "whole", "id": 7})]);
}

#[test]
fn a_reply_that_is_none_is_an_error_of_its_command_alone() {
    let server = echo(Script::new())
        .on("odd", |command| {
            Act::Send(json!({"id": command.id, "error": "no"}))
        })
        .start_unix();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "odd", "id": 1}));
    let line = cli.line();
    assert_eq!(
        (&line["error"]["class"], &line["id"]),
        (&json!("BadReply"), &json!(1))
    );
    cli.say(json!({"execute": "echo", "id": 2}));
    assert_eq!(cli.line(), json!({"reply": null, "id": 2}));
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn what_cannot_be_reached_is_told() {
    let folder = Folder::new();
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let left = folder.path().join("left").to_str().unwrap().to_owned();
    drop(UnixListener::bind(&left).unwrap());
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let long = format!("/{}", "x".repeat(200));
    for address in [&missing, &left, &closed, &long] {
        let cli = Program::start("qmp_cli", &[address]);
        let (rest, error) = fails_soon(cli, Instant::now());
        assert_eq!(rest, [Value::Null; 0]);
        assert!(error.contains(&**address), "{error}");
    }
}

#[test]
fn a_session_has_its_time_to_begin_and_no_more() {
    let silent = |script: Script| script.on("qmp_capabilities", |_| Act::SILENCE);
    let slowly = Script::new().drip(1, ms(50)); // the greeting takes several seconds
    let cases = [
        (
            Script::new().opening(Act::SILENCE),
            "another client may hold the monitor",
        ),
        (silent(Script::new()), "no answer to the negotiation"),
        (slowly, "no greeting"),
    ];
    for (script, words) in cases {
        let server = script.start_unix();
        let began = Instant::now();
        let cli = Program::start_as("qmp_cli", &[server.address()], |command| {
            command.env("QMP_TIMEOUT", "0.7");
        });
        let (rest, error) = fails_soon(cli, began + ms(700));
        assert!(began.elapsed() >= ms(700), "{:?}", began.elapsed());
        assert_eq!(rest, [Value::Null; 0]);
        assert!(error.contains(words) && error.contains("700ms"), "{error}");
    }
}

#[test]
fn the_time_to_begin_covers_a_full_backlog() {
    let folder = Folder::new();
    let path = folder.path().join("full");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let began = Instant::now();
    let cli = Program::start_as("qmp_cli", &[path.to_str().unwrap()], |command| {
        command.env("QMP_TIMEOUT", "0.5");
    });
    let (_, error) = fails_soon(cli, began);
    assert!(began.elapsed() >= ms(500), "{:?}", began.elapsed());
    assert!(error.contains("no connection within 500ms"), "{error}");
}

#[test]
fn five_seconds_are_the_time_without_a_word_about_it() {
    let server = Script::new().opening(Act::SILENCE).start_unix();
    let began = Instant::now();
    let (_, error) = fails(cli(&server));
    assert!(began.elapsed() >= secs(5), "{:?}", began.elapsed());
    assert!(error.contains("5s"), "{error}");
}

#[test]
fn a_peer_that_does_not_speak_the_protocol_is_told_at_once() {
    let banners: [(&[u8], &str); 5] = [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400"),
        (b"login:\r\nPassword:\r\n", "login:"),
        (b"{\"return\": {}}\r\n", "return"),
        (b"{\"QMP\": 5}\r\n", "QMP"),
        (b"\0\xFF\x01\r\n", ""),
    ];
    for (banner, words) in banners {
        let server = Script::new().opening(Act::Raw(banner.to_vec())).start_tcp();
        let (rest, error) = fails_soon(cli(&server), Instant::now());
        assert_eq!(rest, [Value::Null; 0]);
        assert!(error.contains(words), "{error}");
    }
    for opening in [
        Act::Close,
        Act::All(vec![Act::Raw(b"{\"QMP\": {".to_vec()), Act::Close]),
    ] {
        let server = Script::new().opening(opening).start_unix();
        let (rest, _) = fails_soon(cli(&server), Instant::now());
        assert_eq!(rest, [Value::Null; 0]);
    }
    let refused = |_: &support::qmp::Command| Act::Error("GenericError", "no\nway".to_owned());
    let server = Script::new().on("qmp_capabilities", refused).start_unix();
    let (_, error) = fails_soon(cli(&server), Instant::now());
    assert!(error.contains("no way"), "{error}");
}

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    let cases: [(&str, &[&str], &str); 9] = [
        ("qmp_cli", &[], "5"),
        ("qmp_cli", &["a", "b"], "5"),
        ("qmp_cli", &["--oob", "a"], "5"),
        ("qmp_cli", &[""], "5"),
        ("qmp_cli", &["127.0.0.1:70000"], "5"),
        ("qmp_cli", &["a"], "soon"),
        ("qmp_cli", &["a"], "-1"),
        ("qmp_soak", &["a"], "5"),
        ("qmp_soak", &["a", "many"], "5"),
    ];
    for (example, arguments, limit) in cases {
        let mut program = Program::start_as(example, arguments, |command| {
            command.env("QMP_TIMEOUT", limit);
        });
        assert_eq!(program.end(), (Some(2), vec![]), "{arguments:?}");
        let errors: Vec<String> = program.errors.iter().collect();
        assert!(errors[0].starts_with("error: "), "{errors:?}");
    }
}

#[test]
fn out_of_band_commands_can_be_left_disabled() {
    let server = Script::new().start_unix();
    let mut cli = Program::start("qmp_cli", &["--no-oob", server.address()]);
    cli.say(json!({"exec-oob": "query-version", "id": 1}));
    let line = cli.line();
    assert_eq!(
        (&line["error"]["class"], &line["id"]),
        (&json!("InvalidInput"), &json!(1))
    );
    cli.say(json!({"execute": "query-version", "id": 2}));
    assert_eq!(cli.line()["id"], 2);
    assert_eq!(server.first("qmp_capabilities").arguments, Value::Null);
    cli.input = None;
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn a_port_is_as_good_as_a_path() {
    let server = echo(Script::new()).start_tcp();
    let mut cli = cli(&server);
    cli.say(json!({"execute": "echo", "arguments": {"a": 1}, "id": 1}));
    assert_eq!(cli.line(), json!({"reply": {"a": 1}, "id": 1}));
    cli.say(json!({"execute": "quit", "id": 2}));
    let rest = ends_quietly(cli);
    assert_eq!(rest.last(), Some(&json!({"reply": {}, "id": 2})));
}

/// Starts it with an output whose reader has gone.
fn without_reader(server: &Server) -> Program {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Program::start_as("qmp_cli", &[server.address()], |command| {
        command.stdout(writer);
    })
}

#[test]
fn it_ends_quietly_when_nobody_reads_its_output() {
    let server = Script::new().start_unix();
    let mut cli = without_reader(&server);
    let input = cli.input.take();
    server.first("qmp_capabilities");
    server.send(&event("UNSEEN", json!({})));
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
    drop(input);
    server.wait_gone(1);

    let mut cli = without_reader(&server);
    cli.say("what the thread that reads answers by itself");
    let input = cli.input.take();
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
    drop(input);
}

#[test]
fn an_output_that_fails_otherwise_is_told() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        return; // not on Linux
    };
    let server = Script::new().start_unix();
    let mut cli = Program::start_as("qmp_cli", &[server.address()], |command| {
        command.stdout(full);
    });
    cli.say(json!({"execute": "query-version"}));
    let (_, error) = fails_soon(cli, Instant::now());
    assert!(error.contains("standard output: "), "{error}");
}

#[test]
fn a_reader_that_takes_its_time_loses_nothing() {
    let server = Script::new()
        .on("burst", |_| {
            let all = (0..100_000).map(|n| Act::Send(json!({"event": "N", "data": n})));
            Act::All(all.chain([Act::Return(json!({}))]).collect())
        })
        .start_unix();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut cli = Program::start_as("qmp_cli", &[server.address()], |command| {
        command.stdout(writer);
    });
    cli.say(json!({"execute": "burst", "id": 1}));
    cli.say(json!({"execute": "query-version", "id": 2}));
    cli.input = None;
    server.first("query-version");
    pause(ms(500));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 100_002);
    assert!(lines[99_999].contains("99999"), "{}", lines[99_999]);
    assert_eq!(lines[100_000], r#"{"reply":{},"id":1}"#);
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
}

#[test]
fn a_storage_daemon_is_attended_from_greeting_to_quit() {
    let Some((_real, socket)) = real(StorageDaemon) else {
        return;
    };
    let mut cli = Program::start("qmp_cli", &[&socket]);
    cli.say(json!({"execute": "query-version", "id": {"b": [1], "a": null}}));
    let version = cli.line();
    assert!(version["reply"]["qemu"]["major"].is_u64(), "{version}");
    assert_eq!(version["id"], json!({"b": [1], "a": null}));
    let deep = (4..1000).fold(json!({}), |inner, _| json!([inner]));
    cli.say(json!({"execute": "query-version", "arguments": {"a": deep}}));
    let line = cli.line();
    assert_eq!(
        line["error"]["desc"], "Parameter 'a' is unexpected",
        "{line}"
    );
    cli.say(json!({"execute": "no-such-command"}));
    let desc = "The command no-such-command has not been found";
    let error = json!({"class": "CommandNotFound", "desc": desc});
    assert_eq!(cli.line(), json!({"error": error}));
    for _ in 0..500 {
        cli.say(json!({"execute": "query-block-exports", "id": "same"}));
    }
    for _ in 0..500 {
        assert_eq!(cli.line(), json!({"reply": [], "id": "same"}));
    }
    cli.say(json!({"execute": "query-qmp-schema", "id": 1.5}));
    assert!(cli.line()["reply"].as_array().unwrap().len() > 100);
    cli.say(json!({"execute": "quit", "id": 2}));
    let input = cli.input.take();
    assert_eq!(ends_quietly(cli), [json!({"reply": {}, "id": 2})]);
    drop(input);
}

#[test]
fn an_emulator_s_events_and_replies_come_in_its_order() {
    let Some((_real, socket)) = real(Emulator) else {
        return;
    };
    let mut cli = Program::start("qmp_cli", &[&socket]);
    for (id, command) in ["stop", "cont", "quit"].iter().enumerate() {
        cli.say(json!({"execute": command, "id": id}));
        let first = cli.line();
        let name = ["STOP", "RESUME", "SHUTDOWN"][id];
        assert_eq!(first["event"]["event"], name, "{first}");
        assert!(first["event"]["timestamp"]["seconds"].is_u64());
        assert_eq!(cli.line(), json!({"reply": {}, "id": id}));
    }
    let input = cli.input.take();
    assert_eq!(ends_quietly(cli), [Value::Null; 0]);
    drop(input);
}

#[test]
fn a_real_server_that_is_killed_ends_it() {
    for program in qemu::Program::ALL {
        let Some((mut real, socket)) = real(program) else {
            continue;
        };
        let mut cli = Program::start("qmp_cli", &[&socket]);
        cli.say(json!({"execute": "query-version", "id": 1}));
        assert_eq!(cli.line()["id"], 1);
        let fact = Instant::now();
        real.kill().unwrap();
        let (rest, error) = fails_soon(cli, fact);
        assert_eq!(rest, [Value::Null; 0]);
        assert!(!error.is_empty());
    }
}

#[test]
fn a_monitor_that_is_taken_is_told_as_such() {
    let Some((_real, socket)) = real(StorageDaemon) else {
        return;
    };
    let _holder = UnixStream::connect(&socket).unwrap();
    let cli = Program::start_as("qmp_cli", &[&socket], |command| {
        command.env("QMP_TIMEOUT", "0.5");
    });
    let (_, error) = fails(cli);
    assert!(
        error.contains("another client may hold the monitor"),
        "{error}"
    );
}

/// How many threads and descriptors a process has; not on Linux: nothing.
fn footprint(program: &Program) -> [usize; 2] {
    let count = |what: &str| {
        let folder = format!("/proc/{}/{what}", program.child.id());
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    };
    [count("task"), count("fd")]
}

fn soaks(socket: &str, sessions: u32) {
    let mut soak = Program::start("qmp_soak", &[socket, &sessions.to_string()]);
    assert_eq!(soak.line(), json!({"ready": "before"}));
    let before = footprint(&soak);
    soak.say("");
    assert_eq!(soak.line(), json!({"ready": "after"}));
    assert_eq!(footprint(&soak), before);
    soak.say("");
    assert_eq!(ends_quietly(soak), [Value::Null; 0]);
}

#[test]
fn sessions_leave_nothing_behind() {
    let server = Script::new().start_unix();
    soaks(server.address(), 50);
    server.wait_gone(50);
    let asked = names(&server);
    let one = ["qmp_capabilities", "query-version"];
    assert_eq!(asked, one.repeat(50), "each session asks one thing");
    if let Some((_real, socket)) = real(StorageDaemon) {
        soaks(&socket, 50);
    }
}

#[test]
fn a_soak_that_cannot_go_on_says_why() {
    let server = Script::new()
        .on("query-version", |_| Act::Close)
        .start_unix();
    let mut soak = Program::start("qmp_soak", &[server.address(), "3"]);
    assert_eq!(soak.line(), json!({"ready": "before"}));
    soak.say("");
    let (rest, error) = fails(soak);
    assert_eq!(rest, [Value::Null; 0]);
    assert!(error.contains("query-version interrupted"), "{error}");
}

/// A server for the shell, which asks for the names of commands first.
fn for_shell() -> Script {
    let names = json!([{"name": "echo"}, {"name": "query-version"}, {"name": "ech"}]);
    echo(Script::new())
        .on("query-commands", move |_| Act::Return(names.clone()))
        .on("transaction", |command| {
            Act::Return(command.arguments.clone())
        })
        .on("set_password", |_| Act::Return(json!({})))
}

#[test]
fn the_shell_runs_what_is_typed_and_forgets_passwords() {
    let server = for_shell()
        .on("echo", |command| {
            let seen = Act::Send(json!({"event": "SEEN"}));
            Act::All(vec![seen, Act::Return(command.arguments.clone())])
        })
        .start_unix();
    let folder = Folder::new();
    let history = folder.path().join("history");
    let arguments = ["--history", history.to_str().unwrap(), server.address()];
    let mut shell = Program::start("qmp_shell", &arguments);
    for line in [
        "echo a=1 b.c=x",
        "set_password protocol=vnc password=letmein",
        "echo a=1 a=2",
        "transaction(",
        "  add node=n",
        ")",
        "unknown",
        "",
        "quit",
    ] {
        shell.say(line);
    }
    let input = shell.input.take();
    let (status, lines) = shell.end();
    assert_eq!(status, Some(0));
    assert_eq!(lines[0], "{", "replies are spread over lines");
    let text = lines.join("\n");
    let (text, last) = text.rsplit_once('\n').unwrap();
    assert_eq!(last, "(the session has ended)");
    let said: Vec<Value> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let unknown = "The command unknown has not been found";
    let expected = [
        json!({"event": "SEEN"}),
        json!({"return": {"a": 1, "b": {"c": "x"}}}),
        json!({"return": {}}),
        json!({"return": {"actions": [{"type": "add", "data": {"node": "n"}}]}}),
        json!({"error": {"class": "CommandNotFound", "desc": unknown}}),
    ];
    assert_eq!(said[..5], expected);
    assert_eq!(said[5]["event"], "SHUTDOWN");
    assert_eq!(said[6..], [json!({"return": {}})]);
    let errors: Vec<String> = shell.errors.iter().collect();
    assert_eq!(errors, ["a is given twice"]);
    let remembered = fs::read_to_string(history).unwrap();
    assert!(remembered.contains("echo a=1 b.c=x"), "{remembered}");
    assert!(!remembered.contains("letmein"), "{remembered}");
    drop(input);
}

#[test]
fn the_end_of_its_input_ends_the_shell_and_so_does_that_of_the_server() {
    let server = for_shell().on("fail", |_| Act::Close).start_unix();
    let mut shell = Program::start("qmp_shell", &[server.address()]);
    shell.say("echo a=1");
    let (status, lines) = shell.finish();
    assert_eq!(status, Some(0));
    assert!(lines.concat().contains("\"a\": 1"), "{lines:?}");

    let mut shell = Program::start("qmp_shell", &[server.address()]);
    shell.say("fail");
    let input = shell.input.take();
    assert_eq!(shell.end().0, Some(1));
    shell.error_with("the server closed the connection");
    drop(input);
}

/// The other end of a terminal.
struct Terminal {
    keys: fs::File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Terminal {
    /// A terminal with the shell in it.
    fn with_shell(server: &Server) -> (Self, Program) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = fs::OpenOptions::new().read(true).write(true).open(name);
        let theirs = theirs.unwrap();
        let shell = Program::start_as("qmp_shell", &[server.address()], |command| {
            command
                .env("TERM", "xterm")
                .stdin(theirs.try_clone().unwrap())
                .stdout(theirs.try_clone().unwrap())
                .stderr(theirs);
        });
        let keys = fs::File::from(ours);
        let mut output = keys.try_clone().unwrap();
        let (send, screen) = unbounded();
        spawn("screen", move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let _ = send.send(bytes[..count].to_vec());
            }
        });
        let shown = String::new();
        let terminal = Self {
            keys,
            screen,
            shown,
        };
        (terminal, shell)
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown; what comes behind it is for the next call.
    #[track_caller]
    fn shows(&mut self, words: &str) {
        while !self.shown.contains(words) {
            let more = self.screen.recv_timeout(secs(60));
            let more = more.unwrap_or_else(|_| panic!("no {words:?} in {:?}", self.shown));
            self.shown += &String::from_utf8_lossy(&more);
        }
        let (_, behind) = self.shown.split_once(words).unwrap();
        self.shown = behind.to_owned();
    }
}

#[test]
fn events_appear_while_a_line_is_typed_and_names_are_completed() {
    let server = for_shell().start_unix();
    let (mut terminal, mut shell) = Terminal::with_shell(&server);
    terminal.shows("(QEMU) ");
    terminal.types("que\t");
    terminal.shows("query-version");
    server.send(&event("SEEN", json!({})));
    terminal.shows("\"event\": \"SEEN\"");
    terminal.shows("(QEMU) query-version");
    terminal.types("\r");
    terminal.shows("\"package\": \"scripted\"");
    terminal.shows("(QEMU) ");
    for n in 0..100 {
        server.send(&event("BURST", json!({"n": n})));
    }
    terminal.types("echo a=\"b c\"\r");
    terminal.shows("\"n\": 99");
    terminal.shows("\"a\": \"b c\"");
    terminal.types("transaction(\r");
    terminal.shows("TRANS> ");
    terminal.types("\x03"); // Ctrl-C
    terminal.shows("(QEMU) ");
    terminal.types("\x04"); // Ctrl-D
    assert_eq!(shell.child.wait().unwrap().code(), Some(0));
    server.wait_gone(1);
}
