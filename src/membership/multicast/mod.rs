//! Members that find each other by heartbeats on a multicast group: the wire of Tribes' `McastService`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod.rs` | [`Multicast`], the membership |
//! | `config.rs` | [`MulticastConfig`] |
//! | `socket.rs` | bind, join, options |
//! | `link.rs` | the socket and the local member, shared by the callers and the thread |
//! | `worker.rs` | the thread: receives, drives the [roster](super::roster), recovers |
//!
//! What is decided is decided by the [`Roster`]; here are only the socket, the clock and the thread.
//!
//! # Networks
//!
//! IPv4 over the loopback interface needs nothing but `interface(Ipv4Addr::LOCALHOST)`. IPv6 over it needs a route that Linux
//! does not make by itself: `ip -6 route add local ff00::/8 dev lo`. Elsewhere a host needs a route for multicast, and the
//! network must carry it; clouds mostly do not.
//!
//! Heartbeats are not authenticated: whoever can send to the group can add members and remove them. Keep the group on a network
//! that is trusted.

mod config;
mod link;
mod socket;
#[cfg(test)]
mod tests;
mod worker;

pub use config::{Interface, MulticastConfig};

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use self::link::Link;
use self::worker::Worker;
use super::roster::{Output, Roster};
use super::{MemberSink, Membership, MembershipStats, Mode};
use crate::clock;
use crate::member::Member;

/// The most that one datagram can carry, in bytes.
const MAX_DATAGRAM: usize = 65_507;

/// Finds the members of the group by multicast.
///
/// One heartbeat goes out at the start, two more within 100 ms, and then one every [frequency](MulticastConfig::frequency). The
/// first heartbeat of a newcomer is answered at once, so members that start together see each other within some milliseconds
/// (Tribes: after up to two periods). [`stop`](Membership::stop) says goodbye. A broken or deaf socket is replaced until it works
/// again, and the members of the roster expire meanwhile as they would.
///
/// Events are pushed from one thread, `tribes-multicast`.
///
/// ```no_run
/// use std::time::Duration;
/// use tribes::GroupChannel;
/// use tribes::membership::multicast::{Multicast, MulticastConfig};
///
/// // A group of its own, on the network of this address, that gives a silent member five seconds.
/// let config = MulticastConfig::default()
///     .group("228.0.0.5:45564".parse()?)
///     .interface(std::net::Ipv4Addr::new(10, 0, 0, 7))
///     .drop_time(Duration::from_secs(5));
/// let channel = GroupChannel::builder().membership(Multicast::new(config)).start()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Multicast {
    config: MulticastConfig,
    running: Option<Running>,
}

struct Running {
    link: Arc<Link>,
    thread: JoinHandle<()>,
}

impl Multicast {
    /// A membership on the group of `config`. Nothing is opened before it starts.
    #[must_use]
    pub fn new(config: MulticastConfig) -> Self {
        Self { config, running: None }
    }

    fn link(&self) -> io::Result<&Link> {
        self.running.as_ref().map(|running| &*running.link).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Default for Multicast {
    fn default() -> Self {
        Self::new(MulticastConfig::default())
    }
}

impl Membership for Multicast {
    fn start(&mut self, local: &Member, mode: Mode, sink: MemberSink) -> io::Result<()> {
        if self.running.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the membership has started already"));
        }
        self.config.check()?;
        let now = clock::now();
        let poll = mio::Poll::new()?;
        let link = Arc::new(Link::open(&self.config, local.clone(), mode, poll.registry())?);
        let mut roster = Roster::new(local.clone(), mode, self.config.roster(), now);
        roster.handle_timeout(now);
        while let Some(output) = roster.poll_output() {
            if output == Output::Heartbeat {
                link.heartbeat().map_err(|error| link::explain_send(&error, self.config.group))?;
            }
        }
        let worker = Worker::new(self.config.clone(), Arc::clone(&link), poll, roster, sink, now);
        let thread = thread::Builder::new().name("tribes-multicast".to_owned()).spawn(move || worker.run())?;
        self.running = Some(Running { link, thread });
        Ok(())
    }

    fn announce(&mut self, local: &Member) -> io::Result<()> {
        self.link()?.announce(local).map_err(|error| link::explain_send(&error, self.config.group))
    }

    fn broadcast(&mut self, frame: Bytes) -> io::Result<()> {
        self.link()?.broadcast(&frame)
    }

    fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.link.stop();
        // A handler may stop the membership from its own thread; that thread ends by itself.
        if running.thread.thread().id() != thread::current().id() {
            let _ = running.thread.join();
        }
    }

    fn stats(&self) -> MembershipStats {
        self.running.as_ref().map_or_else(MembershipStats::default, |running| running.link.stats())
    }
}

impl Drop for Multicast {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("link", &self.link).finish_non_exhaustive()
    }
}
