//! What is read: what somebody wrote, and no less than the reader knows of.

use std::time::Duration;

use super::super::record::Record;
use super::super::table::Key;
use super::coverage::Fault;
use super::oracle::{Oracle, SETTLE, name, running};
use super::world::{Node, Pid, Process, Verdict};
use super::writes::{Mark, Write};

impl Oracle {
    /// What a client has read that asked at this time.
    pub(super) fn read(
        &mut self,
        pid: Pid,
        key: &Key,
        record: Option<&Record>,
        since: Duration,
        now: Duration,
        nodes: &[Node],
    ) -> Verdict {
        if let Some(record) = record {
            if !record.is_alive() {
                return Err(format!("{pid:?} read a dead entry: {record:?}"));
            }
            if record.is_away() {
                return Err(format!("{pid:?} read {} without its values: {record:?}", name(key)));
            }
            self.are_known(record).map_err(|what| format!("{pid:?} read {}: {what}", name(key)))?;
            if self.knew_dead(pid, key, record.birth) {
                return Err(format!("{pid:?} read {} which it knew to be dead: {record:?}", name(key)));
            }
        }
        let Some(process) = running(nodes, pid) else { return Ok(()) };
        // What others wrote is found as well, while members only come and go.
        let smooth = !self.lossy && !self.capped && record.is_none() && self.rough + SETTLE < since;
        let meant = |write: &Write| write.by == pid || smooth && write.mark == Mark::Birth && write.at + SETTLE < since;
        let mine = |write: &&Write| !write.excused && write.at < since && write.mark != Mark::Death && meant(write);
        let known = process.engine.participants();
        // What was given up is there again when all have compared what they hold; who has no room for it lacks it still.
        let compared = !self.capped && self.rough + SETTLE < since;
        let (mut elsewhere, mut given_up, mut back) = (false, Vec::new(), Vec::new());
        for write in self.writes.get(key).into_iter().flatten().filter(mine) {
            // Who has it is there, and has been since the question. For what others wrote, for as long as it takes to see each other.
            let seen_since = if write.by == pid { since } else { since.saturating_sub(SETTLE) };
            let near = |other: &Pid| {
                let knows = |other: &Process| known.contains(&other.member.id()) && process.view.contains_key(&other.pid.node);
                let awake = nodes[other.node].paused.is_none();
                let seen = awake && running(nodes, *other).is_some_and(knows);
                *other == pid || seen && self.talked(pid.node, other.node, seen_since)
            };
            let contained = match record {
                Some(record) => write.is_in(record),
                None => self.may_have_ended(pid, key, write, now, nodes),
            };
            if !write.responsible.iter().any(near) {
                // Who reads nothing gives up also what has ended without its knowledge.
                let here = process.engine.table.get(key).is_some_and(|held| write.is_in(&held.record));
                let ended_unknown = record.is_none() && !here && !self.knew_dead(pid, key, write.birth);
                if !contained || ended_unknown {
                    given_up.push(write.version);
                }
                continue;
            }
            elsewhere |= !write.responsible.contains(&pid);
            if !contained && (compared || !write.given_up) {
                return Err(format!("{pid:?} read less than was written, {write:?}: {record:?}"));
            }
            // What is here again is remembered again.
            if process.engine.table.get(key).is_some_and(|held| write.is_in(&held.record)) {
                back.push(write.version);
            }
        }
        for write in self.writes.get_mut(key).into_iter().flatten().filter(|write| write.by == pid) {
            write.given_up = given_up.contains(&write.version) || write.given_up && !back.contains(&write.version);
        }
        if elsewhere {
            self.coverage.saw(Fault::OwnElsewhere);
        }
        Ok(())
    }
}
