//! What a user of `GroupChannel` relies on, over real TCP on the loopback interface.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use tribes::interceptors::{MessageDispatch, TcpFailureDetector, WhenFull};
use tribes::membership::memory::Hub;
use tribes::membership::static_members::StaticMembers;
use tribes::stack::{Context, Departure, Event, Inbound, Interceptor, Outbound, Probe, ProbeRequest, StackBuilder, View};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
use tribes::transport::{LinkSink, ProbeDone, Sender};
use tribes::{
    ChannelBuilder, ChannelError, FaultCause, GroupChannel, Leg, Member, Message, Parts, SendOptions, Sending, Subscription,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn builder(hub: &Hub) -> ChannelBuilder {
    let config = TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address"));
    GroupChannel::builder().membership(hub.membership()).receiver(TcpReceiver::new(config))
}

fn start(hub: &Hub) -> GroupChannel {
    builder(hub).start().expect("the channel starts")
}

/// All messages that a channel gets, in the order of its listener.
fn messages(channel: &GroupChannel) -> (Receiver<Message>, Subscription) {
    let (heard, hears) = mpsc::channel();
    let subscription = channel.on_message(move |message| drop(heard.send(message.clone())));
    (hears, subscription)
}

/// Waits until `channel` sees exactly these members.
fn wait_for_view(channel: &GroupChannel, expected: &[&GroupChannel]) {
    let expected: HashSet<Member> = expected.iter().map(|other| other.local()).collect();
    wait_until(channel, |view| view.iter().cloned().collect::<HashSet<_>>() == expected);
}

fn wait_until(channel: &GroupChannel, condition: impl Fn(&View) -> bool) {
    let (changed, changes) = mpsc::channel();
    let _subscription = channel.on_membership(move |_| {
        // The receiver is gone once the wait is over.
        let _ = changed.send(());
    });
    while !condition(&channel.members()) {
        match changes.recv_timeout(DEADLINE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("{channel:?} does not see whom it should"),
            Err(RecvTimeoutError::Disconnected) => unreachable!("the subscription lives"),
        }
    }
}

#[test]
fn every_kind_of_acknowledgement_delivers_the_message_once() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    let (heard, _subscription) = messages(&b);
    for bits in [0, 2, 4, 6, 8, 10, 12, 14] {
        let options = SendOptions::from_bits(bits);
        let receipt = a.send([b.local()], bits.to_string(), options).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let message = heard.recv_timeout(DEADLINE).expect("the message arrives");
        assert_eq!(message.id(), receipt.id);
        assert_eq!(message.bytes(), bits.to_string());
        assert_eq!(message.options(), options | SendOptions::BYTE_MESSAGE);
        assert_eq!(message.sender(), &a.local());
    }
    a.stop();
    b.stop();
    assert!(heard.try_recv().is_err(), "nothing came twice");
}

#[test]
fn messages_of_one_thread_arrive_in_the_order_they_were_sent_whatever_their_options() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    let (heard, _subscription) = messages(&b);
    let target = b.local();
    let mut last = None;
    for number in 0..2000u32 {
        let options = SendOptions::from_bits([8, 10, 14, 0, 2][number as usize % 5]);
        last = Some(a.send_with([target.clone()], number.to_string(), options));
        if number % 97 == 0 {
            a.send([target.clone()], format!("sync {number}"), SendOptions::SYNC_ACK).expect("delivered");
        }
    }
    last.expect("sent").wait().expect("delivered");
    let mut expected = Vec::new();
    for number in 0..2000 {
        expected.push(number.to_string());
        if number % 97 == 0 {
            expected.push(format!("sync {number}"));
        }
    }
    for text in expected {
        assert_eq!(heard.recv_timeout(DEADLINE).expect("the message arrives").bytes(), text);
    }
}

#[test]
fn a_listener_that_fails_or_panics_is_a_failed_send_only_when_the_sender_asked() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    let _subscription = b.on_message(|message| match &message.bytes()[..] {
        b"fail" => Err("as told"),
        b"panic" => panic!("as told"),
        _ => Ok(()),
    });
    for text in ["fail", "panic"] {
        let error = a.send([b.local()], text, SendOptions::SYNC_ACK).expect_err("rejected");
        assert!(matches!(error.faults[..], [tribes::Fault { cause: FaultCause::Rejected, .. }]), "{error}");
        a.send([b.local()], text, SendOptions::ACK).expect("received, whatever became of it");
    }
    a.send([b.local()], "fine", SendOptions::SYNC_ACK).expect("handled");
    a.stop();
    assert_eq!(b.stats().rejected, 4);
}

#[test]
fn one_dead_destination_among_three_is_the_only_fault() {
    let hub = Hub::new();
    let (a, b, c) = (start(&hub), start(&hub), start(&hub));
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Member::new(listener.local_addr().expect("bound"))
    };
    let (heard_b, _b) = messages(&b);
    let (heard_c, _c) = messages(&c);
    let error = a.send([b.local(), dead.clone(), c.local()], "all", SendOptions::SYNC_ACK).expect_err("one is dead");
    assert_eq!(error.faults.len(), 1);
    assert_eq!(error.faults[0].member, dead);
    assert!(matches!(error.faults[0].cause, FaultCause::Connect(io::ErrorKind::ConnectionRefused)), "{error}");
    for heard in [heard_b, heard_c] {
        assert_eq!(heard.recv_timeout(DEADLINE).expect("delivered").bytes(), "all");
    }
}

#[test]
fn listeners_of_the_builder_miss_nothing() {
    let hub = Hub::new();
    // Greets whoever appears, which is before that member's start has returned.
    let first = start(&hub);
    let _greeting = first.on_membership({
        let first = first.clone();
        move |event| {
            if let Event::Added(member) = event {
                first.send_with([member.clone()], "welcome", SendOptions::SYNC_ACK).on_complete(|_| {});
            }
        }
    });
    let ((told, events), (heard, messages)) = (mpsc::channel(), mpsc::channel());
    let second = builder(&hub)
        .on_membership(move |event| drop(told.send(event.clone())))
        .on_message(move |message| heard.send(message.clone()))
        .start()
        .expect("the channel starts");
    assert_eq!(events.recv_timeout(DEADLINE).expect("told"), Event::Added(first.local()));
    let message = messages.recv_timeout(DEADLINE).expect("heard");
    assert_eq!((&message.bytes()[..], message.sender()), (&b"welcome"[..], &first.local()));
    first.send([second.local()], "still heard", SendOptions::SYNC_ACK).expect("handled");
    assert_eq!(messages.recv_timeout(DEADLINE).expect("heard").bytes(), "still heard");
}

#[test]
fn members_come_change_and_go() {
    let hub = Hub::new();
    let a = start(&hub);
    let (told, events) = mpsc::channel();
    let _subscription = a.on_membership(move |event| drop(told.send(event.clone())));
    let b = builder(&hub).payload("one").domain("here").start().expect("the channel starts");
    let next = || events.recv_timeout(DEADLINE).expect("an event");
    assert_eq!(next(), Event::Added(b.local()));
    assert_eq!(a.members().by_id(b.local().id()).expect("in view").payload(), "one");
    assert_eq!((a.stats().members, a.stats().membership.members), (1, 1));
    b.set_payload("two").expect("announced");
    assert!(matches!(next(), Event::Updated(member) if member.payload() == "two" && member.domain() == "here"));
    b.set_domain("there").expect("announced");
    assert!(matches!(next(), Event::Updated(member) if member.domain() == "there"));
    let gone = b.local();
    drop(b);
    assert_eq!(next(), Event::Removed(gone, Departure::Left));
    assert!(a.members().is_empty());
    assert!(a.set_payload(vec![0; Member::MAX_TEXT + 1]).is_err());
}

/// A peer that takes connections and keeps them, until it dies with all of them.
struct Victim {
    address: SocketAddr,
    dying: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Victim {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let dying = Arc::new(AtomicBool::new(false));
        let dies = Arc::clone(&dying);
        let thread = thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream.expect("accepted"));
                if dies.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        Self { address, dying, thread }
    }

    fn die(self) {
        self.dying.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address).expect("it listens to its last"));
        self.thread.join().expect("no panic");
    }
}

#[test]
fn the_death_of_a_member_is_noticed_though_nothing_was_ever_sent_and_nobody_listens_for_heartbeats() {
    let victim = Victim::new();
    let (told, events) = mpsc::channel();
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address")));
    let builder = GroupChannel::builder().membership(StaticMembers::new([victim.address])).receiver(receiver);
    let channel = builder.on_membership(move |event| drop(told.send(event.clone()))).start().expect("the channel starts");
    let next = || events.recv_timeout(DEADLINE).expect("an event");
    let Event::Added(member) = next() else { panic!("nobody has come yet") };
    assert_eq!(member.address(), victim.address);
    let (ticks, waits) = mpsc::channel::<()>();
    let deadline = thread::spawn(move || waits.recv_timeout(DEADLINE));
    while channel.stats().sender.connections == 0 {
        assert!(!deadline.is_finished(), "no connection is opened");
        thread::yield_now();
    }
    drop(ticks);
    victim.die();
    assert_eq!(next(), Event::Removed(member, Departure::Failed));
    let stats = channel.stats();
    assert_eq!((stats.sent, stats.sender.frames, stats.sender.failed, stats.sender.connected), (0, 0, 0, 1));
}

/// A member without discovery, bound to this address.
fn listed(at: SocketAddr, membership: StaticMembers) -> ChannelBuilder {
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind(at));
    GroupChannel::builder().membership(membership).receiver(receiver)
}

#[test]
fn members_of_a_static_list_learn_who_is_at_its_addresses() {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let (told, events) = mpsc::channel();
    let membership = StaticMembers::default();
    let list = membership.handle();
    let a = listed(any, membership).on_membership(move |event| drop(told.send(event.clone()))).start().expect("it starts");
    let b = listed(any, StaticMembers::new([a.local().address()])).payload("b").start().expect("it starts");
    let at = b.local().address();
    list.add(at);
    wait_for_view(&a, &[&b]);
    wait_for_view(&b, &[&a]);
    assert_eq!(a.members().by_address(at).expect("it is there").payload(), "b");
    assert_eq!(list.members()[0], b.local());

    b.set_payload("changed").expect("it fits");
    b.send([a.local()], "look at me", SendOptions::SYNC_ACK).expect("delivered");
    let changed = |event: &Event| matches!(event, Event::Updated(member) if member.payload() == "changed");
    while !changed(&events.recv_timeout(DEADLINE).expect("the change is told")) {}

    let old = b.local();
    b.stop();
    let b = listed(at, StaticMembers::new([a.local().address()])).start().expect("it starts again");
    assert_eq!(b.local().address(), at);
    assert_ne!(b.local(), old);
    wait_for_view(&a, &[&b]);
    wait_for_view(&b, &[&a]);
    a.send_all("welcome back", SendOptions::SYNC_ACK).expect("delivered");
}

#[test]
fn what_is_under_way_to_an_address_arrives_in_order_although_its_member_gets_a_name_meanwhile() {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let (gate, numbers) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(Vec::new())));
    let (at_gate, noted) = (Arc::clone(&gate), Arc::clone(&numbers));
    let b = listed(any, StaticMembers::default()).on_message(move |message| {
        let mut numbers = noted.lock().expect("no panic");
        numbers.push(String::from_utf8(message.bytes().to_vec()).expect("text"));
        if numbers.len() == 1 {
            drop(numbers);
            at_gate.wait();
            at_gate.wait();
        }
    });
    let b = b.start().expect("it starts");
    // Without a detector nothing but messages goes either way.
    let a = listed(any, StaticMembers::new([b.local().address()])).stack(StackBuilder::new()).start().expect("it starts");
    wait_until(&a, |view| !view.is_empty());
    let placeholder = a.members().as_slice()[0].clone();
    assert!(placeholder.is_placeholder());
    let options = SendOptions::SYNC_ACK;
    let mut sent: Vec<_> = (0..10).map(|number| a.send_with([placeholder.clone()], number.to_string(), options)).collect();
    gate.wait();
    b.send([a.local()], "it is me", options).expect("delivered");
    wait_for_view(&a, &[&b]);
    sent.extend((10..20).map(|number| a.send_with([b.local()], number.to_string(), options)));
    gate.wait();
    for sending in sent {
        sending.wait().expect("delivered");
    }
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(*numbers.lock().expect("no panic"), expected);
    assert_eq!(a.stats().sender.connected, 1);
}

#[test]
fn a_callback_and_a_listener_may_send() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    let (heard, _subscription) = messages(&a);
    let _echo = b.on_message({
        let b = b.clone();
        move |message| b.send([message.sender().clone()], message.bytes(), SendOptions::ACK).map(drop)
    });
    let (again, target) = (a.clone(), b.local());
    a.send_with([b.local()], "first", SendOptions::SYNC_ACK).on_complete(move |outcome| {
        outcome.expect("handled");
        again.send_with([target], "second", SendOptions::ACK).on_complete(drop);
    });
    assert_eq!(heard.recv_timeout(DEADLINE).expect("echoed").bytes(), "first");
    assert_eq!(heard.recv_timeout(DEADLINE).expect("echoed").bytes(), "second");
}

#[test]
fn a_listener_that_blocks_holds_up_its_own_sender_only() {
    let hub = Hub::new();
    let (a, b, c) = (start(&hub), start(&hub), start(&hub));
    let gate = Arc::new(Barrier::new(2));
    let blocked = a.local().id();
    let _subscription = c.on_message({
        let gate = Arc::clone(&gate);
        move |message| {
            if message.sender().id() == blocked {
                gate.wait();
            }
        }
    });
    let waiting = a.send_with([c.local()], "blocks", SendOptions::SYNC_ACK);
    for _ in 0..100 {
        b.send([c.local()], "passes", SendOptions::SYNC_ACK).expect("not held up");
    }
    assert!(!waiting.is_done());
    gate.wait();
    waiting.wait().expect("handled in the end");
}

#[test]
fn a_stopped_channel_sends_or_reports_what_is_queued() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    wait_for_view(&a, &[&b]);
    let pending: Vec<_> =
        (0..500).map(|_| a.send_with([b.local()], vec![7; 10_000], SendOptions::ACK | SendOptions::ASYNC)).collect();
    a.stop();
    a.stop();
    for sending in pending {
        assert!(sending.is_done(), "stop drains or reports");
        sending.wait().expect("the peer is there, so three seconds are enough");
    }
    let error = a.send([b.local()], "late", SendOptions::ACK).expect_err("stopped");
    assert!(matches!(error.faults[0].cause, FaultCause::Stopped));
    wait_for_view(&b, &[]);
}

#[test]
fn a_full_queue_hands_the_message_back() {
    let hub = Hub::new();
    let dispatch = MessageDispatch::default().max_queue_messages(1).when_full(WhenFull::HandBack);
    let a = builder(&hub).stack(StackBuilder::new().push(dispatch).push(TcpFailureDetector::default())).start().expect("starts");
    let b = start(&hub);
    let gate = Arc::new(Barrier::new(2));
    let _subscription = b.on_message({
        let gate = Arc::clone(&gate);
        move |message| {
            if message.bytes() == "first" {
                gate.wait();
            }
        }
    });
    let options = SendOptions::SYNC_ACK | SendOptions::ASYNC;
    let first = a.send_with([b.local()], "first", options);
    let error = a.send_with([b.local()], "second", options).wait().expect_err("full");
    assert_eq!(error.returned.as_deref(), Some(&b"second"[..]));
    assert!(matches!(error.faults[0].cause, FaultCause::QueueFull));
    gate.wait();
    first.wait().expect("delivered");
    a.send_with([b.local()], "third", options).wait().expect("room again");
}

#[test]
fn parts_of_a_channel() {
    let hub = Hub::new();
    let whole = start(&hub);
    let watcher = builder(&hub).start_parts(Parts::OBSERVE).expect("starts");
    wait_for_view(&watcher, &[&whole]);
    assert!(whole.members().is_empty(), "a watcher is not announced");
    assert!(matches!(
        watcher.send([whole.local()], "no", SendOptions::ACK).expect_err("no sender").faults[0].cause,
        FaultCause::Stopped
    ));
    let (heard, _subscription) = messages(&whole);
    let sender = builder(&hub).start_parts(Parts::SEND).expect("starts");
    sender.send([whole.local()], "one way", SendOptions::ACK).expect("delivered");
    assert_eq!(heard.recv_timeout(DEADLINE).expect("delivered").bytes(), "one way");
    assert!(matches!(builder(&hub).start_parts(Parts::ANNOUNCE), Err(ChannelError::Parts(_))));
    let receiver = builder(&hub).start_parts(Parts::RECEIVE).expect("starts");
    let (heard, _subscription) = messages(&receiver);
    sender.send([receiver.local()], "to a silent member", SendOptions::SYNC_ACK).expect("delivered");
    assert_eq!(heard.recv_timeout(DEADLINE).expect("delivered").bytes(), "to a silent member");
}

#[test]
fn eight_threads_and_large_bodies_lose_nothing() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    let (heard, _subscription) = messages(&b);
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let (a, target) = (&a, b.local());
            scope.spawn(move || {
                for number in 0..200u8 {
                    a.send([target.clone()], vec![thread, number], SendOptions::SYNC_ACK).expect("delivered");
                }
            });
        }
    });
    let mut next = [0; 8];
    for _ in 0..1600 {
        let bytes = heard.recv_timeout(DEADLINE).expect("delivered").bytes();
        assert_eq!(bytes[1], next[usize::from(bytes[0])], "each thread's messages are in order");
        next[usize::from(bytes[0])] += 1;
    }
    let large: Vec<u8> = (0..16u32 << 20).map(|at| (at % 251) as u8).collect();
    for size in [0, 1, 65_535, 65_536, 1 << 20, 16 << 20] {
        a.send([b.local()], large[..size].to_vec(), SendOptions::ACK).expect("delivered");
        assert!(heard.recv_timeout(DEADLINE).expect("delivered").bytes() == large[..size], "{size} bytes");
    }
}

#[test]
fn no_listener_no_destination_and_no_subscription_are_fine() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), start(&hub));
    assert_eq!(a.send([], "nobody", SendOptions::SYNC_ACK).expect("nothing to do").delivered, 0);
    a.send([b.local()], "unheard", SendOptions::SYNC_ACK).expect("accepted by no listener at all");
    let (heard, subscription) = messages(&b);
    a.send([b.local()], "heard", SendOptions::SYNC_ACK).expect("delivered");
    drop(subscription);
    a.send([b.local()], "unheard", SendOptions::SYNC_ACK).expect("delivered");
    assert_eq!(heard.recv_timeout(DEADLINE).expect("delivered").bytes(), "heard");
    assert!(heard.recv_timeout(DEADLINE).is_err());
    assert!(format!("{a:?}").contains("TcpFailureDetector"));
}

#[test]
fn a_multicast_message_reaches_everybody_else() {
    let hub = Hub::new();
    let (a, b, c) = (start(&hub), start(&hub), start(&hub));
    wait_for_view(&a, &[&b, &c]);
    let (heard_a, _a) = messages(&a);
    let (heard_b, _b) = messages(&b);
    let (heard_c, _c) = messages(&c);
    a.send_all("to the group", SendOptions::MULTICAST).expect("handed to the group");
    for heard in [heard_b, heard_c] {
        assert_eq!(heard.recv_timeout(DEADLINE).expect("delivered").bytes(), "to the group");
    }
    a.stop();
    assert!(heard_a.try_recv().is_err(), "not to its own sender");
}

/// Keeps legs until a caller that waits does the sender's work.
#[derive(Default)]
struct Lazy(Mutex<Vec<Leg>>);

impl Sender for Lazy {
    fn start(&self, _sink: LinkSink) -> io::Result<()> {
        Ok(())
    }

    fn transmit(&self, msg: Outbound) {
        self.0.lock().expect("no panic").extend(msg.legs);
    }

    fn assist(&self, _peers: &[Member], _sending: &Sending) {
        let legs = std::mem::take(&mut *self.0.lock().expect("no panic"));
        legs.into_iter().for_each(Leg::delivered);
    }

    fn probe(&self, _peer: &Member, _request: ProbeRequest, done: ProbeDone) {
        done(Probe::Alive);
    }

    fn disconnect(&self, _peer: &Member) {}

    fn stop(&self, _drain: Duration) {
        self.0.lock().expect("no panic").clear();
    }
}

#[test]
fn a_listener_may_wait_for_a_callback_that_falls_due_on_its_own_thread() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), builder(&hub).sender(Lazy::default()).start().expect("it starts"));
    let (outcome, outcomes) = mpsc::channel();
    let (peer, channel) = (a.local(), b.clone());
    b.on_message(move |_| {
        let (called, calls) = mpsc::channel();
        channel.send_with([peer.clone()], "watched", SendOptions::ACK).on_complete(move |_| {
            let _ = called.send(());
        });
        // While it waits for its own, it settles the other as well.
        channel.send([peer.clone()], "awaited", SendOptions::ACK).expect("delivered");
        outcome.send(calls.recv_timeout(Duration::from_secs(2))).expect("the test waits");
    })
    .forever();
    a.send([b.local()], "go", SendOptions::NONE).expect("sent");
    outcomes.recv_timeout(DEADLINE).expect("the listener runs").expect("the callback ran before the listener returned");
    b.stop();
}

/// A layer that panics at the first event it sees.
struct Fragile(bool);

impl Interceptor for Fragile {
    fn name(&self) -> &'static str {
        "Fragile"
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        assert!(std::mem::replace(&mut self.0, true), "as the test wants");
        cx.emit(event);
    }
}

#[test]
fn a_layer_that_panics_at_an_event_does_not_end_the_timers() {
    let hub = Hub::new();
    let a = builder(&hub).stack(StackBuilder::new().push(Fragile(false))).start().expect("it starts");
    let _lost = start(&hub);
    let seen = start(&hub);
    wait_for_view(&a, &[&seen]);
}

/// A layer that panics at every message it receives.
struct Allergic;

impl Interceptor for Allergic {
    fn name(&self) -> &'static str {
        "Allergic"
    }

    fn inbound(&mut self, _cx: &mut Context<'_>, _msg: Inbound) {
        panic!("as the test wants");
    }
}

#[test]
fn a_message_at_which_a_layer_panics_is_not_acknowledged_as_processed() {
    let hub = Hub::new();
    let (a, b) = (start(&hub), builder(&hub).stack(StackBuilder::new().push(Allergic)).start().expect("it starts"));
    let error = a.send([b.local()], "x", SendOptions::SYNC_ACK).expect_err("nobody processed it");
    assert!(matches!(error.faults[..], [_]), "{error}");
}

#[test]
fn two_channels_of_a_process_may_broadcast_to_each_other_at_the_same_time() {
    let hub = Hub::new();
    let channels = [start(&hub), start(&hub)];
    let (done, all_done) = mpsc::channel();
    for channel in channels.clone() {
        let done = done.clone();
        // Not scoped: a deadlock must fail the test, not hang it.
        thread::spawn(move || {
            for _ in 0..2000 {
                channel.send([], "to all", SendOptions::MULTICAST).expect("the group is there");
            }
            done.send(()).expect("the test waits");
        });
    }
    for _ in &channels {
        all_done.recv_timeout(DEADLINE).expect("neither waits for the other's stack");
    }
}
