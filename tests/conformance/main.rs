//! Every recorded exchange of DI-engine's protocol, played against our own `Slave` and `Master`.
//!
//! `interaction.json` holds the vectors, `README.md` beside it explains their words; `replay.py` plays the same
//! vectors against a program, this test plays them in this process. A vector gets a slave or master of its own and
//! sockets of its own, so many are played at a time: most of them only wait. All that fail are reported together.

mod exchange;
mod log;
mod play;
mod program;
mod sink;
mod vector;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use vector::{Side, Vector};

/// How many vectors of one side are played at a time.
const AT_A_TIME: usize = 12;

/// How long one side may take in all; the longest vector needs nine seconds.
const LIMIT: Duration = Duration::from_secs(180);

/// The one vector whose answer we cannot give: its channel is no ASCII text, and `tiny_http` closes a connection with
/// such a head before anybody sees it. It must do exactly that, and go on serving others.
const UNANSWERABLE: &str = "slave connect channel full-width digit";

#[test]
fn our_slave_answers_all_153_vectors() {
    replay(Side::Slave, 153, &[UNANSWERABLE]);
}

#[test]
fn our_master_answers_all_96_vectors() {
    replay(Side::Master, 96, &[]);
}

/// Plays all vectors of one side, the long ones first; `closed` are those that are to be closed without an answer.
fn replay(side: Side, count: usize, closed: &'static [&'static str]) {
    let mut vectors = vector::recorded();
    vectors.retain(|vector| vector.side == side);
    vectors.sort_by(|one, other| other.sleeps().total_cmp(&one.sleeps()));
    assert_eq!(vectors.len(), count, "the number of vectors in the file");
    for name in closed {
        assert!(
            vectors.iter().any(|vector| vector.name == *name),
            "no vector is named {name:?}"
        );
    }

    let vectors: Arc<[Vector]> = vectors.into();
    let next = Arc::new(AtomicUsize::new(0));
    let (ended, results) = channel();
    for number in 0..AT_A_TIME {
        let (vectors, next, ended) = (vectors.clone(), next.clone(), ended.clone());
        let play_on = move || {
            while let Some((index, vector)) = take(&next, &vectors) {
                let result = play_one(vector, closed.contains(&vector.name.as_str()));
                // Fails when the test has given up already.
                let _ = ended.send((index, result));
            }
        };
        // Not joined: the results tell when all have ended, and one that hangs must not hang the test.
        thread::Builder::new()
            .name(format!("player-{number}"))
            .spawn(play_on)
            .expect("the system gives a thread");
    }
    drop(ended);

    let deadline = Instant::now() + LIMIT;
    let mut verdicts = vec![Err(format!("not over after {LIMIT:?}")); count];
    while let Ok((index, result)) =
        results.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        verdicts[index] = result;
    }
    let failed = vectors
        .iter()
        .zip(verdicts)
        .filter_map(|(vector, verdict)| Some((&vector.name, verdict.err()?)));
    let failed: Vec<String> = failed
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {count} vectors failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

fn take<'v>(next: &AtomicUsize, vectors: &'v [Vector]) -> Option<(usize, &'v Vector)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, vectors.get(index)?))
}

fn play_one(vector: &Vector, closed: bool) -> Result<(), String> {
    let play = if closed {
        play::closed_without_answer
    } else {
        play::play
    };
    // A panic is one vector's, the player goes on.
    catch_unwind(AssertUnwindSafe(|| play(vector))).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", words.unwrap_or_default()))
    })
}

/// Sleeps because a vector says so.
#[expect(
    clippy::disallowed_methods,
    reason = "the time that passes is part of what a vector plays"
)]
fn pause(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}
