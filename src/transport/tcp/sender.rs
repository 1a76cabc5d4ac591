//! [`TcpSender`]: finds the link to each destination, and gives callers their part of the work.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::config::TcpSenderConfig;
use super::conn::CALLERS_READ;
use super::link::Pending;
use super::peer::{Led, Peer};
use super::probe::Wanted;
use super::reactor::Core;
use crate::clock;
use crate::completion::{FaultCause, Leg, Sending};
use crate::member::Member;
use crate::message::Message;
use crate::stack::{Outbound, Probe, ProbeRequest, Urgency};
use crate::transport::{LinkSink, ProbeDone, Sender, SenderStats};

/// Sends over TCP: one connection per destination, one thread in all.
///
/// A caller that waits for its message writes it and reads its acknowledgement by itself; the thread `tribes-send` does that for
/// messages nobody waits for, and for a caller whose destination is slow. Messages to one destination keep their order, also when
/// the connection breaks and they are sent again; they keep their id, so that a Rust member recognises those it has seen. A slow or
/// dead destination delays no other.
///
/// A [placeholder](Member::is_placeholder) and whoever turns out to be at its address share one connection, and one order.
///
/// To each member of the view a connection is opened when it comes, and kept while it is there, used or not
/// ([`keep_connected`](TcpSenderConfig::keep_connected)): its end is what tells first that the member died.
///
/// A connection that this sender ends, because it was idle, much used or silent, is replaced only when the peer has read it to its
/// end and closed it, or has not done so within the [time-out](TcpSenderConfig::timeout): else the peer might handle messages of the
/// new one before those.
///
/// Tribes behaviour: its `PooledParallelSender` opens one connection per concurrent caller and destination, sends again without
/// keeping order, and closes healthy connections along with a faulty one.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tribes::GroupChannel;
/// use tribes::transport::tcp::{TcpSender, TcpSenderConfig};
///
/// // Gives a silent destination one second, and queues at most 16 MiB for it.
/// let config = TcpSenderConfig::default().timeout(Duration::from_secs(1)).queue(10_000, 16 << 20);
/// let builder = GroupChannel::builder().sender(TcpSender::new(config));
/// ```
pub struct TcpSender {
    config: TcpSenderConfig,
    core: OnceLock<Arc<Core>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl TcpSender {
    /// A sender with these settings. It starts with the channel.
    #[must_use]
    pub fn new(config: TcpSenderConfig) -> Self {
        Self { config, core: OnceLock::new(), thread: Mutex::new(None) }
    }

    /// What is shared with the sending thread, once started and until stopped.
    fn running(&self) -> Option<&Arc<Core>> {
        self.core.get().filter(|core| !core.stopping.load(Ordering::Acquire))
    }

    fn send(core: &Arc<Core>, message: Message, leg: Leg, since: Instant, attended: bool) {
        let (size, limit) = (message.body().len(), core.config.max_message);
        if size > limit {
            core.fail(leg, FaultCause::TooLarge { size, limit });
            return;
        }
        match link(core, leg.member()) {
            Some(peer) => peer.submit(Pending::new(message, leg, since, attended)),
            None => core.fail(leg, FaultCause::Stopped),
        }
    }
}

impl Default for TcpSender {
    fn default() -> Self {
        Self::new(TcpSenderConfig::default())
    }
}

impl Sender for TcpSender {
    /// Starts the thread. A sender starts once: after a stop, or a start that failed half way, make another.
    fn start(&self, sink: LinkSink) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let (core, reactor) = Core::new(self.config.clone(), sink)?;
        if self.core.set(core).is_err() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the sender was started before"));
        }
        *thread = Some(thread::Builder::new().name("tribes-send".to_owned()).spawn(move || reactor.run())?);
        Ok(())
    }

    fn transmit(&self, msg: Outbound) {
        let Some(core) = self.running() else {
            msg.legs.into_iter().for_each(|leg| leg.fail(FaultCause::Stopped));
            return;
        };
        let attended = msg.urgency == Urgency::Attended;
        let since = msg.since.unwrap_or_else(clock::now);
        let mut legs = msg.legs;
        let Some(last) = legs.pop() else { return };
        for leg in legs {
            Self::send(core, msg.message.clone(), leg, since, attended);
        }
        Self::send(core, msg.message, last, since, attended);
    }

    fn assist(&self, peers: &[Member], sending: &Sending) {
        let Some(core) = self.core.get() else { return };
        let (one, several);
        let links: &[Arc<Peer>] = match peers {
            // Nearly always it is one, which takes no list.
            [peer] => {
                one = known(core, peer);
                one.as_slice()
            }
            _ => {
                several = peers.iter().filter_map(|peer| known(core, peer)).collect::<Vec<_>>();
                &several
            }
        };
        links.iter().for_each(Peer::carry_on);
        if !CALLERS_READ {
            links.iter().for_each(Peer::hand_over);
            return;
        }
        while !sending.is_done() {
            let mut led = false;
            for link in links {
                match link.lead(sending) {
                    Led::Nothing | Led::Taken => {}
                    Led::Read => led = true,
                    Led::Impatient => {
                        // One that keeps us waiting must not keep the answers of others waiting with it.
                        links.iter().for_each(Peer::hand_over);
                        return;
                    }
                }
                if sending.is_done() {
                    return;
                }
            }
            if !led {
                let watch = sending.watch();
                if links.iter().all(|link| link.follow(sending, &watch)) {
                    if let Some(link) = links.first() {
                        link.in_crowd.find(|| sending.is_done_or_poked());
                    }
                    if !sending.is_done() {
                        sending.block_until_poked();
                    }
                }
            }
        }
    }

    fn probe(&self, peer: &Member, request: ProbeRequest, done: ProbeDone) {
        match self.running() {
            Some(core) => core.probe(Wanted { member: peer.clone(), request, done }),
            None => done(Probe::Unreachable),
        }
    }

    fn connect(&self, peer: &Member) {
        if let Some(core) = self.running()
            && let Some(link) = link(core, peer)
            && core.config.keep_connected
        {
            link.keep();
        }
    }

    fn disconnect(&self, peer: &Member) {
        let Some(core) = self.core.get() else { return };
        let link = core.links.write().unwrap_or_else(PoisonError::into_inner).by_member.remove(peer);
        if let Some(link) = link {
            link.close(&FaultCause::Connection(io::ErrorKind::ConnectionAborted));
        }
    }

    fn heartbeat(&self) {
        if let Some(core) = self.running() {
            core.review();
        }
    }

    fn stop(&self, drain: Duration) {
        let Some(core) = self.core.get() else { return };
        core.stop(clock::now() + drain);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A callback on the sending thread may be what drops the last handle of the channel.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                log::error!("the sending thread panicked");
            }
        }
    }

    fn stats(&self) -> SenderStats {
        let Some(core) = self.core.get() else { return SenderStats::default() };
        let mut stats = SenderStats {
            connected: core.stats.connected.get(),
            frames: core.stats.frames.get(),
            bytes: core.stats.bytes.get(),
            resent: core.stats.resent.get(),
            failed: core.stats.failed.get(),
            ..SenderStats::default()
        };
        for link in core.links.read().unwrap_or_else(PoisonError::into_inner).by_member.values() {
            let (connected, pending) = link.load();
            stats.connections += usize::from(connected);
            stats.pending += pending;
        }
        stats
    }
}

impl Drop for TcpSender {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl fmt::Debug for TcpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSender").field("config", &self.config).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn known(core: &Core, member: &Member) -> Option<Arc<Peer>> {
    core.links.read().unwrap_or_else(PoisonError::into_inner).get(member).cloned()
}

/// The link to a member, made when there is none; `None` when the sender stopped.
fn link(core: &Arc<Core>, member: &Member) -> Option<Arc<Peer>> {
    if let Some(peer) = known(core, member) {
        return Some(peer);
    }
    let mut links = core.links.write().unwrap_or_else(PoisonError::into_inner);
    if links.closed {
        return None;
    }
    if let Some(peer) = links.get(member) {
        return Some(Arc::clone(peer));
    }
    let fresh = || Arc::new(Peer::new(member.clone(), core.key(), Arc::clone(core)));
    let peer = links.take_over(member).unwrap_or_else(fresh);
    links.by_member.insert(member.clone(), Arc::clone(&peer));
    Some(peer)
}
