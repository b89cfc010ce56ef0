//! What the child programs of these tests do, by the name of the role.

use std::collections::HashMap;
use std::process;

use interplay::listener::child::{Error, Sender};
use interplay::listener::{Listener, Message, Refused};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::child::{Child, say, wait};
use super::raw::{Invitation, frame};

pub(crate) fn play(role: &str, task: &Value) {
    match role {
        "plays a scenario" => plays_a_scenario(task),
        "ends without a stop" => ends_without_a_stop(),
        "posts and goes" => posts_and_goes(task),
        "floods" => floods(task),
        "posts until it may go" => posts_until_it_may_go(),
        "posts until it fails" => posts_until_it_fails(task),
        "stops in a frame" => stops_in_a_frame(task),
        "has a grandchild" => has_a_grandchild(),
        "grandchild" => grandchild(),
        "waits" => drop(wait()),
        "parent of a flood" => super::flow::parent_of_a_flood(task),
        "parent that is killed" => super::closing::parent_that_is_killed(task),
        "posts once after it was let go" => posts_once(task),
        "finds no parent" => finds_no_parent(),
        _ => panic!("unknown role: {role}"),
    }
}

/// Connects as `source`; the end of a predecessor may not have been seen yet.
fn connect(source: &str) -> Result<Sender, Error> {
    loop {
        match Sender::connect_from_env(source) {
            Err(Error::Refused {
                reason: Refused::Taken,
                ..
            }) => {}
            result => return result,
        }
    }
}

const UNREADABLE: &str = "<object of a class only the child knows>";

struct Unsendable;

impl Serialize for Unsendable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a function"))
    }
}

/// The posts of a step of a recorded scenario; tells their results.
fn plays_a_scenario(step: &Value) {
    let mut parents = HashMap::new();
    let mut results = Vec::new();
    for (source, cmd, data) in posts(step) {
        if data == "<400 MB>" {
            killed_in_a_large_message(&source, &cmd);
        }
        let parent = match parents
            .entry(source.clone())
            .or_insert_with(|| connect(&source))
        {
            Ok(parent) => parent,
            // Nobody to connect to is how a listener that has ended is closed.
            Err(Error::Unreachable { .. }) => {
                results.push("error Closed".to_owned());
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let posted = match data.as_str() {
            Some(UNREADABLE) => parent.post(&cmd, &json!({"class": "only mine"})),
            Some("<200 kB>") => parent.post(&cmd, &"x".repeat(200_000)),
            _ if data["f"] == "<function>" => parent.post(&cmd, &Unsendable),
            _ => parent.post(&cmd, &data),
        };
        results.push(match posted {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("error {}", name_of(&error)),
        });
    }
    if step["calls"] == "stop" {
        // All that a child has is a sender. Its end is no stop, and words are not either.
        let parent = connect("stops").unwrap();
        drop(parent);
        let raw = Invitation::from_env().admitted("says closing");
        raw.send(&[frame(br#"{"closing": true}"#), frame(br#"{"bye": true}"#)].concat());
    }
    say(results);
    if step["then"] == "exit at once" {
        process::exit(0);
    }
    wait();
}

/// Source, cmd and data of each post of a step.
fn posts(step: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match &step["posts"] {
        Value::Array(posts) => posts
            .iter()
            .map(|post| (text(&post[0]), text(&post[1]), post[2].clone()))
            .collect(),
        Value::Object(many) => (0..many["count"].as_u64().unwrap())
            .map(|n| (text(&many["source"]), "c".to_owned(), json!({"n": n})))
            .collect(),
        _ => Vec::new(),
    }
}

/// Is in the middle of a frame when its end comes.
fn killed_in_a_large_message(source: &str, cmd: &str) -> ! {
    let raw = Invitation::from_env().admitted(source);
    let data = "x".repeat(10_000_000);
    let frame = frame(json!({"cmd": cmd, "data": data}).to_string().as_bytes());
    raw.send(&frame[..5_000_000]);
    say(json!([]));
    wait();
    unreachable!("it is killed");
}

fn ends_without_a_stop() {
    let listener = Listener::builder()
        .default_handler(|_: Message| Ok(()))
        .start()
        .unwrap();
    listener.endpoint().unwrap();
    say("started");
}

/// The name of the variant.
pub(crate) fn name_of(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap().to_owned()
}

/// Posts `count` messages of `bytes` each and ends as told.
fn posts_and_goes(task: &Value) {
    let parent = connect(task["source"].as_str().unwrap()).unwrap();
    let data = "x".repeat(task["bytes"].as_u64().unwrap_or(0) as usize);
    for n in 0..task["count"].as_u64().unwrap() {
        parent.post("c", &json!({"n": n, "x": data})).unwrap();
    }
    match task["then"].as_str().unwrap() {
        "abort" => process::abort(),
        "exit" => process::exit(0),
        "drop" => drop(parent),
        "close" => parent.close().unwrap(),
        "stay" => {
            say("posted");
            wait();
        }
        "panic" => {
            let _unwinds = parent;
            std::panic::set_hook(Box::new(|_| ()));
            panic!("as planned");
        }
        other => panic!("unknown: {other}"),
    }
}

/// Posts as fast as it can until it is killed or turned away.
fn floods(task: &Value) {
    let parent = connect(task["source"].as_str().unwrap()).unwrap();
    let longest = task["bytes"].as_u64().unwrap() as usize;
    let text = "x".repeat(longest);
    say("floods");
    for n in 0_usize.. {
        // Of all lengths, so that a kill falls anywhere in a frame.
        let length = n.wrapping_mul(7919) % (longest + 1);
        if parent
            .post("c", &json!({"n": n, "x": text[..length]}))
            .is_err()
        {
            return;
        }
    }
}

/// Posts numbers from 0 until it is let go; tells how many.
fn posts_until_it_may_go() {
    let parent = connect("steady").unwrap();
    let (go, goes) = crossbeam_channel::bounded::<()>(0);
    std::thread::Builder::new()
        .spawn(move || {
            wait();
            drop(go);
        })
        .unwrap();
    say("posts");
    let mut count = 0;
    while goes.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) {
        parent.post("c", &count).unwrap();
        count += 1;
    }
    parent.close().unwrap();
    say(count);
}

/// Posts until a post fails; tells how many did not, and the error.
fn posts_until_it_fails(task: &Value) {
    let parent = connect(task["source"].as_str().unwrap()).unwrap();
    let limit = task["limit_ms"]
        .as_u64()
        .map(std::time::Duration::from_millis);
    let data = "x".repeat(task["bytes"].as_u64().unwrap_or(0) as usize);
    say("posts");
    let mut count = 0;
    loop {
        let posted = match limit {
            Some(limit) => parent.post_timeout("c", &data, limit),
            None => parent.post("c", &data),
        };
        match posted {
            Ok(()) => count += 1,
            Err(error) => {
                say(json!([count, name_of(&error)]));
                break;
            }
        }
    }
    if wait() {
        let again = parent.post("again", &Value::Null);
        say(again.map_or_else(|error| name_of(&error), |()| "ok".to_owned()));
    }
}

/// Has sent so many bytes of its frames when it is killed.
fn stops_in_a_frame(task: &Value) {
    let raw = Invitation::from_env().admitted(task["source"].as_str().unwrap());
    let bytes: Vec<u8> = (0_u64..20)
        .flat_map(|n| {
            let data = json!({"n": n, "x": "x".repeat(50)});
            super::raw::message("c", data)
        })
        .collect();
    raw.send(&bytes[..task["cut"].as_u64().unwrap() as usize]);
    say("stopped");
    wait();
}

/// Connected, with a grandchild that is too.
fn has_a_grandchild() {
    let parent = connect("child").unwrap();
    // It finds the environment of this one.
    let grandchild = Child::start("grandchild", &Value::Null, []);
    assert_eq!(grandchild.says(), "posted");
    parent.post("c", &1).unwrap();
    wait();
}

/// Stays until the listener stops, whatever becomes of who started it.
fn grandchild() {
    let mut raw = Invitation::from_env().admitted("grandchild");
    raw.send(&super::raw::message("c", 1));
    say("posted");
    while raw.hear().is_some() {}
    process::exit(0);
}

fn finds_no_parent() {
    let names = ["INTERPLAY_LISTENER", "INTERPLAY_LISTENER_TOKEN"];
    let set = names.map(|name| std::env::var_os(name).is_some());
    let error = Sender::connect_from_env("a").unwrap_err();
    say(json!([set, name_of(&error), error.to_string()]));
}

/// Connected for a while before its first post; tells the result.
fn posts_once(task: &Value) {
    let parent = connect(task["source"].as_str().unwrap()).unwrap();
    say("connected");
    wait();
    let posted = parent.post("c", &1);
    say(posted.map_or_else(|error| name_of(&error), |()| "ok".to_owned()));
}
