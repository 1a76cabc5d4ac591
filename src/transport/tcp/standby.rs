//! When to open a connection though nothing is to be sent. To a member of the view one is kept open, because its end is what tells
//! first that the member died.

use std::time::{Duration, Instant};

/// The pause before the next attempt, at first: whoever closed the connection, or did not take it, may be about to go.
const FIRST: Duration = Duration::from_secs(5);
/// The longest pause. A peer that closes what is idle is suspected so often, and no more often.
const LONGEST: Duration = Duration::from_secs(300);
/// A connection that stood as long is no sign of such a peer when it ends.
const STEADY: Duration = LONGEST.saturating_mul(2);

/// Decides for one destination.
#[derive(Debug)]
pub(super) struct Standby {
    wanted: bool,
    due: Option<Instant>,
    pause: Duration,
}

impl Default for Standby {
    fn default() -> Self {
        Self { wanted: false, due: None, pause: FIRST }
    }
}

impl Standby {
    /// From now on a connection is wanted; it is to be opened at `due`, unless there is one.
    pub(super) fn keep(&mut self, due: Option<Instant>) {
        self.wanted = true;
        self.due = due;
    }

    /// Whether a connection is to be kept when it is idle.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether one is to be opened, now or later.
    pub(super) fn is_pending(&self) -> bool {
        self.due.is_some()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// One is being opened, or we closed it and leave it at that until there is a message.
    pub(super) fn settle(&mut self) {
        self.due = None;
    }

    /// None could be opened, or it ended after it had stood for so long: tries again, each time later.
    pub(super) fn retry(&mut self, now: Instant, stood: Duration) {
        if stood >= STEADY {
            self.pause = FIRST;
        }
        if self.wanted {
            self.due = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
        }
    }

    /// Wants none any more.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::tests::start;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When the next attempt comes, after now, and no earlier.
    fn pause(standby: &Standby, now: Instant) -> Duration {
        let due = standby.due.expect("an attempt is to come");
        assert!(standby.is_due(due) && !standby.is_due(due - SECOND));
        due - now
    }

    #[test]
    fn pauses_grow_until_a_connection_has_stood_for_long() {
        let mut standby = Standby::default();
        let now = start();
        standby.keep(Some(now));
        assert!(standby.is_due(now));
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            standby.settle();
            assert!(!standby.is_pending());
            standby.retry(now, STEADY - SECOND);
            assert_eq!(pause(&standby, now), seconds * SECOND);
        }
        standby.retry(now, STEADY);
        assert_eq!(pause(&standby, now), FIRST);
    }

    #[test]
    fn nothing_is_opened_where_nobody_wants_it() {
        let mut standby = Standby::default();
        let now = start();
        standby.retry(now, STEADY);
        assert!(!standby.is_pending() && !standby.is_wanted());
        standby.keep(None);
        assert!(!standby.is_pending() && standby.is_wanted(), "there is one");
        standby.retry(now, Duration::ZERO);
        standby.end();
        standby.retry(now, Duration::ZERO);
        assert!(!standby.is_pending() && !standby.is_wanted());
    }
}
