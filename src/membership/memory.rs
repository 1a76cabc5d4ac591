//! Members of one process, without sockets: for tests, and for several nodes in one program.
//!
//! ```
//! use tribes::Member;
//! use tribes::membership::memory::Hub;
//! let hub = Hub::new();
//! let membership = hub.membership();   // one for each channel
//! let (a, b) = (Member::new("10.0.0.1:4000".parse()?), Member::new("10.0.0.2:4000".parse()?));
//! hub.partition(a.address(), b.address());
//! // a and b, once started, do not see each other, until
//! hub.heal();
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::inbox::{Inbox, Item};
use super::{MemberSink, Membership, MembershipStats, Mode};
use crate::id::mix;
use crate::member::Member;
use crate::stack::{Departure, Event};

/// A group in memory: its memberships see each other, but for the faults that are injected here. Cheap to clone.
///
/// A change is seen by all before the call that made it returns, unless another thread is telling the same member something: then
/// that thread tells it. Faults name members by address, so that they outlast a restart.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<State>>);

/// A membership on a [`Hub`].
#[derive(Debug)]
pub struct Memory {
    hub: Hub,
    key: Option<u64>,
}

#[derive(Default)]
struct State {
    next: u64,
    nodes: BTreeMap<u64, Node>,
    /// Pairs that do not hear each other, the lower address first.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
}

struct Node {
    local: Member,
    mode: Mode,
    crashed: bool,
    seen: BTreeMap<u64, Member>,
    inbox: Arc<Inbox>,
}

impl Hub {
    /// A group of nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A membership of this group, for one node.
    #[must_use]
    pub fn membership(&self) -> Memory {
        Memory { hub: self.clone(), key: None }
    }

    /// Keeps the members at two addresses from hearing each other: each finds that the other failed.
    pub fn partition(&self, a: SocketAddr, b: SocketAddr) {
        self.change(|state| {
            state.cut.insert((a.min(b), a.max(b)));
        });
    }

    /// Keeps the member at this address from hearing all others that are there now, and them from hearing it.
    pub fn isolate(&self, member: SocketAddr) {
        self.change(|state| {
            let others = state.addresses().into_iter().filter(|other| *other != member);
            state.cut.extend(others.map(|other| (member.min(other), member.max(other))));
        });
    }

    /// Splits those that are there now into two sides that do not hear each other: the same seed and the same addresses give the
    /// same sides. Returns them; both have members if there are two or more.
    pub fn split(&self, seed: u64) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let mut sides = (Vec::new(), Vec::new());
        self.change(|state| {
            let mut order: Vec<_> = state.addresses().into_iter().enumerate().collect();
            order.sort_by_key(|(at, _)| mix(seed ^ mix(*at as u64)));
            let order: Vec<_> = order.into_iter().map(|(_, address)| address).collect();
            let at = match order.len() {
                0 | 1 => order.len(),
                len => 1 + usize::try_from(mix(seed) % (len as u64 - 1)).expect("less than the number of members"),
            };
            sides = (order[..at].to_vec(), order[at..].to_vec());
            for a in &sides.0 {
                state.cut.extend(sides.1.iter().map(|b| (*a.min(b), *a.max(b))));
            }
        });
        sides
    }

    /// Undoes every partition: those that are cut off find each other again. The crashed stay so.
    pub fn heal(&self) {
        self.change(|state| state.cut.clear());
    }

    /// Kills the member at this address without a goodbye: the others find that it failed, and it sees nothing any more. Its
    /// membership can be stopped and started again.
    pub fn crash(&self, member: SocketAddr) {
        self.change(|state| {
            for node in state.nodes.values_mut().filter(|node| node.local.address() == member) {
                node.crash();
            }
        });
    }

    /// Makes a change, works out who sees what of it, and tells them, outside the lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let inboxes = state.reconcile();
        drop(state);
        inboxes.iter().for_each(|inbox| inbox.deliver());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.nodes.values().filter(|node| !node.crashed).map(|node| node.local.address()).collect()
    }

    fn hears(&self, a: &Node, b: &Node) -> bool {
        let (a, b) = (a.local.address(), b.local.address());
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Queues for each node what differs between what it has seen and what it sees now; returns the queues.
    fn reconcile(&mut self) -> Vec<Arc<Inbox>> {
        let mut views = Vec::new();
        for (key, node) in self.nodes.iter().filter(|(_, node)| !node.crashed) {
            let others = self.nodes.iter().filter(|(other, _)| *other != key);
            let heard = others.filter(|(_, other)| !other.crashed && other.mode == Mode::Full && self.hears(node, other));
            views.push((*key, heard.map(|(other, node)| (*other, node.local.clone())).collect::<BTreeMap<_, _>>()));
        }
        let mut inboxes = Vec::new();
        for (key, view) in views {
            let node = self.nodes.get_mut(&key).expect("it was there a moment ago");
            let gone = node.seen.iter().filter(|(other, _)| !view.contains_key(other));
            node.inbox.push(gone.map(|(_, member)| Item::Event(Event::Removed(member.clone(), Departure::Failed))));
            node.inbox.push(view.iter().filter_map(|(other, member)| match node.seen.get(other) {
                None => Some(Item::Event(Event::Added(member.clone()))),
                Some(seen) if !seen.same_value(member) => Some(Item::Event(Event::Updated(member.clone()))),
                Some(_) => None,
            }));
            node.seen = view;
            inboxes.push(Arc::clone(&node.inbox));
        }
        inboxes
    }

    /// Takes a node out that says goodbye to those who hear it.
    fn leave(&mut self, key: u64) {
        let Some(node) = self.nodes.remove(&key) else { return };
        node.inbox.close();
        for other in self.nodes.values_mut() {
            if let Some(member) = other.seen.remove(&key) {
                other.inbox.push([Item::Event(Event::Removed(member, Departure::Left))]);
            }
        }
    }
}

impl Node {
    fn crash(&mut self) {
        self.crashed = true;
        self.inbox.close();
    }
}

impl Memory {
    fn key(&self) -> io::Result<u64> {
        self.key.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Membership for Memory {
    fn start(&mut self, local: &Member, mode: Mode, sink: MemberSink) -> io::Result<()> {
        if self.key.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the membership has started already"));
        }
        self.hub.change(|state| {
            if mode == Mode::Full {
                // Whoever had the address before is gone, or we could not have it.
                let before = state.nodes.values_mut().filter(|node| node.mode == mode && node.local.address() == local.address());
                before.for_each(Node::crash);
            }
            state.next += 1;
            self.key = Some(state.next);
            let inbox = Arc::new(Inbox::new(sink));
            state.nodes.insert(state.next, Node { local: local.clone(), mode, crashed: false, seen: BTreeMap::new(), inbox });
        });
        Ok(())
    }

    fn announce(&mut self, local: &Member) -> io::Result<()> {
        let key = self.key()?;
        self.hub.change(|state| {
            if let Some(node) = state.nodes.get_mut(&key) {
                node.local = local.clone();
            }
        });
        Ok(())
    }

    fn broadcast(&mut self, frame: Bytes) -> io::Result<()> {
        let key = self.key()?;
        self.hub.change(|state| {
            let Some(node) = state.nodes.get(&key).filter(|node| !node.crashed) else { return };
            let others = state.nodes.iter().filter(|(other, _)| **other != key);
            for (_, other) in others.filter(|(_, other)| state.hears(node, other)) {
                other.inbox.push([Item::Broadcast(frame.clone())]);
            }
        });
        Ok(())
    }

    fn stop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let inbox = self.hub.lock().nodes.get(&key).map(|node| Arc::clone(&node.inbox));
        self.hub.change(|state| state.leave(key));
        if let Some(inbox) = inbox {
            inbox.finish();
        }
    }

    fn stats(&self) -> MembershipStats {
        let members = self.key.and_then(|key| Some(self.hub.lock().nodes.get(&key)?.seen.len()));
        MembershipStats { members: members.unwrap_or_default(), ..MembershipStats::default() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let nodes: Vec<_> = state.nodes.values().map(|node| &node.local).collect();
        f.debug_struct("Hub").field("members", &nodes).field("cut", &state.cut).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MemberHandler;

    /// Keeps what it was told, and may call back into the hub.
    #[derive(Default)]
    struct Told {
        events: Mutex<Vec<Event>>,
        on_added: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl Told {
        fn take(&self) -> Vec<Event> {
            std::mem::take(&mut self.events.lock().unwrap())
        }
    }

    impl MemberHandler for Told {
        fn event(&self, event: Event) {
            let added = matches!(event, Event::Added(_));
            self.events.lock().unwrap().push(event);
            let call = self.on_added.lock().unwrap().take_if(|_| added);
            if let Some(call) = call {
                call();
            }
        }

        fn broadcast(&self, _datagram: Bytes) {}
    }

    fn start(hub: &Hub, host: u8) -> (Memory, Member, Arc<Told>) {
        let (mut node, told) = (hub.membership(), Arc::new(Told::default()));
        let member = Member::new(([10, 0, 0, host], 4000).into());
        node.start(&member, Mode::Full, MemberSink::new(Arc::<Told>::clone(&told))).unwrap();
        (node, member, told)
    }

    fn failed(member: &Member) -> Event {
        Event::Removed(member.clone(), Departure::Failed)
    }

    #[test]
    fn a_partition_is_seen_from_both_sides_and_heals() {
        let hub = Hub::new();
        let [(_a, a, a_told), (_b, b, b_told), (_c, _, c_told)] = [1, 2, 3].map(|host| start(&hub, host));
        for told in [&a_told, &b_told, &c_told] {
            told.take();
        }
        hub.partition(a.address(), b.address());
        assert_eq!((a_told.take(), b_told.take(), c_told.take()), (vec![failed(&b)], vec![failed(&a)], vec![]));
        hub.heal();
        assert_eq!(a_told.take(), [Event::Added(b.clone())]);
        hub.isolate(a.address());
        assert_eq!(a_told.take().len(), 2);
        assert_eq!(c_told.take(), [failed(&a)]);
    }

    #[test]
    fn a_crash_is_a_failure_and_silence() {
        let hub = Hub::new();
        let [(_a, a, a_told), (_b, b, b_told)] = [1, 2].map(|host| start(&hub, host));
        for told in [&a_told, &b_told] {
            told.take();
        }
        hub.crash(a.address());
        assert_eq!((a_told.take(), b_told.take()), (vec![], vec![failed(&a)]));
        hub.heal();
        assert_eq!(b_told.take(), [], "healing wakes no dead");
        let (_again, again, again_told) = start(&hub, 1);
        assert_eq!(b_told.take(), [Event::Added(again.clone())]);
        assert_eq!(again_told.take(), [Event::Added(b)]);
    }

    #[test]
    fn the_same_seed_splits_the_same_way() {
        let sides = |seed| {
            let hub = Hub::new();
            let nodes: Vec<_> = (1..=5).map(|host| start(&hub, host)).collect();
            let sides = hub.split(seed);
            for (_, member, told) in &nodes {
                let side = if sides.0.contains(&member.address()) { &sides.0 } else { &sides.1 };
                let seen = told.take().into_iter().fold(0_usize, |seen, event| match event {
                    Event::Added(_) => seen + 1,
                    _ => seen - 1,
                });
                assert_eq!(seen, side.len() - 1, "everybody sees its own side");
            }
            sides
        };
        for seed in 0..20 {
            assert_eq!(sides(seed), sides(seed));
            assert!(!sides(seed).0.is_empty() && !sides(seed).1.is_empty());
        }
        assert!((1..20).any(|seed| sides(seed) != sides(0)));
    }

    #[test]
    fn a_handler_may_call_back() {
        let hub = Hub::new();
        let (_a, a, told) = start(&hub, 1);
        let (mut b, _, _) = start(&hub, 2);
        let again = hub.clone();
        *told.on_added.lock().unwrap() = Some(Box::new(move || {
            again.crash(a.address());
            b.stop();
        }));
        let (_c, c, c_told) = start(&hub, 3);
        assert!(told.take().contains(&Event::Added(c)));
        let departures: Vec<_> = c_told.take().into_iter().filter(|event| matches!(event, Event::Removed(..))).collect();
        assert_eq!(departures.len(), 2);
    }
}
