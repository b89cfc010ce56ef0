//! A master and four slaves in one process count the words of a folder's files, one file a task.
//!
//! ```sh
//! cargo run --release --example quickstart                    # this project's own sources
//! cargo run --release --example quickstart -- --dir ~/notes   # other files
//! ```
//!
//! Prints the twenty most frequent words, and the files that could not be counted. One that
//! does not exist is always among them: a task that fails takes nothing else with it.

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::Parser;
use indicatif::ProgressBar;
use interplay::master::{Connection, Master};
use interplay::slave::{self, Slave, TaskFail};

type Words = HashMap<String, u64>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Counts words with a master and four slaves in one process.
#[derive(Parser)]
struct Args {
    /// The folder whose files are read, subfolders included
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/src"))]
    dir: PathBuf,
}

/// What a slave does for each task. An error fails the task, and the slave goes on.
fn count_words(file: PathBuf) -> Result<Words, TaskFail> {
    let text = fs::read_to_string(file)?;
    let mut words = Words::new();
    for word in text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    Ok(words)
}

/// What the master does for each task.
fn count_at(slave: &Connection, file: &Path) -> Result<Words, BoxError> {
    let task = slave.new_task(file)?.start()?;
    task.join()?; // until the slave reports, or is lost
    Ok(task.result_as()?)
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let began = Instant::now();

    // Slaves are usually programs of their own, on other machines. Port 0 is any that is free.
    let start = |_| {
        Slave::builder()
            .host("127.0.0.1")
            .port(0)
            .start(slave::typed(count_words))
    };
    let slaves: Vec<Slave> = (0..4).map(start).collect::<Result<_, _>>()?;

    let master = Master::builder().host("127.0.0.1").port(0).start()?;
    let mut connections = Vec::new();
    for (number, slave) in slaves.iter().enumerate() {
        let connection =
            master.new_connection(format!("slave {number}"), &slave.local_addr().to_string())?;
        connection.connect()?;
        connections.push(connection);
    }

    let mut files = files_below(&args.dir)?;
    files.push(args.dir.join("there-is-no-such-file.txt"));
    let bar = ProgressBar::new(files.len() as u64);
    let (mut total, mut counted, mut failed) = (Words::new(), 0, Vec::new());

    // A slave does one task at a time, so each has a thread here that takes the next file for it.
    let (todo, next) = crossbeam_channel::unbounded();
    let (done, results) = crossbeam_channel::unbounded();
    for file in files {
        todo.send(file)?;
    }
    drop(todo); // the threads end when the files are used up
    thread::scope(|scope| {
        for connection in &connections {
            let (next, done) = (next.clone(), done.clone());
            scope.spawn(move || {
                for file in next {
                    let words = count_at(connection, &file);
                    let _ = done.send((file, words)); // cannot fail: the results are waited for below
                }
            });
        }
        drop(done); // the results end when the threads have ended
        for (file, words) in results {
            match words {
                Ok(words) => {
                    counted += 1;
                    words
                        .into_iter()
                        .for_each(|(word, count)| *total.entry(word).or_default() += count);
                }
                Err(error) => failed.push((file, error)),
            }
            bar.inc(1);
        }
    });
    bar.finish_and_clear();

    let mut words: Vec<(String, u64)> = total.into_iter().collect();
    words.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    for (word, count) in words.iter().take(20) {
        println!("{count:8}  {word}");
    }
    println!("\n{counted} files counted in {:.2?}", began.elapsed());
    for (file, error) in failed {
        println!("not counted: {}: {error}", file.display());
    }
    Ok(()) // dropping the master disconnects the slaves, dropping the slaves ends them
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?; // of a link itself, so there are no circles
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
