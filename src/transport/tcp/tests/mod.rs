//! The sender against plain sockets that speak frames.

mod connections;
mod order;
mod outcomes;

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
