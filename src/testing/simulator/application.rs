//! Applications that live on simulated nodes.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::world::{Pid, World};
use super::{NodeId, Simulator, StackBuilder};
use crate::completion::FaultCause;
use crate::id::mix;
use crate::member::Member;
use crate::message::Message;
use crate::options::SendOptions;
use crate::stack::{Event, Time, View};

#[cfg(test)]
mod tests;

/// What runs above the stack of a simulated node, in place of a program that owns a channel.
///
/// It has no thread and no clock: it is called when something happens, and all that it wants goes through the [`AppContext`],
/// which carries it out when the call returns. One call follows another, so an application needs no locks. While its node is
/// paused it is not called; when its node crashes it is dropped, with the outcomes that it was waiting for.
///
/// [`Simulator::add_application_node`] gives a node one, with an example.
pub trait Application: Any {
    /// The node has started: nobody is in the view yet.
    fn start(&mut self, cx: &mut AppContext<'_>) {
        let _ = cx;
    }

    /// A message came in. `false` rejects it, as a listener that fails does: a sender that asked for
    /// [`SYNC_ACK`](SendOptions::SYNC_ACK) gets [`FaultCause::Rejected`].
    fn message(&mut self, cx: &mut AppContext<'_>, message: &Message) -> bool;

    /// A member came, changed or went.
    fn event(&mut self, cx: &mut AppContext<'_>, event: &Event) {
        let _ = (cx, event);
    }

    /// What became of a message that was sent with this token, at one of its destinations: called once for each of them, each as
    /// soon as it is known, but never from within the call that sends. Without an acknowledgement in its options, a message that
    /// was written counts as delivered.
    fn outcome(&mut self, cx: &mut AppContext<'_>, token: u64, member: &Member, outcome: Result<(), FaultCause>) {
        let _ = (cx, token, member, outcome);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come, on the node's own clock. After a pause it may be long over.
    fn timeout(&mut self, cx: &mut AppContext<'_>) {
        let _ = cx;
    }

    /// When [`timeout`](Self::timeout) is to be called, on the node's own clock; asked again after every call.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The node is about to [stop](Simulator::stop). What is sent now goes out as far as connections are open and take it, and what
    /// it waits for is told as [`FaultCause::Stopped`]; what is sent when that is told is not sent. An application that needs time to
    /// take its leave is asked to by [`Simulator::with_app`] before.
    fn stopping(&mut self, cx: &mut AppContext<'_>) {
        let _ = cx;
    }
}

/// What an [`Application`] can see and do, for the time of one call.
pub struct AppContext<'a> {
    time: Time,
    local: &'a Member,
    view: &'a View,
    desk: &'a mut Desk,
}

impl AppContext<'_> {
    /// Now, by the clocks of the node, which [`Simulator::set_clock`] may have set wrong.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// The member that the node is.
    #[must_use]
    pub fn local(&self) -> &Member {
        self.local
    }

    /// The members that the node sees. It may be ahead of the [events](Application::event), as that of a channel.
    #[must_use]
    pub fn view(&self) -> &View {
        self.view
    }

    /// Sends a message as [`GroupChannel::send_with`](crate::GroupChannel::send_with) does, when this call is over.
    ///
    /// [`Application::outcome`] hears `token` again, once for each destination; with `None` it hears nothing. A destination that
    /// is named twice is sent to once. With [`MULTICAST`](SendOptions::MULTICAST) the message goes to the group, and one outcome,
    /// that of the local member, stands for all.
    pub fn send(
        &mut self,
        to: impl IntoIterator<Item = Member>,
        body: impl Into<Bytes>,
        options: SendOptions,
        token: impl Into<Option<u64>>,
    ) {
        let mut members = Vec::new();
        if options.contains(SendOptions::MULTICAST) {
            members.push(self.local.clone());
        } else {
            for member in to {
                if !members.contains(&member) {
                    members.push(member);
                }
            }
        }
        self.desk.letters.push(Letter { to: members, body: body.into(), options, token: token.into() });
    }

    /// A random number that depends on nothing but the seed of the simulation, the node, and how many were asked for before.
    pub fn random(&mut self) -> u64 {
        self.desk.random = self.desk.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.desk.random)
    }
}

impl fmt::Debug for AppContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppContext").field("time", &self.time).field("local", &self.local).finish_non_exhaustive()
    }
}

/// How long it takes until an application hears of an outcome that its node knows. It is not zero, so that time goes on even
/// where an application sends again at once whatever fails at once.
const HEARING: Duration = Duration::from_micros(10);

/// Makes an application.
pub(super) type Make = dyn Fn(&mut AppContext<'_>) -> Box<dyn Application>;

/// An application and what stands between it and its process.
pub(super) struct Host {
    app: Box<dyn Application>,
    desk: Desk,
    outcomes: Outcomes,
    /// When the application hears of the outcomes that are there.
    hears: Option<Duration>,
}

/// What a call of an application leaves behind.
#[derive(Debug)]
struct Desk {
    random: u64,
    letters: Vec<Letter>,
}

/// A message that an application wants sent.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) to: Vec<Member>,
    pub(super) body: Bytes,
    pub(super) options: SendOptions,
    pub(super) token: Option<u64>,
}

/// What became of one message at one destination.
#[derive(Debug)]
pub(super) struct AtMember {
    pub(super) token: u64,
    pub(super) member: Member,
    pub(super) outcome: Result<(), FaultCause>,
}

/// Where outcomes wait for their application. What settles legs need not know whether that still lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes(Arc<Mutex<Vec<AtMember>>>);

impl AtMember {
    pub(super) fn note(&self, world: &mut World, pid: Pid) {
        world.note(3000 + pid.node as u64, &self.token.to_be_bytes());
        world.note(u64::from(self.outcome.is_ok()), self.member.id().as_bytes());
    }

    pub(super) fn tell(self, app: &mut dyn Application, cx: &mut AppContext<'_>) {
        app.outcome(cx, self.token, &self.member, self.outcome);
    }
}

impl Outcomes {
    pub(super) fn push(&self, outcome: AtMember) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }

    fn take(&self) -> Vec<AtMember> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Host {
    pub(super) fn new(make: &Make, random: u64, time: Time, local: &Member, view: &View) -> Self {
        let mut desk = Desk { random, letters: Vec::new() };
        let app = make(&mut AppContext { time, local, view, desk: &mut desk });
        Self { app, desk, outcomes: Outcomes::default(), hears: None }
    }

    pub(super) fn app(&self) -> &dyn Application {
        &*self.app
    }

    pub(super) fn call<R>(
        &mut self,
        time: Time,
        local: &Member,
        view: &View,
        call: impl FnOnce(&mut dyn Application, &mut AppContext<'_>) -> R,
    ) -> R {
        call(&mut *self.app, &mut AppContext { time, local, view, desk: &mut self.desk })
    }

    /// What the application wants sent.
    pub(super) fn letters(&mut self) -> Vec<Letter> {
        std::mem::take(&mut self.desk.letters)
    }

    /// Where the outcomes of what it sends go.
    pub(super) fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Everything that could be done at `now` is done.
    pub(super) fn settled(&mut self, now: Duration) {
        self.hears = if self.outcomes.is_empty() { None } else { self.hears.or(Some(now + HEARING)) };
    }

    /// When the application is to hear of outcomes, in virtual time.
    pub(super) fn hears(&self) -> Option<Duration> {
        self.hears
    }

    /// The outcomes that the application has not heard of.
    pub(super) fn unheard(&mut self) -> Vec<AtMember> {
        self.hears = None;
        self.outcomes.take()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("desk", &self.desk).field("hears", &self.hears).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Adds a node with an [`Application`] and starts it. `stack` makes its stack and `app` its application, now and at each
    /// restart: what an application knew is lost when its node crashes, unless `app` gives it back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tribes::stack::StackBuilder;
    /// use tribes::testing::simulator::{AppContext, Application, SimConfig, Simulator};
    /// use tribes::{FaultCause, Member, Message, SendOptions};
    ///
    /// /// Accepts what has an even length.
    /// #[derive(Default)]
    /// struct Picky {
    ///     accepted: usize,
    ///     outcomes: Vec<(u64, bool)>,
    /// }
    ///
    /// impl Application for Picky {
    ///     fn message(&mut self, _: &mut AppContext<'_>, message: &Message) -> bool {
    ///         let even = message.body().len() % 2 == 0;
    ///         self.accepted += usize::from(even);
    ///         even
    ///     }
    ///
    ///     fn outcome(&mut self, _: &mut AppContext<'_>, token: u64, _: &Member, outcome: Result<(), FaultCause>) {
    ///         self.outcomes.push((token, outcome.is_ok()));
    ///     }
    /// }
    ///
    /// let mut sim = Simulator::new(1, SimConfig::default());
    /// let [a, b] = std::array::from_fn(|_| sim.add_application_node(StackBuilder::new, |_| Picky::default()));
    /// assert!(sim.run_until(|sim| sim.has_converged(), Duration::from_secs(5)));
    ///
    /// sim.with_app(a, |_: &mut Picky, cx| {
    ///     let all = cx.view().as_slice().to_vec();
    ///     cx.send(all.clone(), "even", SendOptions::SYNC_ACK, 1);
    ///     cx.send(all, "odd", SendOptions::SYNC_ACK, 2);
    /// });
    /// sim.run_for(Duration::from_secs(1));
    /// assert_eq!(sim.app::<Picky>(a).expect("it runs").outcomes, [(1, true), (2, false)]);
    /// assert_eq!(sim.app::<Picky>(b).expect("it runs").accepted, 1);
    /// ```
    ///
    /// # Panics
    ///
    /// When the stack cannot be built. [`step`](Self::step), and what calls it, panics when an application's timeout stays due
    /// however often it is called.
    pub fn add_application_node<A: Application>(
        &mut self,
        stack: impl Fn() -> StackBuilder + 'static,
        app: impl Fn(&mut AppContext<'_>) -> A + 'static,
    ) -> NodeId {
        let make: Box<Make> = Box::new(move |cx| Box::new(app(cx)));
        self.add(crate::Capabilities::ALL, Box::new(stack), Some(make))
    }

    /// The application of a node, to look at; `None` when the node does not run or has no such application.
    #[must_use]
    pub fn app<A: Application>(&self, node: NodeId) -> Option<&A> {
        let app: &dyn Any = self.nodes[node.0].process.as_ref()?.host()?.app();
        app.downcast_ref()
    }

    /// Calls something in a node's application from outside, as a user of its program does, and then carries out what it wants.
    /// `None`, and nothing is called, when the node does not run, is paused, or has no such application.
    pub fn with_app<A: Application, R>(
        &mut self,
        node: NodeId,
        call: impl FnOnce(&mut A, &mut AppContext<'_>) -> R,
    ) -> Option<R> {
        self.app::<A>(node)?;
        let node = &mut self.nodes[node.0];
        let process = node.process.as_mut().filter(|_| node.paused.is_none())?;
        let result = process.with_app(&mut self.world, &mut self.ledger, |app, cx| {
            let app: &mut dyn Any = app;
            app.downcast_mut().map(|app| call(app, cx))
        });
        self.look();
        result.flatten()
    }
}
