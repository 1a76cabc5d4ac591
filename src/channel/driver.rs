//! The thread that keeps a channel's time: it runs the stack's timers, the heartbeat, and whatever transports and memberships
//! report, which therefore never enter the stack on their own threads. It also tells the membership what receivers hear of senders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle, ThreadId};
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
/// Addresses whose senders wait for the membership; of more, a later message tells.
const MAX_HEARD: usize = 1024;
/// The membership hears of senders this often at most. They are not trusted, and what follows may change the view.
const HEARING: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    reports: Vec<Report>,
    suspects: ById<(), Member>,
    heard: Heard,
    /// The thread that empties all this, and so never waits for room.
    driver: Option<ThreadId>,
    /// When the stack wants its next time-out.
    wake_at: Option<Instant>,
    stopped: bool,
}

/// Senders that the membership has otherwise.
#[derive(Debug, Default)]
struct Heard {
    /// The last one at each address.
    waiting: BTreeMap<SocketAddr, Member>,
    /// What the membership knows already, and made nothing of.
    told: BTreeMap<SocketAddr, Member>,
    /// When the membership is told next, at the earliest.
    not_before: Option<Instant>,
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
            Report::Event(ref event) => {
                state.heard.told.remove(&event.member().address());
                while state.reports.len() >= MAX_REPORTS && !state.stopped && state.driver != Some(thread::current().id()) {
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.reports.push(report);
            }
            Report::Probed(..) => state.reports.push(report),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A message came from this sender, which the membership has otherwise. Does not wait.
    pub(super) fn hear(&self, sender: &Member) {
        let mut state = self.lock();
        if !state.stopped && state.heard.add(sender) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The membership could not be told now.
    fn hear_again(&self, heard: BTreeMap<SocketAddr, Member>) {
        let mut state = self.lock();
        for (address, sender) in heard {
            state.heard.told.remove(&address);
            state.heard.waiting.entry(address).or_insert(sender);
        }
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

impl Heard {
    /// Whether there is something to tell where there was nothing.
    fn add(&mut self, sender: &Member) -> bool {
        let address = sender.address();
        if self.told.get(&address).is_some_and(|told| told.same_value(sender)) {
            return false;
        }
        let room = self.waiting.len() < MAX_HEARD || self.waiting.contains_key(&address);
        room && self.waiting.insert(address, sender.clone()).is_none()
    }

    /// When there is something to tell.
    fn due(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.not_before.unwrap_or(now))
    }

    fn take(&mut self, now: Instant) -> BTreeMap<SocketAddr, Member> {
        if self.due(now).is_none_or(|at| at > now) {
            return BTreeMap::new();
        }
        self.not_before = Some(now + HEARING);
        let heard = mem::take(&mut self.waiting);
        if self.told.len() >= MAX_HEARD {
            self.told.clear();
        }
        self.told.extend(heard.clone());
        heard
    }
}

/// Starts the thread. It ends when the inbox is stopped or the channel is gone.
pub(super) fn spawn(core: &Arc<Core>, heartbeat: Duration) -> io::Result<JoinHandle<()>> {
    let (core, inbox) = (Arc::downgrade(core), Arc::clone(&core.inbox));
    thread::Builder::new().name("tribes-timers".into()).spawn(move || run(&core, &inbox, heartbeat))
}

fn run(core: &Weak<Core>, inbox: &Inbox, interval: Duration) {
    let mut heartbeat = clock::now() + interval;
    inbox.lock().driver = Some(thread::current().id());
    loop {
        let mut state = inbox.lock();
        let now = clock::now();
        let due = |at: Instant| at <= now;
        if state.stopped {
            return;
        }
        let timeout = state.wake_at.is_some_and(due);
        let hears = state.heard.due(now);
        if state.reports.is_empty() && state.suspects.is_empty() && !timeout && !hears.is_some_and(due) && !due(heartbeat) {
            let next = [state.wake_at, hears].into_iter().flatten().fold(heartbeat, Instant::min);
            drop(inbox.changed.wait_timeout(state, next - now));
            continue;
        }
        let reports = mem::take(&mut state.reports);
        let suspects: Vec<_> = state.suspects.drain().map(|(member, ())| Report::Event(Event::Suspect(member))).collect();
        if timeout {
            state.wake_at = None;
        }
        if due(heartbeat) {
            state.heard.told.clear();
        }
        let heard = state.heard.take(now);
        drop(state);
        inbox.room.notify_all();
        let Some(core) = core.upgrade() else { return };
        for report in reports.into_iter().chain(suspects) {
            guarded(|| core.handle_report(report));
        }
        // After what it has reported: that may be what makes it known who has been heard.
        if !heard.is_empty() {
            guarded(|| {
                if !core.tell_heard(heard.values()) {
                    inbox.hear_again(heard);
                }
            });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UniqueId;
    use crate::stack::Departure;

    fn member(port: u16) -> Member {
        Member::new(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn a_sender_is_told_of_once_until_something_follows() {
        let (inbox, now) = (Inbox::default(), clock::now());
        let (old, new) = (member(1), member(1));
        let waiting = || inbox.lock().heard.waiting.values().cloned().collect::<Vec<_>>();
        for sender in [&old, &old, &new, &old] {
            inbox.hear(sender);
        }
        assert_eq!(waiting(), std::slice::from_ref(&old), "the last one counts");
        let heard = inbox.lock().heard.take(now);
        inbox.hear(&old);
        assert_eq!(waiting(), [], "it has been told");
        inbox.hear(&old.with_payload("changed"));
        inbox.hear(&new);
        assert_eq!(waiting(), std::slice::from_ref(&new));
        assert!(inbox.lock().heard.take(now + HEARING / 2).is_empty(), "not so soon");
        inbox.hear_again(heard);
        assert_eq!(waiting(), [new], "what came meanwhile is later");
        assert_eq!(inbox.lock().heard.take(now + HEARING).len(), 1);
        inbox.post(Report::Event(Event::Removed(old.clone(), Departure::Left)));
        inbox.hear(&old);
        assert_eq!(waiting(), [old], "the membership may think otherwise by now");
    }

    #[test]
    fn senders_take_no_more_room_than_there_is() {
        let (mut heard, now) = (Heard::default(), clock::now());
        let mut told = 0;
        for turn in 0..4 {
            let first = 1 + turn * 2 * 1024;
            (first..first + 2 * 1024).for_each(|port| _ = heard.add(&member(port)));
            told += heard.take(now + HEARING * u32::from(turn)).len();
            assert!(heard.told.len() <= 2 * MAX_HEARD);
        }
        assert_eq!(told, 4 * MAX_HEARD);
        assert!(heard.add(&member(1).with_id(UniqueId::random())));
    }

    #[test]
    fn the_driver_does_not_wait_for_itself() {
        let inbox = Inbox::default();
        inbox.lock().driver = Some(thread::current().id());
        for _ in 0..=MAX_REPORTS {
            inbox.post(Report::Event(Event::Added(member(1))));
        }
        assert_eq!(inbox.lock().reports.len(), MAX_REPORTS + 1);
    }
}
