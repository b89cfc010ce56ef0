//! Makes sessions with a QMP server one after the other, for whoever looks for leaks.
//!
//! ```sh
//! cargo run --example qmp_soak -- /run/vm.sock 1000
//! ```
//!
//! Prints `{"ready": "before"}` and waits for a line on standard input; connects, asks and drops
//! the client so many times; prints `{"ready": "after"}` and waits for a line. The process has the
//! same number of threads and descriptors at both stops.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use interplay::protocol::{Addr, AddrError};
use interplay::qmp::Client;
use serde_json::json;

/// Makes sessions with a QMP server one after the other
#[derive(Parser)]
struct Args {
    /// Path of a UNIX socket, or HOST:PORT
    #[arg(value_parser = address)]
    socket: String,
    /// How many sessions
    #[arg(value_name = "N")]
    sessions: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "qmp_soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn address(text: &str) -> Result<String, AddrError> {
    text.parse::<Addr>().map(|_| text.to_owned())
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    stop_at("before")?;
    for _ in 0..args.sessions {
        let client = Client::default();
        client.connect(args.socket.parse::<Addr>()?)?;
        client.execute("query-version", ())?;
        drop(client); // without a word to the server
    }
    stop_at("after")
}

/// Says where it is, and waits for a line.
fn stop_at(place: &str) -> Result<(), Box<dyn Error>> {
    writeln!(io::stdout(), "{}", json!({"ready": place}))?;
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}
