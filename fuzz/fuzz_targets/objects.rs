//! Objects are the same in whatever pieces the stream comes, whether replies are wanted as text, and
//! those that another reader of concatenated JSON finds.

#![no_main]

mod pieces;

/// The decoder is private to the library, so its files are compiled here once more.
#[path = "../../src/qmp/brackets.rs"]
mod brackets;
#[path = "../../src/qmp/framing.rs"]
mod framing;
#[path = "../../src/qmp/text.rs"]
mod text;

use interplay::protocol;
use libfuzzer_sys::fuzz_target;
use serde_json::{Deserializer, Map, Value};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, guest_agent, stream) = input;
    let decode = |piece, wishes| {
        let decoder = framing::Objects::new(guest_agent, wishes);
        let (incoming, error, rest) = pieces::decode(decoder, stream, piece);
        let objects = incoming.into_iter().map(framing::Incoming::into_object);
        (objects.collect::<Vec<_>>(), error, rest)
    };
    let wishes = text::Wishes::default();
    let whole = decode(stream.len(), wishes.clone());
    assert_eq!(decode(piece.into(), wishes.clone()), whole);
    let _wish = wishes.wish();
    assert_eq!(decode(stream.len(), wishes.clone()), whole);
    if !guest_agent && whole.1.is_none() {
        let mut json = Deserializer::from_slice(stream);
        json.disable_recursion_limit();
        let values = json.into_iter::<Map<String, Value>>().take(whole.0.len());
        let expected: Vec<_> = values.map_while(Result::ok).collect();
        assert_eq!(expected, whole.0);
    }
});
