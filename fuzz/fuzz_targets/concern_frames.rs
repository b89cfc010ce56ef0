//! Frames of a peer network are the same in whatever pieces the stream comes, and an envelope that was
//! read is written and read again as the same.

#![no_main]

mod pieces;

/// The decoder is private to the library, so its files are compiled here once more.
#[path = "../../src/concerns/envelope.rs"]
mod envelope;
#[path = "../../src/concerns/error.rs"]
mod error;
#[path = "../../src/concerns/hello.rs"]
mod hello;
#[path = "../../src/concerns/identity.rs"]
mod identity;
#[path = "../../src/concerns/message.rs"]
mod message;
#[path = "../../src/concerns/payload.rs"]
mod payload;

use envelope::{Frame, Frames};
use hello::Shake;
use interplay::protocol;
use libfuzzer_sys::fuzz_target;

const LONGEST: usize = 1000;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, open, rest) = input;
    let mut stream = Vec::new();
    if open {
        envelope::encode_shake(&Shake::Welcome { proof: None }, &mut stream);
    }
    stream.extend_from_slice(rest);
    let me = identity::Identity::try_from("node").expect("it is long enough");
    let decoder = || Frames::new(me.clone(), LONGEST);
    let whole = pieces::decode(decoder(), &stream, stream.len());
    let found = pieces::decode(decoder(), &stream, piece.into());
    assert_eq!(found, whole);

    let envelopes = || whole.0.iter().filter(|frame| matches!(frame, Frame::Envelope(_)));
    let mut again = Vec::new();
    envelope::encode_shake(&Shake::Welcome { proof: None }, &mut again);
    for frame in envelopes() {
        if let Frame::Envelope(envelope) = frame {
            let encoded = envelope.encode(envelope.lifetime, &mut again);
            encoded.expect("what was read is short enough");
        }
    }
    let (read, error, rest) = pieces::decode(decoder(), &again, again.len());
    assert_eq!((error, rest), (None, Vec::new()));
    assert!(read.iter().skip(1).eq(envelopes()));
});
