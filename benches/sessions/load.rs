//! Commits from several threads, timed one by one: what all sides but the Java ones have in common.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{now, pause};
use crate::role::Round;

/// How long a [`Work`] goes on.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Count(usize),
    /// With a pause of [`PAUSE`] after each commit: a member under load, not one that does nothing else.
    Time(Duration),
}

/// Between two commits of a thread that goes on for some time.
const PAUSE: Duration = Duration::from_millis(2);

/// One thread's connection, or nothing where all share one; makes the commit of this number.
pub(crate) trait Lane: Send {
    fn commit(&mut self, number: usize) -> Result<(), String>;
}

impl<F: FnMut(usize) -> Result<(), String> + Send> Lane for F {
    fn commit(&mut self, number: usize) -> Result<(), String> {
        self(number)
    }
}

/// Each lane makes the commits of its place, its place and the number of lanes, and so on: no two touch one session, where the number
/// of sessions is a multiple of that of lanes.
pub(crate) fn run<L: Lane>(lanes: Vec<L>, until: Until) -> Round {
    let (step, start) = (lanes.len(), now());
    let all = Mutex::new((Vec::new(), 0, String::new()));
    thread::scope(|scope| {
        for (place, mut lane) in lanes.into_iter().enumerate() {
            let all = &all;
            scope.spawn(move || {
                let (times, failed, error) = one(&mut lane, place, step, until, start);
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.0.extend(times);
                all.1 += failed;
                if all.2.is_empty() {
                    all.2 = error;
                }
            });
        }
    });
    let elapsed = start.elapsed();
    let (times, failed, error) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    Round::new(elapsed, times).with_failures(failed, error)
}

fn one(lane: &mut impl Lane, place: usize, step: usize, until: Until, start: Instant) -> (Vec<u64>, u64, String) {
    let (mut times, mut failed, mut error) = (Vec::new(), 0, String::new());
    let mut number = place;
    loop {
        match until {
            Until::Count(count) if number >= count => break,
            Until::Time(time) if start.elapsed() >= time => break,
            _ => {}
        }
        let before = now();
        let outcome = lane.commit(number);
        times.push(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if let Err(why) = outcome {
            failed += 1;
            error = why;
        }
        if matches!(until, Until::Time(_)) {
            pause(PAUSE);
        }
        number += step;
    }
    (times, failed, error)
}

/// A value that begins with a number, by which a replica's value is known to be this one or a later one.
pub(crate) fn value(size: usize, number: u64) -> Vec<u8> {
    let mut value = vec![b'x'; size];
    value[..8].copy_from_slice(&number.to_be_bytes());
    value
}
