//! What can be set on a manager.

use std::fmt;
use std::marker::PhantomData;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::context::{Context, Listener, Settings, Sink};
use super::{Backup, Delta, Manager, Persistence};
use crate::channel::GroupChannel;
use crate::session::engine::{Config, Copies};
use crate::session::error::StartError;
use crate::session::event::SessionEvent;
use crate::session::lease::lease_of;
use crate::session::outcome::Confirm;
use crate::session::replica::Kept;
use crate::session::store::Store;

/// Builds a [`Manager`]. Members that share sessions must agree on the number of backups; all else is each one's own.
#[must_use = "a builder does nothing until it is started"]
pub struct ManagerBuilder<K> {
    settings: Settings,
    config: Config,
    confirm: Option<Confirm>,
    /// What a commit waits for where all members hold all sessions, unless told otherwise.
    everywhere: Confirm,
    listeners: Vec<Arc<Listener>>,
    store: Option<Arc<dyn Store>>,
    persistence: Persistence,
    kind: PhantomData<fn() -> K>,
}

impl Manager<Backup> {
    /// A builder for the application of this name: a path like `/shop`, or whatever tells it from others.
    pub fn builder(name: impl Into<String>) -> ManagerBuilder<Backup> {
        ManagerBuilder::new("BackupManager", name.into(), Copies::Backups(1), Confirm::All)
    }
}

impl Manager<Delta> {
    /// A builder for the application of this name: a path like `/shop`, or whatever tells it from others.
    pub fn builder(name: impl Into<String>) -> ManagerBuilder<Delta> {
        ManagerBuilder::new("DeltaManager", name.into(), Copies::Everywhere, Confirm::None)
    }
}

impl ManagerBuilder<Backup> {
    /// How many members hold each session besides its owner. Default 1; 0 keeps it on its owner alone. All members must have the
    /// same number. In a group that is too small for it all members hold all sessions, which are [at risk](Manager::at_risk) until
    /// there are enough members. `usize::MAX` is [everywhere](Self::backups_everywhere).
    pub fn backups(mut self, backups: usize) -> Self {
        self.config.copies = Copies::backups(backups);
        self
    }

    /// All members hold all sessions, however many they are: what a [`DeltaManager`](super::DeltaManager) does, but commits wait for all of
    /// them unless told otherwise. A session is at risk while another member lacks it.
    pub fn backups_everywhere(mut self) -> Self {
        self.config.copies = Copies::Everywhere;
        self
    }
}

impl<K> ManagerBuilder<K> {
    fn new(kind: &'static str, name: String, copies: Copies, everywhere: Confirm) -> Self {
        Self {
            settings: Settings::new(kind, name),
            config: Config { copies, ..Config::default() },
            confirm: None,
            everywhere,
            listeners: Vec::new(),
            store: None,
            persistence: Persistence::default(),
            kind: PhantomData,
        }
    }

    /// What a commit waits for. Default: the backups with a [`BackupManager`](super::BackupManager), nobody with a
    /// [`DeltaManager`](super::DeltaManager).
    pub fn confirm(mut self, confirm: Confirm) -> Self {
        self.confirm = Some(confirm);
        self
    }

    /// How long a session lives without an access, unless it [says otherwise](crate::session::Session::set_max_inactive). Default
    /// 30 minutes. `None`: for ever; zero, and what is less than a millisecond, becomes one millisecond.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tribes::session::BackupManager;
    ///
    /// let for_an_hour = BackupManager::builder("/shop").max_inactive(Duration::from_secs(3600));
    /// let for_ever = BackupManager::builder("/shop").max_inactive(None);
    /// ```
    pub fn max_inactive(mut self, max_inactive: impl Into<Option<Duration>>) -> Self {
        self.config.lease = lease_of(max_inactive.into());
        self
    }

    /// How many sessions this member may hold, copies included, before it creates no more. Default: any number.
    pub fn max_active(mut self, max_active: usize) -> Self {
        self.settings.max_active = Some(max_active);
        self
    }

    /// Whether [`stop`](Manager::stop) ends all sessions that this member holds, on all members. Default: they live on.
    pub fn expire_on_shutdown(mut self, expire: bool) -> Self {
        self.settings.expire_on_shutdown = expire;
        self
    }

    /// Which events of other members listeners hear of, besides those of this one. Default: all.
    pub fn notify(mut self, notify: Notify) -> Self {
        self.settings.notify = notify;
        self
    }

    /// Which attributes may be set, by name: where `filter` says false, [`set`](crate::session::Session::set) fails. So nothing is ever
    /// kept on one member only, as filtered attributes are in Tomcat. Attributes that come from other members are not asked for.
    pub fn attribute_name_filter(mut self, filter: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.settings.name_filter = Some(Arc::new(filter));
        self
    }

    /// As [`attribute_name_filter`](Self::attribute_name_filter), by name and value.
    pub fn attribute_value_filter(mut self, filter: impl Fn(&str, &Bytes) -> bool + Send + Sync + 'static) -> Self {
        self.settings.value_filter = Some(Arc::new(filter));
        self
    }

    /// After which time a member that has not got all that it is to hold is [ready](Manager::ready) all the same, which is logged; what
    /// it lacks comes later. Default 60 s.
    pub fn transfer_timeout(mut self, timeout: Duration) -> Self {
        self.config.transfer_timeout = timeout;
        self
    }

    /// In which time all sessions are looked through for such that have expired. Default 10 s.
    pub fn expiry_interval(mut self, interval: Duration) -> Self {
        self.config.expiry_interval = interval;
        self
    }

    /// How often members compare what they hold, to repair what got lost. Default 10 s.
    pub fn repair_interval(mut self, interval: Duration) -> Self {
        self.config.repair_interval = interval;
        self
    }

    /// How long a commit waits for its confirmations, at most. Default 10 s.
    pub fn commit_timeout(mut self, timeout: Duration) -> Self {
        self.config.commit_timeout = timeout;
        self
    }

    /// How long [`get`](Manager::get) waits for other members, at most. Default 5 s.
    pub fn fetch_timeout(mut self, timeout: Duration) -> Self {
        self.config.fetch_timeout = timeout;
        self
    }

    /// How many sessions this member holds, copies and the traces of ended ones included, before it takes no more. Default 10 million.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.config.max_entries = entries;
        self
    }

    /// How many bytes of sessions this member holds before it takes no more. Default 4 GiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// Keeps sessions beyond memory: what this member holds when it [stops](Manager::stop) is saved, and loaded when it starts again. What
    /// [`persistence`](Self::persistence) says may go there earlier. Each member needs a store of its own, and each manager.
    ///
    /// Starting blocks until everything is loaded. What has expired meanwhile is dropped, the rest is merged with what others
    /// have, by version: newer writes of others win, what others have ended stays ended, and what only this store has is given to
    /// those that are to hold it. Members remember ended sessions for twice their `max_inactive`, or an hour: a session that never
    /// expires and was ended while this member was away for longer comes back.
    ///
    /// The manager lets go of the store when it is stopped.
    ///
    /// A record that cannot be read, or is not what was saved, is logged and left out; a store that cannot be listed, as a whole.
    ///
    /// ```
    /// use tribes::GroupChannel;
    /// use tribes::membership::memory::Hub;
    /// use tribes::session::BackupManager;
    /// use tribes::session::store::FileStore;
    ///
    /// let directory = std::env::temp_dir().join(format!("tribes-store-{}", std::process::id()));
    /// let start = || {
    ///     let channel = GroupChannel::builder().membership(Hub::new().membership()).start()?;
    ///     let manager = BackupManager::builder("/shop").store(FileStore::open(&directory)?).start(&channel)?;
    ///     Ok::<_, Box<dyn std::error::Error>>((channel, manager))
    /// };
    /// let (channel, manager) = start()?;
    /// let mut session = manager.create()?;
    /// session.set("cart", "1 x 4711")?;
    /// session.commit()?;
    /// let id = session.id();
    /// manager.stop(); // saves, and closes the directory
    /// channel.stop();
    ///
    /// let (channel, manager) = start()?;
    /// let session = manager.get(&id)?.expect("it was kept");
    /// assert_eq!(session.get("cart").as_deref(), Some(&b"1 x 4711"[..]));
    /// # channel.stop();
    /// # drop((session, manager));
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// What goes to the [store](Self::store), and when. Without a store it means nothing.
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Calls `listener` with each event, from the first on; see [`Manager::on_event`].
    pub fn on_event(mut self, listener: impl Fn(&SessionEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Starts the manager on a channel: this member joins those that have it, and gets what it is to hold from them.
    ///
    /// # Errors
    ///
    /// When the channel has one of this kind and name, or there is no thread for it; and when commits are to wait for
    /// [at least](Confirm::AtLeast) more members than have a copy.
    pub fn start(self, channel: &GroupChannel) -> Result<Manager<K>, StartError> {
        let Self { mut settings, mut config, confirm, everywhere, listeners, store, persistence, .. } = self;
        settings.confirm = confirm.unwrap_or(match config.copies {
            Copies::Backups(backups) => Confirm::Copies(backups),
            Copies::Everywhere => everywhere,
        });
        let kept = store.map(|store| {
            config.keeping = Some(persistence.keeping);
            Kept { store, save_on_shutdown: persistence.save_on_shutdown }
        });
        let sink = Sink::new(settings.notify);
        listeners.into_iter().for_each(|listener| sink.add(listener).forever());
        Ok(Manager::new(Context::start(channel, settings, config, sink, kept)?))
    }
}

impl<K> fmt::Debug for ManagerBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Which events of other members listeners hear of. Join several with `|`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notify(u8);

impl Notify {
    /// Nothing that other members do.
    pub const LOCAL: Self = Self(0);
    /// Sessions that other members create, invalidate, let expire or give another id.
    pub const REMOTE_SESSIONS: Self = Self(1);
    /// Attributes that other members write.
    pub const REMOTE_ATTRIBUTES: Self = Self(2);
    /// Conflicts between this member and others.
    pub const CONFLICTS: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Notify {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
