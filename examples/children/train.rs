//! A job of the monitor: it loads, trains, and reports to its parent as it goes.

use std::collections::TryReserveError;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use interplay::listener::child::Sender;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::BoxError;

/// What a job is to do; it travels on the command line, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) rows: usize,
    pub(crate) rate: f64,
    pub(crate) epochs: u64,
    /// Seconds that pass after each epoch, so that there is something to watch.
    pub(crate) pace: f64,
    /// After which epoch it aborts, if it is to.
    pub(crate) abort_after: Option<u64>,
    /// After which epoch it gets stuck, if it is to.
    pub(crate) hang_after: Option<u64>,
}

/// The child's side: from its first word to its last.
pub(crate) fn run(job: &Job) -> Result<(), BoxError> {
    let parent = Sender::connect_from_env(&job.name)?;
    let mut stage = "";
    let end = match work(job, &parent, &mut stage) {
        Ok(seconds) => json!({"status": "FINISHED", "seconds": seconds}),
        Err(error) if error.is::<TryReserveError>() => {
            json!({"status": "INTERRUPT", "stage": stage})
        }
        Err(error) => json!({"status": "EXCEPTION", "stage": stage, "trace": error.to_string()}),
    };
    parent.post("update_status", &end)?; // fails as well if it was the parent that failed
    Ok(()) // dropping the sender says goodbye; a process that crashes does not
}

fn work(job: &Job, parent: &Sender, stage: &mut &str) -> Result<f64, BoxError> {
    let began = Instant::now();
    let mut enter = |status| {
        *stage = status;
        parent.post("update_status", &json!({"status": status}))
    };
    enter("AVAILABLE")?;
    enter("LOADING")?;
    let mut model = Model::load(job)?;
    enter("WAITING")?;
    wait_for("TRAIN\n")?;
    enter("TRAINING")?;
    for epoch in 1..=job.epochs {
        let loss = model.step(job.rate)?;
        parent.post("set_item", &json!({"key": "loss", "value": loss}))?;
        parent.post("set_item", &json!({"key": "epoch", "value": epoch}))?;
        if job.abort_after == Some(epoch) {
            std::process::abort();
        }
        if job.hang_after == Some(epoch) {
            wait_for("GO ON\n")?;
        }
        pause(job.pace)?;
    }
    let result = json!({"loss": model.loss(), "weights": model.weights});
    parent.post("set_result", &result)?;
    Ok(began.elapsed().as_secs_f64())
}

/// The parent's commands come by another way: a line each, on standard input.
fn wait_for(command: &str) -> Result<(), BoxError> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    match line == command {
        true => Ok(()),
        false => Err(format!("not told to train, but {line:?}").into()),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing ends a job early but its death"
)]
fn pause(seconds: f64) -> Result<(), BoxError> {
    thread::sleep(Duration::try_from_secs_f64(seconds)?);
    Ok(())
}

const WEIGHTS: [f64; 4] = [0.5, -1.0, 2.0, 3.0];

/// A linear regression by gradient descent, on data made of a seed and a little noise.
struct Model {
    rows: Vec<([f64; 4], f64)>,
    weights: [f64; 4],
}

impl Model {
    fn load(job: &Job) -> Result<Self, TryReserveError> {
        let mut rows = Vec::new();
        rows.try_reserve_exact(job.rows)?;
        let mut chance = Chance(job.seed);
        rows.extend((0..job.rows).map(|_| {
            let inputs = WEIGHTS.map(|_| 1.7 * chance.next());
            (inputs, product(&inputs, &WEIGHTS) + 0.2 * chance.next())
        }));
        let weights = [0.0; 4];
        Ok(Self { rows, weights })
    }

    fn loss(&self) -> f64 {
        let error = |(inputs, wanted): &_| product(inputs, &self.weights) - wanted;
        let squares = self.rows.iter().map(|row| error(row).powi(2));
        squares.sum::<f64>() / self.rows.len() as f64
    }

    /// One epoch; gives the loss after it.
    fn step(&mut self, rate: f64) -> Result<f64, BoxError> {
        let mut gradient = [0.0; 4];
        for (inputs, wanted) in &self.rows {
            let error = product(inputs, &self.weights) - wanted;
            for (slope, input) in gradient.iter_mut().zip(inputs) {
                *slope += 2.0 * error * input / self.rows.len() as f64;
            }
        }
        for (weight, slope) in self.weights.iter_mut().zip(gradient) {
            *weight -= rate * slope;
        }
        let loss = self.loss();
        match loss.is_finite() {
            true => Ok(loss),
            false => Err(format!("the loss is {loss}: the rate {rate:e} is too high").into()),
        }
    }
}

fn product(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Numbers between -1 and 1 that depend on the seed alone.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}
