//! The client itself, doing the work of the bench.

use interplay::protocol::Addr;
use interplay::qmp;

use crate::support::Result;
use crate::{Calls, Monitor};

pub(crate) struct Ours(qmp::Client);

impl Ours {
    pub(crate) fn connect(monitor: &Monitor, options: qmp::Options) -> Result<Self> {
        let client = qmp::Client::new(options);
        client.connect(Addr::from(monitor.socket.clone()))?;
        Ok(Self(client))
    }
}

impl Calls for Ours {
    fn calls(&mut self, command: &str, count: usize) -> Result<()> {
        if count == 1 {
            self.0.execute(command, ())?;
            return Ok(());
        }
        let start = |_| self.0.call(command).start();
        let pending: Vec<_> = (0..count)
            .map(start)
            .collect::<std::result::Result<_, _>>()?;
        for pending in pending {
            pending.wait()?;
        }
        Ok(())
    }
}
