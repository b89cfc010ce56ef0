//! Calls that decode what is returned: whatever the reply looks like, they see what others would.

use std::sync::mpsc::channel;

use interplay::qmp::{End, Error, Options};
use serde::Deserialize;
use serde_json::{Value, json};

use super::support::{LIMIT, deadline, spawn};
use super::{PATIENCE, Peer, interrupted, reply};

#[derive(Debug, PartialEq, Deserialize)]
struct Pair {
    first: u64,
    second: Option<String>,
}

/// The name of the command in this line.
fn name(line: &str) -> String {
    let command: Value = serde_json::from_str(line).unwrap();
    command["execute"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_returned_is_decoded_whatever_is_around_it() {
    deadline(LIMIT, || {
        let pair = r#"{"first": 18446744073709551615, "second": "\u00e9}", "third": [[]]}"#;
        let replies = [
            format!(r#"{{"return": {pair}, "id": ID}}"#),
            format!(r#"{{"id": ID, "return": {pair}}}"#),
            format!(r#"{{"return": {pair}, "id": ID, "more": 1}}"#),
            format!("{{\n    \"return\" :\r\n{pair} ,\n \"id\": ID\n}}"),
            format!(r#"{{"return": 5, "return": {pair}, "id": ID}}"#),
            // A type may mind a name that comes twice; a value has the last one.
            r#"{"return": {"first": 5, "second": "é}", "first": 18446744073709551615}, "id": ID}"#
                .to_owned(),
        ];
        let (peer, client) = Peer::pair(Options::new());
        let mut next = replies.clone().into_iter();
        let served = peer.serve(move |id, _, out| {
            let text = next.next().unwrap().replace("ID", &id.to_string());
            out.extend_from_slice(text.as_bytes());
        });
        for reply in replies {
            let decoded: Pair = client.execute_as("pair", ()).unwrap();
            let (first, second) = (u64::MAX, Some("é}".to_owned()));
            assert_eq!(decoded, Pair { first, second }, "{reply}");
        }
        client.disconnect().unwrap().unwrap().into_result().unwrap();
        served.join().unwrap();
    });
}

#[test]
fn what_is_returned_and_does_not_fit_is_kept_and_the_session_goes_on() {
    deadline(LIMIT, || {
        let value = json!({"first": "one"});
        let returned = value.clone();
        let (peer, client) = Peer::pair(Options::new());
        let served = peer.serve(move |id, _, out| reply(out, id, returned.clone()));
        let expected = Pair::deserialize(&value).unwrap_err().to_string();
        for _ in 0..2 {
            match client.execute_as::<Pair>("pair", ()).unwrap_err() {
                Error::BadReply {
                    command,
                    value: kept,
                    cause: Some(cause),
                    ..
                } => {
                    assert_eq!((command.name(), &*kept), ("pair", &value));
                    assert_eq!(cause.to_string(), expected);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(client.execute("pair", ()).unwrap(), value);
        client.disconnect().unwrap().unwrap().into_result().unwrap();
        served.join().unwrap();
    });
}

#[test]
fn a_reply_that_is_no_json_ends_the_session_even_where_nobody_looks() {
    deadline(LIMIT, || {
        for wrong in [r#""\ud800""#, "1e400", "{\"a\": inf}", "\"\u{1}\"", "[01]"] {
            let (peer, client) = Peer::pair(Options::new());
            let served = peer.serve(move |id, _, out| {
                let text = format!(
                    "{{\"return\": {{\"first\": 1, \"more\": {wrong}}}, \"id\": {id}}}\r\n"
                );
                out.extend_from_slice(text.as_bytes());
            });
            let (_, cause) = interrupted(client.execute_as::<Pair>("pair", ()));
            assert_eq!(cause, "Decode", "{wrong}");
            drop(client);
            served.join().unwrap();
        }
    });
}

#[test]
fn who_waits_beside_a_typed_call_gets_values_and_taps_hear_it_all() {
    deadline(LIMIT, || {
        let (peer, client) = Peer::pair(Options::new());
        let (arrived, has_arrived) = channel();
        let mut first = None;
        let served = peer.serve(move |id, line, out| match &*name(line) {
            "typed" => {
                first = Some(id.clone());
                arrived.send(()).unwrap();
            }
            name => {
                reply(out, id, json!({"name": name}));
                if name == "last" {
                    reply(out, &first.take().unwrap(), json!({"first": 1}));
                }
            }
        });
        let tap = client.tap();
        let typed = {
            let client = client.clone();
            spawn("typed", move || client.execute_as::<Pair>("typed", ()))
        };
        has_arrived.recv_timeout(PATIENCE).unwrap();
        let other = client.execute("other", ()).unwrap();
        assert_eq!(other, json!({"name": "other"}));
        let pending = client.call("last").start().unwrap();
        assert_eq!(pending.wait().unwrap().value, json!({"name": "last"}));
        let (first, second) = (1, None);
        assert_eq!(typed.join().unwrap().unwrap(), Pair { first, second });
        let heard = tap.drain();
        let heard: Vec<_> = heard.iter().map(|it| &it.object()["return"]).collect();
        let expected = [
            json!({"name": "other"}),
            json!({"name": "last"}),
            json!({"first": 1}),
        ];
        assert!(heard.ends_with(&expected.each_ref()), "{heard:?}");
        client.disconnect().unwrap().unwrap().into_result().unwrap();
        served.join().unwrap();
    });
}

#[test]
fn a_quit_whose_reply_is_decoded_is_a_quit() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let quitting = spawn("peer", move || {
            let (id, _) = peer.command().unwrap();
            peer.send(&json!({"return": {}, "id": id}));
        });
        let _: serde_json::Map<String, Value> = client.execute_as("quit", ()).unwrap();
        quitting.join().unwrap();
        let end = client.wait_end(PATIENCE).unwrap().unwrap();
        assert!(matches!(end, End::ServerQuit), "{end:?}");
    });
}
