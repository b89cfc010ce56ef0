//! What a process uses, as `/proc` tells it.

use std::fs;
use std::process;

use super::support::Result;

/// What a process has used, and uses.
pub(crate) struct Usage {
    /// In seconds; the kernel tells it in steps of 10 ms.
    pub(crate) cpu: f64,
    /// Resident, in KiB.
    pub(crate) memory: f64,
    pub(crate) threads: f64,
    pub(crate) descriptors: f64,
}

impl Usage {
    pub(crate) fn of_this_process() -> Result<Self> {
        Self::of(process::id())
    }

    pub(crate) fn of(process: u32) -> Result<Self> {
        const TICK: f64 = 0.01; // that of /proc, whatever the kernel's own is
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name before the last parenthesis may have blanks; user and system time are the 14th and 15th field.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        let mut time = || times.next().ok_or("/proc/stat is too short");
        let cpu = (time()?? + time()??) * TICK;

        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| -> Result<f64> {
            let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
            let value = lines.next().and_then(|line| line.split_whitespace().next());
            Ok(value.ok_or(format!("no {name} in /proc/status"))?.parse()?)
        };
        Ok(Self {
            cpu,
            memory: field("VmRSS:")?,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as f64,
        })
    }
}
