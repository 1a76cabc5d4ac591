//! The sender against plain sockets that speak frames.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use crate::completion::{FaultCause, Receipt, SendError, Sending};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::{Acknowledgement, SendOptions};
use crate::stack::{Inbound, Outbound, Probe, ProbeRequest, Urgency};
use crate::transport::{LinkSink, MessageHandler, MessageSink, Receiver, Sender};
use crate::wire::{Frame, FrameDecoder, channel_data, frame};

const LONG: Duration = Duration::from_secs(20);

/// What a server does with a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Does {
    /// What the options ask for.
    Answer,
    Reject,
    Nothing,
    Close,
    Junk,
}

/// A message as a server saw it.
#[derive(Clone, Debug)]
struct Seen {
    connection: usize,
    id: UniqueId,
    body: Bytes,
    /// Whole frames that had come in behind it when it was handled.
    behind: usize,
}

/// A listener with a thread per connection.
struct Server {
    member: Member,
    seen: Arc<(Mutex<Vec<Seen>>, Condvar)>,
}

impl Server {
    fn new(does: impl Fn(usize, &Message) -> Does + Send + Sync + 'static) -> Self {
        Self::with_id(UniqueId::for_member(Capabilities::ALL), does)
    }

    fn with_id(id: UniqueId, does: impl Fn(usize, &Message) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let member = Member::new(listener.local_addr().expect("bound")).with_id(id);
        let seen = Arc::<(Mutex<Vec<Seen>>, Condvar)>::default();
        let (log, does) = (Arc::clone(&seen), Arc::new(does));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (log, does) = (Arc::clone(&log), Arc::clone(&does));
                thread::spawn(move || serve(stream.expect("accepted"), connection, &log, &*does));
            }
        });
        Self { member, seen }
    }

    /// Waits until `count` messages were seen, and gives them.
    fn seen(&self, count: usize) -> Vec<Seen> {
        let (seen, changed) = &*self.seen;
        let (seen, timeout) =
            changed.wait_timeout_while(seen.lock().unwrap(), LONG, |seen| seen.len() < count).expect("no panic");
        assert!(!timeout.timed_out(), "{} of {count} messages came", seen.len());
        seen.clone()
    }
}

fn serve(mut stream: TcpStream, connection: usize, log: &(Mutex<Vec<Seen>>, Condvar), does: &dyn Fn(usize, &Message) -> Does) {
    let decoder = FrameDecoder::new(64 << 20);
    let mut input = BytesMut::new();
    let mut chunk = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => input.extend_from_slice(&chunk[..count]),
        }
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut input).expect("good frames") {
            frames.push(frame);
        }
        let count = frames.len();
        for (at, frame) in frames.into_iter().enumerate() {
            let Frame::Data(data) = frame else { panic!("a sender sends messages only") };
            let message = channel_data::decode(&data, None).expect("a good message");
            let seen = Seen { connection, id: message.id(), body: message.bytes(), behind: count - at - 1 };
            log.0.lock().unwrap().push(seen);
            log.1.notify_all();
            let asks = message.options().acknowledgement() != Acknowledgement::None;
            let answer: &[u8] = match does(connection, &message) {
                Does::Answer if asks => frame::ACK,
                Does::Reject => frame::FAIL_ACK,
                Does::Answer | Does::Nothing => b"",
                Does::Close => return,
                Does::Junk => b"HTTP/1.1 400 Bad Request\r\n\r\n",
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

/// A sender that is started, and the members it reported as lost.
struct Node {
    sender: TcpSender,
    lost: crossbeam_channel::Receiver<Member>,
    ids: AtomicU64,
}

impl Node {
    fn new(config: TcpSenderConfig) -> Self {
        let sender = TcpSender::new(config);
        let (report, lost) = crossbeam_channel::unbounded();
        sender.start(LinkSink::new(move |member| drop(report.send(member.clone())))).expect("started");
        Self { sender, lost, ids: AtomicU64::new(1) }
    }

    fn send(&self, members: &[&Member], options: u32, body: impl Into<Body>, urgency: Urgency) -> Sending {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.ids.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let (id, options) = (UniqueId::from_bytes(id), SendOptions::from_bits(options));
        let message = Message::from_parts(id, options, 0, Member::new(local()), body.into());
        let (sending, legs) = Sending::new(id, members.iter().map(|member| (*member).clone()));
        let mut outbound = Outbound::new(message, legs);
        outbound.urgency = urgency;
        self.sender.transmit(outbound);
        sending
    }

    /// As a channel does it for a caller that waits.
    fn call(&self, members: &[&Member], options: u32, body: impl Into<Body>) -> Result<Receipt, SendError> {
        let sending = self.send(members, options, body, Urgency::Attended);
        self.sender.assist(&members.iter().map(|member| (*member).clone()).collect::<Vec<_>>(), &sending);
        finish(sending)
    }

    fn queue(&self, members: &[&Member], options: u32, body: impl Into<Body>) -> Sending {
        self.send(members, options, body, Urgency::Queued)
    }

    /// Waits for a report about this member.
    fn lost(&self, member: &Member) {
        while self.lost.recv_timeout(LONG).expect("a loss is reported") != *member {}
    }
}

fn local() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

fn finish(sending: Sending) -> Result<Receipt, SendError> {
    sending.wait_timeout(LONG).expect("the outcome is known in time")
}

/// A member whose port nobody listens at.
fn refusing() -> Member {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    Member::new(listener.local_addr().expect("bound"))
}

/// Patient in everything but what a test is about.
fn patient() -> TcpSenderConfig {
    TcpSenderConfig::default().timeout(LONG).connect_timeout(LONG)
}

#[expect(clippy::disallowed_methods, reason = "a test measures that something does not wait for a time-out")]
fn now() -> Instant {
    Instant::now()
}

fn causes(result: Result<Receipt, SendError>) -> Vec<(Member, FaultCause)> {
    result.expect_err("not delivered").faults.into_iter().map(|fault| (fault.member, fault.cause)).collect()
}

#[test]
fn every_option_is_delivered_attended_and_queued() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    for options in [0, 2, 4, 6, 8, 10, 14] {
        assert!(node.call(&[&server.member], options, "attended").is_ok(), "{options}");
        assert!(finish(node.queue(&[&server.member], options, "queued")).is_ok(), "{options}");
    }
    assert!(server.seen(14).iter().all(|seen| seen.connection == 0), "one connection per destination");
    let stats = node.sender.stats();
    assert_eq!((stats.connections, stats.connected, stats.frames, stats.failed, stats.resent), (1, 1, 14, 0, 0));
}

#[test]
fn a_rejected_message_fails_once_and_is_not_sent_again() {
    let server = Server::new(|_, message| if message.body() == &b"bad"[..] { Does::Reject } else { Does::Answer });
    let node = Node::new(patient());
    let faults = causes(node.call(&[&server.member], 6, "bad"));
    assert!(matches!(faults[..], [(_, FaultCause::Rejected)]));
    assert!(node.call(&[&server.member], 6, "good").is_ok());
    assert_eq!(server.seen(2).len(), 2);
    assert!(node.lost.try_recv().is_err(), "the member is well");
}

#[test]
fn one_dead_destination_among_three_fails_alone_and_quickly() {
    let (one, two, dead) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Answer), refusing());
    let node = Node::new(patient());
    let begin = now();
    let faults = causes(node.call(&[&one.member, &dead, &two.member], 6, "hello"));
    assert!(matches!(&faults[..], [(member, FaultCause::Connect(_))] if *member == dead));
    assert!(now() - begin < LONG / 2, "it does not wait for a time-out");
    assert_eq!((one.seen(1).len(), two.seen(1).len()), (1, 1));
    node.lost(&dead);
}

#[test]
fn a_mute_destination_times_out_alone() {
    let (well, mute) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Nothing));
    let timeout = Duration::from_millis(300);
    let node = Node::new(TcpSenderConfig::default().timeout(timeout));
    let faults = causes(node.call(&[&mute.member, &well.member], 6, "hello"));
    assert!(matches!(&faults[..], [(member, FaultCause::Timeout(limit))] if *member == mute.member && *limit == timeout));
    node.lost(&mute.member);
    assert_eq!(mute.seen(1).len(), 1, "a message that timed out is not sent again");
    // Nobody calls for this one.
    assert!(matches!(causes(finish(node.queue(&[&mute.member], 2, "again")))[..], [(_, FaultCause::Timeout(_))]));
    assert!(node.call(&[&well.member], 6, "still well").is_ok());
}

#[test]
fn what_a_lost_connection_held_is_sent_again_in_order_with_the_same_ids() {
    let server = Server::new(|connection, message| match (connection, &message.bytes()[..]) {
        (0, b"3") => Does::Close,
        _ => Does::Answer,
    });
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..10).map(|count| node.queue(&[&server.member], 2, count.to_string())).collect();
    let ids: Vec<_> = sendings.iter().map(Sending::id).collect();
    for sending in sendings {
        assert!(finish(sending).is_ok());
    }
    let seen = server.seen(11);
    let second: Vec<_> = seen.iter().filter(|seen| seen.connection == 1).map(|seen| seen.id).collect();
    assert_eq!(second, ids[10 - second.len()..], "in order, ids kept");
    assert!(second.contains(&ids[3]), "the one that closed the connection was not answered");
    node.lost(&server.member);
    assert_eq!(node.sender.stats().connected, 2);
}

#[test]
fn a_new_connection_waits_until_the_peer_has_read_the_old_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let member = Member::new(listener.local_addr().unwrap()).with_id(UniqueId::for_member(Capabilities::ALL));
    let node = Node::new(patient().keep_alive_count(Some(2)));
    let sent: Vec<_> = (0..4u8).map(|number| node.queue(&[&member], 0, vec![number])).collect();
    let (old, _) = listener.accept().unwrap();
    let mut old_reads = &old;
    old_reads.read_to_end(&mut Vec::new()).expect("its end comes behind what was written");
    // It has not told the sender yet that it is through.
    let (done, told) = mpsc::channel();
    let next = thread::spawn(move || {
        let (next, _) = listener.accept().unwrap();
        (told.try_recv().is_ok(), next)
    });
    let since = now();
    while since.elapsed() < Duration::from_millis(100) {
        assert!(!next.is_finished(), "the next connection came before the old one was read");
        thread::yield_now();
    }
    done.send(()).unwrap();
    drop(old);
    let (in_order, mut next) = next.join().unwrap();
    assert!(in_order);
    next.read_to_end(&mut Vec::new()).unwrap();
    for sending in sent {
        finish(sending).expect("written");
    }
}

#[test]
fn messages_keep_their_order_when_the_connection_is_replaced() {
    struct Slow(Arc<(Mutex<Vec<u32>>, Condvar)>);
    impl MessageHandler for Slow {
        fn message(&self, msg: Inbound) {
            // Long enough for another thread to overtake.
            (0..20).for_each(|_| thread::yield_now());
            let number = u32::from_be_bytes(msg.message.bytes()[..].try_into().unwrap());
            self.0.0.lock().unwrap().push(number);
            self.0.1.notify_all();
        }

        fn disconnected(&self, _member: &Member) {}
    }
    let handled = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let mut receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().unwrap()));
    let listening = receiver.start(MessageSink::new(Arc::new(Slow(Arc::clone(&handled))))).unwrap();
    let member = Member::new(listening.address.unwrap()).with_id(UniqueId::for_member(Capabilities::ALL));
    let node = Node::new(patient().keep_alive_count(Some(3)));
    for number in 0..600u32 {
        node.queue(&[&member], [0, 0, 2][number as usize % 3], number.to_be_bytes().to_vec()).on_complete(|outcome| {
            outcome.expect("it arrives");
        });
    }
    let (handled, changed) = &*handled;
    let (handled, timeout) =
        changed.wait_timeout_while(handled.lock().unwrap(), LONG, |handled| handled.len() < 600).expect("no panic");
    assert!(!timeout.timed_out(), "{} came", handled.len());
    assert!(handled.iter().copied().eq(0..600), "{handled:?}");
    assert!(node.sender.stats().connected > 100, "{:?}", node.sender.stats());
    drop(handled);
}

#[test]
fn a_peer_that_always_closes_gets_each_message_twice_at_most() {
    let server = Server::new(|_, _| Does::Close);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..3).map(|count| node.queue(&[&server.member], 6, count.to_string())).collect();
    for sending in sendings {
        assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Connection(_))]));
    }
    let seen = server.seen(2);
    assert_eq!(seen.iter().filter(|seen| seen.body == "0").count(), 2);
}

#[test]
fn junk_from_a_peer_ends_the_connection() {
    let server = Server::new(|connection, _| if connection == 0 { Does::Junk } else { Does::Answer });
    let node = Node::new(patient());
    assert!(node.call(&[&server.member], 2, "asked").is_ok(), "sent again on another connection");
    node.lost(&server.member);
    // An acknowledgement that nobody asked for is junk as well.
    let server = Server::new(|connection, _| if connection == 0 { Does::Reject } else { Does::Answer });
    assert!(node.call(&[&server.member], 0, "not asked").is_ok());
    node.lost(&server.member);
}

#[test]
fn callers_of_eight_threads_share_one_connection() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for count in 0..200 {
                    assert!(node.call(&[&server.member], if count % 2 == 0 { 2 } else { 6 }, vec![1; 1024]).is_ok());
                }
            });
        }
    });
    assert!(server.seen(1600).iter().all(|seen| seen.connection == 0));
    assert_eq!(node.sender.stats().pending, 0);
}

#[test]
fn callers_and_queued_messages_do_not_wait_for_each_other() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..300).for_each(|_| assert!(node.call(&[&server.member], 6, "call").is_ok())));
            scope.spawn(|| {
                let queued: Vec<_> = (0..2000).map(|at| node.queue(&[&server.member], at % 4, vec![2; 100])).collect();
                queued.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
            });
        }
    });
    assert_eq!(server.seen(4600).len(), 4600);
}

#[test]
fn queued_messages_keep_their_order() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..5000u32)
        .map(|count| {
            let size = if count % 500 == 0 { 300_000 } else { 10 };
            let mut body = BytesMut::zeroed(size);
            body[..4].copy_from_slice(&count.to_be_bytes());
            node.queue(&[&server.member], [0, 2, 6][count as usize % 3], body.freeze())
        })
        .collect();
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    let seen = server.seen(5000);
    assert!(seen.iter().zip(0u32..).all(|(seen, count)| seen.body[..4] == count.to_be_bytes()));
}

#[test]
fn a_tribes_member_never_sees_a_frame_before_it_answered_the_one_before() {
    let server = Server::with_id(UniqueId::from_bytes([0x44; 16]), |_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..100).map(|_| node.queue(&[&server.member], 6, "one at a time")).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| assert!(node.call(&[&server.member], 2, "call").is_ok())));
        }
    });
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    let seen = server.seen(300);
    assert!(seen.iter().all(|seen| seen.behind == 0));
}

#[test]
fn sixteen_mebibytes_arrive_whole() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let body: Bytes = (0..16 << 20).map(|at: u32| (at >> 7) as u8).collect::<Vec<_>>().into();
    assert!(node.call(&[&server.member], 6, body.clone()).is_ok());
    assert!(finish(node.queue(&[&server.member], 0, body.clone())).is_ok());
    assert!(server.seen(2).iter().all(|seen| seen.body == body));
}

#[test]
fn what_is_too_large_or_too_much_is_refused_at_once() {
    let node = Node::new(patient().max_message(100).queue(2, 1 << 20));
    let faults = causes(node.call(&[&refusing()], 2, vec![0; 101]));
    assert!(matches!(faults[..], [(_, FaultCause::TooLarge { size: 101, limit: 100 })]));
    let blocked = Blocked::new();
    let node = Node::new(patient().queue(2, 1 << 30));
    let (server, sendings) = (&blocked.member, blocked.fill(&node));
    let full = (0..3).map(|_| node.queue(&[server], 0, "more")).last().expect("three");
    assert!(matches!(causes(finish(full))[..], [(_, FaultCause::QueueFull)]));
    node.sender.disconnect(server);
    sendings.into_iter().for_each(|sending| drop(finish(sending)));
}

/// A listener that accepts and never reads.
struct Blocked {
    member: Member,
    listener: TcpListener,
}

impl Blocked {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self { member: Member::new(listener.local_addr().expect("bound")), listener }
    }

    /// Sends more than the socket buffers hold, and waits until it is taken.
    fn fill(&self, node: &Node) -> Vec<Sending> {
        let sending = node.queue(&[&self.member], 0, vec![0; 64 << 20]);
        let _ = self.listener.accept().expect("a connection");
        let begin = now();
        while node.sender.stats().bytes == 0 {
            assert!(now() - begin < LONG, "nothing is written");
            thread::yield_now();
        }
        vec![sending]
    }
}

#[test]
fn a_destination_that_does_not_read_delays_no_other() {
    let (blocked, well) = (Blocked::new(), Server::new(|_, _| Does::Answer));
    let node = Node::new(patient());
    let stuck = blocked.fill(&node);
    for _ in 0..100 {
        assert!(node.call(&[&well.member], 6, "hello").is_ok());
        assert!(finish(node.queue(&[&well.member], 2, "hello")).is_ok());
    }
    let mixed = node.send(&[&blocked.member, &well.member], 6, "both", Urgency::Attended);
    well.seen(201);
    assert!(stuck.iter().all(|sending| !sending.is_done()) && !mixed.is_done());
    node.sender.disconnect(&blocked.member);
    assert!(matches!(&causes(finish(mixed))[..], [(member, _)] if *member == blocked.member));
}

#[test]
fn a_destination_that_does_not_read_times_out() {
    let blocked = Blocked::new();
    let node = Node::new(TcpSenderConfig::default().timeout(Duration::from_millis(300)));
    let sending = node.queue(&[&blocked.member], 0, vec![0; 64 << 20]);
    let (_open, _) = blocked.listener.accept().expect("a connection");
    assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Timeout(_))]));
    node.lost(&blocked.member);
}

#[test]
fn the_end_of_an_idle_connection_is_noticed_at_once() {
    let server = Server::new(|_, message| if message.body() == &b"last"[..] { Does::Close } else { Does::Answer });
    let node = Node::new(patient());
    for _ in 0..50 {
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
    }
    assert!(node.call(&[&server.member], 0, "last").is_ok());
    node.lost(&server.member);
    assert!(node.call(&[&server.member], 2, "and there it is again").is_ok());
}

#[test]
fn stop_writes_and_awaits_what_is_queued() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..1000).map(|at| node.queue(&[&server.member], at % 2 * 2, vec![7; 1000])).collect();
    node.sender.stop(LONG);
    assert!(sendings.iter().all(Sending::is_done));
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    assert!(matches!(causes(node.call(&[&server.member], 2, "late"))[..], [(_, FaultCause::Stopped)]));
    assert_eq!(server.seen(1000).len(), 1000);
}

#[test]
fn stop_reports_what_it_could_not_send() {
    let mute = Server::new(|_, _| Does::Nothing);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..10).map(|_| node.queue(&[&mute.member], 2, "hello")).collect();
    mute.seen(10);
    node.sender.stop(Duration::from_millis(20));
    for sending in sendings {
        assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Stopped)]));
    }
    node.sender.start(LinkSink::new(|_| {})).expect_err("a sender starts once");
}

#[test]
fn disconnect_fails_what_is_owed_and_a_later_send_connects_again() {
    let server = Server::new(|connection, _| if connection == 0 { Does::Nothing } else { Does::Answer });
    let node = Node::new(patient());
    let sending = node.queue(&[&server.member], 2, "hello");
    server.seen(1);
    node.sender.disconnect(&server.member);
    assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Connection(_))]));
    assert!(node.call(&[&server.member], 2, "again").is_ok());
}

/// A peer that says nothing: its listener, and what it is called.
fn silent_peer() -> (TcpListener, Member) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let member = Member::new(listener.local_addr().expect("bound")).with_id(UniqueId::for_member(Capabilities::ALL));
    (listener, member)
}

/// Waits until the sender has tried to connect to whom it was asked to: it takes requests in their order, and a port of the loopback
/// interface answers or refuses before the next that is asked.
fn attempted(node: &Node, member: &Member) {
    for _ in 0..2 {
        let (report, outcome) = mpsc::channel();
        let done = Box::new(move |probe| report.send(probe).expect("the test waits"));
        node.sender.probe(member, ProbeRequest::connect(LONG), done);
        outcome.recv_timeout(LONG).expect("an outcome");
    }
}

#[test]
fn the_end_of_a_member_that_was_never_sent_to_is_noticed() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    let (stream, _) = listener.accept().expect("the sender connects");
    assert!(node.lost.try_recv().is_err());
    drop(stream);
    node.lost(&member);
    assert_eq!(node.sender.stats().failed, 0);
}

#[test]
fn messages_take_the_connection_that_is_kept_and_it_is_not_closed_for_being_idle() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient().idle_timeout(Duration::ZERO));
    let begin = now();
    while node.sender.stats().connections == 0 {
        assert!(now() - begin < LONG, "not connected");
        node.sender.connect(&server.member);
        thread::yield_now();
    }
    for options in [0, 2, 6] {
        node.sender.heartbeat();
        attempted(&node, &server.member);
        node.sender.connect(&server.member);
        assert!(node.call(&[&server.member], options, "attended").is_ok());
        assert!(finish(node.queue(&[&server.member], options, "queued")).is_ok());
    }
    assert!(server.seen(6).iter().all(|seen| seen.connection == 0), "one connection per destination");
    let stats = node.sender.stats();
    assert_eq!((stats.connections, stats.connected, stats.failed, stats.resent), (1, 1, 0, 0));
    assert!(node.lost.try_recv().is_err());
}

#[test]
fn a_peer_that_closes_what_is_idle_is_left_in_peace() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    drop(listener.accept().expect("the sender connects"));
    node.lost(&member);
    for _ in 0..20 {
        node.sender.heartbeat();
        attempted(&node, &member);
    }
    assert!(node.sender.stats().connected < 3, "{:?}", node.sender.stats());
    assert!(node.lost.try_iter().count() < 3, "no storm");
}

#[test]
fn a_member_that_cannot_be_connected_to_fails_nothing_and_is_not_suspect() {
    let (dead, node) = (refusing(), Node::new(patient()));
    node.sender.connect(&dead);
    attempted(&node, &dead);
    assert_eq!((node.sender.stats().failed, node.sender.stats().pending), (0, 0));
    assert!(node.lost.try_recv().is_err(), "only what was there can be lost");
    assert!(matches!(causes(node.call(&[&dead], 6, "hello"))[..], [(_, FaultCause::Connect(_))]));
    node.lost(&dead);
}

#[test]
fn disconnect_closes_the_kept_connection_for_good() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    let (mut stream, _) = listener.accept().expect("the sender connects");
    node.sender.disconnect(&member);
    assert_eq!(stream.read(&mut [0; 1]).expect("an orderly end"), 0);
    node.sender.heartbeat();
    attempted(&node, &member);
    assert_eq!(node.sender.stats().connections, 0);
    assert!(node.lost.try_recv().is_err(), "we closed it ourselves");
}

#[test]
fn a_placeholder_and_whom_it_stands_for_share_one_connection() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let placeholder = Member::placeholder(server.member.address());
    node.sender.connect(&placeholder);
    for _ in 0..2 {
        for member in [&placeholder, &server.member] {
            assert!(node.call(&[member], 6, "attended").is_ok());
            assert!(finish(node.queue(&[member], 2, "queued")).is_ok());
        }
        node.sender.connect(&server.member);
    }
    assert!(server.seen(8).iter().all(|seen| seen.connection == 0));
    assert_eq!((node.sender.stats().connections, node.sender.stats().connected), (1, 1));
    node.sender.disconnect(&placeholder);
    assert!(node.call(&[&server.member], 6, "attended").is_ok(), "it is the member's by now");
    assert_eq!(node.sender.stats().connected, 1);
}

#[test]
fn no_connection_is_kept_where_none_is_wanted() {
    let (_listener, member) = silent_peer();
    let node = Node::new(patient().keep_connected(false));
    node.sender.connect(&member);
    attempted(&node, &member);
    assert_eq!(node.sender.stats().connected, 0);
}

#[test]
fn connections_are_closed_after_so_many_messages_or_so_long() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient().keep_alive_count(10));
    for count in 0..40 {
        assert!(node.call(&[&server.member], count % 2 * 2, "hello").is_ok());
    }
    let seen = server.seen(40);
    for connection in 0..4 {
        assert_eq!(seen.iter().filter(|seen| seen.connection == connection).count(), 10);
    }
    for config in [patient().idle_timeout(Duration::ZERO), patient().keep_alive_time(Duration::ZERO)] {
        let node = Node::new(config);
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
        let begin = now();
        while node.sender.stats().connections > 0 {
            assert!(now() - begin < LONG, "still connected");
            node.sender.heartbeat();
            thread::yield_now();
        }
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
        assert!(node.lost.try_recv().is_err(), "we closed it ourselves");
    }
}

#[test]
fn probes_tell_alive_from_refused_from_mute() {
    let (well, mute, dead) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Nothing), refusing());
    let node = Node::new(patient().max_probes(2));
    let (report, outcome) = mpsc::channel();
    let probe = |member: &Member, request: ProbeRequest| {
        let report = report.clone();
        node.sender.probe(member, request, Box::new(move |probe| report.send(probe).expect("the test waits")));
        outcome.recv_timeout(LONG).expect("an outcome")
    };
    let message = Message::from_parts(
        UniqueId::from_bytes([9; 16]),
        SendOptions::ACK,
        0,
        Member::new(local()),
        Body::from(Bytes::from_static(b"probe")),
    );
    let mut asking = ProbeRequest::connect(LONG);
    asking.frame = frame::to_bytes(&message);
    asking.expect_answer = true;
    asking.answer_timeout = Duration::from_millis(100);
    assert_eq!(probe(&well.member, ProbeRequest::connect(LONG)), Probe::Alive);
    assert_eq!(probe(&mute.member, ProbeRequest::connect(LONG)), Probe::Alive);
    assert_eq!(probe(&dead, ProbeRequest::connect(LONG)), Probe::Refused);
    assert_eq!(probe(&mute.member, asking.clone()), Probe::Unreachable);
    asking.answer_timeout = LONG;
    assert_eq!(probe(&well.member, asking), Probe::Alive);
    for _ in 0..50 {
        let report = report.clone();
        let done = Box::new(move |probe| report.send(probe).expect("the test waits"));
        node.sender.probe(&well.member, ProbeRequest::connect(LONG), done);
    }
    for _ in 0..50 {
        assert_eq!(outcome.recv_timeout(LONG), Ok(Probe::Alive));
    }
}
