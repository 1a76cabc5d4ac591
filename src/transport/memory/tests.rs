use std::sync::mpsc;

use super::*;
use crate::completion::{FaultCause, SendError, Sending};
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Inbound, Outbound, Probe, ProbeRequest};
use crate::transport::{LinkSink, MessageHandler, Receiver, Sender};

const PATIENCE: Duration = Duration::from_secs(20);

/// Passes everything on to the test.
struct Tap(mpsc::Sender<Inbound>, mpsc::Sender<Member>);

impl MessageHandler for Tap {
    fn message(&self, msg: Inbound) {
        let _ = self.0.send(msg);
    }

    fn disconnected(&self, member: &Member) {
        let _ = self.1.send(member.clone());
    }
}

struct Node {
    member: Member,
    receiver: MemoryReceiver,
    sender: MemorySender,
    inbox: mpsc::Receiver<Inbound>,
    disconnected: mpsc::Receiver<Member>,
    lost: mpsc::Receiver<Member>,
}

impl Node {
    fn new(network: &Network) -> Self {
        let (mut receiver, sender) = network.endpoint("10.0.0.1:0".parse().unwrap());
        let (messages, inbox) = mpsc::channel();
        let (ends, disconnected) = mpsc::channel();
        let (losses, lost) = mpsc::channel();
        let listening = receiver.start(MessageSink::new(Arc::new(Tap(messages, ends)))).unwrap();
        sender.start(LinkSink::new(move |member| drop(losses.send(member.clone())))).unwrap();
        let member = Member::new(listening.address.unwrap());
        Self { member, receiver, sender, inbox, disconnected, lost }
    }

    fn address(&self) -> SocketAddr {
        self.member.address()
    }

    fn begin(&self, to: &Self, options: u32, number: u32) -> Sending {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let id = UniqueId::from_bytes(id);
        let body = Body::from(number.to_be_bytes().to_vec());
        let message = Message::from_parts(id, SendOptions::from_bits(options), 0, self.member.clone(), body);
        let (sending, legs) = Sending::new(id, [to.member.clone()]);
        self.sender.transmit(Outbound::new(message, legs));
        sending
    }

    #[track_caller]
    fn send(&self, to: &Self, options: u32, number: u32) -> Result<(), FaultCause> {
        let outcome = self.begin(to, options, number).wait_timeout(PATIENCE).expect("settled in time");
        outcome.map(drop).map_err(|SendError { mut faults, .. }| faults.remove(0).cause)
    }

    #[track_caller]
    fn next(&self) -> u32 {
        let body = self.inbox.recv_timeout(PATIENCE).expect("a message").message.bytes();
        u32::from_be_bytes(body[..].try_into().unwrap())
    }

    #[track_caller]
    fn probe(&self, to: &Self) -> Probe {
        let (outcome, done) = mpsc::channel();
        let request = ProbeRequest::connect(Duration::from_millis(20));
        self.sender.probe(&to.member, request, Box::new(move |probe| outcome.send(probe).unwrap()));
        done.recv_timeout(PATIENCE).expect("an outcome")
    }
}

fn two() -> (Network, Node, Node) {
    let network = Network::new(1);
    let (a, b) = (Node::new(&network), Node::new(&network));
    (network, a, b)
}

#[test]
fn dropped_messages_fail_with_an_ack_and_vanish_without() {
    let (network, a, b) = two();
    network.set_timeout(Duration::from_millis(20));
    network.set_link_faults(a.address(), b.address(), Faults::default().dropping(1.0));
    assert!(matches!(a.send(&b, 2, 1), Err(FaultCause::Timeout(_))));
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(b.member.clone()));
    assert!(a.send(&b, 0, 2).is_ok());
    network.set_link_faults(a.address(), b.address(), Faults::default());
    network.set_timeout(PATIENCE);
    assert!(a.send(&b, 2, 3).is_ok());
    assert_eq!(b.next(), 3);
}

#[test]
fn an_answer_that_is_cut_off_is_a_timeout_though_the_message_arrived() {
    let (network, a, b) = two();
    assert!(a.send(&b, 2, 1).is_ok());
    network.set_timeout(Duration::from_millis(20));
    network.cut(b.address(), a.address());
    assert!(matches!(a.send(&b, 6, 2), Err(FaultCause::Timeout(_))));
    assert_eq!((b.next(), b.next()), (1, 2));
    assert_eq!(a.probe(&b), Probe::Unreachable);
    network.heal();
    assert_eq!(a.probe(&b), Probe::Alive);
}

#[test]
fn no_connection_is_opened_across_a_partition() {
    let (network, a, b) = two();
    network.set_timeout(Duration::from_millis(20));
    network.partition(&[a.address()], &[b.address()]);
    assert!(matches!(a.send(&b, 0, 1), Err(FaultCause::Connect(ErrorKind::TimedOut))));
    network.heal();
    assert!(a.send(&b, 0, 2).is_ok());
    assert_eq!(b.next(), 2);
}

#[test]
fn duplicates_arrive_twice_and_are_answered_once() {
    let (network, a, b) = two();
    network.set_faults(Faults::default().duplicating(1.0));
    assert!(a.send(&b, 2, 1).is_ok());
    assert!(a.send(&b, 2, 2).is_ok());
    assert_eq!([b.next(), b.next(), b.next(), b.next()], [1, 1, 2, 2]);
}

#[test]
fn order_is_kept_under_delay_and_lost_only_when_asked_for() {
    let (network, a, b) = two();
    network.set_faults(Faults::default().delaying(Duration::ZERO, Duration::from_micros(300)));
    let send_all = || {
        (0..200).for_each(|number| drop(a.begin(&b, 0, number)));
        (0..200).map(|_| b.next()).collect::<Vec<_>>()
    };
    let in_order: Vec<_> = (0..200).collect();
    assert_eq!(send_all(), in_order);
    network.set_faults(Faults::default().reordering(0.5));
    let mut received = send_all();
    assert_ne!(received, in_order);
    received.sort_unstable();
    assert_eq!(received, in_order, "late, but there");
}

#[test]
fn a_seed_decides_the_fate_of_every_message() {
    let run = |seed| {
        let network = Network::new(seed);
        let (a, b) = (Node::new(&network), Node::new(&network));
        network.set_link_faults(a.address(), b.address(), Faults::default().dropping(0.3));
        (0..100).for_each(|number| drop(a.begin(&b, 0, number)));
        network.set_link_faults(a.address(), b.address(), Faults::default());
        assert!(a.send(&b, 2, 1000).is_ok());
        std::iter::from_fn(|| Some(b.next()).filter(|number| *number < 1000)).collect::<Vec<_>>()
    };
    let first = run(5);
    assert!((40..95).contains(&first.len()), "{first:?}");
    assert_eq!(first, run(5));
    assert_ne!(first, run(6));
}

#[test]
fn a_crash_ends_connections_both_ways_and_a_restart_is_found() {
    let (network, a, b) = two();
    assert!(a.send(&b, 2, 1).is_ok());
    assert!(b.send(&a, 2, 2).is_ok());
    b.next();
    let pending = a.begin(&b, 6, 3);
    // Kept unanswered.
    let unanswered = b.inbox.recv_timeout(PATIENCE).expect("the message");
    network.crash(b.address());
    let error = pending.wait_timeout(PATIENCE).expect("settled").expect_err("crashed");
    assert!(matches!(error.faults[0].cause, FaultCause::Connection(ErrorKind::ConnectionReset)));
    drop(unanswered);
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(b.member.clone()), "the sender's connection");
    assert_eq!(a.disconnected.recv_timeout(PATIENCE), Ok(b.member.clone()), "the receiver's connection");
    assert!(matches!(a.send(&b, 0, 4), Err(FaultCause::Connect(ErrorKind::ConnectionRefused))));
    assert!(matches!(b.send(&a, 0, 5), Err(FaultCause::Connect(ErrorKind::NetworkDown))));
    assert_eq!(a.probe(&b), Probe::Refused);
    let (mut receiver, _sender) = network.endpoint(b.address());
    let (messages, inbox) = mpsc::channel();
    receiver.start(MessageSink::new(Arc::new(Tap(messages, mpsc::channel().0)))).unwrap();
    assert!(a.send(&b, 2, 6).is_ok());
    assert!(inbox.recv_timeout(PATIENCE).is_ok());
}

#[test]
fn one_address_has_one_receiver() {
    let (network, mut a, _b) = two();
    let tap = || MessageSink::new(Arc::new(Tap(mpsc::channel().0, mpsc::channel().0)));
    assert_eq!(a.receiver.start(tap()).unwrap_err().kind(), ErrorKind::AddrInUse);
    a.receiver.stop();
    assert!(a.receiver.start(tap()).is_ok());
    let (mut other, _sender) = network.endpoint(a.address());
    assert!(other.start(tap()).is_ok(), "the newest endpoint is the process at this address");
    a.receiver.stop();
    assert_eq!(a.receiver.start(tap()).unwrap_err().kind(), ErrorKind::AddrInUse);
}
