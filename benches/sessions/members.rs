//! Groups of nodes that share sessions, or entries of a map.

use std::time::{Duration, Instant};

use crate::Plan;
use crate::node::{Node, Problem, free_udp_port, now, pause};
use crate::role::Flags;
use crate::side::Side;

/// What kind of group. Ours has one answer to each kind, Tribes too.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Kind {
    /// `BackupManager` with one backup that is waited for; a `LazyReplicatedMap` with options 6.
    Backup,
    /// `DeltaManager`, waiting for nobody; a `ReplicatedMap` with options 8.
    Delta,
}

/// The flags of nodes of one group, at a multicast port of its own.
pub(crate) fn flags(kind: Kind) -> Result<Vec<String>, Problem> {
    let group = format!("228.0.0.4:{}", free_udp_port()?);
    let (kind, options) = match kind {
        Kind::Backup => ("backup", "6"),
        Kind::Delta => ("delta", "8"),
    };
    Ok(["--group", &group, "--kind", kind, "--options", options].map(str::to_owned).to_vec())
}

/// A node whose channel runs, and nothing on it.
pub(crate) fn waiting(plan: &Plan, side: Side, number: usize, flags: &[String]) -> Result<Node, Problem> {
    let node = plan.launcher.start(side, "member", number, flags)?;
    node.expect("waiting", plan.patience)?;
    Ok(node)
}

/// Nodes that know each other and are ready.
pub(crate) fn form(plan: &Plan, side: Side, kind: Kind, members: usize) -> Result<Vec<Node>, Problem> {
    let flags = flags(kind)?;
    let nodes = (1..=members).map(|number| plan.launcher.start(side, "member", number, &flags));
    let mut nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    for node in &nodes {
        node.expect("waiting", plan.patience)?;
    }
    let join = format!("join {}", members - 1);
    for node in &mut nodes {
        node.ask(&join, "ready", plan.patience)?;
    }
    for node in &mut nodes {
        until(plan, node, "count", "members", |known| known >= (members - 1) as f64)?;
    }
    Ok(nodes)
}

/// Asks until a figure is as it should be, and gives the last.
pub(crate) fn until(plan: &Plan, node: &mut Node, command: &str, key: &str, met: impl Fn(f64) -> bool) -> Result<f64, Problem> {
    let start = now();
    let event = command.split(' ').next().unwrap_or_default().to_owned();
    loop {
        let figure = node.ask(command, &event, plan.patience)?.number(key)?;
        if met(figure) {
            return Ok(figure);
        }
        if start.elapsed() > plan.patience {
            return Err(format!("{}: {key} stays at {figure} after {command:?}", node.name()).into());
        }
        pause(Duration::from_millis(10));
    }
}

/// What came of waiting for values.
pub(crate) struct Arrived {
    /// How many never came.
    pub(crate) missing: f64,
    /// When that was first seen.
    pub(crate) at: Instant,
    /// Whether it was so at the first look.
    pub(crate) at_once: bool,
}

/// Asks how many values are missing until none is, or their number no longer falls.
pub(crate) fn missing(plan: &Plan, node: &mut Node, entries: usize, from: u64) -> Result<Arrived, Problem> {
    const STILL: Duration = Duration::from_secs(3);
    let command = format!("missing {entries} {from}");
    let mut look = || node.ask(&command, "missing", plan.patience)?.number("missing");
    let mut arrived = Arrived { missing: look()?, at: now(), at_once: true };
    while arrived.missing > 0.0 && arrived.at.elapsed() <= STILL {
        pause(Duration::from_millis(5));
        let missing = look()?;
        if missing < arrived.missing {
            arrived = Arrived { missing, at: now(), at_once: false };
        }
    }
    Ok(arrived)
}

/// How many bytes: an attribute, everywhere.
pub(crate) const SIZE: usize = 1024;

/// The numbers behind a command's word.
pub(crate) fn numbers<const N: usize>(command: &str) -> Result<[usize; N], Problem> {
    let numbers = command.split(' ').skip(1).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let numbers = numbers.map_err(|_| format!("{command:?} wants numbers"))?;
    numbers.try_into().map_err(|_| format!("{command:?} wants {N} numbers").into())
}

/// Where a node listens.
pub(crate) fn port_of(flags: &Flags<'_>) -> Result<u16, Problem> {
    flags.number("--port", 0)
}
