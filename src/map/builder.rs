//! What can be set on a map.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ReplicatedMap;
use super::event::{Listener, MapEvent, Sink};
use crate::channel::GroupChannel;
use crate::session::engine::{Config, Copies};
use crate::session::{Confirm, StartError, lease_of};

/// Builds a [`ReplicatedMap`]. Members that share a map must agree on the copies and the time to live; all else is each one's own.
#[must_use = "a builder does nothing until it is started"]
pub struct MapBuilder {
    name: String,
    config: Config,
    confirm: Option<Confirm>,
    listeners: Vec<Arc<Listener>>,
}

impl MapBuilder {
    pub(super) fn new(name: String) -> Self {
        Self { name, config: Config { lease: Duration::ZERO, ..Config::default() }, confirm: None, listeners: Vec::new() }
    }

    /// How many members hold each entry besides its owner. Default 1; 0 keeps it on its owner alone. In a group that is too small for it
    /// all members hold all entries, which are [at risk](ReplicatedMap::at_risk) until there are enough members. `usize::MAX` is
    /// [everywhere](Self::copies_everywhere).
    pub fn copies(mut self, copies: usize) -> Self {
        self.config.copies = Copies::backups(copies);
        self
    }

    /// Every member holds every entry.
    pub fn copies_everywhere(mut self) -> Self {
        self.config.copies = Copies::Everywhere;
        self
    }

    /// How long an entry lives without an access: the time counts from the last read or write, on whichever member, not from the last
    /// write. Default `None`: for ever. Zero, and what is less than a millisecond, becomes one millisecond.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tribes::map::ReplicatedMap;
    ///
    /// let for_a_minute = ReplicatedMap::builder("recently seen").ttl(Duration::from_secs(60));
    /// let for_ever = ReplicatedMap::builder("stock").ttl(None);
    /// ```
    pub fn ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.config.lease = lease_of(ttl.into());
        self
    }

    /// What a write waits for. Default: as many members as are to hold a copy; none with [copies everywhere](Self::copies_everywhere).
    pub fn confirm(mut self, confirm: Confirm) -> Self {
        self.confirm = Some(confirm);
        self
    }

    /// After which time a member that has not got all that it is to hold is [ready](ReplicatedMap::ready) all the same; what it lacks
    /// comes later. Default 60 s.
    pub fn transfer_timeout(mut self, timeout: Duration) -> Self {
        self.config.transfer_timeout = timeout;
        self
    }

    /// In which time all entries are looked through for such that have expired. Default 10 s.
    pub fn expiry_interval(mut self, interval: Duration) -> Self {
        self.config.expiry_interval = interval;
        self
    }

    /// How often members compare what they hold, to repair what got lost. Default 10 s.
    pub fn repair_interval(mut self, interval: Duration) -> Self {
        self.config.repair_interval = interval;
        self
    }

    /// How long a write waits for its confirmations, at most. Default 10 s.
    pub fn commit_timeout(mut self, timeout: Duration) -> Self {
        self.config.commit_timeout = timeout;
        self
    }

    /// How long a read waits for other members, at most. Default 5 s.
    pub fn fetch_timeout(mut self, timeout: Duration) -> Self {
        self.config.fetch_timeout = timeout;
        self
    }

    /// How many entries this member holds, copies and the traces of removed ones included, before it takes no more. Default 10 million.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.config.max_entries = entries;
        self
    }

    /// How many bytes of entries this member holds before it takes no more. Default 4 GiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// Calls `listener` with each event, from the first on; see [`ReplicatedMap::on_event`].
    pub fn on_event(mut self, listener: impl Fn(&MapEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Starts the map on a channel: this member joins those that have it, and gets what it is to hold from them.
    ///
    /// # Errors
    ///
    /// When the channel has a map of this name, or there is no thread for it; and when writes are to wait for [at least](Confirm::AtLeast)
    /// more members than have a copy.
    pub fn start(self, channel: &GroupChannel) -> Result<ReplicatedMap, StartError> {
        let confirm = self.confirm.unwrap_or(match self.config.copies {
            Copies::Backups(backups) => Confirm::Copies(backups),
            Copies::Everywhere => Confirm::None,
        });
        let sink = Sink::new();
        self.listeners.into_iter().for_each(|listener| sink.add(listener).forever());
        ReplicatedMap::start(channel, self.name, self.config, confirm, sink)
    }
}

impl fmt::Debug for MapBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapBuilder").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}
