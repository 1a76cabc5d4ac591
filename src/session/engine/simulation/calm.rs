//! After the last fault: all members become equal in time, and what nobody uses ends.

use std::time::Duration;

use super::super::record::Record;
use super::super::repair::convergence_bound;
use super::super::table::{Key, SLOTS, slot_of};
use super::super::{Copies, Phase, agree};
use super::coverage::Fault;
use super::plan::{BACK_LAG, GONE_LAG, LONG_SEND_TIMEOUT, SLOW_DELAY};
use super::stores::have_the_same;
use super::world::{Happening, Pid, Process, Verdict, World};

/// When nothing is wrong, all is answered by then.
const ANSWERED: Duration = Duration::from_millis(900);
/// How often it is looked whether all are equal.
const LOOK: Duration = Duration::from_millis(200);

impl World {
    /// Nothing goes wrong from now on, and nobody writes: all must become equal.
    pub(super) fn converge(&mut self) -> Verdict {
        self.schedule(Duration::ZERO, Happening::Calm);
        // What the channels do until they have all noticed: it is not the engine's time.
        let settled = GONE_LAG + BACK_LAG + SLOW_DELAY + LONG_SEND_TIMEOUT;
        let bound = Duration::from_millis(settled) + convergence_bound(&self.plan.config, self.nodes.len());
        let (begin, end) = (self.now, self.now + bound);
        loop {
            let next = self.now + LOOK;
            self.run_until(next)?;
            let Err(what) = self.agreed() else { break };
            if self.now >= end {
                // What one member has no room for, it lacks.
                let full = self.running().any(|process| process.engine.counters().refused > 0);
                return if full { self.oracle.left_as_it_is(&self.nodes) } else { Err(format!("no agreement in time: {what}")) };
            }
        }
        self.coverage.agreed_in(u64::try_from((self.now - begin).as_millis() * 100 / bound.as_millis()).expect("percents"));
        self.trace.tell(|| format!("{:?} all agree", self.now));
        self.oracle.converged(self.now, &self.nodes)?;
        self.prove_all()
    }

    /// Nothing is wrong: every read is answered, alike on all members, and every write is confirmed by all.
    fn prove_all(&mut self) -> Verdict {
        let limits = self.plan.config.commit_timeout + self.plan.config.fetch_timeout * 2;
        self.run_until(self.now + limits)?;
        if !self.is_answered() {
            return Err("something was not answered in time".into());
        }
        let (keys, up) = (self.pool(), self.up());
        if up.is_empty() {
            return Ok(());
        }
        self.proving = true;
        for key in &keys {
            up.iter().try_for_each(|node| self.look_up(*node, key))?;
        }
        self.have_answers("reads")?;
        for swap in [false, true] {
            for key in &keys {
                let node = *self.chance.pick(&up);
                self.coverage.saw(Fault::Proved);
                self.prove(node, key, swap)?;
            }
            self.have_answers("writes")?;
        }
        self.proving = false;
        Ok(())
    }

    fn have_answers(&mut self, what: &str) -> Verdict {
        // Who has no room for a change leaves whoever waits for it waiting.
        let full = if self.plan.capped { self.plan.config.commit_timeout * 2 } else { Duration::ZERO };
        self.run_until(self.now + ANSWERED.max(full))?;
        if self.is_answered() { Ok(()) } else { Err(format!("{what} are not answered though nothing is wrong")) }
    }

    /// What anybody finds when all is well is what the owner has.
    pub(super) fn must_be(&self, pid: Pid, key: &Key, found: Option<&Record>) -> Verdict {
        let slot = slot_of(key);
        let owner = self.running().find(|process| process.engine.placement.rank(slot, &process.member) == Some(0));
        if owner.is_some_and(|owner| owner.engine.slots[usize::from(slot)].lacks.is_some()) {
            // It has no room for all that was written, and others may have had.
            return Ok(());
        }
        let Some(held) = owner.and_then(|owner| owner.engine.table.get(key)) else {
            return if found.is_none() { Ok(()) } else { Err(format!("{pid:?} found {found:?}, which its owner does not hold")) };
        };
        // What has a lease may end while this is asked.
        let leased = held.record.lease.millis > 0;
        let right = match found {
            Some(found) => held.is_alive() && have_the_same(found, &held.record) || leased && !held.is_alive(),
            // Who has removed it says so, even if nobody who holds it has heard of that, and all that had are gone.
            None => !held.is_alive() || leased || self.oracle.knew_dead(pid, key, held.record.birth),
        };
        if right { Ok(()) } else { Err(format!("{pid:?} found {found:?} where {held:?} is held")) }
    }

    fn running(&self) -> impl Iterator<Item = &Process> {
        self.nodes.iter().filter_map(|node| node.process.as_ref())
    }

    /// Whether all members hold what they should, or what is missing.
    fn agreed(&self) -> Verdict {
        let up = self.up();
        for process in self.running() {
            if process.view.len() + 1 != up.len()
                || up.iter().any(|node| !process.view.contains_key(node) && *node != process.pid.node)
            {
                return Err(format!("{:?} sees {:?} of {up:?}", process.pid, process.view.keys()));
            }
            if process.leaving {
                return Err(format!("{:?} is leaving", process.pid));
            }
            if process.engine.phase() != Phase::Ready {
                return Err(format!("{:?} is {:?}", process.pid, process.engine.phase()));
            }
            if process.engine.participants().len() + 1 != up.len() {
                return Err(format!("{:?} knows {:?}", process.pid, process.engine.participants()));
            }
        }
        for process in self.running() {
            let engine = &process.engine;
            let holds = |slot: &u16| engine.placement.rank(*slot, &process.member).is_some();
            if let Some(slot) = (0..SLOTS).filter(holds).find(|slot| !engine.slots[usize::from(*slot)].complete) {
                return Err(format!("{:?} has not all of slot {slot}", process.pid));
            }
        }
        // With a member more than each entry needs, each entry has what it needs.
        let enough = match self.plan.config.copies {
            Copies::Backups(backups) => up.len() > backups,
            Copies::Everywhere => true,
        };
        if let Some(process) = self.running().find(|process| enough && !process.engine.at_risk().is_empty()) {
            return Err(format!("{:?} takes {:?} to be at risk", process.pid, process.engine.at_risk()));
        }
        agree(&self.running().map(|process| &process.engine).collect::<Vec<_>>())
    }

    /// Somebody looks at each entry once more, where it is not owned, a moment after all have heard of an access: too soon to be told
    /// to the owner at once. It has to find out before it lets the entry expire.
    fn visit(&mut self) -> Verdict {
        for key in self.pool() {
            let owns = |process: &Process| process.engine.placement.rank(slot_of(&key), &process.member) == Some(0);
            let others: Vec<_> = self.running().filter(|process| !owns(process)).map(|process| process.pid.node).collect();
            let after = self.chance.millis(0, 50);
            self.run_until(self.now + after)?;
            if !others.is_empty() {
                let node = *self.chance.pick(&others);
                self.look_up(node, &key)?;
            }
        }
        Ok(())
    }

    /// Nobody uses anything any more: what has a lease ends, and nothing is left under way.
    pub(super) fn idle(&mut self) -> Verdict {
        self.visit()?;
        let config = &self.plan.config;
        let lease = Duration::from_millis(self.plan.leases.iter().max().copied().unwrap_or(0)).max(config.lease);
        let end = self.now + lease + lease / config.touch_divisor + config.expiry_interval * 3 + Duration::from_secs(10);
        let deadline = self.now + config.commit_timeout * 2 + Duration::from_millis(LONG_SEND_TIMEOUT);
        self.run_until(end.max(deadline))?;
        let full = self.running().any(|process| process.engine.counters().refused > 0);
        // An owner without room for an entry does not let it expire elsewhere.
        for process in self.running().filter(|_| !full) {
            let overdue = process.engine.table.iter().find(|(_, held)| held.is_alive() && held.record.lease.millis > 0);
            if let Some((key, held)) = overdue {
                return Err(format!("{:?} still has {}: {held:?}", process.pid, super::oracle::name(key)));
            }
        }
        // Members compare and greet now and then: there must be a moment without that.
        let mut left = Vec::new();
        for _ in 0..500 {
            left = self.running().map(|process| process.engine.under_way()).collect();
            if left.iter().sum::<usize>() == 0 && self.pending() == 0 {
                let full = self.running().any(|process| process.engine.counters().refused > 0);
                return if full { Ok(()) } else { self.agreed().map_err(|what| format!("no agreement any more: {what}")) };
            }
            let next = self.now + Duration::from_millis(7);
            self.run_until(next)?;
        }
        Err(format!("still under way: {left:?}, {} of them known to the network", self.pending()))
    }
}
