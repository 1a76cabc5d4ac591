//! What the load of all members has reported: which value of which attribute was confirmed last. Nothing of that may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::node::{DEADLINE, Node, now};

/// Attributes, by session and name, with the value that was confirmed last. Values only grow.
pub(crate) type Confirmed = BTreeMap<(String, String), u64>;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Book {
    confirmed: Confirmed,
    commits: u64,
    /// How many each member has had confirmed.
    by_member: BTreeMap<u16, u64>,
    failures: BTreeMap<String, u64>,
    /// Values that were older than what had been confirmed, for a moment.
    behind: usize,
    /// What must never be.
    violations: Vec<String>,
}

impl Ledger {
    /// Takes a line of a member's load: `+ ID NAME VALUE`, confirmed; `- REASON`, not confirmed; `! WHAT`, must not be.
    pub(crate) fn hear(&self, member: u16, line: &str) {
        let mut book = self.lock();
        match *line.split(' ').collect::<Vec<_>>() {
            ["+", id, name, value] => {
                let value: u64 = value.parse().expect("a member counts");
                let known = book.confirmed.entry((id.to_owned(), name.to_owned())).or_default();
                *known = value.max(*known);
                book.commits += 1;
                *book.by_member.entry(member).or_default() += 1;
            }
            ["-", ..] => *book.failures.entry(line[2..].to_owned()).or_default() += 1,
            ["!", ..] => book.violations.push(format!("member {member}: {}", &line[2..])),
            _ => return,
        }
        self.news.notify_all();
    }

    pub(crate) fn confirmed(&self) -> Confirmed {
        self.lock().confirmed.clone()
    }

    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.lock().confirmed.keys().map(|(id, _)| id.clone()).collect()
    }

    /// Waits until each of these members has had so many more commits confirmed.
    pub(crate) fn wait_for_commits(&self, members: &[&Node], more: u64) {
        let deadline = now() + DEADLINE;
        let mut book = self.lock();
        let goal: Vec<_> = members.iter().map(|node| (node.number, book.by_member_of(node.number) + more)).collect();
        while goal.iter().any(|(member, goal)| book.by_member_of(*member) < *goal) {
            let left = deadline.saturating_duration_since(now());
            assert!(!left.is_zero(), "commits are not confirmed any more; goal {goal:?}, now {:?}", book.by_member);
            book = self.news.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reads all sessions through a member, and compares them with what had been confirmed before. Each must be there at once. A value
    /// that is behind has until the deadline to catch up: a receipt says who holds a change, not that nobody reads an older one
    /// while a member is failing.
    pub(crate) fn verify(&self, reader: &Node, confirmed: &Confirmed) {
        let mut found = read(reader, confirmed);
        let there: BTreeSet<_> = found.keys().map(|(id, _)| id).collect();
        let gone: BTreeSet<_> = confirmed.keys().map(|(id, _)| id).filter(|id| !there.contains(id)).collect();
        assert!(gone.is_empty(), "{reader:?} says that there are no such sessions: {gone:?}");
        let mut missing = confirmed.clone();
        missing.retain(|key, value| found.get(key).is_none_or(|found| found < value));
        self.lock().behind += missing.len();
        let deadline = now() + DEADLINE;
        while !missing.is_empty() {
            let shown: Vec<_> = missing.iter().take(5).map(|(key, value)| (key, value, found.get(key))).collect();
            assert!(now() < deadline, "{reader:?}: {} of {} lost, like {shown:?}", missing.len(), confirmed.len());
            found = read(reader, &missing);
            missing.retain(|key, value| found.get(key).is_none_or(|found| found < value));
        }
        let book = self.lock();
        assert!(book.violations.is_empty(), "{:?}", book.violations);
    }

    /// For the log of the test.
    pub(crate) fn summary(&self) -> String {
        let book = self.lock();
        let sessions = book.confirmed.keys().map(|(id, _)| id).collect::<BTreeSet<_>>().len();
        let Book { commits, behind, failures, .. } = &*book;
        format!(
            "{sessions} sessions, {commits} commits confirmed, {behind} reads were behind for a moment, not confirmed: {failures:?}; none lost"
        )
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn by_member_of(&self, member: u16) -> u64 {
        self.by_member.get(&member).copied().unwrap_or_default()
    }
}

/// What a member finds of these sessions.
fn read(reader: &Node, wanted: &Confirmed) -> Confirmed {
    let ids: BTreeSet<_> = wanted.keys().map(|(id, _)| id.as_str()).collect();
    let all = reader.ask(&format!("read {}", ids.into_iter().collect::<Vec<_>>().join(" ")));
    let mut found = Confirmed::new();
    for session in all.split(' ').filter(|session| !session.is_empty()) {
        let (id, attributes) = session.split_once(':').unwrap_or_else(|| panic!("{reader:?} reads {all}"));
        for (name, value) in attributes.split(',').filter_map(|pair| pair.split_once('=')) {
            found.insert((id.to_owned(), name.to_owned()), value.parse().unwrap_or_default());
        }
    }
    found
}
