//! How connections come and go: accepted within bounds, closed with a reason, looked after when they are silent.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Token};

use super::super::answers::Answers;
use super::super::bind;
use super::super::connection::{Connection, Ending, Signals};
use super::super::intake::{Intake, Refusal};
use super::{Crew, Desk, LISTENER, Link};
use crate::clock;

/// Connections accepted before others get their turn.
const ACCEPT_BURST: usize = 64;

impl Crew {
    /// Ends a connection, and says why.
    pub(super) fn close(&self, token: usize, connection: Connection, ending: Ending) {
        let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        let mut desk = self.lock();
        desk.links.remove(&token);
        if desk.accept_again.take().is_some() {
            desk.notice(LISTENER, false);
        }
        let peer = connection.peer();
        let reason = match ending {
            Ending::Ended | Ending::Stopped => None,
            Ending::Refused(Refusal::Malformed(error)) => {
                count(&self.counts.malformed);
                Some(error.to_string())
            }
            Ending::Refused(Refusal::Exhausted) => {
                count(&self.counts.limited);
                Some(format!("half-received messages take more than {} bytes in all", self.config.max_buffered))
            }
            Ending::Unread => {
                count(&self.counts.limited);
                Some("it does not read its acknowledgements".to_owned())
            }
            Ending::TimedOut => {
                count(&self.counts.limited);
                Some("it was silent for too long".to_owned())
            }
        };
        if let Some(reason) = reason
            && desk.may_warn(clock::now())
        {
            log::warn!(target: "tribes::tcp", "closed the connection from {peer}: {reason}");
        }
        drop(desk);
        // A peer that only stopped sending still gets the answers it waits for; then the socket goes with the last of them.
        if ending == Ending::Ended {
            connection.answers().release();
        } else {
            connection.answers().close();
        }
        if !self.is_stopping()
            && let Some(member) = connection.intake().sender()
        {
            self.sink.disconnected(member);
        }
    }

    /// Accepts what waits; returns whether there may be more.
    pub(super) fn accept(self: &Arc<Self>) -> io::Result<bool> {
        for _ in 0..ACCEPT_BURST {
            let accepted = match &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(listener) => listener.accept(),
                None => return Ok(false),
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The one connection failed before it was taken.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error),
            };
            if let Err(error) = self.admit(stream, peer) {
                log::debug!(target: "tribes::tcp", "the connection from {peer} could not be set up: {error}");
            }
        }
        Ok(true)
    }

    fn admit(self: &Arc<Self>, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        bind::configure(&self.config, &stream)?;
        let now = self.config.idle_timeout.map(|_| clock::now());
        let mut desk = self.lock();
        let full = desk.links.len() >= self.config.max_connections;
        let evicted = if full { desk.evict() } else { None };
        if (full && evicted.is_none()) || self.is_stopping() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            if desk.may_warn(clock::now()) {
                log::warn!(target: "tribes::tcp", "refused the connection from {peer}: {} are open", desk.links.len());
            }
            return Ok(());
        }
        if evicted.is_some() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            if desk.may_warn(clock::now()) {
                log::warn!(target: "tribes::tcp", "closed a connection without messages for one from {peer}: all places are taken");
            }
        }
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        let token = desk.next_token;
        desk.next_token += 1;
        // Under the lock, so that its first event finds the link.
        self.registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        let answers = Answers::new(stream, token, Arc::downgrade(self));
        let intake = Intake::new(self.config.max_frame, Arc::clone(&self.memory));
        let connection = Some(Box::new(Connection::new(Arc::clone(&answers), intake, peer)));
        let link = Link {
            connection,
            answers,
            queued: false,
            again: false,
            signals: Signals::default(),
            stalled: None,
            served: now,
            proven: false,
        };
        desk.links.insert(token, link);
        drop(desk);
        // Outside of the lock: closing is a system call, or several.
        drop(evicted);
        Ok(())
    }

    /// Has those connections closed that were silent for too long, and notes when to look again.
    pub(super) fn sweep(&self, desk: &mut Desk, now: Instant) {
        if desk.accept_again.is_some_and(|due| due <= now) {
            desk.accept_again = None;
            desk.notice(LISTENER, false);
        }
        if desk.sweep.is_none_or(|due| due > now) {
            return;
        }
        let mut next: Option<Instant> = None;
        let mut expired = Vec::new();
        for (token, link) in &mut desk.links {
            let stalls = link.stalled.map(|since| since + self.config.stall_timeout);
            let idles = link.served.zip(self.config.idle_timeout).map(|(since, timeout)| since + timeout);
            let Some(due) = stalls.into_iter().chain(idles).min() else { continue };
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
            } else if link.connection.is_some() && !link.queued {
                link.signals.expired = true;
                expired.push(*token);
            }
        }
        desk.sweep = next;
        expired.into_iter().for_each(|token| desk.notice(token, false));
    }
}

impl Desk {
    /// Takes a connection out that has brought no message: the oldest, and of those that have something to be read only when there
    /// are no others. Whoever holds places without using them cannot so keep members out.
    fn evict(&mut self) -> Option<Link> {
        let idle = self.links.iter().filter(|(_, link)| !link.proven && link.connection.is_some());
        // Tokens are given in the order of arrival.
        let (token, _) = idle.min_by_key(|(token, link)| (link.queued, **token))?;
        let token = *token;
        self.links.remove(&token)
    }
}
