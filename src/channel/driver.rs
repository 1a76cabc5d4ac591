//! The thread that keeps a channel's time: it runs the stack's timers, the heartbeat, and whatever transports and memberships
//! report, which therefore never enter the stack on their own threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use super::core::Core;
use crate::clock;
use crate::hash::ById;
use crate::member::Member;
use crate::stack::{Event, LayerId, Probe};

/// Something that happened outside the stack.
#[derive(Debug)]
pub(super) enum Report {
    Event(Event),
    Probed(LayerId, Member, Probe),
}

/// Where reports wait for the thread, and where it waits for them.
///
/// Bounded: a suspicion stands here once per member, probes are bounded by who asks for them, and a membership that reports faster
/// than the stack takes it waits. Its thread may: nobody waits for it with the stack locked.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    room: Condvar,
}

/// Reports that wait before a membership does.
const MAX_REPORTS: usize = 4096;
/// Suspicions that wait; more are dropped, as whoever is suspect will be again.
const MAX_SUSPECTS: usize = 1024;

#[derive(Debug, Default)]
struct State {
    reports: Vec<Report>,
    suspects: ById<(), Member>,
    /// When the stack wants its next time-out.
    wake_at: Option<Instant>,
    stopped: bool,
}

impl Inbox {
    /// Waits for room only with a member's coming, going or change.
    pub(super) fn post(&self, report: Report) {
        let mut state = self.lock();
        match report {
            _ if state.stopped => return,
            Report::Event(Event::Suspect(member)) => {
                if state.suspects.len() < MAX_SUSPECTS {
                    state.suspects.insert(member, ());
                }
            }
            Report::Event(_) => {
                while state.reports.len() >= MAX_REPORTS && !state.stopped {
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.reports.push(report);
            }
            Report::Probed(..) => state.reports.push(report),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Tells when the stack wants its next time-out.
    pub(super) fn wake_at(&self, time: Instant) {
        let mut state = self.lock();
        if state.wake_at.is_none_or(|set| time < set) {
            state.wake_at = Some(time);
            self.changed.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when the inbox is stopped or the channel is gone.
pub(super) fn spawn(core: &Arc<Core>, heartbeat: Duration) -> io::Result<JoinHandle<()>> {
    let (core, inbox) = (Arc::downgrade(core), Arc::clone(&core.inbox));
    thread::Builder::new().name("tribes-timers".into()).spawn(move || run(&core, &inbox, heartbeat))
}

fn run(core: &Weak<Core>, inbox: &Inbox, interval: Duration) {
    let mut heartbeat = clock::now() + interval;
    loop {
        let mut state = inbox.lock();
        let now = clock::now();
        let due = |at: Instant| at <= now;
        if state.stopped {
            return;
        }
        let timeout = state.wake_at.is_some_and(due);
        if state.reports.is_empty() && state.suspects.is_empty() && !timeout && !due(heartbeat) {
            let next = state.wake_at.map_or(heartbeat, |at| at.min(heartbeat));
            drop(inbox.changed.wait_timeout(state, next - now));
            continue;
        }
        let reports = mem::take(&mut state.reports);
        let suspects: Vec<_> = state.suspects.drain().map(|(member, ())| Report::Event(Event::Suspect(member))).collect();
        if timeout {
            state.wake_at = None;
        }
        drop(state);
        inbox.room.notify_all();
        let Some(core) = core.upgrade() else { return };
        for report in reports.into_iter().chain(suspects) {
            guarded(|| core.handle_report(report));
        }
        if timeout {
            guarded(|| core.handle_timeout());
        }
        if due(heartbeat) {
            heartbeat = now + interval;
            guarded(|| core.handle_heartbeat());
        }
    }
}

/// A layer of the application's own may panic: time must not stand still for the others.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!("a layer of the stack panicked");
    }
}
