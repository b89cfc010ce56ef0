//! The ids of a pool's tasks, and of their tries on the wire.
//!
//! A pool draws one random UUID of version 4 and counts up from it in the 62 bits of the lower half that are not
//! the variant, so all stay of that version and no two of a pool are equal. The upper half is 60 random bits and the count
//! begins at 62 more: for one id to come up elsewhere (in another pool or master, after a restart, among the ids
//! that tasks by hand draw one by one) two draws have to meet in the former and nearly in the latter,
//! so for a number of ids the odds are no worse than with a draw for each. They can be foreseen, which
//! is no harm: what lets a slave report is its token, and only of a task that is open there.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// The bits that are counted; those above are the variant.
const COUNTED: u64 = u64::MAX >> 2;

/// Gives ids, each once.
pub(super) struct Ids {
    first: Uuid,
    given: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        Self::counting_from(Uuid::new_v4())
    }

    fn counting_from(first: Uuid) -> Self {
        Self {
            first,
            given: AtomicU64::new(0),
        }
    }

    pub(super) fn next(&self) -> Uuid {
        let (high, low) = self.first.as_u64_pair();
        let count = low.wrapping_add(self.given.fetch_add(1, Ordering::Relaxed));
        Uuid::from_u64_pair(high, low & !COUNTED | count & COUNTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_4_and_differ_even_where_the_count_wraps() {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let ids = Ids::counting_from(Uuid::from_u64_pair(high, low | COUNTED));
        let (one, two) = (ids.next(), ids.next());
        assert_ne!(one, two);
        for id in [one, two] {
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        }
    }

    #[test]
    fn each_pool_counts_from_another_one() {
        assert_ne!(Ids::new().next(), Ids::new().next());
    }
}
