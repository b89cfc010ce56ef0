//! Whatever comes in is answered in the envelope or not at all, changes nothing, and no token reaches a log.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Mutex, Once};

use crossbeam_channel::unbounded;
use interplay::master::{Connection, Master};
use interplay::slave::{Slave, TaskFail};
use interplay::task::Status;
use serde_json::{Value, json};

use support::client::{self, ByHand, OK, beat, code, complete, exchange, id, request};
use support::peer::{Act, Peer, failure};
use support::{CHANNEL, LIMIT, deadline, eventually, master, ms, slave};

/// Keeps all that is logged, by whomever.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// From here on everything is logged.
fn log_all() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOG).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

fn echo(data: Value) -> Result<Value, TaskFail> {
    Ok(data)
}

/// Bodies that are no JSON object.
fn no_objects() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 13] = [
        b"",
        b"{",
        b"{]",
        b"nonsense",
        b"null",
        b"true",
        b"17",
        b"\"text\"",
        b"[]",
        b"[{\"task\": 1}]",
        b"\xef\xbb\xbf{}",
        b"{\"data\": \"\xff\"}",
        b"{} {}",
    ];
    let mut bodies: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    bodies.push("[".repeat(100_000).into_bytes());
    bodies.push(
        ["{\"data\":".repeat(2000), "1".to_owned(), "}".repeat(2000)]
            .concat()
            .into_bytes(),
    );
    bodies
}

fn headers<'a>(channel: &'a str, token: &'a str) -> [(&'a str, &'a str); 2] {
    [("Channel", channel), ("Token", token)]
}

/// Heads that are judged before the body: the headers, and what the answer is
/// for a master's request to a slave and a slave's to a master.
type Head = (Vec<(&'static str, &'static str)>, (u16, i64), (u16, i64));

fn bad_heads() -> Vec<Head> {
    let both =
        |headers: &[(&'static str, &'static str)], answer| (headers.to_vec(), answer, answer);
    let channel = |text: &'static str| vec![("Channel", text), ("Token", "t")];
    let mut heads = vec![
        both(&[("Token", "t")], (400, 201)),
        both(&[], (400, 201)),
        (vec![("Channel", "7")], (400, 301), (400, 501)),
        both(
            &[("Channel", "7"), ("Channel", "7"), ("Token", "t")],
            (400, 202),
        ),
    ];
    for text in ["", " "] {
        heads.push((channel(text), (400, 201), (400, 201)));
    }
    for text in [
        "x", "7.0", "0x7", "7,7", "7 7", "--7", "7_", "_7", "7__0", "+", "-", "VII",
    ] {
        heads.push((channel(text), (400, 202), (400, 202)));
    }
    for text in [
        "8",
        "-7",
        "+8",
        "70",
        "0",
        "99999999999999999999999999",
        "-99999999999999999999999999",
    ] {
        heads.push((channel(text), (403, 202), (403, 202)));
    }
    heads
}

#[test]
fn a_slave_answers_every_malformed_request_of_a_master_and_stays_as_it_is() {
    deadline(LIMIT, || {
        log_all();
        let (ran, runs) = unbounded();
        let slave = slave()
            .start(move |data: Value| {
                ran.send(()).unwrap();
                Ok(data)
            })
            .unwrap();
        let addr = slave.local_addr();
        let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
            code(request(addr, method, path, headers, body))
        };
        let connect = |body: &[u8]| ask("POST", "/connect", &headers("7", "t"), body);
        let invalid = |value: Value| value.to_string().into_bytes();

        let mut bodies = no_objects();
        bodies.extend(
            [
                json!({}),
                json!({"data": 1}),
                json!({"master": {"address": "http://127.0.0.1:1"}}),
                json!({"master": {}, "data": {}}),
                json!({"master": null, "data": {}}),
                json!({"master": "http://127.0.0.1:1", "data": {}}),
                json!({"master": {"address": 1}, "data": {}}),
                json!({"master": {"address": ""}, "data": {}}),
                json!({"master": {"address": "127.0.0.1:1"}, "data": {}}),
                json!({"master": {"address": "http://127.0.0.1:70000"}, "data": {}}),
            ]
            .map(invalid),
        );
        for body in bodies {
            assert_eq!(
                connect(&body),
                (400, 503),
                "{:?}",
                String::from_utf8_lossy(&body[..body.len().min(60)])
            );
            assert_eq!(slave.master(), None);
        }
        for (head, answer, _) in bad_heads() {
            assert_eq!(ask("POST", "/connect", &head, b"{}"), answer, "{head:?}");
        }
        assert_eq!(
            ask("POST", "/connect", &headers("7", ""), b"{}"),
            (400, 301),
            "an empty token is none"
        );
        assert_eq!(slave.master(), None);

        // Connected, with a channel that is written in another way.
        let master = Peer::start();
        let body = json!({"master": {"address": master.url()}, "data": {}}).to_string();
        assert_eq!(
            ask("POST", "/connect", &headers(" +0_7 ", "t"), body.as_bytes()),
            OK
        );
        let task = |body: &[u8]| ask("POST", "/task/new", &headers("7", "t"), body);
        let mut bodies = no_objects();
        bodies.extend(
            [
                json!({}),
                json!({"data": 1}),
                json!({"task": {"id": id(1)}}),
                json!({"task": {}, "data": 1}),
                json!({"task": [], "data": 1}),
                json!({"task": {"id": 1}, "data": 1}),
                json!({"task": {"id": ""}, "data": 1}),
                json!({"task": {"id": "0000"}, "data": 1}),
                json!({"task": {"id": format!("{}0", id(1))}, "data": 1}),
            ]
            .map(invalid),
        );
        for body in bodies {
            assert_eq!(
                task(&body),
                (400, 602),
                "{:?}",
                String::from_utf8_lossy(&body[..body.len().min(60)])
            );
        }
        let mut bodies = no_objects();
        bodies.push(b"{}".to_vec());
        bodies.push(br#"{"task": {}}"#.to_vec());
        for body in bodies {
            assert_eq!(
                ask("DELETE", "/disconnect", &headers("7", "t"), &body),
                (400, 504)
            );
        }
        for (head, answer, _) in bad_heads() {
            assert_eq!(ask("POST", "/task/new", &head, b"{}"), answer, "{head:?}");
            assert_eq!(
                ask("DELETE", "/disconnect", &head, b"{}"),
                answer,
                "{head:?}"
            );
        }
        for token in ["", "T", "tt", "other"] {
            assert_eq!(
                ask("POST", "/task/new", &headers("7", token), b"{}"),
                (403, 302),
                "{token:?}"
            );
            assert_eq!(
                ask("DELETE", "/disconnect", &headers("7", token), b"{}"),
                (403, 302),
                "{token:?}"
            );
        }
        let twice = [("Channel", "7"), ("Token", "t"), ("Token", "t")];
        assert_eq!(ask("POST", "/task/new", &twice, b"{}"), (403, 302));

        assert_eq!(slave.master(), Some(master.url()));
        assert!(runs.is_empty());
        let hand = ByHand::new(addr, "t");
        assert_eq!(hand.task(&id(1), &json!({"n": 1})), OK);
        assert_eq!(
            master.first("PUT /slave/task/complete").json()["result"],
            json!({"n": 1})
        );
        assert_eq!(hand.disconnect(), OK);
    });
}

/// A master with one open task at a slave that is a script.
fn with_open_task(master: &Master) -> (Peer, Connection, interplay::master::Task, String) {
    let peer = Peer::start();
    let worker = master
        .new_connection("w", &peer.addr().to_string())
        .unwrap();
    worker.connect().unwrap();
    let task = worker.new_task(json!({})).unwrap().start().unwrap();
    let token = peer.first("POST /connect").token();
    (peer, worker, task, token)
}

#[test]
fn a_master_answers_every_malformed_request_of_a_slave_and_stays_as_it_is() {
    deadline(LIMIT, || {
        log_all();
        let master = master().start().unwrap();
        let addr = master.local_addr();
        let (_peer, worker, task, token) = with_open_task(&master);
        let own = task.id().to_string();
        let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
            request(addr, method, path, headers, body)
        };
        for path in ["/slave/task/complete", "/slave/task/fail"] {
            let report = |body: &[u8]| ask("PUT", path, &headers("7", &token), body);
            for body in no_objects() {
                assert_eq!(
                    code(report(&body)),
                    (400, 601),
                    "{:?}",
                    String::from_utf8_lossy(&body[..body.len().min(60)])
                );
            }
            // What DI-engine's own slaves may do, and its master answers so: success is in the body only.
            for body in [
                json!({}),
                json!({"result": 1}),
                json!({"task": {}, "result": 1}),
            ] {
                let (status, envelope) = report(body.to_string().as_bytes());
                assert_eq!(
                    (status, &envelope["success"], &envelope["code"]),
                    (200, &json!(false), &json!(601))
                );
            }
            let bodies = [
                json!({"task": {"id": own}}),
                json!({"task": null, "result": 1}),
                json!({"task": own, "result": 1}),
                json!({"task": {"id": 1}, "result": 1}),
                json!({"task": {"id": "x"}, "result": 1}),
                json!({"task": {"id": [own]}, "result": 1}),
            ];
            for body in bodies {
                assert_eq!(
                    code(report(body.to_string().as_bytes())),
                    (400, 601),
                    "{body}"
                );
            }
            for (head, _, answer) in bad_heads() {
                assert_eq!(code(ask("PUT", path, &head, b"{}")), answer, "{head:?}");
            }
            for stranger in [
                "",
                "t",
                &token[..63],
                &format!("{token}0"),
                &token.to_uppercase(),
            ] {
                assert_eq!(
                    code(ask("PUT", path, &headers("7", stranger), b"{}")),
                    (403, 502)
                );
            }
        }
        for (head, _, answer) in bad_heads() {
            assert_eq!(
                code(ask("GET", "/slave/heartbeat", &head, b"{}")),
                answer,
                "{head:?}"
            );
        }
        assert_eq!(
            code(ask("GET", "/slave/heartbeat", &headers("7", "t"), b"")),
            (403, 502)
        );
        assert_eq!(
            code(ask(
                "GET",
                "/slave/heartbeat",
                &headers("7", &token),
                b"\xff{ any body"
            )),
            OK
        );

        assert_eq!(task.status(), Status::Started);
        assert!(worker.is_connected());
        assert_eq!(
            (master.stats().connected, master.stats().pending_tasks),
            (1, 1)
        );
        assert_eq!(complete(addr, &token, &own, &json!(1)), OK);
        assert!(task.join().is_ok());
    });
}

/// Both sides, each with a word that says whether it is as it was.
fn both() -> (Master, Slave) {
    (master().start().unwrap(), slave().start(echo).unwrap())
}

#[test]
fn unknown_paths_and_methods_get_the_envelope_too() {
    deadline(LIMIT, || {
        log_all();
        let (master, slave) = both();
        for addr in [master.local_addr(), slave.local_addr()] {
            let ask =
                |method: &str, path: &str| request(addr, method, path, &headers("7", "t"), b"{}");
            for path in [
                "/", "/ping/", "/PING", "/pin", "/ping/x", "/task", "/..", "/%2e", "/%ff", "*",
                "/\u{1}",
            ] {
                assert_eq!(code(ask("GET", path)), (404, 1), "{path:?}");
            }
            for (method, path) in [
                ("POST", "/ping"),
                ("PATCH", "/ping"),
                ("GET", "/shutdown"),
                ("ping", "/ping"),
            ] {
                assert_eq!(code(ask(method, path)), (405, 1), "{method} {path}");
            }
            assert_eq!(ask("OPTIONS", "/ping"), (200, Value::Null));
            assert_eq!(
                code(ask("GET", "/ping?a=/b")),
                (403, 402),
                "a query means nothing"
            );
            assert_eq!(code(ask("GET", "//ping")), (403, 402));
            assert_eq!(code(ask("GET", "http://somewhere/ping")), (403, 402));
        }
        let wrong_side =
            |addr, method, path| code(request(addr, method, path, &headers("7", "t"), b"{}"));
        assert_eq!(
            wrong_side(slave.local_addr(), "GET", "/slave/heartbeat"),
            (404, 1)
        );
        assert_eq!(
            wrong_side(master.local_addr(), "POST", "/connect"),
            (404, 1)
        );
        assert_eq!(wrong_side(slave.local_addr(), "GET", "/connect"), (405, 1));
        assert_eq!(
            wrong_side(master.local_addr(), "POST", "/slave/task/complete"),
            (405, 1)
        );
        // The answer to a HEAD has no body.
        let own = master.self_token();
        let head =
            format!("HEAD /ping HTTP/1.1\r\nHost: x\r\nToken: {own}\r\nConnection: close\r\n\r\n");
        let mut stream = client::open(master.local_addr());
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    });
}

/// A request with these lines in the place of its length.
fn framed(
    addr: SocketAddr,
    route: &str,
    token: &str,
    lines: &str,
    body: &str,
) -> Option<(u16, Value)> {
    let head = format!(
        "{route} HTTP/1.1\r\nHost: x\r\nChannel: {CHANNEL}\r\nToken: {token}\r\nConnection: close\r\n{lines}\r\n\r\n{body}"
    );
    exchange(addr, head.as_bytes())
}

#[test]
fn a_body_whose_length_makes_no_sense_is_refused() {
    deadline(LIMIT, || {
        log_all();
        let master = master().max_body(10_000).start().unwrap();
        let slave = slave().max_body(10_000).start(echo).unwrap();
        let (_peer, worker, task, token) = with_open_task(&master);
        let other = worker.new_task(json!({})).unwrap().start().unwrap();
        // A report that is too long gets no 4xx, which would end the task thread of a Python slave.
        let sides = [
            (
                master.local_addr(),
                "PUT /slave/task/complete",
                token.as_str(),
                (200, 601),
            ),
            (slave.local_addr(), "POST /connect", "t", (413, 503)),
        ];
        for (addr, route, token, too_long) in sides {
            let answer = |lines: &str, body: &str| {
                framed(addr, route, token, lines, body)
                    .unwrap_or_else(|| panic!("no answer: {lines}"))
            };
            for lines in [
                "Content-Length: x",
                "Content-Length: -1",
                "Content-Length: +5",
                "Content-Length: 5\r\nContent-Length: 3",
                "Content-Length: 0x5",
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "Transfer-Encoding: gzip",
            ] {
                assert_eq!(code(answer(lines, "{\"a\"}")).0, 400, "{lines}");
            }
            // Too long, or so by claim only, for which nothing is allocated.
            let number =
                |(status, envelope): (u16, Value)| (status, envelope["code"].as_i64().unwrap());
            let body = "x".repeat(20_000);
            assert_eq!(number(answer("Content-Length: 20000", &body)), too_long);
            for absurd in [
                "1000000000000",
                "9223372036854775807",
                "99999999999999999999999",
            ] {
                let claim = format!("Content-Length: {absurd}");
                assert_eq!(number(answer(&claim, "{}1")), too_long, "{absurd}");
            }
            let chunks = format!("4e20\r\n{body}\r\n0\r\n\r\n");
            assert_eq!(
                number(answer("Transfer-Encoding: chunked", &chunks)),
                too_long
            );
            let broken = "zz\r\n{}\r\n0\r\n\r\n";
            assert_eq!(answer("Transfer-Encoding: chunked", broken).0, 400);
        }
        // A body that ends before its length.
        for length in [100, 5000] {
            let report = format!(
                "PUT /slave/task/complete HTTP/1.1\r\nHost: x\r\nChannel: {CHANNEL}\r\nToken: {token}\r\nContent-Length: {length}\r\n\r\n{{"
            );
            let mut stream = client::open(master.local_addr());
            stream.write_all(report.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            if let Some(answer) = client::answer(&mut stream) {
                assert_eq!(code(answer).0, 400);
            }
        }
        assert_eq!(
            (task.status(), other.status()),
            (Status::Started, Status::Started)
        );
        assert_eq!(slave.master(), None);
        assert!(
            master.stats().requests_abandoned >= 2,
            "{:?}",
            master.stats()
        );
        master.ping().unwrap();
        slave.ping().unwrap();
        // A chunked body is as good as any.
        let body = json!({"task": {"id": task.id().to_string()}, "result": "chunked"}).to_string();
        let (first, second) = body.split_at(10);
        let chunks = format!(
            "a\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            second.len()
        );
        let route = "PUT /slave/task/complete";
        let answer = framed(
            master.local_addr(),
            route,
            &token,
            "Transfer-Encoding: chunked",
            &chunks,
        );
        assert_eq!(code(answer.unwrap()), OK);
        assert_eq!(task.join().unwrap(), &json!("chunked"));
    });
}

#[test]
fn noise_is_survived() {
    deadline(LIMIT, || {
        log_all();
        let (master, slave) = both();
        // The same noise in each run: a linear congruential generator.
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for addr in [master.local_addr(), slave.local_addr()] {
            for round in 0..60 {
                let length = next() as usize % 300;
                let mut bytes: Vec<u8> = (0..length).map(|_| (next() % 256) as u8).collect();
                match round % 4 {
                    0 => bytes
                        .splice(0..0, *b"GET /ping HTTP/1.1\r\n")
                        .for_each(drop),
                    1 => bytes
                        .splice(
                            0..0,
                            *b"POST /connect HTTP/1.1\r\nContent-Length: 50\r\n\r\n",
                        )
                        .for_each(drop),
                    2 => bytes.extend_from_slice(b"\r\n\r\n"),
                    _ => {}
                }
                let mut stream = client::open(addr);
                let _ = stream.write_all(&bytes);
                // Some leave at once, some only stop to send.
                if round % 2 == 0 {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        }
        master.ping().unwrap();
        slave.ping().unwrap();
        assert_eq!(slave.master(), None);
        assert_eq!(master.stats().connected, 0);
    });
}

#[test]
fn the_json_of_python_is_understood() {
    deadline(LIMIT, || {
        log_all();
        let master = master().start().unwrap();
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let results = [
            "NaN".to_owned(),
            "[Infinity, -Infinity, 1e400]".to_owned(),
            r#""\ud800 alone""#.to_owned(),
            "123456789012345678901234567890".to_owned(),
            r#"{"a": 1, "a": 2}"#.to_owned(),
            deep(600),
        ];
        for result in results {
            let (_peer, worker, task, token) = with_open_task(&master);
            let body = format!(
                r#"{{"task": {{"id": "{}"}}, "result": {result}}}"#,
                task.id()
            );
            let report = request(
                master.local_addr(),
                "PUT",
                "/slave/task/complete",
                &headers("7", &token),
                body.as_bytes(),
            );
            assert_eq!(code(report), OK, "{}", &result[..result.len().min(60)]);
            assert!(task.join().is_ok());
            worker.disconnect().unwrap();
        }
        // And goes through both of our sides.
        let slave = slave().start(echo).unwrap();
        let worker = master
            .new_connection("deep", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        let data: Value = json!({"inner": nested(600), "float": 0.1, "big": u64::MAX, "text": "äöü\u{0}\u{1f600}"});
        let task = worker.new_task(&data).unwrap().start().unwrap();
        assert_eq!(task.join().unwrap(), &data);
    });
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn no_token_is_ever_logged() {
    deadline(LIMIT, || {
        log_all();
        let master = master()
            .heartbeat_tolerance(ms(600))
            .request_retries(1)
            .start()
            .unwrap();
        let slave = slave().request_retries(1).start(echo).unwrap();
        let mut secrets = vec![
            master.self_token().to_owned(),
            slave.self_token().to_owned(),
        ];
        master.ping().unwrap();
        slave.ping().unwrap();

        // A connection that does well, one with all that can go wrong, and one that is lost and comes back.
        let worker = master
            .new_connection("well", &slave.local_addr().to_string())
            .unwrap();
        worker.connect().unwrap();
        worker
            .new_task(json!({"n": 1}))
            .unwrap()
            .start()
            .unwrap()
            .join()
            .unwrap();
        let peer = Peer::start();
        let bad = master
            .new_connection("bad", &peer.addr().to_string())
            .unwrap();
        peer.on("POST /connect", failure(403, 503))
            .on("POST /connect", Act::Cut);
        assert!(bad.connect().is_err());
        bad.connect().unwrap();
        let token = peer.first("POST /connect").token();
        peer.on("POST /task/new", support::peer::page(500))
            .on("POST /task/new", Act::Cut);
        assert!(bad.new_task(1).unwrap().start().is_err());
        let lost = bad.new_task(1).unwrap().start().unwrap();
        assert_eq!(complete(master.local_addr(), &token, &id(1), &json!(1)), OK);
        assert!(lost.join().is_err());
        assert_eq!(beat(master.local_addr(), &token), OK);
        assert_eq!(
            complete(
                master.local_addr(),
                &token,
                &lost.id().to_string(),
                &json!(1)
            ),
            OK
        );
        peer.first("DELETE /disconnect");
        secrets.push(token);

        // A slave whose master refuses, is away, and is lost.
        let away = Peer::start();
        let theirs = "the-token-of-another-master";
        worker.disconnect().unwrap();
        let hand = ByHand::new(slave.local_addr(), theirs);
        away.on("GET /slave/heartbeat", failure(403, 502))
            .on("PUT /slave/task/complete", Act::Cut);
        assert_eq!(hand.connect(&away.url()), OK);
        assert_eq!(hand.task(&id(2), &json!({})), OK);
        away.nth(2, "PUT /slave/task/complete");
        away.always("GET /slave/heartbeat", failure(403, 502));
        eventually(LIMIT, || slave.master().is_none());
        // Strangers.
        let guess = "a-token-that-somebody-guessed";
        for addr in [master.local_addr(), slave.local_addr()] {
            for (method, path) in [
                ("GET", "/ping"),
                ("POST", "/task/new"),
                ("GET", "/slave/heartbeat"),
                ("GET", "/x"),
            ] {
                request(addr, method, path, &headers("7", guess), b"{}");
            }
        }
        let _ = (master.close(), slave.close());
        secrets.extend([theirs.to_owned(), guess.to_owned()]);
        let log = LOG.0.lock().unwrap();
        let ours = log
            .iter()
            .filter(|line| line.contains(" interplay"))
            .count();
        assert!(ours > 10, "the log has been kept: {ours} lines of ours");
        for secret in secrets {
            let told: Vec<&String> = log.iter().filter(|line| line.contains(&secret)).collect();
            assert!(told.is_empty(), "{told:?}");
        }
    });
}
