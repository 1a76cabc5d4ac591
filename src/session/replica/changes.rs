//! Commits. Whoever waits for one sends it and reads its acknowledgement on the own thread; a hand-over to another would cost more than
//! all the rest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::pending::{Pending, pending};
use super::{Shared, State, Waiter, is_stopped, tell_outcome};
use crate::completion::{DeferCallbacks, Receipt, SendError, Sending};
use crate::few::Few;
use crate::member::Member;
use crate::options::SendOptions;
use crate::session::engine::{
    Change, Commit, CommitFault, Committed, Loaded, Record, Refusal, Refused, Send, Token, Want, slot_of,
};

/// What comes of a commit; `None`: the context was left meanwhile.
pub(crate) type Outcome = Option<Result<Committed, CommitFault>>;

/// A change that is made here.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The entry with it; `None` when it is no more.
    pub(crate) record: Option<Arc<Record>>,
    pub(crate) outcome: Pending<Result<Committed, CommitFault>>,
}

/// A message whose acknowledgement the committing thread reads itself.
struct Attended {
    token: Token,
    member: [Member; 1],
    /// Until it is done, or left to others.
    sending: Option<Sending>,
    outcome: Option<Result<Receipt, SendError>>,
}

impl super::Replica {
    /// Makes a change, and waits for its confirmations.
    pub(crate) fn commit(&self, key: &[u8], change: Change, want: Want) -> Result<(Option<Arc<Record>>, Outcome), Refused> {
        self.shared.commit(key, key, change, want)
    }

    /// As [`commit`](Self::commit), of a change after which the entry is found under another key.
    pub(crate) fn rename(
        &self,
        key: &[u8],
        to: &[u8],
        change: Change,
        want: Want,
    ) -> Result<(Option<Arc<Record>>, Outcome), Refused> {
        self.shared.commit(key, to, change, want)
    }

    /// Makes a change and sees to its replication, which others may wait for.
    pub(crate) fn start_commit(&self, key: &[u8], change: Change, want: Want) -> Result<Begun, Refused> {
        self.shared.start_commit(key, key, change, want)
    }

    /// As [`start_commit`](Self::start_commit), of a change after which the entry is found under another key. It may have to read from the
    /// store.
    pub(crate) fn start_rename(&self, key: &[u8], to: &[u8], change: Change, want: Want) -> Result<Begun, Refused> {
        self.shared.start_commit(key, to, change, want)
    }
}

impl Shared {
    fn start_commit(&self, key: &[u8], then: &[u8], change: Change, want: Want) -> Result<Begun, Refused> {
        let loaded = match &change {
            // What goes on under another key takes all its values along.
            Change::Rename { .. } => self.load_for(key, &change)?,
            _ => None,
        };
        let (record, outcome) = self.in_lane(key, |sends| {
            let begun = self.enter_and(Some(sends), |state, now| {
                if self.closed.load(Ordering::Acquire) {
                    // What is saved at the end has been, or is about to be.
                    return Err(Refused { why: Refusal::Stopped, change: Some(change) });
                }
                if let Some(loaded) = &loaded {
                    state.engine.loaded(now, key, loaded);
                }
                let away = self.keeper.is_some() && state.engine.must_load(now, key, &change);
                let read = match &change {
                    Change::Update { read, .. } if away => Some(Arc::clone(read)),
                    _ => None,
                };
                let commit = state.engine.commit(now, key, change, want)?;
                let record = match read {
                    // Whoever does not wait for others does not wait for a disk.
                    Some(read) => state.engine.as_known(key, &read).or(Some(read)),
                    None => state.engine.peek(then).cloned(),
                };
                let outcome = match commit {
                    Commit::Done(committed) => Pending::known(Ok(committed)),
                    Commit::Waiting(ticket) => {
                        let (promise, outcome) = pending();
                        state.waiters.insert(ticket, Waiter::Commit(promise));
                        outcome
                    }
                };
                Ok((record, outcome))
            });
            // Who does not wait for confirmations is held up by a full queue: that is what bounds it.
            sends.drain(..).for_each(|send| self.send_each(send, want));
            begun
        })?;
        Ok(Begun { record, outcome })
    }

    fn commit(&self, key: &[u8], then: &[u8], change: Change, want: Want) -> Result<(Option<Arc<Record>>, Outcome), Refused> {
        let loaded = match self.load_for(key, &change) {
            Ok(loaded) => loaded,
            Err(why) => return Err(Refused { why, change: Some(change) }),
        };
        let (mut attended, mut time) = (Few::default(), None);
        let (record, commit) = self.in_lane(key, |sends| {
            let begun = self.enter_and(Some(sends), |state, now| {
                if self.closed.load(Ordering::Acquire) {
                    // What is saved at the end has been, or is about to be.
                    return Err(Refused { why: Refusal::Stopped, change: Some(change) });
                }
                if let Some(loaded) = &loaded {
                    state.engine.loaded(now, key, loaded);
                }
                time = Some(now);
                // The record is changed in place, unless it may be swapped out meanwhile: then what was read is what is known of it.
                let read = match &change {
                    Change::Update { read, .. } if self.keeper.is_some() => Some(Arc::clone(read)),
                    _ => None,
                };
                let commit = state.engine.commit(now, key, change, want)?;
                if let Commit::Waiting(ticket) = commit {
                    state.waiters.insert(ticket, Waiter::Direct(None));
                }
                Ok((state.engine.peek(then).cloned().or(read), commit))
            });
            // What waits was begun.
            let waits = time.filter(|_| matches!(begun, Ok((_, Commit::Waiting(_)))));
            for send in sends.drain(..) {
                match (send.token, waits) {
                    (Some(token), Some(time)) if waits_for_all(want, &send) => {
                        for member in send.to {
                            let sending = self.channel.submit(time, [member.clone()], send.body.clone(), SendOptions::SYNC_ACK);
                            attended.push(Attended { token, member: [member], sending: Some(sending), outcome: None });
                        }
                    }
                    _ => self.send_each(send, want),
                }
            }
            begun
        })?;
        let ticket = match commit {
            Commit::Done(committed) => return Ok((record, Some(Ok(committed)))),
            Commit::Waiting(ticket) => ticket,
        };
        for Attended { member, sending, .. } in attended.iter() {
            sending.iter().for_each(|sending| self.channel.assist(member, sending));
        }
        for Attended { token, member, sending, outcome } in attended.iter_mut() {
            let Some(sending) = sending.take() else { continue };
            if sending.is_done() {
                *outcome = Some(sending.wait());
            } else if let Some(shared) = self.me.upgrade() {
                // It has not answered for a while. Others may come in for it meanwhile.
                let (token, member) = (*token, member.clone());
                sending.on_complete(move |outcome| shared.sent(token, &member, &outcome));
            }
        }
        let told = |state: &mut State, now| {
            for Attended { token, member, outcome, .. } in attended.iter() {
                outcome.iter().for_each(|outcome| tell_outcome(&mut state.engine, now, *token, member, outcome));
            }
        };
        let known = self.enter_then(None, told, |state, ()| match state.waiters.remove(&ticket) {
            Some(Waiter::Direct(None)) => {
                let (promise, waiting) = pending();
                state.waiters.insert(ticket, Waiter::Commit(promise));
                Err(waiting)
            }
            Some(Waiter::Direct(result)) => Ok(result),
            _ => Ok(None),
        });
        let is_stopped = |attended: &Attended| matches!(&attended.outcome, Some(Err(error)) if is_stopped(error));
        if attended.iter().any(is_stopped) {
            self.close();
        }
        Ok((record, known.unwrap_or_else(Pending::wait)))
    }

    /// Sees to it that a change finds what it is made on, which may have been swapped out. What the store had is returned: it may be
    /// swapped out again before the change is made.
    fn load_for(&self, key: &[u8], change: &Change) -> Result<Option<Loaded>, Refusal> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        if !self.enter(|state, now| state.engine.must_load(now, key, change)) {
            return Ok(None);
        }
        let loaded = keeper.get(key);
        self.enter(|state, now| state.engine.loaded(now, key, &loaded));
        match loaded {
            Loaded::Failed => Err(Refusal::Unavailable),
            Loaded::Found(_) => Ok(Some(loaded)),
            // Told once: by the time of the change the entry may be in the store again.
            Loaded::Missing => Ok(None),
        }
    }

    /// Runs what makes a change and queues its messages, while no other change of this key does: they keep their order to each member.
    fn in_lane<R>(&self, key: &[u8], run: impl FnOnce(&mut Vec<Send>) -> R) -> R {
        // A callback may commit.
        let _defer = DeferCallbacks::new();
        let lane = &self.lanes[usize::from(slot_of(key)) % self.lanes.len()];
        let mut sends = lane.lock().unwrap_or_else(PoisonError::into_inner);
        // A panic may have left something.
        sends.clear();
        run(&mut sends)
    }

    /// Sends a change so that each destination's outcome is told by itself where that matters.
    fn send_each(&self, send: Send, want: Want) {
        if want == Want::None || send.to.len() == 1 {
            return self.send(send, if want == Want::None { SendOptions::ASYNC } else { SendOptions::NONE });
        }
        let Send { to, body, token } = send;
        for member in to {
            self.send(Send { to: member.into(), body: body.clone(), token }, SendOptions::NONE);
        }
    }
}

/// Whether a commit is done only when each of these destinations has confirmed it.
fn waits_for_all(want: Want, send: &Send) -> bool {
    match want {
        Want::None => false,
        Want::Copies(copies) | Want::AtLeast(copies) => usize::try_from(copies).is_ok_and(|copies| copies >= send.to.len()),
        Want::All => true,
    }
}
