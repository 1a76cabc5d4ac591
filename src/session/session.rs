//! The handle of one session.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::committing::{Committing, receipt};
use super::engine::{Attribute, CREATED, Change, Committed, Name, Record, Refused, SwapFault, Version, slot_of};
use super::error::{CommitError, ReplaceError, SetError};
use super::event::{AUTH_TYPE, PRINCIPAL, RESERVED};
use super::id::SessionId;
use super::lease::{lease_of, max_inactive_of};
use super::manager::Context;
use super::outcome::{CommitReceipt, Confirm};
use super::replacing::{Replacing, State};
use super::replica::Found;
use crate::clock;
use crate::id::random_bytes;

/// One session, as it was read, and what this handle has changed since.
///
/// Changes are this handle's own until they are committed; then they are everybody's. Others' changes show in handles that are read
/// after them, and in this one after its own commit. Two handles that change different attributes do not disturb each other; of two
/// changes of one attribute the later one wins, unless [`replace_if`](Self::replace_if) says otherwise.
///
/// A value is bytes, and never changes in place: what is not [set](Self::set) and committed has not changed. With the feature `serde`,
/// `get_as` and `set_as` take values of other types.
///
/// A handle that is dropped with changes that were not committed is counted in the manager's statistics, and logged.
///
/// A session may end while there are handles of it. One that has learnt so, because a commit has failed with it, takes no more
/// changes: [`set`](Self::set) says so, and methods that have no result do nothing.
///
/// ```no_run
/// # use tribes::session::{BackupManager, SessionId};
/// # fn handle(manager: BackupManager, cookie: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let known = cookie.parse::<SessionId>().ok().map(|id| manager.get(&id)).transpose()?.flatten();
/// let mut session = match known {
///     Some(session) => session,
///     None => manager.create()?,
/// };
/// session.set("last page", "/checkout")?;
/// session.commit()?;
/// # Ok(())
/// # }
/// ```
pub struct Session {
    context: Arc<Context>,
    id: SessionId,
    /// As it is on this member; `None` until the first commit.
    base: Option<Arc<Record>>,
    /// Sorted by name: few, and handed over as they are.
    changes: Vec<(Name, Option<Bytes>)>,
    /// The new lease, if it changes. As in the engine, zero means for ever.
    lease: Option<Duration>,
    default_lease: Duration,
    created: SystemTime,
    last_accessed: SystemTime,
    /// When this handle was made.
    since: Instant,
    is_new: bool,
    /// How it has ended, as far as this handle knows.
    ended: Option<CommitError>,
}

impl Session {
    pub(super) fn new(context: Arc<Context>, id: SessionId, lease: Duration) -> Self {
        let (since, epoch_millis) = clock::both();
        let now = time_of(epoch_millis);
        Self {
            context,
            id,
            base: None,
            changes: Vec::new(),
            lease: None,
            default_lease: lease,
            created: now,
            last_accessed: now,
            since,
            is_new: true,
            ended: None,
        }
    }

    pub(super) fn found(context: Arc<Context>, id: SessionId, found: Found) -> Self {
        let Found { record, idle, at: (since, now) } = found;
        let accessed = match idle {
            Some(idle) => now.saturating_sub(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            None => Version { time: record.touched, node: 0 }.epoch_millis().min(now),
        };
        Self {
            context,
            id,
            changes: Vec::new(),
            lease: None,
            default_lease: Duration::ZERO,
            created: time_of(record.created_millis()),
            last_accessed: time_of(accessed),
            since,
            is_new: false,
            ended: None,
            base: Some(record),
        }
    }

    /// The id: what the browser's cookie says.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// When the session was created, that is, first committed, by the clock of the member that did. It stays when the id changes.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// When the session was accessed before this handle was made. When it was read from another member this may be early by a
    /// quarter of [`max_inactive`](Self::max_inactive).
    #[must_use]
    pub fn last_accessed(&self) -> SystemTime {
        self.last_accessed
    }

    /// Whether this handle made the session, so that the client does not know of it yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the session has not ended, as far as this member knows. Costs no message.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.ended.is_none()
            && (self.base.is_none() || !self.context.replica().with(|engine, _| engine.is_dead(self.id.as_bytes())))
    }

    /// Whether there is something to commit.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.ended.is_none() && (self.base.is_none() || !self.changes.is_empty() || self.lease.is_some())
    }

    /// The value of an attribute, own changes included.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        if name.starts_with(RESERVED) { None } else { self.value(name).cloned() }
    }

    /// Whether there is an attribute of this name, own changes included.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        !name.starts_with(RESERVED) && self.value(name).is_some()
    }

    /// Sets an attribute; the others have it with the next [`commit`](Self::commit).
    ///
    /// The value is kept as it is: a part of a large buffer keeps that whole buffer in memory, on this member.
    ///
    /// # Errors
    ///
    /// When the manager's filters do not let it pass, the name is reserved or too long, or the value too large; and when this handle
    /// knows that the session has ended.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) -> Result<(), SetError> {
        let value = value.into();
        self.check_settable(name, Some(&value))?;
        self.change(name, Some(value));
        Ok(())
    }

    /// Removes an attribute; fine when there is none. Filters are not asked.
    ///
    /// # Errors
    ///
    /// When the name is reserved or too long, or this handle knows that the session has ended.
    pub fn remove(&mut self, name: &str) -> Result<(), SetError> {
        self.check_settable(name, None)?;
        self.take_out(name);
        Ok(())
    }

    /// Removes all attributes. The principal, the authentication type and [`max_inactive`](Self::max_inactive) stay.
    ///
    /// # Errors
    ///
    /// When this handle knows that the session has ended.
    pub fn clear(&mut self) -> Result<(), SetError> {
        self.check_settable("", None)?;
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        names.iter().for_each(|name| self.take_out(name));
        Ok(())
    }

    /// The names of the attributes, sorted, own changes included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let known = self.base.iter().flat_map(|record| &record.attributes).filter(|attribute| attribute.value.is_some());
        let mut names: BTreeSet<&str> = known.map(|attribute| &*attribute.name).collect();
        for (name, value) in &self.changes {
            if value.is_some() {
                names.insert(name);
            } else {
                names.remove(&**name);
            }
        }
        names.into_iter().filter(|name| !name.starts_with(RESERVED))
    }

    /// The attributes, sorted by name, own changes included.
    ///
    /// ```
    /// # fn show(session: &tribes::session::Session) {
    /// for (name, value) in session.iter() {
    ///     println!("{name}: {} bytes", value.len());
    /// }
    /// # }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.names().filter_map(|name| Some((name, self.value(name)?)))
    }

    /// The version of an attribute's last write, or removal, as it was read: what [`replace_if`](Self::replace_if) compares. `None` when it
    /// was never written. Own changes have none before they are committed.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<Version> {
        self.base.as_ref()?.attribute(name).map(|attribute| attribute.version)
    }

    /// How long the session lives without an access; `None`: for ever.
    #[must_use]
    pub fn max_inactive(&self) -> Option<Duration> {
        let stored = || self.base.as_ref().map(|record| Duration::from_millis(record.lease.millis));
        max_inactive_of(self.lease.or_else(stored).unwrap_or(self.default_lease))
    }

    /// Changes how long the session lives without an access, to the millisecond; `None`: for ever. Zero, and what is less than a
    /// millisecond, becomes one millisecond.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn example(session: &mut tribes::session::Session) {
    /// session.set_max_inactive(Duration::from_secs(300));
    /// session.set_max_inactive(None); // does not expire
    /// # }
    /// ```
    pub fn set_max_inactive(&mut self, max_inactive: impl Into<Option<Duration>>) {
        if self.ended.is_none() {
            self.lease = Some(lease_of(max_inactive.into()));
        }
    }

    /// How long the session lives from now on if nobody accesses it, as far as this member knows; `None`: for ever. Other members may
    /// know of later accesses. A change of [`max_inactive`](Self::max_inactive) counts although it is not committed yet. Costs no message.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        let max_inactive = self.max_inactive()?;
        if !self.is_valid() {
            return Some(Duration::ZERO);
        }
        let idle = self.context.replica().with(|engine, now| engine.idle(now, self.id.as_bytes()));
        Some(max_inactive.saturating_sub(idle.unwrap_or_else(|| clock::now().saturating_duration_since(self.since))))
    }

    /// Notes an access, as reading the session once more would: for handles that live long, as that of an open stream. Does not wait, and
    /// changes nothing in this handle; see [`Manager::touch`](super::Manager::touch).
    pub fn touch(&self) {
        if self.base.is_some() {
            self.context.touch(&self.id);
        }
    }

    /// Who is logged in, as the application has said.
    #[must_use]
    pub fn principal(&self) -> Option<String> {
        self.text(PRINCIPAL)
    }

    /// Says who is logged in, or that nobody is. A field of its own: it is no attribute, and filters do not see it. Give the session
    /// [another id](Self::change_id) then.
    pub fn set_principal(&mut self, principal: Option<&str>) {
        self.put_text(PRINCIPAL, principal);
    }

    /// How the user was authenticated, as the application has said.
    #[must_use]
    pub fn auth_type(&self) -> Option<String> {
        self.text(AUTH_TYPE)
    }

    /// Says how the user was authenticated.
    pub fn set_auth_type(&mut self, auth_type: Option<&str>) {
        self.put_text(AUTH_TYPE, auth_type);
    }

    /// Makes the changes everybody's: sends what changed to the members that hold the session, and waits as the
    /// manager is [set to](super::ManagerBuilder::confirm). With nothing changed, no message is sent, and the receipt tells how things stand.
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
    /// It reads nothing from a [store](super::ManagerBuilder::store). What others have changed since this handle was read, and what is in
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
    /// returns, unless the change was refused. Unlike a commit, it blocks for a read of the [store](super::ManagerBuilder::store) where that
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
    pub(super) fn ask_to_replace(&self, name: &Name, expected: Version, value: Option<Bytes>) -> State {
        let replica = self.context.replica();
        if replica.is_closed() {
            return State::Known(Some(Err(ReplaceError::Stopped)));
        }
        let want = self.context.confirm().want();
        State::Asking(replica.swap(self.id.as_bytes(), Arc::clone(name), expected, value, want))
    }

    /// What was decided, which this handle shows from now on.
    pub(super) fn replaced(
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

    fn value(&self, name: &str) -> Option<&Bytes> {
        match self.change_of(name) {
            Ok(at) => self.changes[at].1.as_ref(),
            Err(_) => self.base.as_ref()?.value(name),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn put_text(&mut self, name: &str, text: Option<&str>) {
        match text {
            _ if self.ended.is_some() => {}
            Some(text) => self.change(name, Some(Bytes::copy_from_slice(text.as_bytes()))),
            None => self.take_out(name),
        }
    }

    fn take_out(&mut self, name: &str) {
        if self.base.as_ref().is_some_and(|record| record.value(name).is_some()) {
            self.change(name, None);
        } else {
            // Nobody else has ever heard of it.
            self.unchange(name);
        }
    }

    fn unchange(&mut self, name: &str) {
        if let Ok(at) = self.change_of(name) {
            self.changes.remove(at);
        }
    }

    /// Where this attribute's change is, or would be.
    fn change_of(&self, name: &str) -> Result<usize, usize> {
        self.changes.binary_search_by(|(changed, _)| (**changed).cmp(name))
    }

    fn change(&mut self, name: &str, value: Option<Bytes>) {
        match self.change_of(name) {
            Ok(at) => self.changes[at].1 = value,
            Err(at) => self.changes.insert(at, (self.shared_name(name), value)),
        }
    }

    fn check_settable(&self, name: &str, value: Option<&Bytes>) -> Result<(), SetError> {
        if self.ended.is_some() { Err(SetError::Ended) } else { self.context.check(name, value) }
    }

    fn shared_name(&self, name: &str) -> Name {
        match self.base.as_ref().and_then(|record| record.attribute(name)) {
            Some(attribute) => Arc::clone(&attribute.name),
            None => self.context.share(name),
        }
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

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_dirty() {
            self.context.dropped_uncommitted(self.id);
        }
    }
}

/// Shows how much there is, not what.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("names", &self.names().collect::<Vec<_>>())
            .field("dirty", &self.is_dirty())
            .finish_non_exhaustive()
    }
}

/// What comes of ending a session that was never committed.
fn nobody_knew() -> CommitReceipt {
    Committed { version: Version::ZERO, wanted: 0, confirmed: Vec::new() }.into()
}

fn time_of(epoch_millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(epoch_millis)).unwrap_or(UNIX_EPOCH)
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
