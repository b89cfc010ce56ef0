//! A listener with an endpoint, and what its default handler hears.

use interplay::listener::{Builder, End, Transport};

use super::child::Child;
use super::raw::Invitation;
use super::*;

/// The transports of this system.
pub(crate) const TRANSPORTS: &[Transport] = &[
    #[cfg(unix)]
    Transport::Unix,
    Transport::Tcp,
];

/// Runs a test over each transport, under a watchdog.
pub(crate) fn over_each(body: fn(Transport)) {
    for &transport in TRANSPORTS {
        within(move || body(transport));
    }
}

/// Writes down messages as `source: cmd data`, ends as `source gone: how`.
pub(crate) struct Hears(pub(crate) crossbeam_channel::Sender<String>);

impl Handler<Value> for Hears {
    fn handle(&mut self, message: Message) -> Result<(), BoxError> {
        let Message { source, cmd, data } = message;
        Ok(self.0.send(format!("{source}: {cmd} {data}"))?)
    }

    fn gone(&mut self, source: &Source, end: &End) {
        let how = match end {
            End::Bye => "bye".to_owned(),
            End::Stopped => "stopped".to_owned(),
            End::Closed => "cut".to_owned(),
            End::Refused(reason) => format!("{reason:?}"),
            _ => format!("{end:?}"),
        };
        let _ = self.0.send(format!("{source} gone: {how}"));
    }
}

pub(crate) struct Rig {
    pub(crate) listener: Listener,
    pub(crate) invitation: Invitation,
    pub(crate) heard: Receiver<String>,
    env: Vec<(&'static str, String)>,
}

impl Rig {
    pub(crate) fn new(transport: Transport) -> Self {
        Self::with(transport, |builder| builder)
    }

    pub(crate) fn with(transport: Transport, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let (send, heard) = unbounded();
        let builder = Listener::builder().transport(transport);
        let listener = settings(builder.default_handler(Hears(send)))
            .start()
            .unwrap();
        let env: Vec<_> = listener.endpoint().unwrap().env().into_iter().collect();
        Self {
            invitation: Invitation::new(env.clone()),
            listener,
            heard,
            env,
        }
    }

    pub(crate) fn child(&self, role: &str, task: &Value) -> Child {
        Child::start(role, task, self.env.iter().cloned())
    }

    /// The next that the handler hears.
    #[track_caller]
    pub(crate) fn hears(&self) -> String {
        self.heard.recv_timeout(LONG).unwrap()
    }

    /// Waits for a number of refusals.
    #[track_caller]
    pub(crate) fn refused(&self, count: u64) {
        eventually("refused", || self.listener.stats().refused >= count);
        assert_eq!(self.listener.stats().refused, count);
    }

    #[track_caller]
    pub(crate) fn connections(&self, count: usize) {
        eventually("connections", || self.listener.stats().connections == count);
    }
}

/// The reason in a `refused` frame.
#[track_caller]
pub(crate) fn reason(frame: Option<Value>) -> String {
    let frame = frame.expect("a frame before the end");
    assert_eq!(frame["ok"], false, "{frame}");
    assert!(frame["message"].is_string(), "{frame}");
    frame["reason"].as_str().unwrap().to_owned()
}
