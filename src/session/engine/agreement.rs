//! Whether members hold what they should, and all the same: for tests.

use std::sync::Arc;

use super::record::{Death, Record};
use super::table::{Held, SLOTS, SlotId};
use super::{Engine, Key};
use crate::id::UniqueId;
use crate::member::Member;

/// Whether these are all members, hold the same in each slot that they hold, values included, and nothing else; or what is wrong.
pub(crate) fn agree(engines: &[&Engine]) -> Result<(), String> {
    engines.iter().try_for_each(|engine| is_sound(engine))?;
    for slot in 0..SLOTS {
        let mut first: Option<&Engine> = None;
        for engine in engines {
            if engine.placement.rank(slot, &engine.local).is_none() {
                if let Some((key, held)) = engine.table.slot(slot).iter().next() {
                    return Err(format!("{} still has a guest {}: {held:?}", engine.local, text(key)));
                }
            } else if let Some(first) = first {
                equal(first, engine, slot)?;
            } else {
                first = Some(engine);
            }
        }
    }
    Ok(())
}

/// Whether two records are the same to whoever reads them. What each writer had seen may differ: of two writes that met here, and of
/// which only the later one came there.
pub(crate) fn same(one: &Record, other: &Record) -> bool {
    let ends = (one.birth, &one.end, one.lease, one.touched) == (other.birth, &other.end, other.lease, other.touched);
    ends && (one.death() == Some(Death::Lapsed) || *one.attributes == *other.attributes)
}

fn equal(one: &Engine, other: &Engine, slot: SlotId) -> Result<(), String> {
    let (mine, theirs) = (one.table.slot(slot), other.table.slot(slot));
    let mut pairs = mine.iter().zip(theirs.iter());
    // What is swapped out has its values elsewhere; its digest is compared below.
    let away = |held: &Held, other: &Held| held.away || other.away;
    let alike =
        pairs.all(|((key, held), (known, other))| key == known && (away(held, other) || same(&held.record, &other.record)));
    if alike && mine.len() == theirs.len() && mine.digest() == theirs.digest() {
        return Ok(());
    }
    let show = |engine: &Engine| -> Vec<_> {
        engine.table.slot(slot).iter().map(|(key, held)| (text(key), held.clone(), held.record.attributes.clone())).collect()
    };
    Err(format!("slot {slot}: {} has {:?}, {} has {:?}", one.local, show(one), other.local, show(other)))
}

/// Whether what an engine has reckoned about its entries is so.
fn is_sound(engine: &Engine) -> Result<(), String> {
    let wrong = engine.table.iter().find(|(_, held)| held.fingerprint != held.record.fingerprint());
    match wrong {
        Some((key, held)) => Err(format!("{} has a wrong fingerprint of {}: {held:?}", engine.local, text(key))),
        None => engine.table.audit().map_err(|what| format!("{}: {what}", engine.local)),
    }
}

fn text(key: &Key) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl Engine {
    /// What is here of an entry, be it dead.
    pub(crate) fn record(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.table.get(key).map(|held| &held.record)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&Key, &Arc<Record>)> {
        self.table.iter().map(|(key, held)| (key, &held.record))
    }

    /// What was let go of since this was asked last, and who was to have it.
    pub(crate) fn let_go_of(&mut self) -> Vec<(Key, Arc<Record>, Vec<UniqueId>)> {
        let gone = std::mem::take(&mut self.handover.gone).into_iter();
        let to = |key: &Key| self.placement.holding(super::slot_of(key)).map(Member::id).collect();
        gone.map(|(key, record)| (key.clone(), record, to(&key))).collect()
    }
}
