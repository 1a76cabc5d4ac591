//! The simulated sender's side of one destination: a queue, a window of frames in flight, resends.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::world::{ConnId, End, Pid, World};
use crate::completion::{FaultCause, Leg};
use crate::id::Capabilities;
use crate::member::Member;
use crate::options::Acknowledgement;
use crate::stack::Outbound;
use crate::wire::{Frame, FrameDecoder, frame};

/// Frames in flight to a member that acknowledges in order.
const WINDOW: usize = 16;
const ATTEMPTS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
const GIVE_UP: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Link {
    peer: Member,
    /// The node that listens at the peer's address, if one does.
    node: Option<usize>,
    state: State,
    queue: VecDeque<Pending>,
    in_flight: VecDeque<Pending>,
    acks: BytesMut,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { again: Duration },
    Opening { conn: ConnId, until: Duration },
    Open { conn: ConnId },
}

#[derive(Debug)]
struct Pending {
    frame: Bytes,
    wants: Acknowledgement,
    leg: Leg,
    attempts: u32,
    give_up: Duration,
    ack_until: Duration,
}

impl Link {
    pub(super) fn new(peer: Member, node: Option<usize>) -> Self {
        let state = State::Closed { again: Duration::ZERO };
        Self { peer, node, state, queue: VecDeque::new(), in_flight: VecDeque::new(), acks: BytesMut::new() }
    }

    pub(super) fn peer(&self) -> &Member {
        &self.peer
    }

    pub(super) fn has_conn(&self, conn: ConnId) -> bool {
        matches!(self.state, State::Opening { conn: own, .. } | State::Open { conn: own } if own == conn)
    }

    /// Queues one leg of a message.
    pub(super) fn push(&mut self, world: &World, msg: &Outbound, frame: &Bytes, leg: Leg) {
        self.queue.push_back(Pending {
            frame: frame.clone(),
            wants: msg.message.options().acknowledgement(),
            leg,
            attempts: 0,
            give_up: world.now + GIVE_UP,
            ack_until: Duration::MAX,
        });
    }

    /// Connects and writes as far as the window allows.
    pub(super) fn pump(&mut self, world: &mut World, local: Pid) {
        match self.state {
            State::Closed { again } if again <= world.now && !self.queue.is_empty() => match self.node {
                Some(node) => {
                    let until = world.now + CONNECT_TIMEOUT;
                    self.state = State::Opening { conn: world.connect(local, node), until };
                }
                None => self.fail_all(&FaultCause::Unreachable),
            },
            State::Open { conn } => self.write(world, conn),
            _ => {}
        }
    }

    fn write(&mut self, world: &mut World, conn: ConnId) {
        let in_order = self.peer.capabilities().contains(Capabilities::IN_ORDER_ACKS);
        let window = if in_order { WINDOW } else { 1 };
        while let Some(next) = self.queue.front() {
            let waits = next.wants != Acknowledgement::None;
            if waits && self.in_flight.len() >= window {
                break;
            }
            let Some(mut next) = self.queue.pop_front() else { break };
            world.send(conn, End::Callee, next.frame.clone());
            next.ack_until = world.now + ACK_TIMEOUT;
            if waits { self.in_flight.push_back(next) } else { next.leg.delivered() }
        }
    }

    /// The callee accepted or refused. Tells whether that is a reason to suspect it.
    pub(super) fn opened(&mut self, world: &World, accepted: bool) -> bool {
        let State::Opening { conn, .. } = self.state else { return false };
        if accepted {
            self.state = State::Open { conn };
            return false;
        }
        self.lost(world, &FaultCause::Connect(io::ErrorKind::ConnectionRefused));
        true
    }

    /// Bytes of acknowledgements came in.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.acks.extend_from_slice(bytes);
        while let Ok(Some(frame)) = FrameDecoder::new(64).next(&mut self.acks) {
            let Some(first) = self.in_flight.pop_front() else { return };
            if frame == Frame::Ack { first.leg.delivered() } else { first.leg.fail(FaultCause::Rejected) }
        }
    }

    /// The connection ended.
    pub(super) fn ended(&mut self, world: &World) {
        self.lost(world, &FaultCause::Connection(io::ErrorKind::ConnectionReset));
    }

    /// The process stops. What it has written still arrives, but nobody waits for the answer.
    pub(super) fn finish(&mut self, world: &mut World) {
        if let State::Open { conn } = self.state {
            world.close(conn, End::Caller);
            self.state = State::Closed { again: world.now };
        }
        self.close(world, &FaultCause::Stopped);
    }

    /// The member is gone: nothing more is sent.
    pub(super) fn close(&mut self, world: &mut World, cause: &FaultCause) {
        if let State::Opening { conn, .. } | State::Open { conn } = self.state {
            world.abort(conn);
        }
        self.state = State::Closed { again: world.now };
        self.fail_all(cause);
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        let state = match self.state {
            State::Closed { again } => (!self.queue.is_empty()).then_some(again),
            State::Opening { until, .. } => Some(until),
            State::Open { .. } => self.in_flight.front().map(|first| first.ack_until),
        };
        let oldest = self.in_flight.iter().chain(&self.queue).map(|pending| pending.give_up);
        oldest.chain(state).min()
    }

    /// Time has passed. Tells whether that is a reason to suspect the member.
    pub(super) fn tick(&mut self, world: &mut World) -> bool {
        let now = world.now;
        let late = match self.state {
            State::Opening { conn, until } if until <= now => Some((conn, FaultCause::Connect(io::ErrorKind::TimedOut))),
            State::Open { conn } => {
                let late = self.in_flight.front().is_some_and(|first| first.ack_until.min(first.give_up) <= now);
                late.then_some((conn, FaultCause::Timeout(ACK_TIMEOUT)))
            }
            _ => None,
        };
        let suspect = late.is_some();
        if let Some((conn, cause)) = late {
            world.abort(conn);
            self.lost(world, &cause);
        }
        let (old, young) = std::mem::take(&mut self.queue).into_iter().partition(|pending| pending.give_up <= now);
        self.queue = young;
        fail(old, &FaultCause::Timeout(GIVE_UP));
        suspect
    }

    /// What was in flight is sent again, in order and before the rest, unless it has been tried often enough. Connecting was
    /// tried for all that is queued.
    fn lost(&mut self, world: &World, cause: &FaultCause) {
        self.acks.clear();
        self.state = State::Closed { again: world.now + PAUSE };
        if matches!(cause, FaultCause::Connect(_)) {
            self.queue.iter_mut().for_each(|pending| pending.attempts += 1);
        }
        self.in_flight.iter_mut().for_each(|pending| pending.attempts += 1);
        let all = self.in_flight.drain(..).chain(self.queue.drain(..));
        let (tired, fresh): (VecDeque<_>, _) = all.partition(|pending| pending.attempts >= ATTEMPTS);
        self.queue = fresh;
        fail(tired, cause);
    }

    fn fail_all(&mut self, cause: &FaultCause) {
        fail(self.in_flight.drain(..).chain(self.queue.drain(..)), cause);
    }
}

fn fail(all: impl IntoIterator<Item = Pending>, cause: &FaultCause) {
    all.into_iter().for_each(|pending| pending.leg.fail(cause.clone()));
}

/// A message's frame, as bytes on the wire.
pub(super) fn encode(msg: &Outbound) -> Bytes {
    frame::to_bytes(&msg.message)
}
