//! After the last fault: all members become equal in time, and what nobody uses ends.

use std::time::Duration;

use super::super::repair::convergence_bound;
use super::super::table::SLOTS;
use super::super::{Phase, agree};
use super::plan::{BACK_LAG, GONE_LAG, LONG_SEND_TIMEOUT, SLOW_DELAY};
use super::world::{Happening, Process, Verdict, World};

/// How often it is looked whether all are equal.
const LOOK: Duration = Duration::from_millis(200);

impl World {
    /// Nothing goes wrong from now on, and nobody writes: all must become equal.
    pub(super) fn converge(&mut self) -> Verdict {
        self.schedule(Duration::ZERO, Happening::Calm);
        // What the channels do until they have all noticed: it is not the engine's time.
        let settled = GONE_LAG + BACK_LAG + SLOW_DELAY + LONG_SEND_TIMEOUT;
        let end = self.now + Duration::from_millis(settled) + convergence_bound(&self.plan.config, self.nodes.len());
        // Those that leave have some time, too; then all that run stay.
        loop {
            let next = self.now + LOOK;
            self.run_until(next)?;
            let Err(what) = self.agreed() else { break };
            if self.now >= end {
                return Err(format!("no agreement in time: {what}"));
            }
        }
        self.trace.tell(|| format!("{:?} all agree", self.now));
        self.oracle.converged(self.now, &self.nodes)
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
        agree(&self.running().map(|process| &process.engine).collect::<Vec<_>>())
    }

    /// Nobody uses anything any more: what has a lease ends, and nothing is left under way.
    pub(super) fn idle(&mut self) -> Verdict {
        let config = &self.plan.config;
        let lease = Duration::from_millis(self.plan.leases.iter().max().copied().unwrap_or(0)).max(config.lease);
        let end = self.now + lease + lease / config.touch_divisor + config.expiry_interval * 3 + Duration::from_secs(10);
        let deadline = self.now + config.commit_timeout * 2 + Duration::from_millis(LONG_SEND_TIMEOUT);
        self.run_until(end.max(deadline))?;
        for process in self.running() {
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
                return Ok(());
            }
            let next = self.now + Duration::from_millis(7);
            self.run_until(next)?;
        }
        Err(format!("still under way: {left:?}, {} of them known to the network", self.pending()))
    }
}
