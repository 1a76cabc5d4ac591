use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::*;
use crate::clock;
use crate::completion::{FaultCause, SendError, Sending};
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Inbound, Outbound};
use crate::transport::{LinkSink, MessageHandler, MessageSink, Receiver, ReceiverStats, Sender, SenderStats};
use crate::wire::frame::{self, ACK, FAIL_ACK};

const PATIENCE: Duration = Duration::from_secs(20);

struct Tap(mpsc::Sender<Inbound>, mpsc::Sender<Member>);

impl MessageHandler for Tap {
    fn message(&self, msg: Inbound) {
        let _ = self.0.send(msg);
    }

    fn disconnected(&self, member: &Member) {
        let _ = self.1.send(member.clone());
    }
}

struct Panics;

impl MessageHandler for Panics {
    fn message(&self, _: Inbound) {
        panic!("as the test wants");
    }

    fn disconnected(&self, _: &Member) {}
}

struct Listener {
    receiver: BlockingReceiver,
    address: SocketAddr,
    inbox: mpsc::Receiver<Inbound>,
    ended: mpsc::Receiver<Member>,
}

impl Listener {
    fn new(config: BlockingReceiverConfig) -> Self {
        let mut receiver = BlockingReceiver::new(config.bind(([127, 0, 0, 1], 0).into()));
        let (messages, inbox) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let listening = receiver.start(MessageSink::new(Arc::new(Tap(messages, ends)))).unwrap();
        Self { receiver, address: listening.address.unwrap(), inbox, ended }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    #[track_caller]
    fn next(&self) -> Inbound {
        self.inbox.recv_timeout(PATIENCE).expect("a message")
    }

    #[track_caller]
    fn until(&self, wanted: impl Fn(ReceiverStats) -> bool) {
        until(|| wanted(self.receiver.stats()).then_some(()).ok_or_else(|| format!("{:?}", self.receiver.stats())));
    }
}

/// Looks again and again, as nothing tells when a counter changes.
#[track_caller]
fn until(mut look: impl FnMut() -> Result<(), String>) {
    let start = clock::now();
    while let Err(seen) = look() {
        assert!(!clock::left(start, PATIENCE).is_zero(), "{seen}");
        std::thread::yield_now();
    }
}

fn message(options: u32, body: &'static str) -> Message {
    let sender = Member::new(([127, 0, 0, 1], 9).into()).with_id(UniqueId::from_bytes([1; 16]));
    Message::from_parts(UniqueId::from_bytes([7; 16]), SendOptions::from_bits(options), 0, sender, Body::from(body))
}

fn framed(options: u32, body: &'static str) -> Vec<u8> {
    frame::to_bytes(&message(options, body)).to_vec()
}

#[track_caller]
fn read(stream: &mut TcpStream) -> [u8; 21] {
    let mut bytes = [0; 21];
    stream.read_exact(&mut bytes).expect("an acknowledgement");
    bytes
}

fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1))
}

fn sender(config: BlockingSenderConfig) -> (BlockingSender, mpsc::Receiver<Member>) {
    let sender = BlockingSender::new(config);
    let (losses, lost) = mpsc::channel();
    sender.start(LinkSink::new(move |member| drop(losses.send(member.clone())))).unwrap();
    (sender, lost)
}

/// A socket of the test's own, and the member that is reached there.
fn peer() -> (TcpListener, Member) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let member = Member::new(listener.local_addr().unwrap());
    (listener, member)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn begin(sender: &BlockingSender, to: &Member, options: u32) -> Sending {
    let (sending, legs) = Sending::new(UniqueId::from_bytes([7; 16]), [to.clone()]);
    sender.transmit(Outbound::new(message(options, "x"), legs));
    sending
}

#[track_caller]
fn outcome(sending: Sending) -> Result<(), FaultCause> {
    let outcome = sending.wait_timeout(PATIENCE).expect("settled in time");
    outcome.map(drop).map_err(|SendError { mut faults, .. }| faults.remove(0).cause)
}

#[test]
fn answers_leave_in_the_order_of_their_frames() {
    let listener = Listener::new(BlockingReceiverConfig::default());
    let mut stream = listener.connect();
    stream.write_all(&[framed(6, "a"), framed(2, "b"), framed(0, "c"), framed(6, "d")].concat()).unwrap();
    let [a, _, _, d] = std::array::from_fn(|_| listener.next());
    d.reply.reject();
    a.reply.accept();
    assert_eq!([read(&mut stream), read(&mut stream), read(&mut stream)], [*ACK, *ACK, *FAIL_ACK]);
}

#[test]
fn bad_bytes_close_their_connection_and_no_other() {
    let listener = Listener::new(BlockingReceiverConfig::default().max_frame(1000));
    let mut good = listener.connect();
    let mut count = 0;
    for bad in [&b"GET / HTTP/1.1"[..], ACK, b"FLT2002\xff\xff\xff\xff", b"FLT2002\0\0\x03\xe9", b"FLT2002\0\0\0\0TLF2003"] {
        let mut stream = listener.connect();
        stream.write_all(bad).unwrap();
        assert!(is_closed(&mut stream));
        count += 1;
    }
    listener.until(|stats| stats.malformed == count);
    good.write_all(&framed(2, "good")).unwrap();
    assert_eq!(read(&mut good), *ACK);
    assert_eq!(listener.next().message.bytes(), "good");
}

#[test]
fn one_connection_too_many_is_closed() {
    let listener = Listener::new(BlockingReceiverConfig::default().max_connections(1));
    let mut first = listener.connect();
    first.write_all(&framed(2, "x")).unwrap();
    read(&mut first);
    assert!(is_closed(&mut listener.connect()));
    drop(first);
    assert_eq!(listener.ended.recv_timeout(PATIENCE).map(|member| member.address().port()), Ok(9));
    listener.until(|stats| stats.connections == 0 && stats.refused == 1);
    let mut second = listener.connect();
    second.write_all(&framed(2, "x")).unwrap();
    read(&mut second);
}

#[test]
fn a_silent_connection_makes_room_for_the_next() {
    let listener = Listener::new(BlockingReceiverConfig::default().max_connections(2));
    let mut first = listener.connect();
    first.write_all(&framed(2, "x")).unwrap();
    read(&mut first);
    let mut silent = listener.connect();
    let mut second = listener.connect();
    second.write_all(&framed(2, "x")).unwrap();
    read(&mut second);
    assert!(is_closed(&mut silent));
    first.write_all(&framed(2, "x")).unwrap();
    read(&mut first);
    listener.until(|stats| (stats.connections, stats.refused) == (2, 1));
}

#[test]
fn a_listener_that_panics_gives_its_place_back() {
    let mut receiver = BlockingReceiver::new(BlockingReceiverConfig::default().bind(([127, 0, 0, 1], 0).into()));
    let address = receiver.start(MessageSink::new(Arc::new(Panics))).unwrap().address.unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&framed(0, "x")).unwrap();
    assert!(is_closed(&mut stream));
    until(|| (receiver.stats().connections == 0).then_some(()).ok_or_else(|| format!("{:?}", receiver.stats())));
}

#[test]
fn half_a_frame_is_waited_for_and_bounded() {
    let listener = Listener::new(BlockingReceiverConfig::default().stall_timeout(Duration::from_millis(20)).max_buffered(1000));
    let mut idle = listener.connect();
    let mut stalled = listener.connect();
    stalled.write_all(b"FLT20").unwrap();
    assert!(is_closed(&mut stalled));
    let mut greedy = listener.connect();
    greedy.write_all(&[&b"FLT2002\0\0\xff\xff"[..], &[0; 1500]].concat()).unwrap();
    assert!(is_closed(&mut greedy));
    listener.until(|stats| stats.limited == 2);
    idle.write_all(&framed(2, "x")).unwrap();
    assert_eq!(read(&mut idle), *ACK, "between frames a peer may pause for ever");
}

#[test]
fn a_peer_that_only_closed_its_sending_half_gets_its_answers() {
    let listener = Listener::new(BlockingReceiverConfig::default());
    let mut stream = listener.connect();
    stream.write_all(&framed(6, "x")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(listener.ended.recv_timeout(PATIENCE).is_ok());
    listener.next().reply.reject();
    assert_eq!(read(&mut stream), *FAIL_ACK);
    assert!(is_closed(&mut stream), "nothing is owed any more");
}

#[test]
fn a_message_whose_connection_is_lost_is_sent_again_once() {
    let (sender, lost) = sender(BlockingSenderConfig::default().timeout(PATIENCE));
    let (listener, member) = peer();
    let sending = begin(&sender, &member, 2);
    let mut bytes = vec![0; framed(2, "x").len()];
    accept(&listener).read_exact(&mut bytes).unwrap();
    let mut second = accept(&listener);
    let mut again = vec![0; bytes.len()];
    second.read_exact(&mut again).unwrap();
    assert_eq!(bytes, again);
    second.write_all(ACK).unwrap();
    assert!(outcome(sending).is_ok());
    assert_eq!(sender.stats().resent, 1);
    let sending = begin(&sender, &member, 2);
    second.read_exact(&mut again).unwrap();
    drop(second);
    accept(&listener).read_exact(&mut again).unwrap();
    assert!(matches!(outcome(sending), Err(FaultCause::Connection(_))));
    assert_eq!(lost.recv_timeout(PATIENCE), Ok(member));
}

#[test]
fn a_mute_peer_fails_what_is_queued_together_and_is_not_asked_again() {
    let (sender, lost) = sender(BlockingSenderConfig::default().timeout(Duration::from_millis(30)));
    let (listener, member) = peer();
    let sendings: Vec<_> = (0..100).map(|_| begin(&sender, &member, 2)).collect();
    let mut stream = accept(&listener);
    for sending in sendings {
        assert!(matches!(outcome(sending), Err(FaultCause::Timeout(_))));
    }
    assert_eq!(lost.recv_timeout(PATIENCE), Ok(member));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), framed(2, "x").len());
    assert_eq!(sender.stats().pending, 0);
}

#[test]
fn a_connection_that_the_peer_closed_while_idle_is_opened_anew() {
    let (sender, _lost) = sender(BlockingSenderConfig::default());
    let (listener, member) = peer();
    let frame = framed(0, "x").len();
    assert!(outcome(begin(&sender, &member, 0)).is_ok());
    accept(&listener).read_exact(&mut vec![0; frame]).unwrap();
    // The thread waits by now, or will look at the connection only when it has: both are the same to the peer.
    until(|| (sender.stats().pending == 0).then_some(()).ok_or_else(|| "still pending".to_owned()));
    let sending = begin(&sender, &member, 2);
    let mut second = accept(&listener);
    second.read_exact(&mut vec![0; frame]).unwrap();
    second.write_all(ACK).unwrap();
    assert!(outcome(sending).is_ok());
}

#[test]
fn an_idle_destination_costs_nothing() {
    let (sender, _lost) = sender(BlockingSenderConfig::default().idle_timeout(Duration::from_millis(5)));
    let (listener, member) = peer();
    for _ in 0..2 {
        assert!(outcome(begin(&sender, &member, 0)).is_ok());
        let mut bytes = Vec::new();
        accept(&listener).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), framed(0, "x").len(), "the connection is closed behind the message");
    }
    let SenderStats { connected, frames, resent, .. } = sender.stats();
    assert_eq!((connected, frames, resent), (2, 2, 0));
}

#[test]
fn no_connection_is_opened_beside_an_idle_one_that_the_peer_still_reads() {
    let config = BlockingSenderConfig::default().idle_timeout(Duration::from_millis(5)).timeout(PATIENCE);
    let (sender, _lost) = sender(config);
    let (listener, member) = peer();
    assert!(outcome(begin(&sender, &member, 0)).is_ok());
    let mut first = accept(&listener);
    first.read_to_end(&mut Vec::new()).unwrap();
    let sending = begin(&sender, &member, 2);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "the peer has not closed");
    assert_eq!(sender.stats().connected, 1);
    listener.set_nonblocking(false).unwrap();
    drop(first);
    let mut second = accept(&listener);
    second.read_exact(&mut vec![0; framed(2, "x").len()]).unwrap();
    second.write_all(ACK).unwrap();
    assert!(outcome(sending).is_ok());
}

#[test]
fn bounds_are_kept_per_destination() {
    let (sender, _lost) = sender(BlockingSenderConfig::default().timeout(PATIENCE).queue(2, 1 << 20).max_message(5));
    let ((_first, mute), (_second, other)) = (peer(), peer());
    let stuck = [begin(&sender, &mute, 2), begin(&sender, &mute, 2)];
    assert!(matches!(outcome(begin(&sender, &mute, 2)), Err(FaultCause::QueueFull)));
    assert!(outcome(begin(&sender, &other, 0)).is_ok());
    let (sending, legs) = Sending::new(UniqueId::from_bytes([7; 16]), [other]);
    sender.transmit(Outbound::new(message(0, "longer"), legs));
    assert!(matches!(outcome(sending), Err(FaultCause::TooLarge { size: 6, limit: 5 })));
    sender.stop(Duration::ZERO);
    stuck.into_iter().for_each(|sending| assert!(matches!(outcome(sending), Err(FaultCause::Stopped))));
}
