//! The example `peers`, as its users meet it: they come, talk, and go, in good order or killed.
//!
//! See `support/program.rs` for how it is built.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use support::program::{PATIENCE, Program};

/// A node in a process of its own.
struct Peer {
    program: Program,
    id: String,
    address: String,
}

impl Peer {
    fn start(id: &str, arguments: &[&str]) -> Self {
        Self::of(&[&["--id", id], arguments].concat())
    }

    fn of(arguments: &[&str]) -> Self {
        let program = Program::start("peers", arguments);
        let Ok(line) = program.output.recv_timeout(PATIENCE) else {
            panic!("it does not start: {}", program.all_errors());
        };
        let (id, address) = line.split_once(" listens at ").unwrap();
        Self {
            id: id.to_owned(),
            address: address.to_owned(),
            program,
        }
    }

    /// One that joins another, and both see it.
    fn joining(id: &str, other: &mut Self) -> Self {
        let mut peer = Self::start(id, &["--join", &other.address]);
        peer.prints(&format!("{} is connected", other.id));
        other.prints(&format!("{id} is connected"));
        peer
    }

    fn say(&mut self, line: &str) {
        self.program.say(line);
    }

    /// Waits for a line that begins like this; the lines before it are over.
    #[track_caller]
    fn prints(&mut self, begin: &str) -> String {
        self.until(begin).pop().unwrap()
    }

    /// The same with the lines before it.
    #[track_caller]
    fn until(&mut self, begin: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let end = Instant::now() + PATIENCE;
        loop {
            match self.program.output.recv_deadline(end) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("{}: no {begin:?}: {error}, but {seen:?}", self.id),
            }
            if seen.last().is_some_and(|line| line.starts_with(begin)) {
                return seen;
            }
        }
    }

    /// Waits until it has told of each of them that it is connected, in whatever order they find each other.
    #[track_caller]
    fn sees_all(&mut self, others: &[&str]) {
        let mut missing: Vec<_> = others
            .iter()
            .map(|name| format!("{name} is connected"))
            .collect();
        let end = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            match self.program.output.recv_deadline(end) {
                Ok(line) => missing.retain(|begin| !line.starts_with(begin)),
                Err(error) => panic!("{}: not {missing:?}: {error}", self.id),
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.program.child.id().to_string();
        let done = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(done.success());
    }
}

#[test]
fn those_who_join_one_of_them_come_to_see_all_and_talk() {
    let mut hub = Peer::start("hub-1", &[]);
    let names = ["alice", "robert", "carol"];
    let mut peers: Vec<Peer> = names
        .iter()
        .map(|name| Peer::joining(name, &mut hub))
        .collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        let others = names.iter().filter(|name| *name != &names[number]);
        peer.sees_all(&others.copied().collect::<Vec<_>>());
        peer.say("/peers");
        peer.prints("3 peers");
        for line in [(); 3].map(|()| peer.prints("  ")) {
            assert!(line.split(' ').count() >= 6, "{line}");
            assert!(line.ends_with(" connected"), "{line}");
        }
    }
    peers[0].say("hello, all");
    for peer in peers[1..].iter_mut().chain([&mut hub]) {
        assert_eq!(peer.prints("<alice> "), "<alice> hello, all");
    }
    peers[1].say("/ask alice");
    let answer = peers[1].prints("alice sees ");
    for name in ["hub-1", "robert", "carol"] {
        assert!(answer.contains(name), "{answer}");
    }
    peers[1].say("/ask");
    assert!(
        peers[1]
            .prints(" does not answer")
            .contains("cannot be made")
    );
    peers[1].say("/nonsense");
    peers[1].prints("there is /peers");
}

#[test]
fn an_orderly_end_is_told_as_one() {
    let mut hub = Peer::start("hub-1", &[]);
    type End = fn(&mut Peer);
    let ends: [(&str, End); 3] = [
        ("alice", |peer| peer.say("/quit")),
        ("robert", |peer| peer.program.input = None),
        ("carol", |peer| peer.program.terminate()),
    ];
    for (name, end) in ends {
        let mut peer = Peer::joining(name, &mut hub);
        end(&mut peer);
        let (code, lines) = peer.program.end();
        assert_eq!(code, Some(0), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "goodbye");
        let left = hub.until(&format!("{name} is left"));
        let lost = format!("{name} is unreachable");
        assert!(!left.contains(&lost), "{left:?}");
    }
}

#[test]
fn a_peer_that_is_killed_is_noticed_and_found_again_where_it_was() {
    let mut alice = Peer::start("alice", &[]);
    let mut robert = Peer::joining("robert", &mut alice);
    let mut carol = Peer::joining("carol", &mut alice);
    carol.prints("robert is connected");
    robert.prints("carol is connected");
    robert.program.kill();
    for peer in [&mut alice, &mut carol] {
        peer.prints("robert is unreachable");
        peer.prints("robert is no connection");
    }
    // It knows nobody, but the others go on trying.
    let again = Peer::start("robert", &["--listen", &robert.address]);
    let mut robert = again;
    robert.prints("alice is connected");
    for peer in [&mut alice, &mut carol] {
        peer.prints("robert is connected");
    }
    robert.say("back");
    assert_eq!(alice.prints("<robert>"), "<robert> back");
}

#[test]
fn a_peer_that_is_killed_is_found_again_elsewhere() {
    let mut alice = Peer::start("alice", &[]);
    let mut robert = Peer::joining("robert", &mut alice);
    robert.program.kill();
    alice.prints("robert is unreachable");
    let mut robert = Peer::joining("robert", &mut alice);
    alice.say("welcome back");
    assert_eq!(robert.prints("<alice>"), "<alice> welcome back");
}

#[test]
fn a_peer_that_is_stopped_is_missed_until_it_goes_on() {
    let mut alice = Peer::start("alice", &[]);
    let mut robert = Peer::joining("robert", &mut alice);
    robert.signal("-STOP");
    alice.prints("robert is unreachable");
    robert.signal("-CONT");
    alice.prints("robert is connected");
    // For longer: until it is given up.
    robert.signal("-STOP");
    alice.prints("robert is no connection");
    robert.signal("-CONT");
    alice.prints("robert is connected");
    // What it says before it has seen that its old link is gone goes nowhere.
    let end = Instant::now() + PATIENCE;
    loop {
        robert.say("awake");
        let heard = alice
            .program
            .output
            .recv_timeout(Duration::from_millis(300));
        if heard.is_ok_and(|line| line == "<robert> awake") {
            break;
        }
        assert!(Instant::now() < end, "alice hears nothing");
    }
}

#[test]
fn only_those_with_the_secret_are_let_in() {
    let mut alice = Peer::start("alice", &["--secret", "open sesame"]);
    let address = alice.address.clone();
    let mut friend = Peer::start("friend", &["--secret", "open sesame", "--join", &address]);
    friend.prints("alice is connected");
    let mut stranger = Peer::start("stranger", &["--join", &address]);
    stranger.prints("no link with ");
    alice.prints("no link with ");
    stranger.say("/peers");
    stranger.prints("0 peers");
}

#[test]
fn the_store_brings_a_peer_back_by_itself() {
    let folder = std::env::temp_dir().join(format!("interplay-peers-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    struct Removed(PathBuf);
    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let folder = Removed(folder);
    let file = folder.0.join("peers.json");
    let file = file.to_str().unwrap();
    let mut alice = Peer::start("alice", &[]);
    let mut first = Peer::of(&["--store", file, "--join", &alice.address]);
    first.prints("alice is connected");
    assert_eq!(first.program.finish().0, Some(0));
    alice.prints(&format!("{} is left", first.id));
    let mut second = Peer::of(&["--store", file]);
    assert_eq!(second.id, first.id);
    second.prints("alice is connected");
    alice.prints(&format!("{} is connected", first.id));
}

#[test]
fn what_cannot_be_is_an_error() {
    let alice = Peer::start("alice", &[]);
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--timing", "never"], 2, "--timing"),
        (&["--colour"], 2, "--colour"),
        (&["--id", "abc"], 1, "peers: "),
        (&["--listen", "0.0.0.0:0"], 1, "peers: the address"),
        (&["--listen", &alice.address], 1, "peers: cannot listen at"),
        (&["--join", "nowhere"], 1, "peers: the address"),
    ];
    for (arguments, code, words) in cases {
        let mut program = Program::start("peers", arguments);
        assert_eq!(program.end(), (Some(code), vec![]), "{arguments:?}");
        program.error_with(words);
    }
}

#[test]
fn nothing_is_written_to_standard_error_while_all_is_well() {
    let mut alice = Peer::start(
        "alice",
        &["--advertise", "127.0.0.1:0", "--timing", "original"],
    );
    let mut robert = Peer::joining("robert", &mut alice);
    robert.say("a word");
    alice.prints("<robert> a word");
    assert_eq!(robert.program.finish().0, Some(0));
    alice.prints("robert is left");
    assert_eq!(alice.program.finish().0, Some(0));
    for peer in [alice, robert] {
        let errors: Vec<String> = peer.program.errors.iter().collect();
        assert_eq!(errors, [""; 0]);
    }
}
