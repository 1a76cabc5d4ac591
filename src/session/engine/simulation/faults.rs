//! What goes wrong, and how it ends.

use std::time::Duration;

use super::super::Phase;
use super::coverage::Fault;
use super::world::{Happening, Verdict, World};

impl World {
    /// Something goes wrong.
    pub(super) fn fault(&mut self) -> Verdict {
        if self.calm || self.plan.fault_gap.is_zero() {
            return Ok(());
        }
        let gap = u64::try_from(self.plan.fault_gap.as_millis()).expect("short");
        let next = self.chance.millis(1, 2 * gap);
        self.schedule(next, Happening::Fault);
        let node = self.chance.index(self.nodes.len());
        let what = self.chance.below(100);
        match if self.plan.smooth { 26 + what % 37 } else { what } {
            0..=17 => self.pause(node),
            18..=25 => {
                self.coverage.saw(Fault::ClockJump);
                let minutes = self.chance.below(12 * 60_000);
                self.nodes[node].skew = i64::try_from(minutes).expect("minutes") - 6 * 60_000;
                self.trace.tell(|| format!("{:?} the clock of {node} is off by {} ms", self.now, self.nodes[node].skew));
                Ok(())
            }
            26..=40 => self.crash(node),
            41..=55 => self.start(node),
            56..=62 => self.leave(node),
            63..=76 => {
                self.split();
                Ok(())
            }
            77..=89 => {
                self.cut(node);
                Ok(())
            }
            _ => self.flap(node),
        }
    }

    fn pause(&mut self, node: usize) -> Verdict {
        if self.nodes[node].process.is_none() || self.nodes[node].paused.is_some() {
            return Ok(());
        }
        self.coverage.saw(Fault::Pause);
        let time = match self.chance.below(10) {
            0..=2 if self.plan.long => {
                self.coverage.saw(Fault::LongPause);
                self.chance.millis(22_000, 45_000)
            }
            0 => self.chance.millis(10_000, 25_000),
            1..=4 => self.chance.millis(1_000, 10_000),
            _ => self.chance.millis(10, 1_000),
        };
        self.trace.tell(|| format!("{:?} {node} stands still for {time:?}", self.now));
        self.oracle.disturb_all(node, self.now);
        self.nodes[node].paused = Some(Vec::new());
        self.look_around(node);
        self.schedule(time, Happening::Resume { node });
        Ok(())
    }

    fn crash(&mut self, node: usize) -> Verdict {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let pid = process.pid;
        self.coverage.saw(Fault::Crash);
        self.gone(pid, false)?;
        if self.chance.percent(40) {
            let soon = self.chance.millis(1, 5_000);
            self.schedule(soon, Happening::Start { node });
        }
        Ok(())
    }

    fn leave(&mut self, node: usize) -> Verdict {
        if self.nodes[node].paused.is_some() {
            return Ok(());
        }
        let time = self.time(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if process.leaving || process.engine.phase() != Phase::Ready {
            return Ok(());
        }
        process.leaving = true;
        let pid = process.pid;
        self.coverage.saw(Fault::Leave);
        self.trace.tell(|| format!("{:?} {pid:?} begins to leave", self.now));
        let patience = self.chance.millis(1_000, 20_000);
        self.schedule(patience, Happening::Leave { pid });
        self.with(node, |engine| engine.drain(time))
    }

    /// Two halves that do not hear each other.
    fn split(&mut self) {
        let mask = self.chance.draw();
        let side = |node: usize| mask >> node & 1 == 1;
        let mut cut = false;
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side(a) != side(b) {
                    self.block(a, b);
                    cut = true;
                }
            }
        }
        if cut {
            self.coverage.saw(Fault::Partition);
            self.trace.tell(|| format!("{:?} split: {:?}", self.now, self.blocked));
            self.heal_later();
        }
    }

    /// One node does not hear some others, or is not heard by them.
    fn cut(&mut self, node: usize) {
        self.coverage.saw(Fault::OneWay);
        let hears = self.chance.percent(50);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if self.chance.percent(60) {
                if hears { self.block(node, other) } else { self.block(other, node) }
            }
        }
        self.trace.tell(|| format!("{:?} cut: {:?}", self.now, self.blocked));
        self.heal_later();
    }

    fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
        self.oracle.cut(from, to, self.now);
        self.look_later(to, from);
    }

    fn heal_later(&mut self) {
        let time = if self.chance.percent(50) { self.chance.millis(100, 3_000) } else { self.chance.millis(3_000, 15_000) };
        self.schedule(time, Happening::Heal);
    }

    /// All ways are free again.
    pub(super) fn heal(&mut self) {
        self.trace.tell(|| format!("{:?} healed", self.now));
        self.oracle.heal();
        for (from, to) in std::mem::take(&mut self.blocked) {
            self.oracle.disturb(from, to, self.now);
            self.look_later(to, from);
        }
    }

    /// A node believes for a moment that another is gone.
    fn flap(&mut self, node: usize) -> Verdict {
        let other = self.chance.index(self.nodes.len());
        if self.nodes[node].paused.is_some() {
            return Ok(());
        }
        let Some(gone) = self.nodes[node].process.as_mut().and_then(|process| process.view.remove(&other)) else {
            return Ok(());
        };
        self.coverage.saw(Fault::Flap);
        self.trace.tell(|| format!("{:?} {node} does not see {other} for a moment", self.now));
        self.oracle.disturb(node, other, self.now);
        self.look_later(node, other);
        let time = self.time(node);
        self.with(node, |engine| engine.member_removed(time, &gone))
    }

    /// From now on nothing goes wrong.
    pub(super) fn begin_calm(&mut self) -> Verdict {
        self.calm = true;
        self.trace.tell(|| format!("{:?} calm", self.now));
        self.heal();
        for node in 0..self.nodes.len() {
            if self.nodes[node].paused.is_some() {
                self.happen_now(Happening::Resume { node });
            }
        }
        // Nobody comes when all are taken to be there.
        self.start_no_more();
        if self.up().is_empty() || self.chance.percent(50) {
            for node in 0..self.nodes.len() {
                if self.nodes[node].process.is_none() {
                    let after = self.chance.millis(0, 200);
                    self.schedule(after, Happening::Start { node });
                }
            }
        }
        Ok(())
    }

    fn happen_now(&mut self, what: Happening) {
        self.schedule(Duration::ZERO, what);
    }
}
