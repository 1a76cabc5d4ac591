//! Seeded simulation of two to nine members over the engine.
//!
//! All chance comes from one seed: the configuration, the load, the faults of the network, of the clocks and of the members. Engines
//! exchange the bytes that they really send. While faults happen, [`oracle`] checks after every step what must always hold; after them
//! comes a calm, in which all members must become equal within [`convergence_bound`]. The same seed gives the same run: a failure
//! prints its seed and what happened.
//!
//! `TRIBES_SEEDS=10000 cargo test --release --lib session::engine::simulation::tests::seeds` runs so many seeds, `TRIBES_SEED=7` only that
//! one.

mod calm;
mod chance;
mod clients;
mod coverage;
mod faults;
mod oracle;
mod plan;
mod tests;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::flaws::Flaws;
use coverage::Coverage;
use plan::Plan;
use trace::Trace;
use world::{Happening, World};

/// What a run was like.
#[derive(Debug)]
pub(super) struct Report {
    /// The same for the same seed.
    hash: u64,
    coverage: Coverage,
}

/// Runs a seed. What went wrong is told with what led to it.
fn run(seed: u64, flaws: Flaws) -> Result<Report, String> {
    play(seed, flaws, Trace::default()).map_err(|(what, _)| what)
}

/// Runs a seed, and once more for the trace if it fails.
fn run_and_tell(seed: u64) -> Report {
    let flaws = Flaws::default();
    match play(seed, flaws, Trace::default()) {
        Ok(report) => report,
        Err((first, _)) => {
            let (again, trace) = play(seed, flaws, Trace::kept()).err().unwrap_or_default();
            let plan = Plan::of(seed, flaws);
            panic!("{trace}\n{plan:#?}\nseed {seed}: {first}\n(again: {again})\nrun it with TRIBES_SEED={seed}");
        }
    }
}

fn play(seed: u64, flaws: Flaws, trace: Trace) -> Result<Report, (String, String)> {
    let plan = Plan::of(seed, flaws);
    let mut world = World::new(seed, plan, trace);
    // An engine's own assertions are failures like others.
    let result = catch_unwind(AssertUnwindSafe(|| world.play())).unwrap_or_else(|_| Err("a panic".into()));
    let mut coverage = world.coverage.clone();
    coverage.add(&world.oracle.coverage);
    match result {
        Ok(()) => Ok(Report { hash: world.trace.hash, coverage }),
        Err(what) => Err((format!("at {:?}: {what}", world.now), world.trace.text())),
    }
}

impl World {
    fn play(&mut self) -> Result<(), String> {
        for node in 0..self.plan.first {
            let after = if self.chance.percent(50) { Duration::ZERO } else { self.chance.millis(0, 3_000) };
            self.schedule(after, Happening::Start { node });
        }
        for _ in 0..self.plan.rounds {
            self.calm = false;
            self.schedule(Duration::ZERO, Happening::Client);
            self.schedule(Duration::ZERO, Happening::Fault);
            let end = self.now + self.plan.chaos;
            self.run_until(end)?;
            self.converge()?;
        }
        self.idle()
    }
}
