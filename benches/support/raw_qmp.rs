//! The baseline: one thread, a blocking socket, commands of the least possible bytes, replies told apart by their newlines.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde::Deserialize;
use serde_json::Value;

use crate::qemu::ByHand;
use crate::schema::Schema;
use crate::support::Result;
use crate::{Calls, Into, Monitor};

/// What the raw client does besides the least.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras {
    /// Negotiates out-of-band commands.
    pub(crate) oob: bool,
    /// Has no more than that many in flight.
    pub(crate) window: Option<usize>,
    /// What it makes of each reply.
    pub(crate) into: Into,
}

/// A reply with a schema.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what is measured is how it is made")]
struct Reply {
    r#return: Schema,
    id: u64,
}

pub(crate) struct Raw {
    stream: UnixStream,
    extras: Extras,
    /// Counts up as the client's do: to a server, each digit is time.
    id: u64,
    commands: Vec<u8>,
    received: Vec<u8>,
    line: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(monitor: &Monitor, extras: Extras) -> Result<Self> {
        Ok(Self {
            stream: ByHand::connect(&monitor.socket, extras.oob)?.into_stream(),
            extras,
            id: 500,
            commands: Vec::new(),
            received: vec![0; 64 << 10],
            line: Vec::new(),
        })
    }

    fn flush(&mut self) -> Result<()> {
        if !self.commands.is_empty() {
            self.stream.write_all(&self.commands)?;
            self.commands.clear();
        }
        Ok(())
    }
}

impl Calls for Raw {
    fn calls(&mut self, command: &str, count: usize) -> Result<()> {
        let window = self.extras.window.unwrap_or(count);
        let (mut sent, mut replies) = (0, 0);
        while replies < count {
            while sent < count && sent - replies < window {
                let id = self.id;
                writeln!(self.commands, "{{\"execute\":\"{command}\",\"id\":{id}}}")?;
                self.id += 1;
                sent += 1;
            }
            self.flush()?;
            let length = self.stream.read(&mut self.received)?;
            let received = &self.received[..length];
            if received.is_empty() {
                return Err("the server has gone".into());
            }
            if self.extras.into == Into::Nothing {
                replies += received.iter().filter(|byte| **byte == b'\n').count();
                continue;
            }
            for part in received.split_inclusive(|byte| *byte == b'\n') {
                self.line.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    match self.extras.into {
                        Into::Type => drop(serde_json::from_slice::<Reply>(&self.line)?),
                        _ => drop(serde_json::from_slice::<Value>(&self.line)?),
                    }
                    self.line.clear();
                    replies += 1;
                }
            }
        }
        Ok(())
    }
}
