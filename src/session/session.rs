//! The handle of one session.

mod saving;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::engine::{Name, Record, Version};
use super::error::{CommitError, SetError};
use super::event::{AUTH_TYPE, PRINCIPAL, RESERVED};
use super::id::SessionId;
use super::lease::{lease_of, max_inactive_of};
use super::manager::Context;
use super::replica::Found;
use crate::clock;

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

fn time_of(epoch_millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(epoch_millis)).unwrap_or(UNIX_EPOCH)
}
