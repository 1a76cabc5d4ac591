//! Cases that send: one source process, one to three sinks, and every message counted.

use std::time::Duration;

use crate::Plan;
use crate::node::{Node, Problem, Usage, now, pause};
use crate::side::Side;
use crate::table::{Row, Target, Unit};

/// One case of traffic. All sides send bodies of the same size with the same options; only the counts differ, so that a round of
/// each side takes about a second.
pub(crate) struct Traffic {
    pub(crate) name: &'static str,
    title: &'static str,
    options: u32,
    size: usize,
    members: usize,
    threads: usize,
    sides: &'static [Side],
    /// Messages a round: raw, ours and Tribes.
    counts: [usize; 3],
    measures: &'static [(Measure, &'static [Target])],
}

#[derive(Clone, Copy)]
enum Measure {
    /// The time of a send until its acknowledgement, as a quantile.
    P50,
    P99,
    /// Messages a second, to each member.
    Rate,
    /// Bodies, in MB a second.
    Bandwidth,
    /// Processor seconds of source and sink together for a million messages.
    Cpu,
}

const ALL: &[Side] = &[Side::Raw, Side::Ours, Side::Blocking, Side::Tribes];
const MAIN: &[Side] = &[Side::Raw, Side::Ours, Side::Tribes];

/// A ping-pong at one size.
const fn unicast(name: &'static str, title: &'static str, options: u32, size: usize, counts: [usize; 3]) -> Traffic {
    const MEASURES: &[(Measure, &[Target])] =
        &[(Measure::P50, &[Target::most(1.25, Side::Raw)]), (Measure::P99, &[Target::most(2.0, Side::Raw)])];
    Traffic { name, title, options, size, members: 1, threads: 1, sides: ALL, counts, measures: MEASURES }
}

pub(crate) const CASES: &[Traffic] = &[
    unicast("ack-2-64", "options 2, 64 B", 2, 64, [20_000, 20_000, 10_000]),
    unicast("ack-2-1k", "options 2, 1 KiB", 2, 1024, [20_000, 20_000, 10_000]),
    unicast("ack-2-64k", "options 2, 64 KiB", 2, 65_536, [8000, 8000, 4000]),
    unicast("ack-6-64", "options 6, 64 B", 6, 64, [20_000, 20_000, 10_000]),
    unicast("ack-6-1k", "options 6, 1 KiB", 6, 1024, [20_000, 20_000, 10_000]),
    unicast("ack-6-64k", "options 6, 64 KiB", 6, 65_536, [8000, 8000, 4000]),
    Traffic {
        name: "ack-3-members",
        title: "options 2, 1 KiB, to 3 members",
        options: 2,
        size: 1024,
        members: 3,
        threads: 1,
        sides: MAIN,
        counts: [10_000, 10_000, 4000],
        measures: &[(Measure::Rate, &[Target::least(0.8, Side::Raw)])],
    },
    Traffic {
        name: "ack-8-threads",
        title: "options 2, 1 KiB, 8 threads",
        options: 2,
        size: 1024,
        members: 1,
        threads: 8,
        sides: MAIN,
        counts: [80_000, 80_000, 16_000],
        measures: &[(Measure::Rate, &[Target::least(0.8, Side::Raw)])],
    },
    Traffic {
        name: "async-1k",
        title: "options 8, 1 KiB",
        options: 8,
        size: 1024,
        members: 1,
        threads: 1,
        sides: MAIN,
        counts: [4_000_000, 2_000_000, 200_000],
        measures: &[
            (Measure::Rate, &[Target::least(0.3, Side::Raw), Target::least(10.0, Side::Tribes)]),
            (Measure::Cpu, &[Target::most(1.0 / 15.0, Side::Tribes)]),
        ],
    },
    Traffic {
        name: "async-256k",
        title: "options 8, 256 KiB",
        options: 8,
        size: 256 * 1024,
        members: 1,
        threads: 1,
        sides: MAIN,
        counts: [8000, 8000, 2000],
        measures: &[(Measure::Bandwidth, &[Target::least(0.85, Side::Raw)])],
    },
    Traffic {
        name: "async-4m",
        title: "options 8, 4 MiB",
        options: 8,
        size: 4 * 1024 * 1024,
        members: 1,
        threads: 1,
        sides: MAIN,
        counts: [600, 600, 150],
        measures: &[(Measure::Bandwidth, &[Target::least(0.85, Side::Raw)])],
    },
];

/// A source and its sinks, warmed up.
struct Pair {
    side: Side,
    source: Node,
    sinks: Vec<Node>,
    count: usize,
    size: usize,
}

impl Traffic {
    /// Runs all sides round by round, and gives a row for each measure.
    pub(crate) fn run(&self, plan: &Plan) -> Result<Vec<Row>, Problem> {
        // Java machines take long to start: a smoke run has Tribes at one size only.
        let wanted = |side: Side| plan.launcher.has(side) && !(plan.smoke && side == Side::Tribes && self.size != 1024);
        let sides = self.sides.iter().filter(|side| wanted(**side));
        let mut pairs = sides.map(|side| self.start(plan, *side)).collect::<Result<Vec<_>, _>>()?;
        let mut rows: Vec<_> = self.measures.iter().map(|(measure, targets)| self.row(*measure, targets)).collect();
        for round in 1..=plan.rounds {
            plan.say(self.name, &format!("round {round} of {}", plan.rounds));
            for pair in &mut pairs {
                let figures = self.measure(pair, plan)?;
                for (row, (measure, _)) in rows.iter_mut().zip(self.measures) {
                    row.add(pair.side, figures.of(*measure));
                }
            }
        }
        Ok(rows)
    }

    fn row(&self, measure: Measure, targets: &'static [Target]) -> Row {
        let (what, unit) = match measure {
            Measure::P50 => ("round trip p50", Unit::Micros),
            Measure::P99 => ("round trip p99", Unit::Micros),
            Measure::Rate if self.members > 1 => ("messages/s to each", Unit::Rate),
            Measure::Rate => ("messages/s", Unit::Rate),
            Measure::Bandwidth => ("MB/s", Unit::Rate),
            Measure::Cpu => ("processor s per million", Unit::Seconds),
        };
        Row::new(self.name, format!("{}: {what}", self.title), unit, targets)
    }

    fn start(&self, plan: &Plan, side: Side) -> Result<Pair, Problem> {
        let [raw, ours, tribes] = self.counts;
        let full = match side {
            Side::Raw => raw,
            Side::Ours | Side::Blocking => ours,
            Side::Tribes => tribes,
        };
        // A multiple of all numbers of threads.
        let count = if plan.smoke { (full / 100).max(1).next_multiple_of(8) } else { full };
        // The Java machine compiles what is hot: a round as long as the measured ones, at least.
        let warmup = if plan.smoke { 8 } else { count };
        let mut flags = vec!["--wait".to_owned()];
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        let mut sinks = Vec::new();
        for number in 1..=self.members {
            let sink = plan.launcher.start(side, "sink", number, &[])?;
            let ready = sink.expect("ready", plan.patience)?;
            let part = |key: &str| ready.text(key).map(str::to_owned).ok_or_else(|| format!("{} has no {key}", sink.name()));
            flag("--to", format!("{}:{}:{}", part("host")?, part("port")?, part("id")?));
            sinks.push(sink);
        }
        flag("--options", self.options.to_string());
        flag("--size", self.size.to_string());
        flag("--count", count.to_string());
        flag("--threads", self.threads.to_string());
        flag("--warmup", warmup.to_string());
        let source = plan.launcher.start(side, "source", 1, &flags)?;
        source.expect("ready", plan.patience)?;
        let mut pair = Pair { side, source, sinks, count, size: self.size };
        pair.settle(plan, warmup)?;
        Ok(pair)
    }

    fn measure(&self, pair: &mut Pair, plan: &Plan) -> Result<Figures, Problem> {
        for sink in &mut pair.sinks {
            sink.tell(&format!("reset {}", pair.count))?;
            // The answer tells that the reset is done.
            sink.ask("report", "report", plan.patience)?;
        }
        let before = pair.cpu()?;
        let round = pair.source.ask("run", "round", plan.patience)?;
        let failed = round.number("failed")?;
        if failed > 0.0 {
            return Err(format!("{failed} sends failed: {}", round.text("error").unwrap_or("no word why")).into());
        }
        let spans = pair.settle(plan, pair.count)?;
        // A source is done when the last frame is in its socket, the case when the last sink has it.
        let seconds = spans.into_iter().fold(round.number("seconds")?, f64::max);
        Ok(Figures {
            p50: round.number("p50_ns")? / 1e3,
            p99: round.number("p99_ns")? / 1e3,
            rate: pair.count as f64 / seconds,
            bandwidth: (pair.count * self.size) as f64 / seconds / 1e6,
            cpu: (pair.cpu()? - before) * 1e6 / pair.count as f64,
        })
    }
}

impl Pair {
    /// Waits until every sink has every message, and tells how long each was receiving, in seconds.
    fn settle(&mut self, plan: &Plan, count: usize) -> Result<Vec<f64>, Problem> {
        let (start, count) = (now(), count as f64);
        let mut spans = Vec::new();
        for sink in &mut self.sinks {
            let report = loop {
                let report = sink.ask("report", "report", plan.patience)?;
                let arrived = report.number("count")?;
                if arrived >= count {
                    break report;
                }
                if start.elapsed() > plan.patience {
                    return Err(format!("{} has {arrived} of {count} messages", sink.name()).into());
                }
                pause(Duration::from_millis(5));
            };
            let (arrived, bytes) = (report.number("count")?, report.number("bytes")?);
            if arrived > count || bytes != count * self.size as f64 {
                return Err(format!("{} has {arrived} of {count} messages, in {bytes} bytes", sink.name()).into());
            }
            spans.push((report.number("last_ns")? - report.number("first_ns")?) / 1e9);
        }
        Ok(spans)
    }

    fn cpu(&self) -> Result<f64, Problem> {
        let usages = self.sinks.iter().chain([&self.source]).map(Node::usage).collect::<Result<Vec<Usage>, _>>()?;
        Ok(usages.iter().map(|usage| usage.cpu).sum())
    }
}

struct Figures {
    p50: f64,
    p99: f64,
    rate: f64,
    bandwidth: f64,
    cpu: f64,
}

impl Figures {
    fn of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::P50 => self.p50,
            Measure::P99 => self.p99,
            Measure::Rate => self.rate,
            Measure::Bandwidth => self.bandwidth,
            Measure::Cpu => self.cpu,
        }
    }
}
