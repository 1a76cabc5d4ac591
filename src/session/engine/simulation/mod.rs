//! Seeded simulation of two to nine members over the engine.
//!
//! All chance comes from one seed: the configuration, the load, the faults of the network, of the clocks and of the members. Engines
//! exchange the bytes that they really send. While faults happen, [`oracle`] checks after every step what must always hold; after them
//! comes a calm, in which all members must become equal within [`convergence_bound`]. The same seed gives the same run: a failure
//! prints its seed and what happened.
//!
//! `TRIBES_SEEDS=10000 cargo test --release --lib session::engine::simulation::tests::seeds` runs so many seeds, `TRIBES_SEED=7` only that
//! one, `TRIBES_SEED_BASE=1000000` those from there on.

mod calm;
mod chance;
mod clients;
mod coverage;
mod faults;
mod joining;
mod leases;
mod oracle;
mod plan;
mod reads;
mod stores;
mod swaps;
mod tests;
mod trace;
mod world;
mod writes;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
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

/// Runs a failed seed once more, and tells what led to it: everything when it is the only seed.
fn tell(seed: u64, only: bool) -> String {
    let flaws = Flaws::default();
    let (what, trace) = play(seed, flaws, Trace::kept(if only { usize::MAX } else { 4_000 })).err().unwrap_or_default();
    let plan = Plan::of(seed, flaws);
    format!("{trace}\n{plan:#?}\nseed {seed}, once more: {what}")
}

/// Runs seeds on all processors. What was seen, and the seeds that failed, each with what went wrong.
fn survey(seeds: Vec<u64>) -> (Coverage, BTreeMap<u64, String>) {
    let seeds = Mutex::new(seeds.into_iter());
    let results = Mutex::new((Coverage::default(), BTreeMap::new()));
    let next = || seeds.lock().expect("no thread panics here").next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let result = run(seed, Flaws::default());
                    let mut results = results.lock().expect("no thread panics here");
                    match result {
                        Ok(report) => results.0.add(&report.coverage),
                        Err(what) => _ = results.1.insert(seed, what),
                    }
                }
            });
        }
    });
    results.into_inner().expect("no thread panics here")
}

fn play(seed: u64, flaws: Flaws, trace: Trace) -> Result<Report, (String, String)> {
    let plan = Plan::of(seed, flaws);
    let mut world = World::new(seed, plan, trace);
    // An engine's own assertions are failures like others.
    let result = catch_unwind(AssertUnwindSafe(|| world.play())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("a panic: {}", text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).into())).unwrap_or_default()))
    });
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
