//! How a handle's changes become everybody's: committing, replacing on a condition, another id, the end.

use std::sync::Arc;

use bytes::Bytes;

use super::super::committing::{Committing, receipt};
use super::super::engine::{Attribute, CREATED, Change, Committed, Name, Record, Refused, SwapFault, Version, slot_of};
use super::super::error::{CommitError, ReplaceError};
use super::super::id::SessionId;
use super::super::outcome::{CommitReceipt, Confirm};
use super::super::replacing::{Replacing, State};
use super::{Session, time_of};
use crate::id::random_bytes;

impl Session {
    /// Makes the changes everybody's: sends what changed to the members that hold the session, and waits as the
    /// manager is [set to](crate::session::ManagerBuilder::confirm). With nothing changed, no message is sent, and the receipt tells how
    /// things stand.
    ///
    /// The handle then shows the session as it is on this member, with what others have changed meanwhile.
    ///
    /// Blocks: from a task, and from a message listener, use [`start_commit`](Self::start_commit). Members whose listeners wait for each
    /// other would do so until another member takes the copy, or the time is over.
    ///
    /// # Errors
    ///
    /// See [`CommitError`]: with most, the change is not made; with [`Unconfirmed`](CommitError::Unconfirmed), it is.
    pub fn commit(&mut self) -> Result<CommitReceipt, CommitError> {
        self.commit_with(self.context.confirm())
    }

    /// As [`commit`](Self::commit), waiting as is said here. [`Confirm::AtLeast`] waits also when nothing has changed, if fewer members than
    /// that have confirmed the session as it is: so it can be tried again after [`Unconfirmed`](CommitError::Unconfirmed).
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&mut self, confirm: Confirm) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        let confirm = confirm.check(self.context.copies())?;
        if let Some(receipt) = self.unchanged(confirm) {
            return Ok(receipt);
        }
        let change = self.change_to_make();
        let made = self.context.replica().commit(self.id.as_bytes(), change, confirm.want());
        let (record, outcome) = made.map_err(|refused| self.not_made(refused))?;
        self.made(record);
        self.concluded(receipt(outcome))
    }

    /// As [`commit`](Self::commit), but does not wait: the change is made when this returns, and what it returns tells what became of
    /// it. It can be awaited on any executor.
    ///
    /// With [`Confirm::None`] it is held up while the queue to a member is full, for as long as
    /// [`MessageDispatch`](crate::interceptors::MessageDispatch) says: 5 s at most, unless told otherwise. Nothing else bounds what is queued
    /// then. With the other modes it is not held up; there, whoever awaits the outcome is.
    ///
    /// It reads nothing from a [store](crate::session::ManagerBuilder::store). What others have changed since this handle was read, and what is in
    /// the store only, does not show in the handle then.
    pub fn start_commit(&mut self) -> Committing {
        self.start_commit_with(self.context.confirm())
    }

    /// As [`start_commit`](Self::start_commit), waiting as is said here.
    ///
    /// ```
    /// # use tribes::session::{CommitError, Confirm, Session};
    /// async fn pay(session: &mut Session) -> Result<(), CommitError> {
    ///     session.start_commit_with(Confirm::AtLeast(1)).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn start_commit_with(&mut self, confirm: Confirm) -> Committing {
        Committing::begun(self.begin_commit(confirm))
    }

    /// Forgets the changes that this handle has not committed. A session that is new has ended with that.
    pub fn discard(&mut self) {
        if self.base.is_none() {
            self.end(CommitError::Removed);
        }
        self.changes.clear();
        self.lease = None;
    }

    /// Writes an attribute at once, without [`commit`](Self::commit), if it still has the version that was [read](Self::version): for
    /// values that must not lose a change, as a counter or a stock. The owner of the session decides, so of several that try at once,
    /// on whichever members, one succeeds. `None` expects that it was never written. A session that is new is committed first; other
    /// changes of this handle stay uncommitted.
    ///
    /// In a partition each side has an owner; what both have replaced is reported as a conflict when they meet.
    ///
    /// ```no_run
    /// # use tribes::session::{ReplaceError, Session, BackupManager, SessionId};
    /// # fn count(manager: &BackupManager, id: &SessionId) -> Result<(), Box<dyn std::error::Error>> {
    /// loop {
    ///     let Some(mut session) = manager.get(id)? else { break };
    ///     let seen = session.get("count").map_or(0, |bytes| bytes[0]);
    ///     match session.replace_if("count", session.version("count"), Some(vec![seen + 1].into())) {
    ///         Err(ReplaceError::Conflict { .. }) => {} // somebody else was faster: once more
    ///         outcome => {
    ///             outcome?;
    ///             break;
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ReplaceError`].
    pub fn replace_if(
        &mut self,
        name: &str,
        expected: Option<Version>,
        value: Option<Bytes>,
    ) -> Result<CommitReceipt, ReplaceError> {
        self.context.check(name, value.as_ref())?;
        if self.base.is_none() && self.ended.is_none() {
            // The direct way, on this thread.
            self.commit().map_err(ReplaceError::NotCreated)?;
        }
        self.start_replace_if(name, expected, value).wait()
    }

    /// As [`replace_if`](Self::replace_if), but does not wait: what it returns tells what became of it, and can be awaited on any executor.
    pub fn start_replace_if(&mut self, name: &str, expected: Option<Version>, value: Option<Bytes>) -> Replacing<'_> {
        let (shared, expected) = (self.shared_name(name), expected.unwrap_or(Version::ZERO));
        let state = if let Err(error) = self.context.check(name, value.as_ref()) {
            State::Known(Some(Err(error.into())))
        } else if self.ended.is_some() {
            State::Known(Some(Err(ReplaceError::Absent)))
        } else if self.base.is_none() {
            State::Creating(self.start_commit())
        } else {
            self.ask_to_replace(&shared, expected, value.clone())
        };
        Replacing::new(self, shared, expected, value, state)
    }

    /// Ends the session, on all members and for good: whatever is written to it afterwards, anywhere, is dropped. Waits as a
    /// [`commit`](Self::commit) does. What this handle has not committed goes with it; of a session that is new nobody else hears.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn invalidate(mut self) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        self.end(CommitError::Removed);
        let Some(read) = self.base.take() else { return Ok(nobody_knew()) };
        self.context.invalidate(&self.id, Some(read))
    }

    /// As [`invalidate`](Self::invalidate), but does not wait; see [`start_commit`](Self::start_commit).
    pub fn start_invalidate(mut self) -> Committing {
        if let Err(error) = self.check_open() {
            return Committing::known(Err(error));
        }
        self.end(CommitError::Removed);
        let Some(read) = self.base.take() else { return Committing::known(Ok(nobody_knew())) };
        self.context.start_invalidate(&self.id, Some(read))
    }

    /// Gives the session another id, along with what this handle has changed: the old id dies on all members in the same step. For
    /// the moment of a login, so that an id that somebody has planted or seen is worth nothing.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit). Where the change is made, the handle has the new id.
    pub fn change_id(&mut self) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        let Some((id, change)) = self.rename_to_make() else { return self.commit() };
        let want = self.context.confirm().want();
        let made = self.context.replica().rename(self.id.as_bytes(), id.as_bytes(), change, want);
        let (record, outcome) = made.map_err(|refused| self.not_made(refused))?;
        self.id = id;
        self.made(record);
        self.concluded(receipt(outcome))
    }

    /// As [`change_id`](Self::change_id), but does not wait; see [`start_commit`](Self::start_commit). The handle has the new id when this
    /// returns, unless the change was refused. Unlike a commit, it blocks for a read of the [store](crate::session::ManagerBuilder::store) where that
    /// alone has what others have changed since this handle was read.
    ///
    /// ```
    /// # use tribes::session::{CommitError, Session};
    /// async fn login(session: &mut Session, user: &str) -> Result<(), CommitError> {
    ///     session.set_principal(Some(user));
    ///     session.start_change_id().await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn start_change_id(&mut self) -> Committing {
        Committing::begun(self.begin_change_id())
    }

    // ---- inside

    fn begin_commit(&mut self, confirm: Confirm) -> Result<Committing, CommitError> {
        self.check_open()?;
        let confirm = confirm.check(self.context.copies())?;
        if let Some(receipt) = self.unchanged(confirm) {
            return Ok(Committing::known(Ok(receipt)));
        }
        let change = self.change_to_make();
        let begun = self.context.replica().start_commit(self.id.as_bytes(), change, confirm.want());
        let begun = begun.map_err(|refused| self.not_made(refused))?;
        self.made(begun.record);
        Ok(Committing::waiting(begun.outcome))
    }

    fn begin_change_id(&mut self) -> Result<Committing, CommitError> {
        self.check_open()?;
        let Some((id, change)) = self.rename_to_make() else { return self.begin_commit(self.context.confirm()) };
        let want = self.context.confirm().want();
        let begun = self.context.replica().start_rename(self.id.as_bytes(), id.as_bytes(), change, want);
        let begun = begun.map_err(|refused| self.not_made(refused))?;
        self.id = id;
        self.made(begun.record);
        Ok(Committing::waiting(begun.outcome))
    }

    /// Asks whoever decides to write a value if the attribute still has this version.
    pub(in crate::session) fn ask_to_replace(&self, name: &Name, expected: Version, value: Option<Bytes>) -> State {
        let replica = self.context.replica();
        if replica.is_closed() {
            return State::Known(Some(Err(ReplaceError::Stopped)));
        }
        let want = self.context.confirm().want();
        State::Asking(replica.swap(self.id.as_bytes(), Arc::clone(name), expected, value, want))
    }

    /// What was decided, which this handle shows from now on.
    pub(in crate::session) fn replaced(
        &mut self,
        name: &Name,
        value: Option<Bytes>,
        answer: Option<Result<Committed, SwapFault>>,
    ) -> Result<CommitReceipt, ReplaceError> {
        let version = match &answer {
            Some(Ok(committed) | Err(SwapFault::Unconfirmed(committed))) => committed.version,
            Some(Err(SwapFault::Absent)) => {
                self.end(CommitError::Removed);
                return Err(ReplaceError::Absent);
            }
            Some(Err(fault)) => return Err(fault.clone().into()),
            None => return Err(ReplaceError::Stopped),
        };
        self.unchange(name);
        self.refresh();
        if let Some(base) = &mut self.base
            && base.attribute(name).is_none_or(|attribute| attribute.version < version)
        {
            // This member is not a holder, or has not got it back yet.
            Arc::make_mut(base).put(Attribute { name: Arc::clone(name), version, value });
        }
        match answer {
            Some(Err(fault)) => Err(fault.into()),
            Some(Ok(committed)) => Ok(committed.into()),
            None => Err(ReplaceError::Stopped),
        }
    }

    /// Another id, and the change that gives it to the session. `None` when nobody knows the one that it has: then it just has another.
    fn rename_to_make(&mut self) -> Option<(SessionId, Change)> {
        let Some(read) = self.base.clone() else {
            self.id = SessionId::random();
            return None;
        };
        let created = read.created_millis().to_be_bytes();
        let id = draw_beside(self.id);
        let (lease, mut attributes) = (self.lease, self.written());
        attributes.push((self.context.share(CREATED), Some(Bytes::copy_from_slice(&created))));
        Some((id, Change::Rename { read, to: id.as_bytes()[..].into(), lease, attributes }))
    }

    fn check_open(&self) -> Result<(), CommitError> {
        if let Some(ended) = &self.ended {
            Err(ended.clone())
        } else if self.context.replica().is_closed() {
            Err(CommitError::Stopped)
        } else {
            Ok(())
        }
    }

    /// How things stand, when there is nothing to commit and nothing to wait for.
    fn unchanged(&self, confirm: Confirm) -> Option<CommitReceipt> {
        let record = self.base.as_ref().filter(|_| !self.is_dirty())?;
        let standing = self.context.replica().with(|engine, _| engine.standing(self.id.as_bytes()));
        let nobody = || Committed { version: record.newest(), wanted: 0, confirmed: Vec::new() };
        let receipt = CommitReceipt::from(standing.unwrap_or_else(nobody));
        let enough = !matches!(confirm, Confirm::AtLeast(needed) if receipt.confirmed.len() < needed);
        enough.then_some(receipt)
    }

    fn written(&self) -> Vec<(Name, Option<Bytes>)> {
        self.changes.clone()
    }

    /// Gives up what it changes, so that the engine need not copy it.
    fn change_to_make(&mut self) -> Change {
        match self.base.take() {
            None => Change::Create { lease: self.lease.unwrap_or(self.default_lease), attributes: self.written() },
            Some(read) => Change::Update { read, lease: self.lease, attributes: std::mem::take(&mut self.changes) },
        }
    }

    /// The change is not made: the handle is as it was.
    fn not_made(&mut self, refused: Refused) -> CommitError {
        if let Some(Change::Update { read, attributes, .. }) = refused.change {
            (self.base, self.changes) = (Some(read), attributes);
        }
        self.refused(refused.why.into())
    }

    /// The change is made: what was this handle's is everybody's.
    fn made(&mut self, record: Option<Arc<Record>>) {
        self.changes.clear();
        self.lease = None;
        if let Some(record) = record {
            // As everybody sees it: a session begins with its first commit.
            self.created = time_of(record.created_millis());
            self.base = Some(record);
        }
    }

    fn refused(&mut self, error: CommitError) -> CommitError {
        if matches!(error, CommitError::Removed | CommitError::Expired) {
            self.end(error.clone());
        }
        error
    }

    fn concluded(&mut self, outcome: Result<CommitReceipt, CommitError>) -> Result<CommitReceipt, CommitError> {
        outcome.map_err(|error| self.refused(error))
    }

    fn refresh(&mut self) {
        let current = self.context.replica().with(|engine, _| engine.peek(self.id.as_bytes()).cloned());
        if current.is_some() {
            self.base = current;
        }
    }

    fn end(&mut self, how: CommitError) {
        self.ended.get_or_insert(how);
        self.changes.clear();
        self.lease = None;
    }
}

/// What comes of ending a session that was never committed.
fn nobody_knew() -> CommitReceipt {
    Committed { version: Version::ZERO, wanted: 0, confirmed: Vec::new() }.into()
}

/// A new id whose slot is the old one's, so that the change of id is one message for each holder: one of 1024 random ids is. The 118
/// bits that are left to chance are as good as any.
fn draw_beside(old: SessionId) -> SessionId {
    let slot = slot_of(old.as_bytes());
    let mut seed = u128::from_be_bytes(random_bytes());
    loop {
        let id = SessionId::from_bytes(seed.to_be_bytes());
        if id != old && slot_of(id.as_bytes()) == slot {
            return id;
        }
        seed = seed.wrapping_add(1);
    }
}
