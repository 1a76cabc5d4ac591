//! The receiving socket and its thread.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use super::UdpConfig;
use crate::member::Member;
use crate::options::Acknowledgement;
use crate::stack::{Answer, Reply};
use crate::transport::{MessageSink, ReceiverStats};
use crate::wire::{Frame, WireError, channel_data, frame};

const SOCKET: Token = Token(0);
const STOP: Token = Token(1);
/// Any datagram fits.
const BUFFER: usize = 1 << 16;
/// After so many errors in a row the socket is left alone for a while.
const MAX_ERRORS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// A started receiver.
pub(super) struct Receiving {
    port: u16,
    shared: Arc<Shared>,
    waker: Waker,
    thread: JoinHandle<()>,
}

struct Shared {
    socket: UdpSocket,
    stopping: AtomicBool,
    messages: AtomicU64,
    bytes: AtomicU64,
    malformed: AtomicU64,
}

impl Receiving {
    pub(super) fn start(config: &UdpConfig, sink: MessageSink) -> io::Result<Self> {
        let mut socket = bind(config)?;
        let port = socket.local_addr()?.port();
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
        let shared = Arc::new(Shared {
            socket,
            stopping: AtomicBool::new(false),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        });
        let running = Arc::clone(&shared);
        let thread = thread::Builder::new().name("tribes-udp".into()).spawn(move || running.run(poll, &sink))?;
        Ok(Self { port, shared, waker, thread })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What happened since the start.
    pub(super) fn stats(&self) -> ReceiverStats {
        self.shared.stats()
    }

    /// Joins the thread, unless it is the one that asks; tells what happened.
    pub(super) fn stop(self) -> ReceiverStats {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Err(error) = self.waker.wake() {
            log::warn!("the UDP receiver cannot be woken to stop: {error}");
        } else if self.thread.thread().id() != thread::current().id() {
            // A listener that panicked has said so itself.
            let _ = self.thread.join();
        }
        self.shared.stats()
    }
}

/// Binds the first free port of those that the configuration allows.
fn bind(config: &UdpConfig) -> io::Result<UdpSocket> {
    let mut last = None;
    for offset in 0..config.auto_bind {
        let Some(port) = config.port.checked_add(offset) else { break };
        match open(config, SocketAddr::new(config.host, port)) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
}

fn open(config: &UdpConfig, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = config.receive_buffer
        && let Err(error) = socket.set_recv_buffer_size(bytes)
    {
        log::warn!("the UDP socket keeps its default receive buffer: {error}");
    }
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

impl Shared {
    fn stats(&self) -> ReceiverStats {
        ReceiverStats {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            ..ReceiverStats::default()
        }
    }

    fn run(self: Arc<Self>, mut poll: Poll, sink: &MessageSink) {
        let mut events = Events::with_capacity(2);
        let mut buffer = vec![0; BUFFER];
        let (mut last_sender, mut errors, mut pause) = (None, 0, None);
        loop {
            if let Err(error) = poll.poll(&mut events, pause)
                && error.kind() != ErrorKind::Interrupted
            {
                return log::error!("the UDP receiver ends: {error}");
            }
            pause = None;
            while !self.stopping.load(Ordering::SeqCst) && pause.is_none() {
                match self.socket.recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        errors = 0;
                        self.guarded(&buffer[..length], from, sink, &mut last_sender);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        errors = 0;
                        break;
                    }
                    Err(error) => pause = after_error(&error, &mut errors),
                }
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// A listener that panics costs its datagram only.
    fn guarded(self: &Arc<Self>, datagram: &[u8], from: SocketAddr, sink: &MessageSink, last_sender: &mut Option<Member>) {
        let handled = catch_unwind(AssertUnwindSafe(|| self.datagram(datagram, from, sink, last_sender)));
        if handled.is_err() {
            log::error!("handling a datagram from {from} panicked");
        }
    }

    /// Hands up every message of a datagram, up to where it is malformed, by Tribes' ack rules.
    fn datagram(self: &Arc<Self>, datagram: &[u8], from: SocketAddr, sink: &MessageSink, last_sender: &mut Option<Member>) {
        self.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        if datagram.is_empty() {
            return self.drop_malformed(from, "it is empty");
        }
        for found in frame::in_datagram(BytesMut::from(datagram)) {
            let message = match found {
                Ok(Frame::Data(data)) => channel_data::decode(&data, last_sender.as_ref()),
                Ok(_) => return self.drop_malformed(from, "an acknowledgement where no message was sent from"),
                Err(error) => Err::<_, WireError>(error),
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => return self.drop_malformed(from, error),
            };
            self.messages.fetch_add(1, Ordering::Relaxed);
            *last_sender = Some(message.sender().clone());
            let answers = || Answers { shared: Arc::clone(self), to: from };
            let reply = match message.options().acknowledgement() {
                Acknowledgement::None => Reply::none(),
                Acknowledgement::Received => {
                    answers().answer(0, true);
                    Reply::none()
                }
                Acknowledgement::Processed => Reply::new(Arc::new(answers()), 0),
            };
            sink.push(message, reply);
        }
    }

    fn drop_malformed(&self, from: SocketAddr, why: impl std::fmt::Display) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
        log::debug!("dropped a datagram from {from}: {why}");
    }
}

/// How long not to read after an error. An answer of ours that could not be delivered shows as one on some systems, and the socket
/// is fine; errors without end would burn a core.
fn after_error(error: &io::Error, errors: &mut u32) -> Option<Duration> {
    *errors += 1;
    if *errors < MAX_ERRORS {
        log::debug!("the UDP receiver goes on: {error}");
        return None;
    }
    log::warn!("the UDP receiver pauses: {error}");
    *errors = 0;
    Some(PAUSE)
}

/// Answers the sender of one message at its source address.
struct Answers {
    shared: Arc<Shared>,
    to: SocketAddr,
}

impl Answer for Answers {
    fn answer(&self, _token: u64, accepted: bool) {
        let bytes = if accepted { frame::ACK } else { frame::FAIL_ACK };
        if let Err(error) = self.shared.socket.send_to(bytes, self.to) {
            // To the sender it is a lost datagram, as any other.
            log::debug!("no answer to {}: {error}", self.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_end_do_not_spin() {
        let (mut errors, error) = (0, ErrorKind::ConnectionReset.into());
        for _ in 0..3 {
            let pauses: Vec<_> = (0..MAX_ERRORS).filter_map(|_| after_error(&error, &mut errors)).collect();
            assert_eq!(pauses, [PAUSE], "one in a row of errors");
        }
    }
}
