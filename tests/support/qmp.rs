//! The scripted QMP server: a monitor on a plain socket, with all the faults a monitor can have.
//!
//! A [`Script`] says what it does when a client has come, and what for which command, as [`Act`]s.
//! Unless told otherwise it greets, negotiates, knows `query-version` and `quit`, and refuses the
//! rest in the words of the real ones. It serves one client at a time while the next ones wait.
//!
//! A thread reads, and answers what is out of band; another answers what is in band, in order.
//! Dropping the [`Server`] cuts its client off and joins both.

mod command;
mod input;
pub(crate) mod recording;
mod wire;

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

pub(crate) use self::command::Command;
use self::wire::Wire;
use super::{secs, spawn};

/// Less than the deadline of a test, so that what did not come is named.
const PATIENCE: Duration = secs(40);

const CAPABILITIES: &str = "qmp_capabilities";

/// What the server does.
pub(crate) enum Act {
    /// Replies with a value.
    Return(Value),
    /// Replies with an error of this class and this description.
    Error(&'static str, String),
    /// Sends an object as it is: an event, somebody else's reply, one that lacks something.
    Send(Value),
    /// Sends bytes as they are.
    Raw(Vec<u8>),
    /// Sends the beginning of a message, and more of it until the client has gone.
    Endless,
    /// Ends the connection. What the client sees is a reset if some of what it has sent was not
    /// read (see [`Script::deaf_after`]), and the end of the stream otherwise.
    Close,
    /// Does it after the signal, which is a send, or the drop of the sender.
    After(Receiver<()>, Box<Act>),
    /// Does one after the other.
    All(Vec<Act>),
}

impl Act {
    /// Does nothing at all.
    pub(crate) const SILENCE: Self = Self::All(Vec::new());

    /// The same after a signal, and the signal.
    pub(crate) fn later(self) -> (Sender<()>, Self) {
        let (signal, signalled) = bounded(1);
        (signal, Self::After(signalled, Box::new(self)))
    }
}

/// The greeting of a monitor that offers these capabilities.
pub(crate) fn greeting(capabilities: &[&str]) -> Value {
    json!({"QMP": {"version": version(), "capabilities": capabilities}})
}

pub(crate) fn version() -> Value {
    json!({"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "scripted"})
}

pub(crate) fn event(name: &str, data: Value) -> Value {
    let timestamp = json!({"seconds": 1_795_307_795, "microseconds": 401_912});
    json!({"timestamp": timestamp, "event": name, "data": data})
}

/// The variant of an error, for tests of which error it is.
pub(crate) fn kind(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let name = |c: &char| c.is_ascii_alphanumeric();
    text.chars().take_while(name).collect()
}

type Handler = Box<dyn Fn(&Command) -> Act + Send + Sync>;

/// What the server does on which occasion.
pub(crate) struct Script {
    opening: Act,
    handlers: HashMap<String, Handler>,
    deaf_after: Option<String>,
    negotiates: bool,
    pretty: bool,
    end_of_line: &'static [u8],
    drip: Option<(usize, Duration)>,
}

impl Script {
    /// A monitor that offers `oob`.
    pub(crate) fn new() -> Self {
        let script = Self {
            opening: Act::Send(greeting(&["oob"])),
            handlers: HashMap::new(),
            deaf_after: None,
            negotiates: true,
            pretty: false,
            end_of_line: b"\r\n",
            drip: None,
        };
        let shutdown = json!({"guest": false, "reason": "host-qmp-quit"});
        script
            .on(CAPABILITIES, |_| Act::Return(json!({})))
            .on("query-version", |_| Act::Return(version()))
            .on("quit", move |_| {
                let shutdown = Act::Send(event("SHUTDOWN", shutdown.clone()));
                Act::All(vec![shutdown, Act::Return(json!({})), Act::Close])
            })
    }

    /// A guest agent: no greeting and no negotiation.
    pub(crate) fn guest_agent() -> Self {
        let mut script = Self::new().opening(Act::SILENCE).end_of_line(b"\n");
        script.negotiates = false;
        script
    }

    /// What it does when a client has come, in place of the greeting.
    pub(crate) fn opening(mut self, act: Act) -> Self {
        self.opening = act;
        self
    }

    /// What it does for a command; the closure runs on the thread that answers.
    ///
    /// For `qmp_capabilities`, the negotiation has succeeded with an [`Act::Return`].
    pub(crate) fn on<F>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(&Command) -> Act + Send + Sync + 'static,
    {
        self.handlers.insert(name.to_owned(), Box::new(handler));
        self
    }

    /// Reads nothing that comes behind this command, not even a newline.
    pub(crate) fn deaf_after(mut self, name: &str) -> Self {
        self.deaf_after = Some(name.to_owned());
        self
    }

    /// Spreads messages over many lines.
    pub(crate) fn pretty(mut self) -> Self {
        self.pretty = true;
        self
    }

    /// What comes behind each message; may be nothing, or blank lines.
    pub(crate) fn end_of_line(mut self, bytes: &'static [u8]) -> Self {
        self.end_of_line = bytes;
        self
    }

    /// Writes so many bytes at once, with this pause before each write.
    pub(crate) fn drip(mut self, bytes: usize, pause: Duration) -> Self {
        self.drip = Some((bytes, pause));
        self
    }

    /// Starts on a UNIX socket in a directory of its own.
    pub(crate) fn start_unix(self) -> Server {
        let folder = Folder::new();
        let path = folder.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let accept = move || Some(listener.accept().ok()?.0.into());
        let mut server = self.start(path.to_str().unwrap().to_owned(), accept);
        server.folder = Some(folder);
        server
    }

    /// Starts on a TCP port of its own.
    pub(crate) fn start_tcp(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.start(address, move || {
            let stream = listener.accept().ok()?.0;
            stream.set_nodelay(true).ok()?;
            Some(stream.into())
        })
    }

    /// Starts on a connected stream; gives the client's end, too.
    pub(crate) fn start_pair(self) -> (Server, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (self.start_on(ours), theirs)
    }

    /// Starts on a connected stream.
    pub(crate) fn start_on(self, stream: impl Into<OwnedFd>) -> Server {
        let mut stream = Some(stream.into());
        self.start(String::new(), move || stream.take())
    }

    fn start<F>(self, address: String, mut accept: F) -> Server
    where
        F: FnMut() -> Option<OwnedFd> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            script: self,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let thread = spawn("qmp-server", {
            let shared = shared.clone();
            move || {
                while let Some(socket) = accept() {
                    if !wire::serve(socket, &shared) {
                        return;
                    }
                }
            }
        });
        Server {
            address,
            shared,
            thread: Some(thread),
            folder: None,
        }
    }
}

#[derive(Default)]
struct State {
    client: Option<Arc<Wire>>,
    /// How many clients have come and gone.
    gone: usize,
    commands: Vec<Command>,
    ended: bool,
}

struct Shared {
    script: Script,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `look` finds something.
    #[track_caller]
    fn wait<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            let waited = self.changed.wait_until(&mut state, end);
            assert!(!waited.timed_out(), "no {what} within {PATIENCE:?}");
        }
    }
}

/// A running server.
pub(crate) struct Server {
    address: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    folder: Option<Folder>,
}

impl Server {
    /// Where it listens: a path, or host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends an object to the present client, or to the next one if there is none.
    pub(crate) fn send(&self, object: &Value) {
        let _ = self.client().send(object); // it may have gone
    }

    /// Does the same with bytes.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        let _ = self.client().write(bytes);
    }

    /// Ends the connection to the present client, like [`Act::Close`].
    pub(crate) fn close(&self) {
        self.client().close();
    }

    fn client(&self) -> Arc<Wire> {
        self.shared.wait("client", |state| state.client.clone())
    }

    /// All commands so far.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.shared.state.lock().commands.clone()
    }

    /// Waits for the `n`th command of this name, counted from 1.
    #[track_caller]
    pub(crate) fn nth(&self, n: usize, name: &str) -> Command {
        self.shared.wait(&format!("command {name} {n}"), |state| {
            let mut fitting = state.commands.iter().filter(|command| command.name == name);
            fitting.nth(n - 1).cloned()
        })
    }

    /// Waits for the first command of this name.
    #[track_caller]
    pub(crate) fn first(&self, name: &str) -> Command {
        self.nth(1, name)
    }

    /// Waits until so many clients have come and gone, with all descriptors of their connections.
    #[track_caller]
    pub(crate) fn wait_gone(&self, clients: usize) {
        let gone = |state: &State| (state.gone >= clients).then_some(());
        self.shared.wait(&format!("end of {clients} clients"), gone);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let client = self.shared.change(|state| {
            state.ended = true;
            state.client.clone()
        });
        if let Some(client) = client {
            client.cut();
        }
        // Wakes the thread if it waits for a client.
        if self.folder.is_some() {
            let _ = UnixStream::connect(&self.address);
        } else if !self.address.is_empty() {
            let _ = TcpStream::connect(&self.address);
        }
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A directory for sockets that nobody else can enter, removed with what is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("interplay-qmp-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
