//! A member that joins is ready when it has what there was.

use std::time::Duration;

use super::super::Phase;
use super::super::table::slot_of;
use super::oracle::{Oracle, SETTLE, name, running, speaks_for};
use super::world::{Node, Pid, Process, Verdict};
use super::writes::Write;

impl Oracle {
    /// A member says that it has what it is to hold. What everybody who has all of a slot had long before it came, it must have as well,
    /// removals included: comparing would bring them soon, but until then it would take what is dead for what never was.
    pub(super) fn ready(&self, pid: Pid, now: Duration, nodes: &[Node]) -> Verdict {
        let Some(joiner) = running(nodes, pid) else { return Ok(()) };
        let engine = &joiner.engine;
        let rough = self.lossy || self.capped || self.rough + SETTLE >= joiner.since;
        if rough || now >= joiner.since + engine.config.transfer_timeout {
            return Ok(());
        }
        let others = || nodes.iter().filter_map(|node| node.process.as_ref()).filter(|other| other.pid != pid);
        for (key, writes) in &self.writes {
            let slot = slot_of(key);
            let complete = |process: &Process| process.engine.slots[usize::from(slot)].complete;
            let holds = |process: &Process| complete(process) && process.engine.placement.rank(slot, &process.member).is_some();
            if !holds(joiner) {
                continue;
            }
            // Who got it only since the joiner came may have been asked before.
            let had = |write: &&Write| write.at + SETTLE < joiner.since && write.lacked < joiner.since;
            for write in writes.iter().filter(|write| !write.excused).filter(had) {
                let has = |process: &Process| process.engine.table.get(key).is_some_and(|held| write.is_in(&held.record));
                let speaks = |other: &&Process| speaks_for(&other.engine, key);
                // Who has only come itself may have got it after it was asked.
                let known = |other: &Process| {
                    engine.peers.phase_of(&other.member) == Some(Phase::Ready) && other.since + SETTLE < joiner.since
                };
                let given = others().any(|other| holds(other) && known(other)) && others().filter(speaks).all(has);
                if given && !has(joiner) {
                    let held = engine.table.get(key).map(|held| &held.record);
                    return Err(format!("{pid:?} is ready without {write:?}: it holds {held:?} under {}", name(key)));
                }
            }
        }
        Ok(())
    }
}
