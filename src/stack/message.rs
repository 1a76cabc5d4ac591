//! What passes through the stack: messages going down, messages coming up, and events.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::completion::Leg;
use crate::member::Member;
use crate::message::Message;

/// A message on its way down, with a leg for each destination.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outbound {
    /// The message.
    pub message: Message,
    /// The destinations, each with its completion. A layer that takes a leg out must settle it.
    pub legs: Vec<Leg>,
    /// Who waits for the outcome.
    pub urgency: Urgency,
    /// When it was sent, if whoever sent it has looked: a transport need not look again.
    pub(crate) since: Option<Instant>,
}

impl Outbound {
    /// A message to these legs, with nobody waiting on this thread.
    #[must_use]
    pub fn new(message: Message, legs: Vec<Leg>) -> Self {
        Self { message, legs, urgency: Urgency::Queued, since: None }
    }

    /// The same message again, to forks of all legs: for a layer that sends one message as several.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            message: self.message.clone(),
            legs: self.legs.iter().map(Leg::fork).collect(),
            urgency: self.urgency,
            since: self.since,
        }
    }
}

/// How a transport treats a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Urgency {
    /// The calling thread blocks until the outcome is known, and may write and read for itself.
    Attended,
    /// Nobody blocks: queue the message, write it together with its neighbours.
    Queued,
}

/// A message on its way up, with what its sender is owed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inbound {
    /// The message.
    pub message: Message,
    /// The answer to the sender.
    pub reply: Reply,
}

impl Inbound {
    /// A message that came in, and the answer it is owed.
    #[must_use]
    pub fn new(message: Message, reply: Reply) -> Self {
        Self { message, reply }
    }
}

/// The answer that a sender waits for, when it asked for one. Dropping it accepts the message, as Tribes acknowledges what an
/// interceptor swallowed; dropped by a panic, it rejects it.
#[must_use = "dropping a reply accepts the message"]
pub struct Reply(Option<(Arc<dyn Answer>, u64)>);

/// Takes the answers to messages; a transport implements it once per connection.
pub trait Answer: Send + Sync {
    /// The message that got `token` is accepted (a positive acknowledgement) or rejected (a negative one). Called once for
    /// each token, on any thread; it must not block.
    fn answer(&self, token: u64, accepted: bool);
}

impl Reply {
    /// For a message whose sender asked for no answer.
    pub const fn none() -> Self {
        Self(None)
    }

    /// An answer to be given to `to`, which tells messages apart by `token`.
    pub fn new(to: Arc<dyn Answer>, token: u64) -> Self {
        Self(Some((to, token)))
    }

    /// Whether the sender waits for this answer.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    /// The message is handled: a positive acknowledgement.
    pub fn accept(self) {
        drop(self);
    }

    /// Handling the message failed: a negative acknowledgement.
    pub fn reject(mut self) {
        if let Some((to, token)) = self.0.take() {
            to.answer(token, false);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some((to, token)) = self.0.take() {
            // Dropped because a layer panicked, the message was not handled.
            to.answer(token, !std::thread::panicking());
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_awaited() { "Reply(awaited)" } else { "Reply(none)" })
    }
}

/// A change of the group, or a reason to look for one.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A member is there.
    Added(Member),
    /// A member changed its payload, domain or ports.
    Updated(Member),
    /// A member is gone.
    Removed(Member, Departure),
    /// A member may be gone: a send to it failed or a connection to it ended. Consumed by a failure detector; ignored without one.
    Suspect(Member),
}

impl Event {
    /// The member it is about.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Added(member) | Self::Updated(member) | Self::Removed(member, _) | Self::Suspect(member) => member,
        }
    }
}

/// How a member went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Departure {
    /// It said goodbye.
    Left,
    /// It was silent longer than the drop time, or a failure detector found it dead.
    Failed,
    /// It was a [placeholder](Member::is_placeholder), and whom it stood for is there by its own name.
    Identified,
}
