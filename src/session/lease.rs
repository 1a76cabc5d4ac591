//! How long an entry lives without an access: as users say it, and as the engine keeps it.

use std::time::Duration;

/// What the engine keeps, where zero means for ever: what is too short for it to measure must not become that.
pub(crate) fn lease_of(max_inactive: Option<Duration>) -> Duration {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).max(1);
    max_inactive.map_or(Duration::ZERO, |duration| Duration::from_millis(millis(duration)))
}

/// The other way round.
pub(crate) fn max_inactive_of(lease: Duration) -> Option<Duration> {
    (!lease.is_zero()).then_some(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nothing_means_for_ever() {
        assert_eq!(lease_of(None), Duration::ZERO);
        for short in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(999)] {
            assert_eq!(lease_of(Some(short)), Duration::from_millis(1));
        }
        assert_eq!(lease_of(Some(Duration::from_micros(2500))), Duration::from_millis(2));
        assert!(lease_of(Some(Duration::MAX)) > Duration::from_secs(1 << 40));
        assert_eq!(max_inactive_of(Duration::ZERO), None);
        assert_eq!(max_inactive_of(Duration::from_millis(2)), Some(Duration::from_millis(2)));
    }
}
