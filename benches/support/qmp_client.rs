//! The client itself, doing the work of the bench.

use interplay::protocol::Addr;
use interplay::qmp;

use crate::schema::Schema;
use crate::support::Result;
use crate::{Calls, Into, Monitor};

pub(crate) struct Ours {
    client: qmp::Client,
    into: Into,
}

impl Ours {
    pub(crate) fn connect(monitor: &Monitor, options: qmp::Options, into: Into) -> Result<Self> {
        let client = qmp::Client::new(options);
        client.connect(Addr::from(monitor.socket.clone()))?;
        Ok(Self { client, into })
    }
}

impl Calls for Ours {
    fn calls(&mut self, command: &str, count: usize) -> Result<()> {
        if count == 1 {
            match self.into {
                Into::Type => drop(self.client.execute_as::<Schema>(command, ())?),
                _ => drop(self.client.execute(command, ())?),
            }
            return Ok(());
        }
        let start = |_| self.client.call(command).start();
        let pending: Vec<_> = (0..count)
            .map(start)
            .collect::<std::result::Result<_, _>>()?;
        for pending in pending {
            pending.wait()?;
        }
        Ok(())
    }
}
