//! DI-engine's contract between a master and its slaves, all of it and nothing else.
//!
//! What a request and its answer look like, on both sides: routes and the
//! checks of their heads, bodies, the envelope, codes, tokens, addresses, and
//! JSON as Python speaks it. Pure: nothing here starts a thread, opens a socket
//! or looks at a clock. The master and the slave are built upon it.

pub use address::AddressError;
pub use code::{MasterCode, SlaveCode};
pub use envelope::{Refusal, Reply};

pub(crate) mod address;
pub(crate) mod body;
mod code;
pub(crate) mod envelope;
pub(crate) mod json;
pub(crate) mod ping;
pub(crate) mod route;
pub(crate) mod token;
