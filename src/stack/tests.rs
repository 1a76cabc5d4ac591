//! The stack against layers that write down what they see.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::completion::{FaultCause, Sending};
use crate::id::UniqueId;
use crate::message::{Body, Message};

#[test]
fn layers_see_messages_in_order_downwards_and_in_reverse_upwards() {
    let mut rig = Rig::new(|rig| [rig.layer("a"), rig.layer("b"), rig.layer("c")].into_iter().fold(StackBuilder::new(), push));
    rig.send(SendOptions::NONE, "x");
    assert_eq!(rig.log(), "a<x b<x c<x");
    rig.receive(SendOptions::NONE, "y");
    assert_eq!(rig.log(), "c>y b>y a>y");
    assert_eq!(rig.outputs(), "transmit x, deliver y");
}

#[test]
fn layers_bound_to_options_see_only_messages_with_all_of_them() {
    for (options, seen) in [(0, "a"), (1, "a"), (2, "a b"), (3, "a b c"), (7, "a b c")] {
        let mut rig = Rig::new(|rig| {
            let bits = SendOptions::from_bits;
            StackBuilder::new().push(rig.layer("a")).push_for(bits(2), rig.layer("b")).push_for(bits(3), rig.layer("c"))
        });
        rig.send(SendOptions::from_bits(options), "");
        assert_eq!(rig.log().replace('<', ""), seen, "{options} downwards");
        rig.receive(SendOptions::from_bits(options), "");
        assert_eq!(rig.log().replace('>', "").split(' ').rev().collect::<Vec<_>>().join(" "), seen, "{options} upwards");
        rig.stack.handle_event(rig.time, Event::Added(member(1)));
        assert_eq!(rig.log(), "c:Added(1) b:Added(1) a:Added(1)", "events reach every layer");
        rig.stack.handle_heartbeat(rig.time);
        assert_eq!(rig.log(), "a:heartbeat b:heartbeat c:heartbeat");
    }
}

#[test]
fn what_one_layer_makes_keeps_its_order_and_meets_only_the_layers_beyond() {
    let mut rig = Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(Doubler).push(rig.layer("b")));
    rig.send(SendOptions::NONE, "1");
    rig.send(SendOptions::NONE, "2");
    assert_eq!(rig.log(), "a<1 b<1 b<1 a<2 b<2 b<2");
    rig.receive(SendOptions::NONE, "3");
    assert_eq!(rig.log(), "b>3 b<echo a>3");
    assert_eq!(rig.outputs(), "transmit 1, transmit 1, transmit 2, transmit 2, transmit echo, deliver 3");
}

#[test]
fn each_layer_has_the_view_of_the_layers_below_it() {
    let mut rig = Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(Hide(2)).push(rig.layer("b")));
    for port in [2, 1, 3] {
        rig.stack.handle_event(rig.time, Event::Added(member(port)));
    }
    rig.log();
    rig.send(SendOptions::NONE, "view");
    assert_eq!(rig.log(), "a<[1, 3] b<[1, 2, 3]");
    assert_eq!(ports(rig.stack.view()), [1, 3]);
    rig.stack.handle_event(rig.time, Event::Removed(member(2), Departure::Left));
    rig.stack.handle_event(rig.time, Event::Removed(member(3), Departure::Left));
    rig.log();
    rig.send(SendOptions::NONE, "view");
    assert_eq!(rig.log(), "a<[1] b<[1]");
}

#[test]
fn the_application_is_told_of_changes_only() {
    let mut rig = Rig::new(|_| StackBuilder::new());
    let (old, new) = (member(1), member(1).with_payload("new"));
    for event in [
        Event::Updated(old.clone()),
        Event::Added(old.clone()),
        Event::Added(old.clone()),
        Event::Suspect(old.clone()),
        Event::Updated(old.with_alive_millis(5)),
        Event::Updated(new.clone()),
        Event::Added(new.with_payload("newer")),
        Event::Removed(new.clone(), Departure::Failed),
        Event::Removed(new, Departure::Left),
    ] {
        rig.stack.handle_event(rig.time, event);
    }
    assert_eq!(rig.outputs(), "Added(1), Updated(1), Updated(1), Removed(1)");
}

#[test]
fn a_probe_comes_back_to_the_layer_that_asked() {
    let mut rig = Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(rig.layer("b")).push(rig.layer("c")));
    rig.receive(SendOptions::NONE, "probe b");
    let Some(Output::Probe { layer, member, .. }) = rig.stack.poll_output() else { panic!("a probe is asked for") };
    rig.log();
    rig.stack.handle_probed(rig.time, layer, &member, Probe::Refused);
    assert_eq!(rig.log(), "b:Refused(9)");
}

#[test]
fn timers_fire_when_due_each_in_its_layer() {
    let mut rig = Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(rig.layer("b")));
    assert_eq!(rig.stack.poll_timeout(), None);
    rig.send(SendOptions::NONE, "wake a 20");
    rig.send(SendOptions::NONE, "wake b 10");
    rig.send(SendOptions::NONE, "wake b 30");
    rig.log();
    let mut fired = Vec::new();
    while let Some(at) = rig.stack.poll_timeout() {
        fired.push(u64::try_from((at - rig.time.instant).as_millis()).expect("short"));
        rig.stack.handle_timeout(Time { instant: at, ..rig.time });
    }
    assert_eq!(fired, [10, 20], "of two times of one layer the earlier stands");
    assert_eq!(rig.log(), "b:timeout a:timeout");
    rig.send(SendOptions::NONE, "wake a 20");
    rig.log();
    rig.stack.handle_timeout(rig.time);
    assert_eq!(rig.log(), "", "an early call does nothing");
    assert!(rig.stack.poll_timeout().is_some());
}

#[test]
fn a_stopped_stack_lets_its_layers_send_what_they_hold_from_the_top() {
    let mut rig =
        Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(Hold(None)).push(rig.layer("b")).push(Hold2(Hold(None))));
    let sending = rig.sending(SendOptions::NONE, "x");
    assert_eq!((rig.log(), rig.outputs()), ("a<x".to_owned(), String::new()));
    rig.stack.handle_stop(rig.time);
    assert_eq!(rig.log(), "a:stop b<x b:stop");
    let Some(Output::Transmit(msg)) = rig.stack.poll_output() else { panic!("the message leaves") };
    msg.legs.into_iter().for_each(Leg::delivered);
    assert!(sending.wait().is_ok());
}

#[test]
fn what_a_layer_loses_is_reported() {
    let mut rig = Rig::new(|_| StackBuilder::new().push(Hold(None)));
    let sending = rig.sending(SendOptions::NONE, "x");
    drop(rig);
    assert!(matches!(sending.wait().expect_err("lost").faults[..], [crate::Fault { cause: FaultCause::Dropped, .. }]));
}

#[test]
fn a_reply_travels_up_with_its_message() {
    #[derive(Debug, Default)]
    struct Answers(Mutex<Vec<(u64, bool)>>);
    impl Answer for Answers {
        fn answer(&self, token: u64, accepted: bool) {
            self.0.lock().unwrap().push((token, accepted));
        }
    }
    let answers = Arc::new(Answers::default());
    let mut rig = Rig::new(|rig| StackBuilder::new().push(rig.layer("a")).push(Hold(None)));
    for token in [1, 2, 3] {
        let reply = Reply::new(Arc::clone(&answers) as Arc<dyn Answer>, token);
        rig.stack.handle_receive(rig.time, Inbound::new(message(SendOptions::NONE, "x"), reply));
    }
    for accept in [true, false] {
        let Some(Output::Deliver(msg)) = rig.stack.poll_output() else { panic!("a message comes up") };
        if accept { msg.reply.accept() } else { msg.reply.reject() }
    }
    drop(rig);
    assert_eq!(*answers.0.lock().unwrap(), [(1, true), (2, false), (3, true)], "swallowing a message accepts it");
}

#[test]
fn gates_apply_to_the_options_of_their_layer_and_hand_back_when_one_says_so() {
    #[derive(Debug)]
    struct Narrow;
    impl Gate for Narrow {
        fn enter(&self, _: SendOptions, len: usize, mut legs: Vec<Leg>) -> (Vec<Leg>, bool) {
            legs.drain(1..).for_each(|leg| leg.fail(FaultCause::QueueFull));
            (legs, len < 10)
        }
    }
    impl Interceptor for Narrow {
        fn name(&self) -> &'static str {
            "Narrow"
        }
        fn gate(&self) -> Option<Arc<dyn Gate>> {
            Some(Arc::new(Self))
        }
    }
    let rig = Rig::new(|_| StackBuilder::new().push_for(SendOptions::ASYNC, Narrow));
    for (options, len, passed, kept) in [(0, 10, 3, true), (8, 9, 1, true), (8, 10, 1, false)] {
        let (_sending, legs) = Sending::new(UniqueId::from_bytes([1; 16]), [1, 2, 3].map(member));
        let (legs, keep) = pass_gates(rig.stack.gates(), SendOptions::from_bits(options), len, legs);
        assert_eq!((legs.len(), keep), (passed, kept), "options {options}, {len} bytes");
    }
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    let ids = |seed| {
        let mut stack = StackBuilder::new().push(Doubler).build(member(0), seed).expect("one layer");
        stack.handle_receive(now(), Inbound::new(message(SendOptions::NONE, "x"), Reply::none()));
        let Some(Output::Transmit(msg)) = stack.poll_output() else { panic!("an echo") };
        msg.message.id()
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
}

#[test]
fn the_builder_refuses_what_cannot_work_and_says_what_to_change() {
    let named = |name, traits| Named(name, traits);
    let none = LayerTraits::default();
    let (probes, encrypts) = (LayerTraits { probes: true, ..none }, LayerTraits { encrypts: true, ..none });
    let (orders, rewrites) = (LayerTraits { orders: true, ..none }, LayerTraits { rewrites: true, ..none });
    let bits = |bits| LayerTraits { option_bits: SendOptions::from_bits(bits), ..none };
    for (upper, lower, error) in [
        (named("a", none), named("b", none), None),
        (named("a", none), named("a", none), Some("two layers named a")),
        (named("a", bits(0x300)), named("b", bits(0x100)), Some("a and b both use the option bits 0x100")),
        (named("a", bits(0x200)), named("b", bits(0x100)), None),
        (named("a", probes), named("b", encrypts), Some("a must stand below b")),
        (named("a", encrypts), named("b", probes), None),
        (named("a", orders), named("b", rewrites), Some("a must stand below b")),
        (named("a", orders), named("b", encrypts), Some("a must stand below b")),
        (named("a", rewrites), named("b", orders), None),
    ] {
        let found = StackBuilder::new().push(upper).push(Hide(0)).push(lower).build(member(0), 1).err().map(|e| e.to_string());
        match (&found, error) {
            (Some(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => assert_eq!(found.as_deref(), expected),
        }
    }
}

/// A stack, and what its layers wrote down.
struct Rig {
    stack: Stack,
    time: Time,
    log: Log,
}

type Log = Arc<Mutex<Vec<String>>>;

struct Logs(Log);

impl Logs {
    fn layer(&self, name: &'static str) -> Scribe {
        Scribe(name, Arc::clone(&self.0))
    }
}

impl Rig {
    fn new(layers: impl FnOnce(&Logs) -> StackBuilder) -> Self {
        let log = Log::default();
        let stack = layers(&Logs(Arc::clone(&log))).build(member(0), 1).expect("the layers fit");
        Self { stack, time: now(), log }
    }

    fn send(&mut self, options: SendOptions, body: &'static str) {
        drop(self.sending(options, body));
    }

    fn sending(&mut self, options: SendOptions, body: &'static str) -> Sending {
        let (sending, legs) = Sending::new(UniqueId::from_bytes([1; 16]), [member(1)]);
        self.stack.handle_send(self.time, Outbound::new(message(options, body), legs));
        sending
    }

    fn receive(&mut self, options: SendOptions, body: &'static str) {
        self.stack.handle_receive(self.time, Inbound::new(message(options, body), Reply::none()));
    }

    /// What the layers saw since the last call.
    fn log(&self) -> String {
        std::mem::take(&mut *self.log.lock().unwrap()).join(" ")
    }

    /// What left the stack since the last call.
    fn outputs(&mut self) -> String {
        let text = |message: &Message| String::from_utf8_lossy(&message.bytes()).into_owned();
        let outputs = std::iter::from_fn(|| self.stack.poll_output()).map(|output| match output {
            Output::Transmit(msg) => format!("transmit {}", text(&msg.message)),
            Output::Deliver(msg) => format!("deliver {}", text(&msg.message)),
            Output::Event(event) => name(&event),
            Output::Probe { member, .. } => format!("probe {}", member.address().port()),
        });
        outputs.collect::<Vec<_>>().join(", ")
    }
}

/// Passes on everything, and writes it down. A body can ask it to do something.
struct Scribe(&'static str, Log);

impl Scribe {
    fn write(&self, text: &str) {
        self.1.lock().unwrap().push(format!("{}{text}", self.0));
    }
}

impl Interceptor for Scribe {
    fn name(&self) -> &'static str {
        self.0
    }

    fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
        let body = msg.message.bytes();
        let body = std::str::from_utf8(&body).expect("text");
        match body.split(' ').collect::<Vec<_>>()[..] {
            ["view"] => self.write(&format!("<{:?}", ports(cx.view()))),
            ["wake", name, millis] if name == self.0 => {
                cx.wake_at(cx.now() + Duration::from_millis(millis.parse().expect("a number")));
            }
            _ => self.write(&format!("<{body}")),
        }
        cx.send(msg);
    }

    fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
        let body = msg.message.bytes();
        self.write(&format!(">{}", String::from_utf8_lossy(&body)));
        if body == format!("probe {}", self.0) {
            cx.probe(member(9), ProbeRequest::connect(Duration::from_secs(1)));
        }
        cx.deliver(msg);
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        self.write(&format!(":{}", name(&event)));
        cx.emit(event);
    }

    fn timeout(&mut self, _: &mut Context<'_>) {
        self.write(":timeout");
    }

    fn heartbeat(&mut self, _: &mut Context<'_>) {
        self.write(":heartbeat");
    }

    fn probed(&mut self, _: &mut Context<'_>, member: &Member, outcome: Probe) {
        self.write(&format!(":{outcome:?}({})", member.address().port()));
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        self.write(":stop");
    }
}

/// Sends each message twice, and answers those that come in.
struct Doubler;

impl Interceptor for Doubler {
    fn name(&self) -> &'static str {
        "Doubler"
    }

    fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
        cx.send(msg.fork());
        cx.send(msg);
    }

    fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
        let echo = cx.message(SendOptions::NONE, "echo");
        cx.send(Outbound::new(echo, vec![Leg::detached(msg.message.sender().clone())]));
        cx.deliver(msg);
    }
}

/// Hides the member at this port from those above.
struct Hide(u16);

impl Interceptor for Hide {
    fn name(&self) -> &'static str {
        "Hide"
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        if event.member().address().port() != self.0 {
            cx.emit(event);
        }
    }
}

/// Keeps the last message until it is stopped.
struct Hold(Option<Outbound>);

impl Interceptor for Hold {
    fn name(&self) -> &'static str {
        "Hold"
    }

    fn outbound(&mut self, _: &mut Context<'_>, msg: Outbound) {
        self.0 = Some(msg);
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.0.take().into_iter().for_each(|msg| cx.send(msg));
    }
}

/// The same under another name.
struct Hold2(Hold);

impl Interceptor for Hold2 {
    fn name(&self) -> &'static str {
        "Hold2"
    }

    fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
        self.0.outbound(cx, msg);
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.0.stop(cx);
    }
}

/// Has a name and traits, and does nothing.
struct Named(&'static str, LayerTraits);

impl Interceptor for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn traits(&self) -> LayerTraits {
        self.1
    }
}

fn push(stack: StackBuilder, layer: Scribe) -> StackBuilder {
    stack.push(layer)
}

fn now() -> Time {
    Time { instant: crate::clock::now(), epoch_millis: 0 }
}

fn member(port: u16) -> Member {
    Member::new(([127, 0, 0, 1], port).into()).with_id(UniqueId::from_bytes([7; 16]))
}

fn message(options: SendOptions, body: &'static str) -> Message {
    Message::from_parts(UniqueId::from_bytes([1; 16]), options, 0, member(1), Body::from(body))
}

fn ports(view: &View) -> Vec<u16> {
    view.iter().map(|member| member.address().port()).collect()
}

fn name(event: &Event) -> String {
    let kind = match event {
        Event::Added(_) => "Added",
        Event::Updated(_) => "Updated",
        Event::Removed(..) => "Removed",
        Event::Suspect(_) => "Suspect",
    };
    format!("{kind}({})", event.member().address().port())
}
