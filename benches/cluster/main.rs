//! Side by side on one machine: raw TCP of the same bytes, this crate, and the real Apache Tribes. `docs/BENCHMARKS.md` says
//! what is measured and how to read it.
//!
//! ```text
//! cargo bench --bench cluster                          everything, some minutes
//! cargo bench --bench cluster -- --case ack-2          the cases whose name begins so
//! cargo bench --bench cluster -- --smoke               does everything work? no figures to rely on
//! ```
//!
//! The harness starts every node as a process of its own: this executable with the arguments `node SIDE ROLE FLAGS`, or Java.
//! Sides take turns round by round, and only figures of one round are compared: what disturbs the machine disturbs them all.

mod group;
mod java;
mod node;
mod ours;
mod raw;
mod role;
mod side;
#[allow(dead_code, reason = "the sessions benchmark uses the rest")]
mod table;
mod traffic;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use group::Group;
use node::{Problem, now};
use side::{Launcher, Pin, Side};
use traffic::CASES;

const USAGE: &str = "usage: cluster [--smoke] [--case NAME]... [--rounds N] [--no-java] [--no-busy-poll] [--pin same|split]
  --smoke        few messages, one round: checks that everything works
  --case NAME    only the cases whose name begins so; may be repeated
  --rounds N     rounds of each case, 5 unless told
  --no-java      without the real Tribes
  --no-busy-poll our threads sleep at once when they wait for the network, as the others' do
  --pin WHICH    same: all nodes on one processor; split: sources on one, the rest on another (needs taskset)
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
}

struct Arguments {
    bench: bool,
    smoke: bool,
    java: bool,
    busy_poll: bool,
    rounds: usize,
    pin: Pin,
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
        Some(Side::Ours) => ours::run(role, flags, false),
        Some(Side::Blocking) => ours::run(role, flags, true),
        Some(Side::Tribes) | None => Err(format!("no node of {side:?}").into()),
    }
}

fn parse(words: &[String]) -> Result<Arguments, Problem> {
    let mut arguments =
        Arguments { bench: false, smoke: false, java: true, busy_poll: true, rounds: 5, pin: Pin::Free, cases: Vec::new() };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word {
            "--bench" => arguments.bench = true,
            "--smoke" => arguments.smoke = true,
            "--no-java" => arguments.java = false,
            "--no-busy-poll" => arguments.busy_poll = false,
            "--rounds" => arguments.rounds = value()?.parse().map_err(|_| "--rounds wants a number")?,
            "--case" => arguments.cases.push(value()?.to_owned()),
            "--pin" => {
                arguments.pin = match value()? {
                    "same" => Pin::Same,
                    "split" => Pin::Split,
                    other => return Err(format!("--pin {other} is neither same nor split").into()),
                }
            }
            other => return Err(format!("unknown argument {other:?}").into()),
        }
    }
    arguments.smoke |= !arguments.bench;
    if arguments.rounds == 0 {
        return Err("--rounds wants at least one".into());
    }
    let known = || CASES.iter().map(|case| case.name).chain(Group::ALL.map(Group::name));
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
        launcher: Launcher::new(arguments.java, arguments.pin, arguments.busy_poll),
        smoke: arguments.smoke,
        rounds: if arguments.smoke { 1 } else { arguments.rounds },
        patience: Duration::from_secs(if arguments.smoke { 20 } else { 90 }),
    };
    let wanted = |name: &str| arguments.cases.is_empty() || arguments.cases.iter().any(|case| name.starts_with(case.as_str()));
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut note = |name: &str, outcome: Result<Vec<table::Row>, Problem>| match outcome {
        Ok(more) => rows.extend(more),
        Err(problem) => {
            eprintln!("{name}: {problem}");
            problems.push(format!("{name}: {problem}"));
        }
    };
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        note(case.name, case.run(&plan));
    }
    for case in Group::ALL.into_iter().filter(|case| wanted(case.name())) {
        note(case.name(), case.run(&plan));
    }
    let pinned = match arguments.pin {
        Pin::Free => "free",
        Pin::Same => "one for all nodes",
        Pin::Split => "one for sources, one for the rest",
    };
    if plan.smoke {
        println!("a smoke run: it shows that everything works, its figures mean nothing\n");
    }
    println!("{}\n{}\n\n{}", table::text(&rows), table::machine(plan.rounds, pinned), table::markdown(&rows));
    println!("the cost of the stack, per layer and message: cargo bench --bench stack");
    for problem in &problems {
        println!("FAILED {problem}");
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    Ok(problems.is_empty())
}
