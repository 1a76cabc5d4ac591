//! The duplicate filter: recognises a message that was sent again, and answers it with the first outcome.
//!
//! A sender that lost a connection, or got a negative acknowledgement, sends a frame again with the same message id: Tribes once, as it
//! always did, this crate until the message's time is over. A message whose sender waits for no answer is never sent again, and
//! is not looked at. No I/O and no clock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hash::{ById, Keyed};
use crate::id::UniqueId;
use crate::message::Message;
use crate::options::Acknowledgement;
use crate::stack::{Answer, Inbound, Reply};

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DuplicateLimits {
    /// Messages of one sender.
    pub(crate) messages: usize,
    /// Senders; the one that was silent longest is forgotten first.
    pub(crate) senders: usize,
    /// Messages of all senders together, some 50 bytes each.
    pub(crate) total: usize,
    /// Repeats of one message that wait for its outcome; others are rejected.
    pub(crate) waiting: usize,
}

impl Default for DuplicateLimits {
    fn default() -> Self {
        Self { messages: 4096, senders: 1024, total: 256 * 1024, waiting: 8 }
    }
}

/// What became of a message that came in.
#[derive(Debug)]
#[must_use]
pub(crate) enum Admission {
    /// It is new, or nobody waits for its answer: it goes up. Its answer is remembered on the way.
    Fresh(Inbound),
    /// It was here before: it is answered, or will be when the first is, and goes no further.
    Repeat,
}

/// What a [`Duplicates`] did, and what it remembers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct DuplicateStats {
    /// Messages recognised as sent again.
    pub(crate) repeats: u64,
    /// Repeats rejected because too many waited already.
    pub(crate) rejected: u64,
    /// Senders forgotten to make room.
    pub(crate) forgotten: u64,
    /// Senders remembered.
    pub(crate) senders: usize,
    /// Messages remembered.
    pub(crate) messages: usize,
}

/// Remembers the messages that came lately. Cheap to clone, shared by all threads.
#[derive(Clone, Debug)]
pub(crate) struct Duplicates(Arc<Filter>);

#[derive(Debug)]
struct Filter {
    limits: DuplicateLimits,
    hasher: Keyed,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    senders: ById<Sender>,
    /// Messages of all senders.
    messages: usize,
    /// Counts admissions, to tell who was silent longest.
    now: u64,
    /// Messages that are being handled, by the token of their answer.
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    stats: DuplicateStats,
}

#[derive(Debug)]
struct Sender {
    seen: ById<Outcome, Key>,
    order: VecDeque<Key>,
    last: u64,
}

/// One message of a sender: a hash of its id under a secret key, short for the cache's sake. Two messages of the last 4096 share one
/// once in 10¹⁵. Tribes' fragments share the id of the whole, so length and end count as well: there their numbers stand.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key(u64);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// Known when the answer with this token is given.
    Pending(u32),
    Accepted,
    Rejected,
}

/// Whom a message's outcome is owed to.
#[derive(Debug)]
struct Pending {
    sender: UniqueId,
    key: Key,
    first: Reply,
    repeats: Vec<Reply>,
}

impl Duplicates {
    pub(crate) fn new(limits: DuplicateLimits) -> Self {
        let hasher = Keyed::default();
        let table = Table {
            senders: HashMap::with_hasher(hasher),
            messages: 0,
            now: 0,
            pending: Vec::new(),
            free: Vec::new(),
            stats: DuplicateStats::default(),
        };
        Self(Arc::new(Filter { limits, hasher, table: Mutex::new(table) }))
    }

    /// Decides whether a message goes up.
    pub(crate) fn admit(&self, inbound: Inbound) -> Admission {
        let owed = inbound.message.options().acknowledgement();
        if owed == Acknowledgement::None {
            return Admission::Fresh(inbound);
        }
        let Inbound { message, reply, .. } = inbound;
        let id = message.sender().id();
        let Filter { limits, hasher, .. } = *self.0;
        let key = Key::of(&message, hasher);
        let mut guard = self.0.lock();
        let table = &mut *guard;
        table.now += 1;
        let sender = table.senders.entry(id).or_insert_with(|| Sender::new(hasher));
        sender.last = table.now;
        let outcome = match sender.seen.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let reply = if owed == Acknowledgement::Processed {
                    let pending = Pending { sender: id, key, first: reply, repeats: Vec::new() };
                    let token = hold(&mut table.pending, &mut table.free, pending);
                    place.insert(Outcome::Pending(token));
                    Reply::new(Arc::<Filter>::clone(&self.0), u64::from(token))
                } else {
                    place.insert(Outcome::Accepted);
                    reply
                };
                table.messages += 1;
                sender.order.push_back(key);
                if sender.order.len() > limits.messages
                    && let Some(oldest) = sender.order.pop_front()
                {
                    sender.seen.remove(&oldest);
                    table.messages -= 1;
                }
                table.forget(limits);
                return Admission::Fresh(Inbound::new(message, reply));
            }
        };
        table.stats.repeats += 1;
        let Outcome::Pending(token) = outcome else {
            drop(guard);
            outcome.tell(reply);
            return Admission::Repeat;
        };
        match table.pending.get_mut(token as usize) {
            Some(Some(pending)) if pending.repeats.len() < limits.waiting => pending.repeats.push(reply),
            _ => {
                table.stats.rejected += 1;
                drop(guard);
                reply.reject();
            }
        }
        Admission::Repeat
    }

    pub(crate) fn stats(&self) -> DuplicateStats {
        let table = self.0.lock();
        DuplicateStats { senders: table.senders.len(), messages: table.messages, ..table.stats }
    }
}

impl Filter {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer for Filter {
    fn answer(&self, token: u64, accepted: bool) {
        let outcome = if accepted { Outcome::Accepted } else { Outcome::Rejected };
        let mut table = self.lock();
        let Some(pending) = u32::try_from(token).ok().and_then(|token| table.settle(token, outcome)) else { return };
        // Answering may write to sockets.
        drop(table);
        outcome.tell(pending.first);
        pending.repeats.into_iter().for_each(|reply| outcome.tell(reply));
    }
}

impl Table {
    /// Makes room within the limits.
    fn forget(&mut self, limits: DuplicateLimits) {
        while self.senders.len() > 1 && (self.senders.len() > limits.senders || self.messages > limits.total) {
            let silent = self.senders.iter().min_by_key(|(_, sender)| sender.last).map(|(id, _)| *id);
            let Some(forgotten) = silent.and_then(|id| self.senders.remove(&id)) else { break };
            self.messages -= forgotten.order.len();
            self.stats.forgotten += 1;
        }
    }

    fn settle(&mut self, token: u32, outcome: Outcome) -> Option<Pending> {
        let pending = self.pending.get_mut(token as usize)?.take()?;
        self.free.push(token);
        // Unless it was forgotten meanwhile, and perhaps came again.
        if let Some(known) = self.senders.get_mut(&pending.sender).and_then(|sender| sender.seen.get_mut(&pending.key))
            && *known == Outcome::Pending(token)
        {
            *known = outcome;
        }
        Some(pending)
    }
}

fn hold(table: &mut Vec<Option<Pending>>, free: &mut Vec<u32>, pending: Pending) -> u32 {
    let fresh = || u32::try_from(table.len()).expect("that many messages do not fit into memory");
    let token = free.pop().unwrap_or_else(fresh);
    match table.get_mut(token as usize) {
        Some(place) => *place = Some(pending),
        None => table.push(Some(pending)),
    }
    token
}

impl Sender {
    fn new(hasher: Keyed) -> Self {
        Self { seen: HashMap::with_hasher(hasher), order: VecDeque::new(), last: 0 }
    }
}

impl Key {
    fn of(message: &Message, mut hasher: Keyed) -> Self {
        let body = message.body();
        hasher.write(message.id().as_bytes());
        hasher.write_u64(body.len() as u64);
        if let Some(last) = body.chunks().last() {
            hasher.write(&last[last.len().saturating_sub(32)..]);
        }
        Self(hasher.finish())
    }
}

impl Outcome {
    fn tell(self, reply: Reply) {
        if self == Self::Rejected { reply.reject() } else { reply.accept() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Member;
    use crate::message::Body;
    use crate::options::SendOptions;

    /// Writes the answers down: which message, and whether it was accepted.
    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, bool)>>);

    impl Answer for Log {
        fn answer(&self, token: u64, accepted: bool) {
            self.0.lock().unwrap().push((token, accepted));
        }
    }

    struct Bench {
        filter: Duplicates,
        log: Arc<Log>,
        arrivals: u64,
    }

    impl Bench {
        fn new(limits: DuplicateLimits) -> Self {
            Self { filter: Duplicates::new(limits), log: Arc::default(), arrivals: 0 }
        }

        fn arrive(&mut self, sender: u8, id: u8, options: u32, body: &'static str) -> Option<Inbound> {
            let sender = Member::new("127.0.0.1:4000".parse().unwrap()).with_id(UniqueId::from_bytes([sender; 16]));
            let id = UniqueId::from_bytes([id; 16]);
            let message = Message::from_parts(id, SendOptions::from_bits(options), 0, sender, Body::from(body));
            let reply = if options & 6 == 6 { Reply::new(Arc::<Log>::clone(&self.log), self.arrivals) } else { Reply::none() };
            self.arrivals += 1;
            match self.filter.admit(Inbound::new(message, reply)) {
                Admission::Fresh(inbound) => Some(inbound),
                Admission::Repeat => None,
            }
        }

        fn answers(&self) -> Vec<(u64, bool)> {
            std::mem::take(&mut *self.log.0.lock().unwrap())
        }
    }

    #[test]
    fn which_arrivals_are_repeats() {
        // Sender, id, options, body; whether it is handed up when it follows "1, 1, 6, body".
        let table = [
            (1, 1, 6, "body", false, "the same"),
            (1, 1, 14, "body", false, "the same, sent from a queue"),
            (1, 1, 0, "body", true, "nobody waits for an answer"),
            (2, 1, 6, "body", true, "another sender"),
            (1, 2, 6, "body", true, "another message"),
            (1, 1, 6, "body+", true, "another length"),
            (1, 1, 6, "Body", true, "another fragment"),
        ];
        for (sender, id, options, body, fresh, why) in table {
            let mut bench = Bench::new(DuplicateLimits::default());
            bench.arrive(1, 1, 6, "body").expect("the first").reply.accept();
            assert_eq!(bench.arrive(sender, id, options, body).is_some(), fresh, "{why}");
            assert_eq!(bench.filter.stats().repeats, u64::from(!fresh), "{why}");
        }
    }

    #[test]
    fn only_the_end_of_a_body_tells_fragments_apart() {
        let mut bench = Bench::new(DuplicateLimits::default());
        let long = ["an-x-and-then-thirty-two-characters-to-the-end", "an-y-and-then-thirty-two-characters-to-the-end"];
        assert!(bench.arrive(1, 1, 2, long[0]).is_some());
        assert!(bench.arrive(1, 1, 2, long[1]).is_none(), "an id is not used for two messages");
    }

    #[test]
    fn a_repeat_is_answered_as_the_first_was() {
        for accepted in [true, false] {
            let mut bench = Bench::new(DuplicateLimits::default());
            let first = bench.arrive(1, 1, 6, "x").expect("the first");
            assert!(bench.arrive(1, 1, 6, "x").is_none());
            assert!(bench.answers().is_empty(), "the outcome is not known yet");
            if accepted {
                first.reply.accept()
            } else {
                first.reply.reject()
            }
            assert_eq!(bench.answers(), [(0, accepted), (1, accepted)]);
            assert!(bench.arrive(1, 1, 6, "x").is_none());
            assert_eq!(bench.answers(), [(2, accepted)]);
        }
    }

    #[test]
    fn a_repeat_that_was_answered_on_receipt_is_only_dropped() {
        let mut bench = Bench::new(DuplicateLimits::default());
        assert!(bench.arrive(1, 1, 2, "x").is_some());
        assert!(bench.arrive(1, 1, 2, "x").is_none());
        assert!(bench.answers().is_empty());
    }

    #[test]
    fn only_so_many_repeats_wait() {
        let mut bench = Bench::new(DuplicateLimits { waiting: 2, ..DuplicateLimits::default() });
        let first = bench.arrive(1, 1, 6, "x").expect("the first");
        for _ in 0..3 {
            assert!(bench.arrive(1, 1, 6, "x").is_none());
        }
        assert_eq!(bench.answers(), [(3, false)]);
        drop(first);
        assert_eq!(bench.answers(), [(0, true), (1, true), (2, true)]);
        assert_eq!(bench.filter.stats().rejected, 1);
    }

    #[test]
    fn the_oldest_of_a_sender_is_forgotten_even_while_it_is_handled() {
        let mut bench = Bench::new(DuplicateLimits { messages: 2, ..DuplicateLimits::default() });
        let held: Vec<_> = (1..=3).map(|id| bench.arrive(1, id, 6, "x").expect("new")).collect();
        assert_eq!(bench.filter.stats().messages, 2);
        let again = bench.arrive(1, 1, 6, "x").expect("forgotten, so new");
        drop(held);
        assert_eq!(bench.answers(), [(0, true), (1, true), (2, true)]);
        assert!(bench.arrive(1, 1, 6, "x").is_none(), "its second coming is known");
        again.reply.reject();
        assert_eq!(bench.answers(), [(3, false), (4, false)], "and has an outcome of its own");
    }

    #[test]
    fn the_sender_that_was_silent_longest_is_forgotten() {
        for limits in [
            DuplicateLimits { senders: 2, ..DuplicateLimits::default() },
            DuplicateLimits { total: 2, ..DuplicateLimits::default() },
        ] {
            let mut bench = Bench::new(limits);
            for (sender, fresh) in [(1, true), (2, true), (1, false), (3, true), (1, false), (2, true), (3, true)] {
                assert_eq!(bench.arrive(sender, 1, 2, "x").is_some(), fresh, "sender {sender}");
            }
            assert_eq!(bench.filter.stats(), DuplicateStats { repeats: 2, rejected: 0, forgotten: 3, senders: 2, messages: 2 });
        }
    }

    #[test]
    fn tokens_are_used_again() {
        let mut bench = Bench::new(DuplicateLimits::default());
        for id in 0..100 {
            drop(bench.arrive(1, id, 6, "x"));
        }
        assert_eq!(bench.filter.0.lock().pending.len(), 1);
    }
}
