use super::super::flaws::Flaws;
use super::coverage::ALL;
use super::{run, survey, tell};
use crate::testing::simulator::Simulator;

/// Seeds of an ordinary test run.
const SEEDS: u64 = if cfg!(debug_assertions) { 20 } else { 90 };

#[test]
fn seeds() {
    let seeds: Vec<u64> = Simulator::seeds(SEEDS).collect();
    let count = seeds.len();
    let (coverage, failed) = survey(seeds);
    println!("{count} seeds: {coverage:?}");
    if let Some(seed) = failed.keys().next() {
        println!("{}", tell(*seed, count == 1));
        let all: String = failed.iter().map(|(seed, what)| format!("seed {seed}: {what}\n")).collect();
        panic!("{} of {count} seeds failed, run one with TRIBES_SEED={seed}:\n{all}", failed.len());
    }
    if count >= 80 {
        for fault in ALL {
            assert!(coverage.count(fault) > 0, "{fault:?} never happened: {coverage:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let [first, second] = [0, 1].map(|_| run(seed, Flaws::default()).expect("the seed passes").hash);
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A planted bug is found within a few seeds.
fn is_caught(name: &str, flaws: Flaws) {
    is_caught_within(SEEDS, name, flaws);
}

fn is_caught_within(seeds: u64, name: &str, flaws: Flaws) {
    for seed in 0..seeds {
        if let Err(what) = run(seed, flaws) {
            println!("{name}: caught by seed {seed}: {what}");
            return;
        }
    }
    panic!("{name} is not noticed within {seeds} seeds");
}

#[test]
fn a_forgotten_tombstone_is_caught() {
    is_caught("drop_tombstones", Flaws { drop_tombstones: true, ..Flaws::default() });
}

#[test]
fn a_skipped_repair_is_caught() {
    is_caught("skip_repair", Flaws { skip_repair: true, ..Flaws::default() });
}

#[test]
fn a_change_without_its_base_is_caught() {
    is_caught("ignore_base", Flaws { ignore_base: true, ..Flaws::default() });
}

#[test]
fn a_forgotten_backup_is_caught() {
    is_caught("forget_backup", Flaws { forget_backup: true, ..Flaws::default() });
}

#[test]
fn an_old_version_that_wins_is_caught() {
    is_caught("accept_old_versions", Flaws { accept_old_versions: true, ..Flaws::default() });
}

#[test]
fn guests_that_are_dropped_are_caught() {
    is_caught("drop_guests", Flaws { drop_guests: true, ..Flaws::default() });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes hundreds of histories: run it in a release build")]
fn a_joiner_that_is_ready_at_once_is_caught() {
    is_caught_within(400, "ready_at_once", Flaws { ready_at_once: true, ..Flaws::default() });
}
