use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;

use super::*;
use crate::completion::{SendError, Sending};
use crate::id::UniqueId;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::Inbound;
use crate::transport::MessageHandler;
use crate::wire::frame;

const PATIENCE: Duration = Duration::from_secs(20);

struct Tap(mpsc::Sender<Inbound>);

impl MessageHandler for Tap {
    fn message(&self, msg: Inbound) {
        let _ = self.0.send(msg);
    }

    fn disconnected(&self, _member: &Member) {}
}

fn config() -> UdpConfig {
    UdpConfig::default().host([127, 0, 0, 1].into()).port(0).ack_timeout(PATIENCE)
}

fn receiver(config: UdpConfig) -> (UdpTransport, SocketAddr, mpsc::Receiver<Inbound>) {
    let mut udp = UdpTransport::new(config);
    let (messages, inbox) = mpsc::channel();
    let listening = Receiver::start(&mut udp, MessageSink::new(Arc::new(Tap(messages)))).unwrap();
    (udp, ([127, 0, 0, 1], listening.udp_port.unwrap()).into(), inbox)
}

fn sender(config: UdpConfig) -> (UdpTransport, mpsc::Receiver<Member>) {
    let udp = UdpTransport::new(config);
    let (losses, lost) = mpsc::channel();
    Sender::start(&udp, LinkSink::new(move |member| drop(losses.send(member.clone())))).unwrap();
    (udp, lost)
}

/// A socket of the test's own, and the member that is reached there.
fn peer() -> (UdpSocket, Member) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, Member::new(([127, 0, 0, 1], 1).into()).with_udp_port(Some(port)))
}

fn message(options: u32, body: &'static str) -> Message {
    let sender = Member::new(([127, 0, 0, 1], 9).into());
    Message::from_parts(UniqueId::from_bytes([7; 16]), SendOptions::from_bits(options | 0x20), 0, sender, Body::from(body))
}

fn begin(udp: &UdpTransport, to: &Member, options: u32) -> Sending {
    let (sending, legs) = Sending::new(UniqueId::from_bytes([7; 16]), [to.clone()]);
    udp.transmit(Outbound::new(message(options, "x"), legs));
    sending
}

#[track_caller]
fn cause(sending: Sending) -> FaultCause {
    let SendError { mut faults, .. } = sending.wait_timeout(PATIENCE).expect("settled").expect_err("failed");
    faults.remove(0).cause
}

#[track_caller]
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 1024];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    (buffer[..length].to_vec(), from)
}

#[test]
fn a_listener_that_panics_does_not_end_the_receiver() {
    struct Panics(mpsc::Sender<()>);
    impl MessageHandler for Panics {
        fn message(&self, msg: Inbound) {
            assert!(msg.message.bytes() != "panic", "as the test wants");
            self.0.send(()).unwrap();
        }
        fn disconnected(&self, _: &Member) {}
    }
    let mut udp = UdpTransport::new(config());
    let (handled, inbox) = mpsc::channel();
    let port = Receiver::start(&mut udp, MessageSink::new(Arc::new(Panics(handled)))).unwrap().udp_port.unwrap();
    let (socket, _) = peer();
    for body in ["panic", "good"] {
        socket.send_to(&frame::to_bytes(&message(0, body)), ("127.0.0.1", port)).unwrap();
    }
    inbox.recv_timeout(PATIENCE).expect("the thread goes on");
}

#[test]
fn a_bad_datagram_is_dropped_and_the_next_good_one_is_read() {
    let (udp, address, inbox) = receiver(config());
    let (socket, _) = peer();
    let good = frame::to_bytes(&message(0, "good"));
    for bad in
        [&b""[..], b"junk", &good[..good.len() - 1], &frame::ACK[..], b"FLT2002\x7f\xff\xff\xff", b"FLT2002\0\0\0\0TLF2003"]
    {
        socket.send_to(bad, address).unwrap();
    }
    socket.send_to(&[&good[..], b"junk"].concat(), address).unwrap();
    socket.send_to(&good, address).unwrap();
    for _ in 0..2 {
        assert_eq!(inbox.recv_timeout(PATIENCE).expect("what is whole").message.bytes(), "good");
    }
    drop(inbox);
    let stats = Receiver::stats(&udp);
    assert_eq!((stats.messages, stats.malformed), (2, 7), "{stats:?}");
}

#[test]
fn several_frames_in_one_datagram_are_answered_one_by_one_at_its_source() {
    let (_udp, address, inbox) = receiver(config());
    let (socket, _) = peer();
    let all = [message(2, "one"), message(0, "two"), message(6, "three"), message(6, "four")];
    let datagram: Vec<u8> = all.iter().flat_map(|message| frame::to_bytes(message).to_vec()).collect();
    socket.send_to(&datagram, address).unwrap();
    assert_eq!(receive(&socket), (frame::ACK.to_vec(), address));
    let mut inbound: Vec<_> = (0..4).map(|_| inbox.recv_timeout(PATIENCE).expect("a message")).collect();
    inbound.remove(2).reply.reject();
    assert_eq!(receive(&socket), (frame::FAIL_ACK.to_vec(), address));
    inbound.remove(2).reply.accept();
    assert_eq!(receive(&socket), (frame::ACK.to_vec(), address));
}

#[test]
fn binds_the_next_port_when_one_is_taken() {
    let (_first, taken, _) = receiver(config());
    let mut none_left = UdpTransport::new(config().port(taken.port()).auto_bind(1));
    let sink = || MessageSink::new(Arc::new(Tap(mpsc::channel().0)));
    assert_eq!(Receiver::start(&mut none_left, sink()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let (_second, address, _) = receiver(config().port(taken.port()));
    assert_ne!(address, taken);
}

#[test]
fn a_mute_peer_is_a_timeout_and_is_not_asked_again() {
    let (udp, lost) = sender(config().ack_timeout(Duration::from_millis(30)));
    let (socket, member) = peer();
    assert!(matches!(cause(begin(&udp, &member, 2)), FaultCause::Timeout(_)));
    assert_eq!(lost.recv_timeout(PATIENCE), Ok(member));
    receive(&socket);
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 9]).is_err());
    let stats = Sender::stats(&udp);
    assert_eq!((stats.frames, stats.failed, stats.pending), (1, 1, 0), "{stats:?}");
}

#[test]
fn a_member_without_a_udp_port_fails_alone() {
    let (udp, _) = sender(config());
    let (_socket, member) = peer();
    let none = member.with_udp_port(None).with_id(UniqueId::from_bytes([3; 16]));
    let (sending, legs) = Sending::new(UniqueId::from_bytes([7; 16]), [none.clone(), member]);
    udp.transmit(Outbound::new(message(0, "x"), legs));
    let error = sending.wait_timeout(PATIENCE).expect("settled").expect_err("one failed");
    assert_eq!(error.faults.len(), 1);
    assert_eq!(error.faults[0].member, none);
    assert!(matches!(error.faults[0].cause, FaultCause::NoUdp));
}

#[test]
fn few_are_under_way_at_once_and_the_rest_wait_their_turn() {
    let (udp, _) = sender(config().in_flight(2).queue(4, 1 << 20));
    let (socket, member) = peer();
    let sendings: Vec<_> = (0..4).map(|_| begin(&udp, &member, 6)).collect();
    assert!(matches!(cause(begin(&udp, &member, 6)), FaultCause::QueueFull));
    assert_eq!(Sender::stats(&udp).frames, 2);
    for (answered, sending) in sendings.into_iter().enumerate() {
        let (_, from) = receive(&socket);
        // Junk, and an answer from somebody else, are no answer.
        socket.send_to(b"junk", from).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(frame::FAIL_ACK, from).unwrap();
        socket.send_to(frame::ACK, from).unwrap();
        assert!(sending.wait_timeout(PATIENCE).expect("settled").is_ok(), "number {answered}");
    }
    assert_eq!(Sender::stats(&udp).frames, 4);
}

#[test]
fn a_stopped_transport_can_be_started_again() {
    let (mut udp, address, inbox) = receiver(config());
    Sender::start(&udp, LinkSink::new(|_| {})).unwrap();
    let member = Member::new(address).with_udp_port(Some(address.port()));
    let sending = begin(&udp, &member, 2);
    assert!(sending.wait_timeout(PATIENCE).expect("settled").is_ok());
    Sender::stop(&udp, PATIENCE);
    assert!(matches!(cause(begin(&udp, &member, 2)), FaultCause::Stopped));
    Receiver::stop(&mut udp);
    assert_eq!(inbox.iter().count(), 1);
    let (messages, inbox) = mpsc::channel();
    let listening = Receiver::start(&mut udp, MessageSink::new(Arc::new(Tap(messages)))).unwrap();
    Sender::start(&udp, LinkSink::new(|_| {})).unwrap();
    let sending = begin(&udp, &member.with_udp_port(listening.udp_port), 2);
    assert!(sending.wait_timeout(PATIENCE).expect("settled").is_ok());
    assert!(inbox.recv_timeout(PATIENCE).is_ok());
    assert_eq!(Receiver::stats(&udp).messages, 2);
}
