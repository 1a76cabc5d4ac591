//! The stack of interceptors: one value that moves messages and events through the layers, without I/O, threads or a clock.
//!
//! ```text
//!            application
//!   send  │      ▲ Deliver, Event
//!         ▼      │
//!      layer 0 … layer n         each sees only its Context
//!         │      ▲
//! Transmit▼      │ receive, event
//!            transport, membership
//! ```
//!
//! Work moves through a queue, not by recursion, so a layer is never re-entered and order is kept in each direction.

mod builder;
mod interceptor;
mod message;
mod view;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

pub use builder::{StackBuilder, StackError};
pub use interceptor::{Context, Gate, Interceptor, LayerTraits, Probe, ProbeRequest};
pub use message::{Answer, Departure, Event, Inbound, Outbound, Reply, Urgency};
pub use view::View;

use crate::completion::Leg;
use crate::member::Member;
use crate::options::SendOptions;

/// The layers of one channel, and everything on its way between them.
///
/// Its owner calls the `handle_` methods, then [`poll_output`](Self::poll_output) until it is empty, then looks at
/// [`poll_timeout`](Self::poll_timeout). The channel owns one behind a lock; the simulator owns the very same type.
///
/// ```
/// use std::time::Instant;
/// use tribes::stack::{Event, Output, Stack, StackBuilder, Time};
/// use tribes::Member;
///
/// # #[expect(clippy::disallowed_methods)]
/// let time = Time { instant: Instant::now(), epoch_millis: 0 };
/// let member = |port| Member::new(([127, 0, 0, 1], port).into());
/// let mut stack = StackBuilder::new().build(member(4000), 1)?;
/// stack.handle_event(time, Event::Added(member(4001)));
/// assert!(matches!(stack.poll_output(), Some(Output::Event(Event::Added(_)))));
/// assert_eq!(stack.view().len(), 1);
/// # Ok::<(), tribes::stack::StackError>(())
/// ```
pub struct Stack {
    layers: Vec<Layer>,
    local: Member,
    random: u64,
    /// The view above all layers.
    top: View,
    work: VecDeque<Work>,
    output: VecDeque<Output>,
    gates: Vec<(SendOptions, Arc<dyn Gate>)>,
}

struct Layer {
    interceptor: Box<dyn Interceptor>,
    /// Messages without all of these bits pass the layer by.
    options: SendOptions,
    /// The members as seen from below this layer.
    view: View,
    wake_at: Option<Instant>,
}

/// The time of both clocks, as an argument to everything that decides.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "two clocks there are")]
pub struct Time {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub epoch_millis: u64,
}

/// What leaves the stack.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send this message.
    Transmit(Outbound),
    /// Hand this message to the listeners.
    Deliver(Inbound),
    /// Tell the membership listeners.
    Event(Event),
    /// Probe this member and report to [`Stack::handle_probed`] with the same layer.
    Probe {
        /// The layer that asked.
        layer: LayerId,
        /// The member to probe.
        member: Member,
        /// How.
        request: ProbeRequest,
    },
}

/// A layer of one stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LayerId(usize);

enum Work {
    /// Down through the layers from this index on.
    Down(usize, Outbound),
    /// Up through the layers below this index.
    Up(usize, Inbound),
    /// Up through the layers below this index.
    Event(usize, Event),
}

impl Stack {
    /// A message of the application, from the top.
    pub fn handle_send(&mut self, time: Time, msg: Outbound) {
        self.work.push_back(Work::Down(0, msg));
        self.run(time);
    }

    /// A message of the transport, from the bottom.
    pub fn handle_receive(&mut self, time: Time, msg: Inbound) {
        self.work.push_back(Work::Up(self.layers.len(), msg));
        self.run(time);
    }

    /// An event of the membership or the transport, from the bottom.
    pub fn handle_event(&mut self, time: Time, event: Event) {
        self.work.push_back(Work::Event(self.layers.len(), event));
        self.run(time);
    }

    /// The outcome of a probe.
    pub fn handle_probed(&mut self, time: Time, layer: LayerId, member: &Member, outcome: Probe) {
        let (layer, mut cx) = self.layer(time, layer.0);
        layer.probed(&mut cx, member, outcome);
        self.run(time);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come, or any time at all.
    pub fn handle_timeout(&mut self, time: Time) {
        for index in 0..self.layers.len() {
            if self.layers[index].wake_at.is_some_and(|at| at <= time.instant) {
                self.layers[index].wake_at = None;
                let (layer, mut cx) = self.layer(time, index);
                layer.timeout(&mut cx);
                self.run(time);
            }
        }
    }

    /// The periodic heartbeat of the channel.
    pub fn handle_heartbeat(&mut self, time: Time) {
        for index in 0..self.layers.len() {
            let (layer, mut cx) = self.layer(time, index);
            layer.heartbeat(&mut cx);
            self.run(time);
        }
    }

    /// The channel stops: each layer, from the top, sends or rejects what it holds.
    pub fn handle_stop(&mut self, time: Time) {
        for index in 0..self.layers.len() {
            let (layer, mut cx) = self.layer(time, index);
            layer.stop(&mut cx);
            self.run(time);
        }
    }

    /// The local member's new value.
    pub fn set_local(&mut self, local: Member) {
        self.local = local;
    }

    /// The next thing to do for the owner, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.layers.iter().filter_map(|layer| layer.wake_at).min()
    }

    /// The members as the application sees them, above all layers.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.top
    }

    /// Whether the membership has a sender otherwise: somebody else at its address, or the same with other things to tell.
    pub(crate) fn has_otherwise(&self, sender: &Member) -> bool {
        // Nearly every sender is one that the application sees.
        if self.top.shows(sender) {
            return false;
        }
        let told = self.layers.last().map_or(&self.top, |layer| &layer.view);
        told.by_address(sender.address()).is_some() && !told.shows(sender)
    }

    /// The names of the layers, from the top.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.layers.iter().map(|layer| layer.interceptor.name())
    }

    /// Passes the gates of the layers that a message with `options` will meet. Call it before
    /// [`handle_send`](Self::handle_send), and not under a lock: a gate may block.
    pub fn gates(&self) -> &[(SendOptions, Arc<dyn Gate>)] {
        &self.gates
    }

    fn run(&mut self, time: Time) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Down(from, msg) => match self.next_down(from, msg.message.options()) {
                    Some(index) => {
                        let (layer, mut cx) = self.layer(time, index);
                        layer.outbound(&mut cx, msg);
                    }
                    None => self.output.push_back(Output::Transmit(msg)),
                },
                Work::Up(below, msg) => match self.next_up(below, msg.message.options()) {
                    Some(index) => {
                        let (layer, mut cx) = self.layer(time, index);
                        layer.inbound(&mut cx, msg);
                    }
                    None => self.output.push_back(Output::Deliver(msg)),
                },
                Work::Event(0, event) => {
                    let event = match event {
                        Event::Added(member) if self.top.contains(&member) => Event::Updated(member),
                        event => event,
                    };
                    // A failure detector consumes suspicions; what is left of one above all layers is of no use.
                    if self.top.apply(&event) {
                        self.output.push_back(Output::Event(event));
                    }
                }
                Work::Event(below, event) => {
                    self.layers[below - 1].view.apply(&event);
                    let (layer, mut cx) = self.layer(time, below - 1);
                    layer.event(&mut cx, event);
                }
            }
        }
    }

    /// A layer, and the context to call it with: what it does becomes work or output.
    fn layer(&mut self, time: Time, index: usize) -> (&mut dyn Interceptor, Context<'_>) {
        let layer = &mut self.layers[index];
        let context = Context {
            now: time.instant,
            epoch_millis: time.epoch_millis,
            local: &self.local,
            view: &layer.view,
            wake_at: &mut layer.wake_at,
            random: &mut self.random,
            index,
            work: &mut self.work,
            output: &mut self.output,
        };
        (&mut *layer.interceptor, context)
    }

    fn next_down(&self, from: usize, options: SendOptions) -> Option<usize> {
        (from..self.layers.len()).find(|&index| options.contains(self.layers[index].options))
    }

    fn next_up(&self, below: usize, options: SendOptions) -> Option<usize> {
        (0..below).rev().find(|&index| options.contains(self.layers[index].options))
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("layers", &self.names().collect::<Vec<_>>())
            .field("local", &self.local)
            .field("view", &self.top)
            .finish_non_exhaustive()
    }
}

/// Passes a message's legs through the gates that apply to it; `false` beside them asks that the body be handed back.
pub(crate) fn pass_gates(
    gates: &[(SendOptions, Arc<dyn Gate>)],
    options: SendOptions,
    len: usize,
    mut legs: Vec<Leg>,
) -> (Vec<Leg>, bool) {
    let mut keep = true;
    for (_, gate) in gates.iter().filter(|(bits, _)| options.contains(*bits)) {
        let (passed, kept) = gate.enter(options, len, legs);
        legs = passed;
        keep &= kept;
    }
    (legs, keep)
}

#[cfg(test)]
mod tests;
