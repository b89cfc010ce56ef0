//! A parent starts programs that train, watches what they report, and says how each of them ended.
//!
//! ```sh
//! cargo run --release --example training_monitor            # four jobs, and one in Python if that is there
//! cargo run --release --example training_monitor -- --fail  # two more that report why they cannot finish
//! cargo run --release --example training_monitor -- --crash # two more that cannot even report
//! ```
//!
//! The jobs are this program again, started as children. Their side is `children/train.rs`, in
//! Python `children/report.py`. One progress bar each on a terminal, lines elsewhere; a table at the end.

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]
#![allow(clippy::print_stderr, reason = "and tells how it goes on")]

#[path = "children/train.rs"]
mod train;
#[path = "children/watch.rs"]
mod watch;

use std::error::Error;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use clap::Parser;
use crossbeam_channel::unbounded;
use indicatif::MultiProgress;
use interplay::listener::{Endpoint, Listener, Source};
use train::Job;
use watch::{Event, Record, Watch};

type BoxError = Box<dyn Error + Send + Sync>;

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/children/report.py");

/// Starts programs that train, and shows what becomes of them.
#[derive(Parser)]
struct Args {
    /// How many jobs are to finish
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(0..=100))]
    jobs: u64,
    /// How many epochs each of them trains
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Seconds that pass after each epoch
    #[arg(long, value_name = "SECS", default_value_t = 0.015, value_parser = seconds)]
    pace: f64,
    /// Two more jobs: one that diverges, and one that wants more memory than there is
    #[arg(long)]
    fail: bool,
    /// Two more jobs: one that aborts, and one that hangs until it is killed
    #[arg(long)]
    crash: bool,
    /// What a child is to do
    #[arg(long, hide = true, value_name = "JSON", value_parser = job)]
    child: Option<Job>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let (name, done) = match &args.child {
        Some(job) => (job.name.as_str(), train::run(job)),
        None => ("training_monitor", monitor(&args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn monitor(args: &Args) -> Result<(), BoxError> {
    let listener = Listener::builder().name("monitor").start()?;
    let endpoint = listener.endpoint()?;
    let (tell, events) = unbounded();
    let interrupt = tell.clone();
    ctrlc::set_handler(move || drop(interrupt.send(Event::Interrupted)))?;

    let bars = MultiProgress::new();
    let mut all = Vec::new();
    for job in jobs(args) {
        // Before the child runs, so that not even its first message is missed.
        let watch = Watch::new(all.len(), &job, &bars, tell.clone());
        let source = Source::try_from(job.name.as_str())?;
        listener
            .register(source, watch)
            .map_err(|taken| taken.source.to_string())?;
        all.push(Running::start(job, &endpoint)?);
    }

    let mut interrupted = false;
    while all.iter().any(|running| running.status.is_none()) {
        match events.recv_timeout(Duration::from_millis(20)) {
            Ok(Event::Waits(number)) => all[number].say("TRAIN\n"),
            Ok(Event::Hangs(number)) => all[number].kill(),
            Ok(Event::Gone(number, record)) => all[number].record = Some(record),
            Ok(Event::Interrupted) => {
                interrupted = true;
                all.iter_mut().for_each(Running::kill);
            }
            Err(_) => {} // time to see who has ended
        }
        for running in &mut all {
            running.look()?;
        }
    }
    // What the children have left behind is handled before this returns.
    listener.shutdown(Duration::from_secs(5))?;
    for event in events.try_iter() {
        if let Event::Gone(number, record) = event {
            all[number].record = Some(record);
        }
    }
    if !bars.is_hidden() {
        eprintln!(); // below the last of them
    }
    println!(
        "{:<8} {:<10} {:>9} {:>10} {:>8}  how it ended",
        "job", "state", "epochs", "loss", "seconds"
    );
    all.iter().for_each(Running::print);
    match interrupted {
        true => Err("interrupted".into()),
        false => Ok(()),
    }
}

/// All that are to run, each with a name of its own.
fn jobs(args: &Args) -> Vec<Job> {
    let job = |number: u64| Job {
        name: format!("job {number}"),
        seed: number,
        rows: 256,
        rate: 0.05 + 0.05 * (number % 4) as f64,
        epochs: args.epochs,
        pace: args.pace,
        abort_after: None,
        hang_after: None,
    };
    let mut jobs: Vec<Job> = (1..=args.jobs).map(job).collect();
    let mut one_more = |change: &dyn Fn(&mut Job)| {
        let mut more = job(jobs.len() as u64 + 1);
        change(&mut more);
        jobs.push(more);
    };
    if args.fail {
        one_more(&|job| job.rate = 1e30);
        one_more(&|job| job.rows = usize::MAX >> 10);
    }
    if args.crash {
        let half = Some(args.epochs.div_ceil(2));
        one_more(&|job| job.abort_after = half);
        one_more(&|job| job.hang_after = half);
    }
    let python = Command::new("python3").arg("--version").output();
    match &python {
        Ok(_) => one_more(&|job| job.name = "python".to_owned()),
        Err(error) => eprintln!("python: does not take part: python3: {error}"),
    }
    jobs
}

/// A child that was started.
struct Running {
    job: Job,
    child: Child,
    status: Option<ExitStatus>,
    /// What it reported, once its connection has ended.
    record: Option<Record>,
}

impl Running {
    fn start(job: Job, endpoint: &Endpoint) -> Result<Self, BoxError> {
        let (program, first) = match job.name.as_str() {
            "python" => ("python3".into(), PYTHON),
            _ => (std::env::current_exe()?, "--child"),
        };
        let child = Command::new(program)
            .args([first, &serde_json::to_string(&job)?])
            .envs(endpoint.env()) // what a child needs to find its parent
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self {
            job,
            child,
            status: None,
            record: None,
        })
    }

    /// A command for the child; if it has ended, that will be seen elsewhere.
    fn say(&mut self, command: &str) {
        if let Some(input) = &mut self.child.stdin {
            let _ = input.write_all(command.as_bytes());
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
    }

    fn look(&mut self) -> io::Result<()> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(())
    }

    fn print(&self) {
        let nothing = Record::default();
        let record = self.record.as_ref().unwrap_or(&nothing);
        let loss = record
            .loss
            .map_or("-".to_owned(), |loss| format!("{loss:.3e}"));
        println!(
            "{:<8} {:<10} {:>9} {loss:>10} {:>8.2}  {}",
            self.job.name,
            record.status,
            format!("{}/{}", record.epochs, self.job.epochs),
            record.seconds,
            self.how_it_ended(),
        );
    }

    /// Its own words, then how its connection ended, then what the system says of the process.
    fn how_it_ended(&self) -> String {
        let status = self
            .status
            .map_or("still running".to_owned(), |status| status.to_string());
        let Some(record) = &self.record else {
            return format!("never reported, {status}");
        };
        let what = match (record.closed, self.status.and_then(signal)) {
            (true, Some(6)) => "aborted: ",
            (true, Some(9)) => "was killed: ",
            (true, _) => "crashed: ",
            (false, _) => "",
        };
        let failure = record
            .failure
            .as_ref()
            .map_or(String::new(), |why| format!("{why}: "));
        format!("{what}{failure}{}, {status}", record.end)
    }
}

/// The signal that ended a process, if one did.
#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

fn job(text: &str) -> Result<Job, serde_json::Error> {
    serde_json::from_str(text)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    Ok(seconds)
}
