//! The thread of the membership: reads the socket, drives the roster, replaces the socket when it is broken or deaf.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::UdpSocket;
use mio::{Events, Poll};

use super::config::MulticastConfig;
use super::link::Link;
use super::socket;
use crate::clock;
use crate::member::Member;
use crate::membership::roster::{Output, Roster, RosterStats};
use crate::membership::{MemberSink, Mode};
use crate::stack::Event;
use crate::wire::{channel_data, frame, member_package};

/// Datagrams read before the roster gets its turn: a flood must not keep the heartbeats from going out.
const READ_BUDGET: usize = 256;
/// The wait before the first attempt to replace a broken socket; it doubles up to the configured interval.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The group is joined anew after this many recovery intervals in which nobody was heard: the switch may have forgotten us.
const QUIET_INTERVALS: u32 = 6;
/// The group is joined anew after this many heartbeats of our own that did not come back, though one did before.
const MAX_UNECHOED: u32 = 6;
/// The time between two lines of the log about what peers do wrong.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

pub(super) type Opener = Box<dyn FnMut(&MulticastConfig) -> io::Result<UdpSocket> + Send>;

pub(super) struct Worker {
    config: MulticastConfig,
    link: Arc<Link>,
    poll: Poll,
    roster: Roster,
    sink: MemberSink,
    buffer: Box<[u8]>,
    recovery: Recovery,
    log: Log,
    /// Datagrams that are neither membership packets nor frames.
    junk: u64,
    pub(super) open: Opener,
}

/// When the socket is to be replaced.
#[derive(Debug)]
struct Recovery {
    /// The next attempt and the wait after it; none while all is well.
    broken: Option<(Instant, Duration)>,
    /// When somebody else was heard last, or the group was joined.
    heard: Instant,
    /// How many of our heartbeats have not come back since one did; none came back yet if `None`.
    unechoed: Option<u32>,
}

impl Worker {
    pub(super) fn new(
        config: MulticastConfig,
        link: Arc<Link>,
        poll: Poll,
        roster: Roster,
        sink: MemberSink,
        now: Instant,
    ) -> Self {
        Self {
            config,
            link,
            poll,
            roster,
            sink,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
            recovery: Recovery { broken: None, heard: now, unechoed: None },
            log: Log::default(),
            junk: 0,
            open: Box::new(socket::open),
        }
    }

    /// Runs until the link is stopped, and says goodbye.
    pub(super) fn run(mut self) {
        self.log.misconfigured(self.roster.local(), None, &self.config);
        let mut events = Events::with_capacity(4);
        let mut more = false;
        while !self.link.stopped() {
            let timeout = if more { Some(Duration::ZERO) } else { self.timeout() };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("the multicast membership cannot wait for its socket, and ends: {error}");
                break;
            }
            if let Some(local) = self.link.changed() {
                self.roster.set_local(local);
            }
            let now = clock::now();
            more = self.read(now);
            self.roster.handle_timeout(now);
            self.flush(now);
            if !more || self.recovery.broken.is_some() {
                self.recover(now);
            }
            self.report(now);
        }
        if self.link.mode() == Mode::Full
            && let Err(error) = self.link.goodbye()
        {
            log::debug!("the goodbye could not be sent, the others will notice by the silence: {error}");
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let recovery = self.recovery.due(&self.config);
        let next = [self.roster.poll_timeout(), recovery].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(clock::now()))
    }

    /// Reads what is there, up to the budget; tells whether there may be more.
    fn read(&mut self, now: Instant) -> bool {
        let socket = self.link.socket();
        let mut failed = false;
        for _ in 0..READ_BUDGET {
            if self.link.stopped() {
                return false;
            }
            match socket.recv_from(&mut self.buffer) {
                Ok((len, _)) => {
                    self.datagram(now, len);
                    self.flush(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(now, &error);
                    // An error is taken off the socket by being told; one that stays is for the recovery.
                    if std::mem::replace(&mut failed, true) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn datagram(&mut self, now: Instant, len: usize) {
        let datagram = &self.buffer[..len];
        if member_package::is_package(datagram) {
            let heard = self.roster.stats().heard;
            let valid = self.roster.handle_datagram(now, datagram).is_ok();
            if self.roster.stats().heard > heard {
                self.recovery.heard = now;
            } else if valid {
                self.recovery.unechoed = Some(0);
            }
        } else {
            match sender(Bytes::copy_from_slice(datagram), self.roster.local()) {
                Some((sender, _)) if sender.id() == self.roster.local().id() => {}
                Some((_, datagram)) => {
                    self.recovery.heard = now;
                    self.sink.broadcast(datagram);
                }
                None => self.junk += 1,
            }
        }
    }

    /// Does what the roster wants done.
    fn flush(&mut self, now: Instant) {
        while let Some(output) = self.roster.poll_output() {
            if self.link.stopped() {
                return;
            }
            match output {
                Output::Event(Event::Added(member)) => {
                    self.log.misconfigured(self.roster.local(), Some(&member), &self.config);
                    self.sink.added(member);
                }
                Output::Event(Event::Updated(member)) => self.sink.updated(member),
                Output::Event(Event::Removed(member, departure)) => self.sink.removed(member, departure),
                Output::Event(Event::Suspect(_)) => {}
                Output::Heartbeat => match self.link.heartbeat() {
                    Ok(()) => self.recovery.sent(self.config.recovery),
                    Err(error) => self.failed(now, &error),
                },
            }
        }
    }

    fn failed(&mut self, now: Instant, error: &io::Error) {
        self.link.update_stats(|stats| stats.errors += 1);
        if self.recovery.broken.is_none() {
            let what = if self.config.recovery { "joining it anew until it works" } else { "recovery is off" };
            log::warn!("the multicast group {} is out of reach, {what}: {error}", self.config.group);
            self.recovery.broken = Some((now + FIRST_RETRY.min(self.config.recovery_interval), FIRST_RETRY));
        }
    }

    /// Replaces the socket when that is due. The old one stays in use until another works: it may still receive.
    fn recover(&mut self, now: Instant) {
        if self.recovery.due(&self.config).is_none_or(|due| now < due) {
            return;
        }
        let broken = self.recovery.broken;
        if broken.is_none() {
            log::debug!("nothing was heard on the multicast group {} for long: joining it anew", self.config.group);
            socket::leave(&self.link.socket(), &self.config);
        }
        let opened = (self.open)(&self.config).and_then(|socket| self.link.replace(socket, self.poll.registry()));
        match opened {
            Ok(()) => {
                if broken.is_some() {
                    log::info!("the multicast group {} is joined again", self.config.group);
                }
                self.recovery = Recovery { broken: None, heard: now, unechoed: None };
            }
            Err(error) => {
                self.link.update_stats(|stats| stats.errors += 1);
                let wait = broken.map_or(FIRST_RETRY, |(_, wait)| wait.saturating_mul(2)).min(self.config.recovery_interval);
                self.recovery.broken = Some((now + wait, wait));
                log::debug!("the multicast group {} is still out of reach, trying again in {wait:?}: {error}", self.config.group);
            }
        }
    }

    fn report(&mut self, now: Instant) {
        let stats = self.roster.stats();
        let (members, junk) = (self.roster.members().len(), self.junk);
        self.log.peers(now, stats, junk);
        self.link.update_stats(|all| {
            all.members = members;
            all.heard = stats.heard;
            all.malformed = stats.malformed + junk;
            all.refused = stats.refused;
            all.conflicts = stats.conflicts;
        });
    }
}

impl Recovery {
    fn due(&self, config: &MulticastConfig) -> Option<Instant> {
        if !config.recovery {
            return None;
        }
        if let Some((next, _)) = self.broken {
            return Some(next);
        }
        // Our own heartbeats come back as long as the group is joined: when they cease, the interface has lost it.
        if self.unechoed.is_some_and(|count| count >= MAX_UNECHOED) {
            return Some(self.heard);
        }
        Some(self.heard + config.recovery_interval.saturating_mul(QUIET_INTERVALS))
    }

    /// A heartbeat was sent. Only a new socket ends a recovery, where there is one.
    fn sent(&mut self, recovery: bool) {
        self.unechoed = self.unechoed.map(|count| count.saturating_add(1));
        if !recovery {
            self.broken = None;
        }
    }
}

/// Who sent a datagram of frames, by its first message; nothing if that is none.
fn sender(datagram: Bytes, local: &Member) -> Option<(Member, Bytes)> {
    let start = frame::HEADER.len() + 4;
    if datagram.len() < frame::OVERHEAD || !datagram.starts_with(frame::HEADER) {
        return None;
    }
    let message = channel_data::decode(&datagram.slice(start..), Some(local)).ok()?;
    Some((message.sender().clone(), datagram))
}

/// What is logged once, or once in a while: what peers do must not fill a disk.
#[derive(Debug, Default)]
struct Log {
    warned: bool,
    next: Option<Instant>,
    seen: (RosterStats, u64),
}

impl Log {
    /// Warns once when others are told an address that means themselves to them.
    fn misconfigured(&mut self, local: &Member, other: Option<&Member>, config: &MulticastConfig) {
        let remote =
            other.is_some_and(|other| !other.address().ip().is_loopback()) || config.interface.is_loopback() == Some(false);
        if self.warned || !local.address().ip().is_loopback() || !remote {
            return;
        }
        self.warned = true;
        log::warn!(
            "the group is told to reach this member at {}, which is another machine's own loopback address: \
             set the receiver's bind address to one that the others can reach",
            local.address()
        );
    }

    fn peers(&mut self, now: Instant, stats: RosterStats, junk: u64) {
        let (old, old_junk) = self.seen;
        let bad = (stats.malformed + junk) - (old.malformed + old_junk);
        let (refused, conflicts) = (stats.refused - old.refused, stats.conflicts - old.conflicts);
        if (bad, refused, conflicts) == (0, 0, 0) || self.next.is_some_and(|next| now < next) {
            return;
        }
        (self.next, self.seen) = (Some(now + LOG_INTERVAL), (stats, junk));
        log::warn!(
            "on the multicast group: {bad} malformed datagrams, {refused} newcomers above the limit of members, \
             {conflicts} packets that claim the address or the id of another member"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn member(host: [u8; 4]) -> Member {
        Member::new((host, 4000).into())
    }

    #[test]
    fn a_loopback_address_is_warned_of_once_others_cannot_reach_it() {
        let (loopback, reachable) = (member([127, 0, 0, 1]), member([10, 0, 0, 1]));
        let auto = MulticastConfig::default();
        let outside = auto.clone().interface(Ipv4Addr::new(10, 0, 0, 1));
        let inside = auto.clone().interface(Ipv4Addr::LOCALHOST);
        let cases = [
            (&loopback, None, &auto, false),
            (&loopback, Some(&loopback), &auto, false),
            (&loopback, Some(&reachable), &auto, true),
            (&loopback, None, &inside, false),
            (&loopback, None, &outside, true),
            (&reachable, Some(&loopback), &outside, false),
        ];
        for (local, other, config, expected) in cases {
            let mut log = Log::default();
            log.misconfigured(local, other, config);
            assert_eq!(log.warned, expected, "{local} {other:?} {config:?}");
        }
    }

    #[test]
    fn what_peers_do_wrong_is_logged_at_most_every_interval() {
        let (mut log, now) = (Log::default(), clock::now());
        log.peers(now, RosterStats::default(), 1);
        let first = log.next;
        assert_eq!(first, Some(now + LOG_INTERVAL));
        log.peers(now + LOG_INTERVAL / 2, RosterStats::default(), 1000);
        assert_eq!(log.next, first);
        log.peers(now + LOG_INTERVAL, RosterStats::default(), 1000);
        assert_eq!(log.seen.1, 1000);
    }
}
