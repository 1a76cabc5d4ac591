//! What a commit costs on the wire.

use crate::Plan;
use crate::node::Problem;
use crate::side::Side;
use crate::table::{Row, Target, Unit};

pub(crate) fn bytes(plan: &Plan) -> Result<Vec<Row>, Problem> {
    const TARGET: &[Target] = &[Target::below(1024.0 + 350.0)];
    let title = "commit of 1 KiB in a session of 50 KiB, counted by a proxy, both ways";
    let mut row = Row::new("commit-bytes", title, Unit::Bytes, TARGET);
    let mut node = plan.launcher.start(Side::Ours, "bytes", 1, &[])?;
    node.expect("waiting", plan.patience)?;
    for _ in 0..plan.rounds {
        let line = node.ask(&format!("run {}", plan.count(5000, 100)), "bytes", plan.patience)?;
        row.add(Side::Ours, line.number("per_commit")?);
    }
    Ok(vec![row])
}

pub(crate) fn messages(plan: &Plan) -> Result<Vec<Row>, Problem> {
    // One to the backup; a little more for what members tell each other now and then.
    const TARGET: &[Target] = &[Target::below(1.1)];
    let mut rows = Vec::new();
    for members in [2, 4, 8, 16] {
        plan.say("commit-messages", &format!("{members} members"));
        let title = format!("messages of all members for a commit, {members} members");
        let mut row = Row::new("commit-messages", title, Unit::Fraction, TARGET);
        let flags = ["--members".to_owned(), members.to_string()];
        let mut node = plan.launcher.start(Side::Ours, "messages", 1, &flags)?;
        node.expect("waiting", plan.patience)?;
        for _ in 0..plan.rounds {
            let line = node.ask(&format!("run {}", plan.count(8000, 160)), "messages", plan.patience)?;
            row.add(Side::Ours, line.number("per_commit")?);
        }
        rows.push(row);
    }
    Ok(rows)
}
