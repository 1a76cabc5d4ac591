//! Commits that wait for nobody, and what became of them.

use crate::Plan;
use crate::members::{self, Kind, SIZE};
use crate::node::{Problem, now};
use crate::side::Side;
use crate::table::{Row, Target, Unit};

const MEMBERS: usize = 3;
/// Sessions that are changed in turn.
const SESSIONS: usize = 1000;

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const RATE: &[Target] = &[Target::least(10.0, Side::Replicated)];
    const LOST: &[Target] = &[Target::below(0.0)];
    let mut rate = Row::new("async-3", "3 members, waiting for nobody: commits/s until all have all", Unit::Rate, RATE);
    let mut lost = Row::new("async-3", "sessions of 1000 that another member never gets as they are", Unit::Number, LOST);
    let sides = [(Side::Ours, 200_000), (Side::Replicated, 20_000)];
    let mut groups = Vec::new();
    for (side, full) in sides.into_iter().filter(|(side, _)| plan.launcher.has(*side)) {
        let count = plan.count(full, 2 * SESSIONS);
        let mut nodes = members::form(plan, side, Kind::Delta, MEMBERS)?;
        nodes[0].ask(&format!("fill {SESSIONS} 1 {SIZE}"), "filled", plan.patience)?;
        groups.push((side, count, nodes, SESSIONS));
    }
    // The first is the warm-up.
    for round in 0..=plan.rounds {
        plan.say("async-3", &format!("round {round} of {}", plan.rounds));
        for (side, count, nodes, next) in &mut groups {
            let start = now();
            let (source, others) = nodes.split_first_mut().expect("there are three");
            let line = source.ask(&format!("commit {count} 1 {SIZE}"), "round", plan.patience)?;
            if *side == Side::Ours && line.number("failed")? > 0.0 {
                return Err(format!("commits failed: {}", line.text("error").unwrap_or_default()).into());
            }
            *next += *count;
            let (mut last, mut stale) = (start, 0.0);
            for other in others {
                // Each session has been written last by one of the last so many commits.
                let arrived = members::missing(plan, other, SESSIONS, (*next - SESSIONS) as u64)?;
                (last, stale) = (last.max(arrived.at), f64::max(stale, arrived.missing));
            }
            if round > 0 {
                rate.add(*side, *count as f64 / (last - start).as_secs_f64());
                lost.add(*side, stale);
            }
        }
    }
    Ok(vec![rate, lost])
}
