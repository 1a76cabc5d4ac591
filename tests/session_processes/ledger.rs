//! What the load of all members has reported: which value of which attribute was confirmed last, and by whom; which sessions have ended.
//! What was confirmed must be found as long as one that has it lives, and what has ended must not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::node::{DEADLINE, Node, now};

/// Attributes, by session and name, with the value that was confirmed last. Values only grow.
type Values = BTreeMap<(String, String), u64>;

/// Of those that ended, so many are looked for while there is load; at the end, all.
const ENDED_READ: usize = 50;

/// A member's life, from its start to its end: the id of its process.
type Process = String;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    news: Condvar,
}

/// What must be found by who reads afterwards.
#[derive(Debug)]
pub(crate) struct Confirmed {
    values: Values,
    ended: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Book {
    sessions: BTreeMap<String, Entry>,
    commits: u64,
    /// How many each member has had confirmed.
    by_member: BTreeMap<u16, u64>,
    invalidated: u64,
    renamed: u64,
    failures: BTreeMap<String, u64>,
    /// Reads that found an older value than had been confirmed, or a session that had ended, for a moment.
    behind: usize,
    /// What members have found and should not have; judged when everybody is quiet, as the reason may be heard of later.
    complaints: Vec<Complaint>,
    /// Values that nobody who has them outlived, since all was well last.
    excused: BTreeSet<(String, String)>,
    excused_in_all: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// How many were there before it.
    age: usize,
    values: BTreeMap<String, Value>,
    end: End,
    /// Nobody who has it needs to be alive.
    excused: bool,
}

#[derive(Debug, Default)]
struct Value {
    number: u64,
    /// Those that had it when it was confirmed: the writer, and who confirmed. Empty when all was well since: whoever has the session has
    /// this as well.
    holders: BTreeSet<Process>,
}

#[derive(Debug, Default)]
enum End {
    #[default]
    None,
    /// Somebody was about to end it; what came of that is not known yet.
    Begun { to_rename: bool },
    /// These have confirmed it; empty when all was well since.
    Confirmed { holders: BTreeSet<Process> },
    /// Who had it is dead.
    Unknown,
}

#[derive(Debug)]
struct Complaint {
    id: String,
    name: String,
    /// Who has found what.
    text: String,
}

impl Ledger {
    /// Takes a line of a member's load. `HOLDERS` are processes, the writer first.
    ///
    /// - `+ ID NAME VALUE HOLDERS`: written;
    /// - `~ ID invalidate|rename`: about to be ended;
    /// - `x ID HOLDERS`: invalidated;
    /// - `> OLD NEW HOLDERS`: renamed;
    /// - `- REASON`: not confirmed;
    /// - `! ID NAME WHAT`: a read that should not be.
    pub(crate) fn hear(&self, member: u16, line: &str) {
        let mut book = self.lock();
        let holders = |all: &str| all.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        match *line.splitn(5, ' ').collect::<Vec<_>>() {
            ["+", id, name, value, all] => {
                book.count(member);
                let number: u64 = value.parse().expect("a member counts");
                let known = book.entry(id).values.entry(name.to_owned()).or_default();
                if number >= known.number {
                    *known = Value { number, holders: holders(all) };
                }
            }
            ["~", id, how] => {
                let entry = book.entry(id);
                if !matches!(entry.end, End::Confirmed { .. }) {
                    entry.end = End::Begun { to_rename: how == "rename" };
                }
            }
            ["x", id, all] => {
                book.count(member);
                book.invalidated += 1;
                book.entry(id).end = End::Confirmed { holders: holders(all) };
            }
            [">", old, new, all] => {
                book.count(member);
                book.renamed += 1;
                book.rename(old, new, &holders(all));
            }
            ["-", ..] => *book.failures.entry(line[2..].to_owned()).or_default() += 1,
            ["!", id, name, ..] => {
                let text = format!("member {member}: {}", &line[2..]);
                book.complaints.push(Complaint { id: id.to_owned(), name: name.to_owned(), text });
            }
            _ => return,
        }
        self.news.notify_all();
    }

    /// What must be found from now on.
    pub(crate) fn confirmed(&self) -> Confirmed {
        self.confirmed_of(ENDED_READ)
    }

    /// The sessions there are, oldest first, each with the value of this attribute that was confirmed last.
    pub(crate) fn last_of(&self, name: &str) -> Vec<(String, u64)> {
        let book = self.lock();
        let mut all: Vec<_> = book.sessions.iter().filter(|(_, entry)| matches!(entry.end, End::None)).collect();
        all.sort_by_key(|(_, entry)| entry.age);
        all.into_iter().map(|(id, entry)| (id.clone(), entry.values.get(name).map_or(0, |value| value.number))).collect()
    }

    /// How many sessions there have been so far.
    pub(crate) fn known(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Waits until each of these members has had so many more commits confirmed.
    pub(crate) fn wait_for_commits(&self, members: &[&Node], more: u64) {
        let deadline = now() + DEADLINE;
        let mut book = self.lock();
        let goal: Vec<_> = members.iter().map(|node| (node.number, book.by_member_of(node.number) + more)).collect();
        while goal.iter().any(|(member, goal)| book.by_member_of(*member) < *goal) {
            let left = deadline.saturating_duration_since(now());
            let Book { by_member, failures, .. } = &*book;
            assert!(!left.is_zero(), "commits are not confirmed any more; goal {goal:?}, now {by_member:?}, {failures:?}");
            book = self.news.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A second member was killed before everything had its copies again. Must still be found: what somebody has confirmed who lives, and
    /// who had the session shortly before, as `held` says, or the session came after the first `known` ones. For no receipt speaks of
    /// more crashes than it has names, and who is no holder of a session lets go of it when the holders have it.
    pub(crate) fn excuse(&self, held: &BTreeMap<Process, BTreeSet<String>>, known: usize) {
        let book = &mut *self.lock();
        for (id, entry) in &mut book.sessions {
            match &entry.end {
                End::None | End::Begun { .. } => {}
                End::Confirmed { holders } if !holders.iter().all(|holder| held.contains_key(holder)) => {
                    entry.end = End::Unknown;
                    continue;
                }
                End::Confirmed { .. } | End::Unknown => continue,
            }
            let having: BTreeSet<_> =
                held.iter().filter(|(_, ids)| ids.contains(id) || entry.age >= known).map(|(process, _)| process).collect();
            let before = entry.values.len();
            entry.values.retain(|name, value| {
                let kept = having.iter().any(|process| value.holders.is_empty() || value.holders.contains(*process));
                if !kept {
                    book.excused.insert((id.clone(), name.clone()));
                }
                kept
            });
            book.excused_in_all += before - entry.values.len();
            entry.excused |= entry.values.is_empty();
        }
    }

    /// Everybody is quiet, and everything has its copies: finds out what came of the sessions that somebody was about to end, reads all
    /// through each member, and judges what members have found meanwhile. What was confirmed so far survives one more crash.
    pub(crate) fn settle(&self, nodes: &[Node]) {
        self.find_out(nodes);
        let confirmed = self.confirmed();
        nodes.iter().for_each(|node| self.verify(node, &confirmed));
        let mut book = self.lock();
        let complaints = std::mem::take(&mut book.complaints);
        let wrong = complaints.iter().filter(|complaint| book.is_wrong(complaint)).map(|complaint| &complaint.text);
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        book.excused.clear();
        for entry in book.sessions.values_mut() {
            entry.excused = false;
            entry.values.values_mut().for_each(|value| value.holders.clear());
            if let End::Confirmed { holders } = &mut entry.end {
                holders.clear();
            }
        }
    }

    /// As [`settle`](Self::settle), and no session that has ever ended is back on any member.
    pub(crate) fn finish(&self, nodes: &[Node]) {
        self.settle(nodes);
        let confirmed = self.confirmed_of(usize::MAX);
        assert!(!confirmed.values.is_empty(), "there was load");
        nodes.iter().for_each(|node| self.verify(node, &confirmed));
    }

    /// Reads all sessions through a member, and compares them with what had been confirmed before. Each must be there at once. A value
    /// that is behind has until the deadline to catch up: a receipt says who holds a change, not that nobody reads an older one
    /// while a member is failing. The same holds for a session that has ended.
    pub(crate) fn verify(&self, reader: &Node, confirmed: &Confirmed) {
        let Confirmed { values, ended } = confirmed;
        let mut found = read(reader, values);
        let there: BTreeSet<_> = found.keys().map(|(id, _)| id).collect();
        let gone: BTreeSet<_> = values.keys().map(|(id, _)| id).filter(|id| !there.contains(id)).collect();
        self.wait_for_the_end_of(gone, reader);
        let mut missing = values.clone();
        let deadline = now() + DEADLINE;
        for turn in 0.. {
            self.retain_what_counts(&mut missing, &found);
            if missing.is_empty() {
                break;
            }
            self.lock().behind += if turn == 0 { missing.len() } else { 0 };
            let shown: Vec<_> = missing.iter().take(5).map(|(key, value)| (key, value, found.get(key))).collect();
            assert!(now() < deadline, "{reader:?}: {} of {} lost, like {shown:?}", missing.len(), values.len());
            found = read(reader, &missing);
        }
        let mut back = wanted(ended);
        for turn in 0.. {
            let found = read(reader, &back);
            if found.is_empty() {
                break;
            }
            back = wanted(found.keys().map(|(id, _)| id));
            self.lock().behind += if turn == 0 { back.len() } else { 0 };
            assert!(now() < deadline, "{reader:?}: sessions that have ended are back: {found:?}");
        }
    }

    /// Reads that found less than had been confirmed, for a moment.
    pub(crate) fn behind(&self) -> usize {
        self.lock().behind
    }

    /// For the log of the test.
    pub(crate) fn summary(&self) -> String {
        let Book { sessions, commits, invalidated, renamed, failures, behind, excused_in_all: excused, .. } = &*self.lock();
        let alive = sessions.values().filter(|entry| matches!(entry.end, End::None)).count();
        format!(
            "{} sessions, {alive} of them alive, {renamed} renamed, {invalidated} invalidated; {commits} commits confirmed; {excused} values \
             not counted, as all who had them were killed; {behind} reads behind for a moment; not confirmed: {failures:?}; none lost",
            sessions.len()
        )
    }

    fn confirmed_of(&self, ended: usize) -> Confirmed {
        let book = self.lock();
        let mut dead: Vec<_> = book.sessions.iter().filter(|(_, entry)| matches!(entry.end, End::Confirmed { .. })).collect();
        dead.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.age));
        let ended = dead.into_iter().take(ended).map(|(id, _)| id.clone()).collect();
        let alive = book.sessions.iter().filter(|(_, entry)| matches!(entry.end, End::None));
        let values = alive
            .flat_map(|(id, entry)| entry.values.iter().map(|(name, value)| ((id.clone(), name.clone()), value.number)))
            .collect();
        Confirmed { values, ended }
    }

    /// Of what was not found yet, what must be: somebody may have ended a session meanwhile.
    fn retain_what_counts(&self, missing: &mut Values, found: &Values) {
        missing.retain(|key, value| found.get(key).is_none_or(|found| found < value));
        let book = self.lock();
        missing.retain(|(id, name), _| book.counts(id) && !book.excused.contains(&(id.clone(), name.clone())));
    }

    /// These were not found. Somebody may be ending them right now; then that is heard of.
    fn wait_for_the_end_of(&self, mut gone: BTreeSet<&String>, reader: &Node) {
        let deadline = now() + DEADLINE / 10;
        let mut book = self.lock();
        loop {
            gone.retain(|id| book.counts(id));
            if gone.is_empty() {
                return;
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                let entries: Vec<_> = gone.iter().take(5).map(|id| (id, &book.sessions[*id])).collect();
                panic!("{reader:?} says that there are no such sessions: {} like {entries:?}", gone.len());
            }
            book = self.news.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What came of the sessions that somebody was about to end when it was killed, or was not confirmed: they are there as they were,
    /// or gone, or have another id.
    fn find_out(&self, nodes: &[Node]) {
        let open: Vec<_> = {
            let book = self.lock();
            let open = book.sessions.iter().filter(|(_, entry)| match entry.end {
                End::None => entry.excused,
                End::Begun { .. } => true,
                End::Confirmed { .. } | End::Unknown => false,
            });
            open.map(|(id, _)| id.clone()).collect()
        };
        if open.is_empty() {
            return;
        }
        let there: BTreeSet<_> = read(&nodes[0], &wanted(&open)).into_keys().map(|(id, _)| id).collect();
        let renamed = nodes.iter().map(|node| node.ask(&format!("renamed {}", open.join(" "))));
        let renamed: Vec<_> = renamed.collect::<Vec<_>>().join(" ").split_whitespace().map(str::to_owned).collect();
        let renamed: BTreeMap<_, _> = renamed.iter().filter_map(|pair| pair.split_once('=')).collect();
        let mut book = self.lock();
        for id in &open {
            let entry = book.entry(id);
            let (begun, excused) = (std::mem::take(&mut entry.end), entry.excused);
            let (confirmed, other) = (!entry.values.is_empty(), renamed.get(id.as_str()));
            assert!(!there.contains(id) || other.is_none(), "{id} is there, and has another id as well: {other:?}");
            if there.contains(id) {
                continue;
            }
            entry.end = End::Confirmed { holders: BTreeSet::new() };
            match (begun, other) {
                (_, Some(new)) => book.rename(id, new, &BTreeSet::new()),
                (End::Begun { to_rename: false }, None) => {}
                // It was never confirmed, or those to whom it was are dead.
                (_, None) if excused || !confirmed => entry.end = End::Unknown,
                (_, None) => panic!("{id} was to have another id, and is gone: {:?}", book.sessions[id]),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn entry(&mut self, id: &str) -> &mut Entry {
        let age = self.sessions.len();
        self.sessions.entry(id.to_owned()).or_insert_with(|| Entry { age, ..Entry::default() })
    }

    fn count(&mut self, member: u16) {
        self.commits += 1;
        *self.by_member.entry(member).or_default() += 1;
    }

    /// What was confirmed under the old id is now held under the new one.
    fn rename(&mut self, old: &str, new: &str, holders: &BTreeSet<Process>) {
        let entry = self.entry(old);
        entry.end = End::Confirmed { holders: holders.clone() };
        let mut values = std::mem::take(&mut entry.values);
        values.values_mut().for_each(|value| value.holders.clone_from(holders));
        self.entry(new).values = values;
    }

    fn by_member_of(&self, member: u16) -> u64 {
        self.by_member.get(&member).copied().unwrap_or_default()
    }

    /// Whether a session must be found.
    fn counts(&self, id: &str) -> bool {
        self.sessions.get(id).is_some_and(|entry| matches!(entry.end, End::None) && !entry.excused)
    }

    fn is_wrong(&self, Complaint { id, name, .. }: &Complaint) -> bool {
        self.counts(id) && !self.excused.contains(&(id.clone(), name.clone()))
    }
}

/// These sessions, whatever they have.
fn wanted<'a>(ids: impl IntoIterator<Item = &'a String>) -> Values {
    ids.into_iter().map(|id| ((id.clone(), String::new()), 0)).collect()
}

/// What a member finds of these sessions.
fn read(reader: &Node, wanted: &Values) -> Values {
    let ids: BTreeSet<_> = wanted.keys().map(|(id, _)| id.as_str()).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut found = Values::new();
    // Not too many for the time that one answer may take.
    for some in ids.chunks(50) {
        let all = reader.ask(&format!("read {}", some.join(" ")));
        for session in all.split(' ').filter(|session| !session.is_empty()) {
            let (id, attributes) = session.split_once(':').unwrap_or_else(|| panic!("{reader:?} reads {all}"));
            // A session without attributes is there as well.
            let pairs = attributes.split(',').filter_map(|pair| pair.split_once('='));
            for (name, value) in pairs.chain([("", "0")]) {
                found.insert((id.to_owned(), name.to_owned()), value.parse().unwrap_or_default());
            }
        }
    }
    found
}
