//! Who is in the group: the trait of a membership, and the ones that ship with the crate.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`multicast`] | the default, and the wire of Tribes' `McastService`: heartbeats and goodbyes on a multicast group |
//! | [`static_members`] | a fixed list, kept up to date by a failure detector |
//! | [`memory`] | within a process |
//! | [`roster`] | the table of who was heard when; a state machine without I/O |

mod inbox;
pub mod memory;
pub mod multicast;
pub mod roster;
pub mod static_members;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::member::Member;
use crate::stack::{Departure, Event};

/// Finds the members of the group and pushes what it learns into a [`MemberSink`].
///
/// `announce` and `broadcast` are called while others wait to send, and `heard` while the timers do: they must not block. A push into
/// the sink may wait for the stack, so nothing that those need may be locked during it; a push from within `heard` does not wait.
pub trait Membership: Send {
    /// Starts to listen and, in [`Mode::Full`], to announce the local member. Returns when it does.
    ///
    /// # Errors
    ///
    /// When the group cannot be joined.
    fn start(&mut self, local: &Member, mode: Mode, sink: MemberSink) -> io::Result<()>;

    /// The local member has a new value: tells the group at once.
    ///
    /// # Errors
    ///
    /// When it could not be told now; the next heartbeat tells it all the same.
    fn announce(&mut self, local: &Member) -> io::Result<()>;

    /// Sends a frame to the whole group at once, without acknowledgement.
    ///
    /// # Errors
    ///
    /// When this membership cannot ([`io::ErrorKind::Unsupported`]), or the network would not take it.
    fn broadcast(&mut self, _frame: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A message came from a sender that this membership knows differently: with another id at this address, or with another payload,
    /// domain or port. For memberships that do not learn of members by themselves. Does nothing by default.
    ///
    /// The sender is not trusted: whoever can connect can claim to be any member. Called by the channel's timers' thread, a moment after
    /// the message, but not for each message: of one address only the last sender is told, every 20 ms at most. A sender is not told
    /// again before the next heartbeat if no event followed.
    fn heard(&mut self, _sender: &Member) {}

    /// Says goodbye, if it has announced the member, closes everything and joins the threads; nothing is pushed afterwards.
    fn stop(&mut self);

    /// What happened so far.
    fn stats(&self) -> MembershipStats {
        MembershipStats::default()
    }
}

/// What a membership has done since it started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MembershipStats {
    /// Members there are now, the local one not counted.
    pub members: usize,
    /// Heartbeats and goodbyes of others.
    pub heard: u64,
    /// Datagrams that were neither membership packets nor messages.
    pub malformed: u64,
    /// Newcomers refused because there were too many members.
    pub refused: u64,
    /// Packets that claimed the address or the id of another member.
    pub conflicts: u64,
    /// Failures to send, to receive or to join the group.
    pub errors: u64,
    /// Times the group was joined anew.
    pub recoveries: u64,
}

/// How a membership takes part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mode {
    /// Learns of the others and tells them of the local member.
    #[default]
    Full,
    /// Only learns of the others (Tribes: start level `MBR_RX_SEQ`).
    Observe,
}

/// Where a [`Membership`] pushes what it learns. Cheap to clone.
///
/// Events of one member must be pushed in order. The sink filters nothing: a membership pushes each change once.
#[derive(Clone)]
pub struct MemberSink(Arc<dyn MemberHandler>);

/// The owner of a membership; the channel, or a test.
pub trait MemberHandler: Send + Sync {
    /// A change of the group.
    fn event(&self, event: Event);

    /// A datagram that came over the group and is not about membership: one or more frames. Not trusted.
    fn broadcast(&self, datagram: Bytes);
}

impl MemberSink {
    /// A sink that ends in `handler`.
    #[must_use]
    pub fn new(handler: Arc<dyn MemberHandler>) -> Self {
        Self(handler)
    }

    /// A member is there that was not.
    pub fn added(&self, member: Member) {
        self.0.event(Event::Added(member));
    }

    /// A member changed its payload, domain or ports.
    pub fn updated(&self, member: Member) {
        self.0.event(Event::Updated(member));
    }

    /// A member is gone.
    pub fn removed(&self, member: Member, departure: Departure) {
        self.0.event(Event::Removed(member, departure));
    }

    pub(crate) fn event(&self, event: Event) {
        self.0.event(event);
    }

    /// A datagram of frames came over the group.
    pub fn broadcast(&self, datagram: Bytes) {
        self.0.broadcast(datagram);
    }
}

impl fmt::Debug for MemberSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemberSink")
    }
}
