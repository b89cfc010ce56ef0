//! The monitors that QMP clients are measured at: one that costs nothing, and QEMU's own where it is installed.
//!
//! They run in a child process, which is the bench's own binary in its second
//! role, so that the bench's processor time is the client's alone; the child
//! ends with its standard input. The free server looks for the ends of the
//! commands and hardly at them: what a client reaches there is its own ceiling.
//! It takes commands whose texts hold no braces, with the id behind the name.

#![allow(clippy::print_stdout, reason = "the other side says so where it is")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::qemu::{Folder, Program, Server};
use crate::support::Result;

/// The word by which the binary knows its second role; the benches beside this one use it as well.
pub(crate) const SERVE: &str = "--serve";

/// How long the large reply of the free server is: as the schema of a storage daemon.
const LARGE: usize = 110_000;

/// A monitor, and what to ask it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Monitor {
    /// What it is called in results.
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    /// A command with a small reply.
    pub(crate) small: String,
    /// A command with a large one.
    pub(crate) large: String,
    /// Whether it offers out-of-band commands.
    pub(crate) oob: bool,
}

/// The process that has the monitors. Dropped, it ends, and its servers with it.
pub(crate) struct Monitors {
    process: Child,
    pub(crate) all: Vec<Monitor>,
}

impl Monitors {
    pub(crate) fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let all = serde_json::from_str(&line)?;
        Ok(Self { process, all })
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The second role: starts the monitors, prints where they are, and stays until its input ends.
pub(crate) fn serve() -> Result<()> {
    let folder = Folder::new()?;
    let socket = folder.path().join("free");
    serve_for_free(&socket)?;
    let mut all = vec![Monitor {
        name: "free server".to_owned(),
        socket,
        small: "stop".to_owned(),
        large: "query-qmp-schema".to_owned(),
        oob: false,
    }];
    let mut servers = Vec::new();
    for program in [Program::StorageDaemon, Program::Emulator] {
        if let Err(reason) = program.find() {
            eprintln!("not measured: {} ({reason})", program.name());
            continue;
        }
        let server = Server::start(program)?;
        all.push(Monitor {
            name: program.name().to_owned(),
            socket: server.socket(),
            small: "query-version".to_owned(),
            large: "query-qmp-schema".to_owned(),
            oob: true,
        });
        servers.push(server);
    }
    println!("{}", serde_json::to_string(&all)?);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Serves any number of clients for as long as the process lives.
fn serve_for_free(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let schema = Arc::new(large_reply());
    thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let schema = schema.clone();
            // One that cannot be started leaves its client without a greeting, which it will report.
            let _ = thread::Builder::new().spawn(move || answer_all(stream, &schema));
        }
    })?;
    Ok(())
}

/// Something like a schema, as text.
fn large_reply() -> String {
    let entry = json!({
        "name": "123",
        "members": [
            {"name": "node-name", "default": null, "type": "str"},
            {"name": "offset", "type": "int"},
            {"name": "filename", "default": null, "type": "str"},
        ],
        "meta-type": "object",
    });
    let entry = entry.to_string();
    let entries = vec![entry.as_str(); LARGE / entry.len() + 1];
    format!("[{}]", entries.join(", "))
}

/// One client, to its end.
fn answer_all(mut stream: UnixStream, schema: &str) -> io::Result<()> {
    let version = r#"{"qemu": {"micro": 0, "minor": 0, "major": 0}, "package": ""}"#;
    let greeting = format!("{{\"QMP\": {{\"version\": {version}, \"capabilities\": []}}}}\r\n");
    stream.write_all(greeting.as_bytes())?;
    let mut input = vec![0; 64 << 10];
    let mut filled = 0;
    let mut output = Vec::new();
    loop {
        match stream.read(&mut input[filled..])? {
            0 => return Ok(()), // gone, or a command without an end
            count => filled += count,
        }
        let (mut depth, mut start, mut done) = (0_i32, 0, 0);
        for (at, byte) in input[..filled].iter().enumerate() {
            match byte {
                b'{' if depth == 0 => (depth, start) = (1, at),
                b'{' => depth += 1,
                b'}' if depth == 1 => {
                    (depth, done) = (0, at + 1);
                    answer(&input[start..done], schema, &mut output);
                }
                b'}' => depth -= 1,
                _ => {}
            }
        }
        input.copy_within(done..filled, 0);
        filled -= done;
        if !output.is_empty() {
            stream.write_all(&output)?;
            output.clear();
        }
    }
}

/// The reply to one command.
fn answer(command: &[u8], schema: &str, output: &mut Vec<u8>) {
    let colon = command.iter().position(|byte| *byte == b':').unwrap_or(0);
    let name = command[colon + 1..].trim_ascii_start();
    output.extend_from_slice(b"{\"return\": ");
    if name.starts_with(b"\"query-qmp-schema") {
        output.extend_from_slice(schema.as_bytes());
    } else {
        output.extend_from_slice(b"{}");
    }
    // What is behind the last `"id"` is its value and the closing brace.
    if let Some(id) = command.windows(4).rposition(|word| word == b"\"id\"") {
        output.extend_from_slice(b", ");
        output.extend_from_slice(&command[id..]);
    } else {
        output.push(b'}');
    }
    output.extend_from_slice(b"\r\n");
}
