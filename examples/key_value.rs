//! A map that nodes share: one of them has it in a concern that answers `get` and `put`, the others ask.
//!
//! ```sh
//! cargo run --example key_value                                         # three nodes in this process
//! cargo run --example key_value -- serve --listen 127.0.0.1:7702        # until its input ends
//! cargo run --example key_value -- put --to 127.0.0.1:7702 colour '"blue"'
//! cargo run --example key_value -- get --to 127.0.0.1:7702 colour
//! ```

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use clap::Parser;
use interplay::concerns::{Answer, BoxError, Command, Concern, Context, Message, Node};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of the map: `{"get": "colour"}` or `{"put": ["colour", "blue"]}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Get(String),
    Put(String, Value),
}

/// The map needs no lock: one thread runs all hooks of a node.
struct Map(BTreeMap<String, Value>);

impl Concern for Map {
    fn command(&self) -> Command {
        "map".parse().expect("three letters are a command")
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let value = match message.read()? {
            Ask::Get(key) => self.0.get(&key).cloned(),
            Ask::Put(key, value) => self.0.insert(key, value),
        };
        Ok(Some(Answer::new(&json!({"value": value}))?))
    }
}

fn serve(listen: &str) -> Result<Node, BoxError> {
    let node = Node::builder().identity("store").listen(listen);
    Ok(node.concern(Map(BTreeMap::new())).start()?)
}

/// The value, or for a `put` the one that was there before.
fn ask(node: &Node, what: Ask) -> Result<Value, BoxError> {
    let reply = node.request("store", "map", &what, PATIENCE)?;
    Ok(reply.read::<Value>()?["value"].take())
}

/// A map that nodes share
#[derive(Parser)]
enum Role {
    /// Keeps the map until the input ends
    Serve {
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
        listen: String,
    },
    /// Prints the value of a key
    Get {
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        key: String,
    },
    /// Sets the value of a key, in JSON, and prints the one that was there
    Put {
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        key: String,
        #[arg(value_parser = |text: &str| serde_json::from_str::<Value>(text))]
        value: Value,
    },
}

fn main() -> Result<(), BoxError> {
    if std::env::args().len() == 1 {
        return three_nodes();
    }
    let (to, what) = match Role::parse() {
        Role::Serve { listen } => {
            let store = serve(&listen)?;
            println!("serving on {}", store.address().unwrap_or_default());
            io::copy(&mut io::stdin(), &mut io::sink())?;
            return Ok(()); // the drop says goodbye
        }
        Role::Get { to, key } => (to, Ask::Get(key)),
        Role::Put { to, key, value } => (to, Ask::Put(key, value)),
    };
    let node = Node::builder().join(to).start()?;
    println!("{}", ask(&node, what)?);
    Ok(())
}

fn three_nodes() -> Result<(), BoxError> {
    let store = serve("127.0.0.1:0")?;
    let address = store.address().unwrap_or_default();
    let left = Node::builder().join(address).start()?;
    let right = Node::builder().join(address).start()?;

    let get = || Ask::Get("colour".into());
    let put = |value: &str| Ask::Put("colour".into(), value.into());
    println!("left puts blue, there was {}", ask(&left, put("blue"))?);
    println!("right gets {}", ask(&right, get())?);
    println!("right puts red, there was {}", ask(&right, put("red"))?);
    println!("left gets {}", ask(&left, get())?);

    // What went wrong there is told here, and the store goes on.
    for (command, what) in [("map", json!({"push": 5})), ("list", json!({}))] {
        match left.request("store", command, &what, PATIENCE) {
            Err(error) => println!("left asks {command} for {what}: {error}"),
            Ok(reply) => println!("left is told {:?}", reply.payload()),
        }
    }
    Ok(())
}
