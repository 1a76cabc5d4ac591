//! Replicated sessions side by side on one machine: raw TCP of as many bytes, this crate, Redis, and the replicated maps of the real
//! Apache Tribes. `docs/BENCHMARKS.md` says how to read it.
//!
//! ```text
//! cargo bench --bench sessions                         everything, some minutes
//! cargo bench --bench sessions -- --case commit        the cases whose name begins so
//! cargo bench --bench sessions -- --smoke              does everything work? no figures to rely on
//! ```
//!
//! As in the `cluster` benchmark, whose modules it uses, every node is a process of its own, sides take turns round by round, and only
//! figures of one round are compared.

mod commit;
mod failure;
mod load;
mod members;
mod ours;
mod proxy;
mod redis_side;
mod side;
mod stream;
mod transfer;
mod wire;

#[path = "../cluster/java.rs"]
mod java;
#[path = "../cluster/node.rs"]
#[allow(dead_code, reason = "the cluster benchmark uses the rest")]
mod node;
#[path = "../cluster/raw.rs"]
mod raw;
#[path = "../cluster/role.rs"]
#[allow(dead_code, reason = "the cluster benchmark uses the rest")]
mod role;
#[path = "../cluster/table.rs"]
#[allow(dead_code, reason = "the cluster benchmark uses the rest")]
mod table;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use node::{Problem, now};
use side::{Launcher, Side};
use table::Row;

const USAGE: &str = "usage: sessions [--smoke] [--case NAME]... [--rounds N] [--no-java] [--no-busy-poll] [--no-redis]
  --smoke        few sessions, one round: checks that everything works
  --case NAME    only the cases whose name begins so; may be repeated
  --rounds N     rounds of each case, 5 unless told; cases that take long have at most 3
  --no-java      without the maps of Tribes
  --no-redis     without Redis
  --no-busy-poll our threads sleep at once when they wait for the network, as the others' do
Without --bench, which `cargo bench` adds, it is a smoke run: so does `cargo test --benches`.";

/// What to run.
pub(crate) struct Plan {
    launcher: Launcher,
    smoke: bool,
    rounds: usize,
    /// How long anything may take that should just work.
    patience: Duration,
}

impl Plan {
    fn say(&self, case: &str, what: &str) {
        eprintln!("{case}: {what}");
    }

    /// The smaller number in a smoke run.
    fn count(&self, full: usize, smoke: usize) -> usize {
        if self.smoke { smoke } else { full }
    }

    /// Rounds of cases that start their nodes anew each time.
    fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }
}

type Case = (&'static str, fn(&Plan) -> Result<Vec<Row>, Problem>);

const CASES: &[Case] = &[
    ("commit-1", commit::one_thread),
    ("commit-16", commit::sixteen_threads),
    ("commit-bytes", wire::bytes),
    ("commit-messages", wire::messages),
    ("async-3", stream::run),
    ("read", commit::read),
    ("transfer", transfer::run),
    ("memory", transfer::memory),
    ("failure", failure::run),
];

struct Arguments {
    bench: bool,
    smoke: bool,
    java: bool,
    busy_poll: bool,
    redis: bool,
    rounds: usize,
    cases: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [node, side, role, flags @ ..] if node == "node" => be_node(side, role, &role::Flags(flags)).map(|()| true),
        _ => match parse(&arguments) {
            Ok(arguments) => run(arguments),
            Err(problem) => {
                eprintln!("{problem}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn be_node(side: &str, role: &str, flags: &role::Flags<'_>) -> Result<(), Problem> {
    match Side::ALL.into_iter().find(|known| known.word() == side) {
        Some(Side::Raw) => raw::run(role, flags),
        Some(Side::Ours) => ours::run(role, flags),
        Some(Side::Redis) => redis_side::client(flags),
        Some(Side::Lazy | Side::Replicated) | None => Err(format!("no node of {side:?}").into()),
    }
}

fn parse(words: &[String]) -> Result<Arguments, Problem> {
    let mut arguments =
        Arguments { bench: false, smoke: false, java: true, busy_poll: true, redis: true, rounds: 5, cases: Vec::new() };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word {
            "--bench" => arguments.bench = true,
            "--smoke" => arguments.smoke = true,
            "--no-java" => arguments.java = false,
            "--no-busy-poll" => arguments.busy_poll = false,
            "--no-redis" => arguments.redis = false,
            "--rounds" => arguments.rounds = value()?.parse().map_err(|_| "--rounds wants a number")?,
            "--case" => arguments.cases.push(value()?.to_owned()),
            other => return Err(format!("unknown argument {other:?}").into()),
        }
    }
    arguments.smoke |= !arguments.bench;
    if arguments.rounds == 0 {
        return Err("--rounds wants at least one".into());
    }
    let known = || CASES.iter().map(|(name, _)| *name);
    if let Some(wrong) = arguments.cases.iter().find(|wanted| !known().any(|name| name.starts_with(wanted.as_str()))) {
        let known: Vec<_> = known().collect();
        return Err(format!("no case begins with {wrong:?}; there are {}", known.join(", ")).into());
    }
    Ok(arguments)
}

/// Runs what was asked for and prints the tables; tells whether every case worked.
fn run(arguments: Arguments) -> Result<bool, Problem> {
    let start = now();
    let plan = Plan {
        launcher: Launcher::new(arguments.java, arguments.redis, arguments.busy_poll),
        smoke: arguments.smoke,
        rounds: if arguments.smoke { 1 } else { arguments.rounds },
        patience: Duration::from_secs(if arguments.smoke { 30 } else { 120 }),
    };
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (name, case) in CASES {
        if !arguments.cases.is_empty() && !arguments.cases.iter().any(|wanted| name.starts_with(wanted.as_str())) {
            continue;
        }
        plan.say(name, &format!("after {:.0} s", start.elapsed().as_secs_f64()));
        match case(&plan) {
            Ok(more) => rows.extend(more),
            Err(problem) => {
                eprintln!("{name}: {problem}");
                problems.push(format!("{name}: {problem}"));
            }
        }
    }
    if plan.smoke {
        println!("a smoke run: it shows that everything works, its figures mean nothing\n");
    }
    println!("{}\n{}", table::text(&rows), table::machine(plan.rounds, "free"));
    println!("Redis: {}\n\n{}", redis_side::version().unwrap_or_else(|| "none".to_owned()), table::markdown(&rows));
    for problem in &problems {
        println!("FAILED {problem}");
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    Ok(problems.is_empty())
}
