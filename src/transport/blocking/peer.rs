//! One destination: a queue, and a thread that works it off over one connection.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Connection, is_timeout};
use super::lock;
use super::sender::Shared;
use crate::budget::Permit;
use crate::clock;
use crate::completion::{FaultCause, Leg};
use crate::member::Member;

pub(super) struct Peer {
    member: Member,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// A message is being sent.
    busy: bool,
    running: bool,
    thread: Option<JoinHandle<()>>,
    /// A handle of the connection, to end it under the thread that uses it.
    stream: Option<TcpStream>,
    /// Nothing more is sent, for this reason.
    end: Option<FaultCause>,
}

/// What the thread of a destination does next.
enum Next {
    /// Sends this message; whether it was waited for.
    Send(Job, bool),
    /// Ends its connection, which has been idle.
    Finish,
    /// Ends: the peer is closed, or nothing is left to do.
    End,
}

/// A message to this destination.
pub(super) struct Job {
    pub(super) leg: Leg,
    pub(super) frame: Bytes,
    pub(super) acknowledged: bool,
    pub(super) _permit: Permit,
}

impl Peer {
    pub(super) fn new(member: Member, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { member, shared, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Queues a message; gives it back when the peer has been closed.
    pub(super) fn push(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return Err(job);
        }
        state.queue.push_back(job);
        if !state.running {
            let peer = Arc::clone(self);
            match thread::Builder::new().name("tribes-send".into()).spawn(move || peer.run()) {
                Ok(thread) => (state.running, state.thread) = (true, Some(thread)),
                Err(error) => {
                    let jobs = std::mem::take(&mut state.queue);
                    drop(state);
                    self.fail(jobs, &FaultCause::Connect(error.kind()));
                    return Ok(());
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Whether everything that was queued is settled.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.queue.is_empty() && !state.busy
    }

    pub(super) fn is_connected(&self) -> bool {
        lock(&self.state).stream.is_some()
    }

    /// Ends the connection; what is queued and under way fails.
    pub(super) fn close(&self, cause: &FaultCause) {
        let mut state = lock(&self.state);
        state.end = Some(cause.clone());
        let jobs = std::mem::take(&mut state.queue);
        if let Some(stream) = state.stream.take() {
            // Fails when the peer has ended it already, which is as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
        self.fail(jobs, cause);
    }

    /// Waits for the thread of a closed peer, unless it is the one that asks.
    pub(super) fn join(&self) {
        let thread = lock(&self.state).thread.take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A callback that panicked has said so itself.
            let _ = thread.join();
        }
    }

    fn run(&self) {
        let mut connection = None;
        let mut idle = self.shared.config.idle_timeout;
        loop {
            let (job, waited) = match self.next(connection.is_some(), idle) {
                Next::Send(job, waited) => (job, waited),
                Next::Finish => {
                    self.finish(&mut connection);
                    idle = Duration::ZERO;
                    continue;
                }
                Next::End => break,
            };
            idle = self.shared.config.idle_timeout;
            if waited && connection.as_ref().is_some_and(Connection::is_over) {
                self.drop_connection(&mut connection);
            }
            let outcome = self.deliver(&mut connection, &job);
            let fault = outcome.err();
            // Nothing that waits behind would fare better, and each would take as long to fail.
            let hopeless = matches!(fault, Some(FaultCause::Connect(_) | FaultCause::Timeout(_)));
            let others = if hopeless { std::mem::take(&mut lock(&self.state).queue) } else { VecDeque::new() };
            match &fault {
                None => job.leg.delivered(),
                Some(cause) => {
                    self.fail([job], cause);
                    self.fail(others, cause);
                    if !matches!(cause, FaultCause::Rejected | FaultCause::Stopped) {
                        self.shared.lost(&self.member);
                    }
                }
            }
            lock(&self.state).busy = false;
            self.shared.settled();
        }
        self.drop_connection(&mut connection);
    }

    /// What to do next, when there is something to do.
    fn next(&self, connected: bool, idle: Duration) -> Next {
        let mut waited = false;
        let mut state = lock(&self.state);
        loop {
            if state.end.is_some() {
                return Next::End;
            }
            if let Some(job) = state.queue.pop_front() {
                state.busy = true;
                return Next::Send(job, waited);
            }
            waited = true;
            let start = clock::now();
            let (woken, _) = self.changed.wait_timeout(state, idle).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if state.queue.is_empty() && clock::left(start, idle).is_zero() {
                break;
            }
        }
        if connected {
            return Next::Finish;
        }
        state.running = false;
        Next::End
    }

    /// Sends a message, again after its connection was lost, as often as is configured.
    fn deliver(&self, connection: &mut Option<Connection>, job: &Job) -> Result<(), FaultCause> {
        let config = &self.shared.config;
        let mut attempt = 0;
        loop {
            let cause = match self.attempt(connection, job) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(FaultCause::Rejected),
                Err(cause) => cause,
            };
            self.drop_connection(connection);
            if let Some(end) = lock(&self.state).end.clone() {
                return Err(end);
            }
            if attempt == config.max_retry_attempts || matches!(cause, FaultCause::Timeout(_)) {
                return Err(cause);
            }
            attempt += 1;
            if matches!(cause, FaultCause::Connection(_)) {
                self.shared.resent.fetch_add(1, Ordering::Relaxed);
            }
            if attempt > 1 {
                self.pause(config.backoff);
            }
        }
    }

    /// Whether the message was accepted.
    fn attempt(&self, connection: &mut Option<Connection>, job: &Job) -> Result<bool, FaultCause> {
        let config = &self.shared.config;
        let open = match connection {
            Some(open) => open,
            None => connection.insert(self.connect()?),
        };
        let cause = |error: std::io::Error| match error.kind() {
            kind if is_timeout(kind) => FaultCause::Timeout(config.timeout),
            kind => FaultCause::Connection(kind),
        };
        open.write(&job.frame).map_err(cause)?;
        self.shared.frames.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes.fetch_add(job.frame.len() as u64, Ordering::Relaxed);
        if !job.acknowledged {
            return Ok(true);
        }
        open.read_ack(config.timeout).map_err(cause)
    }

    fn connect(&self) -> Result<Connection, FaultCause> {
        let config = &self.shared.config;
        let opened = Connection::open(self.member.address(), config.connect_timeout, config.timeout)
            .and_then(|connection| Ok((connection.handle()?, connection)));
        let (handle, connection) = opened.map_err(|error| match error.kind() {
            kind if is_timeout(kind) => FaultCause::Connect(ErrorKind::TimedOut),
            kind => FaultCause::Connect(kind),
        })?;
        let mut state = lock(&self.state);
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        state.stream = Some(handle);
        self.shared.connected.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }

    /// Ends a connection that has been idle. The thread stays for it, so that none is opened beside.
    fn finish(&self, connection: &mut Option<Connection>) {
        if let Some(connection) = connection.take()
            && let Err(error) = connection.finish(self.shared.config.timeout)
        {
            log::debug!("the idle connection to {} ended otherwise: {error}", self.member.address());
        }
        lock(&self.state).stream = None;
    }

    fn drop_connection(&self, connection: &mut Option<Connection>) {
        lock(&self.state).stream = None;
        *connection = None;
    }

    /// Waits, unless the peer is closed.
    fn pause(&self, time: Duration) {
        let start = clock::now();
        let mut state = lock(&self.state);
        while state.end.is_none() && !clock::left(start, time).is_zero() {
            state = self.changed.wait_timeout(state, clock::left(start, time)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fail(&self, jobs: impl IntoIterator<Item = Job>, cause: &FaultCause) {
        for job in jobs {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            job.leg.fail(cause.clone());
        }
    }
}
