//! Messages whose outcome matters: which entries they carry, and for which commit.

use super::commit::Outlook;
use super::keeping::Parked;
use super::message::{Entry, Message};
use super::table::{Key, SlotId, slot_of};
use super::{Engine, Outcome, Ticket, Tickets, Token};
use crate::few::Few;
use crate::member::Member;

/// Entries in one message, at most, in bytes: what is larger goes in several.
const MAX_BATCH: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Deliveries {
    under_way: Tickets<Delivery>,
}

#[derive(Debug)]
struct Delivery {
    what: Cargo,
    /// Destinations whose outcome is not known yet.
    left: usize,
}

/// An entry as it was when it was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) key: Key,
    pub(super) slot: SlotId,
    pub(super) fingerprint: u64,
    /// See `handover`.
    pub(super) counted: u32,
}

#[derive(Clone, Debug)]
enum Cargo {
    Hello,
    /// A question to one that may not have this context.
    Fetch(Ticket),
    /// Entries, as they were when they were sent.
    Entries {
        entries: Few<Sent>,
        whole: bool,
        ticket: Option<Ticket>,
    },
}

impl Engine {
    pub(super) fn track_hello(&mut self) -> Token {
        self.track(Cargo::Hello, 1)
    }

    pub(super) fn track_fetch(&mut self, ticket: Ticket) -> Token {
        self.track(Cargo::Fetch(ticket), 1)
    }

    fn track(&mut self, what: Cargo, left: usize) -> Token {
        let token = self.number();
        self.deliveries.under_way.insert(token, Delivery { what, left });
        token
    }

    /// Sends entries, or changes of them, to members that are to hold them.
    pub(super) fn put(&mut self, to: impl Into<Few<Member>>, entries: impl Into<Few<Entry>>, ticket: Option<Ticket>) {
        let (to, entries) = (to.into(), entries.into());
        if to.is_empty() || entries.is_empty() {
            return;
        }
        let whole = entries.iter().all(|entry| entry.base.is_none());
        let sent = entries.iter().map(|entry| {
            let slot = slot_of(&entry.key);
            let fingerprint = self.table.get(&entry.key).map_or(0, |held| held.fingerprint);
            Sent { key: entry.key.clone(), slot, fingerprint, counted: self.counted(slot) }
        });
        let sent = sent.collect();
        let token = self.track(Cargo::Entries { entries: sent, whole, ticket }, to.len());
        self.send(to, &Message::Put(entries), Some(token));
    }

    /// Sends the whole of these entries to a member, in as many messages as it takes.
    pub(super) fn put_whole(&mut self, to: &Member, keys: impl IntoIterator<Item = Key>, ticket: Option<Ticket>) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for key in keys {
            if self.is_away(&key) {
                self.park(&key, Parked::Put { to: to.clone(), ticket });
                continue;
            }
            let Some(entry) = self.whole(&key) else { continue };
            let size = entry.record.size();
            if bytes > 0 && bytes + size > MAX_BATCH {
                self.put(to.clone(), std::mem::take(&mut batch), ticket);
                bytes = 0;
            }
            bytes += size;
            batch.push(entry);
        }
        self.put(to.clone(), batch, ticket);
    }

    /// An entry as it goes to others.
    pub(super) fn whole(&self, key: &[u8]) -> Option<Entry> {
        let now = self.millis();
        let held = self.table.get(key)?;
        if held.away {
            debug_assert!(false, "what lacks values goes to nobody");
            return None;
        }
        Some(Entry {
            key: key.into(),
            record: held.record.clone(),
            base: None,
            idle: held.idle(now),
            keep: held.keep_until().saturating_sub(now),
        })
    }

    /// What became of a message at one destination.
    pub(super) fn delivered(&mut self, token: Token, to: &Member, outcome: Outcome) {
        let Some(delivery) = self.deliveries.under_way.get_mut(&token) else { return };
        delivery.left -= 1;
        let what = if delivery.left == 0 {
            self.deliveries.under_way.remove(&token).map(|delivery| delivery.what)
        } else {
            Some(delivery.what.clone())
        };
        match what {
            Some(Cargo::Hello) => self.hello_sent(token, to, outcome),
            Some(Cargo::Fetch(ticket)) if outcome == Outcome::Rejected => self.fetch_refused(ticket, to),
            Some(Cargo::Fetch(_)) => {}
            Some(Cargo::Entries { entries, whole, ticket }) => {
                // Whoever took it in may have left the context since, and what it had went with it.
                let outcome = if self.peers.came_back_since(to, token) { Outcome::Failed } else { outcome };
                self.entries_sent(to, outcome, entries, whole, ticket);
            }
            None => {}
        }
    }

    fn entries_sent(&mut self, to: &Member, outcome: Outcome, entries: Few<Sent>, whole: bool, ticket: Option<Ticket>) {
        match outcome {
            Outcome::Accepted => {
                entries.iter().for_each(|sent| self.confirmed(sent, to));
                self.commit_outlook(ticket, to, Outlook::Confirmed);
            }
            // It lacks what the change was made on: that is how it asks for the entry.
            Outcome::Rejected if !whole => self.ask_again(ticket, to, entries.into_iter().map(|sent| sent.key)),
            Outcome::Rejected | Outcome::Failed => {
                entries.iter().for_each(|sent| self.disagree(sent.slot, to));
                self.commit_outlook(ticket, to, Outlook::Failed);
            }
        }
    }

    /// A member holds an entry as it was sent.
    pub(super) fn confirmed(&mut self, sent: &Sent, by: &Member) {
        let slot = sent.slot;
        let Some(position) = self.placement.rank(slot, by) else { return };
        if sent.counted != self.counted(slot) {
            return self.handover_soon();
        }
        let current = self.table.note(&sent.key, |held| {
            let same = held.fingerprint == sent.fingerprint;
            if same {
                held.copies |= super::bit(position);
            }
            same
        });
        match current {
            Some(true) if self.is_guest_slot(slot) => self.handover_confirmed(&sent.key),
            Some(true) => {}
            // It has changed meanwhile.
            Some(false) => self.repair_when_quiet(slot),
            None => {}
        }
    }

    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.deliveries.under_way.len()
    }
}
