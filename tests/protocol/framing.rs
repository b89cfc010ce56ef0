//! Bytes to messages through real sockets, wherever the bytes are cut.

use crossbeam_channel::{Receiver, unbounded};
use interplay::protocol::{Kind, Loop};

use super::rig::{PANICS, REFUSED, Talk, Text, connected, on_both, patient};

const STREAM: &[u8] = b"one\r\n\r\n\ntwo\rtwo\r\n\xF0\x00\n\rthree\n";
const LINES: [&[u8]; 6] = [b"one", b"", b"", b"two\rtwo", b"\xF0\x00", b"\rthree"];

/// The whole lines in the first bytes of the stream, and how many bytes that leaves.
fn split(cut: usize) -> (usize, usize) {
    let whole = STREAM[..cut].iter().filter(|byte| **byte == b'\n').count();
    let end = STREAM[..cut].iter().rposition(|byte| *byte == b'\n');
    (whole, cut - end.map_or(0, |at| at + 1))
}

#[track_caller]
fn hears(heard: &Receiver<(u64, Text)>, lines: &[&[u8]], after: usize) {
    for (number, line) in lines.iter().enumerate() {
        let number = (after + number + 1) as u64;
        assert_eq!(heard.recv().unwrap(), (number, line.to_vec()));
    }
}

fn looking() -> (Loop<Talk>, Receiver<(u64, Text)>, Receiver<usize>) {
    let (talks, heard) = Talk::heard();
    let (looked, looks) = unbounded();
    let talks = Talk {
        looked: Some(looked),
        ..talks
    };
    (Loop::new(talks, patient().max_message(64)), heard, looks)
}

#[test]
fn lines_come_out_whole_wherever_the_stream_is_cut() {
    on_both(|wire| {
        let (talk, heard, looks) = looking();
        for cut in 0..=STREAM.len() {
            let peer = connected(&talk, wire);
            let (whole, rest) = split(cut);
            peer.say(&STREAM[..cut]);
            hears(&heard, &LINES[..whole], 0);
            if rest > 0 {
                // The reader has seen the part, so what follows comes by another read.
                while looks.recv().unwrap() != rest {}
            }
            peer.say(&STREAM[cut..]);
            hears(&heard, &LINES[whole..], whole);
            let end = talk.disconnect().unwrap().unwrap();
            assert_eq!(end.counts().received, 6);
            while looks.try_recv().is_ok() {}
        }
    });
}

#[test]
fn lines_come_out_whole_byte_by_byte() {
    on_both(|wire| {
        let (talk, heard, looks) = looking();
        let peer = connected(&talk, wire);
        for at in 0..STREAM.len() {
            peer.say(&STREAM[at..=at]);
            let (_, rest) = split(at + 1);
            if rest > 0 {
                assert_eq!(looks.recv().unwrap(), rest);
            } else {
                hears(&heard, &[LINES[split(at).0]], split(at).0);
            }
        }
    });
}

#[test]
fn a_message_may_meet_the_limit_but_not_exceed_it() {
    on_both(|wire| {
        let (talk, heard, _looks) = looking();
        let peer = connected(&talk, wire);
        let longest = [b'x'; 63]; // and its end
        peer.say([&longest[..], b"\n", &longest[..], b"\n"].concat());
        hears(&heard, &[&longest, &longest], 0);
        peer.say([b"last\n", &[b'x'; 64][..], b"\nmore\n"].concat());
        let end = talk.wait_end(None).unwrap().unwrap();
        assert_eq!(end.cause().unwrap().kind(), &Kind::TooLong { limit: 64 });
        hears(&heard, &[b"last"], 2);
        assert!(heard.is_empty());
    });
}

#[test]
fn an_endless_message_ends_the_session_at_the_limit() {
    on_both(|wire| {
        let (talk, _heard, _looks) = looking();
        let peer = connected(&talk, wire);
        peer.flood(&[b'x'; 4096]); // returns: the loop has had enough
        let end = talk.wait_end(None).unwrap().unwrap();
        assert_eq!(end.cause().unwrap().kind(), &Kind::TooLong { limit: 64 });
    });
}

#[test]
fn a_message_larger_than_all_buffers_comes_whole() {
    on_both(|wire| {
        let (talks, heard) = Talk::heard();
        let talk = Loop::new(talks, patient());
        let peer = connected(&talk, wire);
        let mut large: Vec<u8> = (0..5 << 20_u32).map(|n| (n % 251 + 2) as u8).collect();
        large.retain(|byte| *byte != b'\n');
        large[0] = b'_';
        peer.say(&large);
        peer.say("\nnext\n");
        assert!(heard.recv().unwrap().1 == large);
        assert_eq!(heard.recv().unwrap(), (2, b"next".to_vec()));
    });
}

#[test]
fn what_the_decoder_refuses_ends_the_session_after_all_that_came_before() {
    on_both(|wire| {
        for (byte, kind) in [
            (
                REFUSED,
                Kind::Decode {
                    offset: 0,
                    excerpt: vec![REFUSED, b'\n', b'o', b'n', b'\n'],
                },
            ),
            (
                PANICS,
                Kind::HookPanic {
                    hook: "decode",
                    message: "as the test wants it".to_owned(),
                },
            ),
        ] {
            let (talk, heard, _looks) = looking();
            let mut peer = connected(&talk, wire);
            peer.say([b"one\ntwo\n", &[byte][..], b"\non\n"].concat());
            assert_eq!(peer.rest(), b"");
            let end = talk.disconnect().unwrap().unwrap();
            assert_eq!(end.cause().unwrap().kind(), &kind);
            hears(&heard, &[b"one", b"two"], 0);
            assert_eq!(end.counts().received, 2);
        }
    });
}
