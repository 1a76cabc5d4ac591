//! The way under the engine's lock, and what comes out from there: messages, answers for those who wait, events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::keeper::Keeper;
use super::pending::Promise;
use super::{Shared, State, now};
use crate::completion::{FaultCause, Receipt, SendError};
use crate::few::Few;
use crate::member::Member;
use crate::options::SendOptions;
use crate::session::engine::{
    CommitFault, Committed, Engine, Event, FetchFault, Outcome, Output, Record, Send, SwapFault, Token, What,
};
use crate::stack::Time;

/// Who waits for a ticket.
pub(super) enum Waiter {
    /// A thread that does the sending itself, and looks here when it comes back.
    Direct(Option<Result<Committed, CommitFault>>),
    Commit(Promise<Result<Committed, CommitFault>>),
    Fetch(Promise<Result<Option<Arc<Record>>, FetchFault>>),
    Swap(Promise<Result<Committed, SwapFault>>),
}

/// Somebody to be told, once the lock is free.
pub(super) enum Told {
    Commit(Promise<Result<Committed, CommitFault>>, Result<Committed, CommitFault>),
    Fetch(Promise<Result<Option<Arc<Record>>, FetchFault>>, Result<Option<Arc<Record>>, FetchFault>),
    Swap(Promise<Result<Committed, SwapFault>>, Result<Committed, SwapFault>),
    /// The context was left before there was an answer.
    Nothing(#[expect(dead_code, reason = "dropping it tells")] Waiter),
    /// This member is complete, or will not be: they have waited for that.
    Readiness(Vec<Promise<bool>>, bool),
    /// This member serves without so many of its slots: to be logged, which may be the application's code.
    Incomplete(usize),
    /// This member is set up with another number of copies: to be logged.
    CopiesDiffer(Member),
}

/// What is to be done when the lock is free again.
#[derive(Default)]
struct Collected {
    told: Vec<Told>,
    /// Whether the outbox has got something.
    sends: bool,
    /// Whether the feed has.
    news: bool,
}

/// How long entries have lived that ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lives {
    pub(crate) ended: u64,
    pub(crate) total: Duration,
    pub(crate) longest: Duration,
}

impl Shared {
    /// Enters the engine, and carries out what it wants.
    pub(super) fn enter<R>(&self, act: impl FnOnce(&mut State, Time) -> R) -> R {
        self.enter_and(None, act)
    }

    /// As [`enter`](Self::enter), but what is to be sent goes to `mine`, for the caller to send.
    pub(super) fn enter_and<R>(&self, mine: Option<&mut Vec<Send>>, act: impl FnOnce(&mut State, Time) -> R) -> R {
        self.enter_then(mine, act, |_, result| result)
    }

    /// As [`enter_and`](Self::enter_and); `then` sees, still under the lock, what has become of who waits.
    pub(super) fn enter_then<R, S>(
        &self,
        mine: Option<&mut Vec<Send>>,
        act: impl FnOnce(&mut State, Time) -> R,
        then: impl FnOnce(&mut State, R) -> S,
    ) -> S {
        let time = now();
        let mut state = self.lock();
        state.engine.tell_changes(self.feed.is_heard());
        let result = act(&mut state, time);
        let Collected { told, sends, news } = self.collect(&mut state, mine);
        let result = then(&mut state, result);
        drop(state);
        for told in told {
            self.tell(told);
        }
        if sends {
            self.outbox.empty(|send| self.send(send, SendOptions::NONE));
        }
        if news {
            self.feed.tell();
        }
        result
    }

    /// Takes what came out, under the lock: that keeps its order.
    fn collect(&self, state: &mut State, mut mine: Option<&mut Vec<Send>>) -> Collected {
        let mut out = Collected::default();
        let closed = self.closed.load(Ordering::Acquire);
        while let Some(output) = state.engine.poll_output() {
            match output {
                Output::Send(_) if closed => {}
                Output::Send(send) => match &mut mine {
                    Some(mine) => mine.push(send),
                    None => {
                        self.outbox.push(send);
                        out.sends = true;
                    }
                },
                Output::Committed(ticket, result) => match state.waiters.get_mut(&ticket) {
                    Some(Waiter::Direct(known)) => *known = Some(result),
                    Some(_) => {
                        if let Some(Waiter::Commit(promise)) = state.waiters.remove(&ticket) {
                            out.told.push(Told::Commit(promise, result));
                        }
                    }
                    None => {}
                },
                Output::Fetched(ticket, result) => {
                    if let Some(Waiter::Fetch(promise)) = state.waiters.remove(&ticket) {
                        out.told.push(Told::Fetch(promise, result));
                    }
                }
                Output::Swapped(ticket, result) => {
                    if let Some(Waiter::Swap(promise)) = state.waiters.remove(&ticket) {
                        out.told.push(Told::Swap(promise, result));
                    }
                }
                Output::Event(event) => {
                    state.lives.follow(&event);
                    self.feed.push(event);
                    out.news = true;
                }
                Output::Save(savings) => self.keep(|keeper| keeper.save(savings)),
                Output::Load(keys) => self.keep(|keeper| keeper.load(keys)),
                Output::Forget(key) => self.keep(|keeper| keeper.forget(key)),
                Output::Ready => {
                    self.milestones.pass(|passed| passed.ready = true);
                    out.told.push(Told::Readiness(self.milestones.awaited(), true));
                    let missing = state.engine.slots_missing();
                    out.told.extend((missing > 0).then_some(Told::Incomplete(missing)));
                }
                Output::CopiesDiffer(member) => out.told.push(Told::CopiesDiffer(member)),
                Output::Drained => self.milestones.pass(|passed| passed.drained = true),
            }
        }
        if closed {
            out.told.extend(state.waiters.drain().map(|(_, waiter)| Told::Nothing(waiter)));
        }
        if let Some(due) = state.engine.poll_due()
            && state.armed.is_none_or(|armed| due < armed)
        {
            state.armed = Some(due);
            self.timer.wake_at(state.engine.instant(due));
        }
        out
    }

    pub(super) fn tell(&self, told: Told) {
        match told {
            Told::Commit(promise, result) => promise.settle(result),
            Told::Fetch(promise, result) => promise.settle(result),
            Told::Swap(promise, result) => promise.settle(result),
            Told::Readiness(promises, ready) => promises.into_iter().for_each(|promise| promise.settle(ready)),
            Told::Nothing(_) => {}
            Told::CopiesDiffer(member) => log::warn!(
                "{}: {member} keeps another number of copies; until all members are set up alike, entries may be on fewer than are wanted",
                self.label
            ),
            Told::Incomplete(missing) => log::warn!(
                "{}: serves although {missing} of its 1024 slots have not been transferred within the time for it; they come later",
                self.label
            ),
        }
    }

    pub(super) fn keep(&self, keep: impl FnOnce(&Keeper)) {
        if let Some(keeper) = &self.keeper {
            keep(keeper);
        }
    }

    /// Hands a message to the channel, and sees to it that the engine learns what became of it. Does not block, unless `more` says so.
    pub(super) fn send(&self, send: Send, more: SendOptions) {
        let Send { to, body, token } = send;
        if let Some(token) = token {
            self.send_told(to, body, token, more);
        } else {
            drop(self.channel.send_with(to, body, SendOptions::NONE | more));
        }
    }

    fn send_told(&self, to: Few<Member>, body: Bytes, token: Token, more: SendOptions) {
        let sending = self.channel.send_with(to.iter().cloned(), body, SendOptions::SYNC_ACK | more);
        if let Some(shared) = self.me.upgrade() {
            sending.on_complete(move |outcome| shared.sent(token, &to, &outcome));
        }
    }

    /// Tells the engine what became of a message.
    pub(super) fn sent(&self, token: Token, to: &[Member], outcome: &Result<Receipt, SendError>) {
        self.enter(|state, now| tell_outcome(&mut state.engine, now, token, to, outcome));
        if outcome.as_ref().is_err_and(is_stopped) {
            self.close();
        }
    }
}

pub(super) fn tell_outcome(engine: &mut Engine, now: Time, token: Token, to: &[Member], outcome: &Result<Receipt, SendError>) {
    for member in to {
        let fault = outcome.as_ref().err().and_then(|error| error.faults.iter().find(|fault| fault.member == *member));
        let outcome = match fault.map(|fault| &fault.cause) {
            None => Outcome::Accepted,
            Some(FaultCause::Rejected) => Outcome::Rejected,
            Some(_) => Outcome::Failed,
        };
        engine.sent(now, token, member, outcome);
    }
}

/// Whether the channel is at its end.
pub(super) fn is_stopped(error: &SendError) -> bool {
    error.faults.iter().any(|fault| matches!(fault.cause, FaultCause::Stopped))
}

impl Lives {
    fn follow(&mut self, event: &Event) {
        if let What::Removed { age } | What::Expired { age } = event.what {
            self.ended += 1;
            self.total = self.total.saturating_add(age);
            self.longest = self.longest.max(age);
        }
    }
}
