//! The role of the reader: whoever has it reads acknowledgements, and settles its own and those of others.

use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError};

use super::super::conn::{self, Conn, Inbox};
use super::super::link::Loss;
use super::{BATCHES, Peer, State};
use crate::clock;
use crate::completion::{FaultCause, Sending, Watch};

/// What came of an attempt to read for a send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::transport::tcp) enum Led {
    /// The send awaits nothing here that could be read.
    Nothing,
    /// Another thread reads.
    Taken,
    /// Read until the send's messages here were settled, or the connection ended.
    Read,
    /// Nothing came in for long.
    Impatient,
}

impl Peer {
    /// Reads acknowledgements on behalf of a send, if nobody else does.
    pub(in crate::transport::tcp) fn lead(self: &Arc<Self>, sending: &Sending) -> Led {
        let (conn, alone) = {
            let mut state = self.lock();
            let Some(conn) = state.conn.clone() else { return Led::Nothing };
            if !state.link.owes(sending) {
                return Led::Nothing;
            }
            if state.reading {
                return Led::Taken;
            }
            state.reading = true;
            state.callers_read = true;
            // In a crowd others have something better to do with the processor.
            (conn, state.followers.is_empty())
        };
        let mut led = Led::Read;
        loop {
            match self.read(&conn, |conn, inbox| conn.read_patiently(inbox, alone)) {
                Ok(()) => {}
                Err(error) if conn::would_wait(&error) => {
                    led = Led::Impatient;
                    break;
                }
                Err(error) => {
                    self.break_off(&conn, Loss::Connection(error.kind()));
                    break;
                }
            }
            if sending.is_done() || !self.lock().link.owes(sending) {
                break;
            }
        }
        let mut state = self.lock();
        state.reading = false;
        state.orphans |= led == Led::Impatient;
        self.pass_on(&mut state);
        led
    }

    /// Lines up for a turn as the reader; false when nobody reads just now, and it can be had at once.
    pub(in crate::transport::tcp) fn follow(&self, sending: &Sending, watch: &Watch) -> bool {
        let mut state = self.lock();
        if !state.reading && state.conn.is_some() && state.link.owes(sending) {
            return false;
        }
        if !state.link.is_quiet() {
            if state.followers.len() >= 64 {
                state.followers.retain(|follower| !follower.is_done());
            }
            state.followers.push_back(watch.clone());
        }
        true
    }

    /// A caller leaves without having read all that it waits for: the sending thread takes over.
    pub(in crate::transport::tcp) fn hand_over(self: &Arc<Self>) {
        let mut state = self.lock();
        if !state.link.is_quiet() {
            state.orphans = true;
            if !state.reading {
                self.pass_on(&mut state);
            }
        }
    }

    /// Reads what is there, for the sending thread. False when a caller reads and will see what came in: then the sending thread
    /// need not be told for a while.
    pub(in crate::transport::tcp) fn readable(self: &Arc<Self>) -> bool {
        let conn = {
            let mut state = self.lock();
            let Some(conn) = state.conn.clone() else {
                self.see_off(&mut state);
                return true;
            };
            if state.reading {
                if state.link.is_blocked() {
                    return true;
                }
                state.armed = false;
                if !state.ticking {
                    self.schedule(&mut state);
                }
                return false;
            }
            state.reading = true;
            conn
        };
        loop {
            match self.read(&conn, |conn, inbox| conn.read_at_once(inbox.acks.space())) {
                Ok(()) => {}
                Err(error) if conn::would_wait(&error) => break,
                Err(error) => {
                    self.break_off(&conn, Loss::Connection(error.kind()));
                    break;
                }
            }
        }
        let mut state = self.lock();
        state.reading = false;
        self.pass_on(&mut state);
        true
    }

    /// Reads once and settles what came.
    pub(super) fn read(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        read: impl FnOnce(&Conn, &mut Inbox) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut inbox = conn.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = &mut *inbox;
        let count = read(conn, inbox)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (drive, sound) = {
            let mut state = self.lock();
            if !state.conn.as_ref().is_some_and(|current| Arc::ptr_eq(current, conn)) {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            state.link.alive(clock::now());
            let mut expected = true;
            let parsed = inbox.acks.parse(count, |answer| match state.link.answered(answer) {
                Some(settled) => inbox.settled.push(settled),
                None => expected = false,
            });
            state.orphans &= state.link.has_flight();
            let drive = !state.driving && (state.link.can_take() || state.link.is_retired());
            state.driving |= drive;
            (drive, expected && parsed.is_ok())
        };
        for (pending, delivered) in inbox.settled.drain(..) {
            if delivered {
                pending.leg.delivered();
            } else {
                self.core.fail(pending.leg, FaultCause::Rejected);
            }
        }
        if drive {
            self.drive(BATCHES);
        }
        if sound { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Lets somebody else read what is still in flight.
    pub(super) fn pass_on(self: &Arc<Self>, state: &mut State) {
        if !state.link.has_flight() {
            return;
        }
        while let Some(follower) = state.followers.pop_front() {
            if !follower.is_done() {
                follower.poke();
                return;
            }
        }
        if state.orphans && !state.armed && state.conn.is_some() {
            state.armed = true;
            self.schedule(state);
        }
    }
}
