//! The one place that reads the clock. Everything else takes the time as an argument, so that the simulator can run the same
//! code on a clock of its own.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time now.
#[expect(clippy::disallowed_methods, reason = "this file owns the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch, as Tribes stamps its messages; 0 for a clock set before 1970.
#[expect(clippy::disallowed_methods, reason = "this file owns the clock")]
pub(crate) fn epoch_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long the wall clock is derived from the monotonic one before it is read again.
const ANCHOR_LIFE: Duration = Duration::from_millis(250);

thread_local! {
    /// A reading of both clocks at once.
    static ANCHOR: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// Both clocks, for the price of one reading; the wall clock may lag behind a change of it by a quarter of a second.
pub(crate) fn both() -> (Instant, u64) {
    let now = now();
    if let Some((since, millis)) = ANCHOR.get() {
        let age = now.saturating_duration_since(since);
        if age < ANCHOR_LIFE {
            return (now, millis + u64::from(age.subsec_millis()));
        }
    }
    let millis = epoch_millis();
    ANCHOR.set(Some((now, millis)));
    (now, millis)
}

/// What is left of a time-out that started at `since`; zero when it is over.
pub(crate) fn left(since: Instant, timeout: Duration) -> Duration {
    timeout.saturating_sub(now().saturating_duration_since(since))
}
