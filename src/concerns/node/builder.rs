//! The settings of a node.

use std::fmt;
use std::path::PathBuf;

use super::{Node, start};
use crate::concerns::concern::Concern;
use crate::concerns::error::Error;
use crate::concerns::timing::Timing;

/// Sets up a [`Node`].
///
/// Every setting has a default: without any, the node has a random identity, does not listen, and knows nobody. What
/// is wrong with a setting is said by [`start`](Self::start).
#[must_use = "a builder does nothing until start"]
pub struct Builder {
    pub(super) identity: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) join: Vec<String>,
    pub(super) know: Vec<(String, String)>,
    pub(super) concerns: Vec<Box<dyn Concern>>,
    pub(super) connector: bool,
    pub(super) heart_beat: bool,
    pub(super) ask_around: bool,
    pub(super) exchange: bool,
    pub(super) timing: Timing,
    pub(super) secret: Option<Vec<u8>>,
    pub(super) store: Option<PathBuf>,
    pub(super) default_route: Option<String>,
    pub(super) name: String,
    pub(super) max_peers: usize,
    pub(super) max_strangers: usize,
    pub(super) max_links: usize,
    pub(super) max_payload: usize,
    pub(super) max_queued: usize,
    pub(super) max_queued_all: usize,
    pub(super) max_queued_bytes: usize,
    pub(super) max_held: usize,
    pub(super) max_hops: u8,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            identity: None,
            listen: None,
            advertise: None,
            join: Vec::new(),
            know: Vec::new(),
            concerns: Vec::new(),
            connector: true,
            heart_beat: true,
            ask_around: true,
            exchange: false,
            timing: Timing::default(),
            secret: None,
            store: None,
            default_route: None,
            name: "node".to_owned(),
            max_peers: 1_024,
            max_strangers: 256,
            max_links: 256,
            max_payload: 1 << 20,
            max_queued: 1_024,
            max_queued_all: 16_384,
            max_queued_bytes: 64 << 20,
            max_held: 1_024,
            max_hops: 8,
        }
    }

    /// Who the node is: text of 4 to 255 bytes, which nobody else in the network has. Default: the one in the
    /// [store](Self::store), else a random one.
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Where to wait for others, `host:port`; port 0 takes a free one. Default: nowhere, the node only connects to
    /// others.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Where others reach this node, `host:port`, if that is not where it [listens](Self::listen): behind a
    /// translation of addresses, or if it listens at all addresses of the machine. With port 0 the port is that
    /// where it listens. Default: where it listens.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Connects to whoever listens at this address, tried again until it succeeds. May be called for any number.
    pub fn join(mut self, address: impl Into<String>) -> Self {
        self.join.push(address.into());
        self
    }

    /// Knows a peer from the start; see [`Handle::know`](super::Handle::know). May be called for any number.
    pub fn know(mut self, peer: impl Into<String>, address: impl Into<String>) -> Self {
        self.know.push((peer.into(), address.into()));
        self
    }

    /// Adds a concern. They are started in their order, behind the built-in ones. May be called for any number.
    pub fn concern(mut self, concern: impl Concern + 'static) -> Self {
        self.concerns.push(Box::new(concern));
        self
    }

    /// Whether the node connects to the peers it knows (`hello`). Default: yes.
    pub fn connector(mut self, on: bool) -> Self {
        self.connector = on;
        self
    }

    /// Whether the node watches its peers (`hb`). Default: yes.
    pub fn heart_beat(mut self, on: bool) -> Self {
        self.heart_beat = on;
        self
    }

    /// Whether the node asks its neighbours for ways to peers that it has no link to, and for a second look at those
    /// that are silent (`r`). Default: yes.
    pub fn ask_around(mut self, on: bool) -> Self {
        self.ask_around = on;
        self
    }

    /// Whether the node exchanges addresses of peers with its neighbours (`peers`). Default: no.
    pub fn exchange(mut self, on: bool) -> Self {
        self.exchange = on;
        self
    }

    /// When the node asks after its peers, and when it gives them up. Default: [`Timing::lan`].
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// What both ends of a link have to know. Default: nothing.
    ///
    /// It keeps nodes out that were started with another one, or none. It is no encryption: whoever can read or change what
    /// is on the network can read and change all messages.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secret = Some(secret.as_ref().to_vec());
        self
    }

    /// The file in which peers and the identity are kept, made if it is not there. Written at most every 10 s when something has
    /// changed, and at the end; changes that others make to it are taken over. Default: none.
    pub fn store(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = Some(path.into());
        self
    }

    /// The neighbour that gets all messages no other way is known for. Default: none.
    pub fn default_route(mut self, peer: impl Into<String>) -> Self {
        self.default_route = Some(peer.into());
        self
    }

    /// What threads and log lines are called; threads by its first 8 bytes. Default: `node`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many peers are known at most. Default: 1,024.
    pub fn max_peers(mut self, peers: usize) -> Self {
        self.max_peers = peers;
        self
    }

    /// How many of them may have come by themselves. If there are more, those that were silent longest are
    /// forgotten first. Default: 256.
    pub fn max_strangers(mut self, peers: usize) -> Self {
        self.max_strangers = peers;
        self
    }

    /// How many links there are at most. Default: 256.
    pub fn max_links(mut self, links: usize) -> Self {
        self.max_links = links;
        self
    }

    /// How many bytes the payload of a message has at most, at most 64 MiB; a link on which a longer one comes is closed.
    /// Default: 1 MiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// How many messages wait for one neighbour at most. Default: 1,024.
    pub fn max_queued(mut self, messages: usize) -> Self {
        self.max_queued = messages;
        self
    }

    /// How many messages wait for all neighbours together at most. Default: 16,384.
    pub fn max_queued_all(mut self, messages: usize) -> Self {
        self.max_queued_all = messages;
        self
    }

    /// How many bytes of messages wait for all neighbours together at most, and a quarter of that for each; one
    /// message waits however long it is. Default: 64 MiB.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.max_queued_bytes = bytes;
        self
    }

    /// How many messages are held at most for peers to which no way is known yet. Default: 1,024.
    pub fn max_held(mut self, messages: usize) -> Self {
        self.max_held = messages;
        self
    }

    /// Over how many links a message of this node goes at most. Default: 8.
    pub fn max_hops(mut self, hops: u8) -> Self {
        self.max_hops = hops;
        self
    }

    /// Starts the node. When this returns, it listens and its concerns have started.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`], [`Error::Name`] and [`Error::Address`] for a setting that makes no sense;
    /// [`Error::Listen`] if the address is taken or not ours; [`Error::Store`] and [`Error::IdentityDiffers`];
    /// [`Error::CommandTaken`] and [`Error::Concern`]; [`Error::Thread`]. Nothing is left behind: concerns that had
    /// started were stopped again, in reverse.
    ///
    /// # Blocking
    ///
    /// While the host's name is looked up, the file read, and the concerns start.
    pub fn start(self) -> Result<Node, Error> {
        start::start(self)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("identity", &self.identity)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}
