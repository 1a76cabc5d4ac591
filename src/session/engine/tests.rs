//! One behaviour at a time, on a few engines that hear each other at once.

mod committing;
mod comparing;
mod copies;
mod ending;
mod joining;
mod letting_go;
mod reading;
mod remembering;
mod renaming;
mod swapping;

use std::sync::Arc;
use std::time::Duration;

use super::change::{Change, MAX_ATTRIBUTES, MAX_ENTRY, Refusal};
use super::commit::Commit;
use super::config::{Config, Copies};
use super::fetch::Get;
use super::flaws::Flaws;
use super::message::{Message, Phase, Want};
use super::record::Record;
use super::table::{SLOTS, slot_of};
use super::testkit::{Group, Packet};
use super::*;

fn backups(count: usize) -> Config {
    Config { copies: Copies::Backups(count), ..Config::default() }
}

fn everywhere() -> Config {
    Config { copies: Copies::Everywhere, ..Config::default() }
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// A key that this member owns.
fn owned_by(group: &Group, node: usize) -> [u8; 4] {
    let engine = group.engine(node);
    (0..).map(key).find(|key| engine.placement.rank(slot_of(key), engine.local()) == Some(0)).expect("it owns something")
}

/// The position of the member that holds this key at this rank.
fn holder(group: &Group, asked: usize, key: &[u8], rank: usize) -> usize {
    let engine = group.engine(asked);
    let member = engine.placement.holding(slot_of(key)).nth(rank).expect("so many hold it").clone();
    group.nodes.iter().position(|node| node.member == member).expect("it is one of the group")
}

fn holders_of(group: &Group, key: &[u8]) -> usize {
    group.nodes.iter().filter(|node| node.engine.as_ref().is_some_and(|engine| engine.peek(key).is_some())).count()
}

/// A member of three that does not hold this key, which member 0 owns.
fn stranger(group: &Group, key: &[u8]) -> usize {
    let backup = holder(group, 0, key, 1);
    3 - backup
}

/// Reads what is held elsewhere.
fn read(group: &mut Group, node: usize, key: &[u8]) -> Arc<Record> {
    let Get::Asking(_) = group.get(node, key) else { panic!("it is not here") };
    group.settle();
    let (_, found) = group.nodes[node].fetched.pop().expect("a holder has answered");
    found.expect("it knows").expect("the entry is alive")
}

fn write(read: &Arc<Record>, name: &str, value: &'static str) -> Change {
    Change::Update { read: Arc::clone(read), lease: None, attributes: vec![(name.into(), Some(value.into()))] }
}

fn decoded(packet: &Packet) -> Option<Message> {
    codec::decode(&mut Names::default(), Config::default().context, &packet.body).ok()
}

/// The version of the attribute `n`.
fn version_of(group: &Group, node: usize, key: &[u8]) -> Version {
    group.engine(node).peek(key).and_then(|record| record.attribute("n")).expect("it is there").version
}

const SECOND: Duration = Duration::from_secs(1);
