//! One destination: its [`Link`] behind a short lock, and the two roles that threads take on it.
//!
//! The *driver* writes. A caller that has submitted while nobody drives becomes the driver and goes on while there is more; threads
//! that submit meanwhile only push, so frames leave together and in order. The *reader* reads acknowledgements and settles them, also
//! those of others: a caller that waits for its own if there is one, else the sending thread. A reader that leaves wakes one of
//! the *followers*, the callers that wait for a turn.

mod driver;
mod reader;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::busy_poll::BusyPoll;
use super::conn::{self, Conn};
use super::link::{Failed, Link, Loss, Pending, Phase};
use super::outbox::Outbox;
use super::reactor::Core;
use crate::clock;
use crate::completion::{FaultCause, Watch};
use crate::member::Member;

pub(super) use reader::Led;

/// Batches that a thread writes in a row: then the sending thread goes on, after it has looked after other destinations.
pub(super) const BATCHES: usize = 8;

/// One destination.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Names this destination to the reactor.
    pub(super) key: usize,
    core: Arc<Core>,
    state: Mutex<State>,
    /// Locked only by the driver.
    outbox: Mutex<Outbox>,
    /// How callers wait that cannot read themselves just now, nearly always because another does.
    pub(super) in_crowd: BusyPoll,
}

struct State {
    member: Member,
    link: Link,
    conn: Option<Arc<Conn>>,
    /// The connection before, which we have ended and the peer may still be reading, and how long it is waited for.
    leaving: Option<(Arc<Conn>, Instant)>,
    /// The connection ended; the driver clears up.
    lost: Option<Loss>,
    /// Nothing more is accepted.
    closed: Option<FaultCause>,
    driving: bool,
    /// A caller has submitted and is about to drive. Should it not come, the next tick does.
    promised: bool,
    /// The socket became writable while somebody was driving.
    writable: bool,
    reading: bool,
    followers: VecDeque<Watch>,
    /// There are messages in flight whose acknowledgements no caller will read.
    orphans: bool,
    /// The sending thread is told when there is something to read or room to write.
    armed: bool,
    /// A caller has read since the last tick.
    callers_read: bool,
    /// On its way to the sending thread.
    scheduled: bool,
    /// Looked at by the sending thread at every tick.
    ticking: bool,
}

/// What the sending thread is to do for a destination.
#[derive(Debug, Default)]
pub(super) struct Duties {
    pub(super) connect: bool,
    pub(super) drive: bool,
    /// A connection is being opened.
    pub(super) connecting: bool,
    /// Opening the connection took too long.
    pub(super) give_up: bool,
    /// The connection as it should be registered, and whether for reading.
    pub(super) conn: Option<(Arc<Conn>, bool)>,
    /// When to look again at the latest.
    pub(super) deadline: Option<Instant>,
    /// Whether to look again at every tick.
    pub(super) ticking: bool,
    /// Whether a connection is to be opened some time though nothing is to be sent: to be reviewed.
    pub(super) stands_by: bool,
}

impl Peer {
    pub(super) fn new(member: Member, key: usize, core: Arc<Core>) -> Self {
        let address = member.address();
        let state = State {
            link: Link::new(&member, &core.config),
            member,
            conn: None,
            leaving: None,
            lost: None,
            closed: None,
            driving: false,
            promised: false,
            writable: false,
            reading: false,
            followers: VecDeque::new(),
            orphans: false,
            armed: false,
            callers_read: false,
            scheduled: false,
            ticking: false,
        };
        let in_crowd = BusyPoll::in_crowd(core.config.busy_poll);
        Self { address, key, core, state: Mutex::new(state), outbox: Mutex::default(), in_crowd }
    }

    /// What went to a placeholder's address goes to this member.
    pub(super) fn rename(&self, member: &Member) {
        let mut state = self.lock();
        state.link.rename(member);
        state.member = member.clone();
    }

    /// Queues a message behind all that were submitted before. It may be called under a lock that others wait for, so it writes
    /// nothing: a caller that attends to its message [carries on](Self::carry_on) when it has left it.
    pub(super) fn submit(self: &Arc<Self>, pending: Pending) {
        let attended = pending.attended;
        let mut state = self.lock();
        if let Some(cause) = state.closed.clone() {
            drop(state);
            self.core.fail(pending.leg, cause);
            return;
        }
        if let Some(pending) = state.link.submit(pending) {
            drop(state);
            self.core.fail(pending.leg, FaultCause::QueueFull);
            return;
        }
        if state.driving {
            return;
        }
        let can_take = state.link.can_take();
        state.promised |= attended && can_take;
        if (can_take && !state.promised) || !state.ticking || state.link.phase() == Phase::Idle {
            self.schedule(&mut state);
        }
    }

    /// Wants a connection even if nothing is to be sent.
    pub(super) fn keep(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.link.keep(clock::now());
            self.schedule(&mut state);
        }
    }

    /// The connection is open.
    pub(super) fn connected(self: &Arc<Self>, conn: Arc<Conn>, now: Instant) {
        self.core.stats.connected.add(1);
        let mut state = self.lock();
        if state.closed.is_some() {
            conn.close();
            return;
        }
        state.link.connected(now);
        state.conn = Some(conn);
        state.armed = true;
        state.promised = false;
        state.writable = false;
        self.schedule(&mut state);
    }

    /// No connection could be opened.
    pub(super) fn connect_failed(self: &Arc<Self>, kind: ErrorKind, now: Instant) {
        let failed = {
            let mut state = self.lock();
            let failed = state.link.connect_failed(kind, now);
            self.schedule(&mut state);
            failed
        };
        if !failed.is_empty() {
            self.report(failed, &Loss::Connection(kind));
        }
    }

    /// What the sending thread is to do now; `tick` is set when it looks because time has passed, not because it was asked to.
    pub(super) fn duties(self: &Arc<Self>, now: Instant, tick: bool) -> Duties {
        let mut state = self.lock();
        let mut duties = Duties::default();
        if !tick {
            state.scheduled = false;
        }
        if state.link.is_overdue(now) {
            if state.conn.is_some() {
                self.lose(&mut state, Loss::Silence);
            } else if !state.driving {
                let failed = state.link.expire(now);
                drop(state);
                self.report(failed, &Loss::Silence);
                state = self.lock();
            }
        }
        if tick && state.conn.is_some() && !state.reading && !std::mem::take(&mut state.callers_read) {
            state.armed = true;
        }
        if state.leaving.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.part(&mut state);
        }
        let connectable = state.closed.is_none() && state.lost.is_none() && state.leaving.is_none();
        if connectable && state.link.wants_connection(now) {
            state.link.connecting(now);
            duties.connect = true;
        }
        if let Phase::Connecting(until) = state.link.phase() {
            duties.connecting = true;
            duties.give_up = until <= now;
        }
        let promised = state.promised && !tick;
        if !state.driving && (state.lost.is_some() || (state.conn.is_some() && state.link.can_take() && !promised)) {
            state.driving = true;
            duties.drive = true;
        }
        let left = state.leaving.as_ref().map(|(conn, _)| (Arc::clone(conn), true));
        duties.conn = state.conn.clone().map(|conn| (conn, state.armed)).or(left);
        duties.deadline = state.link.deadline();
        let unarmed = state.conn.is_some() && !state.armed;
        state.ticking = duties.drive || duties.connecting || !state.link.is_quiet() || unarmed || state.leaving.is_some();
        duties.ticking = state.ticking;
        duties.stands_by = state.link.stands_by();
        duties
    }

    /// Closes the connection if it has been idle or open too long, or opens one that is due though nothing is to be sent. Tells
    /// whether one will be due.
    pub(super) fn review(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = self.lock();
        if state.conn.is_none() && state.link.wants_connection(now) {
            self.schedule(&mut state);
        }
        let stands_by = state.link.stands_by();
        if state.conn.is_none() || state.driving {
            return stands_by;
        }
        if state.link.review(now) || state.link.is_retired() {
            self.lose(&mut state, Loss::Retired);
            self.schedule(&mut state);
        }
        stands_by
    }

    /// Closes the connection for good and fails everything.
    pub(super) fn close(self: &Arc<Self>, cause: &FaultCause) {
        let mut state = self.lock();
        state.closed = Some(cause.clone());
        self.lose(&mut state, Loss::Closed(cause.clone()));
        self.schedule(&mut state);
        if !state.driving {
            state.driving = true;
            drop(state);
            self.drive(BATCHES);
        }
    }

    /// Whether nothing is queued or on its way.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.link.is_quiet() && !state.driving
    }

    /// Whether it is connected, and how many messages are queued or on their way.
    pub(super) fn load(&self) -> (bool, usize) {
        let state = self.lock();
        (state.conn.is_some(), state.link.pending())
    }

    /// The connection is found to have ended; the driver, or else this thread, clears up.
    fn break_off(self: &Arc<Self>, conn: &Arc<Conn>, loss: Loss) {
        let mut state = self.lock();
        if !state.conn.as_ref().is_some_and(|current| Arc::ptr_eq(current, conn)) {
            return;
        }
        self.lose(&mut state, loss);
        if !state.driving {
            state.driving = true;
            drop(state);
            self.drive(BATCHES);
        }
    }

    fn lose(&self, state: &mut State, loss: Loss) {
        if let Some(conn) = state.conn.take() {
            match loss {
                Loss::Retired | Loss::Silence => {
                    conn.finish();
                    state.leaving = Some((conn, clock::now() + self.core.config.timeout));
                }
                Loss::Connection(_) | Loss::Closed(_) => conn.close(),
            }
        }
        if matches!(loss, Loss::Closed(_)) {
            self.part(state);
        }
        state.lost = Some(loss);
    }

    /// Looks whether the peer has read what we left on the connection before to its end: only then it closes. The next connection
    /// waits for that, or the peer might handle its messages before those.
    fn see_off(self: &Arc<Self>, state: &mut State) {
        let Some((conn, _)) = &state.leaving else { return };
        let mut late = [0; 256];
        loop {
            match conn.read_at_once(&mut late) {
                // Answers to what has been given up, or is going to be sent again.
                Ok(1..) => {}
                Err(error) if conn::would_wait(&error) => return,
                Ok(0) | Err(_) => break,
            }
        }
        self.part(state);
        self.schedule(state);
    }

    /// Waits no longer for the connection before.
    fn part(&self, state: &mut State) {
        if let Some((conn, _)) = state.leaving.take() {
            conn.close();
        }
    }

    /// Settles what failed, and tells that the member may be gone. Without a lock on the state.
    fn report(&self, failed: Failed, loss: &Loss) {
        let member = self.lock().member.clone();
        match loss {
            Loss::Connection(kind) => log::debug!("connection to {member} ended: {kind}; {} messages failed", failed.len()),
            Loss::Silence => log::debug!("{member} is silent; {} messages failed", failed.len()),
            Loss::Retired | Loss::Closed(_) => {}
        }
        for (leg, cause) in failed {
            self.core.fail(leg, cause);
        }
        if matches!(loss, Loss::Connection(_) | Loss::Silence) {
            // The thread that reports serves others too, and goes on when the one who listens panics.
            if catch_unwind(AssertUnwindSafe(|| self.core.sink.lost(&member))).is_err() {
                log::error!("whoever is told that {member} is lost panicked");
            }
        }
    }

    /// Hands this destination to the sending thread.
    fn schedule(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.scheduled, true) {
            self.core.schedule(Arc::clone(self));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
