//! A call that is not waited for, in each phase of its life.

use interplay::qmp::{Error, Options, Pending, Sent};
use serde_json::json;

use super::support::qmp::kind;
use super::support::{LIMIT, deadline, ms, spawn};
use super::{PATIENCE, Peer, interrupted};

/// Nothing has come yet, however it is asked for.
#[track_caller]
fn is_open(pending: &mut Pending) {
    assert!(pending.try_wait().is_none());
    assert!(pending.wait_timeout(ms(0)).is_none());
    assert!(pending.wait_timeout(ms(5)).is_none());
    assert!(pending.try_wait().is_none());
}

#[test]
fn what_is_held_or_queued_is_taken_back_and_what_is_being_written_is_not() {
    deadline(LIMIT, || {
        for held in [false, true] {
            // Behind the jam three are queued and two held; or but one is let out, and three held.
            let window = held.then_some(1);
            let options = Options::new().queue_messages(3).in_band_window(window);
            let (mut peer, client) = Peer::pair(options);
            let big = json!({"text": "x".repeat(4 << 20)});
            let mut jams = client.call("jams").args(big).start().unwrap();
            // A byte of it has come, so the writer is at it.
            assert!(
                !std::io::BufRead::fill_buf(&mut peer.read)
                    .unwrap()
                    .is_empty()
            );
            let start = || client.call("queued").start().unwrap();
            let mut queued: Vec<Pending> = (0..if held { 3 } else { 5 }).map(|_| start()).collect();
            is_open(&mut jams);
            queued.iter_mut().for_each(is_open);
            let stays = queued.remove(1);
            for queued in queued {
                assert_eq!(queued.withdraw(), Sent::No);
            }
            assert_eq!(jams.withdraw(), Sent::Maybe, "it is on its way");
            let reader = spawn("reader", move || {
                let replies = (0..2).map(|_| {
                    let (id, line) = peer.command().unwrap();
                    peer.send(&json!({"return": 5, "id": id}));
                    line.contains("jams")
                });
                let jams: Vec<bool> = replies.collect();
                (jams, peer)
            });
            assert_eq!(stays.wait().unwrap().value, 5);
            let (jams, peer) = reader.join().unwrap();
            assert_eq!(jams, [true, false]);
            let _ = client.disconnect().unwrap();
            drop(peer);
        }
    });
}

#[test]
fn what_was_sent_cannot_be_taken_back() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        let mut sent = client.call("sent").start().unwrap();
        let (id, _) = peer.command().unwrap();
        is_open(&mut sent);
        assert_eq!(sent.withdraw(), Sent::Maybe);
        let answered = client.call("answered").start().unwrap();
        let (second, _) = peer.command().unwrap();
        peer.send(&json!({"return": {}, "id": id}));
        peer.send(&json!({"return": {}, "id": second}));
        let third = client.call("third").start().unwrap();
        let (id, _) = peer.command().unwrap();
        peer.send(&json!({"return": {}, "id": id}));
        third.wait().unwrap();
        assert_eq!(answered.withdraw(), Sent::Maybe);
        let _ = client.disconnect().unwrap();
        let stats = client.stats();
        assert_eq!((stats.replies, stats.unknown_replies), (2, 1));
    });
}

#[test]
fn a_reply_is_given_once_and_asking_again_does_not_wait() {
    deadline(LIMIT, || {
        let (peer, client) = Peer::pair(Options::new());
        peer.serve(|id, _, out| super::reply(out, id, 7));
        for limit in [None, Some(PATIENCE)] {
            let start = || {
                let call = client.call("seven");
                match limit {
                    Some(limit) => call.timeout(limit),
                    None => call,
                }
                .start()
                .unwrap()
            };
            let mut first = start();
            let reply = first.wait_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!(reply.value, 7);
            let mut second = start();
            start().wait().unwrap();
            assert_eq!(
                second.try_wait().unwrap().unwrap().value,
                7,
                "it came before"
            );
            for mut taken in [first, second] {
                let again = [taken.try_wait(), taken.wait_timeout(PATIENCE)];
                for again in again {
                    assert_eq!(kind(&again.unwrap().unwrap_err()), "Taken");
                }
                assert_eq!(kind(&taken.wait().unwrap_err()), "Taken");
            }
        }
    });
}

#[test]
fn dropping_a_call_abandons_the_reply_and_not_the_command() {
    deadline(LIMIT, || {
        let (mut peer, client) = Peer::pair(Options::new());
        for _ in 0..20 {
            drop(client.call("abandoned").start().unwrap());
        }
        for _ in 0..20 {
            let (id, line) = peer.command().unwrap();
            assert!(line.contains("abandoned"));
            peer.send(&json!({"return": {}, "id": id}));
        }
        let last = client.call("last").start().unwrap();
        let (id, _) = peer.command().unwrap();
        peer.send(&json!({"return": {}, "id": id}));
        last.wait().unwrap();
        let _ = client.disconnect().unwrap();
        let stats = client.stats();
        assert_eq!((stats.replies, stats.unknown_replies), (1, 20));
    });
}

#[test]
fn the_end_tells_what_never_left_from_what_may_have_run() {
    deadline(LIMIT, || {
        for window in [None, Some(1)] {
            let options = Options::new().in_band_window(window).flush_timeout(ms(0));
            let (mut peer, client) = Peer::pair(options);
            let big = json!({"text": "x".repeat(4 << 20)});
            let jams = client.call("jams").args(big).start().unwrap();
            assert!(
                !std::io::BufRead::fill_buf(&mut peer.read)
                    .unwrap()
                    .is_empty()
            );
            let start = || client.call("behind").start().unwrap();
            let [waited, mut tried, withdrawn] = [start(), start(), start()];
            drop(peer);
            let _ = client.wait_end(PATIENCE).unwrap();
            let sent = |result| interrupted(result).0;
            assert_eq!(sent(jams.wait()), Sent::Maybe);
            assert_eq!(sent(tried.try_wait().unwrap()), Sent::No);
            assert_eq!(sent(tried.wait()), Sent::No, "and again");
            assert_eq!(sent(waited.wait()), Sent::No);
            assert_eq!(withdrawn.withdraw(), Sent::No);
            assert!(matches!(client.execute("x", ()), Err(Error::State(_))));
        }
    });
}
