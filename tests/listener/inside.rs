//! Every public call from inside a handler: from a message, from the end of a child, and from the
//! handler's drop.

use interplay::listener::{End, child};

use super::*;

/// What a handler has at hand in the table below.
struct Inside {
    listener: Weak<Listener>,
    sender: Sender,
    stopper: Stopper,
    source: Source,
}

impl Inside {
    fn listener(&self) -> Arc<Listener> {
        self.listener.upgrade().unwrap()
    }
}

fn nothing(_: Message) -> Result<(), BoxError> {
    Ok(())
}

type Call = (&'static str, bool, fn(&Inside));

/// Each public call, and whether the listener goes on after it.
#[rustfmt::skip]
const CALLS: &[Call] = &[
    ("register", true, |i| i.listener().register(source("new"), nothing).unwrap()),
    ("register itself", true, |i| drop(i.listener().register(i.source.clone(), nothing))),
    ("replace", true, |i| drop(i.listener().replace(source("other"), nothing))),
    ("replace itself", true, |i| drop(i.listener().replace(i.source.clone(), nothing))),
    ("unregister", true, |i| drop(i.listener().unregister(&source("other")))),
    ("unregister itself", true, |i| drop(i.listener().unregister(&i.source))),
    ("set_default", true, |i| drop(i.listener().set_default(nothing))),
    ("clear_default", true, |i| drop(i.listener().clear_default())),
    ("handles", true, |i| drop((i.listener().sender(), i.listener().stopper()))),
    ("stats", true, |i| assert_eq!(i.listener().stats().queued, 1)),
    ("debug", true, |i| assert!(format!("{:?}", i.listener()).contains("queued"))),
    ("post", true, |i| i.sender.post(plain("own", "c")).unwrap()),
    ("try_post", true, |i| i.sender.try_post(plain("own", "c")).unwrap()),
    ("post_timeout", true, |i| i.sender.post_timeout(plain("own", "c"), Duration::MAX).unwrap()),
    ("endpoint", true, |i| drop(i.listener().endpoint().unwrap())),
    ("endpoint and a child of its own", true, |i| {
        let [(_, address), (_, token)] = i.listener().endpoint().unwrap().env();
        let inner = child::Sender::connect(&address, &token, "inner").unwrap();
        inner.post("c", &1).unwrap();
        inner.close().unwrap();
    }),
    ("shutdown", true, |i| assert!(i.listener().shutdown(LONG).is_err())),
    ("drop of a clone of the last owner", true, |i| drop(i.listener())),
    ("another listener", true, |_| {
        let other = Listener::builder().default_handler(nothing).start().unwrap();
        other.sender().post(plain("a", "c")).unwrap();
        assert_eq!(other.shutdown(LONG).unwrap().handled, 1);
    }),
    ("stop", false, |i| i.stopper.stop()),
    ("stop and endpoint", false, |i| {
        i.stopper.stop();
        assert!(matches!(i.listener().endpoint(), Err(Error::Stopped)));
    }),
    ("stop and post", false, |i| {
        i.stopper.stop();
        assert_eq!(i.sender.post(plain("own", "c")).unwrap_err().reason, Reason::Closed);
    }),
];

/// When a handler makes its call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Handling,
    Dropped,
    Gone,
}

struct Calls {
    inside: Inside,
    call: fn(&Inside),
    when: When,
    begun: crossbeam_channel::Sender<()>,
    entered: Receiver<()>,
    done: crossbeam_channel::Sender<()>,
}

impl Calls {
    fn call(&mut self) {
        self.begun.send(()).unwrap();
        self.entered.recv_timeout(LONG).unwrap();
        (self.call)(&self.inside);
        self.done.send(()).unwrap();
    }
}

impl Handler<Value> for Calls {
    fn handle(&mut self, message: Message) -> Result<(), BoxError> {
        if self.when == When::Dropped {
            // Unregistered while it runs, so it is dropped on this thread.
            let listener = self.inside.listener();
            listener.unregister(&message.source);
            listener.clear_default();
        } else if self.when == When::Handling && message.cmd == "go" {
            self.call();
        }
        Ok(())
    }

    fn gone(&mut self, source: &Source, _: &End) {
        if self.when == When::Gone && source.as_str() == "self" {
            self.call();
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if self.when == When::Dropped {
            self.call();
        }
    }
}

#[test]
fn every_call_works_from_inside_a_handler_and_from_its_drop() {
    for &(name, goes_on, call) in CALLS {
        for as_default in [false, true] {
            for when in [When::Handling, When::Dropped, When::Gone] {
                let case = format!("{name}, default {as_default}, {when:?}");
                let (send, receive) = bounded(1);
                thread("case", move || {
                    one_call(call, goes_on, as_default, when);
                    send.send(()).unwrap();
                });
                assert_eq!(receive.recv_timeout(LONG), Ok(()), "{case}");
            }
        }
    }
}

fn one_call(call: fn(&Inside), goes_on: bool, as_default: bool, when: When) {
    let listener = Arc::new(Listener::builder().capacity(1).start().unwrap());
    let (begin, begun) = bounded(1);
    let (enter, entered) = bounded(1);
    let (done, is_done) = bounded(1);
    let handler = Calls {
        inside: Inside {
            listener: Arc::downgrade(&listener),
            sender: listener.sender(),
            stopper: listener.stopper(),
            source: source("self"),
        },
        call,
        when,
        begun: begin,
        entered,
        done,
    };
    listener.register(source("other"), nothing).unwrap();
    if as_default {
        listener.set_default(handler);
    } else {
        listener.register(source("self"), handler).unwrap();
    }
    let sender = listener.sender();
    if when == When::Gone {
        let endpoint = listener.endpoint().unwrap();
        drop(raw::Invitation::new(endpoint.env()).admitted("self"));
    } else {
        sender.post(plain("self", "go")).unwrap();
    }
    begun.recv_timeout(LONG).unwrap();
    // The queue is full during the call.
    sender.post(plain("other", "queued")).unwrap();
    enter.send(()).unwrap();
    is_done.recv_timeout(LONG).unwrap();
    assert_eq!(sender.post(plain("other", "after")).is_ok(), goes_on);
    let report = listener.shutdown(LONG).unwrap();
    assert_eq!(report.still_running, None);
    assert_eq!(listener.stats().failed, 0);
    let own = u64::from(when != When::Gone);
    let all = report.handled + report.dropped;
    assert!(all > own + u64::from(goes_on), "{report:?}");
}

#[test]
fn a_handler_may_drop_the_last_owner_of_its_listener() {
    within(|| {
        let recorder = Recorder::new();
        let (tell, told) = Tell::new();
        let (send, receive) = bounded::<Listener>(1);
        let listener = Listener::builder().name("last-owner").start().unwrap();
        let mut record = recorder.handler("d");
        listener.set_default(move |message: Message| {
            let _moved_in = &tell;
            if message.cmd == "1" {
                drop(receive.recv_timeout(LONG)?);
            }
            record(message)
        });
        let sender = listener.sender();
        sender.post(plain("a", "1")).unwrap();
        sender.post(plain("a", "2")).unwrap();
        send.send(listener).unwrap();
        assert_eq!(told.recv_timeout(LONG).unwrap(), "last-owner");
        assert_eq!(recorder.rest(), ["d a 1", "d a 2"]);
        assert_eq!(
            sender.post(plain("a", "3")).unwrap_err().reason,
            Reason::Closed
        );
    });
}
