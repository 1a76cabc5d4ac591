//! The behaviour table of the detector, line by line, in a real stack on a clock of its own.

use super::*;
use crate::message::{Body, Message};
use crate::stack::{LayerId, Output, Reply, Stack, StackBuilder, Time};
use crate::wire::{Frame, FrameDecoder, channel_data};

#[test]
fn a_newcomer_is_shown_when_it_answers() {
    let mut rig = Rig::new();
    let a = member(1);
    rig.event(Event::Added(a.clone()));
    assert_eq!(rig.shown(), []);
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.events(), [Event::Added(a.clone())]);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.probes(), [], "a member that is heard is left alone");
}

#[test]
fn a_dead_newcomer_is_hidden_and_probed_again_with_pauses_that_grow() {
    let mut rig = Rig::new();
    let a = member(1);
    rig.event(Event::Added(a.clone()));
    for (outcome, pause) in
        [(Probe::Refused, 1), (Probe::Unreachable, 2), (Probe::Refused, 4), (Probe::Refused, 8), (Probe::Refused, 10)]
    {
        rig.answer(&a, outcome);
        rig.pass(Duration::from_millis(pause * 1000 - 1));
        assert_eq!(rig.probes(), [], "not before {pause} s");
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.peek(), [&a]);
    }
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.events(), [Event::Added(a)]);
}

#[test]
fn the_heartbeat_probes_the_hidden_at_once() {
    let mut rig = Rig::new();
    let a = member(1);
    rig.event(Event::Added(a.clone()));
    rig.answer(&a, Probe::Refused);
    rig.stack.handle_heartbeat(rig.time);
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.shown(), [a]);
}

#[test]
fn an_update_of_a_hidden_member_is_kept_until_it_is_shown() {
    let mut rig = Rig::new();
    let a = member(1);
    let changed = a.with_payload("new");
    rig.event(Event::Added(a.clone()));
    rig.event(Event::Updated(changed.clone()));
    assert_eq!(rig.events(), []);
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.shown()[0].payload(), changed.payload());
    rig.events();
    rig.event(Event::Updated(a.with_payload("newer")));
    assert_eq!(rig.events(), [Event::Updated(a.clone())]);
    assert_eq!(rig.shown()[0].payload(), "newer");
}

#[test]
fn a_goodbye_is_believed() {
    let mut rig = Rig::with([1, 2]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Left));
    assert_eq!(rig.events(), [Event::Removed(a, Departure::Left)]);
    assert_eq!(rig.probes(), []);
}

#[test]
fn a_goodbye_before_the_answer_leaves_the_member_hidden() {
    let mut rig = Rig::new();
    let a = member(1);
    rig.event(Event::Added(a.clone()));
    rig.event(Event::Removed(a.clone(), Departure::Left));
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.events(), []);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.probes(), []);
}

#[test]
fn a_silent_member_that_answers_stays_and_is_probed_every_second() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Failed));
    for _ in 0..10 {
        rig.answer(&a, Probe::Alive);
        assert_eq!(rig.probes(), []);
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.events(), []);
    assert_eq!(rig.detector.stats().silent, 1);
    rig.answer(&a, Probe::Refused);
    assert_eq!(rig.events(), [Event::Removed(a, Departure::Failed)]);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.probes(), [], "it is forgotten");
}

#[test]
fn a_silent_member_without_an_answer_is_gone() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Failed));
    rig.answer(&a, Probe::Unreachable);
    assert_eq!(rig.events(), [Event::Removed(a, Departure::Failed)]);
}

#[test]
fn a_silent_member_that_is_heard_again_is_left_alone() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Failed));
    rig.answer(&a, Probe::Alive);
    rig.event(Event::Added(a.with_payload("back")));
    assert_eq!(rig.events(), [Event::Updated(a)]);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.probes(), []);
}

#[test]
fn after_the_suspects_timeout_a_silent_member_is_still_probed_though_less() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Failed));
    rig.answer(&a, Probe::Alive);
    for _ in 0..300 {
        rig.pass(Duration::from_secs(1));
        rig.answer(&a, Probe::Alive);
    }
    rig.pass(Duration::from_millis(9_999));
    assert_eq!(rig.probes(), []);
    rig.pass(Duration::from_millis(1));
    rig.answer(&a, Probe::Refused);
    assert_eq!(rig.shown(), []);
}

#[test]
fn a_suspect_that_refuses_twice_is_gone_and_found_again() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Suspect(a.clone()));
    rig.answer(&a, Probe::Refused);
    assert_eq!((rig.events(), rig.probes()), (vec![], vec![]));
    rig.pass(FAREWELL);
    rig.answer(&a, Probe::Refused);
    assert_eq!(rig.events(), [Event::Removed(a.clone(), Departure::Failed)]);
    rig.pass(Duration::from_secs(1));
    rig.answer(&a, Probe::Alive);
    assert_eq!(rig.events(), [Event::Added(a)]);
}

#[test]
fn a_suspect_that_refuses_because_it_is_leaving_has_left() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Suspect(a.clone()));
    rig.answer(&a, Probe::Refused);
    rig.event(Event::Removed(a.leaving(), Departure::Left));
    assert!(matches!(rig.events()[..], [Event::Removed(_, Departure::Left)]));
    rig.pass(FAREWELL);
    assert_eq!(rig.probes(), []);
}

#[test]
fn a_suspect_that_answers_is_probed_thrice_more() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    for last in [Probe::Alive, Probe::Refused] {
        rig.event(Event::Suspect(a.clone()));
        rig.event(Event::Suspect(a.clone()));
        assert_eq!(rig.peek(), [&a], "one probe at a time");
        rig.answer(&a, Probe::Alive);
        for pause in RECHECKS {
            assert_eq!(rig.probes(), []);
            rig.pass(pause);
            assert_eq!(rig.peek(), [&a]);
            rig.answer(&a, if pause == RECHECKS[2] { last } else { Probe::Alive });
        }
        rig.pass(FAREWELL);
        rig.answer(&a, last);
        assert_eq!(rig.shown().len(), usize::from(last == Probe::Alive));
    }
}

#[test]
fn a_suspect_is_given_a_second_probe_when_the_first_finds_no_answer() {
    let mut rig = Rig::with([1, 2]);
    let (a, b) = (member(1), member(2));
    rig.event(Event::Suspect(a.clone()));
    rig.answer(&a, Probe::Unreachable);
    rig.answer(&a, Probe::Alive);
    rig.event(Event::Suspect(b.clone()));
    rig.answer(&b, Probe::Unreachable);
    assert_eq!(rig.events(), []);
    rig.answer(&b, Probe::Unreachable);
    assert_eq!(rig.events(), [Event::Removed(b, Departure::Failed)]);
    assert_eq!(rig.shown(), [a]);
}

#[test]
fn suspects_that_are_hidden_or_unknown_change_nothing() {
    let mut rig = Rig::new();
    let a = member(1);
    rig.event(Event::Added(a.clone()));
    rig.answer(&a, Probe::Refused);
    rig.event(Event::Suspect(a));
    rig.event(Event::Suspect(member(2)));
    assert_eq!(rig.probes(), []);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_restarted_member_replaces_its_former_self() {
    let mut rig = Rig::with([1]);
    let old = member(1);
    let new = old.with_id(UniqueId::from_bytes([0xaa; 16]));
    rig.event(Event::Added(new.clone()));
    assert_eq!(rig.shown(), std::slice::from_ref(&old), "not before it answers");
    rig.answer(&new, Probe::Alive);
    assert_eq!(rig.events(), [Event::Removed(old.clone(), Departure::Failed), Event::Added(new.clone())]);
    rig.stack.handle_heartbeat(rig.time);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.probes(), [], "the former self is not probed, for it would be the new one that answers");
    rig.event(Event::Removed(old, Departure::Failed));
    assert_eq!((rig.events(), rig.shown()), (vec![], vec![new]));
}

#[test]
fn a_placeholder_is_shown_until_whom_it_stands_for_has_answered() {
    for told_first in [true, false] {
        let mut rig = Rig::new();
        let real = member(1);
        let placeholder = Member::placeholder(real.address());
        rig.event(Event::Added(placeholder.clone()));
        rig.answer(&placeholder, Probe::Alive);
        rig.events();
        rig.event(Event::Added(real.clone()));
        if told_first {
            rig.event(Event::Removed(placeholder.clone(), Departure::Identified));
            assert_eq!(rig.shown(), std::slice::from_ref(&placeholder), "better than nobody");
        }
        rig.answer(&real, Probe::Alive);
        let swapped = [Event::Added(real.clone()), Event::Removed(placeholder.clone(), Departure::Identified)];
        assert_eq!(rig.events(), swapped, "and never neither");
        if !told_first {
            rig.event(Event::Removed(placeholder, Departure::Identified));
        }
        rig.probes();
        rig.pass(Duration::from_secs(60));
        assert_eq!((rig.events(), rig.probes(), rig.shown()), (vec![], vec![], vec![real]));
    }
}

#[test]
fn a_placeholder_goes_when_nobody_answers_there_though_somebody_has_been_heard() {
    let mut rig = Rig::new();
    let real = member(1);
    let placeholder = Member::placeholder(real.address());
    rig.event(Event::Added(placeholder.clone()));
    rig.answer(&placeholder, Probe::Alive);
    rig.events();
    rig.event(Event::Added(real.clone()));
    rig.event(Event::Removed(placeholder.clone(), Departure::Identified));
    rig.answer(&real, Probe::Refused);
    rig.answer(&placeholder, Probe::Refused);
    assert_eq!(rig.events(), [Event::Removed(placeholder, Departure::Failed)]);
}

#[test]
fn the_later_of_two_at_one_address_wins_whichever_answers_first() {
    let mut rig = Rig::new();
    let old = member(1);
    let new = old.with_id(UniqueId::from_bytes([0; 16]));
    rig.event(Event::Added(old.clone()));
    rig.event(Event::Added(new.clone()));
    rig.answer(&new, Probe::Alive);
    rig.answer(&old, Probe::Alive);
    assert_eq!(rig.shown(), [new]);
}

#[test]
fn an_impostor_is_gone_as_soon_as_it_is_silent() {
    let mut rig = Rig::with([1]);
    let honest = member(1);
    let forged = honest.with_id(UniqueId::from_bytes([0xaa; 16]));
    rig.event(Event::Added(forged.clone()));
    rig.answer(&forged, Probe::Alive);
    rig.event(Event::Removed(forged, Departure::Failed));
    rig.answer(&honest, Probe::Alive);
    assert_eq!(rig.shown(), [honest]);
}

#[test]
fn a_probe_whose_outcome_never_comes_counts_as_unanswered() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.event(Event::Removed(a.clone(), Departure::Failed));
    assert_eq!(rig.probes().len(), 1);
    rig.pass(Duration::from_secs(20));
    assert_eq!(rig.events(), [Event::Removed(a, Departure::Failed)]);
}

#[test]
fn probes_in_flight_are_bounded_and_the_rest_follows() {
    let mut rig = Rig::new();
    let count = u16::try_from(MAX_PROBES).expect("small") + 10;
    (0..count).for_each(|port| rig.event(Event::Added(member(port))));
    assert_eq!(rig.peek().len(), MAX_PROBES);
    (0..count).for_each(|port| rig.answer(&member(port), Probe::Alive));
    assert_eq!(rig.shown().len(), usize::from(count));
}

#[test]
fn a_full_table_refuses_newcomers_until_there_is_room() {
    let mut rig = Rig::new();
    let limit = u16::try_from(MAX_MEMBERS).expect("small");
    (0..=limit).for_each(|port| rig.event(Event::Added(member(port))));
    assert_eq!(rig.detector.stats().refused, 1);
    rig.event(Event::Removed(member(7), Departure::Left));
    rig.stack.handle_heartbeat(rig.time);
    assert_eq!(rig.detector.stats().hidden, MAX_MEMBERS);
    assert_eq!(rig.detector.stats().refused, 1);
}

#[test]
fn a_probe_is_the_frame_that_tribes_sends() {
    let body = "4fa77348798243c99f6f8980a15b07147dd9525bebf1439ab77ebe8f81671eb6\
                3715be87457e4ca8bf0a4d135338153255f694b73afa407891047dd77284c0d5";
    for (detector, options, answer) in [
        (TcpFailureDetector::default(), Some(1), None),
        (TcpFailureDetector::default().read_test(true), Some(3), Some(Duration::from_secs(5))),
        (TcpFailureDetector::default().send_test(false).read_test(true), None, None),
    ] {
        let mut rig = Rig::of(detector);
        rig.event(Event::Added(member(1)));
        let (_, request) = rig.requests().pop().expect("a probe");
        assert_eq!(request.connect_timeout, Duration::from_secs(1));
        assert_eq!(request.expect_answer.then_some(request.answer_timeout), answer);
        let message = sent(&request);
        assert_eq!(message.as_ref().map(|message| message.options().bits()), options);
        if let Some(message) = message {
            assert_eq!(message.sender(), &member(0));
            assert_eq!(message.bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), body);
        }
    }
}

#[test]
fn probes_are_swallowed_and_nothing_else_is() {
    let mut rig = Rig::with([1]);
    let mut near = PROBE.to_vec();
    near[63] ^= 1;
    for (body, passed) in [(PROBE.to_vec(), false), (near, true), (PROBE[..63].to_vec(), true), (vec![], true)] {
        rig.receive(body);
        assert_eq!(rig.stack.poll_output().is_some(), passed);
    }
}

#[test]
fn verifying_who_has_just_probed_us_sends_nothing() {
    let mut rig = Rig::with([1]);
    let a = member(1);
    rig.receive(PROBE.to_vec());
    rig.event(Event::Suspect(a.clone()));
    assert!(sent(&rig.requests().pop().expect("a probe").1).is_none());
    rig.answer(&a, Probe::Alive);
    rig.pass(Duration::from_secs(10));
    rig.answer(&a, Probe::Alive);
    rig.event(Event::Suspect(a));
    assert!(sent(&rig.requests().pop().expect("a probe").1).is_some());
}

struct Rig {
    stack: Stack,
    detector: DetectorMonitor,
    time: Time,
    probes: Vec<(LayerId, Member, ProbeRequest)>,
    events: Vec<Event>,
}

impl Rig {
    fn new() -> Self {
        Self::of(TcpFailureDetector::default())
    }

    /// With these members shown.
    fn with<const N: usize>(ports: [u16; N]) -> Self {
        let mut rig = Self::new();
        for member in ports.map(member) {
            rig.event(Event::Added(member.clone()));
            rig.answer(&member, Probe::Alive);
        }
        rig.events();
        rig
    }

    fn of(detector: TcpFailureDetector) -> Self {
        let monitor = detector.monitor();
        let stack = StackBuilder::new().push(detector).build(member(0), 1).expect("one layer");
        let time = Time { instant: crate::clock::now(), epoch_millis: 0 };
        Self { stack, detector: monitor, time, probes: vec![], events: vec![] }
    }

    fn event(&mut self, event: Event) {
        self.stack.handle_event(self.time, event);
        self.poll();
    }

    fn receive(&mut self, body: Vec<u8>) {
        let message = Message::from_parts(UniqueId::from_bytes([5; 16]), SendOptions::NONE, 0, member(1), Body::from(body));
        self.stack.handle_receive(self.time, Inbound::new(message, Reply::none()));
    }

    /// Lets time pass, from one wake-up to the next.
    fn pass(&mut self, time: Duration) {
        let end = self.time.instant + time;
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= end) {
            self.time.instant = at;
            self.stack.handle_timeout(self.time);
            self.poll();
        }
        self.time.instant = end;
    }

    /// Gives the outcome of the probe of this member, if one is on its way.
    fn answer(&mut self, member: &Member, outcome: Probe) {
        self.poll();
        if let Some(at) = self.probes.iter().position(|(_, probed, _)| probed == member) {
            let (layer, member, _) = self.probes.remove(at);
            self.stack.handle_probed(self.time, layer, &member, outcome);
            self.poll();
        }
    }

    fn poll(&mut self) {
        while let Some(output) = self.stack.poll_output() {
            match output {
                Output::Probe { layer, member, request } => self.probes.push((layer, member, request)),
                Output::Event(event) => self.events.push(event),
                other => panic!("{other:?}"),
            }
        }
    }

    fn peek(&self) -> Vec<&Member> {
        self.probes.iter().map(|(_, member, _)| member).collect()
    }

    fn probes(&mut self) -> Vec<Member> {
        self.requests().into_iter().map(|(member, _)| member).collect()
    }

    fn requests(&mut self) -> Vec<(Member, ProbeRequest)> {
        self.poll();
        self.probes.drain(..).map(|(_, member, request)| (member, request)).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        self.poll();
        std::mem::take(&mut self.events)
    }

    fn shown(&self) -> Vec<Member> {
        self.stack.view().iter().cloned().collect()
    }
}

fn member(port: u16) -> Member {
    let id = 0x8000_u128 + u128::from(port);
    Member::new(([127, 0, 0, 1], port).into()).with_id(UniqueId::from_bytes(id.to_be_bytes()))
}

/// The message that a probe sends.
fn sent(request: &ProbeRequest) -> Option<Message> {
    let mut stream = bytes::BytesMut::from(&request.frame[..]);
    match FrameDecoder::new(1 << 20).next(&mut stream).expect("a frame or nothing") {
        Some(Frame::Data(data)) => Some(channel_data::decode(&data, None).expect("a message")),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}
