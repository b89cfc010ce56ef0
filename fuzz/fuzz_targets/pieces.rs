//! What a decoder makes of a stream that comes in pieces.

use interplay::protocol::{Decoded, Decoder};

/// The messages up to the first error, that error's text, and what was left over.
pub(crate) fn decode<D: Decoder>(
    mut decoder: D,
    stream: &[u8],
    piece: usize,
) -> (Vec<D::Message>, Option<String>, Vec<u8>) {
    let (mut come, mut messages) = (Vec::new(), Vec::new());
    for bytes in stream.chunks(piece.max(1)) {
        come.extend_from_slice(bytes);
        while !come.is_empty() {
            let taken = match decoder.decode(&come) {
                Ok(Decoded::Message { message, used }) => {
                    assert!(used > 0, "a message of nothing would come for ever");
                    messages.push(message);
                    used
                }
                Ok(Decoded::Partial { skip: 0 }) => break,
                Ok(Decoded::Partial { skip }) => skip,
                Err(error) => {
                    assert!(error.offset <= come.len());
                    return (messages, Some(error.source.to_string()), Vec::new());
                }
            };
            come.drain(..taken);
        }
    }
    (messages, None, come)
}
