//! A tap hears all that comes, and knows which of it is whose reply.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use interplay::protocol::Addr;
use interplay::qmp::{Client, Message};
use serde_json::{Value, json};

use support::qmp::{Act, Script, event};
use support::{LIMIT, deadline};

#[test]
fn a_tap_tells_our_replies_from_others_that_look_like_them() {
    deadline(LIMIT, || {
        let server = Script::new()
            .on("stop", |command| {
                let again = json!({"return": "again", "id": command.id});
                let next = command.id.as_ref().and_then(Value::as_u64).unwrap() + 1;
                Act::All(vec![
                    Act::Send(event("STOP", json!({}))),
                    Act::Return(json!("ours")),
                    Act::Send(again),
                    Act::Send(json!({"return": "too early", "id": next})),
                    Act::Send(event("SEEN", json!({}))),
                ])
            })
            .start_unix();
        let client = Client::default();
        let (tap, seen) = (client.tap(), client.tap());
        client
            .connect(server.address().parse::<Addr>().unwrap())
            .unwrap();
        let name = |message: &Message| Some(message.event()?.name().to_owned());
        let stop = client.call("stop").start().unwrap();
        let calls = [stop.id(), stop.id() + 1];
        let number = stop.wait().unwrap().number;
        // What came before a reply is in the taps before the caller has it, and so is the reply.
        let mut heard = tap.drain();
        assert!(heard.iter().any(|message| message.number() == number));
        seen.wait_for(|message| name(message).as_deref() == Some("SEEN"), LIMIT)
            .unwrap();
        let second = client.call("stop").start().unwrap();
        assert_eq!(second.id(), calls[1]);
        second.wait().unwrap();

        heard.extend(tap.drain());
        let ours = heard.iter().filter_map(|message| {
            let object = message.object();
            Some((
                message.call()?,
                object["return"].clone(),
                object["id"].clone(),
            ))
        });
        let ours: Vec<_> = ours.collect();
        let expected = calls.map(|call| (call, json!("ours"), json!(call)));
        assert_eq!(ours, expected);
    });
}
