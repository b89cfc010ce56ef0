//! What the parent sees of a job: the handler of what it reports.

use std::io::{self, IsTerminal};
use std::time::Instant;

use crossbeam_channel::Sender;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use interplay::listener::{End, Handler, Message, Source};
use serde::Deserialize;
use serde_json::Value;

use crate::BoxError;
use crate::train::Job;

/// What the handlers leave to the main thread, since they should not wait. The number is that of the job.
pub(crate) enum Event {
    Waits(usize),
    Hangs(usize),
    Gone(usize, Record),
    Interrupted,
}

/// What a job has reported.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) status: String,
    pub(crate) epochs: u64,
    pub(crate) loss: Option<f64>,
    /// Where it failed, and why.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    /// How its connection ended; closed is without a goodbye.
    pub(crate) end: String,
    pub(crate) closed: bool,
}

/// The data of `update_status`.
#[derive(Deserialize)]
struct Status {
    status: String,
    stage: Option<String>,
    trace: Option<String>,
}

/// The data of `set_item`.
#[derive(Deserialize)]
struct Item {
    key: String,
    value: f64,
}

/// The handler of one job. It runs on the listener's thread, so it needs no lock.
pub(crate) struct Watch {
    number: usize,
    name: String,
    hang_after: Option<u64>,
    record: Record,
    began: Instant,
    bar: ProgressBar,
    tell: Sender<Event>,
}

impl Watch {
    pub(crate) fn new(number: usize, job: &Job, bars: &MultiProgress, tell: Sender<Event>) -> Self {
        let bar = bars.add(ProgressBar::new(job.epochs));
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:<8} {wide_bar} {pos}/{len} {msg:<20}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(job.name.clone());
        Self {
            number,
            name: job.name.clone(),
            hang_after: job.hang_after,
            record: Record::default(),
            began: Instant::now(),
            bar,
            tell,
        }
    }

    /// On the bar if there is a terminal to draw it on, as a line if not.
    fn show(&self, what: &str) {
        match io::stderr().is_terminal() {
            true => self.bar.set_message(what.to_owned()),
            false => eprintln!("{}: {what}", self.name),
        }
    }

    /// To the main thread, which may have been interrupted and be gone.
    fn tell(&self, event: Event) {
        let _ = self.tell.send(event);
    }

    fn update(
        &mut self,
        Status {
            status,
            stage,
            trace,
        }: Status,
    ) {
        self.show(&status);
        if status == "WAITING" {
            self.tell(Event::Waits(self.number));
        }
        self.record.failure = stage.map(|stage| match trace {
            Some(trace) => format!("{stage}: {trace}"),
            None => format!("{stage}: out of memory"),
        });
        self.record.status = status;
    }

    fn item(&mut self, item: &Item) {
        if item.key == "loss" {
            self.record.loss = Some(item.value);
        } else if item.key == "epoch" {
            self.record.epochs = item.value as u64;
            self.bar.set_position(self.record.epochs);
            if self.hang_after == Some(self.record.epochs) {
                self.tell(Event::Hangs(self.number));
            }
        }
    }
}

impl Handler<Value> for Watch {
    fn handle(&mut self, message: Message) -> Result<(), BoxError> {
        match message.cmd.as_str() {
            "update_status" => self.update(serde_json::from_value(message.data)?),
            "set_item" => self.item(&serde_json::from_value(message.data)?),
            "set_result" => self.record.loss = message.data["loss"].as_f64(),
            other => return Err(format!("unknown command {other:?}").into()),
        }
        Ok(())
    }

    /// Once for each connection, after its last message, however it ended.
    fn gone(&mut self, _: &Source, end: &End) {
        if matches!(end, End::Closed) {
            self.show(&end.to_string());
        }
        self.bar.abandon();
        self.record.end = end.to_string();
        self.record.closed = matches!(end, End::Closed);
        self.record.seconds = self.began.elapsed().as_secs_f64();
        self.tell(Event::Gone(self.number, self.record.clone()));
    }
}
