//! The handle of one session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::engine::{Attribute, Change, CommitFault, Committed, Name, Record, SwapFault, Version, slot_of};
use super::error::{CommitError, ReplaceError, SetError};
use super::event::RESERVED;
use super::id::SessionId;
use super::manager::Context;
use super::outcome::{CommitReceipt, Confirm};
use super::replica::{Found, Pending};
use crate::clock;
use crate::id::random_bytes;

/// What the session keeps among its attributes, for nobody else to see.
const PRINCIPAL: &str = "\0principal";
const AUTH_TYPE: &str = "\0auth";
/// When it was created, in milliseconds since 1970: set when it gets another id.
pub(super) const CREATED: &str = "\0created";

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
    changes: BTreeMap<Name, Option<Bytes>>,
    /// The new `max_inactive`, if it changes.
    lease: Option<Duration>,
    default_lease: Duration,
    created: SystemTime,
    last_accessed: SystemTime,
    is_new: bool,
    ended: bool,
}

impl Session {
    pub(super) fn new(context: Arc<Context>, id: SessionId, lease: Duration) -> Self {
        let now = time_of(clock::both().1);
        Self {
            context,
            id,
            base: None,
            changes: BTreeMap::new(),
            lease: None,
            default_lease: lease,
            created: now,
            last_accessed: now,
            is_new: true,
            ended: false,
        }
    }

    pub(super) fn found(context: Arc<Context>, id: SessionId, found: Found) -> Self {
        let Found { record, idle } = found;
        let now = clock::both().1;
        let accessed = match idle {
            Some(idle) => now.saturating_sub(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            None => Version { time: record.touched, node: 0 }.epoch_millis().min(now),
        };
        Self {
            context,
            id,
            changes: BTreeMap::new(),
            lease: None,
            default_lease: Duration::ZERO,
            created: time_of(created_millis(&record)),
            last_accessed: time_of(accessed),
            is_new: false,
            ended: false,
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
        !self.ended && (self.base.is_none() || !self.context.replica().with(|engine, _| engine.is_dead(self.id.as_bytes())))
    }

    /// Whether there is something to commit.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.ended && (self.base.is_none() || !self.changes.is_empty() || self.lease.is_some())
    }

    /// The value of an attribute, own changes included.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        if name.starts_with(RESERVED) { None } else { self.value(name).cloned() }
    }

    /// Sets an attribute; the others have it with the next [`commit`](Self::commit).
    ///
    /// The value is kept as it is: a part of a large buffer keeps that whole buffer in memory, on this member.
    ///
    /// # Errors
    ///
    /// When the manager's filters do not let it pass, the name is reserved or too long, or the value too large.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) -> Result<(), SetError> {
        let value = value.into();
        self.context.check(name, Some(&value))?;
        self.change(name, Some(value));
        Ok(())
    }

    /// Removes an attribute; fine when there is none.
    pub fn remove(&mut self, name: &str) {
        if !name.starts_with(RESERVED) {
            self.take_out(name);
        }
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

    /// The version of an attribute's last write, or removal, as it was read: what [`replace_if`](Self::replace_if) compares. `None` when it
    /// was never written. Own changes have none before they are committed.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<Version> {
        self.base.as_ref()?.attribute(name).map(|attribute| attribute.version)
    }

    /// How long the session lives without an access; zero: for ever.
    #[must_use]
    pub fn max_inactive(&self) -> Duration {
        let stored = || self.base.as_ref().map(|record| Duration::from_millis(record.lease.millis));
        self.lease.or_else(stored).unwrap_or(self.default_lease)
    }

    /// Changes how long the session lives without an access, to the millisecond; zero: for ever.
    pub fn set_max_inactive(&mut self, max_inactive: Duration) {
        self.lease = Some(max_inactive);
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

    /// As [`commit`](Self::commit), waiting as is said here.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&mut self, confirm: Confirm) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        let confirm = confirm.check(self.context.copies())?;
        if let Some(receipt) = self.unchanged() {
            return Ok(receipt);
        }
        let made = self.context.replica().commit(self.id.as_bytes(), self.change_to_make(), confirm.want());
        let (record, outcome) = made.map_err(|refusal| self.refused(refusal.into()))?;
        self.made(record);
        self.concluded(receipt(outcome))
    }

    /// As [`commit`](Self::commit), but does not wait: the change is made when this returns, and what it returns tells what became of
    /// it. It can be awaited on any executor.
    pub fn start_commit(&mut self) -> Committing {
        if let Err(error) = self.check_open() {
            return Committing::known(Err(error));
        }
        if let Some(receipt) = self.unchanged() {
            return Committing::known(Ok(receipt));
        }
        let want = self.context.confirm().want();
        match self.context.replica().start_commit(self.id.as_bytes(), self.change_to_make(), want) {
            Ok(begun) => {
                self.made(begun.record);
                Committing::waiting(begun.outcome)
            }
            Err(refusal) => Committing::known(Err(self.refused(refusal.into()))),
        }
    }

    /// Forgets the changes that this handle has not committed.
    pub fn discard(&mut self) {
        self.changes.clear();
        self.lease = None;
        self.ended |= self.base.is_none();
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
        if self.base.is_none() {
            self.commit().map_err(ReplaceError::Refused)?;
        }
        if self.ended {
            return Err(ReplaceError::Absent);
        }
        let shared = self.shared_name(name);
        let (expected, want) = (expected.unwrap_or(Version::ZERO), self.context.confirm().want());
        let replica = self.context.replica();
        if replica.is_closed() {
            return Err(ReplaceError::Stopped);
        }
        let answer = replica.swap(self.id.as_bytes(), Arc::clone(&shared), expected, value.clone(), want).wait();
        let version = match &answer {
            Some(Ok(committed) | Err(SwapFault::Unconfirmed(committed))) => committed.version,
            Some(Err(SwapFault::Absent)) => {
                self.end();
                return Err(ReplaceError::Absent);
            }
            Some(Err(fault)) => return Err(fault.clone().into()),
            None => return Err(ReplaceError::Stopped),
        };
        self.changes.remove(name);
        self.refresh();
        if let Some(base) = &mut self.base
            && base.attribute(name).is_none_or(|attribute| attribute.version < version)
        {
            // This member is not a holder, or has not got it back yet.
            Arc::make_mut(base).put(Attribute { name: shared, version, value });
        }
        match answer {
            Some(Err(fault)) => Err(fault.into()),
            Some(Ok(committed)) => Ok(committed.into()),
            None => Err(ReplaceError::Stopped),
        }
    }

    /// Ends the session, on all members and for good: whatever is written to it afterwards, anywhere, is dropped. Waits as a
    /// [`commit`](Self::commit) does. What this handle has not committed goes with it.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn invalidate(mut self) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        let want = self.context.confirm().want();
        let made = self.context.replica().commit(self.id.as_bytes(), Change::Remove { read: self.base.clone() }, want);
        self.end();
        let (_, outcome) = made?;
        receipt(outcome)
    }

    /// Gives the session another id, along with what this handle has changed: the old id dies on all members in the same step. For
    /// the moment of a login, so that an id that somebody has planted or seen is worth nothing.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit). Where the change is made, the handle has the new id.
    pub fn change_id(&mut self) -> Result<CommitReceipt, CommitError> {
        self.check_open()?;
        let Some(read) = self.base.clone() else {
            // Nobody knows the old one.
            self.id = SessionId::random();
            return self.commit();
        };
        let created = created_millis(&read).to_be_bytes();
        let id = draw_beside(self.id);
        let (lease, mut attributes) = (self.lease, self.written());
        attributes.push((self.context.share(CREATED), Some(Bytes::copy_from_slice(&created))));
        let change = Change::Rename { read, to: id.as_bytes()[..].into(), lease, attributes };
        let made = self.context.replica().rename(self.id.as_bytes(), id.as_bytes(), change, self.context.confirm().want());
        let (record, outcome) = made.map_err(|refusal| self.refused(refusal.into()))?;
        self.id = id;
        self.made(record);
        self.concluded(receipt(outcome))
    }

    // ---- inside

    fn value(&self, name: &str) -> Option<&Bytes> {
        match self.changes.get(name) {
            Some(change) => change.as_ref(),
            None => self.base.as_ref()?.value(name),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn put_text(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.change(name, Some(Bytes::copy_from_slice(text.as_bytes()))),
            None => self.take_out(name),
        }
    }

    fn take_out(&mut self, name: &str) {
        if self.base.as_ref().is_some_and(|record| record.value(name).is_some()) {
            self.change(name, None);
        } else {
            // Nobody else has ever heard of it.
            self.changes.remove(name);
        }
    }

    fn change(&mut self, name: &str, value: Option<Bytes>) {
        let name = self.shared_name(name);
        self.changes.insert(name, value);
    }

    fn shared_name(&self, name: &str) -> Name {
        match self.base.as_ref().and_then(|record| record.attribute(name)) {
            Some(attribute) => Arc::clone(&attribute.name),
            None => self.context.share(name),
        }
    }

    fn check_open(&self) -> Result<(), CommitError> {
        if self.ended {
            Err(CommitError::Removed)
        } else if self.context.replica().is_closed() {
            Err(CommitError::Stopped)
        } else {
            Ok(())
        }
    }

    /// How things stand, when there is nothing to commit.
    fn unchanged(&self) -> Option<CommitReceipt> {
        let record = self.base.as_ref().filter(|_| !self.is_dirty())?;
        let standing = self.context.replica().with(|engine, _| engine.standing(self.id.as_bytes()));
        let nobody = || Committed { version: record.newest(), wanted: 0, confirmed: Vec::new() };
        Some(standing.unwrap_or_else(nobody).into())
    }

    fn written(&self) -> Vec<(Name, Option<Bytes>)> {
        self.changes.iter().map(|(name, value)| (Arc::clone(name), value.clone())).collect()
    }

    fn change_to_make(&self) -> Change {
        match &self.base {
            None => Change::Create { lease: self.max_inactive(), attributes: self.written() },
            Some(read) => Change::Update { read: Arc::clone(read), lease: self.lease, attributes: self.written() },
        }
    }

    /// The change is made: what was this handle's is everybody's.
    fn made(&mut self, record: Option<Arc<Record>>) {
        self.changes.clear();
        self.lease = None;
        if let Some(record) = record {
            // As everybody sees it: a session begins with its first commit.
            self.created = time_of(created_millis(&record));
            self.base = Some(record);
        }
    }

    fn refused(&mut self, error: CommitError) -> CommitError {
        if matches!(error, CommitError::Removed | CommitError::Expired) {
            self.end();
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

    fn end(&mut self) {
        self.ended = true;
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

/// A commit that is under way; its change is made. Wait for it, or `.await` it on any executor; dropping it changes nothing.
#[must_use = "what becomes of the commit is lost with this"]
pub struct Committing(Progress);

enum Progress {
    Known(Option<Result<CommitReceipt, CommitError>>),
    Waiting(Pending<Result<Committed, CommitFault>>),
}

impl Committing {
    pub(crate) fn known(outcome: Result<CommitReceipt, CommitError>) -> Self {
        Self(Progress::Known(Some(outcome)))
    }

    pub(crate) fn waiting(outcome: Pending<Result<Committed, CommitFault>>) -> Self {
        Self(Progress::Waiting(outcome))
    }

    /// Blocks until the outcome is known.
    ///
    /// # Errors
    ///
    /// As [`Session::commit`].
    pub fn wait(self) -> Result<CommitReceipt, CommitError> {
        match self.0 {
            Progress::Known(known) => known.unwrap_or(Err(CommitError::Stopped)),
            Progress::Waiting(waiting) => receipt(waiting.wait()),
        }
    }
}

impl Committing {
    /// Blocks until the outcome is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<CommitReceipt, CommitError>, Self> {
        match self.0 {
            Progress::Waiting(waiting) => match waiting.wait_timeout(timeout) {
                Ok(outcome) => Ok(receipt(outcome)),
                Err(waiting) => Err(Self(Progress::Waiting(waiting))),
            },
            known => Ok(Self(known).wait()),
        }
    }
}

impl Future for Committing {
    type Output = Result<CommitReceipt, CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Known(known) => Poll::Ready(known.take().unwrap_or(Err(CommitError::Stopped))),
            Progress::Waiting(waiting) => Pin::new(waiting).poll(cx).map(receipt),
        }
    }
}

impl fmt::Debug for Committing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Committing")
    }
}

pub(crate) fn receipt(outcome: Option<Result<Committed, CommitFault>>) -> Result<CommitReceipt, CommitError> {
    match outcome {
        Some(Ok(committed)) => Ok(committed.into()),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(CommitError::Stopped),
    }
}

fn created_millis(record: &Record) -> u64 {
    let moved = record.value(CREATED).and_then(|bytes| <[u8; 8]>::try_from(&**bytes).ok());
    moved.map_or_else(|| record.birth.epoch_millis(), u64::from_be_bytes)
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
