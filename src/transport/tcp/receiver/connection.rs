//! One connection, as the thread sees it that serves it: reads, hands messages up, has them answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::answers::Answers;
use super::crew::Crew;
use super::intake::{Intake, Refusal, SMALL, Window};
use crate::clock;
use crate::options::Acknowledgement;
use crate::stack::{Inbound, Reply};

/// What one turn may read and hand up before other connections get theirs.
const TURN_BYTES: usize = 1024 * 1024;
const TURN_MESSAGES: usize = 2048;
/// Messages handed up together; their answers are written together, too. Few, so that their bodies come out of the allocator's
/// per-thread cache and go back there: with glibc 7 take half the time of 16.
const BATCH: usize = 7;
/// What must arrive of a half-received frame within the stall time-out, if it is not finished.
const PROGRESS: usize = 64 * 1024;

/// A connection, owned by one thread at a time.
#[derive(Debug)]
pub(super) struct Connection {
    answers: Arc<Answers>,
    intake: Intake,
    peer: SocketAddr,
    /// Since when, and from how many bytes on, the current frame has made no progress.
    stalled: Option<(Instant, usize)>,
}

/// What a thread brings along, whatever connection it serves.
#[derive(Debug, Default)]
pub(super) struct Bench {
    window: Window,
    batch: Vec<Inbound>,
}

/// What a thread does with a connection after its turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Wait for the network; the connection is closed when a frame has made no progress since this time.
    Wait(Option<Instant>),
    /// Wait until answers are given that it owes; nothing is read before.
    Paused,
    /// There is more to do, but others first.
    Again,
    /// It is over.
    Close(Ending),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// By the peer.
    Ended,
    /// Because of what it sent.
    Refused(Refusal),
    /// The peer did not read its acknowledgements.
    Unread,
    /// A frame stood half-received, or nothing came, for too long.
    TimedOut,
    /// The receiver stops.
    Stopped,
}

/// What is known about a connection when its turn begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signals {
    /// The peer has closed, so it is read to the end.
    pub(super) hangup: bool,
    /// It stalled.
    pub(super) expired: bool,
}

/// Whether a read that returns less than it could take has emptied the socket. It has on Linux with epoll; elsewhere only an error
/// tells, and arms the next event.
const SHORT_READ_EMPTIES: bool = cfg!(any(target_os = "linux", target_os = "android"));

impl Connection {
    pub(super) fn new(answers: Arc<Answers>, intake: Intake, peer: SocketAddr) -> Self {
        Self { answers, intake, peer, stalled: None }
    }

    pub(super) fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Reads and hands up what is there, within bounds.
    pub(super) fn turn(&mut self, bench: &mut Bench, crew: &Crew, signals: Signals) -> Next {
        if signals.expired {
            return Next::Close(Ending::TimedOut);
        }
        self.answers.flush();
        self.intake.resume(&mut bench.window);
        let (mut bytes, mut messages) = (0, 0);
        let next = loop {
            if self.answers.is_congested() {
                // Whoever answers wakes the connection up again. Until then it is us who stall its frames.
                self.stalled = None;
                break Next::Paused;
            }
            let (count, emptied) = match self.intake.read(&mut bench.window, &mut self.answers.stream()) {
                Ok((0, _)) => break Next::Close(self.ended()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Next::Wait(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break Next::Close(self.ended()),
            };
            crew.counts().bytes.fetch_add(count as u64, Ordering::Relaxed);
            bytes += count;
            match self.hand_up(bench, crew) {
                Ok(count) => messages += count,
                Err(ending) => break Next::Close(ending),
            }
            if emptied && SHORT_READ_EMPTIES && !signals.hangup {
                break Next::Wait(None);
            }
            if bytes >= TURN_BYTES || messages >= TURN_MESSAGES {
                break Next::Again;
            }
        };
        self.intake.suspend(&bench.window);
        match next {
            Next::Wait(_) => Next::Wait(self.stalled_since(messages > 0)),
            next => next,
        }
    }

    /// Hands up the whole messages that were read, and writes the answers they are owed.
    fn hand_up(&mut self, bench: &mut Bench, crew: &Crew) -> Result<usize, Ending> {
        let (mut count, mut held) = (0, false);
        let result = loop {
            let end = match self.intake.next(&mut bench.window) {
                Ok(Some(message)) => {
                    count += 1;
                    // Handed up before the next begins, a large one leaves its memory to it.
                    let large = message.body().len() > SMALL;
                    let owed = message.options().acknowledgement();
                    if owed != Acknowledgement::None && !held {
                        self.hold(crew);
                        held = true;
                    }
                    bench.batch.push(Inbound::new(message, self.reply(owed)));
                    if bench.batch.len() < BATCH && !large {
                        continue;
                    }
                    None
                }
                Ok(None) => Some(Ok(count)),
                Err(refusal) => Some(Err(Ending::Refused(refusal))),
            };
            if held {
                // What is answered on receipt has been received, and what an earlier batch was answered waits for no later one.
                self.answers.flush();
            }
            if !bench.batch.is_empty() {
                if crew.is_stopping() {
                    // Closed first: dropping a reply accepts its message.
                    self.answers.close();
                    bench.batch.clear();
                    return Err(Ending::Stopped);
                }
                crew.push(&mut bench.batch);
            }
            if let Some(end) = end {
                break end;
            }
        };
        if held {
            self.answers.release();
        }
        result
    }

    fn reply(&self, owed: Acknowledgement) -> Reply {
        match owed {
            Acknowledgement::None => Reply::none(),
            Acknowledgement::Received => {
                self.answers.received();
                Reply::none()
            }
            Acknowledgement::Processed => self.answers.awaited(),
        }
    }

    /// Gathers answers, as long as somebody watches that they do not wait for a listener.
    fn hold(&self, crew: &Crew) {
        self.answers.hold();
        if !crew.is_watched() {
            self.answers.release();
        }
    }

    fn ended(&self) -> Ending {
        if self.answers.is_overrun() { Ending::Unread } else { Ending::Ended }
    }

    /// Since when the frame that is coming in has made no progress; `None` when there is none.
    fn stalled_since(&mut self, finished: bool) -> Option<Instant> {
        let held = self.intake.unfinished();
        if held == 0 {
            self.stalled = None;
        } else if finished || self.stalled.is_none_or(|(_, mark)| held >= mark + PROGRESS) {
            self.stalled = Some((clock::now(), held));
        }
        self.stalled.map(|(since, _)| since)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Mutex, Weak};
    use std::time::Duration;

    use super::super::TcpReceiverConfig;
    use super::super::memory::Memory;
    use super::*;
    use crate::id::UniqueId;
    use crate::member::Member;
    use crate::message::Message;
    use crate::options::SendOptions;
    use crate::transport::{MessageHandler, MessageSink};
    use crate::wire::frame;

    /// Keeps every reply, so that no message is answered.
    #[derive(Default)]
    struct Hoarder(Mutex<Vec<Inbound>>);

    impl MessageHandler for Hoarder {
        fn message(&self, msg: Inbound) {
            self.0.lock().unwrap().push(msg);
        }

        fn disconnected(&self, _: &Member) {}
    }

    #[test]
    fn a_frame_does_not_stall_while_reading_is_paused() {
        let any = "127.0.0.1:0".parse().unwrap();
        let hoarder = Arc::new(Hoarder::default());
        let (crew, _) =
            Crew::start(TcpReceiverConfig::default().bind(any), MessageSink::new(Arc::<Hoarder>::clone(&hoarder))).unwrap();
        let listener = TcpListener::bind(any).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        let (stream, from) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let answers = Answers::new(mio::net::TcpStream::from_std(stream), 2, Weak::new());
        let mut connection = Connection::new(answers, Intake::new(1000, Memory::new(1000)), from);
        let mut bench = Bench::default();

        let member = Member::new("127.0.0.1:4999".parse().unwrap());
        let message = Message::from_parts(UniqueId::from_bytes([1; 16]), SendOptions::from_bits(6), 0, member, "x".into());
        let frame = frame::to_bytes(&message);
        let (head, tail) = frame.split_at(50);
        let (mut came, mut next) = (0, Next::Again);
        peer.write_all(head).unwrap();
        let start = clock::now();
        while next != Next::Paused {
            assert!(!clock::left(start, Duration::from_secs(20)).is_zero(), "{came} came");
            if connection.intake.unfinished() == head.len() {
                assert!(matches!(next, Next::Wait(Some(_))), "while it is read, it may stall");
                peer.write_all(&[tail, head].concat()).unwrap();
            }
            next = connection.turn(&mut bench, &crew, Signals::default());
            came = hoarder.0.lock().unwrap().len();
        }
        assert_eq!(connection.stalled, None, "half a frame is there, and we are who does not read on");
        crew.stop();
    }
}
