//! A member that joins, and what sessions cost in memory.

use std::time::Duration;

use crate::Plan;
use crate::commit::raw;
use crate::members::{self, Kind, SIZE};
use crate::node::{Node, Problem, now};
use crate::redis_side::Server;
use crate::side::Side;
use crate::table::{Row, Target, Unit};

const SESSIONS: usize = 100_000;
const SMOKE: usize = 1000;
/// Threads that make the sessions.
const MAKERS: usize = 8;

/// A ReplicatedMap is not asked: it gives up after four times its time-out, with nothing.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const TIME: &[Target] = &[Target::most(1.0 / 50.0, Side::Lazy), Target::most(5.0, Side::Raw)];
    const GROWTH: &[Target] = &[Target::below(16.0)];
    let sessions = plan.count(SESSIONS, SMOKE);
    let mut time =
        Row::new("transfer", format!("{sessions} sessions of 1 KiB to a joiner until it has them"), Unit::Seconds, TIME);
    let mut growth = Row::new("transfer", "the giver grows, beyond 5 % of what it has", Unit::Mebibytes, GROWTH);
    let mut stream = raw(plan, "8", SIZE + crate::raw::OVERHEAD, 1, sessions)?;
    for round in 1..=plan.few_rounds() {
        plan.say("transfer", &format!("round {round} of {}", plan.few_rounds()));
        time.add(Side::Raw, stream[0].ask("run", "round", plan.patience)?.number("seconds")?);
        for side in [Side::Ours, Side::Lazy].into_iter().filter(|side| plan.launcher.has(*side)) {
            let (seconds, mebibytes) = join(plan, side, sessions)?;
            time.add(side, seconds);
            growth.add(side, mebibytes);
        }
    }
    Ok(vec![time, growth])
}

/// One member has all sessions, another comes.
fn join(plan: &Plan, side: Side, sessions: usize) -> Result<(f64, f64), Problem> {
    const LOOK: Duration = Duration::from_millis(10);
    let flags = members::flags(Kind::Backup)?;
    let mut giver = members::waiting(plan, side, 1, &flags)?;
    giver.ask("join 0", "ready", plan.patience)?;
    giver.ask(&format!("fill {sessions} {MAKERS} {SIZE}"), "filled", plan.patience)?;
    let mut joiner = members::waiting(plan, side, 2, &flags)?;
    let before = giver.usage()?.resident_mib;
    let mut peak = before;
    let start = now();
    joiner.tell("join 1")?;
    let ready = loop {
        match joiner.expect("ready", LOOK) {
            Ok(ready) => break ready,
            Err(problem) if start.elapsed() > plan.patience => return Err(problem),
            Err(_) => peak = peak.max(giver.usage()?.resident_mib),
        }
    };
    let told = now();
    let arrived = members::missing(plan, &mut joiner, sessions, 0)?;
    peak = peak.max(giver.usage()?.resident_mib);
    if arrived.missing > 0.0 {
        let missing = format!("{} says it is ready, and never gets {} of {sessions} sessions", joiner.name(), arrived.missing);
        if side == Side::Ours {
            return Err(missing.into());
        }
        plan.say("transfer", &missing);
    }
    let ready_at = ready.number("seconds")?;
    // Asking takes its time too; it counts only where something was missing.
    let late = if arrived.at_once { 0.0 } else { (arrived.at - told).as_secs_f64() };
    Ok((ready_at + late, peak - before * 1.05))
}

pub(crate) fn memory(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const TARGET: &[Target] = &[Target::below(1024.0 + 300.0)];
    let sessions = plan.count(SESSIONS, SMOKE);
    let mut row = Row::new("memory", "a replica grows for each session of 1 KiB", Unit::Bytes, TARGET);
    for round in 1..=plan.few_rounds() {
        plan.say("memory", &format!("round {round} of {}", plan.few_rounds()));
        // Making them takes LazyReplicatedMap long; nothing of it is measured.
        for side in [Side::Ours, Side::Redis, Side::Lazy].into_iter().filter(|side| plan.launcher.has(*side)) {
            if side == Side::Lazy && round > 1 {
                continue;
            }
            let mebibytes = match side {
                Side::Redis => {
                    let server = Server::start(plan)?;
                    let mut client = server.client(plan, MAKERS)?;
                    let before = server.usage()?.resident_mib;
                    fill(plan, &mut client, sessions)?;
                    server.usage()?.resident_mib - before
                }
                _ => {
                    let mut nodes = members::form(plan, side, Kind::Backup, 2)?;
                    let (maker, replica) = (0, 1);
                    let before = nodes[replica].usage()?.resident_mib;
                    fill(plan, &mut nodes[maker], sessions)?;
                    nodes[replica].usage()?.resident_mib - before
                }
            };
            row.add(side, mebibytes * 1024.0 * 1024.0 / sessions as f64);
        }
    }
    Ok(vec![row])
}

fn fill(plan: &Plan, node: &mut Node, sessions: usize) -> Result<(), Problem> {
    node.ask(&format!("fill {sessions} {MAKERS} {SIZE}"), "filled", plan.patience)?;
    Ok(())
}
