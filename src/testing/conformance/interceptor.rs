//! What any [`Interceptor`] must do.
//!
//! ```
//! use tribes::interceptors::TcpFailureDetector;
//! use tribes::testing::conformance::interceptor::{Profile, check};
//! check(Profile::default(), TcpFailureDetector::default);
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::completion::{FaultCause, Leg, Sending};
use crate::id::{UniqueId, mix};
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Answer, Departure, Event, Inbound, Interceptor, Outbound, Output, Probe, Reply, Stack, StackBuilder, Time};
use crate::testing::simulator::{Promise, SimConfig, Simulator};

/// How long anything may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);
const SEEDS: u64 = 10;

/// What kind of interceptor it is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Profile {
    /// The options that it is bound to ([`StackBuilder::push_for`]); messages of the suite carry them.
    pub options: SendOptions,
    /// Whether what one node sends reaches the other, which has the same interceptor, as it was. A filter may say no.
    pub passes_messages: bool,
    /// Whether members that live and answer probes are shown to those above. A filter may say no.
    pub passes_members: bool,
    /// How many messages it may hold at most, in each direction.
    pub max_held: usize,
}

impl Profile {
    /// Binds the interceptor to options.
    #[must_use]
    pub const fn options(mut self, options: SendOptions) -> Self {
        self.options = options;
        self
    }

    /// Whether what one node sends reaches the other as it was. Default: true.
    #[must_use]
    pub const fn passes_messages(mut self, passes: bool) -> Self {
        self.passes_messages = passes;
        self
    }

    /// Whether living members are shown to those above. Default: true.
    #[must_use]
    pub const fn passes_members(mut self, passes: bool) -> Self {
        self.passes_members = passes;
        self
    }

    /// How many messages it may hold at most, in each direction. Default: 10 000.
    #[must_use]
    pub const fn max_held(mut self, messages: usize) -> Self {
        self.max_held = messages;
        self
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self { options: SendOptions::NONE, passes_messages: true, passes_members: true, max_held: 10_000 }
    }
}

/// Runs every scenario that the profile allows. `make` makes the interceptor of one node, each time the same.
///
/// An interceptor with a gate must not block in it, for time stands still meanwhile.
///
/// # Panics
///
/// When the interceptor breaks a promise; the message says which.
pub fn check<I: Interceptor + 'static>(profile: Profile, make: impl Fn() -> I + Clone + 'static) {
    let build = move || StackBuilder::new().push_for(profile.options, make());
    if profile.passes_messages && profile.passes_members {
        messages_arrive_as_they_were(profile, build.clone());
    }
    promises_are_kept_through_faults(profile, &build);
    every_leg_is_settled_when_the_channel_stops(profile, &build);
    events_make_sense_in_any_order(profile, &build);
    junk_does_no_harm(profile, &build);
    what_is_held_is_bounded(profile, &build);
}

/// Bodies of any length, options of any kind, in both directions and in order.
fn messages_arrive_as_they_were(profile: Profile, build: impl Fn() -> StackBuilder + Clone + 'static) {
    let mut sim = Simulator::new(1, SimConfig::default());
    let (a, b) = (sim.add_node(build.clone()), sim.add_node(build));
    assert!(sim.run_until(Simulator::has_converged, PATIENCE), "two nodes never see each other through it");
    let sizes = [0, 1, 2, 4, 8, 9, 16, 63, 64, 65, 255, 256, 1000, 65_535, 65_536, 200_000];
    for (from, to) in [(a, b), (b, a)] {
        let before = sim.received(to).len();
        let mut bodies = Vec::new();
        let mut sends = Vec::new();
        for options in [0, 2, 6, 8, 10, 14].map(SendOptions::from_bits) {
            for size in sizes {
                let body: Vec<u8> = (0..size).map(|at| mix(at as u64).to_be_bytes()[0]).collect();
                sends.push(sim.send(from, [sim.member(to)], body.clone(), options | profile.options));
                bodies.push(body);
                sim.run_for(Duration::from_millis(1));
            }
        }
        let all = before + bodies.len();
        assert!(sim.run_until(|sim| sim.received(to).len() >= all, PATIENCE), "messages never arrive through it");
        sim.run_for(PATIENCE);
        let received: Vec<_> = sim.received(to)[before..].iter().map(|received| received.message.bytes()).collect();
        assert_eq!(received.len(), bodies.len(), "as many messages arrive as were sent");
        for (at, (received, sent)) in received.iter().zip(&bodies).enumerate() {
            assert!(received == sent, "message {at} of {} bytes arrives as it was, in its place", sent.len());
        }
        for send in sends {
            assert!(sim.outcome(send).is_some_and(Result::is_ok), "what arrived counts as delivered");
        }
    }
    sim.assert_promises_kept();
}

/// Lost connections, crashes, partitions: every send ends, what counts as delivered is, views follow.
fn promises_are_kept_through_faults(profile: Profile, build: &(impl Fn() -> StackBuilder + Clone + 'static)) {
    for seed in Simulator::seeds(SEEDS) {
        let mut sim = Simulator::new(seed, SimConfig::default());
        let nodes: [_; 3] = std::array::from_fn(|_| sim.add_node(build.clone()));
        sim.run_for(Duration::from_secs(2));
        sim.set_config(SimConfig::default().loss(0.1).duplicates(0.1).stalls(0.1).breaks(0.1));
        for round in 0..60_u8 {
            let from = nodes[usize::from(round % 3)];
            for options in [0, 2, 6, 14] {
                sim.send_all(from, vec![round; 10 * usize::from(round)], SendOptions::from_bits(options) | profile.options);
            }
            match round {
                10 => sim.crash(nodes[2]),
                20 => sim.partition(&[nodes[1]]),
                25 => sim.restart(nodes[2]),
                35 => sim.heal(),
                45 => sim.stop(nodes[0]),
                50 => sim.restart(nodes[0]),
                _ => {}
            }
            sim.run_for(Duration::from_millis(100));
        }
        sim.calm();
        if profile.passes_members {
            assert!(sim.run_until(Simulator::has_converged, PATIENCE), "seed {seed}: the views never agree through it");
        }
        sim.run_for(PATIENCE);
        assert_eq!(sim.open_sends(), 0, "seed {seed}: a send never ends");
        let broken = sim.violations().iter().filter(|broken| profile.passes_messages || broken.promise != Promise::Honesty);
        let broken: Vec<_> = broken.map(ToString::to_string).collect();
        assert!(broken.is_empty(), "seed {seed}: {}", broken.join("\n"));
    }
}

/// Whatever the layer holds is sent or gets a cause when the channel stops.
fn every_leg_is_settled_when_the_channel_stops(profile: Profile, build: &impl Fn() -> StackBuilder) {
    let mut rig = Rig::new(profile, build);
    rig.meet();
    let sends: Vec<_> = (0..10).map(|size| rig.send(size * 100)).collect();
    rig.stack.handle_stop(rig.time);
    rig.poll();
    drop(rig);
    for sending in sends {
        let outcome = sending.wait_timeout(Duration::ZERO);
        let outcome = outcome.expect("every leg is settled, delivered or not, when the channel is stopped");
        let faults = outcome.err().map(|error| error.faults).unwrap_or_default();
        let lost = faults.iter().any(|fault| matches!(fault.cause, FaultCause::Dropped));
        assert!(!lost, "a layer sends or rejects what it holds in `stop`, and never drops a leg");
    }
}

/// Members come, change, go and come back, also out of turn; what is told above adds up.
fn events_make_sense_in_any_order(profile: Profile, build: &impl Fn() -> StackBuilder) {
    for seed in 0..SEEDS {
        let mut rig = Rig::new(profile, build);
        rig.random = seed;
        for _ in 0..500 {
            let member = member(1 + rig.below(5)).with_payload(vec![u8::try_from(rig.below(3)).unwrap_or(0)]);
            let event = match rig.below(6) {
                0 | 1 => Event::Added(member),
                2 => Event::Updated(member),
                3 => Event::Removed(member, Departure::Left),
                4 => Event::Removed(member, Departure::Failed),
                _ => Event::Suspect(member),
            };
            rig.stack.handle_event(rig.time, event);
            rig.poll();
            if rig.below(10) == 0 {
                rig.stack.handle_heartbeat(rig.time);
            }
            rig.pass(Duration::from_millis(400));
            let view: BTreeSet<_> = rig.stack.view().iter().map(|member| member.address().port()).collect();
            assert_eq!(rig.told, view, "seed {seed}: the events add up to the view");
        }
        let gone: Vec<_> = (1..=5).map(|port| Event::Removed(member(port), Departure::Left)).collect();
        for event in gone {
            rig.stack.handle_event(rig.time, event);
            rig.poll();
        }
        assert!(rig.told.is_empty(), "seed {seed}: who has left is gone above, too");
    }
}

/// Bytes of any kind from anybody: no panic, no answer lost.
fn junk_does_no_harm(profile: Profile, build: &impl Fn() -> StackBuilder) {
    for seed in 0..SEEDS {
        let mut rig = Rig::new(profile, build);
        rig.random = seed;
        rig.meet();
        for _ in 0..1000 {
            let length = [0_u16, 1, 4, 9, 20, 64, 300][usize::from(rig.below(7))];
            let body: Vec<u8> = (0..length).map(|_| u8::try_from(rig.below(256)).unwrap_or(0)).collect();
            let sender = rig.below(10);
            let bits = SendOptions::from_bits(u32::from(rig.below(0x400)));
            rig.receive(sender, bits | profile.options, body);
            rig.pass(Duration::from_millis(10));
        }
        rig.stack.handle_stop(rig.time);
        rig.poll();
        let owed = Arc::clone(&rig.owed);
        drop(rig);
        assert_eq!(owed.0.load(Ordering::Relaxed), 0, "seed {seed}: every reply is given once");
    }
}

/// A peer, or the application, that never stops cannot make the layer hold more and more.
fn what_is_held_is_bounded(profile: Profile, build: &impl Fn() -> StackBuilder) {
    let mut rig = Rig::new(profile, build);
    rig.meet();
    let many = profile.max_held.saturating_mul(2).min(100_000);
    for count in 0..many {
        let body = mix(count as u64).to_be_bytes();
        rig.receive(u16::try_from(count % 1000).unwrap_or(0), SendOptions::SYNC_ACK | profile.options, body.to_vec());
        let held = rig.owed.0.load(Ordering::Relaxed);
        assert!(held <= profile.max_held, "{held} messages from others are held");
    }
    let mut sends = Vec::new();
    for _ in 0..many {
        sends.push(rig.send(10));
        if sends.len() > profile.max_held {
            sends.retain(|sending| !sending.is_done());
            assert!(sends.len() <= profile.max_held, "{} messages of the application are held", sends.len());
        }
    }
}

/// One stack; what leaves it succeeds at once.
struct Rig {
    stack: Stack,
    profile: Profile,
    time: Time,
    random: u64,
    told: BTreeSet<u16>,
    owed: Arc<Owed>,
}

/// Counts replies that are not given yet.
#[derive(Debug, Default)]
struct Owed(AtomicUsize, Mutex<BTreeSet<u64>>);

impl Answer for Owed {
    fn answer(&self, token: u64, _: bool) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        let waited = self.1.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
        assert!(waited, "a reply is given once");
    }
}

impl Rig {
    fn new(profile: Profile, build: &impl Fn() -> StackBuilder) -> Self {
        let stack = build().build(member(0), 1).expect("a stack of one layer can be built");
        let time = Time { instant: clock::now(), epoch_millis: 1_700_000_000_000 };
        Self { stack, profile, time, random: 0, told: BTreeSet::new(), owed: Arc::default() }
    }

    /// Five members come, and some time passes.
    fn meet(&mut self) {
        for port in 1..=5 {
            self.stack.handle_event(self.time, Event::Added(member(port)));
            self.poll();
        }
        self.pass(Duration::from_secs(5));
    }

    fn send(&mut self, size: usize) -> Sending {
        let (sending, legs) = Sending::new(self.id(), [member(1), member(2)]);
        let options = self.profile.options | SendOptions::SYNC_ACK;
        let (legs, _) = crate::stack::pass_gates(self.stack.gates(), options, size, legs);
        let message = self.message(0, options, vec![7; size]);
        self.stack.handle_send(self.time, Outbound::new(message, legs));
        self.poll();
        sending
    }

    fn receive(&mut self, sender: u16, options: SendOptions, body: Vec<u8>) {
        let message = self.message(sender, options, body);
        let token = self.random;
        self.owed.0.fetch_add(1, Ordering::Relaxed);
        self.owed.1.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
        let reply = Reply::new(Arc::clone(&self.owed) as Arc<dyn Answer>, token);
        self.stack.handle_receive(self.time, Inbound::new(message, reply));
        self.poll();
    }

    fn message(&mut self, sender: u16, options: SendOptions, body: Vec<u8>) -> Message {
        Message::from_parts(self.id(), options, self.time.epoch_millis, member(sender), Body::from(body))
    }

    fn id(&mut self) -> UniqueId {
        self.random += 1;
        UniqueId::from_bytes(u128::from(mix(self.random)).to_be_bytes())
    }

    fn below(&mut self, bound: u16) -> u16 {
        self.random += 1;
        u16::try_from(mix(self.random) % u64::from(bound)).unwrap_or(0)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.time.instant + time;
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= end) {
            self.time.instant = at.max(self.time.instant);
            self.stack.handle_timeout(self.time);
            self.poll();
        }
        self.time.instant = end;
        self.time.epoch_millis += u64::try_from(time.as_millis()).unwrap_or(0);
    }

    fn poll(&mut self) {
        while let Some(output) = self.stack.poll_output() {
            match output {
                Output::Transmit(msg) => msg.legs.into_iter().for_each(Leg::delivered),
                Output::Deliver(msg) => msg.reply.accept(),
                Output::Probe { layer, member, .. } => self.stack.handle_probed(self.time, layer, &member, Probe::Alive),
                Output::Event(event) => {
                    let port = event.member().address().port();
                    let possible = match &event {
                        Event::Added(_) => self.told.insert(port),
                        Event::Updated(_) => self.told.contains(&port),
                        Event::Removed(..) => self.told.remove(&port),
                        Event::Suspect(_) => false,
                    };
                    assert!(possible, "{event:?} is told out of turn");
                }
            }
        }
    }
}

fn member(port: u16) -> Member {
    let id = UniqueId::from_bytes((1 << 64 | u128::from(port)).to_be_bytes());
    Member::new(([10, 0, 0, 2], port).into()).with_id(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interceptors::{MessageDispatch, TcpFailureDetector, WhenFull};
    use crate::stack::Context;

    #[test]
    fn the_stock_interceptors_conform() {
        check(Profile::default(), TcpFailureDetector::default);
        check(Profile::default(), || MessageDispatch::default().when_full(WhenFull::Fail));
    }

    /// Breaks one promise.
    struct Broken(&'static str, Vec<Outbound>, Vec<Inbound>);

    impl Interceptor for Broken {
        fn name(&self) -> &'static str {
            "Broken"
        }

        fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
            match self.0 {
                "hoards sends" => self.1.push(msg),
                "drops" => drop(msg),
                _ => cx.send(msg),
            }
        }

        fn inbound(&mut self, cx: &mut Context<'_>, mut msg: Inbound) {
            match self.0 {
                "trusts lengths" => assert!(msg.message.body().len() != 9),
                "trims" => drop(msg.message.body_mut().pop_back(1)),
                "hoards" => return self.2.push(msg),
                _ => {}
            }
            cx.deliver(msg);
        }

        fn event(&mut self, cx: &mut Context<'_>, event: Event) {
            if self.0 != "keeps the dead" || !matches!(event, Event::Removed(..)) {
                cx.emit(event);
            }
        }
    }

    #[test]
    fn broken_interceptors_do_not_conform() {
        for bug in ["drops", "hoards sends", "hoards", "trims", "trusts lengths", "keeps the dead"] {
            let found = std::panic::catch_unwind(|| check(Profile::default(), move || Broken(bug, Vec::new(), Vec::new())));
            assert!(found.is_err(), "one that {bug} passes");
        }
        check(Profile::default(), || Broken("does nothing wrong", Vec::new(), Vec::new()));
    }
}
