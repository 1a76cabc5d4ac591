//! One of five members dies while all of them commit.

use std::time::Duration;

use crate::Plan;
use crate::members::{self, Kind, SIZE};
use crate::node::{Problem, pause};
use crate::side::Side;
use crate::table::{Row, Target, Unit};

const MEMBERS: usize = 5;
const THREADS: usize = 4;
const SESSIONS: usize = 64;

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>, Problem> {
    // As long as a failure detector with open connections may need.
    const STALL: &[Target] = &[Target::below(0.5)];
    const NONE: &[Target] = &[Target::below(0.0)];
    let millis = plan.count(10_000, 1500);
    let mut p50 = Row::new("failure", "one of five dies under load: commits on the others, p50", Unit::Micros, &[]);
    let mut p99 = Row::new("failure", "the same: p99 of the slowest", Unit::Micros, &[]);
    let mut most = Row::new("failure", "the same: longest", Unit::Seconds, STALL);
    let mut failed = Row::new("failure", "the same: commits that failed", Unit::Number, NONE);
    for round in 1..=plan.few_rounds() {
        plan.say("failure", &format!("round {round} of {}", plan.few_rounds()));
        for side in [Side::Ours, Side::Lazy].into_iter().filter(|side| plan.launcher.has(*side)) {
            // Five Java machines take long to start: a smoke run sees them work in the other cases.
            if plan.smoke && side == Side::Lazy {
                continue;
            }
            let mut nodes = members::form(plan, side, Kind::Backup, MEMBERS)?;
            for node in &mut nodes {
                node.ask(&format!("fill {SESSIONS} 1 {SIZE}"), "filled", plan.patience)?;
                // Whatever is compiled or connected at first use.
                node.ask(&format!("commit {} {THREADS} {SIZE}", plan.count(2000, 64)), "round", plan.patience)?;
            }
            for node in &mut nodes {
                node.ask(&format!("load {millis} {THREADS} {SIZE}"), "started", plan.patience)?;
            }
            pause(Duration::from_millis(200));
            nodes.pop().expect("there are five").kill()?;
            let rounds = nodes.iter().map(|node| node.expect("round", plan.patience)).collect::<Result<Vec<_>, _>>()?;
            let figures = |key: &str| rounds.iter().map(|round| round.number(key)).collect::<Result<Vec<_>, _>>();
            let largest = |key: &str| Ok::<_, Problem>(figures(key)?.into_iter().fold(0.0, f64::max));
            p50.add(side, figures("p50_ns")?.iter().sum::<f64>() / rounds.len() as f64 / 1e3);
            p99.add(side, largest("p99_ns")? / 1e3);
            most.add(side, largest("max_ns")? / 1e9);
            failed.add(side, figures("failed")?.iter().sum());
        }
    }
    Ok(vec![p50, p99, most, failed])
}
