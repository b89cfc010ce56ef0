//! The connection to a client: what is read from it, and what is done.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;
use rustix::io::retry_on_intr;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use serde_json::{Value, json};

use super::command::{Command, Refusal};
use super::input::Input;
use super::{Act, CAPABILITIES, Shared, State, spawn};

/// So many commands wait behind the running one before the real servers stop reading.
const READ_AHEAD: usize = 8;

/// Serves a client until it has gone; false if the server is at its end.
pub(super) fn serve(socket: OwnedFd, shared: &Arc<Shared>) -> bool {
    let wire = Arc::new(Wire::new(socket, shared.clone()));
    let ended = shared.change(|state| {
        state.client = (!state.ended).then(|| wire.clone());
        state.ended
    });
    if ended {
        return false;
    }
    let (queue, waiting) = bounded::<Result<Command, Refusal>>(READ_AHEAD);
    let in_band = spawn("qmp-in-band", {
        let wire = wire.clone();
        move || {
            let _ = wire.perform(None, &wire.shared.script.opening);
            for message in waiting {
                if wire.answer(&message).is_err() || wire.is_gone() {
                    return; // what the client left behind is thrown away
                }
            }
        }
    });
    let _ = wire.read(&queue); // a client may end by a reset
    drop(queue);
    wire.gone.lock().take();
    let answered = in_band.join();
    // The socket is closed by whoever holds the wire last: this thread, unless a test sends just now.
    shared.state.lock().client = None;
    drop(wire);
    let ended = shared.change(|state| {
        state.gone += 1;
        state.ended
    });
    answered.unwrap();
    !ended
}

/// The connection to a client.
pub(super) struct Wire {
    socket: OwnedFd,
    shared: Arc<Shared>,
    writing: Mutex<()>,
    negotiated: AtomicBool,
    oob: AtomicBool,
    /// Nothing is read any more.
    deaf: AtomicBool,
    /// Dropped when the client has gone or has to go.
    gone: Mutex<Option<Sender<Infallible>>>,
    going: Receiver<Infallible>,
}

impl Wire {
    fn new(socket: OwnedFd, shared: Arc<Shared>) -> Self {
        let (gone, going) = bounded(0);
        Self {
            socket,
            negotiated: AtomicBool::new(!shared.script.negotiates),
            shared,
            writing: Mutex::default(),
            oob: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            gone: Mutex::new(Some(gone)),
            going,
        }
    }

    /// Reads commands until the client has gone.
    fn read(&self, queue: &Sender<Result<Command, Refusal>>) -> io::Result<()> {
        let mut input = Input::default();
        while let Some(message) = input.message(&self.socket)? {
            let message = Command::read(message);
            if let Ok(command) = &message {
                let last = self.shared.script.deaf_after.as_ref() == Some(&command.name);
                self.deaf.store(last, Ordering::Relaxed);
                let note = |state: &mut State| state.commands.push(command.clone());
                self.shared.change(note);
            }
            let oob = self.oob.load(Ordering::Relaxed);
            if matches!(&message, Ok(command) if command.oob && oob) {
                self.answer(&message)?;
            } else if queue.send(message).is_err() {
                break; // nobody answers any more
            }
            if self.deaf.load(Ordering::Relaxed) {
                let Err(_) = self.going.recv();
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, message: &Result<Command, Refusal>) -> io::Result<()> {
        match message {
            Ok(command) => {
                let refused = self.refusal(command);
                let act = refused.unwrap_or_else(|| self.handle(command));
                self.perform(Some(command), &act)
            }
            Err(refusal) => self.send_error(&refusal.id, refusal.class, &refusal.desc),
        }
    }

    fn refusal(&self, command: &Command) -> Option<Act> {
        let negotiates = command.name == CAPABILITIES && self.shared.script.negotiates;
        let (class, desc) = match (self.negotiated.load(Ordering::Relaxed), negotiates) {
            _ if command.oob && !self.oob.load(Ordering::Relaxed) => {
                ("GenericError", "QMP input member 'exec-oob' is unexpected")
            }
            (false, false) => (
                "CommandNotFound",
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ),
            (true, true) => (
                "CommandNotFound",
                "Capabilities negotiation is already complete, command ignored",
            ),
            _ => return None,
        };
        Some(Act::Error(class, desc.to_owned()))
    }

    fn handle(&self, command: &Command) -> Act {
        let name = &command.name;
        self.shared.script.handlers.get(name).map_or_else(
            || {
                let desc = format!("The command {name} has not been found");
                Act::Error("CommandNotFound", desc)
            },
            |handler| handler(command),
        )
    }

    fn perform(&self, command: Option<&Command>, act: &Act) -> io::Result<()> {
        let id = command.and_then(|command| command.id.clone());
        match act {
            Act::Return(value) => {
                if let Some(command) = command
                    && command.name == CAPABILITIES
                {
                    let enabled = command.arguments["enable"].as_array();
                    let oob = enabled.is_some_and(|names| names.contains(&json!("oob")));
                    self.oob.store(oob, Ordering::Relaxed);
                    self.negotiated.store(true, Ordering::Relaxed);
                }
                self.send(&with_id(json!({"return": value}), &id))
            }
            Act::Error(class, desc) => self.send_error(&id, class, desc),
            Act::Send(object) => self.send(object),
            Act::Raw(bytes) => self.write(bytes),
            Act::Endless => {
                self.write(b"{\"return\": \"")?;
                loop {
                    self.write(&[b'x'; 4096])?;
                }
            }
            Act::Close => {
                self.close();
                Ok(())
            }
            Act::After(signal, act) => {
                select! {
                    recv(signal) -> _ => {}
                    recv(self.going) -> _ => {}
                }
                self.perform(command, act)
            }
            Act::All(acts) => acts.iter().try_for_each(|act| self.perform(command, act)),
        }
    }

    fn send_error(&self, id: &Option<Value>, class: &str, desc: &str) -> io::Result<()> {
        let error = json!({"class": class, "desc": desc});
        self.send(&with_id(json!({"error": error}), id))
    }

    pub(super) fn send(&self, object: &Value) -> io::Result<()> {
        let mut text = if self.shared.script.pretty {
            serde_json::to_vec_pretty(object).unwrap()
        } else {
            serde_json::to_vec(object).unwrap()
        };
        text.extend_from_slice(self.shared.script.end_of_line);
        self.write(&text)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let _whole = self.writing.lock();
        let Some((count, pause)) = self.shared.script.drip else {
            return send_all(&self.socket, bytes);
        };
        for part in bytes.chunks(count) {
            let _ = self.going.recv_timeout(pause);
            send_all(&self.socket, part)?;
        }
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.gone.lock().is_none()
    }

    pub(super) fn close(&self) {
        self.gone.lock().take();
        // The reader finds the end behind what has come already; one that is deaf leaves that unread.
        if !self.deaf.load(Ordering::Relaxed) {
            self.cut();
        }
    }

    pub(super) fn cut(&self) {
        self.gone.lock().take();
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

fn with_id(mut reply: Value, id: &Option<Value>) -> Value {
    if let Some(id) = id {
        reply["id"] = id.clone();
    }
    reply
}

pub(super) fn send_all(socket: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = retry_on_intr(|| send(socket, bytes, SendFlags::empty()))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}
