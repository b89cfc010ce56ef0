//! What a concern is: a part of a node's behaviour that owns one command.

use super::context::Context;
use super::error::{BoxError, SendError};
use super::identity::Command;
use super::message::{Answer, Message, Outgoing, Sent};

/// A part of a node's behaviour. It owns one command: it makes requests of it, answers those that
/// come, and takes the replies.
///
/// All hooks run on the node's own thread, one at a time, with no lock held; they should not block,
/// for the whole node waits meanwhile. An error or a panic of a hook is logged, told as
/// [`Event::HookFailed`](super::Event::HookFailed), and survived. All hooks but
/// [`command`](Self::command) have defaults that do nothing.
///
/// After `Concern` of p2p0mq, whose `execute` is [`tick`](Self::tick) here, and `terminate`
/// [`stop`](Self::stop).
pub trait Concern: Send {
    /// The command it owns. Asked once, when the concern is added.
    fn command(&self) -> Command;

    /// What it is called in the log. Default: its command.
    fn name(&self) -> String {
        self.command().to_string()
    }

    /// The node starts, or the concern was added to a node that runs.
    ///
    /// # Errors
    ///
    /// Any: the node does not start, and the concerns that had started are stopped again; a concern
    /// that was added late is not.
    fn start(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let _ = context;
        Ok(())
    }

    /// A time that was asked for by [`Context::wake_at`] has come.
    ///
    /// # Errors
    ///
    /// Any; it is reported.
    fn tick(&mut self, context: &mut Context<'_>) -> Result<(), BoxError> {
        let _ = context;
        Ok(())
    }

    /// A request has come. `None` sends no answer; one may be sent later as a request of its own.
    ///
    /// # Errors
    ///
    /// Any; it is reported, and whoever waits for the answer is told that there will be none.
    fn request(
        &mut self,
        context: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        let _ = (context, message);
        Err("this concern answers no requests".into())
    }

    /// A reply has come, to a request that was sent by [`Context::send`] or to none.
    ///
    /// # Errors
    ///
    /// Any; it is reported.
    fn reply(&mut self, context: &mut Context<'_>, message: &Message) -> Result<(), BoxError> {
        let _ = (context, message);
        Err("this concern takes no replies".into())
    }

    /// A message of this command was written to a link. It need not arrive.
    ///
    /// # Errors
    ///
    /// Any; it is reported.
    fn sent(&mut self, context: &mut Context<'_>, sent: &Sent) -> Result<(), BoxError> {
        let _ = (context, sent);
        Ok(())
    }

    /// A message of this command could not be sent. [`Retry::Requeue`] has it tried again, every
    /// 100 ms until its lifetime is over; unless as much as may be queued is tried again already, or the node has
    /// stopped: then it is given up. Default: [`Retry::Drop`].
    fn failed(
        &mut self,
        context: &mut Context<'_>,
        message: &Outgoing,
        error: &SendError,
    ) -> Retry {
        let _ = (context, message, error);
        Retry::Drop
    }

    /// The lifetime of a message of this command ended before it could be sent. Told once.
    fn dropped(&mut self, context: &mut Context<'_>, message: &Outgoing) {
        let _ = (context, message);
    }

    /// The node stops, or the concern was taken out. What is sent now may still go. If the node stops, what became of
    /// the concern's messages is still told after this; nothing else is.
    fn stop(&mut self, context: &mut Context<'_>) {
        let _ = context;
    }
}

/// What becomes of a message that could not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// It is given up.
    #[default]
    Drop,
    /// It is tried again, behind what waits in its queue.
    Requeue,
}
