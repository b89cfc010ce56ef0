//! Lines are those of the whole stream, in whatever pieces it comes.

#![no_main]

mod pieces;

use interplay::protocol::Lines;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, stream) = input;
    let mut expected: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let rest = expected.pop().unwrap_or_default();
    let stripped = expected
        .iter()
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let expected: Vec<Vec<u8>> = stripped.map(<[u8]>::to_vec).collect();
    let found = pieces::decode(Lines::new(), stream, piece.into());
    assert_eq!(found, (expected, None, rest.to_vec()));
});
