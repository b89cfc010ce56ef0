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
use std::time::Instant;

use clap::Parser;
use indicatif::ProgressBar;
use interplay::master::Master;
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
    let mut pool = master.pool();
    for (number, slave) in slaves.iter().enumerate() {
        pool = pool.slave(format!("slave {number}"), slave.local_addr().to_string());
    }
    let pool = pool.start()?;

    let mut files = files_below(&args.dir)?;
    files.push(args.dir.join("there-is-no-such-file.txt"));
    let bar = ProgressBar::new(files.len() as u64);
    let (mut total, mut counted, mut failed) = (Words::new(), 0, Vec::new());

    // A task for each file, its result as soon as a slave has it, with the number of the file.
    for (number, words) in pool.map::<Words, _>(&files) {
        match words {
            Ok(words) => {
                counted += 1;
                words
                    .into_iter()
                    .for_each(|(word, count)| *total.entry(word).or_default() += count);
            }
            Err(error) => failed.push((&files[number as usize], error)),
        }
        bar.inc(1);
    }
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
    Ok(()) // dropping the pool disconnects the slaves, dropping the slaves ends them
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
