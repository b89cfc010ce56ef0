//! QEMU's own servers, run as children of a test or a bench.
//!
//! [`Program::find`] says whether a program is there. A test returns early when it is not, unless `INTERPLAY_INTEROP=required`
//! says that this is a failure ([`present`]). A [`Server`] has one monitor on a UNIX socket in a private folder and one
//! on its standard streams, and serves on both before it is given out; neither process nor folder outlives it.

#![allow(dead_code, reason = "each user takes its share of this module")]

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// How long a server may take for anything: machines stall. Less than the limit of a test, so that the reason is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that serves the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `qemu-system-x86_64`, without a machine: it has commands, events and a run state, and runs nothing.
    Emulator,
    /// `qemu-storage-daemon`: the same monitor with fewer commands, and jobs.
    StorageDaemon,
}

impl Program {
    pub(crate) const ALL: [Self; 2] = [Self::Emulator, Self::StorageDaemon];

    /// What it is called on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Emulator => "qemu-system-x86_64",
            Self::StorageDaemon => "qemu-storage-daemon",
        }
    }

    /// Its version, in its own words; an error says why it cannot be run.
    pub(crate) fn find(self) -> Result<String, String> {
        let output = Command::new(self.name())
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let words = String::from_utf8_lossy(&output.stdout);
        match words.lines().next() {
            Some(version) if output.status.success() => Ok(version.to_owned()),
            _ => Err(format!("--version ended with {}", output.status)),
        }
    }

    /// Its command line, without the monitors.
    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        if self == Self::Emulator {
            command.args(["-machine", "none", "-nodefaults", "-display", "none"]);
        }
        command
    }

    /// Adds a monitor at a character device; the monitor's options have a comma in front.
    fn monitor(self, command: &mut Command, device: &str, name: &str, options: &str) {
        let (monitor, mode) = match self {
            Self::Emulator => ("-mon", ",mode=control"),
            Self::StorageDaemon => ("--monitor", ""),
        };
        command.args(["--chardev", &format!("{device},id={name}")]);
        command.args([monitor, &format!("chardev={name}{mode}{options}")]);
    }
}

/// Whether a test can have this program; if not, says so and excuses the test.
///
/// Panics when there is none and `INTERPLAY_INTEROP` is `required`.
pub(crate) fn present(program: Program) -> bool {
    let required = std::env::var("INTERPLAY_INTEROP").is_ok_and(|value| value == "required");
    present_or_excused(program, program.find(), required)
}

pub(crate) fn present_or_excused(
    program: Program,
    found: Result<String, String>,
    required: bool,
) -> bool {
    let name = program.name();
    match found {
        Ok(_) => true,
        Err(reason) if required => {
            panic!("INTERPLAY_INTEROP=required, but {name} cannot be run ({reason})")
        }
        Err(reason) => {
            // Straight to the stream: what goes through the print macros is not shown for a test that passes.
            let _ = writeln!(io::stderr(), "skipped: {name} cannot be run ({reason})");
            false
        }
    }
}

/// A folder that only this user can look into, gone when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Short: the address of a UNIX socket holds no more than 107 bytes.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("interplay-qemu-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Server {
    program: Program,
    child: Child,
    /// The client of the second monitor, until somebody wants it.
    other: Option<ByHand>,
    folder: Folder,
}

impl Server {
    /// Starts one and waits until it greets.
    pub(crate) fn start(program: Program) -> io::Result<Self> {
        Self::start_with(program, "", &[])
    }

    /// The same with options for the monitor, each with a comma in front, as `,pretty=on`, and with more words on the
    /// command line.
    pub(crate) fn start_with(program: Program, options: &str, more: &[&str]) -> io::Result<Self> {
        let folder = Folder::new()?;
        let socket = folder.path().join("qmp");
        let device = format!("socket,path={},server=on,wait=off", socket.display());
        let mut command = program.command();
        program.monitor(&mut command, &device, "socket", options);
        program.monitor(&mut command, "stdio", "other", "");
        let (other, theirs) = UnixStream::pair()?;
        let child = command
            .args(more)
            .stdin(OwnedFd::from(theirs.try_clone()?))
            .stdout(OwnedFd::from(theirs))
            .stderr(File::create(folder.path().join("stderr"))?)
            .spawn()?;
        drop(command); // with its copies of their end
        let mut server = Self {
            program,
            child,
            other: None,
            folder,
        };
        // Who connects while a monitor is being set up may never be answered, or crash the server (version 7.2, once
        // in a thousand starts). The first monitor is set up when the second has executed a command.
        match ByHand::new(other, false) {
            Ok(other) => server.other = Some(other),
            Err(error) => return Err(server.failure(&error)),
        }
        Ok(server)
    }

    /// The socket of its monitor.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    /// The client of its second monitor, which sees the same events and has no socket; there is one.
    pub(crate) fn other(&mut self) -> io::Result<ByHand> {
        Ok(self.other.take().ok_or(io::ErrorKind::NotFound)?)
    }

    /// Its private folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        let order = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &order]).status()?;
        status.success().then_some(()).ok_or_else(|| {
            io::Error::other(format!(
                "{}: no signal {name}: {status}",
                self.program.name()
            ))
        })
    }

    /// Stops it (SIGSTOP), and waits until all its threads stand still.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.signal("STOP")?;
        let stands = |task: io::Result<std::fs::DirEntry>| -> io::Result<bool> {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            // The state is behind the name, which is in brackets.
            let state = stat.rsplit(')').next().unwrap_or_default();
            Ok(state.trim_start().starts_with('T'))
        };
        let all_stand = || -> io::Result<bool> {
            let mut tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()))?;
            tasks.try_fold(true, |all, task| Ok(stands(task)? && all))
        };
        while !all_stand()? {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Kills it (SIGKILL) and reaps it; what it has in its folder stays.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn failure(&self, error: &io::Error) -> io::Error {
        let said = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        let name = self.program.name();
        io::Error::other(format!("{name} does not serve ({error}); it said: {said}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill(); // it may have ended by itself
    }
}

/// A named pipe in a server's folder that hangs a command which reads from it.
#[derive(Debug)]
pub(crate) struct Obstacle {
    pipe: PathBuf,
}

impl Obstacle {
    pub(crate) fn new(server: &Server) -> io::Result<Self> {
        let pipe = server.folder().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status()?;
        if !made.success() {
            return Err(io::Error::other(format!("mkfifo: {made}")));
        }
        Ok(Self { pipe })
    }

    /// Arguments of a `blockdev-add` that hangs: it reads its rules from the pipe.
    pub(crate) fn arguments(&self) -> Value {
        json!({
            "driver": "blkdebug",
            "node-name": "hangs",
            "config": self.pipe,
            "image": {"driver": "null-co", "read-zeroes": true},
        })
    }

    /// Waits until a command hangs; it goes on when what this gives is dropped.
    pub(crate) fn reached(&self) -> io::Result<File> {
        File::options().write(true).open(&self.pipe)
    }
}

/// A client without any of the library's code: blocking, one line in, one line out.
#[derive(Debug)]
pub(crate) struct ByHand {
    stream: BufReader<UnixStream>,
}

impl ByHand {
    /// Connects and negotiates, with out-of-band commands if `oob`; events are passed over.
    pub(crate) fn connect(socket: &Path, oob: bool) -> io::Result<Self> {
        Self::new(UnixStream::connect(socket)?, oob)
    }

    fn new(stream: UnixStream, oob: bool) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let stream = BufReader::with_capacity(64 << 10, stream);
        let mut client = Self { stream };
        while client.receive()?.get("QMP").is_none() {}
        let negotiation: &[u8] = if oob {
            b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":\"by hand\"}\n"
        } else {
            b"{\"execute\":\"qmp_capabilities\",\"id\":\"by hand\"}\n"
        };
        client.send(negotiation)?;
        while client.receive()?["id"] != "by hand" {}
        Ok(client)
    }

    /// Sends these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next line, with its end; an empty one is the end of the stream.
    pub(crate) fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        Ok(line)
    }

    /// The socket, for those who read it in a way of their own; nothing may have been read ahead.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream.into_inner()
    }

    /// The next message.
    pub(crate) fn receive(&mut self) -> io::Result<Value> {
        Ok(serde_json::from_slice(&self.line()?)?)
    }
}
