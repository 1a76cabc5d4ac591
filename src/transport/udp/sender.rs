//! Sending datagrams, and waiting for their acknowledgements.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket2::{Domain, Socket, Type};

use super::{MAX_DATAGRAM, UdpConfig, lock};
use crate::budget::{Budget, Permit};
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::member::Member;
use crate::options::Acknowledgement;
use crate::stack::Outbound;
use crate::transport::{LinkSink, SenderStats};
use crate::wire::{Frame, frame};

/// Wakes the thread; no message gets this number.
const WAKE: Token = Token(usize::MAX);

/// The sending half of a transport.
pub(super) struct Sends(Arc<Shared>);

struct Shared {
    config: UdpConfig,
    budget: Arc<Budget>,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    sink: Option<LinkSink>,
    /// For datagrams that nobody answers, by address family.
    plain: [Option<UdpSocket>; 2],
    acks: Option<Acks>,
    next: usize,
    /// Acknowledged messages in the order of the calls, and so of their time-outs.
    pending: BTreeMap<usize, Pending>,
    destinations: HashMap<Member, Destination>,
    stats: SenderStats,
}

/// The thread that reads acknowledgements.
struct Acks {
    registry: Registry,
    waker: Waker,
    thread: JoinHandle<()>,
}

struct Pending {
    leg: Leg,
    deadline: Instant,
    _permit: Permit,
    state: Way,
}

enum Way {
    /// Waits until fewer are under way.
    Queued(Bytes, SocketAddr),
    /// Sent; the answer comes to this socket.
    Sent(UdpSocket),
}

#[derive(Default)]
struct Destination {
    in_flight: usize,
    queue: VecDeque<usize>,
}

/// Outcomes, told when the lock is released: callbacks run then.
#[derive(Default)]
struct Outcomes(Vec<(Leg, Option<FaultCause>)>);

impl Sends {
    pub(super) fn new(config: UdpConfig) -> Self {
        let budget = Budget::new(config.max_queued_bytes, config.max_queued_messages);
        Self(Arc::new(Shared { config, budget, state: Mutex::default(), settled: Condvar::new() }))
    }

    pub(super) fn start(&self, sink: LinkSink) {
        lock(&self.0.state).sink.get_or_insert(sink);
    }

    pub(super) fn transmit(&self, msg: Outbound) {
        let length = frame::encoded_len(&msg.message);
        let mut outcomes = Outcomes::default();
        if length > MAX_DATAGRAM {
            let size = msg.message.body().len();
            let cause = FaultCause::TooLarge { size, limit: MAX_DATAGRAM.saturating_sub(length - size) };
            msg.legs.into_iter().for_each(|leg| outcomes.fail(leg, cause.clone()));
        } else {
            let frame = frame::to_bytes(&msg.message);
            let acknowledged = msg.message.options().acknowledgement() != Acknowledgement::None;
            for leg in msg.legs {
                match leg.member().udp_address() {
                    None => outcomes.fail(leg, FaultCause::NoUdp),
                    Some(to) if acknowledged => self.0.send_acknowledged(&frame, to, leg, &mut outcomes),
                    Some(to) => self.0.send_plain(&frame, to, leg, &mut outcomes),
                }
            }
        }
        self.0.tell(outcomes);
    }

    pub(super) fn fail_member(&self, member: &Member, cause: &FaultCause) {
        let outcomes = {
            let mut state = lock(&self.0.state);
            state.destinations.remove(member);
            state.fail_all(cause, |leg| leg.member() == member)
        };
        self.0.tell(outcomes);
    }

    pub(super) fn stop(&self, drain: Duration) {
        let start = clock::now();
        let (outcomes, acks) = {
            let mut state = lock(&self.0.state);
            // From here on nothing new is taken.
            let Some(_sink) = state.sink.take() else { return };
            while !state.pending.is_empty() && !clock::left(start, drain).is_zero() {
                let left = clock::left(start, drain);
                state = self.0.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.plain = [None, None];
            state.destinations.clear();
            (state.fail_all(&FaultCause::Stopped, |_| true), state.acks.take())
        };
        self.0.tell(outcomes);
        if let Some(Acks { waker, thread, .. }) = acks {
            if let Err(error) = waker.wake() {
                log::warn!("the thread of UDP acknowledgements cannot be woken to stop: {error}");
            } else if thread.thread().id() != thread::current().id() {
                // A callback that panicked has said so itself.
                let _ = thread.join();
            }
        }
    }

    pub(super) fn stats(&self) -> SenderStats {
        let state = lock(&self.0.state);
        SenderStats { pending: state.pending.len(), ..state.stats }
    }
}

impl Shared {
    /// One datagram, done when the operating system has taken it.
    fn send_plain(&self, frame: &Bytes, to: SocketAddr, leg: Leg, outcomes: &mut Outcomes) {
        let mut state = lock(&self.state);
        if state.sink.is_none() {
            return outcomes.fail(leg, FaultCause::Stopped);
        }
        let socket = &mut state.plain[usize::from(to.is_ipv6())];
        let sent = match socket {
            Some(socket) => socket.send_to(frame, to),
            None => open(&self.config, to).and_then(|opened| socket.insert(opened).send_to(frame, to)),
        };
        match sent {
            Ok(_) => {
                state.count(frame);
                outcomes.0.push((leg, None));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => outcomes.fail(leg, FaultCause::QueueFull),
            Err(error) => outcomes.fail(leg, FaultCause::Connection(error.kind())),
        }
    }

    fn send_acknowledged(self: &Arc<Self>, frame: &Bytes, to: SocketAddr, leg: Leg, outcomes: &mut Outcomes) {
        let Some(permit) = self.budget.try_take(leg.member().id(), frame.len()) else {
            return outcomes.fail(leg, FaultCause::QueueFull);
        };
        let mut state = lock(&self.state);
        if state.sink.is_none() {
            return outcomes.fail(leg, FaultCause::Stopped);
        }
        if let Err(error) = self.start_acks(&mut state) {
            return outcomes.fail(leg, FaultCause::Connect(error.kind()));
        }
        let number = state.next;
        state.next += 1;
        let destination = state.destinations.entry(leg.member().clone()).or_default();
        destination.queue.push_back(number);
        let member = leg.member().clone();
        let way = Way::Queued(frame.clone(), to);
        let deadline = clock::now() + self.config.ack_timeout;
        let was_idle = state.pending.is_empty();
        state.pending.insert(number, Pending { leg, deadline, _permit: permit, state: way });
        state.send_next(&self.config, &member, outcomes);
        if was_idle && let Some(acks) = &state.acks {
            // It sleeps without an end; later messages have later time-outs.
            acks.wake();
        }
    }

    fn start_acks(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if state.acks.is_none() {
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), WAKE)?;
            let registry = poll.registry().try_clone()?;
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("tribes-udp-acks".into()).spawn(move || shared.run(poll))?;
            state.acks = Some(Acks { registry, waker, thread });
        }
        Ok(())
    }

    fn run(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(256);
        let mut buffer = [0; 64];
        loop {
            let (deadline, stopped) = {
                let state = lock(&self.state);
                (state.pending.first_key_value().map(|(_, pending)| pending.deadline), state.sink.is_none())
            };
            if stopped && deadline.is_none() {
                return;
            }
            let wait = deadline.map(|deadline| deadline.saturating_duration_since(clock::now()));
            if let Err(error) = poll.poll(&mut events, wait)
                && error.kind() != ErrorKind::Interrupted
            {
                // Without a poller no answer is seen; all that wait fail by their time-outs.
                log::error!("UDP acknowledgements: {error}");
            }
            let mut outcomes = Outcomes::default();
            let mut state = lock(&self.state);
            for event in events.iter().filter(|event| event.token() != WAKE) {
                state.readable(&self.config, event.token().0, &mut buffer, &mut outcomes);
            }
            state.expire(&self.config, clock::now(), &mut outcomes);
            drop(state);
            self.tell(outcomes);
        }
    }

    /// Settles legs, with no lock held.
    fn tell(&self, outcomes: Outcomes) {
        if outcomes.0.is_empty() {
            return;
        }
        let sink = {
            let mut state = lock(&self.state);
            state.stats.failed += outcomes.0.iter().filter(|(_, fault)| fault.is_some()).count() as u64;
            state.sink.clone()
        };
        for (leg, fault) in outcomes.0 {
            let Some(cause) = fault else {
                leg.delivered();
                continue;
            };
            let doubtful = matches!(cause, FaultCause::Timeout(_) | FaultCause::Connect(_) | FaultCause::Connection(_));
            let member = leg.member().clone();
            leg.fail(cause);
            if let Some(sink) = sink.as_ref().filter(|_| doubtful) {
                sink.lost(&member);
            }
        }
        let _state = lock(&self.state);
        self.settled.notify_all();
    }
}

impl State {
    /// Sends to this member what its window has room for.
    fn send_next(&mut self, config: &UdpConfig, member: &Member, outcomes: &mut Outcomes) {
        let Some(acks) = &self.acks else { return };
        let Some(destination) = self.destinations.get_mut(member) else { return };
        while destination.in_flight < config.in_flight
            && let Some(number) = destination.queue.pop_front()
        {
            // A message whose time is over has left its number behind.
            let Some(pending) = self.pending.get_mut(&number) else { continue };
            let Way::Queued(frame, to) = &pending.state else { continue };
            match send(config, &acks.registry, number, frame, *to) {
                Ok(socket) => {
                    self.stats.frames += 1;
                    self.stats.bytes += frame.len() as u64;
                    pending.state = Way::Sent(socket);
                    destination.in_flight += 1;
                }
                Err(error) => {
                    let pending = self.pending.remove(&number).expect("it was found under the same lock");
                    outcomes.fail(pending.leg, FaultCause::Connection(error.kind()));
                }
            }
        }
        if destination.in_flight == 0 && destination.queue.is_empty() {
            self.destinations.remove(member);
        }
    }

    /// Something came to the socket of this message.
    fn readable(&mut self, config: &UdpConfig, number: usize, buffer: &mut [u8], outcomes: &mut Outcomes) {
        let Some(Pending { state: Way::Sent(socket), .. }) = self.pending.get(&number) else { return };
        let fault = loop {
            match socket.recv(buffer) {
                Ok(length) => match frame::in_datagram(BytesMut::from(&buffer[..length])).next() {
                    Some(Ok(Frame::Ack)) => break None,
                    Some(Ok(Frame::FailAck)) => break Some(FaultCause::Rejected),
                    // Whatever it is, it is no answer.
                    _ => {}
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Nobody listens at that port.
                Err(error) => break Some(FaultCause::Connection(error.kind())),
            }
        };
        self.settle(config, number, fault, outcomes);
    }

    fn expire(&mut self, config: &UdpConfig, now: Instant, outcomes: &mut Outcomes) {
        while let Some((number, pending)) = self.pending.first_key_value() {
            if pending.deadline > now {
                return;
            }
            self.settle(config, *number, Some(FaultCause::Timeout(config.ack_timeout)), outcomes);
        }
    }

    fn settle(&mut self, config: &UdpConfig, number: usize, fault: Option<FaultCause>, outcomes: &mut Outcomes) {
        let Some(pending) = self.pending.remove(&number) else { return };
        let member = pending.leg.member().clone();
        if let (Way::Sent(_), Some(destination)) = (&pending.state, self.destinations.get_mut(&member)) {
            destination.in_flight -= 1;
        }
        outcomes.0.push((pending.leg, fault));
        self.send_next(config, &member, outcomes);
    }

    /// Takes out all messages to be failed; closing a socket ends its registration.
    fn fail_all(&mut self, cause: &FaultCause, which: impl Fn(&Leg) -> bool) -> Outcomes {
        let numbers: Vec<_> = self.pending.iter().filter(|(_, pending)| which(&pending.leg)).map(|(number, _)| *number).collect();
        let failed = numbers.iter().filter_map(|number| self.pending.remove(number));
        Outcomes(failed.map(|pending| (pending.leg, Some(cause.clone()))).collect())
    }

    fn count(&mut self, frame: &Bytes) {
        self.stats.frames += 1;
        self.stats.bytes += frame.len() as u64;
    }
}

impl Outcomes {
    fn fail(&mut self, leg: Leg, cause: FaultCause) {
        self.0.push((leg, Some(cause)));
    }
}

impl Acks {
    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::warn!("the thread of UDP acknowledgements cannot be woken: {error}");
        }
    }
}

/// Sends a datagram from a socket of its own, connected so that nobody else's answer is taken for the peer's, and so that the
/// system tells when nobody listens there.
fn send(config: &UdpConfig, registry: &Registry, number: usize, frame: &Bytes, to: SocketAddr) -> io::Result<UdpSocket> {
    let mut socket = open(config, to)?;
    socket.connect(to)?;
    registry.register(&mut socket, Token(number), Interest::READABLE)?;
    socket.send(frame)?;
    Ok(socket)
}

/// A socket at a free port.
fn open(config: &UdpConfig, to: SocketAddr) -> io::Result<UdpSocket> {
    let here: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = config.send_buffer
        && let Err(error) = socket.set_send_buffer_size(bytes)
    {
        log::debug!("a UDP socket keeps its default send buffer: {error}");
    }
    socket.bind(&here.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}
