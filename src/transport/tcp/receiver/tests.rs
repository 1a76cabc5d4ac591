//! The receiver as a peer sees it: plain sockets that speak frames.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam_channel::{Receiver as Incoming, Sender as Outgoing, unbounded};

use super::*;
use crate::id::UniqueId;
use crate::member::Member;
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Inbound, Reply};
use crate::transport::MessageHandler;
use crate::wire::frame::{self, ACK, FAIL_ACK};

const PATIENCE: Duration = Duration::from_secs(20);

/// Tells what came, and does with each message what the test wants.
struct Listener<F> {
    listen: F,
    ended: Outgoing<Member>,
}

impl<F: Fn(Message, Reply) + Send + Sync> MessageHandler for Listener<F> {
    fn message(&self, Inbound { message, reply }: Inbound) {
        (self.listen)(message, reply);
    }

    fn disconnected(&self, member: &Member) {
        let _ = self.ended.send(member.clone());
    }
}

struct Running {
    receiver: TcpReceiver,
    address: SocketAddr,
    ended: Incoming<Member>,
}

fn run(config: TcpReceiverConfig, listen: impl Fn(Message, Reply) + Send + Sync + 'static) -> Running {
    let (ended_tx, ended) = unbounded();
    let mut receiver = TcpReceiver::new(config.bind("127.0.0.1:0".parse().unwrap()));
    let sink = MessageSink::new(Arc::new(Listener { listen, ended: ended_tx }));
    let address = receiver.start(sink).expect("it listens").address.expect("over TCP");
    Running { receiver, address, ended }
}

/// A receiver whose listener passes every body to the channel, and accepts.
fn collect(config: TcpReceiverConfig) -> (Running, Incoming<Bytes>) {
    let (tx, rx) = unbounded();
    let running = run(config, move |message, reply| {
        tx.send(message.bytes()).unwrap();
        reply.accept();
    });
    (running, rx)
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn wait_until(&self, what: &str, condition: impl Fn(ReceiverStats) -> bool) {
        let since = clock();
        while !condition(self.receiver.stats()) {
            assert!(since.elapsed() < PATIENCE, "{what}: {:?}", self.receiver.stats());
            std::thread::yield_now();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's deadline")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

fn member() -> Member {
    Member::new("127.0.0.1:4999".parse().unwrap()).with_id(UniqueId::from_bytes([9; 16]))
}

fn framed(options: u32, body: impl Into<Body>) -> Bytes {
    let id = UniqueId::from_bytes([1; 16]);
    frame::to_bytes(&Message::from_parts(id, SendOptions::from_bits(options), 0, member(), body.into()))
}

fn ack(stream: &mut TcpStream) -> [u8; 21] {
    let mut ack = [0; 21];
    stream.read_exact(&mut ack).expect("an acknowledgement");
    ack
}

/// Whether the receiver has closed this connection, whatever it wrote before.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn each_option_gets_the_acknowledgement_that_tribes_gives() {
    let (running, bodies) = collect(TcpReceiverConfig::default());
    for (options, acks) in [(0, 0), (4, 0), (8, 0), (2, 1), (10, 1), (6, 1), (14, 1), (0x102, 1)] {
        let mut stream = running.connect();
        stream.write_all(&framed(options, "x")).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, ACK.repeat(acks), "options {options}");
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "x");
    }
}

#[test]
fn a_rejected_message_is_answered_negatively_only_when_processing_was_asked_for() {
    let running = run(TcpReceiverConfig::default(), |_, reply| reply.reject());
    let mut stream = running.connect();
    for (options, answer) in [(6, FAIL_ACK), (2, ACK), (14, FAIL_ACK)] {
        stream.write_all(&framed(options, "x")).unwrap();
        assert_eq!(ack(&mut stream), *answer, "options {options}");
    }
}

#[test]
fn a_receipt_is_acknowledged_before_anybody_handled_the_message() {
    let (go_on, gate) = unbounded::<()>();
    let running = run(TcpReceiverConfig::default(), move |_, _| gate.recv_timeout(PATIENCE).unwrap());
    let mut stream = running.connect();
    stream.write_all(&framed(2, "x").repeat(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(ack(&mut stream), *ACK);
        go_on.send(()).unwrap();
    }
}

#[test]
fn many_frames_in_flight_are_answered_in_order() {
    let held = Mutex::new(Vec::new());
    // Every third answer is given late, with the next message but one, and from the other end.
    let running = run(TcpReceiverConfig::default(), move |message, reply| {
        let body = message.bytes();
        let number = u32::from_be_bytes(body[..].try_into().unwrap());
        let mut held = held.lock().unwrap();
        match number % 3 {
            0 => held.push(reply),
            1 if number % 2 == 0 => reply.reject(),
            1 => reply.accept(),
            _ => {
                reply.accept();
                held.drain(..).rev().for_each(Reply::reject);
            }
        }
    });
    let mut stream = running.connect();
    let frames: Vec<u8> = (0..999u32).flat_map(|number| framed(6, number.to_be_bytes().to_vec())).collect();
    stream.write_all(&frames).unwrap();
    for number in 0..999u32 {
        let expected = if number % 3 == 0 || number % 6 == 4 { FAIL_ACK } else { ACK };
        assert_eq!(ack(&mut stream), *expected, "frame {number}");
    }
}

#[test]
fn an_answer_may_come_from_another_thread_long_after() {
    let (tx, replies) = unbounded();
    let running = run(TcpReceiverConfig::default(), move |_, reply| tx.send(reply).unwrap());
    let mut stream = running.connect();
    stream.write_all(&[framed(6, "a"), framed(2, "b"), framed(6, "c")].concat()).unwrap();
    let [a, _, c] = [(); 3].map(|()| replies.recv_timeout(PATIENCE).unwrap());
    c.accept();
    stream.shutdown(Shutdown::Write).unwrap();
    running.ended.recv_timeout(PATIENCE).unwrap();
    a.reject();
    drop(replies);
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    assert_eq!(answers, [&FAIL_ACK[..], ACK, ACK].concat(), "a peer that only stopped sending still gets its answers");
}

#[test]
fn bad_bytes_close_their_connection_and_no_other() {
    let (running, bodies) = collect(TcpReceiverConfig::default().max_frame(1000));
    let mut good = running.connect();
    let mut wrong_footer = framed(2, "x").to_vec();
    *wrong_footer.last_mut().unwrap() ^= 1;
    let mut no_sender = framed(2, "x").to_vec();
    no_sender[frame::HEAD + 32 + 3] = 0;
    let bad: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"FLT2002\xff\xff\xff\xff",
        b"FLT2002\x00\x00\x03\xe9",
        &wrong_footer,
        &no_sender,
        ACK,
        &framed(0, "x").repeat(2)[1..],
    ];
    for (count, bytes) in bad.into_iter().enumerate() {
        let mut stream = running.connect();
        stream.write_all(&framed(2, "before")).unwrap();
        stream.write_all(bytes).unwrap();
        assert_eq!(ack(&mut stream), *ACK);
        assert!(is_closed(&mut stream), "{:?}", Bytes::copy_from_slice(bytes));
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "before");
        good.write_all(&framed(6, "good")).unwrap();
        assert_eq!(ack(&mut good), *ACK);
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "good");
        running.wait_until("counted", |stats| stats.malformed == count as u64 + 1);
    }
}

#[test]
fn frames_come_whole_however_slowly_they_arrive() {
    let (running, bodies) = collect(TcpReceiverConfig::default());
    let mut stream = running.connect();
    stream.set_nodelay(true).unwrap();
    let frame = framed(6, "slow");
    for byte in &frame[..] {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(ack(&mut stream), *ACK);
    let two = framed(6, "half").repeat(2);
    let (first, second) = two.split_at(frame.len() + 30);
    stream.write_all(first).unwrap();
    assert_eq!(ack(&mut stream), *ACK);
    stream.write_all(second).unwrap();
    assert_eq!(ack(&mut stream), *ACK);
    assert_eq!(bodies.try_iter().collect::<Vec<_>>(), ["slow", "half", "half"]);
}

#[test]
fn a_large_message_comes_between_small_ones() {
    let (running, bodies) = collect(TcpReceiverConfig::default());
    let mut stream = running.connect();
    let large: Vec<u8> = (0..16 << 20).map(|at: u32| at.to_le_bytes()[1] ^ at.to_le_bytes()[2]).collect();
    for _ in 0..2 {
        stream.write_all(&[framed(2, "before"), framed(6, large.clone()), framed(6, "after")].concat()).unwrap();
        for _ in 0..3 {
            assert_eq!(ack(&mut stream), *ACK);
        }
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "before");
        assert!(bodies.recv_timeout(PATIENCE).unwrap() == large);
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap(), "after");
    }
}

#[test]
fn blocked_listeners_stop_neither_others_nor_their_answers_nor_accepting() {
    let (go_on, gate) = unbounded::<()>();
    let (tx, blocked) = unbounded();
    let running = run(TcpReceiverConfig::default(), move |message, reply| {
        if message.bytes() == "block" {
            tx.send(()).unwrap();
            gate.recv_timeout(PATIENCE).unwrap();
        }
        reply.accept();
    });
    let mut good = running.connect();
    let mut stuck: Vec<_> = (0..10).map(|_| running.connect()).collect();
    for stream in &mut stuck {
        // The first is processed before the second blocks: its answer must not wait.
        stream.write_all(&[framed(6, "quick"), framed(6, "block"), framed(6, "quick")].concat()).unwrap();
        blocked.recv_timeout(PATIENCE).unwrap();
        assert_eq!(ack(stream), *ACK);
        let mut new = running.connect();
        for stream in [&mut good, &mut new] {
            stream.write_all(&framed(6, "good")).unwrap();
            assert_eq!(ack(stream), *ACK);
        }
    }
    for _ in &stuck {
        go_on.send(()).unwrap();
    }
    for stream in &mut stuck {
        assert_eq!([ack(stream), ack(stream)], [*ACK, *ACK]);
    }
}

#[test]
fn messages_of_one_connection_are_handled_one_after_another_in_order() {
    let inside = AtomicUsize::new(0);
    let (tx, bodies) = unbounded();
    let running = run(TcpReceiverConfig::default(), move |message, _| {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        tx.send(message.bytes()).unwrap();
        std::thread::yield_now();
        inside.fetch_sub(1, Ordering::SeqCst);
    });
    let mut stream = running.connect();
    for number in 0..20_000u32 {
        stream.write_all(&framed([0, 2, 6][number as usize % 3], number.to_be_bytes().to_vec())).unwrap();
    }
    for number in 0..20_000u32 {
        assert_eq!(bodies.recv_timeout(PATIENCE).unwrap()[..], number.to_be_bytes());
    }
}

#[test]
fn connections_above_the_bound_are_refused_and_places_become_free() {
    let (running, bodies) = collect(TcpReceiverConfig::default().max_connections(2));
    let (mut first, mut second) = (running.connect(), running.connect());
    for stream in [&mut first, &mut second] {
        stream.write_all(&framed(6, "good")).unwrap();
        assert_eq!(ack(stream), *ACK);
    }
    assert!(is_closed(&mut running.connect()));
    drop(second);
    running.wait_until("one left", |stats| stats.connections == 1);
    let mut third = running.connect();
    for stream in [&mut first, &mut third] {
        stream.write_all(&framed(6, "good")).unwrap();
        assert_eq!(ack(stream), *ACK);
    }
    assert_eq!(bodies.len(), 4);
    let stats = running.receiver.stats();
    assert_eq!((stats.accepted, stats.refused, stats.messages), (3, 1, 4));
}

#[test]
fn silent_connections_that_hold_all_places_keep_no_member_out() {
    let (running, _bodies) = collect(TcpReceiverConfig::default().max_connections(3));
    let mut member = running.connect();
    member.write_all(&framed(6, "good")).unwrap();
    assert_eq!(ack(&mut member), *ACK);
    let mut silent = running.connect();
    running.wait_until("the older silent one", |stats| stats.connections == 2);
    let mut half = running.connect();
    half.write_all(&framed(6, "good")[..50]).unwrap();
    running.wait_until("all places", |stats| stats.connections == 3);
    // One that a thread is looking at just now makes no room, so the first attempt may fail.
    let attempt = || {
        let mut stream = running.connect();
        let sent = stream.write_all(&framed(6, "good"));
        sent.and_then(|()| stream.read_exact(&mut [0; 21])).is_ok().then_some(stream)
    };
    let since = clock();
    let mut others = Vec::new();
    while others.len() < 2 {
        assert!(since.elapsed() < PATIENCE);
        others.extend(attempt());
    }
    assert!(is_closed(&mut silent) && is_closed(&mut half), "they made room");
    member.write_all(&framed(6, "good")).unwrap();
    assert_eq!(ack(&mut member), *ACK);
    let stats = running.receiver.stats();
    assert_eq!((stats.connections, stats.accepted), (3, 5));
    assert!(stats.refused >= 2);
}

#[test]
fn the_end_of_a_connection_is_reported_with_its_member() {
    let (running, _bodies) = collect(TcpReceiverConfig::default());
    drop(running.connect());
    let mut stream = running.connect();
    stream.write_all(&framed(6, "good")).unwrap();
    ack(&mut stream);
    drop(stream);
    assert_eq!(running.ended.recv_timeout(PATIENCE).unwrap(), member());
    running.wait_until("all gone", |stats| stats.connections == 0);
    assert!(running.ended.is_empty(), "nobody is known behind the other");
}

#[test]
fn a_frame_that_stands_still_and_a_silent_connection_are_closed() {
    let config = TcpReceiverConfig::default().stall_timeout(Duration::from_millis(50));
    let (running, _bodies) = collect(config.clone());
    let mut whole = running.connect();
    whole.write_all(&framed(6, "good")).unwrap();
    ack(&mut whole);
    let mut half = running.connect();
    half.write_all(&framed(6, "good")[..50]).unwrap();
    assert!(is_closed(&mut half));
    whole.write_all(&framed(6, "good")).unwrap();
    ack(&mut whole);
    running.wait_until("counted", |stats| stats.limited == 1);

    let (running, _bodies) = collect(config.idle_timeout(Duration::from_millis(50)));
    assert!(is_closed(&mut running.connect()), "nothing ever came");
    let mut stream = running.connect();
    stream.write_all(&framed(6, "good")).unwrap();
    assert!(is_closed(&mut stream));
}

#[test]
fn a_connection_that_would_take_too_much_memory_is_closed() {
    let (running, _bodies) = collect(TcpReceiverConfig::default().max_buffered(1 << 20));
    let mut modest = running.connect();
    modest.write_all(&framed(6, vec![1; 500_000])[..300_000]).unwrap();
    let mut greedy = running.connect();
    let whole = framed(6, vec![2; 2 << 20]);
    // It may be closed while it still writes.
    let _ = greedy.write_all(&whole);
    assert!(is_closed(&mut greedy));
    running.wait_until("counted", |stats| stats.limited == 1);
    modest.write_all(&framed(6, vec![1; 500_000])[300_000..]).unwrap();
    assert_eq!(ack(&mut modest), *ACK);
}

#[test]
fn a_peer_that_reads_no_acknowledgements_is_closed() {
    let (running, _bodies) = collect(TcpReceiverConfig::default().send_buffer(4096));
    let mut deaf = running.connect();
    let many = framed(2, "").repeat(1000);
    while deaf.write_all(&many).is_ok() {}
    running.wait_until("counted", |stats| stats.limited == 1);
    let mut good = running.connect();
    good.write_all(&framed(2, "x")).unwrap();
    assert_eq!(ack(&mut good), *ACK);
}

#[test]
fn reading_pauses_while_too_many_answers_are_awaited() {
    let (tx, replies) = unbounded();
    let running = run(TcpReceiverConfig::default(), move |_, reply| tx.send(reply).unwrap());
    let mut stream = running.connect();
    let mut sending = stream.try_clone().unwrap();
    let count = 40_000;
    let writer = std::thread::spawn(move || sending.write_all(&framed(6, "").repeat(count)).unwrap());
    running.wait_until("paused", |stats| stats.messages >= 16 * 1024);
    // One read more may have been under way.
    assert!(replies.len() < 20_000, "{} came", replies.len());
    for at in 0..count {
        replies.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("answer {at}")).accept();
    }
    for _ in 0..count {
        assert_eq!(ack(&mut stream), *ACK);
    }
    writer.join().unwrap();
}

#[test]
fn a_listener_that_panics_costs_its_connection_only() {
    let running = run(TcpReceiverConfig::default(), |message, reply| {
        assert!(message.bytes() != "panic", "as the test wants");
        reply.accept();
    });
    for _ in 0..3 {
        let mut bad = running.connect();
        bad.write_all(&framed(0, "panic")).unwrap();
        assert!(is_closed(&mut bad));
        let mut good = running.connect();
        good.write_all(&framed(6, "good")).unwrap();
        assert_eq!(ack(&mut good), *ACK);
    }
}

#[test]
fn stop_waits_for_a_listener_and_hands_nothing_up_afterwards() {
    let (go_on, gate) = unbounded::<()>();
    let (tx, begun) = unbounded();
    let mut running = run(TcpReceiverConfig::default(), move |_, reply| {
        tx.send(()).unwrap();
        gate.recv_timeout(PATIENCE).unwrap();
        reply.accept();
    });
    let mut stream = running.connect();
    stream.write_all(&framed(6, "x")).unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    stream.write_all(&framed(6, "x").repeat(2)).unwrap();
    let address = running.address;
    let crew = running.receiver.crew.clone().expect("it runs");
    let stopper = std::thread::spawn(move || running.receiver.stop());
    let since = clock();
    while !crew.is_stopping() {
        assert!(since.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    go_on.send(()).unwrap();
    stopper.join().unwrap();
    assert_eq!(ack(&mut stream), *ACK, "the message that was handled is answered");
    assert!(is_closed(&mut stream), "and the others are not");
    assert!(begun.is_empty());
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_listener_may_stop_the_receiver_itself() {
    let receiver = Arc::new(Mutex::new(None::<TcpReceiver>));
    let (tx, stopped) = unbounded();
    let running = run(TcpReceiverConfig::default(), {
        let receiver = Arc::clone(&receiver);
        move |_, _| {
            let receiver = receiver.lock().unwrap().take();
            receiver.expect("it was put there").stop();
            tx.send(()).unwrap();
        }
    });
    let mut stream = running.connect();
    *receiver.lock().unwrap() = Some(running.receiver);
    stream.write_all(&framed(0, "stop")).unwrap();
    stopped.recv_timeout(PATIENCE).expect("it does not wait for itself");
    assert!(is_closed(&mut stream));
}

#[test]
fn a_receiver_starts_again_after_it_stopped() {
    let (mut running, bodies) = collect(TcpReceiverConfig::default());
    let sink = MessageSink::new(Arc::new(Listener { listen: |_, _| {}, ended: unbounded().0 }));
    assert!(running.receiver.start(sink.clone()).is_err(), "it runs already");
    running.receiver.stop();
    running.receiver.stop();
    drop(bodies);
    let listening = running.receiver.start(sink).expect("the port is free");
    let mut stream = TcpStream::connect(listening.address.unwrap()).unwrap();
    stream.write_all(&framed(2, "x")).unwrap();
    assert_eq!(ack(&mut stream), *ACK);
}
