//! What every [`Receiver`] and [`Sender`] owe the channel.
//!
//! ```
//! use tribes::testing::conformance::transport::{Profile, check};
//! use tribes::transport::memory::Network;
//!
//! let network = Network::new(1);
//! check(&Profile::stream().max_body(100_000), || {
//!     let (receiver, sender) = network.endpoint("10.0.0.1:0".parse().unwrap());
//!     (Box::new(receiver), Box::new(sender))
//! });
//! ```

mod cases;
mod node;

use std::collections::HashSet;

use crate::options::SendOptions;
use crate::transport::{Receiver, Sender};
use node::Node;

/// What an implementation promises beyond what all must.
#[derive(Clone, Debug)]
pub struct Profile {
    options: SendOptions,
    max_body: usize,
    /// Whether a body above the limit is refused.
    bounded: bool,
    /// Keeps the order of what one sender sends, and loses nothing.
    stream: bool,
    skipped: HashSet<&'static str>,
}

impl Profile {
    /// A transport over connections: it keeps order, loses nothing while the connection lives, can be probed, and notices ends.
    #[must_use]
    pub fn stream() -> Self {
        Self { options: SendOptions::NONE, max_body: 16 << 20, bounded: false, stream: true, skipped: HashSet::new() }
    }

    /// A transport of datagrams: only what is acknowledged is known to arrive, and nothing is known of connections. Messages carry
    /// [`SendOptions::UDP`], members a UDP port, and bodies fit into one datagram.
    #[must_use]
    pub fn datagram() -> Self {
        Self { options: SendOptions::UDP, max_body: 65_372, bounded: true, stream: false, skipped: HashSet::new() }
    }

    /// The largest body that the suite sends, in bytes; 16 MiB unless set.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Leaves a case out, by its name, for an implementation that documents why.
    #[must_use]
    pub fn without(mut self, case: &'static str) -> Self {
        self.skipped.insert(case);
        self
    }
}

/// Makes a receiver and a sender of one member. It must listen at an address of its own each time.
pub type Make<'a> = &'a dyn Fn() -> (Box<dyn Receiver>, Box<dyn Sender>);

/// One promise.
type Case = fn(&Suite<'_>);

/// A case's name, whether it makes sense for connections only, and the case.
const CASES: &[(&str, bool, Case)] = &[
    ("a message arrives as it was sent", false, cases::arrives_as_sent),
    ("what asks for receipt is answered before it is handled", false, cases::receipt_before_handling),
    ("what asks for handling is answered when it is handled", false, cases::answered_when_handled),
    ("a rejected message fails as rejected, and is not sent again", false, cases::rejection),
    ("one sender's messages arrive once, in order", true, cases::order),
    ("bodies of all sizes arrive whole", false, cases::sizes),
    ("a body above the limit is refused", false, cases::too_large),
    ("a dead destination fails alone among three", false, cases::dead_among_three),
    ("a destination that does not answer delays no other", false, cases::slow_among_three),
    ("a probe tells the living from the dead", true, cases::probes),
    ("a probe may ask for an answer", true, cases::probe_with_answer),
    ("threads that send at once lose nothing and keep their order", false, cases::many_threads),
    ("a disconnect settles what is under way", false, cases::disconnect),
    ("a stopped sender has delivered what there was time for", false, cases::stop_drains),
    ("a stopped sender has settled everything, and takes nothing more", false, cases::stop_settles),
    ("a stopped receiver pushes nothing", false, cases::stopped_receiver),
    ("the end of a connection is told at both ends", true, cases::ends_are_told),
    ("a sender that lost a peer reaches its successor", true, cases::successor),
];

/// Runs every case against pairs that `make` makes, first between members of this crate, then with ids as Tribes' nodes have them.
///
/// Prints each case's name before it runs.
///
/// # Panics
///
/// When a promise is broken.
pub fn check(profile: &Profile, make: impl Fn() -> (Box<dyn Receiver>, Box<dyn Sender>)) {
    for skipped in &profile.skipped {
        assert!(CASES.iter().any(|(name, ..)| name == skipped), "there is no case {skipped:?} to leave out");
    }
    for plain in [false, true] {
        let suite = Suite { profile, make: &make, plain };
        for (name, streams_only, case) in CASES {
            if profile.skipped.contains(name) || (*streams_only && !profile.stream) {
                continue;
            }
            println!("{name}{}", if plain { ", between ids of Tribes" } else { "" });
            case(&suite);
        }
    }
}

/// What a case gets.
struct Suite<'a> {
    profile: &'a Profile,
    make: Make<'a>,
    /// Members have ids as Tribes makes them, and so no capabilities.
    plain: bool,
}

impl Suite<'_> {
    fn node(&self) -> Node {
        Node::start((self.make)(), self.profile.options, self.plain)
    }

    fn nodes<const N: usize>(&self) -> [Node; N] {
        std::array::from_fn(|_| self.node())
    }
}
