//! Shows only members that answer: probes who is new, silent or suspect.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::UniqueId;
use crate::member::Member;
use crate::options::SendOptions;
use crate::stack::{Context, Departure, Event, Inbound, Interceptor, LayerTraits, Probe, ProbeRequest};
use crate::wire::frame;

/// Verifies by a TCP connection what the membership below says, and finds out early when a member dies.
///
/// | what happens | what the layers above and the application see |
/// | --- | --- |
/// | a member is new | it is shown when it has answered; until then it is probed again after 1 s, 2 s, ... 10 s |
/// | it says goodbye | it is gone at once, without a probe |
/// | it is silent: the membership below drops it | probed at once: gone unless it answers; while it does it stays, probed every second |
/// | it is suspect: a send failed, a connection ended | probed at once, and after an answer thrice more within 1.3 s, because the operating system may answer for a process that is being killed |
/// | it refuses the connection | gone if it refuses again 100 ms later, which gives a goodbye time to arrive, or is silent; hidden and probed as a newcomer if the membership below still has it |
/// | it does not answer in time | gone if it is silent as well; a mere suspect is given a second probe |
/// | another member is verified at its address | gone: it has restarted there under a new id |
/// | whom a placeholder stands for is known | the placeholder stays until that member has answered |
///
/// One probe per member is on its way at a time, 64 in all, and 4096 members are tracked; both are counted in [`DetectorStats`].
///
/// Probes bypass the layers below this one, so it must stand below a layer that encrypts; the stack checks that.
///
/// ```
/// use std::time::Duration;
/// use tribes::interceptors::TcpFailureDetector;
/// use tribes::stack::StackBuilder;
///
/// let detector = TcpFailureDetector::default().connect_timeout(Duration::from_millis(500));
/// let stack = StackBuilder::new().push(detector);
/// ```
///
/// # From Tribes
///
/// | property | default | here |
/// | --- | --- | --- |
/// | `connectTimeout` | 1 s | [`connect_timeout`](Self::connect_timeout) |
/// | `performSendTest` | true | [`send_test`](Self::send_test) |
/// | `performReadTest` | false | [`read_test`](Self::read_test) |
/// | `readTestTimeout` | 5 s | [`read_test_timeout`](Self::read_test_timeout) |
/// | `removeSuspectsTimeout` | 300 s | [`remove_suspects_timeout`](Self::remove_suspects_timeout) |
///
/// Other than Tribes', this detector never blocks, does not forget a silent member (Tribes stops checking it after
/// `removeSuspectsTimeout` and shows it for ever), and is told of connections that end.
pub struct TcpFailureDetector {
    settings: Settings,
    /// Ordered, so that the same input always leads to the same output.
    members: BTreeMap<Key, Tracked>,
    arrivals: u64,
    stats: Arc<Mutex<DetectorStats>>,
}

impl TcpFailureDetector {
    /// How long connecting may take. Default: 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Whether a probe sends a message of 64 bytes, which the detector on the other side swallows. Default: true. Without it, or
    /// when verifying a member that has just probed us, a probe only connects.
    #[must_use]
    pub fn send_test(mut self, enabled: bool) -> Self {
        self.settings.send_test = enabled;
        self
    }

    /// Whether a probe wants that message acknowledged; needs [`send_test`](Self::send_test). Default: false. Then a process that
    /// hangs is found dead though its operating system still accepts connections.
    #[must_use]
    pub fn read_test(mut self, enabled: bool) -> Self {
        self.settings.read_test = enabled;
        self
    }

    /// How long the acknowledgement may take. Default: 5 s.
    #[must_use]
    pub fn read_test_timeout(mut self, timeout: Duration) -> Self {
        self.settings.read_test_timeout = timeout;
        self
    }

    /// How long a silent member that answers is probed every second; afterwards every ten seconds. `None` is for ever.
    /// Default: 300 s.
    #[must_use]
    pub fn remove_suspects_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.remove_suspects_timeout = timeout.into();
        self
    }

    /// A handle that tells what the detector sees and has done.
    #[must_use]
    pub fn monitor(&self) -> DetectorMonitor {
        DetectorMonitor(Arc::clone(&self.stats))
    }

    fn added(&mut self, cx: &mut Context<'_>, member: Member) {
        if member.is_leaving() {
            return;
        }
        let key = key(&member);
        self.arrivals += 1;
        if let Some(tracked) = self.members.get_mut(&key) {
            // It is heard again. Shown, it was kept through its silence; hidden, this is as good a reason to look as any.
            tracked.heard_again(self.arrivals);
            if !tracked.shown {
                tracked.probe_at(cx.now());
            }
            self.updated(cx, member);
        } else if self.members.len() < MAX_MEMBERS {
            self.members.insert(key, Tracked::new(member, self.arrivals, cx.now()));
        } else {
            self.count(|stats| stats.refused += 1);
        }
    }

    fn updated(&mut self, cx: &mut Context<'_>, member: Member) {
        let Some(tracked) = self.members.get_mut(&key(&member)) else { return };
        if !tracked.member.same_value(&member) && tracked.shown {
            cx.emit(Event::Updated(member.clone()));
        }
        tracked.member = member;
    }

    fn removed(&mut self, cx: &mut Context<'_>, member: Member, departure: Departure) {
        let key = key(&member);
        // Who answers at its address is somebody else, if somebody else is heard from there.
        let replaced = self.members.range(at(key.0)).any(|(other, tracked)| *other != key && !tracked.is_silent());
        let Some(tracked) = self.members.get_mut(&key) else { return };
        let stays = match departure {
            Departure::Failed => !replaced,
            // Whom it stood for is not shown yet, and those above are not to see neither.
            Departure::Identified => true,
            Departure::Left => false,
        };
        if tracked.shown && stays {
            tracked.silent_since = Some(cx.now());
            tracked.misses = 0;
            tracked.probe_at(cx.now());
        } else {
            self.forget(cx, key, departure);
        }
    }

    fn suspect(&mut self, cx: &Context<'_>, member: &Member) {
        // A hidden member is probed anyway, and slowly so.
        let Some(tracked) = self.members.get_mut(&key(member)).filter(|tracked| tracked.shown) else { return };
        tracked.rechecks = RECHECKS.iter();
        tracked.probe_at(cx.now());
    }

    fn alive(&mut self, cx: &mut Context<'_>, key: Key) {
        let Some(tracked) = self.members.get_mut(&key) else { return };
        tracked.misses = 0;
        if !tracked.shown {
            return self.show(cx, key);
        }
        tracked.next_probe = match tracked.silent_since {
            Some(since) => {
                let long = self.settings.remove_suspects_timeout.is_some_and(|timeout| cx.now() >= since + timeout);
                Some(cx.now() + if long { MAX_RETRY } else { RETRY })
            }
            None => tracked.rechecks.next().map(|pause| cx.now() + *pause),
        };
    }

    fn dead(&mut self, cx: &mut Context<'_>, key: Key, refused: bool) {
        let Some(tracked) = self.members.get_mut(&key) else { return };
        if !tracked.shown {
            tracked.next_probe = Some(cx.now() + tracked.retry);
            tracked.retry = (tracked.retry * 2).min(MAX_RETRY);
            return;
        }
        tracked.misses += 1;
        if tracked.is_silent() || tracked.misses >= 2 {
            self.count(|stats| stats.found_dead += 1);
            self.hide(cx, key, Departure::Failed);
        } else {
            tracked.next_probe = Some(cx.now() + if refused { FAREWELL } else { Duration::ZERO });
        }
    }

    /// The member has answered for the first time, or again.
    fn show(&mut self, cx: &mut Context<'_>, key: Key) {
        let Some(arrival) = self.members.get(&key).filter(|tracked| !tracked.superseded).map(|tracked| tracked.arrival) else {
            return;
        };
        // Two processes cannot listen at one address: whoever announced itself there earlier is gone, though its restarted self
        // answers the probes that are meant for it.
        let earlier = self.members.range(at(key.0)).filter(|(_, other)| other.arrival < arrival);
        let (placeholders, earlier): (Vec<_>, Vec<_>) = earlier.partition(|(_, other)| other.member.is_placeholder());
        let [placeholders, earlier] =
            [placeholders, earlier].map(|keys| keys.into_iter().map(|(key, _)| *key).collect::<Vec<_>>());
        earlier.into_iter().for_each(|other| self.supersede(cx, other, Departure::Failed));
        if let Some(tracked) = self.members.get_mut(&key) {
            tracked.shown = true;
            tracked.retry = RETRY;
            tracked.rechecks = [].iter();
            cx.emit(Event::Added(tracked.member.clone()));
        }
        placeholders.into_iter().for_each(|other| self.supersede(cx, other, Departure::Identified));
    }

    fn supersede(&mut self, cx: &mut Context<'_>, key: Key, departure: Departure) {
        self.hide(cx, key, departure);
        if let Some(tracked) = self.members.get_mut(&key) {
            tracked.superseded = true;
            tracked.next_probe = None;
        }
    }

    /// The member is gone to those above. What the membership below still has is watched further.
    fn hide(&mut self, cx: &mut Context<'_>, key: Key, departure: Departure) {
        match self.members.get_mut(&key) {
            Some(tracked) if !tracked.is_silent() => {
                if std::mem::take(&mut tracked.shown) {
                    cx.emit(Event::Removed(tracked.member.clone(), departure));
                }
                tracked.misses = 0;
                tracked.retry = RETRY;
                tracked.next_probe = Some(cx.now() + RETRY);
            }
            _ => self.forget(cx, key, departure),
        }
    }

    fn forget(&mut self, cx: &mut Context<'_>, key: Key, departure: Departure) {
        let Some(gone) = self.members.remove(&key) else { return };
        if gone.shown {
            cx.emit(Event::Removed(gone.member, departure));
        }
        // The address is free again for whoever was hidden because of this member.
        for (_, other) in self.members.range_mut(at(key.0)).filter(|(_, other)| other.superseded) {
            other.superseded = false;
            other.probe_at(cx.now());
        }
    }

    /// Sends the probes that are due, those of shown members first, and asks to be called for the next.
    fn pump(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let (mut shown, mut silent, mut flying, mut due) = (0, 0, 0, false);
        for tracked in self.members.values() {
            shown += usize::from(tracked.shown);
            silent += usize::from(tracked.is_silent());
            flying += usize::from(tracked.flying_until.is_some());
            due |= tracked.is_due(now);
        }
        if due {
            let (first, second): (Vec<_>, Vec<_>) =
                self.members.values_mut().filter(|tracked| tracked.is_due(now)).partition(|tracked| tracked.shown);
            for tracked in first.into_iter().chain(second).take(MAX_PROBES.saturating_sub(flying)) {
                let request = self.settings.request(cx, tracked.has_just_asked(now));
                tracked.next_probe = None;
                tracked.flying_until = Some(now + request.connect_timeout + request.answer_timeout + GRACE);
                cx.probe(tracked.member.clone(), request);
                self.stats.lock().unwrap_or_else(PoisonError::into_inner).probes += 1;
            }
        }
        // What is overdue waits for a probe to come back, not for a time.
        let times = self.members.values().filter_map(|tracked| tracked.flying_until.or(tracked.next_probe));
        if let Some(next) = times.filter(|at| *at > now).min() {
            cx.wake_at(next);
        }
        let hidden = self.members.len() - shown;
        self.count(|stats| (stats.shown, stats.hidden, stats.silent) = (shown, hidden, silent));
    }

    fn count(&self, change: impl FnOnce(&mut DetectorStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Default for TcpFailureDetector {
    fn default() -> Self {
        let settings = Settings {
            connect_timeout: Duration::from_secs(1),
            send_test: true,
            read_test: false,
            read_test_timeout: Duration::from_secs(5),
            remove_suspects_timeout: Some(Duration::from_secs(300)),
        };
        Self { settings, members: BTreeMap::new(), arrivals: 0, stats: Arc::default() }
    }
}

impl Interceptor for TcpFailureDetector {
    fn name(&self) -> &'static str {
        "TcpFailureDetector"
    }

    fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
        if msg.message.body().len() != PROBE.len() || *msg.message.body() != PROBE[..] {
            return cx.deliver(msg);
        }
        if let Some(tracked) = self.members.get_mut(&key(msg.message.sender())) {
            tracked.asked = Some(cx.now());
        }
    }

    fn event(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::Added(member) => self.added(cx, member),
            Event::Updated(member) => self.updated(cx, member),
            Event::Removed(member, departure) => self.removed(cx, member, departure),
            Event::Suspect(member) => self.suspect(cx, &member),
        }
        self.pump(cx);
    }

    fn timeout(&mut self, cx: &mut Context<'_>) {
        // The transport owes an outcome for each probe; if it keeps one back, that must not blind the detector.
        let lost = |tracked: &Tracked| tracked.flying_until.is_some_and(|until| until <= cx.now());
        let lost: Vec<_> = self.members.iter().filter(|(_, tracked)| lost(tracked)).map(|(key, _)| *key).collect();
        for key in lost {
            self.members.entry(key).and_modify(|tracked| tracked.flying_until = None);
            self.dead(cx, key, false);
        }
        self.pump(cx);
    }

    fn heartbeat(&mut self, cx: &mut Context<'_>) {
        // Those that found the table full.
        let unknown = cx.view().iter().filter(|member| !self.members.contains_key(&key(member)));
        for member in unknown.cloned().collect::<Vec<_>>() {
            self.added(cx, member);
        }
        for tracked in self.members.values_mut().filter(|tracked| !tracked.shown && !tracked.superseded) {
            tracked.probe_at(cx.now());
        }
        self.pump(cx);
    }

    fn probed(&mut self, cx: &mut Context<'_>, member: &Member, outcome: Probe) {
        let key = key(member);
        if self.members.get_mut(&key).and_then(|tracked| tracked.flying_until.take()).is_some() {
            match outcome {
                Probe::Alive => self.alive(cx, key),
                Probe::Refused => self.dead(cx, key, true),
                Probe::Unreachable => self.dead(cx, key, false),
            }
        }
        self.pump(cx);
    }

    fn traits(&self) -> LayerTraits {
        LayerTraits::default().probes()
    }
}

impl fmt::Debug for TcpFailureDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpFailureDetector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Tells what a [`TcpFailureDetector`] sees. Cheap to clone, shared by threads.
#[derive(Clone, Debug)]
pub struct DetectorMonitor(Arc<Mutex<DetectorStats>>);

impl DetectorMonitor {
    /// What the detector sees now, and has done so far.
    #[must_use]
    pub fn stats(&self) -> DetectorStats {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`TcpFailureDetector`] sees and has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct DetectorStats {
    /// Members that are shown to the layers above.
    pub shown: usize,
    /// Of these, the ones that are silent: the membership below has dropped them, and yet they answer.
    pub silent: usize,
    /// Members that the membership below has and that do not answer.
    pub hidden: usize,
    /// Probes sent.
    pub probes: u64,
    /// Members that were shown and then found dead by a probe.
    pub found_dead: u64,
    /// Newcomers that found the table full; they are looked at again at the next heartbeat.
    pub refused: u64,
}

type Key = (SocketAddr, UniqueId);

fn key(member: &Member) -> Key {
    (member.address(), member.id())
}

/// The keys of all members at one address.
fn at(address: SocketAddr) -> RangeInclusive<Key> {
    (address, UniqueId::from_bytes([0; 16]))..=(address, UniqueId::from_bytes([0xff; 16]))
}

#[derive(Debug)]
struct Settings {
    connect_timeout: Duration,
    send_test: bool,
    read_test: bool,
    read_test_timeout: Duration,
    remove_suspects_timeout: Option<Duration>,
}

impl Settings {
    fn request(&self, cx: &mut Context<'_>, bare: bool) -> ProbeRequest {
        let mut request = ProbeRequest::connect(self.connect_timeout);
        if self.send_test && !bare {
            let ack = if self.read_test { SendOptions::ACK } else { SendOptions::NONE };
            let message = cx.message(SendOptions::BYTE_MESSAGE | ack, Bytes::from_static(PROBE));
            request.frame = frame::to_bytes(&message);
            request.expect_answer = self.read_test;
            request.answer_timeout = self.read_test_timeout;
        }
        request
    }
}

/// What is known of one member. It is hidden or shown, and heard or silent; who is hidden and silent is forgotten.
#[derive(Debug)]
struct Tracked {
    member: Member,
    /// Tells who announced itself later.
    arrival: u64,
    /// Whether the layers above see it.
    shown: bool,
    /// Since when the membership below does not have it.
    silent_since: Option<Instant>,
    /// Hidden because another member was verified at its address.
    superseded: bool,
    next_probe: Option<Instant>,
    /// When the probe that is on its way counts as lost.
    flying_until: Option<Instant>,
    /// The pauses before the probes that a suspect still has to pass.
    rechecks: std::slice::Iter<'static, Duration>,
    /// Probes in a row that ended without an answer.
    misses: u32,
    /// The pause before the next probe while hidden.
    retry: Duration,
    /// When it probed us last.
    asked: Option<Instant>,
}

impl Tracked {
    fn new(member: Member, arrival: u64, now: Instant) -> Self {
        Self {
            member,
            arrival,
            shown: false,
            silent_since: None,
            superseded: false,
            next_probe: Some(now),
            flying_until: None,
            rechecks: [].iter(),
            misses: 0,
            retry: RETRY,
            asked: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.flying_until.is_none() && self.next_probe.is_some_and(|at| at <= now)
    }

    fn is_silent(&self) -> bool {
        self.silent_since.is_some()
    }

    fn heard_again(&mut self, arrival: u64) {
        self.arrival = arrival;
        self.silent_since = None;
        self.superseded = false;
        self.misses = 0;
        self.next_probe = None;
    }

    fn probe_at(&mut self, time: Instant) {
        self.next_probe = Some(self.next_probe.map_or(time, |earlier| earlier.min(time)));
    }

    /// Whether it has probed us a moment ago. The end of such a connection makes it suspect, here, though it means nothing; if
    /// verifying that sent a message, it would make us suspect over there, and so on for ever.
    fn has_just_asked(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now < asked + ASKED)
    }
}

/// The body of a probe, as Tribes has it: sender and receiver must agree on it.
const PROBE: &[u8; 64] = b"\x4f\xa7\x73\x48\x79\x82\x43\xc9\x9f\x6f\x89\x80\xa1\x5b\x07\x14\
\x7d\xd9\x52\x5b\xeb\xf1\x43\x9a\xb7\x7e\xbe\x8f\x81\x67\x1e\xb6\
\x37\x15\xbe\x87\x45\x7e\x4c\xa8\xbf\x0a\x4d\x13\x53\x38\x15\x32\
\x55\xf6\x94\xb7\x3a\xfa\x40\x78\x91\x04\x7d\xd7\x72\x84\xc0\xd5";

const MAX_MEMBERS: usize = if cfg!(test) { 256 } else { 4096 };
const MAX_PROBES: usize = 64;
/// The pause between probes of a silent member, and the first between those of a hidden one.
const RETRY: Duration = Duration::from_secs(1);
/// A member that leaves closes its connections as well, and its goodbye takes another way: let it arrive.
const FAREWELL: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// A killed process closes its sockets one after another; its listener may be the last.
const RECHECKS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
/// What a transport may be late with the outcome of a probe.
const GRACE: Duration = Duration::from_secs(1);
const ASKED: Duration = Duration::from_secs(5);
