//! One request as a vector gives it, byte by byte, and the answer to it.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::vector::{Expect, Request};

/// How long an answer may take: machines stall, and no vector is about a slow one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    kind: String,
    body: Vec<u8>,
}

/// Sends the request over a connection of its own.
pub(crate) fn send(host: &str, request: &Request) -> io::Result<Answer> {
    over(&TcpStream::connect(host)?, host, request)
}

/// Sends the request over this connection.
pub(crate) fn over(mut stream: &TcpStream, host: &str, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match stream.write_all(&encode(host, request)) {
        // The peer may answer before it has read a large body.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) => {}
        other => other?,
    }
    let mut reader = BufReader::new(stream);
    loop {
        let answer = read(&mut reader)?;
        if answer.status != 100 {
            return Ok(answer);
        }
    }
}

fn encode(host: &str, request: &Request) -> Vec<u8> {
    let body = request.body();
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
        request.method, request.path
    );
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let framed = |name: &String| {
        name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("transfer-encoding")
    };
    if let (Some(body), false) = (&body, request.headers.keys().any(framed)) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let latin1 = head
        .chars()
        .map(|char| u8::try_from(char).expect("a vector's head is Latin-1"));
    latin1.chain(body.unwrap_or_default()).collect()
}

fn read(reader: &mut impl BufRead) -> io::Result<Answer> {
    let nonsense =
        |line: &str| io::Error::new(ErrorKind::InvalidData, format!("the answer says {line:?}"));
    let status_line = line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut answer = Answer {
        status: status.ok_or_else(|| nonsense(&status_line))?,
        kind: String::new(),
        body: Vec::new(),
    };
    let mut length = None;
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            if line.is_empty() {
                break;
            } else {
                return Err(nonsense(&line));
            }
        };
        match name.to_ascii_lowercase().as_str() {
            "content-type" => {
                answer.kind = value
                    .trim()
                    .split(';')
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            }
            "content-length" => length = Some(value.trim().parse().map_err(|_| nonsense(&line))?),
            // Our answers are short and never chunked.
            "transfer-encoding" => return Err(nonsense(&line)),
            _ => {}
        }
    }
    match length {
        _ if answer.status == 100 => {}
        Some(length) => {
            answer.body.resize(length, 0);
            reader.read_exact(&mut answer.body)?;
        }
        None => {
            reader.read_to_end(&mut answer.body)?;
        }
    }
    Ok(answer)
}

/// A line without its end; that there is none at all is an error.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

impl Answer {
    /// Holds the answer against what was expected, without these keys of its body.
    pub(crate) fn check(&self, expect: &Expect, ignore: &[String]) -> Result<(), String> {
        if self.status != expect.status {
            return Err(format!(
                "status {}, expected {} ({})",
                self.status,
                expect.status,
                self.excerpt()
            ));
        }
        let without_ignored = |mut json: Value| {
            if let Value::Object(map) = &mut json {
                map.retain(|key, _| !ignore.contains(key));
            }
            json
        };
        let got = serde_json::from_slice(&self.body).ok().map(without_ignored);
        if got != Some(without_ignored(expect.json.clone())) {
            return Err(format!("body {}, expected {}", self.excerpt(), expect.json));
        }
        if self.kind != "application/json" {
            return Err(format!("content type {:?}", self.kind));
        }
        Ok(())
    }

    /// Whether `tiny_http` gave it by itself: to a request that came, over a connection opened before, when the server
    /// had ended already. On a slow machine that is a matter of milliseconds, and as good as a closed connection.
    pub(crate) fn is_late(&self) -> bool {
        self.status == 500 && self.body.is_empty()
    }

    pub(crate) fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(200)
            .collect()
    }
}
