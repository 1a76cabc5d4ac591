//! The socket and the local member. Callers send through it directly; the thread replaces the socket when it is broken.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token, Waker};

use super::config::MulticastConfig;
use super::{MAX_DATAGRAM, socket};
use crate::clock;
use crate::member::Member;
use crate::membership::{MembershipStats, Mode};
use crate::wire::member_package;

pub(super) const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
/// How long a sender waits for the kernel to take a datagram.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Link {
    group: SocketAddr,
    mode: Mode,
    started: Instant,
    waker: Waker,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    local: Member,
    changed: bool,
    socket: Arc<UdpSocket>,
    stats: MembershipStats,
}

impl Link {
    pub(super) fn open(config: &MulticastConfig, local: Member, mode: Mode, registry: &Registry) -> io::Result<Self> {
        if mode == Mode::Full {
            check_size(&local)?;
        }
        let socket = Arc::new(register(socket::open(config)?, registry)?);
        Ok(Self {
            group: config.group,
            mode,
            started: clock::now(),
            waker: Waker::new(registry, WAKER)?,
            stop: AtomicBool::new(false),
            state: Mutex::new(State { local, changed: false, socket, stats: MembershipStats::default() }),
        })
    }

    /// Sends a heartbeat of the local member as it is now. Under the lock, so that a change is never followed by its past.
    pub(super) fn heartbeat(&self) -> io::Result<()> {
        let state = self.lock();
        send(&state.socket, &member_package::heartbeat(&state.local, self.alive()), self.group)
    }

    pub(super) fn goodbye(&self) -> io::Result<()> {
        let state = self.lock();
        send(&state.socket, &member_package::heartbeat(&state.local.leaving(), self.alive()), self.group)
    }

    /// Takes a new value of the local member, and tells the group unless we only observe.
    pub(super) fn announce(&self, local: &Member) -> io::Result<()> {
        check_size(local)?;
        let mut state = self.lock();
        (state.local, state.changed) = (local.clone(), true);
        drop(state);
        self.waker.wake()?;
        if self.mode == Mode::Full { self.heartbeat() } else { Ok(()) }
    }

    pub(super) fn broadcast(&self, frame: &[u8]) -> io::Result<()> {
        if frame.len() > MAX_DATAGRAM {
            let problem = format!("a frame of {} bytes is above the {MAX_DATAGRAM} bytes of a datagram", frame.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let socket = self.socket();
        send(&socket, frame, self.group).map_err(|error| explain_send(&error, self.group))
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // The thread looks at least once per frequency if this fails.
        let _ = self.waker.wake();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn socket(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.lock().socket)
    }

    /// Puts another socket in the place of the one that is broken, if a datagram can be sent from it.
    pub(super) fn replace(&self, socket: UdpSocket, registry: &Registry) -> io::Result<()> {
        let socket = Arc::new(register(socket, registry)?);
        let mut state = self.lock();
        if self.mode == Mode::Full {
            send(&socket, &member_package::heartbeat(&state.local, self.alive()), self.group)?;
        }
        state.socket = socket;
        state.stats.recoveries += 1;
        Ok(())
    }

    /// The local member, if it has changed since this was asked last.
    pub(super) fn changed(&self) -> Option<Member> {
        let mut state = self.lock();
        std::mem::take(&mut state.changed).then(|| state.local.clone())
    }

    pub(super) fn stats(&self) -> MembershipStats {
        self.lock().stats
    }

    pub(super) fn update_stats(&self, update: impl FnOnce(&mut MembershipStats)) {
        update(&mut self.lock().stats);
    }

    #[cfg(test)]
    pub(super) fn break_socket(&self, socket: UdpSocket) {
        self.lock().socket = Arc::new(socket);
    }

    fn alive(&self) -> i64 {
        i64::try_from(clock::now().saturating_duration_since(self.started).as_millis()).unwrap_or(i64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a member that no heartbeat can carry; its goodbye is longer by the command.
fn check_size(local: &Member) -> io::Result<()> {
    let len = local.leaving().package().len();
    if len <= MAX_DATAGRAM {
        return Ok(());
    }
    let problem =
        format!("the member's package takes {len} of the {MAX_DATAGRAM} bytes of a datagram: shorten payload or domain");
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

fn register(mut socket: UdpSocket, registry: &Registry) -> io::Result<UdpSocket> {
    registry.register(&mut socket, SOCKET, Interest::READABLE)?;
    Ok(socket)
}

fn send(socket: &UdpSocket, datagram: &[u8], group: SocketAddr) -> io::Result<()> {
    loop {
        match socket.send_to(datagram, group) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    socket::wait_writable(socket, SEND_TIMEOUT)?;
    socket.send_to(datagram, group).map(drop)
}

pub(super) fn explain_send(error: &io::Error, group: SocketAddr) -> io::Error {
    if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() {
        return io::Error::new(error.kind(), error.to_string());
    }
    socket::explain(error, &format!("sending to the multicast group {group} failed"))
}
