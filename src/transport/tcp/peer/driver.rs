//! The role of the driver: whoever has it writes, for itself and for all others, in the order in which they submitted.

use std::sync::{Arc, PoisonError};
use std::thread;

use super::super::conn;
use super::super::link::Loss;
use super::super::outbox::Outbox;
use super::{BATCHES, Peer};
use crate::clock;

impl Peer {
    /// Writes what was submitted, unless another thread does already.
    pub(in crate::transport::tcp) fn carry_on(self: &Arc<Self>) {
        let mut state = self.lock();
        if !state.driving && state.conn.is_some() && state.link.can_take() {
            state.driving = true;
            let crowded = !state.followers.is_empty();
            drop(state);
            if crowded {
                // Callers come in crowds: one read has just answered several, and each is about to send again. Those that are ready
                // to run put their messages beside this one, and all leave in one write. Looking twice catches nearly all.
                thread::yield_now();
                thread::yield_now();
            }
            self.drive(BATCHES);
        }
    }

    /// The socket takes bytes again.
    pub(in crate::transport::tcp) fn writable(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.driving {
            state.writable = true;
        } else if state.link.is_blocked() {
            state.driving = true;
            drop(state);
            self.drive(BATCHES);
        }
    }

    /// Writes what there is to write. The caller has taken the role of the driver; It stops after so many
    /// `batches`, and the sending thread goes on.
    pub(in crate::transport::tcp) fn drive(self: &Arc<Self>, mut batches: usize) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wrote = false;
        loop {
            let mut state = self.lock();
            if let Some(loss) = state.lost.take() {
                let (failed, again) = state.link.lost(&loss, clock::now(), outbox.reset());
                state.orphans = false;
                self.core.stats.resent.add(again);
                self.schedule(&mut state);
                drop(state);
                self.report(failed, &loss);
                continue;
            }
            let Some(conn) = state.conn.clone() else {
                state.driving = false;
                return;
            };
            state.writable = false;
            state.promised = false;
            state.link.unblocked();
            if outbox.is_empty() {
                if batches == 0 && state.link.can_take() {
                    state.driving = false;
                    self.schedule(&mut state);
                    return;
                }
                batches = batches.saturating_sub(1);
                state.link.take(|pending| outbox.push(pending));
                if outbox.is_empty() {
                    if state.link.is_retired() {
                        self.lose(&mut state, Loss::Retired);
                        continue;
                    }
                    state.driving = false;
                    return;
                }
                drop(state);
                outbox.encode();
                if outbox.has_acknowledged() && !self.launch(&mut outbox) {
                    continue;
                }
            } else {
                drop(state);
            }
            match outbox.write(|slices| conn.write(slices).inspect(|count| self.core.stats.bytes.add(*count as u64))) {
                Ok(()) => {
                    wrote = true;
                    let mut frames = 0;
                    for pending in outbox.settled() {
                        frames += 1;
                        pending.leg.delivered();
                    }
                    self.core.stats.frames.add(frames);
                }
                Err(error) if conn::would_wait(&error) => {
                    if self.rest(&outbox, wrote) {
                        return;
                    }
                    wrote = false;
                }
                Err(error) => self.break_off(&conn, Loss::Connection(error.kind())),
            }
        }
    }

    /// Puts what wants an acknowledgement in flight. False when the connection was lost meanwhile.
    pub(super) fn launch(self: &Arc<Self>, outbox: &mut Outbox) -> bool {
        let mut state = self.lock();
        if state.lost.is_some() {
            return false;
        }
        let mut frames = 0;
        let mut orphans = false;
        outbox.launch(|pending| {
            frames += 1;
            orphans |= !pending.attended;
            state.link.launch(pending);
        });
        self.core.stats.frames.add(frames);
        state.orphans |= orphans;
        if !state.reading {
            self.pass_on(&mut state);
        }
        if !state.ticking {
            self.schedule(&mut state);
        }
        true
    }

    /// The socket takes nothing more: the driver stops until it does. False when it does already.
    pub(super) fn rest(self: &Arc<Self>, outbox: &Outbox, progress: bool) -> bool {
        let now = clock::now();
        let mut state = self.lock();
        if progress {
            state.link.alive(now);
        }
        state.link.blocked(outbox.oldest().unwrap_or(now));
        if state.writable || state.lost.is_some() {
            return false;
        }
        state.driving = false;
        if !state.ticking || !state.armed {
            state.armed = true;
            self.schedule(&mut state);
        }
        true
    }
}
