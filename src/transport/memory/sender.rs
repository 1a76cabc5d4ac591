//! The sending half of an endpoint.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::acks::{Acks, Who};
use super::link::Link;
use super::{Endpoint, Shared, lock};
use crate::budget::{Budget, Permit};
use crate::completion::{FaultCause, Leg};
use crate::member::Member;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::stack::{Outbound, Probe, ProbeRequest};
use crate::transport::{LinkSink, ProbeDone, Sender, SenderStats};
use crate::wire::frame;

/// What may be queued or unanswered for one destination.
const MAX_QUEUED_BYTES: usize = 64 << 20;
const MAX_QUEUED_MESSAGES: usize = 1 << 16;
/// Stands for the link of a message that waits for a connection which cannot be opened.
const NO_LINK: u64 = 0;

/// Sends to the other endpoints of a [`Network`](super::Network).
///
/// At most 64 MiB and 65 536 messages are queued or unanswered per destination, what is above fails with
/// [`FaultCause::QueueFull`]. Messages with [`SendOptions::UDP`](crate::SendOptions::UDP) travel like all others.
#[derive(Debug)]
pub struct MemorySender {
    network: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    budget: Arc<Budget>,
    running: Mutex<Option<Running>>,
    connected: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    /// Before the last stop.
    failed: AtomicU64,
}

#[derive(Debug)]
struct Running {
    acks: Arc<Acks>,
    links: HashMap<Member, Arc<Link>>,
}

impl MemorySender {
    pub(super) fn new(network: Arc<Shared>, endpoint: Arc<Endpoint>) -> Self {
        Self {
            network,
            endpoint,
            budget: Budget::new(MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES),
            running: Mutex::default(),
            connected: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn send(&self, acks: &Arc<Acks>, message: &Message, frame: &Bytes, leg: Leg) {
        let Some(permit) = self.budget.try_take(leg.member().id(), frame.len()) else {
            return acks.fail_quietly(leg, FaultCause::QueueFull);
        };
        let timeout = self.network.lock().timeout;
        let link = match self.link(leg.member()) {
            Ok(Some(link)) => link,
            Ok(None) => return acks.fail_quietly(leg, FaultCause::Stopped),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let silence = FaultCause::Connect(ErrorKind::TimedOut);
                acks.expect(NO_LINK, timeout, silence, Who::Leg(leg, permit));
                return;
            }
            Err(error) => return acks.fail(leg, FaultCause::Connect(error.kind())),
        };
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        if message.options().acknowledgement() == Acknowledgement::None {
            return match link.send(frame, 0, Some(permit)) {
                true => leg.delivered(),
                false => acks.fail(leg, FaultCause::Connection(ErrorKind::BrokenPipe)),
            };
        }
        let Some(token) = acks.expect(link.id, timeout, FaultCause::Timeout(timeout), Who::Leg(leg, permit)) else { return };
        if !link.send(frame, token, None::<Permit>) {
            acks.fail_link(link.id, &FaultCause::Connection(ErrorKind::BrokenPipe));
        }
    }

    /// The connection to this member; none when stopped.
    fn link(&self, member: &Member) -> io::Result<Option<Arc<Link>>> {
        let mut running = lock(&self.running);
        let Some(running) = running.as_mut() else { return Ok(None) };
        if let Some(link) = running.links.get(member).filter(|link| !link.is_closed()) {
            return Ok(Some(Arc::clone(link)));
        }
        let link = Link::open(&self.network, &self.endpoint, member, &running.acks)?;
        self.connected.fetch_add(1, Ordering::Relaxed);
        running.links.insert(member.clone(), Arc::clone(&link));
        Ok(Some(link))
    }
}

impl Sender for MemorySender {
    fn start(&self, sink: LinkSink) -> io::Result<()> {
        self.network.timer.start()?;
        let mut running = lock(&self.running);
        if running.is_none() {
            *running = Some(Running { acks: Acks::new(sink, &self.network), links: HashMap::new() });
        }
        Ok(())
    }

    fn transmit(&self, msg: Outbound) {
        let Some(acks) = lock(&self.running).as_ref().map(|running| Arc::clone(&running.acks)) else {
            return msg.legs.into_iter().for_each(|leg| leg.fail(FaultCause::Stopped));
        };
        let size = msg.message.body().len();
        if size > Message::MAX_BODY {
            let cause = FaultCause::TooLarge { size, limit: Message::MAX_BODY };
            return msg.legs.into_iter().for_each(|leg| acks.fail_quietly(leg, cause.clone()));
        }
        let frame = frame::to_bytes(&msg.message);
        msg.legs.into_iter().for_each(|leg| self.send(&acks, &msg.message, &frame, leg));
    }

    fn probe(&self, peer: &Member, request: ProbeRequest, done: ProbeDone) {
        let Some(acks) = lock(&self.running).as_ref().map(|running| Arc::clone(&running.acks)) else {
            return done(Probe::Unreachable);
        };
        let (network, endpoint, peer) = (Arc::clone(&self.network), Arc::clone(&self.endpoint), peer.clone());
        let done = Answerable(Some(done));
        let probe = move || done.answer(probe(&network, &endpoint, &acks, &peer, &request));
        if let Err(error) = thread::Builder::new().name("memory-probe".into()).spawn(probe) {
            // The closure is gone, and that has answered.
            log::warn!("no thread for a probe: {error}");
        }
    }

    fn disconnect(&self, peer: &Member) {
        let (acks, link) = match lock(&self.running).as_mut() {
            Some(running) => (Arc::clone(&running.acks), running.links.remove(peer)),
            None => return,
        };
        if let Some(link) = link {
            link.close();
        }
        acks.fail_member(peer, &FaultCause::Connection(ErrorKind::ConnectionAborted));
    }

    fn stop(&self, drain: Duration) {
        let Some(running) = lock(&self.running).take() else { return };
        running.acks.wait_until(drain, || running.links.values().all(|link| link.is_idle()));
        running.acks.stop();
        running.links.values().for_each(|link| link.close());
        self.failed.fetch_add(running.acks.failed(), Ordering::Relaxed);
    }

    fn stats(&self) -> SenderStats {
        let running = lock(&self.running);
        let (connections, failed) = running.as_ref().map_or((0, 0), |running| {
            let open = running.links.values().filter(|link| !link.is_closed()).count();
            (open, running.acks.failed())
        });
        SenderStats {
            connections,
            connected: self.connected.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            resent: 0,
            failed: failed + self.failed.load(Ordering::Relaxed),
            pending: self.budget.used().1,
        }
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Whoever waits for the outcome of a probe; hears that nobody was found when it is dropped without one.
struct Answerable(Option<ProbeDone>);

impl Answerable {
    fn answer(mut self, outcome: Probe) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Answerable {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Probe::Unreachable);
        }
    }
}

/// Connects anew, beside the connection that may be there, and closes again.
fn probe(network: &Arc<Shared>, endpoint: &Endpoint, acks: &Arc<Acks>, peer: &Member, request: &ProbeRequest) -> Probe {
    let link = match Link::open(network, endpoint, peer, acks) {
        Ok(link) => link,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Probe::Refused,
        Err(_) => {
            acks.wait_for_stop(request.connect_timeout);
            return Probe::Unreachable;
        }
    };
    let outcome = ask(acks, &link, request);
    link.close();
    outcome
}

fn ask(acks: &Arc<Acks>, link: &Link, request: &ProbeRequest) -> Probe {
    if request.frame.is_empty() {
        return Probe::Alive;
    }
    let (answered, answer) = mpsc::channel();
    let timeout = request.answer_timeout;
    let Some(token) = acks.expect(link.id, timeout, FaultCause::Timeout(timeout), Who::Probe(answered)) else {
        return Probe::Unreachable;
    };
    if !link.send(&request.frame, token, None) {
        return Probe::Refused;
    }
    if !request.expect_answer {
        acks.forget(token);
        return Probe::Alive;
    }
    // A time-out, the end of the link and the end of the sender all drop the other end.
    match answer.recv() {
        Ok(()) => Probe::Alive,
        Err(_) if link.is_closed() => Probe::Refused,
        Err(_) => Probe::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_gets_no_thread_finds_nobody() {
        let (outcome, done) = mpsc::channel();
        let answerable = || {
            let outcome = outcome.clone();
            Answerable(Some(Box::new(move |probe| outcome.send(probe).unwrap())))
        };
        drop(answerable());
        answerable().answer(Probe::Alive);
        drop(outcome);
        assert_eq!(done.iter().collect::<Vec<_>>(), [Probe::Unreachable, Probe::Alive], "once each");
    }
}
