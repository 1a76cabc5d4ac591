//! One connection: a queue of frames in one direction, and the thread that hands them to the listeners at its end.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::acks::Acks;
use super::{Endpoint, Shared, lock};
use crate::budget::Permit;
use crate::clock;
use crate::completion::FaultCause;
use crate::member::Member;
use crate::options::Acknowledgement;
use crate::stack::{Answer, Reply};
use crate::transport::MessageSink;
use crate::wire::{Frame, channel_data, frame};

pub(super) struct Link {
    pub(super) id: u64,
    from: SocketAddr,
    to: SocketAddr,
    member: Member,
    network: Arc<Shared>,
    acks: Arc<Acks>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
}

struct State {
    queue: BinaryHeap<Parcel>,
    sequence: u64,
    /// When the last message in order is due.
    last: Instant,
    random: u64,
    random_answers: u64,
    closed: bool,
}

/// A frame under way.
struct Parcel {
    at: Instant,
    sequence: u64,
    frame: Bytes,
    token: u64,
    /// Room in the sender's queue, for a message that nobody answers.
    _permit: Option<Arc<Permit>>,
}

impl Link {
    /// Connects; the thread runs from now on.
    ///
    /// # Errors
    ///
    /// `TimedOut` across a cut, `ConnectionRefused` when nobody listens.
    pub(super) fn open(network: &Arc<Shared>, from: &Endpoint, member: &Member, acks: &Arc<Acks>) -> io::Result<Arc<Self>> {
        let to = member.address();
        if from.is_crashed() {
            return Err(ErrorKind::NetworkDown.into());
        }
        if !network.is_reachable(from.address, to) {
            return Err(ErrorKind::TimedOut.into());
        }
        let peer = network.lock().endpoint(to).filter(|peer| !peer.is_crashed()).ok_or(ErrorKind::ConnectionRefused)?;
        let mut listening = lock(&peer.listening);
        let inbox = listening.as_mut().ok_or(ErrorKind::ConnectionRefused)?;
        let link = Arc::new(Self {
            id: network.next_link.fetch_add(1, Atomic::Relaxed),
            from: from.address,
            to,
            member: member.clone(),
            network: Arc::clone(network),
            acks: Arc::clone(acks),
            state: Mutex::new(State {
                queue: BinaryHeap::new(),
                sequence: 0,
                last: clock::now(),
                random: network.link_seed(from.address, to),
                random_answers: network.link_seed(to, from.address),
                closed: false,
            }),
            changed: Condvar::new(),
            thread: Mutex::default(),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let (running, sink) = (Arc::clone(&link), inbox.sink.clone());
        let name = format!("memory-{}-{}", from.address.port(), to.port());
        *lock(&link.thread) = Some(thread::Builder::new().name(name).spawn(move || running.run(&sink))?);
        inbox.sweep();
        inbox.links.push(Arc::clone(&link));
        drop(listening);
        let mut outbound = lock(&from.outbound);
        outbound.retain(|link| link.strong_count() > 0);
        outbound.push(Arc::downgrade(&link));
        Ok(link)
    }

    /// Puts a frame on its way, or loses it, as the faults say. `false` when the link has ended.
    pub(super) fn send(&self, frame: &Bytes, token: u64, permit: Option<Permit>) -> bool {
        let pace = self.network.pace(self.to);
        let permit = permit.map(Arc::new);
        let mut state = lock(&self.state);
        if state.closed {
            return false;
        }
        let verdict = self.network.judge(self.from, self.to, &mut state.random);
        if verdict.lost {
            return true;
        }
        let in_order = (clock::now() + verdict.delay).max(state.last + pace);
        let at = match verdict.held {
            Some(held) => in_order + held,
            None => {
                state.last = in_order;
                in_order
            }
        };
        for _ in 0..=u8::from(verdict.duplicated) {
            state.sequence += 1;
            let sequence = state.sequence;
            state.queue.push(Parcel { at, sequence, frame: frame.clone(), token, _permit: permit.clone() });
        }
        self.changed.notify_all();
        true
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Whether everything was taken at the other end.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.queue.is_empty()
    }

    /// Ends the link from the sender's side; what is under way is lost.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.changed.notify_all();
        drop(queue);
    }

    /// Ends the link from the other side: the sender learns of it.
    pub(super) fn tear(&self, kind: ErrorKind) {
        if self.is_closed() {
            return;
        }
        self.close();
        self.acks.fail_link(self.id, &FaultCause::Connection(kind));
        self.acks.lost(&self.member);
    }

    /// Waits for the thread, unless it is the one that asks.
    pub(super) fn join(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A listener that panicked ended its own connection; there is nobody to pass the panic on to.
            let _ = thread.join();
        }
    }

    fn run(self: Arc<Self>, sink: &MessageSink) {
        let mut last_sender = None;
        while let Some(parcel) = self.next() {
            let whole = self.deliver(parcel, sink, &mut last_sender);
            self.acks.wake();
            if !whole {
                self.tear(ErrorKind::ConnectionReset);
            }
        }
        if let Some(member) = last_sender {
            sink.disconnected(&member);
        }
    }

    /// The next frame once it is due; none when the link has ended.
    fn next(&self) -> Option<Parcel> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            let now = clock::now();
            state = match state.queue.peek() {
                Some(parcel) if parcel.at <= now => {
                    return state.queue.pop();
                }
                Some(parcel) => {
                    let wait = parcel.at - now;
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Decodes a frame and hands it up, by Tribes' ack rules; `false` when it is none.
    fn deliver(self: &Arc<Self>, parcel: Parcel, sink: &MessageSink, last_sender: &mut Option<Member>) -> bool {
        let Parcel { frame: bytes, token, .. } = parcel;
        self.bytes.fetch_add(bytes.len() as u64, Atomic::Relaxed);
        for found in frame::in_datagram(bytes) {
            let Ok(Frame::Data(data)) = found else { return false };
            let Ok(message) = channel_data::decode(&data, last_sender.as_ref()) else { return false };
            self.messages.fetch_add(1, Atomic::Relaxed);
            if last_sender.as_ref().is_none_or(|last| !last.same_value(message.sender())) {
                *last_sender = Some(message.sender().clone());
            }
            let reply = match message.options().acknowledgement() {
                Acknowledgement::None => Reply::none(),
                Acknowledgement::Received => {
                    self.answer(token, true);
                    Reply::none()
                }
                Acknowledgement::Processed => Reply::new(Arc::new(Answers(Arc::downgrade(self))), token),
            };
            sink.push(message, reply);
        }
        true
    }

    /// Sends an acknowledgement back, which has its own fate.
    fn answer(&self, token: u64, accepted: bool) {
        let verdict = {
            let mut state = lock(&self.state);
            if state.closed {
                return;
            }
            self.network.judge(self.to, self.from, &mut state.random_answers)
        };
        if verdict.lost {
            return;
        }
        let bytes = BytesMut::from(if accepted { &frame::ACK[..] } else { &frame::FAIL_ACK[..] });
        let accepted = frame::in_datagram(bytes).next() == Some(Ok(Frame::Ack));
        let delay = verdict.delay + verdict.held.unwrap_or_default();
        if delay.is_zero() {
            self.acks.settle(token, accepted);
        } else {
            let acks = Arc::clone(&self.acks);
            self.network.timer.at(clock::now() + delay, move || acks.settle(token, accepted));
        }
    }
}

/// Takes the answers of listeners; a reply that is kept does not keep the link.
struct Answers(Weak<Link>);

impl Answer for Answers {
    fn answer(&self, token: u64, accepted: bool) {
        if let Some(link) = self.0.upgrade() {
            link.answer(token, accepted);
        }
    }
}

/// The earliest is the greatest, as the heap wants it.
impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Parcel {}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} to {})", self.from, self.to)
    }
}
