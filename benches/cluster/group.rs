//! Cases of a group of three full nodes: how fast they find each other, how fast they notice a death, what they cost at rest.

use std::time::Duration;

use crate::Plan;
use crate::node::{Node, Problem, epoch_millis, free_udp_port, pause};
use crate::side::Side;
use crate::table::{Row, Target, Unit};

/// A case of the group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Group {
    /// Three nodes started together.
    View,
    /// One is killed to which the others have open connections, for they have sent to it.
    KillConnected,
    /// One is killed to which nobody has sent.
    KillSilent,
    /// Nobody does anything.
    Idle,
}

const NODES: usize = 3;
const SIDES: [Side; 2] = [Side::Ours, Side::Tribes];
/// How long the nodes of a new group are left alone.
const SETTLE: Duration = Duration::from_secs(2);
/// Tribes' default, and ours.
const DROP_TIME: f64 = 3.0;

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::View, Self::KillConnected, Self::KillSilent, Self::Idle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::KillConnected => "kill-connected",
            Self::KillSilent => "kill-silent",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn run(self, plan: &Plan) -> Result<Vec<Row>, Problem> {
        match self {
            Self::Idle => idle(plan),
            _ => self.timed(plan),
        }
    }

    fn timed(self, plan: &Plan) -> Result<Vec<Row>, Problem> {
        const KILL_SILENT: &[Target] = &[Target::below(DROP_TIME + 0.5)];
        const SOON: &[Target] = &[Target::below(0.5)];
        let (title, targets) = match self {
            Self::View => ("three nodes started together, until all see all", SOON),
            Self::KillConnected => ("kill -9, connections open, until the others are told", SOON),
            Self::KillSilent => ("kill -9, never sent to, until the others are told", KILL_SILENT),
            Self::Idle => unreachable!("nothing is timed"),
        };
        let mut row = Row::new(self.name(), title, Unit::Seconds, targets);
        for round in 1..=plan.rounds {
            plan.say(self.name(), &format!("round {round} of {}", plan.rounds));
            for side in SIDES.into_iter().filter(|side| plan.launcher.has(*side)) {
                // Tribes takes seconds to notice a death; that its nodes work is seen in the other cases.
                if plan.smoke && side == Side::Tribes && self != Self::View {
                    continue;
                }
                let (mut nodes, viewed) = form(plan, side)?;
                let seconds = match self {
                    Self::KillConnected => {
                        for node in &mut nodes {
                            let sent = node.ask("send", "sent", plan.patience)?;
                            if sent.number("failed")? > 0.0 || sent.number("members")? < 2.0 {
                                return Err(format!("{} could not send to the others", node.name()).into());
                            }
                        }
                        kill(plan, &mut nodes)?
                    }
                    Self::KillSilent => {
                        // A detector looks after those it has just met more closely, and would see more than silence.
                        pause(if plan.smoke { Duration::ZERO } else { SETTLE });
                        kill(plan, &mut nodes)?
                    }
                    Self::View | Self::Idle => viewed,
                };
                row.add(side, seconds);
            }
        }
        Ok(vec![row])
    }
}

/// Three nodes that see each other, and how many seconds that took from the word to start.
fn form(plan: &Plan, side: Side) -> Result<(Vec<Node>, f64), Problem> {
    let group = format!("228.0.0.4:{}", free_udp_port()?);
    let flags = ["--wait", "--group", &group, "--interface", "127.0.0.1"].map(str::to_owned);
    let nodes = (1..=NODES).map(|number| plan.launcher.start(side, "member", number, &flags));
    let mut nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    for node in &nodes {
        node.expect("waiting", plan.patience)?;
    }
    let start = epoch_millis();
    for node in &mut nodes {
        node.tell("go")?;
    }
    let mut last = start;
    for node in &nodes {
        for _ in 1..NODES {
            last = node.expect("member_added", plan.patience)?.number("t_ms")?.max(last);
        }
    }
    Ok((nodes, (last - start) / 1e3))
}

/// Kills the last node, and tells how many seconds passed until the slowest of the others was told.
fn kill(plan: &Plan, nodes: &mut Vec<Node>) -> Result<f64, Problem> {
    let mut victim = nodes.pop().expect("there are three");
    let start = epoch_millis();
    victim.kill()?;
    let mut last = start;
    for node in nodes {
        last = node.expect("member_removed", plan.patience)?.number("t_ms")?.max(last);
    }
    Ok((last - start) / 1e3)
}

/// Every node of a group at rest is one figure; the sides are watched at the same time.
fn idle(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const CPU: &[Target] = &[Target::below(0.1)];
    const THREADS: &[Target] = &[Target::below(6.0)];
    const RESIDENT: &[Target] = &[Target::below(12.0)];
    let watch = if plan.smoke { Duration::from_secs(1) } else { Duration::from_secs(30) };
    let mut cpu = Row::new("idle", "idle node: of one processor", Unit::Percent, CPU);
    let mut threads = Row::new("idle", "idle node: threads", Unit::Number, THREADS);
    let mut resident = Row::new("idle", "idle node: resident", Unit::Mebibytes, RESIDENT);
    let sides = SIDES.into_iter().filter(|side| plan.launcher.has(*side));
    let groups = sides.map(|side| Ok((side, form(plan, side)?.0))).collect::<Result<Vec<_>, Problem>>()?;
    pause(if plan.smoke { Duration::ZERO } else { SETTLE });
    plan.say("idle", &format!("watching for {watch:?}"));
    let usages = || -> Result<Vec<_>, Problem> {
        groups.iter().flat_map(|(side, nodes)| nodes.iter().map(|node| Ok((*side, node.usage()?)))).collect()
    };
    let before = usages()?;
    pause(watch);
    for ((side, after), (_, before)) in usages()?.into_iter().zip(before) {
        cpu.add(side, (after.fine_cpu - before.fine_cpu) / watch.as_secs_f64() * 100.0);
        threads.add(side, after.threads);
        resident.add(side, after.resident_mib);
    }
    Ok(vec![cpu, threads, resident])
}
