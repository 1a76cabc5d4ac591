use std::ops::Range;

use super::super::flaws::Flaws;
use super::coverage::ALL;
use super::{run, survey, tell};
use crate::testing::simulator::Simulator;

/// Seeds of an ordinary test run. Debug builds take ten times as long for each.
const ORDINARY: u64 = if cfg!(debug_assertions) { 6 } else { 90 };
/// Seeds that are run twice; short ones in debug builds.
const TWICE: Range<u64> = if cfg!(debug_assertions) { 3..6 } else { 0..5 };
/// Seeds within which most planted bugs are found.
const SEEDS: u64 = if cfg!(debug_assertions) { 20 } else { 90 };

#[test]
fn seeds() {
    let seeds: Vec<u64> = Simulator::seeds(ORDINARY).collect();
    let count = seeds.len();
    let (coverage, failed) = survey(seeds);
    println!("{count} seeds: {coverage:?}");
    if let Some(seed) = failed.keys().next() {
        println!("{}", tell(*seed, count == 1));
        let all: String = failed.iter().map(|(seed, what)| format!("seed {seed}: {what}\n")).collect();
        panic!("{} of {count} seeds failed, run one with TRIBES_SEED={seed}:\n{all}", failed.len());
    }
    if count >= 300 {
        for fault in ALL {
            assert!(coverage.count(fault) > 0, "{fault:?} never happened: {coverage:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in TWICE {
        let [first, second] = [0, 1].map(|_| run(seed, Flaws::default()).expect("the seed passes").hash);
        assert_eq!(first, second, "seed {seed}");
    }
}

/// A planted bug is found within so many seeds, and for what it is: one of these is said.
fn is_caught(seeds: u64, name: &str, flaws: Flaws, said: &[&str]) {
    for seed in 0..seeds {
        if let Err(what) = run(seed, flaws) {
            println!("{name}: caught by seed {seed}: {what}");
            assert!(said.iter().any(|words| what.contains(words)), "{name} is caught by seed {seed} for another reason: {what}");
            return;
        }
    }
    panic!("{name} is not noticed within {seeds} seeds");
}

macro_rules! planted {
    ($($(#[$more:meta])* $test:ident: $flaw:ident, $seeds:expr, $said:expr;)*) => {
        $(
            #[test]
            $(#[$more])*
            fn $test() {
                is_caught($seeds, stringify!($flaw), Flaws { $flaw: true, ..Flaws::default() }, &$said);
            }
        )*
    };
}

planted! {
    a_forgotten_tombstone_is_caught: drop_tombstones, SEEDS, ["has lost", "let go of", "refuses a change", "has nothing of"];
    a_skipped_repair_is_caught: skip_repair, SEEDS, ["no agreement in time"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_change_without_its_base_is_caught: ignore_base, SEEDS, ["has lost", "read less than was written", "no agreement in time"];
    a_change_that_is_taken_in_before_an_earlier_one_is_caught: reorder_deltas, SEEDS, ["has lost"];
    a_confirmation_of_what_was_not_taken_in_is_caught: confirm_unmerged, SEEDS, ["has lost"];
    a_forgotten_backup_is_caught: forget_backup, SEEDS, ["promises"];
    an_old_version_that_wins_is_caught: accept_old_versions, SEEDS, ["an attribute went back", "has lost"];
    a_value_that_is_cut_short_is_caught: wrong_value, SEEDS, ["nobody wrote"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    values_that_go_away_unsaved_are_caught: swap_unsaved, SEEDS, ["let go of", "has lost"];
    a_rename_that_loses_attributes_is_caught: rename_without_attributes, SEEDS, ["renamed"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_condition_that_is_not_looked_at_is_caught: swap_unchecked, SEEDS, ["both replaced"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    guests_that_are_dropped_are_caught: drop_guests, SEEDS, ["has lost"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_member_that_leaves_with_what_it_has_is_caught: drained_at_once, SEEDS, ["has lost"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_member_that_takes_more_than_it_may_is_caught: no_cap, SEEDS, ["more than it may"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_joiner_that_is_ready_at_once_is_caught: ready_at_once, 400,
        ["is ready without", "has lost", "read less than was written", "both replaced", "found", "refuses a change"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    an_owner_that_lets_entries_expire_without_asking_is_caught: expire_alone, 400, ["expired"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    reads_elsewhere_that_keep_nothing_alive_are_caught: reads_elsewhere_untold, 400, ["expired"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    tombstones_that_a_joiner_is_not_given_are_caught: tombstones_not_transferred, 400,
        ["is ready without"];
    #[cfg_attr(debug_assertions, ignore = "takes many histories: run it in a release build")]
    a_member_that_forgets_what_it_wrote_is_caught: forget_written, 400, ["read less than was written", "which it knew to be dead", "came back"];
}
