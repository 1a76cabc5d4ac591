use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::super::SimConfig;
use super::*;
use crate::UniqueId;
use crate::interceptors::TcpFailureDetector;
use crate::stack::Departure;

const LONG: Duration = Duration::from_secs(30);

/// Sends to all it sees in an interval, answers each question with an echo, and counts.
#[derive(Default)]
struct Echo {
    interval: Duration,
    next: Option<Instant>,
    rejects: bool,
    last_token: u64,
    sent: HashMap<(u64, Member), u32>,
    asked: u64,
    echoed: u64,
    rejected: u64,
    last: HashMap<UniqueId, u64>,
    events: Vec<Event>,
    failed: Vec<(u64, FaultCause)>,
}

impl Echo {
    fn every(interval: Duration) -> Self {
        Self { interval, ..Self::default() }
    }

    fn ask(&mut self, cx: &mut AppContext<'_>, to: Vec<Member>, kind: u8) {
        self.last_token += 1;
        let token = self.last_token;
        self.sent.extend(to.iter().map(|member| ((token, member.clone()), 0)));
        let body = [&[kind][..], &token.to_be_bytes()].concat();
        cx.send(to, body, SendOptions::SYNC_ACK, token);
    }

    fn ask_all(&mut self, cx: &mut AppContext<'_>) {
        let all = cx.view().as_slice().to_vec();
        self.ask(cx, all, b'?');
    }

    fn open(&self) -> usize {
        self.sent.values().filter(|told| **told == 0).count()
    }
}

impl Application for Echo {
    fn start(&mut self, cx: &mut AppContext<'_>) {
        assert!(cx.view().is_empty());
        self.next = (!self.interval.is_zero()).then(|| cx.time().instant + self.interval);
    }

    fn message(&mut self, cx: &mut AppContext<'_>, message: &Message) -> bool {
        let body = message.bytes();
        let number = u64::from_be_bytes(body[1..9].try_into().expect("eight bytes"));
        let last = self.last.insert(message.sender().id(), number);
        assert!(last < Some(number), "{number} of {} after {last:?}", message.sender());
        if self.rejects {
            self.rejected += 1;
            return false;
        }
        if body[0] == b'?' {
            self.asked += 1;
            self.ask(cx, vec![message.sender().clone()], b'!');
        } else {
            self.echoed += 1;
        }
        true
    }

    fn event(&mut self, _: &mut AppContext<'_>, event: &Event) {
        self.events.push(event.clone());
    }

    fn outcome(&mut self, _: &mut AppContext<'_>, token: u64, member: &Member, outcome: Result<(), FaultCause>) {
        let told = self.sent.get_mut(&(token, member.clone())).expect("sent by this life");
        *told += 1;
        assert_eq!(*told, 1, "outcome of {token} at {member}");
        self.failed.extend(outcome.err().map(|cause| (token, cause)));
    }

    fn timeout(&mut self, cx: &mut AppContext<'_>) {
        assert!(self.next.is_some_and(|at| at <= cx.time().instant), "not before its time");
        self.next = Some(cx.time().instant + self.interval);
        self.ask_all(cx);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

fn stack() -> StackBuilder {
    StackBuilder::new().push(TcpFailureDetector::default())
}

fn met(mut sim: Simulator) -> Simulator {
    assert!(sim.run_until(Simulator::has_converged, LONG), "the group never met");
    sim
}

fn group(config: SimConfig, interval: Duration) -> (Simulator, [NodeId; 3]) {
    let mut sim = Simulator::new(1, config);
    let nodes = std::array::from_fn(|_| sim.add_application_node(stack, move |_| Echo::every(interval)));
    (met(sim), nodes)
}

fn quiet() -> (Simulator, [NodeId; 3]) {
    group(SimConfig::default(), Duration::ZERO)
}

fn echo(sim: &Simulator, node: NodeId) -> &Echo {
    sim.app(node).expect("it runs")
}

fn ask(sim: &mut Simulator, from: NodeId, to: Vec<Member>) {
    sim.with_app(from, |app: &mut Echo, cx| app.ask(cx, to, b'?')).expect("it runs");
}

/// Faults of every kind, then peace. Returns the trace.
fn history(seed: u64) -> u64 {
    let config = SimConfig::default().loss(0.2).duplicates(0.1).stalls(0.1).breaks(0.1);
    let mut sim = Simulator::new(seed, config);
    let [a, b, c] =
        std::array::from_fn(|_| sim.add_application_node(stack, |cx| Echo::every(Duration::from_millis(50 + cx.random() % 100))));
    sim.run_for(Duration::from_secs(5));
    sim.partition(&[a]);
    sim.run_for(Duration::from_secs(8));
    sim.heal();
    sim.pause(b);
    sim.run_for(Duration::from_secs(5));
    sim.resume(b);
    sim.crash(c);
    sim.run_for(Duration::from_secs(2));
    sim.restart(c);
    sim.run_for(Duration::from_secs(5));
    sim.calm();
    for node in [a, b, c] {
        sim.with_app(node, |app: &mut Echo, _| app.next = None).expect("all run");
    }
    sim.run_for(LONG);
    assert!(sim.has_converged());
    for node in [a, b, c] {
        let echo = echo(&sim, node);
        assert_eq!(echo.open(), 0, "seed {seed}: outcomes never told");
        assert!(echo.asked > 20 && echo.echoed > 20, "seed {seed}: {} questions, {} echoes", echo.asked, echo.echoed);
    }
    assert_eq!(sim.open_sends(), 0);
    sim.assert_promises_kept();
    sim.trace()
}

#[test]
fn every_destination_has_its_outcome_once_whatever_happens() {
    for seed in Simulator::seeds(8) {
        history(seed);
    }
}

#[test]
fn the_same_seed_makes_the_same_run_of_applications() {
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
}

#[test]
fn echoes_come_back() {
    let (mut sim, [a, b, c]) = quiet();
    sim.with_app(a, Echo::ask_all).expect("it runs");
    assert_eq!(echo(&sim, a).open(), 2, "nothing is told at once");
    sim.run_for(Duration::from_secs(1));
    assert_eq!([a, b, c].map(|node| echo(&sim, node).asked), [0, 1, 1]);
    assert_eq!((echo(&sim, a).echoed, echo(&sim, a).open()), (2, 0));
    sim.assert_promises_kept();
}

#[test]
fn the_sender_sees_who_rejected() {
    let (mut sim, [a, b, c]) = quiet();
    sim.with_app(b, |app: &mut Echo, _| app.rejects = true).expect("it runs");
    sim.with_app(a, Echo::ask_all).expect("it runs");
    sim.run_for(Duration::from_secs(1));
    assert!(matches!(echo(&sim, a).failed[..], [(1, FaultCause::Rejected)]), "{:?}", echo(&sim, a).failed);
    assert_eq!((echo(&sim, a).open(), echo(&sim, a).echoed), (0, 1));
    assert_eq!((echo(&sim, b).rejected, echo(&sim, c).asked), (1, 1));
    sim.assert_promises_kept();
}

#[test]
fn listeners_that_are_made_to_fail_reject_what_the_application_accepts() {
    let (mut sim, [a, b, _]) = quiet();
    sim.reject_messages(b, true);
    let to = vec![sim.member(b)];
    ask(&mut sim, a, to);
    sim.run_for(Duration::from_secs(1));
    assert!(matches!(echo(&sim, a).failed[..], [(1, FaultCause::Rejected)]));
    assert_eq!(echo(&sim, b).asked, 1);
}

#[test]
fn each_leg_is_told_when_its_own_outcome_is_known() {
    let (mut sim, [a, b, c]) = quiet();
    sim.pause(c);
    sim.with_app(a, Echo::ask_all).expect("it runs");
    let (quick, slow) = (sim.member(b), sim.member(c));
    sim.run_for(Duration::from_millis(100));
    assert_eq!((echo(&sim, a).sent[&(1, quick)], echo(&sim, a).sent[&(1, slow.clone())]), (1, 0));
    sim.resume(c);
    sim.run_for(Duration::from_millis(100));
    assert_eq!(echo(&sim, a).sent[&(1, slow)], 1);
}

#[test]
fn a_paused_application_does_not_run() {
    let (mut sim, [a, b, _]) = group(SimConfig::default(), Duration::from_millis(10));
    sim.run_for(Duration::from_secs(1));
    sim.pause(b);
    let state = |sim: &Simulator| (echo(sim, b).last_token, echo(sim, b).asked, echo(sim, b).open());
    let before = state(&sim);
    sim.run_for(Duration::from_secs(2));
    assert_eq!(state(&sim), before);
    assert!(sim.with_app(b, |_: &mut Echo, _| ()).is_none());
    sim.resume(b);
    sim.run_for(Duration::from_secs(1));
    assert!(state(&sim) > before);
    assert!(echo(&sim, a).failed.is_empty() && echo(&sim, b).failed.is_empty(), "two seconds are not too long");
    sim.assert_promises_kept();
}

#[test]
fn a_crash_loses_the_application_and_a_restart_makes_another() {
    let (mut sim, [a, b, _]) = quiet();
    let to = vec![sim.member(b)];
    ask(&mut sim, a, to);
    let before = sim.member(a);
    sim.crash(a);
    assert!(sim.app::<Echo>(a).is_none() && sim.with_app(a, |_: &mut Echo, _| ()).is_none());
    sim.restart(a);
    sim.run_for(LONG);
    // An outcome that its predecessor was waiting for would have made it panic.
    let echo = echo(&sim, a);
    assert_eq!((echo.last_token, echo.events.len()), (0, 2));
    assert_ne!(sim.member(a).id(), before.id());
}

#[test]
fn an_application_is_of_its_own_type_only() {
    struct Deaf;
    impl Application for Deaf {
        fn message(&mut self, _: &mut AppContext<'_>, _: &Message) -> bool {
            true
        }
    }
    let mut sim = Simulator::new(1, SimConfig::default());
    let [deaf, bare] = [sim.add_application_node(stack, |_| Deaf), sim.add_node(stack)];
    assert!(sim.app::<Deaf>(deaf).is_some() && sim.app::<Echo>(deaf).is_none());
    assert!(sim.app::<Deaf>(bare).is_none() && sim.with_app(deaf, |_: &mut Echo, _| ()).is_none());
}

#[test]
fn what_is_under_way_to_a_member_that_goes_fails() {
    let (mut sim, [a, b, c]) = quiet();
    let gone = sim.member(c);
    sim.partition(&[c]);
    ask(&mut sim, a, vec![gone.clone()]);
    assert!(sim.run_until(|sim| !sim.view(a).contains(&gone), LONG));
    assert!(matches!(echo(&sim, a).events.last(), Some(Event::Removed(member, Departure::Failed)) if *member == gone));
    sim.run_for(LONG);
    ask(&mut sim, a, vec![gone]);
    sim.run_for(LONG);
    assert_eq!((echo(&sim, a).failed.len(), echo(&sim, a).open()), (2, 0));
    assert_eq!(echo(&sim, b).asked, 0);
    sim.assert_promises_kept();
}

/// Sends a last word, and writes down what it hears.
struct Leaver(Rc<RefCell<Vec<String>>>);

impl Application for Leaver {
    fn message(&mut self, cx: &mut AppContext<'_>, message: &Message) -> bool {
        self.0.borrow_mut().push(format!("{} hears {:?}", cx.local().address().port(), message.bytes()));
        true
    }

    fn outcome(&mut self, cx: &mut AppContext<'_>, token: u64, member: &Member, outcome: Result<(), FaultCause>) {
        self.0.borrow_mut().push(format!("{token}: {:?}", outcome.map_err(|cause| cause.to_string())));
        cx.send([member.clone()], "once more", SendOptions::SYNC_ACK, token + 1);
    }

    fn stopping(&mut self, cx: &mut AppContext<'_>) {
        let all = cx.view().as_slice().to_vec();
        cx.send(all, "goodbye", SendOptions::SYNC_ACK, 9);
    }
}

#[test]
fn an_application_that_is_stopped_says_a_last_word_and_hears_what_became_of_all() {
    let log = Rc::default();
    let mut sim = Simulator::new(1, SimConfig::default());
    let [a, b] = std::array::from_fn(|_| {
        let log = Rc::clone(&log);
        sim.add_application_node(stack, move |_| Leaver(Rc::clone(&log)))
    });
    let mut sim = met(sim);
    let to = sim.member(b);
    // A connection is open then.
    sim.with_app(a, |_: &mut Leaver, cx| cx.send([to], "hello", SendOptions::SYNC_ACK, None)).expect("it runs");
    sim.run_for(Duration::from_secs(1));
    sim.stop(a);
    assert!(sim.app::<Leaver>(a).is_none());
    sim.run_for(LONG);
    let stopped = FaultCause::Stopped.to_string();
    assert_eq!(*log.borrow(), ["4001 hears b\"hello\"".into(), format!("9: Err({stopped:?})"), "4001 hears b\"goodbye\"".into()]);
    sim.assert_promises_kept();
}

#[test]
fn who_resends_at_once_what_fails_at_once_does_not_stop_time() {
    struct Stubborn(u64);
    impl Application for Stubborn {
        fn message(&mut self, _: &mut AppContext<'_>, _: &Message) -> bool {
            true
        }

        fn outcome(&mut self, cx: &mut AppContext<'_>, _: u64, member: &Member, outcome: Result<(), FaultCause>) {
            assert!(outcome.is_err());
            self.0 += 1;
            cx.send([member.clone()], "x", SendOptions::SYNC_ACK, self.0);
        }
    }
    let mut sim = Simulator::new(1, SimConfig::default());
    let a = sim.add_application_node(stack, |_| Stubborn(0));
    let nobody = Member::new(([10, 9, 9, 9], 1).into());
    sim.with_app(a, |_: &mut Stubborn, cx| cx.send([nobody], "x", SendOptions::SYNC_ACK, 0)).expect("it runs");
    sim.run_for(Duration::from_millis(1));
    assert!(sim.app::<Stubborn>(a).is_some_and(|app| app.0 >= 10));
}

#[test]
#[should_panic(expected = "is due again and again")]
fn a_timeout_that_stays_due_is_found() {
    struct Impatient(Option<Instant>);
    impl Application for Impatient {
        fn start(&mut self, cx: &mut AppContext<'_>) {
            self.0 = Some(cx.time().instant);
        }

        fn message(&mut self, _: &mut AppContext<'_>, _: &Message) -> bool {
            true
        }

        fn poll_timeout(&self) -> Option<Instant> {
            self.0
        }
    }
    let mut sim = Simulator::new(1, SimConfig::default());
    sim.add_application_node(stack, |_| Impatient(None));
    sim.run_for(Duration::from_secs(1));
}

#[test]
fn outcomes_are_for_those_who_gave_a_token_and_one_for_each_destination() {
    #[derive(Default)]
    struct Told(Vec<(u64, Member)>, usize);
    impl Application for Told {
        fn message(&mut self, _: &mut AppContext<'_>, _: &Message) -> bool {
            self.1 += 1;
            true
        }

        fn outcome(&mut self, _: &mut AppContext<'_>, token: u64, member: &Member, outcome: Result<(), FaultCause>) {
            assert!(outcome.is_ok());
            self.0.push((token, member.clone()));
        }
    }
    let mut sim = Simulator::new(1, SimConfig::default());
    let [a, b] = std::array::from_fn(|_| sim.add_application_node(stack, |_| Told::default()));
    let mut sim = met(sim);
    let (local, other) = (sim.member(a), sim.member(b));
    let to = other.clone();
    sim.with_app(a, |_: &mut Told, cx| {
        cx.send([to.clone()], "x", SendOptions::SYNC_ACK, None);
        cx.send([to.clone(), to.clone()], "x", SendOptions::SYNC_ACK, 1);
        cx.send([], "x", SendOptions::SYNC_ACK, 2);
        cx.send([to], "x", SendOptions::MULTICAST, 3);
    });
    sim.run_for(Duration::from_secs(1));
    let mut told = sim.app::<Told>(a).expect("it runs").0.clone();
    told.sort_by_key(|(token, _)| *token);
    assert_eq!(told, [(1, other), (3, local)]);
    assert_eq!(sim.app::<Told>(b).expect("it runs").1, 3);
}

#[test]
fn timers_follow_the_clock_of_their_node() {
    let (mut sim, nodes) = group(SimConfig::default(), Duration::from_secs(1));
    let start = nodes.map(|node| echo(&sim, node).last_token);
    let [fast, slow, _] = nodes;
    sim.set_clock(fast, 200_000, 0);
    sim.set_clock(slow, -500_000, 0);
    for node in nodes {
        sim.with_app(node, |app: &mut Echo, cx| app.next = Some(cx.time().instant + app.interval)).expect("it runs");
    }
    sim.run_for(Duration::from_millis(10_500));
    // What each asked by itself, without the echoes that it owed.
    let asked = nodes.map(|node| echo(&sim, node).last_token - echo(&sim, node).asked);
    assert_eq!((start, asked), ([0; 3], [12, 5, 10]));
}

#[test]
fn a_wall_clock_may_be_ahead_or_behind_and_jump_while_the_other_clock_goes_on() {
    const MINUTES: i64 = 10 * 60_000;
    let (mut sim, [a, b, _]) = quiet();
    let time = |sim: &mut Simulator, node| sim.with_app(node, |_: &mut Echo, cx| cx.time()).expect("it runs");
    let (true_time, mut last) = (time(&mut sim, b).epoch_millis, time(&mut sim, a).instant);
    for ahead in [MINUTES, -MINUTES, 0, -MINUTES, MINUTES] {
        sim.set_clock(a, 0, ahead);
        let now = time(&mut sim, a);
        assert_eq!(now.epoch_millis, true_time.saturating_add_signed(ahead));
        assert_eq!(now.instant, last, "the monotonic clock does not jump");
        last = now.instant;
    }
    sim.run_for(Duration::from_secs(60));
    let (ahead, others) = (time(&mut sim, a), time(&mut sim, b));
    assert_eq!(ahead.epoch_millis, others.epoch_millis.saturating_add_signed(MINUTES));
    assert_eq!(ahead.instant - last, Duration::from_secs(60));
    // It is the host's clock: it stays wrong in the next life.
    sim.restart(a);
    assert_eq!(time(&mut sim, a).epoch_millis, ahead.epoch_millis);
    assert!(sim.run_until(Simulator::has_converged, LONG));
    sim.assert_promises_kept();
}

#[test]
fn messages_bear_the_wall_clock_of_their_sender() {
    let (mut sim, [a, b, _]) = quiet();
    sim.set_clock(a, 0, -300_000);
    let to = sim.member(b);
    let sent = sim.with_app(a, |app: &mut Echo, cx| {
        app.ask(cx, vec![to], b'?');
        cx.time().epoch_millis
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!(Some(sim.received(b)[0].message.timestamp_millis()), sent);
}

#[test]
fn random_numbers_depend_on_seed_and_node() {
    let draw = |seed| {
        let mut sim = Simulator::new(seed, SimConfig::default());
        let nodes: [_; 2] = std::array::from_fn(|_| sim.add_application_node(stack, |_| Echo::default()));
        nodes.map(|node| sim.with_app(node, |_: &mut Echo, cx| cx.random()).expect("it runs"))
    };
    let [one, other] = draw(1);
    assert_eq!(draw(1), [one, other]);
    assert_ne!(one, other);
    assert!(!draw(2).contains(&one));
}
