//! Everything outside the processes: virtual time, chance, connections and packets on their way.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::config::SimConfig;
use crate::id::mix;

pub(super) type ConnId = u64;

/// A process: which node, and which of its lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pid {
    pub(super) node: usize,
    pub(super) life: u32,
}

/// The ends of a connection: who opened it, and who accepted it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    Caller,
    Callee,
}

impl End {
    fn other(self) -> Self {
        if self == Self::Caller { Self::Callee } else { Self::Caller }
    }
}

/// What arrives somewhere.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Datagram {
        bytes: Bytes,
    },
    /// A wish to connect reaches the host of the callee.
    Knock {
        conn: ConnId,
    },
    /// The answer to it reaches the caller.
    Opened {
        conn: ConnId,
        accepted: bool,
    },
    /// Bytes reach this end.
    Bytes {
        conn: ConnId,
        to: End,
        bytes: Bytes,
    },
    /// The news that the other end is closed reaches this end.
    Closed {
        conn: ConnId,
        to: End,
    },
}

/// Two processes and what has passed between them.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) caller: Pid,
    pub(super) callee: Pid,
    /// What is on its way to the caller and to the callee, in order, and when the last of it arrives.
    lanes: [VecDeque<Arrival>; 2],
    arrives: [Duration; 2],
    /// What each end has closed.
    closed: [bool; 2],
    /// Closed so that what is still on its way to the callee is lost.
    aborted: bool,
}

impl Conn {
    pub(super) fn end(&self, end: End) -> Pid {
        match end {
            End::Caller => self.caller,
            End::Callee => self.callee,
        }
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) config: SimConfig,
    /// Everything that happened, folded into one number.
    pub(super) trace: u64,
    random: u64,
    order: u64,
    next_conn: ConnId,
    queue: BinaryHeap<Reverse<Scheduled>>,
    conns: BTreeMap<ConnId, Conn>,
    blocked: BTreeSet<(usize, usize)>,
    /// Lanes whose front could not get through; it does when the way is free again, once for each entry.
    held: Vec<(ConnId, End)>,
}

#[derive(Debug)]
struct Scheduled {
    at: Duration,
    order: u64,
    due: Due,
}

#[derive(Debug)]
enum Due {
    Datagram {
        from: usize,
        to: usize,
        bytes: Bytes,
    },
    /// The front of a connection's lane.
    Front {
        conn: ConnId,
        to: End,
    },
}

impl World {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            now: Duration::ZERO,
            config,
            trace: mix(seed),
            random: mix(seed),
            order: 0,
            next_conn: 0,
            queue: BinaryHeap::new(),
            conns: BTreeMap::new(),
            blocked: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        // 53 bits are what a float between 0 and 1 can tell apart.
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let draw = (self.random() >> 11) as f64 / (1_u64 << 53) as f64;
        draw < share
    }

    /// Takes note of what happens, for [`trace`](Self::trace).
    pub(super) fn note(&mut self, what: u64, bytes: &[u8]) {
        let time = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        let start = mix(self.trace ^ mix(time) ^ what);
        self.trace = bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// When the next packet arrives.
    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.peek().map(|next| next.0.at)
    }

    /// What arrives now and at which process, unless it is lost or held back on its way. Of a datagram's and a knock's
    /// destination only the node is known.
    pub(super) fn arrive(&mut self) -> Option<(Pid, Arrival)> {
        let Scheduled { at, due, .. } = self.queue.pop()?.0;
        self.now = self.now.max(at);
        let (id, end) = match due {
            Due::Datagram { from, to, .. } if self.blocked.contains(&(from, to)) => return None,
            Due::Datagram { to, bytes, .. } => return Some((Pid { node: to, life: 0 }, Arrival::Datagram { bytes })),
            Due::Front { conn, to } => (conn, to),
        };
        let conn = self.conns.get_mut(&id)?;
        let (from, to) = (conn.end(end.other()), conn.end(end));
        let blocked = self.blocked.contains(&(from.node, to.node));
        if blocked && matches!(conn.lanes[end as usize].front()?, Arrival::Bytes { .. } | Arrival::Closed { .. }) {
            self.held.push((id, end));
            return None;
        }
        let arrival = conn.lanes[end as usize].pop_front().filter(|_| !blocked)?;
        let unwanted = match arrival {
            // Who has stopped asking gets no answer.
            Arrival::Knock { .. } | Arrival::Opened { .. } => conn.closed[End::Caller as usize],
            Arrival::Bytes { .. } => conn.closed[end as usize] || conn.aborted,
            _ => conn.closed[end as usize],
        };
        if unwanted {
            return None;
        }
        if matches!(arrival, Arrival::Closed { .. }) {
            conn.closed[end as usize] = true;
            // What was on its way before a reset does not come out of the network after it.
            conn.aborted |= end == End::Caller;
            if conn.closed == [true; 2] {
                self.conns.remove(&id);
            }
        }
        Some((to, arrival))
    }

    /// The callee accepts with this process.
    pub(super) fn accept(&mut self, conn: ConnId, life: u32) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.callee.life = life;
        }
    }

    /// Sends a datagram; it may be lost, come twice, or late.
    pub(super) fn datagram(&mut self, from: usize, to: usize, bytes: &Bytes) {
        let copies = 1 + u32::from(self.chance(self.config.duplicates));
        for _ in 0..copies {
            let at = self.now + self.latency();
            if !self.chance(self.config.loss) {
                self.schedule(at, Due::Datagram { from, to, bytes: bytes.clone() });
            }
        }
    }

    /// Asks a node to accept a connection.
    pub(super) fn connect(&mut self, caller: Pid, callee: usize) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        let callee = Pid { node: callee, life: 0 };
        let arrives = [self.now; 2];
        self.conns.insert(conn, Conn { caller, callee, lanes: Default::default(), arrives, closed: [false; 2], aborted: false });
        self.in_order(conn, End::Callee, Arrival::Knock { conn });
        conn
    }

    pub(super) fn answer_knock(&mut self, conn: ConnId, accepted: bool) {
        self.in_order(conn, End::Caller, Arrival::Opened { conn, accepted });
        if !accepted {
            self.close(conn, End::Callee);
        }
    }

    /// Sends bytes to an end. Now and then the connection is reset instead, or just after.
    pub(super) fn send(&mut self, conn: ConnId, to: End, bytes: Bytes) {
        if self.chance(self.config.breaks) {
            if self.chance(0.5) {
                self.in_order(conn, to, Arrival::Bytes { conn, to, bytes });
            }
            for end in [End::Caller, End::Callee] {
                self.in_order(conn, end, Arrival::Closed { conn, to: end });
            }
        } else {
            self.in_order(conn, to, Arrival::Bytes { conn, to, bytes });
        }
    }

    /// One end closes; what it has sent before still arrives.
    pub(super) fn close(&mut self, conn: ConnId, by: End) {
        let Some(known) = self.conns.get_mut(&conn) else { return };
        let before = std::mem::replace(&mut known.closed[by as usize], true);
        if known.closed == [true; 2] {
            self.conns.remove(&conn);
        } else if !before {
            self.in_order(conn, by.other(), Arrival::Closed { conn, to: by.other() });
        }
    }

    /// The caller closes; what it has sent before is lost unless it has arrived.
    pub(super) fn abort(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.aborted = true;
        }
        self.close(conn, End::Caller);
    }

    /// A process is gone: its operating system closes what it had open.
    pub(super) fn close_all(&mut self, of: Pid) {
        let ends = [End::Caller, End::Callee];
        let open: Vec<_> = self.conns.iter().flat_map(|(id, conn)| ends.map(|end| (*id, end, conn.end(end)))).collect();
        for (conn, end, _) in open.into_iter().filter(|(.., pid)| *pid == of) {
            self.close(conn, end);
        }
    }

    /// Nothing gets from one node to the other any more.
    pub(super) fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
    }

    /// Every way is free again, and what connections held back arrives.
    pub(super) fn heal(&mut self) {
        self.blocked.clear();
        for (conn, to) in std::mem::take(&mut self.held) {
            self.front(conn, to);
        }
    }

    fn in_order(&mut self, conn: ConnId, to: End, arrival: Arrival) {
        let Some(known) = self.conns.get_mut(&conn) else { return };
        known.lanes[to as usize].push_back(arrival);
        self.front(conn, to);
    }

    /// Brings the front of a lane to its end, behind what is on its way.
    fn front(&mut self, conn: ConnId, to: End) {
        let at = self.now + self.latency();
        let Some(known) = self.conns.get_mut(&conn) else { return };
        let last = &mut known.arrives[to as usize];
        *last = at.max(*last);
        let at = *last;
        self.schedule(at, Due::Front { conn, to });
    }

    fn schedule(&mut self, at: Duration, due: Due) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at, order: self.order, due }));
    }

    fn latency(&mut self) -> Duration {
        let (least, most) = self.config.latency;
        let range = u64::try_from((most - least).as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        let usual = least + Duration::from_nanos(self.random() % range);
        if self.chance(self.config.stalls) { usual * (1 + u32::try_from(self.random() % 100).unwrap_or(0)) } else { usual }
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}
