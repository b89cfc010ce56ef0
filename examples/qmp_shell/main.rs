//! A shell for a QMP server: commands as `name key=value`, replies and events as they come.
//!
//! ```sh
//! cargo run --example qmp_shell -- /run/vm.sock
//! (QEMU) query-status
//! (QEMU) blockdev-add driver=raw node-name=d0 file.driver=file file.filename=disk.raw
//! (QEMU) transaction( block-dirty-bitmap-add node=d0 name=b0 )
//! ```
//!
//! A value is a number, `true`, `false`, `null`, JSON, or else text; quotes hold blanks together.
//! Keys with dots build objects. A transaction may go over several lines. A line that begins with a
//! brace is taken as a whole command in JSON. Tab completes the names of commands. Lines that may
//! hold a password are not remembered. Ctrl-C drops a line, Ctrl-D ends the session.

mod line;

use std::error::Error as StdError;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use interplay::protocol::{Addr, State};
use interplay::qmp::{Client, Error, Listener, Message, Pending, RecvError};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use serde_json::Value;

use line::{Lines, is_secret};

/// How long a server may take to close the connection when it has quit.
const PATIENCE: Duration = Duration::from_secs(2);

type BoxError = Box<dyn StdError + Send + Sync>;

/// A shell for a QMP server
#[derive(Parser)]
#[command(name = "qmp_shell")]
struct Args {
    /// File that keeps the lines for the next time
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Path of a UNIX socket, or HOST:PORT
    socket: String,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "qmp_shell: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), BoxError> {
    let client = Client::default();
    let tap = client.tap();
    client.connect(args.socket.parse::<Addr>()?)?;

    let config = Config::builder().completion_type(CompletionType::List);
    let mut editor: Editor<Names, FileHistory> = Editor::with_config(config.build())?;
    let asked = client.call("query-commands").start()?;
    let names_are = asked.id();
    editor.set_helper(Some(Names::of(asked)));
    if let Some(file) = &args.history
        && file.exists()
    {
        editor.load_history(file)?;
    }
    // The terminal is the editor's while a line is typed.
    let printer: Box<dyn ExternalPrinter + Send> = match editor.create_external_printer() {
        Ok(printer) => Box::new(printer),
        Err(_) => Box::new(Plain), // no terminal
    };
    let printing = thread::Builder::new()
        .name("printer".to_owned())
        .spawn(move || print(&tap, names_are, printer))?;

    let typed = converse(&client, &mut editor);
    if let Some(file) = &args.history {
        editor.save_history(file)?;
    }
    let _ = client.disconnect(); // the printer says how it ended
    drop(editor); // the printer may wait for it
    let end = printing.join().unwrap_or(RecvError::Closed);
    typed?;
    match end {
        RecvError::Ended(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs what is typed until the end of the input or of the session.
fn converse(client: &Client, editor: &mut Editor<Names, FileHistory>) -> Result<(), BoxError> {
    let mut lines = Lines::default();
    while client.state() == State::Running {
        let prompt = match lines.in_transaction() {
            true => "TRANS> ",
            false => "(QEMU) ",
        };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                lines.cancel();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        if !line.trim().is_empty() && !is_secret(&line) {
            editor.add_history_entry(line.as_str())?;
        }
        match lines.read(&line) {
            Ok(None) => {}
            Ok(Some(message)) => {
                if !execute(client, message) {
                    break;
                }
            }
            Err(error) => complain(&error),
        }
    }
    Ok(())
}

/// Runs a command; the printer prints the reply. False if the session is over.
fn execute(client: &Client, message: Value) -> bool {
    let pending = match client.start_msg(message) {
        Ok(pending) => pending,
        Err(Error::Interrupted { .. }) => return false,
        Err(error) => {
            complain(&error);
            return true;
        }
    };
    let quits = pending.command().name() == "quit";
    match pending.wait() {
        Ok(_) if quits => {
            let _ = client.wait_end(PATIENCE); // or it is ended from here
            false
        }
        Err(Error::Interrupted { .. }) => false,
        _ => true,
    }
}

fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "{error:#}");
}

/// Prints events and replies as they come, but the one to the call `hidden`, until the session ends.
fn print(
    tap: &Listener<Message>,
    hidden: u64,
    mut printer: Box<dyn ExternalPrinter + Send>,
) -> RecvError {
    loop {
        let mut object = match tap.recv() {
            Ok(message) => match (message.event(), message.call()) {
                (None, call) if call.is_none_or(|call| call == hidden) => continue,
                _ => message.object().clone(),
            },
            Err(RecvError::Lagged(count)) => {
                let _ = printer.print(format!("({count} messages are missing here)\n"));
                continue;
            }
            Err(end) => {
                let _ = printer.print("(the session has ended)\n".to_owned());
                return end;
            }
        };
        object.remove("id"); // the client's own
        if let Ok(text) = serde_json::to_string_pretty(&object) {
            let _ = printer.print(text + "\n"); // whether anybody looks
        }
    }
}

/// Prints without an editor.
struct Plain;

impl ExternalPrinter for Plain {
    fn print(&mut self, text: String) -> rustyline::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }
}

/// Completes the names of commands.
struct Names(Vec<String>);

impl Names {
    /// Of what `query-commands` gives.
    fn of(asked: Pending) -> Self {
        let reply = asked.wait().map(|reply| reply.value);
        let commands = reply.unwrap_or_default(); // a server without that has no names here
        let commands = commands.as_array().into_iter().flatten();
        let names = commands.filter_map(|command| command["name"].as_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        Self(names)
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = &line[..at];
        let start = begun.len() - begun.trim_start().len();
        let names = self.0.iter();
        let names = names.filter(|name| name.starts_with(&begun[start..]));
        Ok((start, names.cloned().collect()))
    }
}

impl Helper for Names {}
impl Hinter for Names {
    type Hint = String;
}
impl Highlighter for Names {}
impl Validator for Names {}
