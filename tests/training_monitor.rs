//! The example that starts programs which train, as its users meet it.
//!
//! See `support/program.rs` for how it is built.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::program::Program;

/// What the table says of a job.
#[derive(Debug, PartialEq)]
struct Row {
    state: String,
    epochs: String,
    loss: f64,
    ended: String,
}

/// A run of the example to its end.
struct Run {
    code: Option<i32>,
    rows: BTreeMap<String, Row>,
    errors: Vec<String>,
}

impl Run {
    fn of(arguments: &[&str]) -> Self {
        Self::end(Program::start("training_monitor", arguments))
    }

    fn end(mut program: Program) -> Self {
        let (code, lines) = program.finish();
        let errors: Vec<String> = program.errors.iter().collect();
        assert!(
            lines.first().is_some_and(|line| line.starts_with("job ")),
            "{lines:?} {errors:?}"
        );
        let rows = lines[1..].iter().map(|line| row(line)).collect();
        Self { code, rows, errors }
    }

    /// What was told of a job while it ran.
    fn told(&self, job: &str) -> Vec<&str> {
        let of_job = |line: &'_ String| Some(line.strip_prefix(job)?.strip_prefix(": ")?.len());
        let lines = self.errors.iter();
        lines
            .filter_map(|line| Some(&line[line.len() - of_job(line)?..]))
            .collect()
    }
}

/// The name is eight wide, the rest is in columns without blanks but for the last.
fn row(line: &str) -> (String, Row) {
    let (name, rest) = line.split_at(8);
    let mut words = rest.split_whitespace();
    let mut next = || words.next().unwrap().to_owned();
    let (state, epochs, loss, _seconds) = (next(), next(), next(), next());
    let ended = words.collect::<Vec<_>>().join(" ");
    let row = Row {
        state,
        epochs,
        loss: loss.parse().unwrap_or(f64::NAN),
        ended,
    };
    (name.trim_end().to_owned(), row)
}

const ORDERLY: &str = "said goodbye, exit status: 0";

fn assert_finished(run: &Run, job: &str, epochs: u64) {
    let row = &run.rows[job];
    assert_eq!(row.state, "FINISHED", "{job} {row:?}");
    assert_eq!(row.epochs, format!("{epochs}/{epochs}"), "{job} {row:?}");
    assert!(row.loss < 0.05, "{job} has learnt: {row:?}");
    assert_eq!(row.ended, ORDERLY, "{job}");
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    let required = std::env::var("INTERPLAY_INTEROP").is_ok_and(|value| value == "required");
    assert!(found || !required, "there is no python3");
    found
}

/// A folder of its own, removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("interplay-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// For temporary files of this program.
    fn of(&self, arguments: &[&str]) -> Program {
        Program::start_as("training_monitor", arguments, |command| {
            command.env("TMPDIR", &self.0);
        })
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn four_jobs_report_all_they_do_and_finish() {
    let folder = Folder::new("monitor-four");
    let run = Run::end(folder.of(&[]));
    assert_eq!(run.code, Some(0), "{:?}", run.errors);
    for job in ["job 1", "job 2", "job 3", "job 4"] {
        assert_finished(&run, job, 100);
        let steps = ["AVAILABLE", "LOADING", "WAITING", "TRAINING", "FINISHED"];
        assert_eq!(run.told(job), steps, "{job}");
    }
    assert_eq!(run.rows.len(), if has_python() { 5 } else { 4 });
    assert!(folder.is_empty(), "a socket was left behind");
}

#[test]
fn a_job_that_aborts_and_one_that_is_killed_are_told_apart_and_hurt_nobody() {
    let run = Run::of(&["--jobs", "2", "--epochs", "20", "--pace", "0", "--crash"]);
    assert_eq!(run.code, Some(0), "{:?}", run.errors);
    assert_finished(&run, "job 1", 20);
    assert_finished(&run, "job 2", 20);
    let ends = [
        (
            "job 3",
            "aborted: closed without a goodbye, signal: 6 (SIGABRT)",
        ),
        (
            "job 4",
            "was killed: closed without a goodbye, signal: 9 (SIGKILL)",
        ),
    ];
    for (job, end) in ends {
        let row = &run.rows[job];
        assert_eq!(
            (&*row.state, &*row.epochs),
            ("TRAINING", "10/20"),
            "{row:?}"
        );
        assert!(row.ended.starts_with(end), "{row:?}"); // there may be a core
        assert_eq!(run.told(job).last(), Some(&"closed without a goodbye"));
    }
}

#[test]
fn a_job_that_cannot_finish_says_where_and_why() {
    let run = Run::of(&["--jobs", "1", "--epochs", "20", "--pace", "0", "--fail"]);
    assert_eq!(run.code, Some(0), "{:?}", run.errors);
    assert_finished(&run, "job 1", 20);
    let cases = [
        (
            "job 2",
            "EXCEPTION",
            "TRAINING: the loss is inf: the rate 1e30 is too high",
        ),
        ("job 3", "INTERRUPT", "LOADING: out of memory"),
    ];
    for (job, state, why) in cases {
        let row = &run.rows[job];
        assert_eq!(row.state, state, "{row:?}");
        assert_eq!(row.ended, format!("{why}: {ORDERLY}"), "{job}");
    }
}

#[test]
fn a_seed_gives_the_same_loss_each_time() {
    let losses = || {
        let run = Run::of(&["--jobs", "3", "--epochs", "5", "--pace", "0"]);
        let loss = |(name, row): (_, Row)| (name, row.loss.to_string());
        run.rows.into_iter().map(loss).collect::<Vec<_>>()
    };
    let first = losses();
    assert_eq!(first, losses());
    assert_ne!(first[0].1, first[1].1, "another seed, another loss");
}

#[test]
fn a_child_in_python_takes_part() {
    if !has_python() {
        return;
    }
    let run = Run::of(&["--jobs", "0", "--epochs", "50", "--pace", "0"]);
    assert_eq!(run.code, Some(0), "{:?}", run.errors);
    assert_eq!(run.rows.len(), 1);
    assert_finished(&run, "python", 50);
    assert_eq!(run.told("python"), ["WAITING", "TRAINING", "FINISHED"]);
}

#[test]
fn without_python_the_others_do_it() {
    let run = Run::end(Program::start_as(
        "training_monitor",
        &["--jobs", "1", "--pace", "0"],
        |command| {
            command.env("PATH", "");
        },
    ));
    assert_eq!(run.code, Some(0), "{:?}", run.errors);
    assert_eq!(run.rows.len(), 1);
    assert_finished(&run, "job 1", 100);
    let told = run.told("python");
    assert!(
        told[0].starts_with("does not take part: python3: "),
        "{told:?}"
    );
}

#[test]
fn an_interrupted_monitor_ends_its_jobs_and_leaves_nothing_behind() {
    let folder = Folder::new("monitor-interrupted");
    let mut monitor = folder.of(&["--jobs", "1", "--pace", "1000"]);
    monitor.error_with("job 1: TRAINING");
    monitor.terminate();
    let run = Run::end(monitor);
    assert_eq!(run.code, Some(1), "{:?}", run.errors);
    let row = &run.rows["job 1"];
    assert_eq!(row.state, "TRAINING");
    assert!(row.ended.starts_with("was killed: "), "{row:?}");
    assert_eq!(run.told("training_monitor"), ["interrupted"]);
    assert!(folder.is_empty(), "a socket was left behind");
}

#[test]
fn wrong_usage_is_an_error() {
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--jobs", "x"], 2, "invalid value 'x' for '--jobs <JOBS>'"),
        (&["--epochs", "0"], 2, "--epochs"),
        (&["--pace=-1"], 2, "--pace"),
        (&["--child", "{}"], 2, "missing field `name`"),
        (&["--colour"], 2, "--colour"),
    ];
    for (arguments, code, words) in cases {
        let mut program = Program::start("training_monitor", arguments);
        assert_eq!(program.end(), (Some(code), vec![]), "{arguments:?}");
        program.error_with(words);
    }
}

#[test]
fn a_job_without_a_parent_says_so() {
    let job = r#"{"name": "job 1", "seed": 1, "rows": 1, "rate": 0.1, "epochs": 1, "pace": 0}"#;
    let mut program = Program::start_as("training_monitor", &["--child", job], |command| {
        command.env_remove("INTERPLAY_LISTENER");
    });
    assert_eq!(program.end(), (Some(1), vec![]));
    program.error_with("job 1: ");
}
