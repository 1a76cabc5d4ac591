//! One socket: opens without blocking, writes without blocking, and reads in two ways.
//!
//! On Unix the connected socket is in blocking mode. Writes and the sending thread's reads ask not to wait, call by call; a caller
//! that waits for its acknowledgement simply sits in `recv` with a time-out, which saves a `poll` on each round trip: nearly a
//! tenth of one on a local network. Elsewhere the socket does not block, and acknowledgements are read by the sending thread.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::acks::AckBuffer;
use super::busy_poll::BusyPoll;
use super::config::TcpSenderConfig;
use super::link::Pending;

/// How long a caller waits in `recv` before it leaves reading to the sending thread, and looks after its other destinations.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// `MSG_DONTWAIT`, and `MSG_NOSIGNAL` where a socket option does not say it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DONT_WAIT: (i32, i32) = (0x40, 0x4000);
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const DONT_WAIT: (i32, i32) = (0x80, 0);
#[cfg(not(unix))]
const DONT_WAIT: (i32, i32) = (0, 0);

/// `MSG_PEEK`, which is 2 everywhere.
const PEEK: i32 = 2;

/// Whether a caller may wait in `recv`.
pub(super) const CALLERS_READ: bool = cfg!(unix);

/// An open connection.
#[derive(Debug)]
pub(super) struct Conn {
    socket: Socket,
    /// Locked only by whoever has the role of the reader.
    pub(super) inbox: Mutex<Inbox>,
}

/// What the reader of a connection works with.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) acks: AckBuffer,
    /// Reused, so that settling allocates nothing.
    pub(super) settled: Vec<(Pending, bool)>,
    busy_poll: BusyPoll,
}

/// Starts to open a connection; the socket becomes writable when that is decided.
pub(super) fn open(address: SocketAddr, config: &TcpSenderConfig) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(config.tcp_nodelay)?;
    if let Some(idle) = config.so_keep_alive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle.max(Duration::from_secs(1))))?;
    }
    if let Some(linger) = config.so_linger {
        socket.set_linger(Some(linger))?;
    }
    if let Some(bytes) = config.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = config.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(local) = config.local_address {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error) if in_progress(&error) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Whether a connection that was being opened is open now; `None` while that is not decided.
pub(super) fn opened(socket: &Socket) -> Option<io::Result<()>> {
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
    }
    let peer = match socket.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return None,
        Err(error) => return Some(Err(error)),
    };
    // Connecting to a free local port can meet itself: the system picks that very port for this end.
    let itself = socket.local_addr().is_ok_and(|local| local == peer);
    Some(if itself { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(()) })
}

fn in_progress(error: &io::Error) -> bool {
    // EINPROGRESS has an error kind of its own only in newer Rust.
    error.kind() == io::ErrorKind::WouldBlock || matches!(error.raw_os_error(), Some(36 | 115 | 150 | 10035))
}

impl Conn {
    /// Takes over a socket that is connected.
    pub(super) fn new(socket: Socket, config: &TcpSenderConfig) -> io::Result<Self> {
        if CALLERS_READ {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_nonblocking(false)?;
        }
        let inbox = Inbox { acks: AckBuffer::new(), settled: Vec::new(), busy_poll: BusyPoll::new(config.busy_poll) };
        Ok(Self { socket, inbox: Mutex::new(inbox) })
    }

    /// Writes what the socket takes at once.
    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = DONT_WAIT.0 | DONT_WAIT.1;
        loop {
            let result = match slices {
                [one] => self.socket.send_with_flags(one, flags),
                many => self.socket.send_vectored_with_flags(many, flags),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Waits for bytes as long as [`PATIENCE`]; if `busy`, it looks for them before it sleeps. 0 is the end of the stream.
    pub(super) fn read_patiently(&self, inbox: &mut Inbox, busy: bool) -> io::Result<usize> {
        if busy {
            inbox.busy_poll.find(|| !matches!(self.peek(), Err(error) if would_wait(&error)));
        }
        self.read(inbox.acks.space())
    }

    /// Reads what is there. Only the reader may call it, or it could wait after all.
    pub(super) fn read_at_once(&self, space: &mut [u8]) -> io::Result<usize> {
        if CALLERS_READ && self.peek()? == 0 {
            return Ok(0);
        }
        self.read(space)
    }

    /// Looks whether there is something to read, and does not wait for it; 0 is the end of the stream.
    ///
    /// Reading without waiting takes a flag, and with a flag the socket crate reads into uninitialised memory only: so who does not
    /// want to wait looks first. Then reading cannot wait, because nobody else reads.
    fn peek(&self) -> io::Result<usize> {
        let mut one = [MaybeUninit::uninit(); 1];
        loop {
            match self.socket.recv_with_flags(&mut one, PEEK | DONT_WAIT.0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes nothing more: the peer reads what was written, and then the end.
    pub(super) fn finish(&self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Write) {
            log::trace!("a connection was closed already: {error}");
        }
    }

    /// Ends the connection in both directions and wakes whoever waits for bytes.
    pub(super) fn close(&self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            log::trace!("a connection was closed already: {error}");
        }
    }

    fn read(&self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.socket).read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Whether an error only says that there is nothing to read or no room to write. `TimedOut` is another thing: the connection is
/// lost.
pub(super) fn would_wait(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
