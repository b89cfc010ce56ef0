//! The request with which a side asks its own server whether it answers.

use std::net::SocketAddr;
use std::time::Duration;

use super::body;
use super::envelope::Reply;
use super::token::Token;
use crate::http::{self, Call, Client, Method, Retry};
use crate::lifecycle::Stop;

/// How much of an answer to a ping is read.
const LIMIT: usize = 64 << 10;

/// Pings the server that is bound to `bound`, with one attempt; false if it answered but refused.
pub(crate) fn ping(
    client: &Client,
    bound: SocketAddr,
    own: &Token,
    total: Duration,
    stop: &Stop,
) -> Result<bool, http::Error> {
    let url = format!("http://{}/ping", http::reachable(bound));
    let call = Call {
        method: Method::Get,
        url: &url,
        headers: &[("Token", own.as_str())],
        body: body::EMPTY,
        limit: LIMIT,
    };
    let retry = Retry {
        retries: 0,
        waiting: Duration::ZERO,
        total,
    };
    let exchange = client.exchange(&call, &retry, stop)?;
    let reply = Reply::read(exchange.status, &exchange.body)?;
    Ok(reply.status < 400)
}
