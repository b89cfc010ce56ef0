//! Messages counted in both ways that their bounds are given: how many, and how many bytes.

/// A number of messages, and the memory they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

impl Load {
    pub(crate) const fn new(count: usize, bytes: usize) -> Self {
        Self { count, bytes }
    }

    /// Whether one more message of `bytes` fits under this bound beside what is `there`.
    pub(crate) fn fits(self, there: Self, bytes: usize) -> bool {
        there.count < self.count && there.bytes.saturating_add(bytes) <= self.bytes
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub(crate) fn remove(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}
