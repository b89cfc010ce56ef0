//! The example `render`: its picture is the same whatever happens to its slaves.
//!
//! See `support/program.rs` for how it is built.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::fs;
use std::path::PathBuf;

use support::program::{PATIENCE, Program};

/// Small enough to be drawn in seconds without optimisation, with more tiles than anyone can be quick with.
const PICTURE: [&str; 6] = ["--width", "640", "--height", "400", "--steps", "3000"];
const TILES: u64 = 70;

/// A picture of its own, removed with the test.
struct Picture(PathBuf);

impl Picture {
    fn new(test: &str) -> Self {
        let name = format!("interplay-{test}-{}.png", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Starts to draw it.
    fn start(&self, arguments: &[&str]) -> Program {
        let output = ["--output", self.0.to_str().unwrap()];
        Program::start("render", &[&PICTURE[..], &output, arguments].concat())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A slave in a process of its own, and its address.
fn slave() -> (Program, String) {
    let slave = Program::start("render", &["--serve", "--port", "0"]);
    let line = slave.output.recv_timeout(PATIENCE).unwrap();
    let address = line.strip_prefix("serving on ").unwrap().to_owned();
    (slave, address)
}

/// The lines of the table: slave, tiles and losses; and the line below it.
fn summary(lines: &[String]) -> (Vec<(String, u64, u64)>, String) {
    let (last, table) = lines[1..lines.len() - 1].split_last().unwrap();
    let row = |line: &String| {
        let mut words = line.split_whitespace();
        let slave = words.next().unwrap().to_owned();
        let mut number = || words.next().unwrap().parse().unwrap();
        (slave, number(), number())
    };
    (table.iter().map(row).collect(), last.clone())
}

#[test]
fn a_slave_that_is_killed_half_way_does_not_spoil_the_picture() {
    let undisturbed = Picture::new("undisturbed");
    let (code, lines) = undisturbed.start(&[]).end();
    assert_eq!(code, Some(0));
    let (table, last) = summary(&lines);
    assert_eq!(table.len(), 4, "{lines:?}");
    assert_eq!(table.iter().map(|row| row.1).sum::<u64>(), TILES);
    assert!(table.iter().all(|row| row.2 == 0), "{lines:?}");
    assert!(last.ends_with(", 0 lost, 0 tried again"), "{last}");
    assert_eq!(lines.last().map(String::as_str), undisturbed.0.to_str());

    let (mut slaves, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| slave()).unzip();
    let disturbed = Picture::new("disturbed");
    let mut render = disturbed.start(&["--slaves", &addresses.join(",")]);
    render.error_with("14 of 70 tiles");
    slaves[0].kill();
    let told = render.error_with(&addresses[0]);
    let (code, lines) = render.end();
    assert_eq!(code, Some(0), "{told}");
    let (table, last) = summary(&lines);
    let losses: Vec<bool> = table.iter().map(|row| row.2 > 0).collect();
    assert_eq!(losses, [true, false, false], "{lines:?}");
    assert_eq!(table.iter().map(|row| row.1).sum::<u64>(), TILES);
    assert!(last.starts_with("70 tiles in ") && last.contains(", 0 lost, "));
    assert_eq!(disturbed.bytes(), undisturbed.bytes());
}

#[test]
fn a_picture_without_slaves_is_an_error() {
    let picture = Picture::new("nobody");
    let mut render = picture.start(&["--slaves", "not an address"]);
    assert_eq!(render.end(), (Some(1), vec![]));
    render.error_with("render: the master cannot make the connection: not the address");
}
