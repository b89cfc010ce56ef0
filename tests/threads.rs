//! Every thread has a name, and README lists it.
//!
//! One test, since the threads of a process are seen by all tests in it. Linux
//! tells the names, so elsewhere there is nothing to compare.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crossbeam_channel::unbounded;
use interplay::listener::{Listener, Message, child};
use serde_json::{Value, json};

use support::peer::{Act, Peer};
use support::{
    CHANNEL, LIMIT, client, deadline, eventually, master, ms, secs, slave, spawn, threads,
};

/// The first column of the table below "## Threads", with `#` for the port.
fn listed() -> BTreeSet<String> {
    let readme = include_str!("../README.md");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Threads"));
    let rows = section
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| general(row.split('`').next().unwrap()))
        .collect()
}

/// A name without its port: `m7235-http` is `m#-http`; or its number: `node-7:rd` is `node-#:rd`.
fn general(name: &str) -> String {
    if let Some(("node", rest)) = name.split_once('-')
        && let Some((number, duty)) = rest.split_once(':')
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("node-#:{duty}");
    }
    match name.split_once('-') {
        Some((side, duty))
            if side.len() > 1 && side[1..].bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!("{}#-{duty}", &side[..1])
        }
        _ => name.to_owned(),
    }
}

/// The tool of the test, tried on its own.
fn ports_are_made_general() {
    let table = [
        ("m7235-http", "m#-http"),
        ("s40001-goodbye", "s#-goodbye"),
        ("listener", "listener"),
        ("t-http", "t-http"),
        ("m7235", "m7235"),
        ("node-12:rd", "node-#:rd"),
        ("node:run", "node:run"),
    ];
    for (name, expected) in table {
        assert_eq!(general(name), expected);
    }
    assert_eq!(listed().len(), 28);
}

/// A request whose body is not coming.
fn unfinished(addr: SocketAddr, route: &str, token: &str) -> TcpStream {
    let mut stream = client::open(addr);
    let head = format!(
        "{route} HTTP/1.1\r\nHost: x\r\nChannel: {CHANNEL}\r\nToken: {token}\r\nContent-Length: 5000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// A message loop and a QMP client, each with a session.
#[cfg(unix)]
fn loops() -> impl Sized {
    use interplay::protocol::{BoxError, Cancel, Lines, Loop, Options, Protocol};
    use interplay::qmp::{self, Client};
    use std::os::unix::net::UnixStream;

    struct Quiet;
    impl Protocol for Quiet {
        type Outbound = ();
        type Inbound = Vec<u8>;
        type Decoder = Lines;

        fn decoder(&self) -> Lines {
            Lines::new()
        }

        fn encode(&self, (): &(), _: &mut Vec<u8>) -> Result<(), BoxError> {
            Ok(())
        }
    }

    let (peer, ours) = UnixStream::pair().unwrap();
    let quiet = Loop::new(Quiet, Options::new());
    quiet.connect(ours.into(), &Cancel::new()).unwrap();
    let (agent, ours) = UnixStream::pair().unwrap();
    let client = Client::new(qmp::Options::new().guest_agent());
    client.connect(ours).unwrap();
    (peer, quiet, agent, client)
}

/// Two nodes with a link, a stranger who says nothing, and somebody to connect to who does not, either.
#[cfg(unix)]
fn nodes() -> impl Sized {
    use interplay::concerns::Node;
    use std::net::TcpListener;

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::env::temp_dir().join(format!("interplay-peers-{}", std::process::id()));
    let hub = Node::builder()
        .identity("hub-1")
        .listen("127.0.0.1:0")
        .store(&file)
        .start()
        .unwrap();
    let address = hub.address().unwrap().to_owned();
    let node = Node::builder()
        .join(&address)
        .join(silent.local_addr().unwrap().to_string())
        .start()
        .unwrap();
    let stranger = TcpStream::connect(address).unwrap();
    (silent, stranger, node, hub)
}

#[test]
fn every_thread_has_a_name_that_readme_lists() {
    ports_are_made_general();
    // The test's own: that of libtest, this one under both its names, and those it makes.
    let mut own: BTreeSet<String> = threads().into_iter().collect();
    if own.is_empty() {
        return; // not on Linux
    }
    let here = std::thread::current().name().unwrap_or_default().to_owned();
    own.extend(["peer", "closing", here.get(..15).unwrap_or(&here)].map(str::to_owned));
    deadline(LIMIT, move || {
        let mut seen = BTreeSet::new();
        let mut look = || seen.extend(threads().into_iter().filter(|name| !own.contains(name)));

        let listener: Listener<Value> = Listener::builder()
            .default_handler(|_: Message| Ok(()))
            .start()
            .unwrap();
        let [(_, address), (_, token)] = listener.endpoint().unwrap().env();
        let sender = child::Sender::connect(&address, &token, "a").unwrap();
        let own_master = master().grace(ms(500)).start().unwrap();
        let (begun, has_begun) = unbounded();
        let slave = slave()
            .grace(secs(10))
            .start(move |data: Value| {
                begun.send(()).unwrap();
                Ok(data)
            })
            .unwrap();
        let worker = own_master
            .new_connection("w", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let pool = own_master.pool().start().unwrap();
        let pooled = Peer::start();
        let none: [&str; 0] = [];
        pool.add_slave("pooled", &pooled.addr().to_string(), none)
            .unwrap();
        pool.wait_for(1, LIMIT).unwrap();
        let silent = Peer::start();
        silent.always("DELETE /disconnect", Act::Silent);
        own_master
            .new_connection("silent", &silent.addr().to_string())
            .unwrap()
            .connect()
            .unwrap();
        let (ran, has_run) = unbounded();
        let task = worker
            .new_task(json!({}))
            .unwrap()
            .on_complete(move |_, _| ran.send(()).unwrap());
        task.start().unwrap().join().unwrap();
        has_begun.recv_timeout(LIMIT).unwrap();
        has_run.recv_timeout(LIMIT).unwrap();
        let bodies = [
            unfinished(
                own_master.local_addr(),
                "PUT /slave/task/complete",
                &silent.first("POST /connect").token(),
            ),
            unfinished(slave.local_addr(), "POST /connect", "x"),
        ];
        for side in ["m", "s"] {
            let addr = if side == "m" {
                own_master.local_addr()
            } else {
                slave.local_addr()
            };
            eventually(LIMIT, || {
                threads().contains(&format!("{side}{}-body", addr.port()))
            });
        }
        look();
        drop(bodies);
        #[cfg(unix)]
        let _loops = loops();
        #[cfg(unix)]
        let nodes = nodes();
        for name in listed().iter().filter(|name| name.contains(':')) {
            eventually(LIMIT, || {
                look(); // some are short-lived
                threads().iter().any(|running| general(running) == *name) // they name themselves
            });
        }
        look();
        #[cfg(unix)]
        drop(nodes);
        drop(pool);
        let goodbye = format!("m{}-goodbye", own_master.local_addr().port());
        let closing = spawn("closing", move || own_master.close());
        eventually(LIMIT, || threads().contains(&goodbye));
        look();
        let _ = closing.join().unwrap();
        slave.close().unwrap();
        look();
        drop(sender);
        drop(listener);

        let names: BTreeSet<String> = seen.iter().map(|name| general(name)).collect();
        let listed = listed();
        assert_eq!(
            names, listed,
            "left: running, right: in README; seen: {seen:?}"
        );
        assert!(seen.iter().all(|name| name.len() <= 15));
    });
}
