//! The client against scripted servers, and against ours.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use socket2::{Domain, Socket, Type};

use super::super::listener::Listener;
use super::super::raw::{self, LONG, accept, read_request, scripted};
use super::super::request::Head;
use super::super::response::{Fault, Response};
use super::super::server::{Handler, Limits, Server, Step};
use super::*;
use crate::lifecycle::{Thread, spawn};

const ONCE: Retry = Retry {
    retries: 0,
    waiting: Duration::ZERO,
    total: LONG,
};
const THRICE: Retry = Retry {
    retries: 2,
    waiting: Duration::ZERO,
    total: LONG,
};

fn client() -> Client {
    Client::new(&Settings::default())
}

fn call<'a>(url: &'a str, body: &'a [u8]) -> Call<'a> {
    Call {
        method: Method::Post,
        url,
        headers: &[("Token", "t"), ("Channel", "7")],
        body,
        limit: 1 << 20,
    }
}

fn post(client: &Client, addr: SocketAddr, retry: &Retry) -> Result<Exchange, Error> {
    let url = format!("http://{addr}/task/new");
    client.exchange(&call(&url, b"{}"), retry, &Stop::new())
}

/// What a scripted server does with a request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    AnswerAndKeep,
    Close,
    Reset,
    Garbage,
    HalfABody,
    TooMuch,
    TooMuchOfNoLength,
    Status(u16),
}

/// A server that does the acts in turn, each on the next request, and then refuses.
fn acting(acts: &'static [Act]) -> (SocketAddr, Thread) {
    scripted(move |listener| {
        let mut kept: Option<TcpStream> = None;
        for act in acts {
            let mut stream = kept.take().unwrap_or_else(|| accept(&listener));
            let (_, body) = read_request(&mut stream).unwrap();
            assert_eq!(body, "{}");
            match act {
                Act::Answer => raw::answer(&mut stream, 200, "Connection: close\r\n", "yes"),
                Act::AnswerAndKeep => {
                    raw::answer(&mut stream, 200, "", "yes");
                    kept = Some(stream);
                }
                Act::Close => {}
                Act::Reset => {
                    let reset = socket2::SockRef::from(&stream);
                    reset.set_linger(Some(Duration::ZERO)).unwrap();
                }
                Act::Garbage => raw::write(&mut stream, "SSH-2.0-x\r\n\r\n"),
                Act::HalfABody => {
                    raw::write(
                        &mut stream,
                        "HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhalf",
                    );
                }
                Act::TooMuch => raw::answer(&mut stream, 200, "", &"x".repeat((1 << 20) + 1)),
                Act::TooMuchOfNoLength => {
                    let body = "x".repeat((1 << 20) + 1);
                    raw::write(&mut stream, &format!("HTTP/1.1 200 X\r\n\r\n{body}"));
                }
                Act::Status(status) => raw::answer(&mut stream, *status, "", "<html>"),
            }
        }
    })
}

#[test]
fn every_method_carries_its_body_and_our_headers() {
    for method in [Method::Get, Method::Post, Method::Put, Method::Delete] {
        let (addr, _server) = scripted(|listener| {
            let mut stream = accept(&listener);
            let (head, body) = read_request(&mut stream).unwrap();
            raw::answer(&mut stream, 403, "", &format!("{head}|{body}"));
        });
        let url = format!("http://{addr}/a/path");
        let mut call = call(&url, b"{\"data\": {}}");
        call.method = method.clone();
        let answer = client().exchange(&call, &ONCE, &Stop::new()).unwrap();
        assert_eq!(answer.status, 403, "a status is no error");
        assert!(!answer.repeated);
        let seen = String::from_utf8(answer.body).unwrap().to_lowercase();
        let method = method.as_str().to_lowercase();
        let start = format!("{method} /a/path http/1.1\r\n");
        assert!(seen.starts_with(&start), "{seen}");
        assert!(seen.ends_with("\r\n\r\n|{\"data\": {}}"), "{seen}");
        for line in [
            &format!("host: {addr}"),
            "content-type: application/json",
            "content-length: 12",
            "token: t",
            "channel: 7",
            &format!("user-agent: {USER_AGENT}"),
        ] {
            let line = format!("\r\n{line}\r\n");
            assert!(seen.contains(&line), "{line:?} is not in {seen}");
        }
        assert!(!seen.contains("transfer-encoding"), "{seen}");
    }
}

#[test]
fn what_happens_decides_how_often_a_request_is_sent() {
    // the acts, the retries; the answer's status and whether it was repeated, or the error
    type Case = (&'static [Act], u32, Result<(u16, bool), &'static str>);
    let cases: &[Case] = &[
        (&[Act::Answer], 2, Ok((200, false))),
        (&[Act::Status(302)], 2, Ok((302, false))),
        (&[Act::Status(404)], 2, Ok((404, false))),
        (&[Act::Status(502)], 2, Ok((502, false))),
        (&[Act::Close, Act::Answer], 2, Ok((200, true))),
        (&[Act::Reset, Act::Answer], 2, Ok((200, true))),
        (&[Act::HalfABody, Act::Answer], 2, Ok((200, true))),
        (&[Act::Close, Act::Reset, Act::Answer], 2, Ok((200, true))),
        (&[Act::Close, Act::Close, Act::Close], 2, Err("Broken")),
        (&[Act::Close], 0, Err("Broken")),
        (&[Act::Garbage], 2, Err("Unintelligible")),
        (&[Act::TooMuch], 2, Err("Unintelligible")),
        (&[Act::TooMuchOfNoLength], 2, Err("Unintelligible")),
        // Refused from then on; that an attempt may have arrived is not forgotten.
        (&[Act::Close], 1, Err("Broken")),
        (&[], 2, Err("Unreachable")),
    ];
    for (acts, retries, expected) in cases {
        let (addr, server) = acting(acts);
        let retry = Retry {
            retries: *retries,
            // Time for the scripted server to go.
            waiting: Duration::from_millis(20),
            total: LONG,
        };
        if acts.is_empty() {
            drop(server);
        }
        match (post(&client(), addr, &retry), expected) {
            (Ok(answer), Ok((status, repeated))) => {
                assert!(
                    [&b"yes"[..], b"<html>"].contains(&&answer.body[..]),
                    "{acts:?}"
                );
                assert_eq!(
                    (answer.status, answer.repeated),
                    (*status, *repeated),
                    "{acts:?}"
                );
            }
            (Err(error), Err(name)) => {
                assert!(
                    format!("{error:?}").starts_with(name),
                    "{acts:?}: {error:?}"
                );
                assert_eq!(error.may_have_arrived(), *name != "Unreachable", "{acts:?}");
            }
            (outcome, _) => panic!("{acts:?}: {outcome:?}"),
        }
    }
}

#[test]
fn a_stale_connection_is_replaced_without_a_pause() {
    let (addr, _server) = acting(&[Act::AnswerAndKeep, Act::Close, Act::Answer]);
    let client = client();
    let retry = Retry {
        retries: 1,
        waiting: LONG,
        total: 2 * LONG,
    };
    assert!(!post(&client, addr, &retry).unwrap().repeated);
    let begun = Instant::now();
    assert!(post(&client, addr, &retry).unwrap().repeated);
    assert!(begun.elapsed() < LONG);
}

#[test]
fn no_attempt_but_the_first_uses_a_connection_from_before() {
    let (addr, _server) = scripted(|listener| {
        // Two at a time, so that two connections are kept.
        let mut streams = [accept(&listener), accept(&listener)];
        for stream in &mut streams {
            read_request(stream).unwrap();
        }
        for stream in &mut streams {
            raw::answer(stream, 200, "", "kept");
        }
        let closing = streams.map(|mut stream| {
            spawn("closing", move || {
                let _ = read_request(&mut stream);
            })
        });
        let mut stream = accept(&listener);
        read_request(&mut stream).unwrap();
        raw::answer(&mut stream, 200, "", "fresh");
        drop(closing);
    });
    let client = client();
    let first = [(), ()].map(|()| {
        let client = client.clone();
        spawn("first", move || drop(post(&client, addr, &ONCE).unwrap())).unwrap()
    });
    drop(first);
    let retry = Retry {
        retries: 1,
        ..THRICE
    };
    let answer = post(&client, addr, &retry).unwrap();
    assert_eq!((&answer.body[..], answer.repeated), (&b"fresh"[..], true));
}

#[test]
fn pauses_are_made_between_attempts() {
    let (addr, _bound) = refusing();
    let retry = Retry {
        retries: 2,
        waiting: Duration::from_millis(30),
        total: LONG,
    };
    let begun = Instant::now();
    let error = post(&client(), addr, &retry).unwrap_err();
    assert!(begun.elapsed() >= 2 * retry.waiting);
    assert_eq!(error.to_string(), format!("{addr} cannot be reached"));
    assert!(std::error::Error::source(&error).is_some());
}

/// A port that refuses: bound, so that it stays so, but not listened to.
fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (addr, socket)
}

/// A server that takes the request and sends parts of an answer, then nothing.
fn silent(parts: &'static [&'static str]) -> (SocketAddr, Stop, Thread) {
    let stop = Stop::new();
    let ended = stop.clone();
    let (addr, thread) = scripted(move |listener| {
        let mut stream = accept(&listener);
        read_request(&mut stream).unwrap();
        for part in parts {
            raw::write(&mut stream, part);
        }
        ended.wait();
    });
    (addr, stop, thread)
}

#[test]
fn a_silent_peer_uses_up_the_total_and_no_more() {
    const HEAD: &str = "HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n";
    for (parts, expected) in [
        (&[][..], Phase::Answer),
        (&["HTTP/1.1 200 X\r\n"], Phase::Answer),
        (&[HEAD], Phase::AnswerBody),
        (&[HEAD, "half"], Phase::AnswerBody),
    ] {
        let (addr, end, _server) = silent(parts);
        let retry = Retry {
            retries: 5,
            waiting: Duration::from_millis(1),
            total: Duration::from_millis(200),
        };
        let begun = Instant::now();
        let error = post(&client(), addr, &retry).unwrap_err();
        let took = begun.elapsed();
        assert!(
            matches!(&error, Error::TimedOut { phase, .. } if *phase == expected),
            "{error:?}"
        );
        assert!(took >= retry.total && took < LONG, "{took:?}");
        end.stop();
    }
}

#[test]
fn a_peer_that_drips_uses_up_the_total_and_no_more() {
    let (addr, _server) = scripted(|listener| {
        let mut stream = accept(&listener);
        read_request(&mut stream).unwrap();
        let pace = Stop::new();
        raw::write(
            &mut stream,
            "HTTP/1.1 200 X\r\nContent-Length: 99999\r\n\r\n",
        );
        while io::Write::write_all(&mut stream, b"x").is_ok() {
            pace.wait_timeout(Duration::from_millis(10));
        }
    });
    let retry = Retry {
        total: Duration::from_millis(200),
        ..ONCE
    };
    let error = post(&client(), addr, &retry).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

#[test]
fn a_phase_ends_before_the_total_if_it_is_to() {
    let (addr, end, _server) = silent(&[]);
    let client = Client::new(&Settings {
        phase: Duration::from_millis(50),
        ..Settings::default()
    });
    let Error::TimedOut { phase, after } = post(&client, addr, &ONCE).unwrap_err() else {
        panic!("it timed out");
    };
    assert_eq!((phase, after), (Phase::Answer, Duration::from_millis(50)));
    end.stop();
}

#[test]
fn a_stop_ends_a_pause_and_a_shutdown_an_attempt() {
    let (stop, client) = (Stop::new(), client());
    let retry = Retry {
        retries: 1,
        waiting: LONG,
        total: 2 * LONG,
    };
    let (sent, received) = crossbeam_channel::unbounded();
    let exchange = |url: String| {
        let (client, stop, sent) = (client.clone(), stop.clone(), sent.clone());
        spawn("exchange", move || {
            let _ = sent.send(client.exchange(&call(&url, b"{}"), &retry, &stop));
        })
        .unwrap()
    };
    let (addr, _bound) = refusing();
    let pausing = exchange(format!("http://{addr}/"));
    stop.stop();
    let outcome = received.recv_timeout(LONG / 2).unwrap();
    assert!(matches!(outcome, Err(Error::Stopped)), "{outcome:?}");

    let (asked, waits) = crossbeam_channel::bounded(1);
    let (addr, _server) = scripted(move |listener| {
        let mut stream = accept(&listener);
        read_request(&mut stream).unwrap();
        asked.send(()).unwrap();
        raw::is_closed(&mut stream);
    });
    let unstopped = client.clone();
    let url = format!("http://{addr}/");
    let in_flight = spawn("exchange", move || {
        let _ = sent.send(unstopped.exchange(&call(&url, b"{}"), &retry, &Stop::new()));
    })
    .unwrap();
    waits.recv_timeout(LONG).unwrap();
    client.shutdown();
    let outcome = received.recv_timeout(LONG / 2).unwrap();
    assert!(matches!(outcome, Err(Error::Stopped)), "{outcome:?}");
    let outcome = post(&client, addr, &ONCE);
    assert!(matches!(outcome, Err(Error::Stopped)), "{outcome:?}");
    drop((pausing, in_flight));
}

#[test]
fn addresses_and_headers_that_cannot_be_used_are_refused_unsent() {
    for url in [
        "",
        "/ping",
        "10.0.0.3:7236",
        "ftp://host/ping",
        "http://",
        "http:///ping",
        "http://host:99999/ping",
        "http://host:x/ping",
        "http://ho st/ping",
    ] {
        let outcome = client().exchange(&call(url, b"{}"), &THRICE, &Stop::new());
        let Err(Error::BadAddress { given, .. }) = outcome else {
            panic!("{url}: {outcome:?}");
        };
        assert_eq!(given, url);
    }
    let mut call = call("http://127.0.0.1:9/ping", b"{}");
    call.headers = &[("Token", "secret\n")];
    let error = client().exchange(&call, &THRICE, &Stop::new()).unwrap_err();
    assert!(matches!(&error, Error::BadHeader { name } if name == "Token"));
    assert!(!format!("{error:?} {error} {call:?}").contains("secret"));
}

#[cfg(not(feature = "https"))]
#[test]
fn https_is_refused_with_the_name_of_the_feature() {
    let call = call("https://127.0.0.1:9/ping", b"{}");
    let error = client().exchange(&call, &THRICE, &Stop::new()).unwrap_err();
    let expected = "bad address \"https://127.0.0.1:9/ping\": \
                    https needs the feature \"https\" of interplay";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn names_that_do_not_resolve_are_unreachable() {
    let call = call("http://no-such-host.invalid/ping", b"{}");
    let error = client().exchange(&call, &ONCE, &Stop::new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

struct Echo;

impl Handler for Echo {
    fn head(&self, _: &Head) -> Step {
        Step::Read(Box::new(|body| Response::new(200, body.unwrap())))
    }

    fn fault(&self, _: Fault) -> Response {
        Response::new(401, "{}")
    }
}

fn echo(name: &str, port: u16, keep: bool) -> Server {
    let listener = Listener::bind("127.0.0.1", port).unwrap();
    let limits = Limits::default();
    listener.serve(name, limits, keep, Arc::new(Echo)).unwrap()
}

#[test]
fn a_kept_connection_survives_neither_its_server_nor_costs_an_attempt() {
    let client = client();
    let mut port = 0;
    for body in [&b"{}"[..], &[b'x'; 3000]] {
        for _ in 0..3 {
            let server = echo("t-client", port, true);
            port = server.local_addr().port();
            let url = format!("http://127.0.0.1:{port}/");
            for _ in 0..5 {
                let answer = client.exchange(&call(&url, body), &ONCE, &Stop::new());
                assert_eq!(answer.unwrap().body, body);
            }
            server.stop();
            assert_eq!(server.join_until(Instant::now() + LONG), Ok(()));
            let error = client.exchange(&call(&url, body), &ONCE, &Stop::new());
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        }
    }
}

/// Runs a test of this file again in a process of its own; true in that process.
fn alone(name: &str, variables: &[(&str, &str)]) -> bool {
    const CHILD: &str = "INTERPLAY_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("http::client::tests::{name}"),
            "--nocapture",
        ])
        .envs(variables.iter().copied())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{output:?}"
    );
    false
}

#[test]
fn the_environment_has_no_say_in_where_requests_go() {
    let proxy = "http://127.0.0.1:1";
    let variables = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|n| (n, proxy));
    if alone(
        "the_environment_has_no_say_in_where_requests_go",
        &variables,
    ) {
        let server = echo("t-proxy", 0, false);
        let answer = post(&client(), server.local_addr(), &ONCE).unwrap();
        assert_eq!(answer.body, b"{}");
    }
}

/// Thread numbers are given out in turn, so that those of two threads tell how many began between.
#[cfg(target_os = "linux")]
#[test]
fn requests_start_no_threads() {
    if !alone("requests_start_no_threads", &[]) {
        return;
    }
    const REQUESTS: u64 = 50;
    let server = echo("t-threads", 0, true);
    let client = client();
    let number = || {
        let (sent, received) = crossbeam_channel::bounded(1);
        let marker = spawn("marker", move || {
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            let number = link.file_name().unwrap().to_str().unwrap().parse::<u64>();
            sent.send(number.unwrap()).unwrap();
        });
        drop(marker.unwrap());
        received.recv().unwrap()
    };
    // Other processes start threads too, but not in every one of the rounds.
    let quiet = (0..20).any(|_| {
        let before = number();
        for _ in 0..REQUESTS {
            post(&client, server.local_addr(), &ONCE).unwrap();
        }
        number().saturating_sub(before) < REQUESTS
    });
    assert!(quiet, "each request starts a thread");
}

#[test]
fn clients_are_shared_by_threads() {
    fn is_send_sync<T: Send + Sync + Clone>() {}
    is_send_sync::<Client>();
}
