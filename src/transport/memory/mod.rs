//! A network within one process: real threads, real frames, and faults on demand.
//!
//! A [`Network`] hands out pairs of a [`MemoryReceiver`] and a [`MemorySender`]. Between two of them messages travel as over TCP:
//! encoded into frames, in order, each answered by the ack rules of Tribes. Then faults are added, chosen by a seed: the same seed
//! gives the messages of one link the same fates, however threads interleave.
//!
//! | fault | a message that wants an acknowledgement | a message that wants none |
//! | --- | --- | --- |
//! | dropped, or sent across a cut | [`FaultCause::Timeout`](crate::FaultCause::Timeout) after [`Network::set_timeout`] | lost in silence, as from a socket's buffer |
//! | answer dropped or cut off | the same, though it arrived | – |
//! | duplicated | arrives twice, the first answer counts | arrives twice |
//! | no connection yet across a cut | [`FaultCause::Connect`](crate::FaultCause::Connect)`(TimedOut)` after the time-out | the same |
//! | the peer crashed or stopped | [`FaultCause::Connection`](crate::FaultCause::Connection) at once | lost in silence |
//! | nobody listens | [`FaultCause::Connect`](crate::FaultCause::Connect)`(ConnectionRefused)` at once | the same |
//!
//! Nothing is resent, and duplicates are not filtered here: what the fault injection does is what the channel gets. (The channel
//! recognises repeats of messages that want an acknowledgement.)
//!
//! Threads: `memory-timer`, one for each network that needs one; `memory-A-B`, one for each pair of ports that talk, which runs the
//! listeners of B; `memory-probe`, for as long as a probe takes.
//!
//! ```
//! use tribes::transport::memory::{Faults, Network};
//! let network = Network::new(7);
//! network.set_faults(Faults::default().dropping(0.01).delaying_millis(0, 5));
//! let (receiver, sender) = network.endpoint("10.0.0.1:4000".parse()?);
//! network.cut("10.0.0.1:4000".parse()?, "10.0.0.2:4000".parse()?);
//! # drop((receiver, sender));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod acks;
mod link;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod timer;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

pub use receiver::MemoryReceiver;
pub use sender::MemorySender;

use super::{MessageSink, ReceiverStats};
use crate::id::mix;
use link::Link;
use timer::Timer;

/// A network of endpoints within this process. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

/// What happens to messages, and to the acknowledgements that answer them. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    dropping: f64,
    duplicating: f64,
    reordering: f64,
    delay: (Duration, Duration),
}

/// How long a reordered message is held back at most, beyond its delay.
const REORDER_BY: Duration = Duration::from_millis(5);

impl Faults {
    /// Loses this share of all messages, 0 to 1.
    #[must_use]
    pub fn dropping(mut self, share: f64) -> Self {
        self.dropping = share;
        self
    }

    /// Delivers this share of all messages twice, 0 to 1.
    #[must_use]
    pub fn duplicating(mut self, share: f64) -> Self {
        self.duplicating = share;
        self
    }

    /// Holds this share of all messages back, so that later ones overtake them, 0 to 1.
    #[must_use]
    pub fn reordering(mut self, share: f64) -> Self {
        self.reordering = share;
        self
    }

    /// Delays every message by a time between these two; order is kept.
    #[must_use]
    pub fn delaying(mut self, least: Duration, most: Duration) -> Self {
        self.delay = (least, most.max(least));
        self
    }

    /// As [`delaying`](Self::delaying), in milliseconds.
    #[must_use]
    pub fn delaying_millis(self, least: u64, most: u64) -> Self {
        self.delaying(Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// What all endpoints share.
struct Shared {
    seed: u64,
    state: Mutex<State>,
    timer: Timer,
    next_link: AtomicU64,
}

struct State {
    faults: Faults,
    link_faults: HashMap<(SocketAddr, SocketAddr), Faults>,
    cuts: HashSet<(SocketAddr, SocketAddr)>,
    slow: HashMap<SocketAddr, Duration>,
    timeout: Duration,
    next_port: u16,
    /// The newest endpoint at each address.
    endpoints: HashMap<SocketAddr, Weak<Endpoint>>,
}

/// One process of the network: what its receiver and its sender share.
struct Endpoint {
    address: SocketAddr,
    crashed: AtomicBool,
    listening: Mutex<Option<Inbox>>,
    /// Links from here, to be torn when this endpoint crashes.
    outbound: Mutex<Vec<Weak<Link>>>,
}

/// A started receiver.
struct Inbox {
    sink: MessageSink,
    links: Vec<Arc<Link>>,
    /// Of links that have been swept.
    past: ReceiverStats,
}

/// What the network does to one message.
struct Verdict {
    lost: bool,
    duplicated: bool,
    delay: Duration,
    /// Held back by this much, out of order.
    held: Option<Duration>,
}

impl Network {
    /// A network without faults. The seed chooses which messages are hit once there are some.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            faults: Faults::default(),
            link_faults: HashMap::new(),
            cuts: HashSet::new(),
            slow: HashMap::new(),
            timeout: Duration::from_secs(3),
            next_port: 4000,
            endpoints: HashMap::new(),
        };
        Self(Arc::new(Shared { seed, state: Mutex::new(state), timer: Timer::new(), next_link: AtomicU64::new(1) }))
    }

    /// A receiver and a sender at this address; port 0 stands for a free one. An endpoint at the address of one that crashed is
    /// the process that was started anew.
    #[must_use]
    pub fn endpoint(&self, mut address: SocketAddr) -> (MemoryReceiver, MemorySender) {
        let mut state = self.0.lock();
        while address.port() == 0 {
            let candidate = SocketAddr::new(address.ip(), state.next_port);
            state.next_port = state.next_port.checked_add(1).unwrap_or(4000);
            if state.endpoint(candidate).is_none() {
                address = candidate;
            }
        }
        let endpoint = Arc::new(Endpoint {
            address,
            crashed: AtomicBool::new(false),
            listening: Mutex::default(),
            outbound: Mutex::default(),
        });
        state.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        state.endpoints.insert(address, Arc::downgrade(&endpoint));
        drop(state);
        (MemoryReceiver::new(Arc::clone(&self.0), Arc::clone(&endpoint)), MemorySender::new(Arc::clone(&self.0), endpoint))
    }

    /// The faults of all links that have none of their own.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// The faults of messages in one direction; answers go the other way.
    pub fn set_link_faults(&self, from: SocketAddr, to: SocketAddr, faults: Faults) {
        self.0.lock().link_faults.insert((from, to), faults);
    }

    /// How long a sender waits for an acknowledgement or a connection; 3 s unless set. For what is sent from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.0.lock().timeout = timeout;
    }

    /// Every message to this address takes at least so long after the one before it on its link.
    pub fn set_slow(&self, to: SocketAddr, pace: Duration) {
        self.0.lock().slow.insert(to, pace);
    }

    /// Nothing passes from one address to the other any more; the way back stays open.
    pub fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.0.lock().cuts.insert((from, to));
    }

    /// Nothing passes between these two sides any more, in either direction.
    pub fn partition(&self, one_side: &[SocketAddr], other_side: &[SocketAddr]) {
        let mut state = self.0.lock();
        for one in one_side {
            for other in other_side {
                state.cuts.extend([(*one, *other), (*other, *one)]);
            }
        }
    }

    /// Takes back all cuts and partitions.
    pub fn heal(&self) {
        self.0.lock().cuts.clear();
    }

    /// The process at this address is gone, as by `kill -9`: nothing listens there, connections to and from it end, what it still
    /// tries to send fails. Returns when no thread hands it messages any more, but for the one that calls.
    pub fn crash(&self, address: SocketAddr) {
        let Some(endpoint) = self.0.lock().endpoint(address) else { return };
        endpoint.crashed.store(true, Ordering::SeqCst);
        let outbound = std::mem::take(&mut *lock(&endpoint.outbound));
        outbound.iter().filter_map(Weak::upgrade).for_each(|link| link.tear(ErrorKind::ConnectionReset));
        endpoint.stop_listening();
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Network")
            .field("seed", &self.0.seed)
            .field("endpoints", &state.endpoints.len())
            .field("faults", &state.faults)
            .field("cuts", &state.cuts)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a connection can be opened: both ways must be open.
    fn is_reachable(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let state = self.lock();
        !state.cuts.contains(&(from, to)) && !state.cuts.contains(&(to, from))
    }

    /// The seed of the fates on one link.
    fn link_seed(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        (from, to).hash(&mut hasher);
        mix(self.seed ^ hasher.finish())
    }

    /// Rolls the dice for one message. The number of rolls does not depend on their outcome.
    fn judge(&self, from: SocketAddr, to: SocketAddr, random: &mut u64) -> Verdict {
        let state = self.lock();
        let faults = state.link_faults.get(&(from, to)).unwrap_or(&state.faults);
        let mut roll = || {
            *random = random.wrapping_add(1);
            // 53 bits make a number from 0 up to 1.
            (mix(*random) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (drops, duplicates, reorders, delays, holds) = (roll(), roll(), roll(), roll(), roll());
        let (least, most) = faults.delay;
        Verdict {
            lost: drops < faults.dropping || state.cuts.contains(&(from, to)),
            duplicated: duplicates < faults.duplicating,
            delay: least + (most - least).mul_f64(delays),
            held: (reorders < faults.reordering).then(|| REORDER_BY.mul_f64(holds)),
        }
    }

    fn pace(&self, to: SocketAddr) -> Duration {
        self.lock().slow.get(&to).copied().unwrap_or_default()
    }
}

impl State {
    fn endpoint(&self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        self.endpoints.get(&address)?.upgrade()
    }
}

impl Endpoint {
    fn is_crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// Ends all links that lead here, and waits for their threads.
    fn stop_listening(&self) {
        let Some(inbox) = lock(&self.listening).take() else { return };
        inbox.links.iter().for_each(|link| link.tear(ErrorKind::ConnectionReset));
        inbox.links.iter().for_each(|link| link.join());
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.seed)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.address)
    }
}

/// Locks whatever a thread that panicked left behind: every change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
