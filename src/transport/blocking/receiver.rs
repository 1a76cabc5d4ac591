//! The receiving side: a thread that accepts, and one for each connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::answers::{Answers, WRITE_TIMEOUT};
use super::connection::is_timeout;
use super::lock;
use crate::member::Member;
use crate::options::Acknowledgement;
use crate::stack::Reply;
use crate::transport::{Listening, MessageSink, Receiver, ReceiverStats};
use crate::wire::{Frame, FrameDecoder, WireError, channel_data};

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// How a [`BlockingReceiver`] listens, and what it lets a peer take.
#[derive(Clone, Debug)]
#[must_use]
pub struct BlockingReceiverConfig {
    address: SocketAddr,
    auto_bind: u16,
    max_connections: usize,
    max_frame: usize,
    max_buffered: usize,
    stall_timeout: Duration,
}

impl Default for BlockingReceiverConfig {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 4000).into(),
            auto_bind: 100,
            max_connections: 256,
            max_frame: 256 << 20,
            max_buffered: 512 << 20,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl BlockingReceiverConfig {
    /// The address that members are told, with the first port to try; 127.0.0.1:4000 unless set. Port 0 leaves the choice to the
    /// operating system.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// How many ports to try, from the first one up; 100 unless set, at least 1. (Tribes: `autoBind`)
    pub fn auto_bind(mut self, ports: u16) -> Self {
        self.auto_bind = ports.max(1);
        self
    }

    /// How many connections, and so threads, there may be; 256 unless set. When there are as many, one that has brought no
    /// message yet is closed for the next, the oldest first; when all have, the next is.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The longest frame that is accepted, in bytes; 256 MiB unless set. A connection that announces a longer one is closed.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// How many bytes of incomplete frames all connections may hold together; 512 MiB unless set. The connection that passes the
    /// bound is closed.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.max_buffered = bytes;
        self
    }

    /// How long a peer may pause within a frame; 30 s unless set. Between frames it may pause for ever.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }
}

/// Receives messages over TCP, with a thread for each connection.
///
/// A message is handled by the thread that read it; a listener that blocks delays its own connection and no other. A peer that
/// does not take acknowledgements for one second loses its connection.
#[derive(Debug)]
pub struct BlockingReceiver {
    config: BlockingReceiverConfig,
    running: Option<Running>,
    last: ReceiverStats,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

struct Shared {
    config: BlockingReceiverConfig,
    sink: MessageSink,
    stopping: AtomicBool,
    connections: Mutex<HashMap<u64, Connection>>,
    buffered: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    malformed: AtomicU64,
    limited: AtomicU64,
}

/// A connection as others see it.
struct Connection {
    stream: TcpStream,
    answers: Arc<Answers>,
    /// None until the thread is known to run.
    thread: Option<JoinHandle<()>>,
    /// A message has come.
    proven: bool,
}

impl BlockingReceiver {
    /// A receiver that does not listen yet.
    #[must_use]
    pub fn new(config: BlockingReceiverConfig) -> Self {
        Self { config, running: None, last: ReceiverStats::default() }
    }
}

impl Receiver for BlockingReceiver {
    fn start(&mut self, sink: MessageSink) -> io::Result<Listening> {
        if self.running.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let listener = listen(&self.config)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(self.config.clone(), sink));
        let accepting = Arc::clone(&shared);
        let accepting = thread::Builder::new().name("tribes-accept".into()).spawn(move || accepting.accept(&listener))?;
        self.running = Some(Running { shared, address, accepting });
        Ok(Listening::tcp(address))
    }

    fn stop(&mut self) {
        let Some(Running { shared, address, accepting }) = self.running.take() else { return };
        shared.stopping.store(true, Ordering::SeqCst);
        // Accepting is blocking; a connection ends the wait.
        let host = match address.ip() {
            IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(host) if host.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        match TcpStream::connect_timeout(&SocketAddr::new(host, address.port()), Duration::from_secs(1)) {
            Ok(_) => drop(accepting.join()),
            Err(error) => log::warn!("the thread that accepts at {address} cannot be woken to stop: {error}"),
        }
        shared.stop();
        self.last = shared.stats();
    }

    fn stats(&self) -> ReceiverStats {
        self.running.as_ref().map_or(self.last, |running| running.shared.stats())
    }
}

impl Drop for BlockingReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens at the first free port of those that the configuration allows.
fn listen(config: &BlockingReceiverConfig) -> io::Result<TcpListener> {
    let mut taken = None;
    for offset in 0..config.auto_bind {
        let Some(port) = config.address.port().checked_add(offset) else { break };
        match TcpListener::bind(SocketAddr::new(config.address.ip(), port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => taken = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(taken.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
}

impl Shared {
    fn new(config: BlockingReceiverConfig, sink: MessageSink) -> Self {
        Self {
            config,
            sink,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            buffered: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for number in 0.. {
            let stream = listener.accept();
            if self.is_stopping() {
                return;
            }
            let served = stream.and_then(|(stream, _)| self.serve(number, stream));
            if let Err(error) = served {
                self.refused.fetch_add(1, Ordering::Relaxed);
                log::warn!("a connection cannot be accepted: {error}");
                // Out of files or threads: whatever is short, asking again at once would only burn a core.
                thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    /// Gives a connection its thread.
    fn serve(self: &Arc<Self>, number: u64, stream: TcpStream) -> io::Result<()> {
        let mut connections = lock(&self.connections);
        if connections.len() >= self.config.max_connections {
            self.refused.fetch_add(1, Ordering::Relaxed);
            // Whoever holds places without using them must not keep members out.
            let oldest = connections.iter().filter(|(_, connection)| !connection.proven).map(|(number, _)| *number).min();
            let Some(evicted) = oldest.and_then(|oldest| connections.remove(&oldest)) else { return Ok(()) };
            // Its thread finds no place, so that nobody need wait for it.
            evicted.answers.close();
        }
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_read_timeout(Some(self.config.stall_timeout))?;
        let answers = Answers::new(stream.try_clone()?);
        let connection = Connection { stream: stream.try_clone()?, answers: Arc::clone(&answers), thread: None, proven: false };
        connections.insert(number, connection);
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("tribes-receive".into()).spawn(move || {
            let place = Place { shared: &shared, number };
            shared.receive(&place, stream, &answers);
        });
        match thread {
            // The thread cannot have ended yet: it needs the lock for that.
            Ok(thread) => drop(connections.get_mut(&number).map(|connection| connection.thread = Some(thread))),
            Err(error) => {
                connections.remove(&number);
                return Err(error);
            }
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Serves a connection until its end.
    fn receive(&self, place: &Place<'_>, mut stream: TcpStream, answers: &Arc<Answers>) {
        let mut last_sender = None;
        let mut held = Held { total: &self.buffered, bytes: 0 };
        let read = || self.read_frames(place, &mut stream, answers, &mut last_sender, &mut held);
        let read = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            log::error!("handling a message panicked; its connection is closed");
            Err("a panic".to_owned())
        });
        if let Err(reason) = read {
            log::debug!("closed a connection: {reason}");
            answers.close();
        }
        if answers.is_unread() {
            self.limited.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(member) = last_sender {
            self.sink.disconnected(&member);
        }
    }

    fn read_frames(
        &self,
        place: &Place<'_>,
        stream: &mut TcpStream,
        answers: &Arc<Answers>,
        last_sender: &mut Option<Member>,
        held: &mut Held<'_>,
    ) -> Result<(), String> {
        let decoder = FrameDecoder::new(self.config.max_frame);
        let mut chunk = vec![0; CHUNK];
        let mut buffer = BytesMut::new();
        loop {
            let length = match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(error.kind()) && buffer.is_empty() => continue,
                Err(error) if is_timeout(error.kind()) => return Err(count(&self.limited, "it stopped within a frame")),
                Err(error) => return Err(error.to_string()),
            };
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
            buffer.extend_from_slice(&chunk[..length]);
            loop {
                if self.is_stopping() {
                    return Ok(());
                }
                match decoder.next(&mut buffer) {
                    Ok(Some(Frame::Data(data))) => {
                        if last_sender.is_none() && !place.prove() {
                            return Err("another took its place".to_owned());
                        }
                        self.hand_up(&data, answers, last_sender).map_err(|error| count(&self.malformed, error))?
                    }
                    Ok(Some(_)) => return Err(count(&self.malformed, "an acknowledgement where no message was sent")),
                    Ok(None) => break,
                    Err(error) => return Err(count(&self.malformed, error)),
                }
            }
            if held.set(buffer.len()) > self.config.max_buffered {
                return Err(count(&self.limited, "too much is half received"));
            }
        }
    }

    /// Pushes a message, by Tribes' ack rules.
    fn hand_up(&self, data: &Bytes, answers: &Arc<Answers>, last_sender: &mut Option<Member>) -> Result<(), WireError> {
        let message = channel_data::decode(data, last_sender.as_ref())?;
        self.messages.fetch_add(1, Ordering::Relaxed);
        *last_sender = Some(message.sender().clone());
        let reply = match message.options().acknowledgement() {
            Acknowledgement::None => Reply::none(),
            Acknowledgement::Received => {
                answers.received();
                Reply::none()
            }
            Acknowledgement::Processed => answers.awaited(),
        };
        self.sink.push(message, reply);
        Ok(())
    }

    /// Ends all connections and joins their threads.
    fn stop(&self) {
        let connections = std::mem::take(&mut *lock(&self.connections));
        for connection in connections.values() {
            // What was answered is still written; nothing more is read.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        for connection in connections.into_values() {
            if let Some(thread) = connection.thread
                && thread.thread().id() != thread::current().id()
            {
                // A listener that panicked has said so itself.
                let _ = thread.join();
            }
            connection.answers.close();
        }
    }

    fn stats(&self) -> ReceiverStats {
        ReceiverStats {
            connections: lock(&self.connections).len(),
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            limited: self.limited.load(Ordering::Relaxed),
        }
    }
}

/// Counts why a connection ends.
fn count(counter: &AtomicU64, why: impl ToString) -> String {
    counter.fetch_add(1, Ordering::Relaxed);
    why.to_string()
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.stats())
    }
}

/// A connection's place among those that there may be, given up at its end, however it ends.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Place<'_> {
    /// Keeps the place from others, as a message has come; false when it is lost already.
    fn prove(&self) -> bool {
        let mut connections = lock(&self.shared.connections);
        let kept = connections.get_mut(&self.number).map(|connection| connection.proven = true);
        kept.is_some()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.number);
    }
}

/// A connection's share of what all hold, given back at its end.
struct Held<'a> {
    total: &'a AtomicUsize,
    bytes: usize,
}

impl Held<'_> {
    /// Holds so many bytes from now on; returns what all hold.
    fn set(&mut self, bytes: usize) -> usize {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        let total = self.total.fetch_sub(self.bytes, Ordering::Relaxed) - self.bytes;
        self.bytes = bytes;
        total
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}
