//! What any [`Membership`] must do.
//!
//! ```
//! use tribes::membership::memory::Hub;
//! use tribes::testing::conformance::membership::{Features, check};
//! let hub = Hub::new();
//! check(Features::ALL, |_| Box::new(hub.membership()));
//! ```

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;
use crate::id::MessageIds;
use crate::member::Member;
use crate::membership::{MemberHandler, MemberSink, Membership, Mode};
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Departure, Event};
use crate::wire::frame;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time between two broadcasts, which may get lost.
const BROADCAST_GAP: Duration = Duration::from_millis(200);

/// What the membership can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Features {
    /// It finds members by itself, and notices when they change or leave. A list does not.
    pub discovery: bool,
    /// It can [broadcast](Membership::broadcast).
    pub broadcast: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self { discovery: true, broadcast: true };
    /// A list of members, and no more.
    pub const LIST: Self = Self { discovery: false, broadcast: false };

    /// These, with or without broadcasts.
    #[must_use]
    pub const fn broadcast(mut self, broadcast: bool) -> Self {
        self.broadcast = broadcast;
        self
    }
}

/// Runs every scenario that the features allow.
///
/// `make` is called for each node; what it makes must be on one group. It gets the members that will take part in the scenario,
/// for memberships that have to be told. Their ports are from 20000 on, and nothing listens there.
///
/// # Panics
///
/// When the membership does not do what it must, or not within 20 s. A membership that other nodes of the group reach too may be
/// checked: only the members of the scenario count.
pub fn check(features: Features, mut make: impl FnMut(&[Member]) -> Box<dyn Membership>) {
    let make = &mut make as Make<'_>;
    members_see_each_other(make);
    nothing_is_told_after_the_stop(make);
    a_stop_may_come_at_any_time(make);
    who_is_merely_heard_is_no_member(make);
    if features.discovery {
        a_change_is_seen(make);
        a_goodbye_is_seen_as_left(make);
        a_restart_is_another_member(make);
        a_membership_can_start_again(make);
        an_observer_is_not_seen(make);
    }
    if features.broadcast {
        a_broadcast_reaches_all_others(make);
    }
}

type Make<'a> = &'a mut dyn FnMut(&[Member]) -> Box<dyn Membership>;

fn members_see_each_other(make: Make<'_>) {
    let members = members(3);
    let nodes = start_all(make, &members);
    for node in &nodes {
        for other in members.iter().filter(|other| **other != node.member) {
            node.told.wait(&format!("{} sees {other} with all it says of itself", node.member), |told| {
                told.last_value(other).is_some_and(|seen| seen.same_value(other))
            });
        }
    }
}

fn nothing_is_told_after_the_stop(make: Make<'_>) {
    let members = members(3);
    let mut stopped = Node::start(make, &members, 0);
    let other = Node::start(make, &members, 1);
    stopped.sees(&other.member);
    stopped.membership.stop();
    let before = stopped.told.lock().events.len();
    let newcomer = Node::start(make, &members, 2);
    other.sees(&newcomer.member);
    newcomer.sees(&other.member);
    assert_eq!(stopped.told.lock().events.len(), before, "nothing is told after the stop");
}

fn a_stop_may_come_at_any_time(make: Make<'_>) {
    let members = members(1);
    make(&members).stop();
    let mut node = Node::start(make, &members, 0);
    node.membership.stop();
    node.membership.stop();
}

fn who_is_merely_heard_is_no_member(make: Make<'_>) {
    let (members, strangers) = (members(2), members(2));
    let mut nodes = start_all(make, &members);
    for stranger in &strangers {
        nodes[0].membership.heard(stranger);
    }
    nodes[0].sees(&members[1]);
    nodes[0].membership.stop();
    for stranger in &strangers {
        assert_eq!(nodes[0].told.lock().added(stranger), 0, "a message makes nobody a member");
    }
}

fn a_change_is_seen(make: Make<'_>) {
    let members = members(2);
    let mut nodes = start_all(make, &members);
    nodes[1].sees(&members[0]);
    let changed = members[0].with_payload("changed").with_domain("elsewhere").with_udp_port(Some(4321));
    nodes[0].membership.announce(&changed).expect("the change can be announced");
    nodes[1].told.wait("the change is seen as an update", |told| {
        told.events.iter().any(|event| matches!(event, Event::Updated(seen) if seen.same_value(&changed)))
    });
    assert_eq!(nodes[1].told.lock().added(&members[0]), 1, "a change does not add the member again");
}

fn a_goodbye_is_seen_as_left(make: Make<'_>) {
    let members = members(3);
    let mut nodes = start_all(make, &members);
    for node in &nodes[1..] {
        node.sees(&members[0]);
    }
    nodes[0].membership.stop();
    for node in &nodes[1..] {
        node.told.wait("a clean stop is seen as a departure", |told| told.departure(&members[0]).is_some());
        assert_eq!(node.told.lock().departure(&members[0]), Some(Departure::Left), "a clean stop is no failure");
    }
}

fn a_restart_is_another_member(make: Make<'_>) {
    let mut members = members(2);
    let mut nodes = start_all(make, &members);
    nodes[1].sees(&members[0]);
    nodes[0].membership.stop();
    let new = Member::new(members[0].address());
    let old = std::mem::replace(&mut members[0], new);
    let restarted = Node::start(make, &members, 0);
    nodes[1].sees(&members[0]);
    restarted.sees(&members[1]);
    assert!(nodes[1].told.lock().departure(&old).is_some(), "the old member is gone before the new one is there");
}

fn a_membership_can_start_again(make: Make<'_>) {
    let members = members(2);
    let mut nodes = start_all(make, &members);
    nodes[1].sees(&members[0]);
    nodes[0].membership.stop();
    nodes[1].told.wait("the stop is seen", |told| told.departure(&members[0]).is_some());
    let sink = MemberSink::new(Arc::new(Told::new(members[0].clone())));
    nodes[0].membership.start(&members[0], Mode::Full, sink).expect("a stopped membership can start again");
    nodes[1].told.wait("a member that comes back with its id is seen", |told| told.added(&members[0]) == 2);
}

fn an_observer_is_not_seen(make: Make<'_>) {
    let members = members(4);
    let mut observer = Node::start_as(make, &members, 0, Mode::Observe);
    let first = Node::start(make, &members, 1);
    let second = Node::start(make, &members, 2);
    observer.sees(&first.member);
    observer.sees(&second.member);
    observer.membership.announce(&members[0].with_payload("still not here")).expect("an observer can change too");
    let third = Node::start(make, &members, 3);
    observer.sees(&third.member);
    observer.membership.stop();
    for (a, b) in [(&first, &second), (&second, &third), (&third, &first)] {
        a.sees(&b.member);
    }
    for node in [&first, &second, &third] {
        assert_eq!(node.told.lock().added(&members[0]), 0, "an observer is not seen");
    }
}

fn a_broadcast_reaches_all_others(make: Make<'_>) {
    let members = members(3);
    let mut nodes = start_all(make, &members);
    for node in &nodes[1..] {
        node.sees(&members[0]);
    }
    let body = Body::from(Bytes::from_static(b"to all"));
    let message = Message::from_parts(MessageIds::new().next(), SendOptions::MULTICAST, 0, members[0].clone(), body);
    let frame = frame::to_bytes(&message);
    let start = clock::now();
    loop {
        nodes[0].membership.broadcast(frame.clone()).expect("a broadcast can be sent");
        let got = |node: &Node| node.told.wait_for(BROADCAST_GAP, |told| told.broadcasts.contains(&frame));
        if nodes[1..].iter().all(got) {
            break;
        }
        assert!(!clock::left(start, PATIENCE).is_zero(), "a broadcast reaches all others");
    }
    assert!(nodes[0].told.lock().broadcasts.is_empty(), "a broadcast does not come back");
}

/// Members that no other scenario has.
fn members(count: u16) -> Vec<Member> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let member = |port| Member::new(address(port)).with_payload(format!("payload of {port}")).with_domain("conformance");
    (first..first + count).map(|port| member(port).with_udp_port(Some(port))).collect()
}

fn start_all(make: Make<'_>, members: &[Member]) -> Vec<Node> {
    (0..members.len()).map(|at| Node::start(make, members, at)).collect()
}

struct Node {
    member: Member,
    membership: Box<dyn Membership>,
    told: Arc<Told>,
}

impl Node {
    fn start(make: Make<'_>, members: &[Member], at: usize) -> Self {
        Self::start_as(make, members, at, Mode::Full)
    }

    fn start_as(make: Make<'_>, members: &[Member], at: usize, mode: Mode) -> Self {
        let member = members[at].clone();
        let told = Arc::new(Told::new(member.clone()));
        let mut membership = make(members);
        membership.start(&member, mode, MemberSink::new(Arc::<Told>::clone(&told))).expect("the membership starts");
        Self { member, membership, told }
    }

    fn sees(&self, other: &Member) {
        self.told.wait(&format!("{} sees {other}", self.member), |told| told.last_value(other).is_some());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.membership.stop();
        let problems = std::mem::take(&mut self.told.lock().problems);
        if !std::thread::panicking() {
            assert!(problems.is_empty(), "{}: {}", self.member, problems.join("; "));
        }
    }
}

/// What one node was told.
struct Told {
    local: Member,
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    broadcasts: Vec<Bytes>,
    problems: Vec<String>,
}

impl Told {
    fn new(local: Member) -> Self {
        Self { local, log: Mutex::default(), changed: Condvar::new() }
    }

    fn wait(&self, what: &str, condition: impl FnMut(&mut Log) -> bool) {
        assert!(self.wait_for(PATIENCE, condition), "within {PATIENCE:?}: {what}; told so far: {:#?}", self.lock().events);
    }

    fn wait_for(&self, timeout: Duration, mut condition: impl FnMut(&mut Log) -> bool) -> bool {
        let (_guard, result) =
            self.changed.wait_timeout_while(self.lock(), timeout, |log| !condition(log)).unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemberHandler for Told {
    fn event(&self, event: Event) {
        let mut log = self.lock();
        let present = log.last_value(event.member()).is_some();
        let wrong = match &event {
            _ if event.member().id() == self.local.id() => Some("is told of the local member"),
            Event::Added(_) if present => Some("adds a member that is there"),
            Event::Updated(_) if !present => Some("updates a member that is not there"),
            Event::Removed(..) if !present => Some("removes a member that is not there"),
            Event::Suspect(_) => Some("suspects a member, which is for others to do"),
            _ => None,
        };
        log.problems.extend(wrong.map(|wrong| format!("{wrong}: {event:?}")));
        log.events.push(event);
        self.changed.notify_all();
    }

    fn broadcast(&self, datagram: Bytes) {
        self.lock().broadcasts.push(datagram);
        self.changed.notify_all();
    }
}

impl Log {
    /// What is known of a member now.
    fn last_value(&self, member: &Member) -> Option<&Member> {
        match self.events.iter().rfind(|event| event.member() == member)? {
            Event::Added(seen) | Event::Updated(seen) => Some(seen),
            Event::Removed(..) | Event::Suspect(_) => None,
        }
    }

    fn added(&self, member: &Member) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Added(seen) if seen == member)).count()
    }

    fn departure(&self, member: &Member) -> Option<Departure> {
        self.events.iter().find_map(|event| match event {
            Event::Removed(gone, departure) if gone == member => Some(*departure),
            _ => None,
        })
    }
}
