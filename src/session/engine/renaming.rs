//! A change of key, as the other holders see it: one message with the entry under its new key and the end of the old one, which have one
//! version. What it brings is told as one event; and no entry has ended.
//!
//! Who gets the two parts in different messages, as by a comparison, takes them for a new entry and an end.

use std::collections::{HashMap, HashSet};

use super::message::Entry;
use super::table::Key;
use super::{Engine, What};

/// The changes of keys in one message.
#[derive(Debug, Default)]
pub(super) struct Renames {
    /// From the old keys to the new ones.
    to: HashMap<Key, Key>,
    new: HashSet<Key>,
}

impl Renames {
    fn concern(&self, key: &[u8]) -> bool {
        !self.to.is_empty() && (self.to.contains_key(key) || self.new.contains(key))
    }
}

impl Engine {
    /// The changes of keys in a message that nothing is known of here yet.
    pub(super) fn renames_in(&self, entries: &[Entry]) -> Renames {
        let mut renames = Renames::default();
        if entries.len() < 2 {
            return renames;
        }
        let here = |key: &Key| self.table.get(key).is_some_and(super::table::Held::is_alive);
        let born = entries.iter().filter(|entry| entry.record.is_alive() && self.table.get(&entry.key).is_none());
        let born: HashMap<_, _> = born.map(|entry| (entry.record.birth, &entry.key)).collect();
        for entry in entries.iter().filter(|entry| !entry.record.end.death.is_zero() && here(&entry.key)) {
            if let Some(new) = born.get(&entry.record.end.death) {
                renames.to.insert(entry.key.clone(), (*new).clone());
                renames.new.insert((*new).clone());
            }
        }
        renames
    }

    /// Takes in a part of a message, as [`take`](Self::take) does.
    pub(super) fn take_of(&mut self, renames: &Renames, entry: Entry) -> super::receive::Taken {
        if !renames.concern(&entry.key) {
            return self.take(entry);
        }
        let key = entry.key.clone();
        // Neither a beginning nor an end.
        let events = std::mem::replace(&mut self.config.events, false);
        let taken = self.take(entry);
        self.config.events = events;
        if let Some(new) = renames.to.get(&key)
            && self.is_dead(&key)
        {
            self.event(&key, What::Renamed(new.clone()), true);
        }
        taken
    }
}
