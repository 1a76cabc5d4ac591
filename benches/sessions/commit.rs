//! Commits that wait for the backup, and reads of sessions that are here.

use crate::Plan;
use crate::members::{self, Kind, SIZE};
use crate::node::{Line, Node, Problem};
use crate::redis_side::Server;
use crate::role::json;
use crate::side::Side;
use crate::table::{Row, Target, Unit};

const SIDES: [Side; 4] = [Side::Raw, Side::Ours, Side::Redis, Side::Lazy];
/// Sessions that are changed in turn: a multiple of all numbers of threads.
const SESSIONS: usize = 256;
/// Bytes of a commit on the wire besides the attribute, as the case `commit-bytes` finds them, without the acknowledgement.
pub(crate) const OVERHEAD: usize = 279;

/// What a row of processor time is called: it tells apart who does more from who waits less.
const PROCESSOR: &str = "processor time of all processes for each commit";

/// What a lane did in one round.
struct Round {
    line: Line,
    /// Microseconds of a processor for each commit, from the kernel's ticks of 10 ms.
    processor: f64,
}

/// Nodes that live through all rounds. The first makes the commits.
struct Lane {
    side: Side,
    nodes: Vec<Node>,
    /// Dropped after the nodes.
    server: Option<Server>,
    count: usize,
}

pub(crate) fn one_thread(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const P50: &[Target] = &[Target::most(1.5, Side::Raw), Target::most(1.0, Side::Redis)];
    let mut p50 = Row::new("commit-1", "commit of 1 KiB, waiting for one backup: p50", Unit::Micros, P50);
    let mut p99 = Row::new("commit-1", "the same: p99", Unit::Micros, &[]);
    let mut cpu = Row::new("commit-1", PROCESSOR, Unit::Micros, &[]);
    measure(plan, "commit-1", 1, [20_000, 20_000, 20_000, 5000], |side, Round { line, processor }| {
        p50.add(side, line.number("p50_ns")? / 1e3);
        p99.add(side, line.number("p99_ns")? / 1e3);
        cpu.add(side, processor);
        Ok(())
    })?;
    Ok(vec![p50, p99, cpu])
}

pub(crate) fn sixteen_threads(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const RATE: &[Target] = &[Target::least(3.0, Side::Lazy), Target::least(1.0, Side::Redis)];
    let mut rate = Row::new("commit-16", "the same from 16 threads: commits/s", Unit::Rate, RATE);
    let mut p99 = Row::new("commit-16", "the same from 16 threads: p99", Unit::Micros, &[]);
    let mut cpu = Row::new("commit-16", PROCESSOR, Unit::Micros, &[]);
    measure(plan, "commit-16", 16, [80_000, 80_000, 80_000, 16_000], |side, Round { line, processor }| {
        rate.add(side, line.number("count")? / line.number("seconds")?);
        p99.add(side, line.number("p99_ns")? / 1e3);
        cpu.add(side, processor);
        Ok(())
    })?;
    Ok(vec![rate, p99, cpu])
}

fn measure(
    plan: &Plan,
    case: &str,
    threads: usize,
    counts: [usize; 4],
    mut add: impl FnMut(Side, Round) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let sides = SIDES.into_iter().zip(counts).filter(|(side, _)| plan.launcher.has(*side));
    let mut lanes = sides.map(|(side, count)| start(plan, side, threads, count)).collect::<Result<Vec<_>, _>>()?;
    // The first is the warm-up: the Java machine compiles what is hot.
    for round in 0..=plan.rounds {
        plan.say(case, &format!("round {round} of {}", plan.rounds));
        for lane in &mut lanes {
            let ran = lane.run(plan, threads)?;
            let failed = ran.line.number("failed")?;
            if failed > 0.0 {
                let why = ran.line.text("error").unwrap_or_default();
                return Err(format!("{failed} commits of {} failed: {}", lane.nodes[0].name(), json(why)).into());
            }
            if round > 0 {
                add(lane.side, ran)?;
            }
        }
    }
    Ok(())
}

fn start(plan: &Plan, side: Side, threads: usize, full: usize) -> Result<Lane, Problem> {
    let count = plan.count(full, 16 * threads);
    let (mut nodes, server) = match side {
        Side::Raw => (raw(plan, "2", SIZE + OVERHEAD, threads, count)?, None),
        Side::Redis => {
            let server = Server::start(plan)?;
            (vec![server.client(plan, threads)?], Some(server))
        }
        Side::Ours | Side::Lazy | Side::Replicated => (members::form(plan, side, Kind::Backup, 2)?, None),
    };
    if side != Side::Raw {
        nodes[0].ask(&format!("fill {SESSIONS} {threads} {SIZE}"), "filled", plan.patience)?;
    }
    Ok(Lane { side, nodes, server, count })
}

impl Lane {
    fn run(&mut self, plan: &Plan, threads: usize) -> Result<Round, Problem> {
        let command = match self.side {
            Side::Raw => "run".to_owned(),
            _ => format!("commit {} {threads} {SIZE}", self.count),
        };
        let before = self.processor()?;
        let line = self.nodes[0].ask(&command, "round", plan.patience)?;
        let processor = (self.processor()? - before) * 1e6 / line.number("count")?;
        Ok(Round { line, processor })
    }

    /// The processor time of all its processes, in seconds.
    fn processor(&self) -> Result<f64, Problem> {
        let usages = self.nodes.iter().map(Node::usage).chain(self.server.iter().map(Server::usage));
        usages.map(|usage| Ok(usage?.cpu)).sum()
    }
}

/// A source of raw TCP and its sink. A frame has `bytes` in all.
pub(crate) fn raw(plan: &Plan, options: &str, bytes: usize, threads: usize, count: usize) -> Result<Vec<Node>, Problem> {
    let sink = plan.launcher.start(Side::Raw, "sink", 1, &[])?;
    let ready = sink.expect("ready", plan.patience)?;
    let to = format!("127.0.0.1:{}:none", ready.number("port")?);
    let (size, count, threads) = ((bytes - crate::raw::OVERHEAD).to_string(), count.to_string(), threads.to_string());
    let flags = ["--to", &to, "--options", options, "--size", &size, "--count", &count, "--threads", &threads];
    let source = plan.launcher.start(Side::Raw, "source", 1, &flags.map(str::to_owned))?;
    source.expect("ready", plan.patience)?;
    Ok(vec![source, sink])
}

pub(crate) fn read(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const TARGET: &[Target] = &[Target::below(1000.0)];
    let mut row = Row::new("read", "read of a session that is held here", Unit::Nanos, TARGET);
    let sides = [(Side::Ours, 1_000_000), (Side::Redis, 20_000), (Side::Lazy, 1_000_000)];
    let sides = sides.into_iter().filter(|(side, _)| plan.launcher.has(*side));
    let mut lanes = sides.map(|(side, count)| start(plan, side, 1, count)).collect::<Result<Vec<_>, _>>()?;
    for round in 0..=plan.rounds {
        plan.say("read", &format!("round {round} of {}", plan.rounds));
        for lane in &mut lanes {
            let line = lane.nodes[0].ask(&format!("read {}", lane.count), "reads", plan.patience)?;
            if line.number("found")? < lane.count as f64 {
                return Err(format!("{} does not find all sessions", lane.nodes[0].name()).into());
            }
            if round > 0 {
                row.add(lane.side, line.number("seconds")? * 1e9 / lane.count as f64);
            }
        }
    }
    Ok(vec![row])
}
