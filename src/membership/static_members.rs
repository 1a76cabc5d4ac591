//! A fixed list of members, for networks without multicast.
//!
//! Nobody is heard here, so nobody expires: the members of the list are there until they are taken off it. Put a
//! `TcpFailureDetector` into the stack, which probes them and hides those that do not answer.
//!
//! ```
//! use std::net::SocketAddr;
//! use tribes::membership::static_members::StaticMembers;
//! let membership = StaticMembers::new(["10.0.0.1:4000".parse::<SocketAddr>()?, "10.0.0.2:4000".parse()?]);
//! let list = membership.handle();          // to change the list later
//! list.add("10.0.0.3:4000".parse::<SocketAddr>()?);
//! assert!(list.remove("10.0.0.1:4000".parse()?));
//! assert_eq!(list.members().len(), 2);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # Ids
//!
//! The id of a process is new at every boot, so a list can hardly know it. A member that is given by its address alone is a
//! [placeholder](Member::is_placeholder) at first. Its id is derived from the address: it is the same on every node, and has no
//! capabilities. Messages go to the address and reach whoever is there.
//!
//! Each message carries its sender. The first one from an address of the list, which may be the probe of a `TcpFailureDetector`, puts the
//! real member in the place of the placeholder: the real member is added, with its capabilities, payload and domain, and the placeholder is
//! removed as [`Identified`](Departure::Identified). The same happens when a member has restarted under its address and the new process
//! sends its first message; the former member is then removed as [`Failed`](Departure::Failed). A member whose payload has changed is
//! updated. The address on the list must be the one that the member announces: the one that it is bound to, or the one given to
//! `ChannelBuilder::advertise`.
//!
//! Senders are not authenticated. Whoever can connect can claim to be at an address of the list, until the real member sends again, but at no
//! other address. A member that is given whole, as a [`Member`] with its id (Tribes: `StaticMember` with `uniqueId`), stays as it was given,
//! whatever is sent from its address.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inbox::{Inbox, Item};
use super::{MemberSink, Membership, MembershipStats, Mode};
pub use crate::id::placeholder_id;
use crate::member::Member;
use crate::stack::{Departure, Event};

/// A membership that is a list. Every node has all addresses, its own among them or not: it is skipped.
#[derive(Debug, Default)]
pub struct StaticMembers {
    list: StaticList,
}

/// Changes the list of a [`StaticMembers`] while it runs, or before. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StaticList(Arc<Mutex<State>>);

/// A member of a list: a [`Member`], or an address, where a [placeholder](placeholder_id) stands until it is known who is there.
#[derive(Clone, Debug)]
pub struct StaticMember(Member);

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<SocketAddr, Listed>,
    running: Option<Running>,
    conflicts: u64,
}

#[derive(Debug)]
struct Listed {
    member: Member,
    /// Whether only its address was given.
    by_address: bool,
}

#[derive(Debug)]
struct Running {
    local: Member,
    told: BTreeMap<SocketAddr, Member>,
    inbox: Arc<Inbox>,
}

impl StaticMembers {
    /// A membership of these members.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = impl Into<StaticMember>>) -> Self {
        let membership = Self::default();
        membership.list.change(|state| members.into_iter().for_each(|member| state.list(member.into().0)));
        membership
    }

    /// A handle to change the list, also while the membership runs.
    #[must_use]
    pub fn handle(&self) -> StaticList {
        self.list.clone()
    }
}

impl StaticList {
    /// Puts a member on the list, in the place of the one at the same address. An address that is there already changes nothing.
    /// The members are told before this returns, or by the thread that is telling something else.
    pub fn add(&self, member: impl Into<StaticMember>) {
        let StaticMember(member) = member.into();
        self.change(|state| state.list(member));
    }

    /// Takes the member at this address off the list: it has left. Tells whether it was there.
    pub fn remove(&self, address: SocketAddr) -> bool {
        let mut removed = false;
        self.change(|state| removed = state.members.remove(&address).is_some());
        removed
    }

    /// The members on the list, by address, as far as it is known who they are; the local one too, if it is there.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.lock().members.values().map(|listed| listed.member.clone()).collect()
    }

    /// Makes a change and tells what it changed, outside the lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let inbox = state.reconcile();
        drop(state);
        if let Some(inbox) = inbox {
            inbox.deliver();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn list(&mut self, member: Member) {
        let (address, by_address) = (member.address(), member.is_placeholder());
        if by_address && self.members.get(&address).is_some_and(|listed| listed.by_address) {
            // It may be known by now who that is.
            return;
        }
        self.members.insert(address, Listed { member, by_address });
    }

    /// A sender says who is at its address.
    fn identify(&mut self, sender: &Member) {
        let Some(local) = self.running.as_ref().map(|running| &running.local) else { return };
        let listed = self.members.get(&sender.address()).is_some_and(|listed| listed.by_address);
        if !listed || sender.address() == local.address() || sender.is_placeholder() || sender.is_leaving() {
            return;
        }
        let mut others = self.members.values().filter(|listed| listed.member.address() != sender.address());
        if sender.id() == local.id() || others.any(|listed| listed.member.id() == sender.id()) {
            // One process has one address.
            self.conflicts += 1;
            return;
        }
        self.members.insert(sender.address(), Listed { member: sender.clone(), by_address: true });
    }

    /// Queues what differs between the list and what was told.
    fn reconcile(&mut self) -> Option<Arc<Inbox>> {
        let running = self.running.as_mut()?;
        let (local, mut told) = (&running.local, std::mem::take(&mut running.told));
        let others = self.members.values().map(|listed| &listed.member);
        for member in others.filter(|member| member.address() != local.address() && member.id() != local.id()) {
            let old = told.remove(&member.address());
            let changes = match old {
                Some(old) if old.same_value(member) => [None, None],
                Some(old) if old == *member => [None, Some(Event::Updated(member.clone()))],
                // For a moment both are there: nobody is to see neither.
                Some(old) if old.is_placeholder() => {
                    [Some(Event::Added(member.clone())), Some(Event::Removed(old, Departure::Identified))]
                }
                // Another id at the same address is another process: the old one must be gone.
                Some(old) => [Some(Event::Removed(old, Departure::Failed)), Some(Event::Added(member.clone()))],
                None => [None, Some(Event::Added(member.clone()))],
            };
            running.inbox.push(changes.into_iter().flatten().map(Item::Event));
            running.told.insert(member.address(), member.clone());
        }
        running.inbox.push(told.into_values().map(|member| Item::Event(Event::Removed(member, Departure::Left))));
        Some(Arc::clone(&running.inbox))
    }
}

impl Membership for StaticMembers {
    fn start(&mut self, local: &Member, _mode: Mode, sink: MemberSink) -> io::Result<()> {
        if self.list.lock().running.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the membership has started already"));
        }
        let inbox = Arc::new(Inbox::new(sink));
        let running = Running { local: local.clone(), told: BTreeMap::new(), inbox };
        self.list.change(|state| state.running = Some(running));
        Ok(())
    }

    /// Tells nobody: the others have their own lists, and learn of the change with the next message.
    fn announce(&mut self, local: &Member) -> io::Result<()> {
        self.list.change(|state| {
            if let Some(running) = &mut state.running {
                running.local = local.clone();
            }
        });
        Ok(())
    }

    fn heard(&mut self, sender: &Member) {
        self.list.change(|state| state.identify(sender));
    }

    fn stop(&mut self) {
        let Some(running) = self.list.lock().running.take() else { return };
        running.inbox.close();
        running.inbox.finish();
    }

    fn stats(&self) -> MembershipStats {
        let state = self.list.lock();
        let members = state.running.as_ref().map_or(0, |running| running.told.len());
        MembershipStats { members, conflicts: state.conflicts, ..MembershipStats::default() }
    }
}

impl Drop for StaticMembers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl From<Member> for StaticMember {
    fn from(member: Member) -> Self {
        Self(member)
    }
}

impl From<SocketAddr> for StaticMember {
    fn from(address: SocketAddr) -> Self {
        Self(Member::placeholder(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Capabilities, UniqueId};
    use crate::membership::MemberHandler;

    #[derive(Default)]
    struct Told(Mutex<Vec<Event>>);

    impl MemberHandler for Told {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }

        fn broadcast(&self, _datagram: bytes::Bytes) {}
    }

    fn address(host: u8) -> SocketAddr {
        ([10, 0, 0, host], 4000).into()
    }

    fn start(membership: &mut StaticMembers, local: &Member) -> impl Fn() -> Vec<Event> + use<> {
        let told = Arc::new(Told::default());
        membership.start(local, Mode::Full, MemberSink::new(Arc::<Told>::clone(&told))).unwrap();
        move || std::mem::take(&mut told.0.lock().unwrap())
    }

    #[test]
    fn the_list_is_told_without_the_local_member() {
        let mut membership = StaticMembers::new([address(1), address(2), address(3)]);
        let told = start(&mut membership, &Member::new(address(2)));
        let expected = [1, 3].map(|host| Event::Added(StaticMember::from(address(host)).0));
        assert_eq!(told(), expected);
        assert_eq!(membership.stats().members, 2);
    }

    #[test]
    fn a_change_of_the_list_is_told_while_it_runs() {
        let mut membership = StaticMembers::new([address(1)]);
        let list = membership.handle();
        let told = start(&mut membership, &Member::new(address(9)));
        let placeholder = told().remove(0).member().clone();

        let real = Member::new(address(1));
        list.add(real.clone());
        assert_eq!(told(), [Event::Added(real.clone()), Event::Removed(placeholder, Departure::Identified)]);
        list.add(real.clone());
        assert_eq!(told(), []);
        let changed = real.with_payload("p");
        list.add(changed.clone());
        assert_eq!(told(), [Event::Updated(changed)]);
        assert!(list.remove(address(1)) && !list.remove(address(1)));
        assert_eq!(told(), [Event::Removed(real, Departure::Left)]);

        membership.stop();
        list.add(address(5));
        assert_eq!(told(), [], "nothing is told after the stop");
        let told = start(&mut membership, &Member::new(address(9)));
        assert_eq!(told().len(), 1, "but the change is not lost");
    }

    #[test]
    fn a_local_member_that_moves_uncovers_the_one_it_hid() {
        let mut membership = StaticMembers::new([address(1), address(2)]);
        let told = start(&mut membership, &Member::new(address(1)));
        told();
        membership.announce(&Member::new(address(2))).unwrap();
        let [one, two] = [1, 2].map(|host| StaticMember::from(address(host)).0);
        assert_eq!(told(), [Event::Added(one), Event::Removed(two, Departure::Left)]);
    }
    fn process(host: u8) -> Member {
        Member::new(address(host)).with_id(UniqueId::for_member(Capabilities::ALL))
    }

    #[test]
    fn who_is_heard_takes_the_place_of_its_placeholder() {
        let mut membership = StaticMembers::new([address(1), address(2)]);
        let list = membership.handle();
        let told = start(&mut membership, &process(9));
        let placeholder = told().remove(0).member().clone();
        assert!(placeholder.is_placeholder());

        let real = process(1).with_payload("p");
        membership.heard(&real);
        assert_eq!(told(), [Event::Added(real.clone()), Event::Removed(placeholder, Departure::Identified)]);
        assert!(list.members()[0].same_value(&real));
        membership.heard(&real);
        list.add(address(1));
        assert_eq!(told(), [], "nothing new");
        let changed = real.with_payload("q");
        membership.heard(&changed);
        assert_eq!(told(), [Event::Updated(changed)]);
        assert!(list.members()[0].payload() == "q");

        let restarted = process(1);
        membership.heard(&restarted);
        assert_eq!(told(), [Event::Removed(real, Departure::Failed), Event::Added(restarted.clone())]);
        assert!(list.remove(address(1)));
        assert_eq!(told(), [Event::Removed(restarted.clone(), Departure::Left)]);
        membership.heard(&restarted);
        assert_eq!((told(), membership.stats().members), (vec![], 1), "it is on the list no more");
    }

    #[test]
    fn whom_the_list_knows_otherwise_is_not_believed() {
        let fixed = process(1);
        let mut membership = StaticMembers::default();
        let list = membership.handle();
        list.add(fixed.clone());
        (2..5).for_each(|host| list.add(address(host)));
        let local = process(4);
        let told = start(&mut membership, &local);
        told();
        let second = process(2);
        membership.heard(&second);
        told();
        for (forged, why) in [
            (process(1), "a whole member stays what it is"),
            (fixed.with_payload("forged"), "in all that was given"),
            (process(7), "nobody is there who is not listed"),
            (Member::placeholder(address(3)), "this one says nothing"),
            (process(3).leaving(), "nor does one that is about to go"),
            (local.with_address(address(3)), "this member is where it is"),
            (second.with_address(address(3)), "and so is the other"),
            (process(4), "and nobody else"),
        ] {
            membership.heard(&forged);
            assert_eq!(told(), [], "{why}");
        }
        assert_eq!(membership.stats().conflicts, 2);
        let third = process(3);
        membership.heard(&third);
        assert_eq!(told()[0], Event::Added(third));
    }
}
