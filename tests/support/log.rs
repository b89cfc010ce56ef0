//! The log of a test process, kept.
//!
//! There is one in a process, so whoever looks at it, or at anything else of the process as a
//! whole, has the process to itself: [`alone`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) text: String,
}

struct Kept(Mutex<Vec<Line>>);

static LOG: Kept = Kept(Mutex::new(Vec::new()));

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = Line {
            level: record.level(),
            target: record.target().to_owned(),
            text: record.args().to_string(),
        };
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// Nobody else runs, and the log is empty and kept from this level on.
pub(crate) fn alone(level: LevelFilter) -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = log::set_logger(&LOG); // the first of the tests
    log::set_max_level(level);
    LOG.0.lock().unwrap().clear();
    alone
}

/// What was logged since the test began, or since the log was taken.
pub(crate) fn logged() -> Vec<Line> {
    LOG.0.lock().unwrap().clone()
}

/// The same, and empties the log.
pub(crate) fn take_log() -> Vec<Line> {
    std::mem::take(&mut LOG.0.lock().unwrap())
}

/// The texts of the lines of a level.
pub(crate) fn at(lines: &[Line], level: Level) -> Vec<&str> {
    let of_level = lines.iter().filter(|line| line.level == level);
    of_level.map(|line| &*line.text).collect()
}
