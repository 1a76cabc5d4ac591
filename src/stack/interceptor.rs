//! A layer of the stack, and what it can do.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Event, Inbound, Outbound};
use super::view::View;
use super::{LayerId, Output, Work};
use crate::completion::Leg;
use crate::id::{UniqueId, mix};
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;

/// A layer between the application and the transport.
///
/// Each method has a default that passes on what it gets, so a layer states only what it changes. A layer never knows its
/// neighbours, never blocks and is never re-entered: it has `&mut self`, and the methods of its [`Context`] only enqueue effects.
/// It owns no thread and reads no clock; [`Context::now`] and [`Context::wake_at`] give it time.
///
/// A layer that drops messages above a size; their senders learn that they were rejected:
///
/// ```
/// use tribes::stack::{Context, Inbound, Interceptor, StackBuilder};
///
/// struct AtMost(usize);
///
/// impl Interceptor for AtMost {
///     fn name(&self) -> &'static str {
///         "AtMost"
///     }
///
///     fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
///         if msg.message.body().len() > self.0 {
///             return msg.reply.reject();
///         }
///         cx.deliver(msg);
///     }
/// }
///
/// let stack = StackBuilder::new().push(AtMost(1 << 20));
/// ```
///
/// `examples/custom_interceptor.rs` shows one that works in both directions, in a group;
/// `tribes::testing` has a suite that any layer can run.
pub trait Interceptor: Send {
    /// A name that is unique in its stack, for errors and logs.
    fn name(&self) -> &'static str;

    /// A message on its way down.
    fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
        cx.send(msg);
    }

    /// A message on its way up.
    fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
        cx.deliver(msg);
    }

    /// A change of the group, as the layers below let it pass.
    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        cx.emit(event);
    }

    /// The time of [`Context::wake_at`] has come.
    fn timeout(&mut self, _cx: &mut Context<'_>) {}

    /// The periodic heartbeat of the channel, 5 s apart by default (Tribes: `heartbeatSleeptime`).
    fn heartbeat(&mut self, _cx: &mut Context<'_>) {}

    /// The outcome of a [`Context::probe`].
    fn probed(&mut self, _cx: &mut Context<'_>, _member: &Member, _outcome: Probe) {}

    /// The channel stops: the last chance to send, deliver or reject what the layer holds. Legs that it still holds afterwards
    /// are reported as dropped.
    fn stop(&mut self, _cx: &mut Context<'_>) {}

    /// What the layer does to messages, so that the stack can refuse an order that is known to be wrong.
    fn traits(&self) -> LayerTraits {
        LayerTraits::default()
    }

    /// Where callers wait before their message enters the stack, if the layer bounds what is in flight.
    fn gate(&self) -> Option<Arc<dyn Gate>> {
        None
    }
}

/// What a layer does to messages; see [`Interceptor::traits`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, named at every use")]
#[non_exhaustive]
pub struct LayerTraits {
    /// Sends probes past the layers below it.
    pub probes: bool,
    /// Makes bodies unreadable to those who lack a key.
    pub encrypts: bool,
    /// Changes bodies.
    pub rewrites: bool,
    /// Numbers messages per destination.
    pub orders: bool,
    /// The option bits that the layer sets on messages it changed, or reacts to; they must not clash with another layer's.
    pub option_bits: SendOptions,
}

/// Made from the default by naming what is true.
///
/// ```
/// use tribes::SendOptions;
/// use tribes::stack::LayerTraits;
/// let compresses = LayerTraits::default().rewrites().option_bits(SendOptions::from_bits(0x100));
/// assert!(compresses.rewrites && !compresses.encrypts);
/// ```
impl LayerTraits {
    /// The layer sends probes past the layers below it.
    #[must_use]
    pub const fn probes(mut self) -> Self {
        self.probes = true;
        self
    }

    /// The layer makes bodies unreadable to those who lack a key.
    #[must_use]
    pub const fn encrypts(mut self) -> Self {
        self.encrypts = true;
        self
    }

    /// The layer changes bodies.
    #[must_use]
    pub const fn rewrites(mut self) -> Self {
        self.rewrites = true;
        self
    }

    /// The layer numbers messages per destination.
    #[must_use]
    pub const fn orders(mut self) -> Self {
        self.orders = true;
        self
    }

    /// The layer sets these bits, or reacts to them.
    #[must_use]
    pub const fn option_bits(mut self, bits: SendOptions) -> Self {
        self.option_bits = bits;
        self
    }
}

/// Admission control: the only place where a caller is made to wait before its message enters the stack.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Takes room for each leg of a message with `options` and a body of `len` bytes, waiting for it as configured. Legs for
    /// which there is no room are failed here, all others are returned. `false` beside them asks that the body be handed back.
    fn enter(&self, options: SendOptions, len: usize, legs: Vec<Leg>) -> (Vec<Leg>, bool);
}

/// What a [`Context::probe`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Probe {
    /// The member accepted a connection, and answered when asked to.
    Alive,
    /// Nobody listens there any more: the connection was refused or reset.
    Refused,
    /// No answer in time, or no way there.
    Unreachable,
}

/// How to probe a member; see [`Context::probe`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeRequest {
    /// Sent once connected, when not empty: a whole frame.
    pub frame: Bytes,
    /// Whether any byte must come back for the member to count as alive.
    pub expect_answer: bool,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the answer may take.
    pub answer_timeout: Duration,
}

impl ProbeRequest {
    /// A bare connect with this time-out.
    #[must_use]
    pub fn connect(timeout: Duration) -> Self {
        Self { frame: Bytes::new(), expect_answer: false, connect_timeout: timeout, answer_timeout: timeout }
    }
}

/// What a layer may do. Each method only enqueues: nothing happens before the layer's method returns, and then in order.
pub struct Context<'a> {
    pub(super) now: Instant,
    pub(super) epoch_millis: u64,
    pub(super) local: &'a Member,
    pub(super) view: &'a View,
    pub(super) wake_at: &'a mut Option<Instant>,
    pub(super) random: &'a mut u64,
    /// Where in the stack the layer stands.
    pub(super) index: usize,
    pub(super) work: &'a mut VecDeque<Work>,
    pub(super) output: &'a mut VecDeque<Output>,
}

impl Context<'_> {
    /// Passes a message down to the next layer, or to the transport.
    pub fn send(&mut self, msg: Outbound) {
        self.work.push_back(Work::Down(self.index + 1, msg));
    }

    /// Passes a message up to the next layer, or to the listeners.
    pub fn deliver(&mut self, msg: Inbound) {
        self.work.push_back(Work::Up(self.index, msg));
    }

    /// Passes a change of the group up. A layer that hides a member only swallows its events: the views above follow.
    pub fn emit(&mut self, event: Event) {
        self.work.push_back(Work::Event(self.index, event));
    }

    /// Asks the transport to connect to a member; [`Interceptor::probed`] of this layer gets the outcome.
    pub fn probe(&mut self, member: Member, request: ProbeRequest) {
        self.output.push_back(Output::Probe { layer: LayerId(self.index), member, request });
    }

    /// Asks for [`Interceptor::timeout`] at `time`, or as soon as possible after it. A layer has one such time: an earlier one
    /// that was asked for before stands.
    pub fn wake_at(&mut self, time: Instant) {
        *self.wake_at = Some(self.wake_at.map_or(time, |earlier| earlier.min(time)));
    }

    /// The time now. In the simulator, simulated.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The wall clock now, in milliseconds since 1970. In the simulator, simulated.
    #[must_use]
    pub fn epoch_millis(&self) -> u64 {
        self.epoch_millis
    }

    /// A random number; not secret. In the simulator, seeded.
    pub fn random(&mut self) -> u64 {
        *self.random = self.random.wrapping_add(1);
        mix(*self.random)
    }

    /// The members as this layer sees them: those whose events the layers below let pass. The local member is not among them.
    #[must_use]
    pub fn view(&self) -> &View {
        self.view
    }

    /// The local member.
    #[must_use]
    pub fn local(&self) -> &Member {
        self.local
    }

    /// A new message from the local member, with a fresh id: what a layer sends on its own account.
    pub fn message(&mut self, options: SendOptions, body: impl Into<Body>) -> Message {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random().to_be_bytes());
        id[8..].copy_from_slice(&self.random().to_be_bytes());
        id[6] = 0x40 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        Message::from_parts(UniqueId::from_bytes(id), options, self.epoch_millis, self.local.clone(), body.into())
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("local", self.local).field("view", self.view).finish_non_exhaustive()
    }
}
