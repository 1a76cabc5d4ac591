//! The registry by itself, and in channels on a network in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::channel::GroupChannel;
use crate::completion::{FaultCause, UserCode};
use crate::membership::memory::Hub;
use crate::options::SendOptions;
use crate::transport::memory::Network;

fn body(context: u64, rest: &[u8]) -> Vec<u8> {
    [&SESSION_MAGIC[..], &[1, 7], &context.to_be_bytes(), rest].concat()
}

/// The same bytes, in pieces that end at each of these places.
fn rope(bytes: &[u8], cuts: &[usize]) -> Body {
    let mut body = Body::from(Vec::new());
    let mut rest = bytes;
    let mut begin = 0;
    for cut in cuts {
        let (piece, behind) = rest.split_at(cut - begin);
        body.push_back(piece.to_vec());
        (rest, begin) = (behind, *cut);
    }
    body.push_back(rest.to_vec());
    body
}

/// Notes what it is handed, and does what the message says.
#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<Vec<u8>>>,
    outside_of_user_code: AtomicBool,
}

impl Recorder {
    fn new() -> (Arc<Self>, Weak<dyn ContextHandler>) {
        let recorder = Arc::<Self>::default();
        let handler: Arc<dyn ContextHandler> = Arc::clone(&recorder) as _;
        (recorder, Arc::downgrade(&handler))
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("no test panics here").clone()
    }
}

impl ContextHandler for Recorder {
    fn message(&self, message: &Message) -> bool {
        let text = message.bytes()[14..].to_vec();
        self.outside_of_user_code.fetch_or(!UserCode::is_running(), Ordering::Relaxed);
        self.seen.lock().expect("no test panics here").push(text.clone());
        assert!(text != b"panic", "as told");
        text != b"reject"
    }
}

/// Two members on a network in memory, and what the listener of the second gets.
struct Pair {
    a: GroupChannel,
    b: GroupChannel,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Pair {
    fn new() -> Self {
        let (hub, network) = (Hub::new(), Network::new(1));
        let start = || {
            let (receiver, sender) = network.endpoint("10.0.0.1:0".parse().expect("an address"));
            let builder = GroupChannel::builder().membership(hub.membership()).receiver(receiver).sender(sender);
            builder.start().expect("the channel starts")
        };
        let (a, b) = (start(), start());
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let log = Arc::clone(&heard);
        b.on_message(move |message| log.lock().expect("no test panics here").push(message.bytes().to_vec())).forever();
        Self { a, b, heard }
    }

    fn send(&self, body: impl Into<Body>) -> Result<(), FaultCause> {
        let sent = self.a.send([self.b.local()], body, SendOptions::SYNC_ACK);
        sent.map(|_| ()).map_err(|mut error| error.faults.remove(0).cause)
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("no test panics here").clone()
    }
}

#[test]
fn the_magic_and_the_context_are_found_however_a_body_is_cut() {
    let bytes = body(0x0102_0304_0506_0708, b"rest");
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let body = rope(&bytes, &[first, second]);
            assert!(is_for_context(&body), "cut at {first} and {second}");
            assert_eq!(named(&body), Some(0x0102_0304_0506_0708));
        }
    }
    let every = rope(&bytes, &(1..bytes.len()).collect::<Vec<_>>());
    assert!(is_for_context(&every));
    assert_eq!(named(&every), Some(0x0102_0304_0506_0708));
}

#[test]
fn what_is_short_or_begins_otherwise_is_for_no_context() {
    let bytes = body(9, b"");
    for len in 0..bytes.len() {
        let body = Body::from(bytes[..len].to_vec());
        assert_eq!(is_for_context(&body), len >= 4, "{len} bytes");
        assert_eq!(named(&body), None, "{len} bytes");
    }
    for at in 0..4 {
        let mut other = bytes.clone();
        other[at] ^= 1;
        for cut in 0..=5 {
            assert!(!is_for_context(&rope(&other, &[cut])), "byte {at} differs, cut at {cut}");
        }
    }
}

#[test]
fn each_context_gets_its_messages_and_listeners_get_the_others() {
    let pair = Pair::new();
    let ((one, of_one), (two, of_two)) = (Recorder::new(), Recorder::new());
    let _one = pair.b.register_context(1, of_one).expect("the first");
    let _two = pair.b.register_context(u64::MAX, of_two).expect("another");
    pair.send(body(1, b"to one")).expect("accepted");
    pair.send(body(u64::MAX, b"to two")).expect("accepted");
    pair.send("to listeners").expect("heard");
    pair.send(&SESSION_MAGIC[..3]).expect("heard");
    assert_eq!(one.seen(), [b"to one"]);
    assert_eq!(two.seen(), [b"to two"]);
    assert_eq!(pair.heard(), [&b"to listeners"[..], &SESSION_MAGIC[..3]]);
    assert!(!one.outside_of_user_code.load(Ordering::Relaxed), "a handler runs as a listener does");
    let stats = pair.b.stats();
    assert_eq!((stats.delivered, stats.rejected, stats.unknown_context), (4, 0, 0));
}

#[test]
fn a_handler_rejects_and_a_panic_rejects() {
    let pair = Pair::new();
    let (recorder, handler) = Recorder::new();
    let _guard = pair.b.register_context(1, handler).expect("the first");
    for text in [&b"reject"[..], b"panic"] {
        assert!(matches!(pair.send(body(1, text)), Err(FaultCause::Rejected)));
    }
    pair.send(body(1, b"fine")).expect("accepted");
    assert_eq!(recorder.seen(), [&b"reject"[..], b"panic", b"fine"]);
    let stats = pair.b.stats();
    assert_eq!((stats.delivered, stats.rejected, stats.unknown_context), (3, 2, 0));
    assert!(pair.heard().is_empty());
}

#[test]
fn what_names_nobody_here_is_rejected_and_counted() {
    let pair = Pair::new();
    let (recorder, handler) = Recorder::new();
    let guard = pair.b.register_context(1, handler).expect("the first");
    let rejected = |body: Vec<u8>| matches!(pair.send(body), Err(FaultCause::Rejected));
    assert!(rejected(body(2, b"another's")));
    assert!(rejected(body(1, b"")[..13].to_vec()), "too short");
    assert!(rejected(SESSION_MAGIC.to_vec()), "the magic alone");
    pair.send(body(1, b"here")).expect("accepted");
    drop(guard);
    assert!(rejected(body(1, b"too late")));
    assert_eq!(recorder.seen(), [b"here"]);
    assert!(pair.heard().is_empty(), "listeners never see them");
    let stats = pair.b.stats();
    assert_eq!((stats.delivered, stats.rejected, stats.unknown_context), (1, 0, 4));
}

#[test]
fn a_context_is_registered_once_at_a_time_and_its_handler_is_not_kept_alive() {
    let pair = Pair::new();
    let (first, of_first) = Recorder::new();
    let (second, of_second) = Recorder::new();
    let guard = pair.b.register_context(1, of_first).expect("the first");
    assert_eq!(pair.b.register_context(1, Weak::clone(&of_second)).expect_err("taken"), AlreadyRegistered(1));
    drop(first);
    assert!(matches!(pair.send(body(1, b"nobody")), Err(FaultCause::Rejected)));
    assert_eq!(pair.b.stats().unknown_context, 1);
    drop(guard);
    let _guard = pair.b.register_context(1, of_second).expect("free again");
    pair.send(body(1, b"second")).expect("accepted");
    assert_eq!(second.seen(), [b"second"]);
}

#[test]
fn messages_of_one_sender_come_in_order() {
    let pair = Pair::new();
    let (recorder, handler) = Recorder::new();
    let _guard = pair.b.register_context(1, handler).expect("the first");
    for number in 0..300u32 {
        let options = SendOptions::from_bits([8, 10, 14, 0][number as usize % 4]);
        drop(pair.a.send_with([pair.b.local()], body(1, &number.to_be_bytes()), options));
    }
    pair.send(body(1, &300u32.to_be_bytes())).expect("accepted, behind all others");
    let expected: Vec<_> = (0..=300u32).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(recorder.seen(), expected);
}
