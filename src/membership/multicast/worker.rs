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
    /// When our own heartbeat came back last, if ever since the group was joined.
    echoed: Option<Instant>,
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
            recovery: Recovery { broken: None, heard: now, echoed: None },
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
            if !more {
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
        let recovery = self.recovery.due(&self.config, self.link.mode());
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
                self.recovery.echoed = Some(now);
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
                    Ok(()) if !self.config.recovery => self.recovery.broken = None,
                    Ok(()) => {}
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
        if self.recovery.due(&self.config, self.link.mode()).is_none_or(|due| now < due) {
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
                self.recovery = Recovery { broken: None, heard: now, echoed: None };
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
    fn due(&self, config: &MulticastConfig, mode: Mode) -> Option<Instant> {
        if !config.recovery {
            return None;
        }
        if let Some((next, _)) = self.broken {
            return Some(next);
        }
        let quiet = self.heard + config.recovery_interval.saturating_mul(QUIET_INTERVALS);
        // Our own heartbeats come back as long as the group is joined: when they cease, the interface has lost it.
        let echo = self.echoed.filter(|_| mode == Mode::Full).map(|echoed| echoed + config.drop_time.max(config.frequency * 4));
        Some(echo.map_or(quiet, |echo| echo.min(quiet)))
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
