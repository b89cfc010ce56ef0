//! What happens between a child and its listener, by either transport and with children that
//! do not keep to the rules.

use std::sync::Weak;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::{Value, json};

use super::super::frame::{FromListener, Inbox};
use super::super::queue::Wait;
use super::super::transport::Read;
use super::*;
use crate::listener::{BoxError, Builder, End, Handler, Listener, Message, Source, child};

const LONG: Duration = Duration::from_secs(60);

/// Tells what it gets as text; waits in a message "wait" until it is let go.
struct Tell {
    tell: Sender<String>,
    go: Receiver<()>,
}

impl Handler<Value> for Tell {
    fn handle(&mut self, message: Message) -> Result<(), BoxError> {
        let Message { source, cmd, data } = message;
        self.tell.send(format!("{source} {cmd} {data}"))?;
        if cmd == "wait" {
            self.go.recv_timeout(LONG)?;
        }
        Ok(())
    }

    fn gone(&mut self, source: &Source, end: &End) {
        let _ = self.tell.send(format!("{source} gone: {end}"));
    }
}

/// A listener whose handler tells what it gets.
struct Parent {
    listener: Listener,
    told: Receiver<String>,
    go: Sender<()>,
}

impl Parent {
    fn new(transport: Transport, set: impl FnOnce(Builder) -> Builder) -> Self {
        let (tell, told) = unbounded();
        let (go, going) = unbounded();
        let builder = Listener::builder().default_handler(Tell { tell, go: going });
        let listener = set(builder.transport(transport)).start().unwrap();
        Self { listener, told, go }
    }

    fn plain(transport: Transport) -> Self {
        Self::new(transport, |builder| builder)
    }

    fn connect(&self, source: &str) -> Result<child::Sender, child::Error> {
        let [(_, address), (_, token)] = self.listener.endpoint().unwrap().env();
        child::Sender::connect(&address, &token, source)
    }

    fn raw(&self) -> Raw {
        let endpoint = self.listener.endpoint().unwrap();
        Raw {
            stream: Stream::connect(endpoint.address(), LONG).unwrap(),
            inbox: Inbox::new(1 << 16),
        }
    }

    /// One that was welcomed as `source`.
    fn guest(&self, source: &str) -> Raw {
        let [_, (_, token)] = self.listener.endpoint().unwrap().env();
        let mut raw = self.raw();
        raw.say(&json!({"interplay": 1, "token": token, "source": source}));
        assert!(matches!(raw.hear(), Some(FromListener::Welcome { .. })));
        raw
    }

    fn expect(&self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.told.recv_timeout(LONG).as_deref(), Ok(*line));
        }
    }
}

/// A peer that says what it likes.
struct Raw {
    stream: Stream,
    inbox: Inbox,
}

impl Raw {
    fn write(&self, bytes: &[u8]) {
        let mut written = 0;
        while written < bytes.len() {
            written += self.stream.write(&bytes[written..], Wait::Always).unwrap();
        }
    }

    fn say(&self, json: &Value) {
        self.write(&frame(&json.to_string()));
    }

    /// The next frame of the listener; none at the end.
    fn hear(&mut self) -> Option<FromListener> {
        let deadline = Wait::Until(Instant::now() + LONG);
        loop {
            if let Some(json) = self.inbox.next().unwrap() {
                return Some(FromListener::decode(json).unwrap());
            }
            match self.stream.read(self.inbox.room(), deadline, None) {
                Ok(Read::Bytes(count)) => self.inbox.filled(count),
                Ok(Read::End) => return None,
                Err(error) if super::super::transport::is_gone(&error) => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    fn is_refused(&mut self, expected: Refused) {
        match self.hear() {
            Some(FromListener::Refused { reason, message }) => {
                assert_eq!((reason, message), (expected, expected.to_string()));
            }
            other => panic!("{other:?} instead of {expected:?}"),
        }
        assert_eq!(self.hear(), None, "closed after {expected:?}");
    }
}

fn frame(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    [&length.to_be_bytes(), json.as_bytes()].concat()
}

fn transports() -> Vec<Transport> {
    let mut transports = vec![Transport::default(), Transport::Tcp];
    transports.dedup();
    transports
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        crate::lifecycle::Stop::new().wait_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_child_posts_and_says_goodbye() {
    for transport in transports() {
        let parent = Parent::plain(transport);
        let child = parent.connect("a").unwrap();
        child.post("first", &json!({"n": 1})).unwrap();
        child.clone().post("second", &()).unwrap();
        assert_eq!(parent.listener.stats().connections, 1);
        child.close().unwrap();
        child.close().unwrap();
        assert!(matches!(child.post("x", &()), Err(child::Error::Closed)));
        parent.expect(&["a first {\"n\":1}", "a second null", "a gone: said goodbye"]);
        drop(parent.connect("a").unwrap()); // free again
        parent.expect(&["a gone: said goodbye"]);
        let report = parent.listener.shutdown(LONG).unwrap();
        assert_eq!((report.handled, report.dropped), (2, 0));
        assert_eq!(parent.listener.stats().refused, 0);
    }
}

#[test]
fn strangers_are_refused_told_why_and_counted_and_nobody_else_notices() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| {
            builder.hello_timeout(Duration::from_millis(100))
        });
        let child = parent.connect("a").unwrap();
        let [_, (_, token)] = parent.listener.endpoint().unwrap().env();
        let hello = |version: u32, token: &str, source: &str| {
            frame(&json!({"interplay": version, "token": token, "source": source}).to_string())
        };
        let long = "x".repeat(256);
        let table = [
            (hello(2, &token, "b"), Refused::Version),
            (hello(1, "", "b"), Refused::BadToken),
            (
                hello(1, &token.replace(|_| true, "0"), "b"),
                Refused::BadToken,
            ),
            (hello(1, &token[1..], "b"), Refused::BadToken),
            (hello(1, &token, ""), Refused::BadSource),
            (hello(1, &token, &long), Refused::BadSource),
            (hello(1, &token, "a"), Refused::Taken),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Refused::TooLong),
            (vec![0, 0, 0x10, 1], Refused::TooLong),
            (frame("hello"), Refused::BadFrame),
            (frame(""), Refused::BadFrame),
            (frame(r#"{"cmd":"x"}"#), Refused::BadFrame),
            (hello(1, &token, "b")[..9].to_vec(), Refused::NoHello),
            (Vec::new(), Refused::NoHello),
        ];
        let count = table.len() as u64;
        for (bytes, reason) in table {
            let mut raw = parent.raw();
            raw.write(&bytes);
            raw.is_refused(reason);
        }
        drop(parent.raw()); // it leaves without a word
        eventually("all are counted", || {
            parent.listener.stats().refused == count + 1
        });
        child.post("still", &1).unwrap();
        parent.expect(&["a still 1"]);
        let refused = parent.connect("a").unwrap_err();
        let expected = Refused::Taken;
        assert!(matches!(refused, child::Error::Refused { reason, .. } if reason == expected));
        drop(child);
        parent.expect(&["a gone: said goodbye"]);
        assert!(parent.told.is_empty());
    }
}

#[test]
fn a_child_that_breaks_the_rules_is_cut_off_after_what_it_had_said() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| builder.max_frame(2000));
        let good = frame(r#"{"cmd":"good","data":1}"#);
        for (bytes, reason) in [
            (vec![0, 0, 0x10, 0], Refused::TooLong),
            (frame("{"), Refused::BadFrame),
            (frame("[1]"), Refused::BadFrame),
            (frame(r#"{"data":1}"#), Refused::BadFrame),
            (b"text instead of frames".to_vec(), Refused::TooLong),
        ] {
            let mut raw = parent.guest("a");
            raw.write(&[good.as_slice(), &bytes].concat());
            raw.is_refused(reason);
            parent.expect(&["a good 1", &format!("a gone: refused: {reason}")]);
        }
        assert_eq!(parent.listener.stats().refused, 5);
        let raw = parent.guest("a");
        raw.write(&[good.as_slice(), &good[..9]].concat());
        drop(raw); // killed in the middle of a frame
        parent.expect(&["a good 1", "a gone: closed without a goodbye"]);
        assert_eq!(parent.listener.stats().refused, 5);
        assert_eq!(parent.listener.stats().connections, 0);
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_at_once_strangers_counted() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| {
            builder.max_connections(2).hello_timeout(LONG)
        });
        let child = parent.connect("a").unwrap();
        let silent = parent.raw();
        eventually("both are there", || {
            let hub = parent.listener.door.hub().unwrap();
            hub.present.load(Ordering::Relaxed) == 2
        });
        parent.raw().is_refused(Refused::TooMany);
        let refused = parent.connect("b").unwrap_err();
        let expected = Refused::TooMany;
        assert!(matches!(refused, child::Error::Refused { reason, .. } if reason == expected));
        drop(silent);
        eventually("there is a place again", || parent.connect("b").is_ok());
        child.post("still", &1).unwrap();
    }
}

#[test]
fn a_silent_stranger_holds_nobody_up() {
    let parent = Parent::new(Transport::default(), |builder| builder.hello_timeout(LONG));
    let silent: Vec<Raw> = (0..10).map(|_| parent.raw()).collect();
    parent.connect("a").unwrap().post("x", &1).unwrap();
    parent.expect(&["a x 1", "a gone: said goodbye"]);
    parent.listener.shutdown(LONG).unwrap();
    for mut raw in silent {
        // Those that were accepted are told.
        assert!(matches!(raw.hear(), None | Some(FromListener::Closing)));
    }
}

#[test]
fn a_stop_reads_what_was_sent_and_fails_the_next_posts() {
    for transport in transports() {
        let parent = Parent::plain(transport);
        let child = parent.connect("a").unwrap();
        child.post("wait", &0).unwrap();
        parent.expect(&["a wait 0"]);
        for n in 0..100 {
            child.post("more", &n).unwrap();
        }
        parent.listener.stopper().stop();
        let ended = loop {
            if let Err(error) = child.post("late", &()) {
                break error;
            }
        };
        assert!(matches!(ended, child::Error::Closed), "{ended}");
        assert!(matches!(
            child.try_post("later", &()),
            Err(child::Error::Closed)
        ));
        assert!(matches!(child.close(), Err(child::Error::Closed)));
        assert!(matches!(parent.listener.endpoint(), Err(Error::Stopped)));
        parent.go.send(()).unwrap();
        for n in 0..100 {
            parent.expect(&[&format!("a more {n}")]);
        }
        let rest: Vec<String> = parent.told.iter().collect();
        let (end, late) = rest.split_last().unwrap();
        assert_eq!(end, "a gone: the listener was stopped");
        assert!(late.iter().all(|line| line == "a late null"));
        parent.listener.shutdown(LONG).unwrap();
        assert_eq!(parent.listener.stats().connections, 0);
    }
}

#[test]
fn a_child_that_was_gone_before_the_stop_is_not_called_stopped() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| builder.capacity(4));
        let raw = parent.guest("a");
        let wait = frame(r#"{"cmd":"wait"}"#);
        let more = frame(r#"{"cmd":"x","data":1}"#);
        raw.write(&wait);
        parent.expect(&["a wait null"]);
        raw.write(&more.repeat(3)); // more than its share, so its reader waits
        eventually("the queue has its share", || {
            parent.listener.stats().queued == 1
        });
        drop(raw);
        parent.listener.stopper().stop();
        parent.go.send(()).unwrap();
        parent.expect(&[
            "a x 1",
            "a x 1",
            "a x 1",
            "a gone: closed without a goodbye",
        ]);
        parent.listener.shutdown(LONG).unwrap();
    }
}

#[test]
fn a_child_that_waits_for_room_learns_of_the_stop() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| {
            builder.capacity(4).drain_timeout(Duration::from_millis(50))
        });
        let child = parent.connect("a").unwrap();
        child.post("wait", &0).unwrap();
        parent.expect(&["a wait 0"]);
        let text = "x".repeat(10_000);
        let flood = crate::lifecycle::spawn("flood", {
            let child = child.clone();
            move || while child.post("x", &text).is_ok() {}
        });
        let is_full = || matches!(child.try_post("y", &()), Err(child::Error::TimedOut { .. }));
        eventually("its socket is full", is_full);
        parent.listener.stopper().stop();
        drop(flood); // joins it
        parent.go.send(()).unwrap();
        let rest: Vec<String> = parent.told.iter().collect();
        assert_eq!(rest.last().unwrap(), "a gone: the listener was stopped");
        let report = parent.listener.shutdown(LONG).unwrap();
        assert_eq!(report.handled + 1, 1 + rest.len() as u64);
    }
}

#[test]
fn a_shutdown_without_time_drops_at_once() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| builder.drain_timeout(LONG).capacity(4));
        let raw = parent.guest("a");
        raw.write(&frame(r#"{"cmd":"wait"}"#));
        parent.expect(&["a wait null"]);
        raw.write(&frame(r#"{"cmd":"x"}"#).repeat(9));
        eventually("its share is queued", || {
            parent.listener.stats().queued == 1
        });
        parent.go.send(()).unwrap();
        let report = parent.listener.shutdown(Duration::ZERO).unwrap();
        assert_eq!(report.still_running, None);
        let stats = parent.listener.stats();
        assert_eq!((stats.connections, stats.queued), (0, 0));
        assert!(stats.handled + stats.dropped <= 10);
        assert!(parent.listener.door.hub().is_none());
    }
}

#[test]
fn a_message_that_was_begun_goes_on_before_the_next() {
    for transport in transports() {
        let parent = Parent::new(transport, |builder| builder.capacity(4));
        let child = parent.connect("a").unwrap();
        child.post("wait", &0).unwrap();
        parent.expect(&["a wait 0"]);
        let long = "x".repeat(8 << 20);
        child.post("fills", &1).unwrap();
        child.post("the share", &2).unwrap();
        let begun = child.post_timeout("long", &long, Duration::from_millis(300));
        assert!(
            matches!(begun, Err(child::Error::TimedOut { begun: true })),
            "{begun:?}"
        );
        let full = child.try_post("not begun", &());
        assert!(matches!(full, Err(child::Error::TimedOut { begun: false })));
        parent.go.send(()).unwrap();
        child.post("next", &3).unwrap();
        drop(child);
        parent.expect(&["a fills 1", "a the share 2"]);
        let line = parent.told.recv_timeout(LONG).unwrap();
        assert_eq!(line.len(), "a long \"\"".len() + long.len());
        parent.expect(&["a next 3", "a gone: said goodbye"]);
    }
}

#[test]
fn what_cannot_be_sent_leaves_the_connection_as_it_was() {
    let parent = Parent::new(Transport::default(), |builder| builder.max_frame(5000));
    let child = parent.connect("a").unwrap();
    let map = std::collections::HashMap::from([((1, 2), 3)]); // keys of JSON are text
    let unfit = child.post("x", &map);
    assert!(matches!(unfit, Err(child::Error::Unserialisable { .. })));
    let length = r#"{"cmd":"x","data":""}"#.len();
    let long = child.post("x", &"y".repeat(5001 - length));
    let (length, limit) = (5001, 5000);
    match long {
        Err(child::Error::TooLong {
            length: l,
            limit: m,
        }) => {
            assert_eq!((l, m), (length, limit));
        }
        other => panic!("{other:?}"),
    }
    child.post("x", &"y".repeat(limit - 21)).unwrap();
    child.post("next", &1).unwrap();
    assert!(
        parent
            .told
            .recv_timeout(LONG)
            .unwrap()
            .starts_with("a x \"yy")
    );
    parent.expect(&["a next 1"]);
    let bad = parent.connect("").unwrap_err();
    assert!(matches!(bad, child::Error::BadSource(_)));
}

#[test]
fn nobody_is_reached_where_nobody_listens() {
    let [(_, address), (_, token)] = {
        let parent = Parent::plain(Transport::default());
        parent.listener.endpoint().unwrap().env()
    };
    for address in [
        address.as_str(),
        "tcp:127.0.0.1:1",
        "tcp:nonsense",
        "relative",
        "",
    ] {
        let error = child::Sender::connect(address, &token, "a").unwrap_err();
        assert!(
            matches!(error, child::Error::Unreachable { .. }),
            "{address}: {error}"
        );
    }
}

#[test]
fn an_endpoint_stays_the_same_and_two_listeners_have_two() {
    let parent = Parent::plain(Transport::default());
    let endpoint = parent.listener.endpoint().unwrap();
    assert_eq!(endpoint.env(), parent.listener.endpoint().unwrap().env());
    let other = Parent::plain(Transport::default());
    let [[(_, address), _], [_, (_, token)]] =
        [&parent, &other].map(|parent| parent.listener.endpoint().unwrap().env());
    assert_ne!(address, other.listener.endpoint().unwrap().address());
    let refused = child::Sender::connect(&address, &token, "a").unwrap_err();
    let expected = Refused::BadToken;
    assert!(matches!(refused, child::Error::Refused { reason, .. } if reason == expected));
    assert_eq!(token.len(), 32);
    assert!(!format!("{endpoint:?} {other:?}", other = other.listener).contains(&token));
    let child = other.connect("a").unwrap();
    assert!(!format!("{child:?}").contains(&token));
}

#[test]
fn the_handler_of_the_source_is_told_of_the_end_and_may_do_as_it_likes() {
    struct Once(Weak<Listener>, Sender<String>);

    impl Handler<Value> for Once {
        fn handle(&mut self, _: Message) -> Result<(), BoxError> {
            Ok(())
        }

        fn gone(&mut self, source: &Source, end: &End) {
            let listener = self.0.upgrade().unwrap();
            let shut = listener.shutdown(LONG);
            assert!(matches!(shut, Err(Error::FromHandler)));
            let endpoint = listener.endpoint().unwrap();
            // The source is free as soon as its end is known.
            let [(_, address), (_, token)] = endpoint.env();
            drop(child::Sender::connect(&address, &token, source.as_str()).unwrap());
            listener.unregister(source);
            self.1.send(format!("{source} {end}")).unwrap();
            panic!("as planned");
        }
    }

    let parent = Parent::plain(Transport::default());
    let Parent { listener, told, .. } = parent;
    let listener = Arc::new(listener);
    let (tell, own) = unbounded();
    let once = Once(Arc::downgrade(&listener), tell);
    listener
        .register(Source::try_from("a").unwrap(), once)
        .unwrap();
    let [(_, address), (_, token)] = listener.endpoint().unwrap().env();
    drop(child::Sender::connect(&address, &token, "a").unwrap());
    assert_eq!(own.recv_timeout(LONG).as_deref(), Ok("a said goodbye"));
    assert_eq!(
        told.recv_timeout(LONG).as_deref(),
        Ok("a gone: said goodbye")
    );
    assert_eq!(listener.stats().failed, 0, "it was no message");
}

#[cfg(unix)]
#[test]
fn a_drop_removes_the_socket_and_its_directory() {
    use std::os::unix::fs::PermissionsExt;

    for round in 0..20 {
        let parent = Parent::plain(Transport::default());
        let stopper = parent.listener.stopper();
        let address = parent.listener.endpoint().unwrap().address().to_owned();
        let path = std::path::Path::new(&address);
        let directory = path.parent().unwrap().metadata().unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, 0o700);
        let child = parent.connect("a").unwrap();
        if round % 2 == 0 {
            stopper.stop();
        }
        drop(parent);
        assert!(!path.parent().unwrap().exists());
        assert!(child.post("x", &()).is_err());
        stopper.stop();
    }
}

#[test]
fn an_endpoint_opened_during_a_stop_is_open_or_not_at_all() {
    for _ in 0..50 {
        let parent = Parent::plain(Transport::default());
        let stopper = parent.listener.stopper();
        let _stops = crate::lifecycle::spawn("stops", move || stopper.stop());
        match parent.listener.endpoint() {
            Ok(endpoint) => drop(endpoint),
            Err(error) => assert!(matches!(error, Error::Stopped)),
        }
        parent.listener.shutdown(LONG).unwrap();
        assert!(parent.listener.door.hub().is_none());
    }
}
