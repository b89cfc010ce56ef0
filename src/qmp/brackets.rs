//! Finds where an object ends: where as many brackets are closed as were opened.
//!
//! The decoder gives it all that has come of an object, and it goes on where it stopped. Whether
//! the brackets match, and what is between them, is for the parser to see. Every byte of every
//! message passes here, so it takes eight at once where none of them can be the end.

/// How deep objects and lists may be nested: parser and destructor take stack for each level.
pub(super) const LEVELS: usize = 512;

/// A guest agent puts this byte, which JSON never has, before the reply to a synchronisation.
pub(super) const SENTINEL: u8 = 0xFF;

/// What was seen of an unfinished object.
#[derive(Clone, Debug, Default)]
pub(super) struct Brackets {
    /// How many bytes have been looked at.
    scanned: usize,
    /// How many brackets are open there.
    depth: usize,
    /// Whether that is inside a string.
    in_string: bool,
}

/// What comes next of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The last bracket is closed before this place.
    End(usize),
    /// A sentinel is at this place.
    Sentinel(usize),
    /// The bracket at this place opens one level too many.
    TooDeep(usize),
    /// Nothing, in all that has come.
    Nothing,
}

impl Brackets {
    /// Whether this is inside an object.
    pub(super) fn are_open(&self) -> bool {
        self.depth > 0
    }

    /// Looks on in `bytes`, which start with the object. Only few of them matter inside strings,
    /// and only few outside.
    pub(super) fn scan(&mut self, bytes: &[u8], sentinels: bool) -> Found {
        let mut at = self.scanned;
        let mut one_by_one = 0;
        while let Some(byte) = bytes.get(at) {
            if at >= one_by_one {
                let (words, _) = bytes[at..].as_chunks();
                let passed = words.iter().take_while(|eight| self.pass(**eight)).count();
                at += 8 * passed;
                one_by_one = at + 8;
                continue;
            }
            match byte {
                b'"' => self.in_string = !self.in_string,
                b'\\' if self.in_string => match bytes.get(at + 1) {
                    Some(b'"' | b'\\') => at += 1,
                    Some(_) => {}
                    None => break, // what it escapes has still to come
                },
                &SENTINEL if sentinels => return Found::Sentinel(at),
                _ if self.in_string => {}
                b'{' | b'[' if self.depth == LEVELS => return Found::TooDeep(at),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' => return Found::End(at + 1),
                _ => {}
            }
            at += 1;
        }
        self.scanned = at;
        Found::Nothing
    }

    /// Looks at eight bytes, unless one of them may be an end or an escape; at all of them
    /// together, by arithmetic that does not carry from one to the next.
    fn pass(&mut self, eight: [u8; 8]) -> bool {
        let eight = u64::from_le_bytes(eight);
        if marks(eight, b'\\') | marks(eight, SENTINEL) != 0 {
            return false;
        }
        // A byte is inside a string if the number of quotes up to it is odd.
        let mut inside = marks(eight, b'"');
        for bytes in [1, 2, 4] {
            inside ^= inside << (8 * bytes);
        }
        if self.in_string {
            inside ^= MARKS;
        }
        let folded = eight | each(b'{' ^ b'['); // which is also what tells `}` from `]`
        let opened = count(marks(folded, b'{') & !inside);
        let closed = count(marks(folded, b'}') & !inside);
        if closed >= self.depth || self.depth + opened > LEVELS {
            return false;
        }
        self.depth = self.depth + opened - closed;
        self.in_string = inside >> 63 == 1;
        true
    }
}

/// The highest bit of each byte.
const MARKS: u64 = each(0x80);

/// The byte eight times.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// A mark in each byte of `eight` that is `byte`.
fn marks(eight: u64, byte: u8) -> u64 {
    let different = eight ^ each(byte); // 0 where it is
    let low = (different & !MARKS) + !MARKS; // carries into the highest bit, and never further
    !(different | low) & MARKS
}

/// How many bytes are marked.
fn count(marks: u64) -> usize {
    // The highest byte of the product is the sum of all bytes.
    ((marks >> 7).wrapping_mul(each(1)) >> 56) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is found in bytes that come in two pieces, looked at one by one.
    fn plainly(bytes: &[u8], sentinels: bool) -> Found {
        let (mut depth, mut in_string, mut escaped) = (0, false, false);
        for (at, byte) in bytes.iter().enumerate() {
            let was_escaped = std::mem::take(&mut escaped);
            match byte {
                &SENTINEL if sentinels => return Found::Sentinel(at),
                b'"' if !was_escaped => in_string = !in_string,
                b'\\' if in_string => escaped = !was_escaped,
                b'{' | b'[' if !in_string && depth == LEVELS => return Found::TooDeep(at),
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string && depth == 1 => return Found::End(at + 1),
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
        }
        Found::Nothing
    }

    #[test]
    fn each_byte_is_told_from_all_others_wherever_it_is() {
        for byte in 0..=u8::MAX {
            for other in 0..=u8::MAX {
                let mut eight = [other; 8];
                eight[3] = byte;
                let found = marks(u64::from_le_bytes(eight), byte);
                let expected = if other == byte { 8 } else { 1 };
                assert_eq!(count(found), expected, "{byte} among {other}");
                assert!(found >> 31 & 1 == 1, "{byte} among {other}");
            }
        }
    }

    #[test]
    fn the_last_level_is_as_deep_among_eight_bytes_as_alone() {
        for before in 0..20 {
            let text = format!("{{{}", " ".repeat(before)) + &"[".repeat(LEVELS);
            let mut brackets = Brackets::default();
            let place = Found::TooDeep(before + LEVELS);
            assert_eq!(brackets.scan(text.as_bytes(), false), place);
        }
    }

    proptest! {
        #[test]
        fn eight_at_once_find_what_one_by_one_finds(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                prop::collection::vec(prop::sample::select(b"{{{[}]\"\"\\:,1u \n\xFF\xC3".to_vec()), 0..80),
                prop::collection::vec(prop::sample::select(b"{[[}]ab\"".to_vec()), 0..80),
                prop::collection::vec(prop::sample::select(b"\\\\\"\"}".to_vec()), 0..80),
            ],
            cut in 0_usize..80,
            sentinels: bool,
        ) {
            let bytes = [b"{", &bytes[..]].concat();
            let expected = plainly(&bytes, sentinels);
            let mut brackets = Brackets::default();
            let first = brackets.scan(&bytes[..cut.min(bytes.len())], sentinels);
            let found = match first {
                Found::Nothing => brackets.scan(&bytes, sentinels),
                found => found,
            };
            prop_assert_eq!(found, expected);
        }
    }
}
