//! One vector from beginning to end: what is under test and its sinks, the steps, the request, the checks.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use interplay::slave::Slave;
use serde_json::{Value, json};

use crate::exchange::{Answer, over, send};
use crate::pause;
use crate::program::{self, CHANNEL, Orders};
use crate::sink::{Record, Sink};
use crate::vector::{Check, Facts, Request, Side, Step, Vector, Want};

/// What a wait for something that must come has beyond the vector's own limit: machines stall.
const SLACK: Duration = Duration::from_secs(10);

/// Plays a vector; the error says what was not as it should be.
pub(crate) fn play(vector: &Vector) -> Result<(), String> {
    let mut run = Run::start(vector)?;
    run.set_up(vector)?;
    let answer = match run.request(vector)? {
        Err(_) if vector.may_close => return Ok(()),
        Ok(answer) if vector.may_close && answer.is_late() => return Ok(()),
        answer => answer.map_err(|error| format!("no answer: {error}"))?,
    };
    let answers = [std::slice::from_ref(&vector.expect), &vector.also_accept].concat();
    let verdicts: Vec<_> = answers
        .iter()
        .map(|expect| answer.check(expect, &vector.ignore))
        .collect();
    if verdicts.iter().all(Result::is_err) {
        return verdicts.into_iter().collect();
    }
    vector.then.iter().try_for_each(|check| run.check(check))
}

/// Plays a vector to which the answer has to be that the connection is closed, after which a connect succeeds.
pub(crate) fn closed_without_answer(vector: &Vector) -> Result<(), String> {
    let mut run = Run::start(vector)?;
    run.set_up(vector)?;
    match run.request(vector)? {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) => {}
        Err(error) => return Err(format!("not closed: {error}")),
        Ok(answer) => {
            return Err(format!(
                "answered with {} {}",
                answer.status,
                answer.excerpt()
            ));
        }
    }
    run.step(&json!({"do": "connect"}))
}

/// What is under test.
enum Program {
    Slave(Slave),
    Master(Orders),
}

struct Run {
    program: Program,
    host: String,
    facts: Facts,
    /// The connection that the vector's request goes over, if it was opened before.
    held: Option<TcpStream>,
    /// How many requests each sink had received before the vector's request.
    marks: Vec<usize>,
    /// How many lines had been printed by then.
    mark: usize,
    sinks: Vec<Sink>,
}

impl Run {
    fn start(vector: &Vector) -> Result<Self, String> {
        let sinks = (0..vector.slaves).map(|_| Sink::start().map_err(|error| error.to_string()));
        let sinks = sinks.collect::<Result<Vec<_>, _>>()?;
        for rule in vector.sink_replies.iter().rev() {
            sinks[rule.sink - 1].obey(rule.clone());
        }
        let mut facts = Facts::default();
        facts.set("channel", CHANNEL.to_string());
        facts.set("other_channel", (CHANNEL + 1).to_string());
        if let Some(sink) = sinks.first() {
            facts.set("sink", sink.url());
        }
        let program = match vector.side {
            Side::Slave => Program::Slave(program::slave(vector.heartbeat)?),
            Side::Master => {
                let slaves: Vec<String> = sinks.iter().map(Sink::host_and_port).collect();
                let orders = Orders::start(vector.tolerance, &slaves)?;
                for (index, sink) in sinks.iter().enumerate() {
                    let name = if index == 0 {
                        "slave_token".to_owned()
                    } else {
                        format!("slave_token_{}", index + 1)
                    };
                    facts.set(name, &connect_of(sink)?.headers["token"]);
                }
                Program::Master(orders)
            }
        };
        let (address, self_token) = match &program {
            Program::Slave(slave) => (slave.local_addr(), slave.self_token()),
            Program::Master(orders) => (orders.master().local_addr(), orders.master().self_token()),
        };
        facts.set("self_token", self_token);
        facts.set("url", format!("http://{address}"));
        Ok(Self {
            program,
            host: address.to_string(),
            facts,
            held: None,
            marks: Vec::new(),
            mark: 0,
            sinks,
        })
    }

    fn set_up(&mut self, vector: &Vector) -> Result<(), String> {
        vector.setup.iter().try_for_each(|step| {
            self.step(step)
                .map_err(|why| format!("in the setup: {why}"))
        })
    }

    /// Makes the vector's request.
    fn request(&mut self, vector: &Vector) -> Result<std::io::Result<Answer>, String> {
        self.marks = self.sinks.iter().map(Sink::count).collect();
        if let Program::Master(orders) = &self.program {
            self.mark = orders.printed().len();
        }
        let request = self.facts.read(&vector.request)?;
        Ok(match self.held.take() {
            Some(stream) => over(&stream, &self.host, &request),
            None => send(&self.host, &request),
        })
    }

    fn step(&mut self, step: &Value) -> Result<(), String> {
        let mut step = step.clone();
        let allowed = step.as_object_mut().and_then(|step| step.remove("status"));
        let request = match self.facts.read(&step)? {
            Step::Connect { token, data, address } => {
                let address = address.unwrap_or_else(|| "{{sink}}".to_owned());
                let body = json!({"master": {"address": address}, "data": data});
                self.of_master("POST", "/connect", &token, &body)?
            }
            Step::Disconnect { token, data } => {
                self.of_master("DELETE", "/disconnect", &token, &json!({"data": data}))?
            }
            Step::Task { token, id, data } => {
                self.of_master("POST", "/task/new", &token, &json!({"task": {"id": id}, "data": data}))?
            }
            Step::Shutdown => self.facts.read(&json!({
                "method": "DELETE", "path": "/shutdown", "headers": {"Token": "{{self_token}}"}, "body": {},
            }))?,
            Step::Request { request } => request,
            Step::Hold => {
                self.held = Some(TcpStream::connect(&self.host).map_err(|error| error.to_string())?);
                return Ok(());
            }
            Step::Sleep { seconds } => {
                pause(seconds);
                return Ok(());
            }
            Step::SinkReply { reply, sink } => {
                self.sinks[sink - 1].obey(reply);
                return Ok(());
            }
            Step::WaitSink { want, within, count, sink } => {
                return wait(&self.sinks[sink - 1], &want, 0, count, within).map(drop);
            }
            Step::Submit { slave, data } => return self.submit(slave, data),
            Step::Detach { slave } => {
                let name = self.sinks[slave - 1].host_and_port();
                self.orders()?.disconnect(&name)?;
                return wait(&self.sinks[slave - 1], &want("DELETE", "/disconnect"), 0, 1, 5.0).map(drop);
            }
        };
        let answer = send(&self.host, &request).map_err(|error| format!("no answer: {error}"))?;
        let as_allowed = match &allowed {
            None => answer.status == 200,
            Some(Value::Array(statuses)) => statuses.contains(&json!(answer.status)),
            Some(status) => *status == json!(answer.status),
        };
        if as_allowed {
            Ok(())
        } else {
            Err(format!(
                "{step} answered {} {}",
                answer.status,
                answer.excerpt()
            ))
        }
    }

    /// A request as a master sends it.
    fn of_master(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: &Value,
    ) -> Result<Request, String> {
        let headers = json!({"Channel": "{{channel}}", "Token": token});
        self.facts
            .read(&json!({"method": method, "path": path, "headers": headers, "body": body}))
    }

    fn orders(&mut self) -> Result<&mut Orders, String> {
        match &mut self.program {
            Program::Master(orders) => Ok(orders),
            Program::Slave(_) => Err("a slave takes no orders".to_owned()),
        }
    }

    fn submit(&mut self, slave: usize, data: Value) -> Result<(), String> {
        let (name, before) = (
            self.sinks[slave - 1].host_and_port(),
            self.sinks[slave - 1].count(),
        );
        self.orders()?
            .submit(&name, data)
            .map_err(|error| error.to_string())?;
        let sent = wait(
            &self.sinks[slave - 1],
            &want("POST", "/task/new"),
            before,
            1,
            10.0,
        )?;
        let id = sent.json["task"]["id"]
            .as_str()
            .ok_or_else(|| format!("no id in {}", sent.json))?;
        if let Some(old) = self.facts.get("task_id").cloned() {
            self.facts.set("old_task_id", old);
        }
        self.facts.set("task_id", id);
        Ok(())
    }

    fn check(&mut self, check: &Value) -> Result<(), String> {
        match self.facts.read(check)? {
            Check::Sink {
                sink,
                within,
                number,
                any,
            } => {
                let start = if any { 0 } else { self.marks[number - 1] };
                wait(&self.sinks[number - 1], &sink, start, 1, within).map(drop)
            }
            Check::NoSink {
                no_sink,
                within,
                number,
            } => {
                let within = Duration::from_secs_f64(within);
                match self.sinks[number - 1].wait(&no_sink, self.marks[number - 1], 1, within) {
                    None => Ok(()),
                    Some(record) => Err(format!(
                        "{} {} arrived: {}",
                        record.method, record.path, record.json
                    )),
                }
            }
            Check::Printed {
                printed,
                within,
                any,
            } => {
                let start = if any { 0 } else { self.mark };
                let fits = |line: &Value| {
                    printed
                        .iter()
                        .all(|(key, value)| line.get(key) == Some(value))
                };
                match self.orders()?.printed().wait(
                    start,
                    1,
                    Duration::from_secs_f64(within) + SLACK,
                    fits,
                ) {
                    Some(_) => Ok(()),
                    None => Err(format!("no line like {printed:?} was printed")),
                }
            }
            Check::Request { request, expect } => {
                let answer = send(&self.host, &request)
                    .map_err(|error| format!("no answer after it: {error}"))?;
                answer
                    .check(&expect, &[])
                    .map_err(|why| format!("after it: {why}"))
            }
            Check::Step { step } => self.step(&step),
        }
    }
}

fn want(method: &str, path: &str) -> Want {
    Want {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        headers: [].into(),
        json: None,
    }
}

fn connect_of(sink: &Sink) -> Result<Record, String> {
    wait(sink, &want("POST", "/connect"), 0, 1, 5.0)
}

fn wait(
    sink: &Sink,
    want: &Want,
    start: usize,
    count: usize,
    within: f64,
) -> Result<Record, String> {
    let record = sink.wait(want, start, count, Duration::from_secs_f64(within) + SLACK);
    record.ok_or_else(|| format!("{count} like {want:?} did not arrive"))
}
