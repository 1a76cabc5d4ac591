//! The managers: what an application holds.

mod builder;
mod context;
mod persistence;
mod statistics;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

pub use builder::{ManagerBuilder, Notify};
pub use persistence::Persistence;
pub use statistics::Statistics;

pub(super) use self::context::Context;
pub(crate) use self::context::context_hash;
use super::committing::Committing;
use super::engine::{FetchFault, Record};
use super::error::{CommitError, CreateError, GetError};
use super::event::SessionEvent;
use super::id::SessionId;
use super::outcome::CommitReceipt;
use super::ready::WhenReady;
use super::replica::{Found, Pending, Read};
use super::session::Session;
use crate::channel::Subscription;
use crate::clock;

/// Sessions on an owner and `k` backups, which every member computes from the list of members; see [`Manager`].
///
/// A commit waits for the backups, unless told otherwise. What a session costs in memory and messages does not grow with the group.
///
/// ```
/// use std::time::Duration;
/// use tribes::membership::memory::Hub;
/// use tribes::session::BackupManager;
/// use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
/// use tribes::GroupChannel;
///
/// // Two members in one process; across processes, leave the membership at its default: multicast.
/// let hub = Hub::new();
/// let member = || {
///     GroupChannel::builder()
///         .membership(hub.membership())
///         .receiver(TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().unwrap())))
///         .start()
/// };
/// let (anna, ben) = (member()?, member()?);
/// let at_anna = BackupManager::builder("/shop").backups(1).start(&anna)?;
/// let at_ben = BackupManager::builder("/shop").backups(1).start(&ben)?;
/// assert!(at_anna.wait_ready(Duration::from_secs(10)) && at_ben.wait_ready(Duration::from_secs(10)));
///
/// let mut session = at_anna.create()?;
/// session.set("cart", "1 x 4711")?;
/// let receipt = session.commit()?;
/// assert!(receipt.is_met(), "the other member holds it too");
///
/// anna.stop(); // a crash would do
/// let session = at_ben.get(&session.id())?.expect("it survives");
/// assert_eq!(session.get("cart").as_deref(), Some(&b"1 x 4711"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type BackupManager = Manager<Backup>;

/// Every session on every member; see [`Manager`].
///
/// For few members that all serve every session. A commit waits for nobody, unless told otherwise.
///
/// ```no_run
/// use tribes::session::{Confirm, DeltaManager};
/// # let channel = tribes::GroupChannel::builder().start()?;
/// let manager = DeltaManager::builder("/shop").confirm(Confirm::Copies(1)).start(&channel)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type DeltaManager = Manager<Delta>;

/// The kind of a [`BackupManager`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Backup;

/// The kind of a [`DeltaManager`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Delta;

/// Replicated sessions of one application: a [`BackupManager`] or a [`DeltaManager`].
///
/// Members that start one of the same kind under the same name share its sessions; a channel can carry many, each with a name of its
/// own. Cheap to clone and shared by any number of threads. The context is left when the last clone, and the last [`Session`]
/// of it, is gone, or with [`stop`](Self::stop). It keeps the channel alive.
pub struct Manager<K> {
    context: Arc<Context>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Manager<K> {
    fn new(context: Arc<Context>) -> Self {
        Self { context, kind: PhantomData }
    }

    /// The name that it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        self.context.name()
    }

    /// A new session, which is stored with its first commit. Its id is chosen so that this member owns it, as soon as it is
    /// [ready](Self::ready): a balancer that sends its requests here makes reading it free of messages.
    ///
    /// # Errors
    ///
    /// When this member holds as many sessions as it may, hands over what it has, or is stopped.
    pub fn create(&self) -> Result<Session, CreateError> {
        Context::create(&self.context)
    }

    /// The session with this id; `None` when there is none. Counts as an access. Held here, it costs no message; elsewhere, this blocks
    /// until a holder has answered, for [`fetch_timeout`](ManagerBuilder::fetch_timeout) at most.
    ///
    /// # Errors
    ///
    /// When no holder has answered in time, or the manager is stopped: it is not known then whether there is such a session.
    pub fn get(&self, id: &SessionId) -> Result<Option<Session>, GetError> {
        self.find(id).wait()
    }

    /// As [`get`](Self::get), without blocking: to be awaited on any executor.
    pub fn find(&self, id: &SessionId) -> Finding {
        let state = if self.context.replica().is_closed() {
            State::Known(Some(Err(GetError::Stopped)))
        } else {
            match self.context.replica().read(id.as_bytes()) {
                Read::Known(found) => State::Known(Some(Ok(found))),
                Read::Asking(answer) => State::Asking(answer),
            }
        };
        Finding { context: Arc::clone(&self.context), id: *id, state }
    }

    /// Whether this member has all that it is to hold. Until then it serves all the same, but asks others for what it lacks.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.context.replica().is_ready()
    }

    /// Waits until this member is [ready](Self::ready); false when the time is over, or the manager is stopped.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        self.context.replica().wait_ready(timeout)
    }

    /// As [`wait_ready`](Self::wait_ready), to be awaited on any executor; it comes true by
    /// [`transfer_timeout`](ManagerBuilder::transfer_timeout) after the start, or false when the manager is stopped before.
    ///
    /// ```
    /// # async fn serve(manager: tribes::session::DeltaManager) {
    /// if manager.when_ready().await {
    ///     // open the port
    /// }
    /// # }
    /// ```
    pub fn when_ready(&self) -> WhenReady {
        WhenReady::new(self.context.replica().when_ready())
    }

    /// Ends a session by its id, as [`Session::invalidate`] does, without reading it first, so that it ends also while those who hold it do not
    /// answer. Its end is remembered for an hour at least, even if there was no such session: of an id that a client has sent, ask
    /// [`get`](Self::get) first.
    ///
    /// # Errors
    ///
    /// As [`Session::commit`].
    pub fn invalidate(&self, id: &SessionId) -> Result<CommitReceipt, CommitError> {
        // A session that is not held here is looked at first: its end must be later than its last write, whatever the clocks say.
        match self.get(id) {
            Ok(Some(session)) => session.invalidate(),
            Ok(None) | Err(_) => self.context.invalidate(id, None),
        }
    }

    /// As [`invalidate`](Self::invalidate), but does not wait; see [`Session::start_commit`].
    pub fn start_invalidate(&self, id: &SessionId) -> Committing {
        self.context.start_invalidate(id, None)
    }

    /// Notes an access to a session, as [`get`](Self::get) would: for who keeps what it has read. Does not wait. Held here, it costs no
    /// message, elsewhere one question to a holder; nothing happens where there is no such session.
    pub fn touch(&self, id: &SessionId) {
        self.context.touch(id);
    }

    /// The ids of the sessions that this member holds, in no order.
    #[must_use]
    pub fn session_ids(&self) -> Vec<SessionId> {
        self.context.session_ids()
    }

    /// The sessions of this member of which fewer others have confirmed a copy than are to hold one. What ends here: a crash of
    /// this member would lose them, or make them go back in time. Empty after a while, if the group is large enough.
    #[must_use]
    pub fn at_risk(&self) -> Vec<SessionId> {
        self.context.at_risk()
    }

    /// Hands over what only this member holds, and leaves the context: for an orderly end, as in a rolling restart. From now on
    /// [`create`](Self::create) fails; sessions that are there are served until the end, but requests should go elsewhere. Returns when all is
    /// handed over, or after `deadline`, or when there is no other member to take them, and tells what could not be moved.
    ///
    /// Blocks for all that time, and then as [`stop`](Self::stop) does: from a task, call it on a thread that may block.
    ///
    /// ```no_run
    /// # fn stop(manager: tribes::session::BackupManager, channel: tribes::GroupChannel) {
    /// let drained = manager.drain(std::time::Duration::from_secs(30));
    /// if !drained.remaining.is_empty() {
    ///     eprintln!("{} sessions are lost with this process", drained.remaining.len());
    /// }
    /// channel.stop();
    /// # }
    /// ```
    pub fn drain(&self, deadline: Duration) -> Drained {
        self.context.drain(deadline)
    }

    /// What has happened so far, and what there is.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.context.statistics()
    }

    /// Calls `listener` with each event, as long as the subscription lives: one after another, on a thread of their own. It may block,
    /// and may use the manager; while it blocks events wait, up to 65536 of them, and are then dropped and counted.
    pub fn on_event(&self, listener: impl Fn(&SessionEvent) + Send + Sync + 'static) -> Subscription {
        self.context.on_event(Arc::new(listener))
    }

    /// Leaves the context: the others hold its sessions among themselves from now on, and what is asked of this manager fails. What only
    /// this member holds is lost, unless there is a [store](ManagerBuilder::store); with [`expire_on_shutdown`](ManagerBuilder::expire_on_shutdown), all sessions are.
    ///
    /// Blocks until the manager's thread has ended, which is a matter of moments, and until everything is saved where there is a store. So
    /// does dropping the last handle of a manager that is not stopped, be it a [`Session`] in a task: stop it before.
    pub fn stop(&self) {
        self.context.stop();
    }
}

impl<K> Clone for Manager<K> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.context))
    }
}

impl<K> fmt::Debug for Manager<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("name", &self.name()).field("ready", &self.ready()).finish_non_exhaustive()
    }
}

/// What came of a [`drain`](Manager::drain).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Drained {
    /// How many sessions were here, and are with others now.
    pub moved: usize,
    /// Those that no other member has as they were here.
    pub remaining: Vec<SessionId>,
}

/// A session that is being looked for: wait for it, or `.await` it on any executor.
#[must_use = "nothing is found unless it is waited for"]
pub struct Finding {
    context: Arc<Context>,
    id: SessionId,
    state: State,
}

type Fetched = Result<Option<Arc<Record>>, FetchFault>;

enum State {
    Known(Option<Result<Option<Found>, GetError>>),
    Asking(Pending<Fetched>),
}

impl Finding {
    /// Blocks until it is known.
    ///
    /// # Errors
    ///
    /// As [`Manager::get`].
    pub fn wait(self) -> Result<Option<Session>, GetError> {
        let found = match self.state {
            State::Known(known) => known.unwrap_or(Err(GetError::Stopped)),
            State::Asking(answer) => fetched(answer.wait()),
        };
        Ok(found?.map(|found| Session::found(self.context, self.id, found)))
    }

    /// Blocks until it is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<Option<Session>, GetError>, Self> {
        let Self { context, id, state } = self;
        let known = match state {
            State::Asking(answer) => match answer.wait_timeout(timeout) {
                Ok(answer) => Some(fetched(answer)),
                Err(answer) => return Err(Self { context, id, state: State::Asking(answer) }),
            },
            State::Known(known) => known,
        };
        Ok(Self { context, id, state: State::Known(known) }.wait())
    }
}

fn fetched(answer: Option<Fetched>) -> Result<Option<Found>, GetError> {
    match answer {
        Some(Ok(record)) => Ok(record.map(|record| Found { record, idle: None, at: clock::both() })),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(GetError::Stopped),
    }
}

impl Future for Finding {
    type Output = Result<Option<Session>, GetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let found = match &mut self.state {
            State::Known(known) => known.take().unwrap_or(Err(GetError::Stopped)),
            State::Asking(answer) => match Pin::new(answer).poll(cx) {
                Poll::Ready(answer) => fetched(answer),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(found.map(|found| found.map(|found| Session::found(Arc::clone(&self.context), self.id, found))))
    }
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finding").field("id", &self.id).finish_non_exhaustive()
    }
}
