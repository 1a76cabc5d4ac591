//! What can be set on a roster.

use std::time::Duration;

/// The times and bounds of a [`Roster`](super::Roster).
///
/// ```
/// use std::time::Duration;
/// use tribes::membership::roster::RosterConfig;
/// let config = RosterConfig::default().drop_time(Duration::from_secs(5)).max_members(64);
/// ```
#[derive(Clone, Debug)]
pub struct RosterConfig {
    pub(super) frequency: Duration,
    pub(super) drop_time: Duration,
    pub(super) rejoin_grace: Duration,
    pub(super) max_members: usize,
}

impl Default for RosterConfig {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { frequency: millis(500), drop_time: millis(3000), rejoin_grace: millis(250), max_members: 1024 }
    }
}

impl RosterConfig {
    /// The time from one heartbeat of the local member to the next. Default: 500 ms, as Tribes.
    #[must_use]
    pub fn frequency(mut self, frequency: Duration) -> Self {
        self.frequency = frequency;
        self
    }

    /// The silence after which a member has failed. Default: 3 s, as Tribes.
    #[must_use]
    pub fn drop_time(mut self, drop_time: Duration) -> Self {
        self.drop_time = drop_time;
        self
    }

    /// How long after its goodbye a member's heartbeats are taken for stragglers that the network delivered late. Default:
    /// 250 ms. A Tribes node that is stopped and started again keeps its id, and is back with its first heartbeat after that.
    #[must_use]
    pub fn rejoin_grace(mut self, grace: Duration) -> Self {
        self.rejoin_grace = grace;
        self
    }

    /// How many members there may be; more are refused, and counted. Default: 1024.
    #[must_use]
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }
}
