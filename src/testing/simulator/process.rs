//! One simulated process: a real stack and a real roster, driven as the channel and the multicast thread drive them.

mod app;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::application::Host;
use super::clock::Clock;
use super::inbox::Inbox;
use super::ledger::Ledger;
use super::link::{self, Link};
use super::world::{Arrival, ConnId, End, Pid, World};
use crate::completion::{FaultCause, Leg};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::membership::Mode;
use crate::membership::roster::{self, Roster, RosterConfig};
use crate::message::Message;
use crate::options::SendOptions;
use crate::stack::{
    Event, Inbound, LayerId, Outbound, Output, Probe, ProbeRequest, Reply, Stack, StackBuilder, StackError, Time, Urgency,
};
use crate::wire::{Frame, FrameDecoder, channel_data, member_package};

/// The channel's heartbeat to its interceptors.
const HEARTBEAT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    member: Member,
    clock: Clock,
    stack: Stack,
    roster: Roster,
    links: BTreeMap<(SocketAddr, UniqueId), Link>,
    inbox: Inbox,
    host: Option<Host>,
    /// How often in a row the application's timeout was called with no time between.
    spins: u32,
    spun_at: Duration,
    probes: BTreeMap<ConnId, Running>,
    started: Duration,
    next_heartbeat: Duration,
    /// When something is due next, as of the last change.
    due: Option<Duration>,
    /// Whether the listeners fail.
    pub(super) rejects: bool,
}

/// A probe on its way.
#[derive(Debug)]
struct Running {
    layer: LayerId,
    member: Member,
    request: ProbeRequest,
    until: Duration,
}

/// What a process needs to live.
pub(super) struct Birth<'a> {
    pub(super) pid: Pid,
    pub(super) member: Member,
    pub(super) clock: Clock,
    pub(super) builder: StackBuilder,
    pub(super) roster: &'a RosterConfig,
}

impl Process {
    pub(super) fn start(world: &mut World, birth: Birth<'_>) -> Result<Self, StackError> {
        let Birth { pid, member, clock, builder, roster } = birth;
        let time = clock.time(world.now);
        Ok(Self {
            pid,
            clock,
            stack: builder.build(member.clone(), world.random())?,
            roster: Roster::new(member.clone(), Mode::Full, roster.clone(), time.instant),
            links: BTreeMap::new(),
            inbox: Inbox::new(member.capabilities().contains(Capabilities::DUPLICATE_FILTER)),
            host: None,
            spins: 0,
            spun_at: world.now,
            member,
            probes: BTreeMap::new(),
            started: world.now,
            next_heartbeat: world.now + HEARTBEAT,
            due: Some(world.now),
            rejects: false,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        self.due = self.next();
    }

    /// When something is due next, in virtual time.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.due
    }

    fn next(&self) -> Option<Duration> {
        let app = self.host.as_ref().and_then(|host| host.app().poll_timeout());
        let clocks =
            [self.stack.poll_timeout(), self.roster.poll_timeout(), app].into_iter().flatten().map(|at| self.clock.at(at));
        let links = self.links.values().filter_map(Link::timeout);
        let probes = self.probes.values().map(|probe| probe.until);
        clocks.chain(links).chain(probes).chain([self.next_heartbeat]).chain(self.host.as_ref().and_then(Host::hears)).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, world: &mut World, ledger: &mut Ledger) {
        let time = self.clock.time(world.now);
        if self.roster.poll_timeout().is_some_and(|at| at <= time.instant) {
            self.roster.handle_timeout(time.instant);
        }
        let late: Vec<_> = self.probes.iter().filter(|(_, probe)| probe.until <= world.now).map(|(conn, _)| *conn).collect();
        for conn in late {
            self.probed(world, conn, Probe::Unreachable);
        }
        let suspects: Vec<_> = self.links.values_mut().filter_map(|link| link.tick(world).then(|| link.peer().clone())).collect();
        for suspect in suspects {
            self.stack.handle_event(time, Event::Suspect(suspect));
        }
        if self.next_heartbeat <= world.now {
            self.next_heartbeat = world.now + HEARTBEAT;
            self.stack.handle_heartbeat(time);
        }
        self.stack.handle_timeout(time);
        self.settle(world, ledger);
        self.tick_app(world, ledger);
    }

    pub(super) fn arrive(&mut self, world: &mut World, ledger: &mut Ledger, arrival: Arrival) {
        let time = self.clock.time(world.now);
        match arrival {
            Arrival::Datagram { bytes } => self.datagram(time, &bytes),
            Arrival::Knock { .. } => {}
            Arrival::Opened { conn, accepted } => self.opened(world, time, conn, accepted),
            Arrival::Bytes { conn, to: End::Callee, bytes } => {
                for msg in self.inbox.received(world, conn, &bytes) {
                    self.stack.handle_receive(time, msg);
                    self.settle(world, ledger);
                }
            }
            Arrival::Bytes { conn, to: End::Caller, bytes } => {
                if let Some(link) = self.links.values_mut().find(|link| link.has_conn(conn)) {
                    link.received(&bytes);
                } else {
                    self.probed(world, conn, Probe::Alive);
                }
            }
            Arrival::Closed { conn, to: End::Callee } => {
                if let Some(member) = self.inbox.ended(conn) {
                    self.stack.handle_event(time, Event::Suspect(member));
                }
            }
            Arrival::Closed { conn, to: End::Caller } => {
                if let Some(link) = self.links.values_mut().find(|link| link.has_conn(conn)) {
                    link.ended(world);
                    let suspect = Event::Suspect(link.peer().clone());
                    self.stack.handle_event(time, suspect);
                } else {
                    self.probed(world, conn, Probe::Refused);
                }
            }
        }
        self.settle(world, ledger);
    }

    /// Sends as the channel does.
    pub(super) fn send(
        &mut self,
        world: &mut World,
        ledger: &mut Ledger,
        id: UniqueId,
        legs: Vec<Leg>,
        body: Bytes,
        options: SendOptions,
    ) {
        self.submit(world, id, legs, body, options);
        self.settle(world, ledger);
    }

    fn submit(&mut self, world: &World, id: UniqueId, legs: Vec<Leg>, body: Bytes, options: SendOptions) {
        let time = self.clock.time(world.now);
        let options = options | SendOptions::BYTE_MESSAGE;
        let (legs, admitted) = crate::stack::pass_gates(self.stack.gates(), options, body.len(), legs);
        if !admitted {
            return legs.into_iter().for_each(|leg| leg.fail(FaultCause::QueueFull));
        }
        let message = Message::from_parts(id, options, time.epoch_millis, self.member.clone(), body.into());
        let mut msg = Outbound::new(message, legs);
        msg.urgency = Urgency::Attended;
        self.stack.handle_send(time, msg);
    }

    /// The local member has a new value.
    pub(super) fn announce(&mut self, world: &mut World, ledger: &Ledger, member: Member) {
        self.member = member.clone();
        self.stack.set_local(member.clone());
        self.roster.set_local(member);
        self.heartbeat(world, ledger);
    }

    /// A clean stop: application and layers give what they hold, the group is told, what is still queued is reported.
    pub(super) fn stop(mut self, world: &mut World, ledger: &mut Ledger) {
        self.call(world, |app, cx| app.stopping(cx));
        self.settle(world, ledger);
        self.stack.handle_stop(self.clock.time(world.now));
        self.settle(world, ledger);
        self.multicast(world, ledger, &member_package::package(&self.member.leaving()));
        self.links.values_mut().for_each(|link| link.finish(world));
        world.close_all(self.pid);
        let (time, view) = (self.clock.time(world.now), self.stack.view().clone());
        let Self { pid, member, mut host, stack, links, .. } = self;
        // What layers still hold is reported when they go.
        drop((stack, links));
        if let Some(host) = &mut host {
            for heard in host.unheard() {
                heard.note(world, pid);
                host.call(time, &member, &view, |app, cx| heard.tell(app, cx));
            }
        }
    }

    fn heartbeat(&self, world: &mut World, ledger: &Ledger) {
        let alive = i64::try_from((world.now - self.started).as_millis()).unwrap_or(i64::MAX);
        self.multicast(world, ledger, &member_package::heartbeat(&self.member, alive));
    }

    fn multicast(&self, world: &mut World, ledger: &Ledger, bytes: &Bytes) {
        let others = ledger.nodes().filter(|node| *node != self.pid.node);
        others.for_each(|node| world.datagram(self.pid.node, node, bytes));
    }

    fn datagram(&mut self, time: Time, bytes: &Bytes) {
        if member_package::is_package(bytes) {
            if let Err(error) = self.roster.handle_datagram(time.instant, bytes) {
                log::debug!("{}: {error}", self.member);
            }
            return;
        }
        let mut stream = BytesMut::from(&bytes[..]);
        while let Ok(Some(Frame::Data(data))) = FrameDecoder::new(1 << 16).next(&mut stream) {
            let Ok(message) = channel_data::decode(&data, None) else { return };
            if message.sender() != &self.member {
                self.stack.handle_receive(time, Inbound::new(message, Reply::none()));
            }
        }
    }

    fn opened(&mut self, world: &mut World, time: Time, conn: ConnId, accepted: bool) {
        if let Some(link) = self.links.values_mut().find(|link| link.has_conn(conn)) {
            if link.opened(world, accepted) {
                let suspect = Event::Suspect(link.peer().clone());
                self.stack.handle_event(time, suspect);
            }
        } else if !accepted {
            self.probed(world, conn, Probe::Refused);
        } else if let Some(probe) = self.probes.get_mut(&conn) {
            probe.until = world.now + probe.request.answer_timeout;
            let (frame, waits) = (probe.request.frame.clone(), probe.request.expect_answer);
            if !frame.is_empty() {
                world.send(conn, End::Callee, frame);
            }
            if !waits {
                self.probed(world, conn, Probe::Alive);
            }
        } else {
            world.abort(conn);
        }
    }

    fn probed(&mut self, world: &mut World, conn: ConnId, outcome: Probe) {
        if let Some(probe) = self.probes.remove(&conn) {
            world.close(conn, End::Caller);
            self.stack.handle_probed(self.clock.time(world.now), probe.layer, &probe.member, outcome);
        }
    }

    /// Carries out what roster and stack want until they want nothing more.
    fn settle(&mut self, world: &mut World, ledger: &mut Ledger) {
        let time = self.clock.time(world.now);
        loop {
            self.post(world, ledger);
            if let Some(output) = self.roster.poll_output() {
                match output {
                    roster::Output::Event(event) => self.stack.handle_event(time, event),
                    roster::Output::Heartbeat => self.heartbeat(world, ledger),
                }
            } else if let Some(output) = self.stack.poll_output() {
                self.output(world, ledger, output);
            } else {
                break;
            }
        }
        for link in self.links.values_mut() {
            link.pump(world, self.pid);
        }
        self.inbox.answer(world);
        if let Some(host) = &mut self.host {
            host.settled(world.now);
        }
        self.due = self.next();
        ledger.check_view(world.now, self.pid.node, self.stack.view());
    }

    fn output(&mut self, world: &mut World, ledger: &mut Ledger, output: Output) {
        match output {
            Output::Transmit(msg) => self.transmit(world, ledger, msg),
            Output::Deliver(Inbound { message, reply }) => {
                ledger.delivered(world, self.pid, message.clone());
                let accepts = self.call(world, |app, cx| app.message(cx, &message)).unwrap_or(true);
                if accepts && !self.rejects { reply.accept() } else { reply.reject() }
            }
            Output::Event(event) => {
                let key = (event.member().address(), event.member().id());
                let gone = matches!(event, Event::Removed(..)).then(|| self.links.remove(&key)).flatten();
                if let Some(mut link) = gone {
                    link.close(world, &FaultCause::Unreachable);
                }
                ledger.event(world, self.pid, event.clone());
                self.call(world, |app, cx| app.event(cx, &event));
            }
            Output::Probe { layer, member, request } => match ledger.node_at(member.address()) {
                Some(node) => {
                    let until = world.now + request.connect_timeout;
                    let conn = world.connect(self.pid, node);
                    self.probes.insert(conn, Running { layer, member, request, until });
                }
                None => self.stack.handle_probed(self.clock.time(world.now), layer, &member, Probe::Unreachable),
            },
        }
    }

    fn transmit(&mut self, world: &mut World, ledger: &Ledger, mut msg: Outbound) {
        let options = msg.message.options();
        let frame = link::encode(&msg);
        if options.contains(SendOptions::MULTICAST) {
            self.multicast(world, ledger, &frame);
            return msg.legs.into_iter().for_each(Leg::delivered);
        }
        for leg in std::mem::take(&mut msg.legs) {
            if options.contains(SendOptions::UDP) {
                leg.fail(FaultCause::NoUdp);
                continue;
            }
            let peer = leg.member().clone();
            let key = (peer.address(), peer.id());
            let link = self.links.entry(key).or_insert_with(|| Link::new(peer, ledger.node_at(key.0)));
            link.push(world, &msg, &frame, leg);
        }
    }
}
