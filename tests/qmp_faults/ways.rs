//! Commands that pass others, descriptors, and the guest agent.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use interplay::qmp::{Options, Pending};
use serde_json::json;

use super::support::qmp::{Act, Command, Script, Server, kind, version};
use super::support::{LIMIT, deadline, ms, pause, spawn};
use super::{Guest, PATIENCE, raw};

#[test]
fn in_band_commands_are_held_back_so_that_out_of_band_ones_can_pass() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!({})).later();
        let hold = parking_lot::Mutex::new(Some(hold));
        let server = Script::new()
            .on("blocks", move |_| hold.lock().take().unwrap())
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        let blocks = guest.start("blocks");
        let behind: Vec<Pending> = (0..20).map(|_| guest.start("query-version")).collect();
        assert_eq!(
            guest.client.execute_oob("query-version", ()).unwrap(),
            version()
        );
        server.nth(8, "query-version"); // the one that has passed is among them
        pause(ms(50));
        let in_band = |c: &&Command| !c.oob && c.name != "qmp_capabilities";
        assert_eq!(
            server.commands().iter().filter(in_band).count(),
            8,
            "one of them runs"
        );
        now.send(()).unwrap();
        assert_eq!(blocks.wait().unwrap().value, json!({}));
        for call in behind {
            assert_eq!(call.wait().unwrap().value, version());
        }
    });
}

#[test]
fn descriptors_travel_one_at_a_time() {
    deadline(LIMIT, || {
        let (now, hold) = Act::Return(json!({})).later();
        let hold = parking_lot::Mutex::new(Some(hold));
        let server = Script::new()
            .on("getfd", move |_| {
                hold.lock().take().unwrap_or(Act::Return(json!({})))
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new());
        let (open, watched) = UnixStream::pair().unwrap();
        let first = guest.client.call("getfd").fd(open.as_fd()).start().unwrap();
        let second = spawn("second", {
            let client = guest.client.clone();
            move || {
                let second = client.call("getfd").fd(open.as_fd()).run();
                drop(open);
                second
            }
        });
        server.first("getfd");
        pause(ms(50));
        let sent = |server: &Server| {
            let getfd = |c: &Command| (c.name == "getfd").then_some(c.descriptors);
            server
                .commands()
                .iter()
                .filter_map(getfd)
                .collect::<Vec<_>>()
        };
        assert_eq!(sent(&server), [1], "the second waits");
        now.send(()).unwrap();
        first.wait().unwrap();
        second.join().unwrap().unwrap();
        assert_eq!(sent(&server), [1, 1]);
        // All copies are closed, the client's own too.
        watched.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(std::io::Read::read(&mut &watched, &mut [0]).unwrap(), 0);

        let server = Script::new().start_tcp();
        let guest = Guest::at(&server, Options::new());
        let refused = guest.client.call("getfd").fd(watched.as_fd()).run();
        assert_eq!(kind(&refused.unwrap_err()), "NotUnix");
        guest.works();
    });
}

#[test]
fn a_guest_agent_is_synchronised_behind_whatever_an_earlier_session_left() {
    deadline(LIMIT, || {
        let leftover = b"{\"return\": {}, \"id\": 4}\n{\"return\": 123456}\n{\"return\": {";
        let server = Script::guest_agent()
            .opening(raw(leftover))
            .on("guest-sync-delimited", |command| {
                let value = command.arguments["id"].clone();
                Act::All(vec![raw(b"\xFF"), Act::Return(value)])
            })
            .on("guest-ping", |_| Act::Return(json!({})))
            .start_unix();
        let guest = Guest::at(&server, Options::new().guest_agent());
        guest.client.sync(PATIENCE).unwrap();
        assert_eq!(guest.ask("guest-ping").unwrap(), json!({}));
        guest.client.sync(PATIENCE).unwrap();
        let numbers = [1, 2].map(|n| server.nth(n, "guest-sync-delimited").arguments["id"].clone());
        assert_ne!(numbers[0], numbers[1]);
        guest.client.disconnect().unwrap();
        guest.leaves_nothing(&server, 1);
    });
}

#[test]
fn a_guest_agent_that_does_not_answer_is_synchronised_later() {
    deadline(LIMIT, || {
        let silent = AtomicUsize::new(1);
        let server = Script::guest_agent()
            .on("guest-sync-delimited", move |command| {
                if silent.swap(0, Ordering::Relaxed) == 1 {
                    return Act::SILENCE;
                }
                let value = command.arguments["id"].clone();
                Act::All(vec![raw(b"\xFF"), Act::Return(value)])
            })
            .start_unix();
        let guest = Guest::at(&server, Options::new().guest_agent());
        assert_eq!(kind(&guest.client.sync(ms(50)).unwrap_err()), "Timeout");
        guest.client.sync(PATIENCE).unwrap();
        guest.works();
    });
}
