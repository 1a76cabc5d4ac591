//! A replicated map, for data other than sessions.
//!
//! It uses the engine of [`session`](crate::session). What is said there about receipts, conflicts and partitions holds here too.

mod builder;
mod event;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

pub use builder::MapBuilder;
pub use event::MapEvent;

use self::event::{Listener, Sink};
use crate::channel::{GroupChannel, Subscription};
use crate::session::engine::{
    Attribute, Change, Committed, Config, Copies, FetchFault, Key, Name, Record, Refusal, Refused, SwapFault, Version,
};
use crate::session::replica::{EventSink, Found, Pending, Read, Replica};
use crate::session::{
    CommitError, CommitReceipt, Committing, Confirm, GetError, ReplaceError, StartError, WhenReady, context_hash, receipt,
};

/// What tells maps from managers of the same name.
const KIND: &str = "ReplicatedMap";
/// The longest key, in bytes.
const MAX_KEY: usize = 1024;

/// Keys and values, each on its owner and `k` other members, or on all.
///
/// Members that start one under the same name share it. Any member may read and write any key: what it does not hold itself, it asks of a
/// holder. Of several writes of one key the latest wins, on all members alike; [`replace_if`](Self::replace_if) is for those who must not
/// lose one. Cheap to clone and shared by any number of threads. The map is left when the last clone is gone, or with
/// [`stop`](Self::stop); it keeps the channel alive.
///
/// ```
/// use std::time::Duration;
/// use tribes::map::ReplicatedMap;
/// use tribes::membership::memory::Hub;
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
/// let at_anna = ReplicatedMap::builder("stock").copies(1).start(&anna)?;
/// let at_ben = ReplicatedMap::builder("stock").copies(1).start(&ben)?;
/// assert!(at_anna.wait_ready(Duration::from_secs(10)) && at_ben.wait_ready(Duration::from_secs(10)));
///
/// at_anna.put("4711", "12 left")?;
/// assert_eq!(at_ben.get("4711")?.as_deref(), Some(&b"12 left"[..]));
/// at_ben.remove("4711")?;
/// assert!(!at_anna.contains("4711")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ReplicatedMap(Arc<Inner>);

struct Inner {
    name: String,
    replica: Replica,
    confirm: Confirm,
    copies: Copies,
    ttl: Duration,
    sink: Arc<Sink>,
    /// The name of the one attribute that an entry has: none.
    value: Name,
}

impl ReplicatedMap {
    /// A builder for the map of this name.
    pub fn builder(name: impl Into<String>) -> MapBuilder {
        MapBuilder::new(name.into())
    }

    fn start(
        channel: &GroupChannel,
        name: String,
        mut config: Config,
        confirm: Confirm,
        sink: Arc<Sink>,
    ) -> Result<Self, StartError> {
        config.context = context_hash(KIND, &name);
        config.swap_creates = true;
        let (ttl, copies) = (config.lease, config.copies);
        confirm.check(copies).map_err(|fault| StartError::too_few_copies(&name, fault))?;
        let told: Arc<dyn EventSink> = Arc::clone(&sink) as _;
        let replica = Replica::start(channel, format!("{KIND} {name}"), config, told, None)
            .map_err(|fault| StartError::new(KIND, &name, fault))?;
        Ok(Self(Arc::new(Inner { name, replica, confirm, copies, ttl, sink, value: Name::from("") })))
    }

    /// The name that it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Puts a value under a key, whatever was there, and waits as the map is [set to](MapBuilder::confirm). Counts as an access: the
    /// [time to live](MapBuilder::ttl) begins anew.
    ///
    /// The value is kept as it is: a part of a large buffer keeps that whole buffer in memory, on this member.
    ///
    /// # Errors
    ///
    /// See [`CommitError`]: with most, the value is not put; with [`Unconfirmed`](CommitError::Unconfirmed), it is.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<CommitReceipt, CommitError> {
        self.put_with(key, value, self.0.confirm)
    }

    /// As [`put`](Self::put), waiting as is said here.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        confirm: Confirm,
    ) -> Result<CommitReceipt, CommitError> {
        let confirm = confirm.check(self.0.copies)?;
        let (_, outcome) =
            self.change(key.as_ref(), value.into(), |key, change| self.0.replica.commit(key, change, confirm.want()))?;
        receipt(outcome)
    }

    /// As [`put`](Self::put), but does not wait: the value is put when this returns, and what it returns tells what became of it. It can
    /// be awaited on any executor.
    ///
    /// With [`Confirm::None`] it is held up while the queue to a member is full, for as long as
    /// [`MessageDispatch`](crate::interceptors::MessageDispatch) says: 5 s at most, unless told otherwise. Nothing else bounds what is queued
    /// then. With the other modes it is not held up; there, whoever awaits the outcome is.
    ///
    /// ```
    /// # use tribes::{map::ReplicatedMap, session::CommitError};
    /// async fn sell(stock: &ReplicatedMap, article: &str, left: u32) -> Result<(), CommitError> {
    ///     stock.start_put(article, left.to_string()).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn start_put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Committing {
        self.start_put_with(key, value, self.0.confirm)
    }

    /// As [`start_put`](Self::start_put), waiting as is said here.
    pub fn start_put_with(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, confirm: Confirm) -> Committing {
        let begin = || {
            let want = confirm.check(self.0.copies)?.want();
            let make = |key: &[u8], change| self.0.replica.start_commit(key, change, want);
            self.change(key.as_ref(), value.into(), make)
        };
        Committing::begun(begin().map(|begun| Committing::waiting(begun.outcome)))
    }

    /// The value under a key; `None` when there is none. Counts as an access. Held here, it costs no message; elsewhere, this blocks
    /// until a holder has answered, for [`fetch_timeout`](MapBuilder::fetch_timeout) at most.
    ///
    /// # Errors
    ///
    /// When no holder has answered in time, or the map is stopped: it is not known then whether there is a value.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, GetError> {
        Ok(self.find(key).wait()?.map(|found| found.value))
    }

    /// As [`get`](Self::get), with the version of the value; and without blocking: to be awaited on any executor.
    pub fn find(&self, key: impl AsRef<[u8]>) -> Finding {
        let key = key.as_ref();
        if self.0.replica.is_closed() {
            return Finding(State::Known(Some(Err(GetError::Stopped))));
        }
        if check(key).is_err() {
            // There cannot be such a key.
            return Finding(State::Known(Some(Ok(None))));
        }
        Finding(match self.0.replica.read(key) {
            Read::Known(found) => State::Known(Some(Ok(found.and_then(|Found { record, .. }| Value::in_record(&record))))),
            Read::Asking(answer) => State::Asking(answer),
        })
    }

    /// Whether there is a value under a key. As [`get`](Self::get) otherwise.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, GetError> {
        Ok(self.get(key)?.is_some())
    }

    /// Takes a key out, on all members, and waits as [`put`](Self::put) does; fine when there is none.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<CommitReceipt, CommitError> {
        let key = key.as_ref();
        check(key)?;
        self.check_open()?;
        // What is not held here is looked at first: a removal must be later than what it removes, whatever the clocks say.
        drop(self.get(key));
        let (_, outcome) = self.0.replica.commit(key, Change::Remove { read: None }, self.0.confirm.want())?;
        receipt(outcome)
    }

    /// As [`remove`](Self::remove), but does not wait; see [`start_put`](Self::start_put).
    pub fn start_remove(&self, key: impl AsRef<[u8]>) -> Committing {
        let begin = || {
            let key = key.as_ref();
            check(key)?;
            self.check_open()?;
            Ok(self.0.replica.start_commit(key, Change::Remove { read: None }, self.0.confirm.want())?)
        };
        Committing::begun(begin().map(|begun| Committing::waiting(begun.outcome)))
    }

    /// Puts a value if what is there still has the version that was [found](Self::find); `None` expects that there is nothing. The owner of
    /// the key decides, so of several that try at once, on whichever members, one succeeds.
    ///
    /// In a partition each side has an owner; what both have replaced is reported as a conflict when they meet.
    ///
    /// ```no_run
    /// # use tribes::map::ReplicatedMap;
    /// # use tribes::session::ReplaceError;
    /// # fn example(map: &ReplicatedMap) -> Result<(), Box<dyn std::error::Error>> {
    /// match map.replace_if("leader", None, "anna") {
    ///     Ok(_) => println!("anna it is"),
    ///     Err(ReplaceError::Conflict { .. }) => println!("{:?} was faster", map.get("leader")?),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ReplaceError`].
    pub fn replace_if(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<Version>,
        value: impl Into<Bytes>,
    ) -> Result<CommitReceipt, ReplaceError> {
        self.start_replace_if(key, expected, value).wait()
    }

    /// As [`replace_if`](Self::replace_if), but does not wait: what it returns tells what became of it, and can be awaited on any executor.
    pub fn start_replace_if(&self, key: impl AsRef<[u8]>, expected: Option<Version>, value: impl Into<Bytes>) -> Replacing {
        self.swap(key.as_ref(), expected.unwrap_or(Version::ZERO), Some(value.into()))
    }

    /// Takes a key out if its value still has the version that was [found](Self::find): for who must not take out what somebody else has
    /// just put. Decided as [`replace_if`](Self::replace_if) is.
    ///
    /// ```no_run
    /// # use tribes::map::ReplicatedMap;
    /// # use tribes::session::ReplaceError;
    /// # fn example(map: &ReplicatedMap) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(found) = map.find("leader").wait()?.filter(|found| found.value == "anna") {
    ///     match map.remove_if("leader", found.version) {
    ///         Err(ReplaceError::Conflict { .. }) => println!("somebody else leads by now"),
    ///         outcome => println!("anna leads no more: {}", outcome?),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ReplaceError`].
    pub fn remove_if(&self, key: impl AsRef<[u8]>, expected: Version) -> Result<CommitReceipt, ReplaceError> {
        self.start_remove_if(key, expected).wait()
    }

    /// As [`remove_if`](Self::remove_if), but does not wait: what it returns tells what became of it, and can be awaited on any executor.
    pub fn start_remove_if(&self, key: impl AsRef<[u8]>, expected: Version) -> Replacing {
        self.swap(key.as_ref(), expected, None)
    }

    /// How many entries this member holds; with copies everywhere, all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.replica.with(|engine, _| engine.alive())
    }

    /// Whether this member holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys that this member holds, in no order; with copies everywhere, all.
    #[must_use]
    pub fn keys(&self) -> Vec<Bytes> {
        shown(self.0.replica.with(|engine, _| engine.keys()))
    }

    /// Whether this member has all that it is to hold. Until then it serves all the same, but asks others for what it lacks.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.replica.is_ready()
    }

    /// Waits until this member is [ready](Self::ready); false when the time is over, or the map is stopped.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        self.0.replica.wait_ready(timeout)
    }

    /// As [`wait_ready`](Self::wait_ready), to be awaited on any executor; it comes true by
    /// [`transfer_timeout`](MapBuilder::transfer_timeout) after the start, or false when the map is stopped before.
    pub fn when_ready(&self) -> WhenReady {
        WhenReady::new(self.0.replica.when_ready())
    }

    /// The keys that this member holds and of which fewer others have confirmed a copy than are to hold one.
    #[must_use]
    pub fn at_risk(&self) -> Vec<Bytes> {
        shown(self.0.replica.with(|engine, _| engine.at_risk()))
    }

    /// Hands over what only this member holds, and leaves the map: for an orderly end. Returns when all is handed over, or after
    /// `deadline`, or when there is no other member to take it, with the keys of what no other member has as it was here.
    ///
    /// Blocks for all that time, and then as [`stop`](Self::stop) does: from a task, call it on a thread that may block.
    pub fn drain(&self, deadline: Duration) -> Vec<Bytes> {
        shown(self.0.replica.drain(deadline))
    }

    /// What has happened so far, and what there is. Where it speaks of sessions, read: entries.
    #[must_use]
    pub fn statistics(&self) -> crate::session::Statistics {
        crate::session::Statistics::of(&self.0.replica)
    }

    /// Calls `listener` with each event, as long as the subscription lives: one after another, on a thread of their own. It may block,
    /// and may use the map; while it blocks events wait, up to 65536 of them, and are then dropped and counted.
    pub fn on_event(&self, listener: impl Fn(&MapEvent) + Send + Sync + 'static) -> Subscription {
        self.0.sink.add(Arc::new(listener) as Arc<Listener>)
    }

    /// Leaves the map: the others hold its entries among themselves from now on, and what is asked of this one fails. What only this member
    /// holds is lost; [`drain`](Self::drain) keeps it.
    ///
    /// Blocks until the map's thread has ended, which is a matter of moments. So does dropping the last handle of a map that is not stopped.
    pub fn stop(&self) {
        self.0.replica.stop();
    }

    fn swap(&self, key: &[u8], expected: Version, value: Option<Bytes>) -> Replacing {
        if let Err(error) = check(key) {
            return Replacing(Answer::Known(Some(Err(ReplaceError::Refused(error)))));
        }
        if self.0.replica.is_closed() {
            return Replacing(Answer::Known(Some(Err(ReplaceError::Stopped))));
        }
        let name = Arc::clone(&self.0.value);
        Replacing(Answer::Asking(self.0.replica.swap(key, name, expected, value, self.0.confirm.want())))
    }

    fn check_open(&self) -> Result<(), CommitError> {
        if self.0.replica.is_closed() { Err(CommitError::Stopped) } else { Ok(()) }
    }

    /// Writes on top of what is here, so that two writes that do not know of each other are told from two in a row.
    fn change<R>(&self, key: &[u8], value: Bytes, make: impl Fn(&[u8], Change) -> Result<R, Refused>) -> Result<R, CommitError> {
        check(key)?;
        self.check_open()?;
        let attributes = || vec![(Arc::clone(&self.0.value), Some(value.clone()))];
        if let Some(read) = self.0.replica.with(|engine, _| engine.peek(key).cloned()) {
            match make(key, Change::Update { read, lease: None, attributes: attributes() }) {
                Err(Refused { why: Refusal::Removed | Refusal::Expired, .. }) => {}
                made => return Ok(made?),
            }
        }
        Ok(make(key, Change::Replace { lease: self.0.ttl, attributes: attributes() })?)
    }
}

fn check(key: &[u8]) -> Result<(), CommitError> {
    if (1..=MAX_KEY).contains(&key.len()) { Ok(()) } else { Err(CommitError::Key(key.len())) }
}

fn shown(keys: Vec<Key>) -> Vec<Bytes> {
    keys.iter().map(|key| Bytes::copy_from_slice(key)).collect()
}

impl fmt::Debug for ReplicatedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicatedMap").field("name", &self.0.name).field("ready", &self.ready()).finish_non_exhaustive()
    }
}

/// A value that was found, and its version. `Debug` shows how long the value is, not the value.
#[derive(Clone, Eq, PartialEq)]
#[non_exhaustive]
pub struct Value {
    /// The value.
    pub value: Bytes,
    /// Of its last write: for [`ReplicatedMap::replace_if`].
    pub version: Version,
}

impl Value {
    fn in_record(record: &Record) -> Option<Self> {
        record.attribute("").and_then(Self::of)
    }

    fn of(attribute: &Attribute) -> Option<Self> {
        Some(Self { value: attribute.value.clone()?, version: attribute.version })
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("bytes", &self.value.len()).field("version", &self.version).finish()
    }
}

/// A value that is being looked for: wait for it, or `.await` it on any executor.
#[must_use = "nothing is found unless it is waited for"]
pub struct Finding(State);

type Fetched = Result<Option<Arc<Record>>, FetchFault>;

enum State {
    Known(Option<Result<Option<Value>, GetError>>),
    Asking(Pending<Fetched>),
}

impl Finding {
    /// Blocks until it is known.
    ///
    /// # Errors
    ///
    /// As [`ReplicatedMap::get`].
    pub fn wait(self) -> Result<Option<Value>, GetError> {
        match self.0 {
            State::Known(known) => known.unwrap_or(Err(GetError::Stopped)),
            State::Asking(answer) => fetched(answer.wait()),
        }
    }

    /// Blocks until it is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<Option<Value>, GetError>, Self> {
        match self.0 {
            State::Asking(answer) => match answer.wait_timeout(timeout) {
                Ok(answer) => Ok(fetched(answer)),
                Err(answer) => Err(Self(State::Asking(answer))),
            },
            known => Ok(Self(known).wait()),
        }
    }
}

fn fetched(answer: Option<Fetched>) -> Result<Option<Value>, GetError> {
    match answer {
        Some(Ok(record)) => Ok(record.and_then(|record| Value::in_record(&record))),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(GetError::Stopped),
    }
}

impl Future for Finding {
    type Output = Result<Option<Value>, GetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Known(known) => Poll::Ready(known.take().unwrap_or(Err(GetError::Stopped))),
            State::Asking(answer) => Pin::new(answer).poll(cx).map(fetched),
        }
    }
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finding")
    }
}

/// A write on a condition that is under way. Wait for it, or `.await` it on any executor; what was asked for may happen although this is
/// dropped.
#[must_use = "whether the value is replaced is lost with this"]
pub struct Replacing(Answer);

enum Answer {
    Known(Option<Result<CommitReceipt, ReplaceError>>),
    Asking(Pending<Result<Committed, SwapFault>>),
}

impl Replacing {
    /// Blocks until the outcome is known.
    ///
    /// # Errors
    ///
    /// As [`ReplicatedMap::replace_if`].
    pub fn wait(self) -> Result<CommitReceipt, ReplaceError> {
        match self.0 {
            Answer::Known(known) => known.unwrap_or(Err(ReplaceError::Stopped)),
            Answer::Asking(answer) => swapped(answer.wait()),
        }
    }

    /// Blocks until the outcome is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<CommitReceipt, ReplaceError>, Self> {
        match self.0 {
            Answer::Asking(answer) => match answer.wait_timeout(timeout) {
                Ok(answer) => Ok(swapped(answer)),
                Err(answer) => Err(Self(Answer::Asking(answer))),
            },
            known => Ok(Self(known).wait()),
        }
    }
}

fn swapped(answer: Option<Result<Committed, SwapFault>>) -> Result<CommitReceipt, ReplaceError> {
    match answer {
        Some(Ok(committed)) => Ok(committed.into()),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(ReplaceError::Stopped),
    }
}

impl Future for Replacing {
    type Output = Result<CommitReceipt, ReplaceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Known(known) => Poll::Ready(known.take().unwrap_or(Err(ReplaceError::Stopped))),
            Answer::Asking(answer) => Pin::new(answer).poll(cx).map(swapped),
        }
    }
}

impl fmt::Debug for Replacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replacing")
    }
}
