//! What a manager has done so far.

use std::time::Duration;

use crate::session::replica::Replica;

/// What a manager has done since it started, and what there is on this member.
///
/// What there is goes up and down: [`active`](Self::active), [`owned`](Self::owned), [`backup`](Self::backup), [`guests`](Self::guests),
/// [`members`](Self::members), [`entries`](Self::entries), [`held_bytes`](Self::held_bytes), [`away`](Self::away) and
/// [`oldest_difference`](Self::oldest_difference); and so does [`average_life`](Self::average_life). All else only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// Sessions on this member: those it owns, those it holds a copy of, and its guests.
    pub active: usize,
    /// Sessions that this member owns.
    pub owned: usize,
    /// Sessions that this member holds a copy of.
    pub backup: usize,
    /// Sessions of others that were used here, or were not handed over yet.
    pub guests: usize,
    /// Other members that have this manager, and do not leave it.
    pub members: usize,
    /// Sessions on this member and what it remembers of ended ones: what
    /// [`max_entries`](super::ManagerBuilder::max_entries) limits.
    pub entries: usize,
    /// Roughly the bytes that these take in memory: what [`max_bytes`](super::ManagerBuilder::max_bytes) limits.
    pub held_bytes: usize,
    /// Sessions created here.
    pub created: u64,
    /// Sessions invalidated here.
    pub invalidated: u64,
    /// Sessions that this member let expire.
    pub expired: u64,
    /// Sessions not created because of `max_active`.
    pub rejected: u64,
    /// Changes taken in from others.
    pub replicated: u64,
    /// Changes that came again.
    pub duplicates: u64,
    /// Writes that were lost to a later one which did not know of them.
    pub conflicts: u64,
    /// Sessions that a comparison found different or missing, and that were sent.
    pub repairs: u64,
    /// Changes whose base was missing here, so that the whole session was asked for.
    pub bases_missing: u64,
    /// Changes of sessions that had ended, dropped.
    pub late_updates: u64,
    /// Changes refused because of `max_entries` or `max_bytes`.
    pub refused: u64,
    /// Sessions asked of others.
    pub fetched: u64,
    /// Sessions handed over to those that are to hold them.
    pub handed_over: u64,
    /// Sessions on this member whose attributes are in the [store](super::ManagerBuilder::store) only.
    pub away: usize,
    /// Sessions saved before the end: swapped out, or backed up.
    pub saved: u64,
    /// Sessions swapped out to the store.
    pub swapped_out: u64,
    /// Sessions brought back from the store.
    pub swapped_in: u64,
    /// Sessions that the store did not have as it should, and that were asked of others.
    pub load_failures: u64,
    /// Handles that were dropped with changes that nobody committed.
    pub uncommitted_drops: u64,
    /// Events that were not told, because a listener did not keep up.
    pub events_dropped: u64,
    /// How long the oldest difference to another member is known that is not repaired yet; zero when none is.
    pub oldest_difference: Duration,
    /// The furthest that the wall clock of another member was apart from this one's.
    pub clock_skew: Duration,
    /// Sessions that ended, as seen here, wherever they did. One that goes on under another id has not ended.
    pub ended: u64,
    /// How long the sessions lived that ended, on average, from their creation, under whatever ids.
    pub average_life: Duration,
    /// How long the longest of them lived.
    pub longest_life: Duration,
    /// Messages sent, counted by destination.
    pub messages: u64,
    /// Bytes of these messages.
    pub bytes: u64,
    /// Messages of others that were not understood: malformed, or of a newer version.
    pub not_understood: u64,
}

impl Statistics {
    pub(crate) fn of(replica: &Replica) -> Self {
        let (census, counters, members, clock_skew, difference, away, (entries, held_bytes)) = replica.with(|engine, _| {
            let (members, difference) = (engine.others(), engine.oldest_difference());
            (engine.census(), engine.counters(), members, engine.clock_skew(), difference, engine.away(), engine.held())
        });
        let lives = replica.lives();
        let average = lives.total.checked_div(u32::try_from(lives.ended).unwrap_or(u32::MAX)).unwrap_or_default();
        Self {
            active: census.owned + census.copies + census.guests,
            owned: census.owned,
            backup: census.copies,
            guests: census.guests,
            members,
            entries,
            held_bytes,
            created: counters.created,
            invalidated: counters.removed,
            expired: counters.expired,
            replicated: counters.replicated,
            duplicates: counters.duplicates,
            conflicts: counters.conflicts,
            repairs: counters.repaired,
            bases_missing: counters.bases_missing,
            late_updates: counters.late,
            refused: counters.refused,
            fetched: counters.fetched,
            handed_over: counters.handed_over,
            away,
            saved: counters.saved,
            swapped_out: counters.swapped_out,
            swapped_in: counters.swapped_in,
            load_failures: counters.load_failures,
            events_dropped: replica.events_dropped(),
            oldest_difference: difference.unwrap_or_default(),
            clock_skew,
            ended: lives.ended,
            average_life: average,
            longest_life: lives.longest,
            messages: counters.messages,
            bytes: counters.bytes,
            not_understood: counters.unknown + counters.malformed,
            ..Self::default()
        }
    }
}
