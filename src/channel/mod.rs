//! The channel: what an application holds.
//!
//! ```text
//!  application threads        receiving threads      timers      events
//!        │ send                     │ push              │           │
//!        ▼                          ▼                   ▼           │ listeners of
//!  ┌───────────────── Stack, behind one lock ─────────────────┐     │ membership
//!  └─────┬──────────────────────────┬─────────────────────────┘     │
//!        ▼ transmit                 ▼ one strand per sender ────────┘
//!     Sender                    message listeners
//! ```
//!
//! | file | what it decides |
//! | --- | --- |
//! | `builder` | which parts there are, and what is wrong with them |
//! | `core` | what every thread shares; the only place that enters the stack |
//! | `driver` | time: the stack's timers, the heartbeat, and what plug-ins report |
//! | `strands` | that messages of one sender are handled one after another |
//! | `listeners`, `events`, `courier` | who is told what, and on which thread |
//! | `contexts` | which messages are for sessions, and for whose |

mod builder;
mod contexts;
mod core;
mod courier;
mod driver;
mod events;
mod listeners;
mod stats;
mod strands;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

pub use builder::{ChannelBuilder, ChannelError, Parts};
pub(crate) use contexts::{AlreadyRegistered, ContextGuard, ContextHandler};
pub(crate) use courier::Courier;
pub(crate) use listeners::Listeners;
pub use listeners::{ListenerError, ListenerOutcome, MessageListener, Subscription};
pub use stats::ChannelStats;

use self::core::{Core, MemberFeed};
use self::listeners::Closure;
use crate::completion::{Receipt, SendError, Sending, UserCode};
use crate::id::{Capabilities, UniqueId, random_bytes};
use crate::member::Member;
use crate::membership::{MemberSink, Mode};
use crate::message::{Body, Message};
use crate::options::SendOptions;
use crate::stack::{Event, Time, Urgency, View};
use crate::transport::{LinkSink, Listening, MessageHandler, MessageSink};

/// A member of the group: sends to the others, hears from them, and knows who is there.
///
/// Cheap to clone and shared by any number of threads. [`stop`](Self::stop) says goodbye; dropping the last clone does the same.
///
/// ```
/// use std::sync::mpsc;
/// use tribes::{membership::memory::Hub, transport::tcp::{TcpReceiver, TcpReceiverConfig}, GroupChannel, SendOptions};
///
/// // Two members in one process; across processes, leave the membership at its default: multicast.
/// let hub = Hub::new();
/// let member = |name: &'static str| {
///     GroupChannel::builder()
///         .membership(hub.membership())
///         .receiver(TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().unwrap())))
///         .payload(name)
///         .start()
/// };
/// let (anna, ben) = (member("anna")?, member("ben")?);
///
/// let (heard, hears) = mpsc::channel();
/// let _subscription = ben.on_message(move |message| drop(heard.send(message.bytes())));
///
/// let receipt = anna.send([ben.local()], "hello", SendOptions::SYNC_ACK)?;
/// assert_eq!(receipt.delivered, 1);
/// assert_eq!(hears.recv()?, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct GroupChannel(Arc<Handle>);

/// Shared by all clones of a channel; its end is the channel's.
struct Handle {
    core: Arc<Core>,
    driver: Mutex<Option<JoinHandle<()>>>,
    drain: Duration,
}

impl GroupChannel {
    /// A builder with the defaults of a Tomcat cluster.
    pub fn builder() -> ChannelBuilder {
        ChannelBuilder::default()
    }

    fn launch(builder: ChannelBuilder, parts: Parts) -> Result<Self, ChannelError> {
        let ChannelBuilder { membership, receiver, sender, udp, stack, domain, payload, advertise, heartbeat, drain, .. } =
            builder;
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let id = UniqueId::for_member(Capabilities::ALL);
        let local = Member::new(advertise.unwrap_or(nowhere)).with_id(id).with_domain(domain).with_payload(payload);
        let [seed, ..] = random_bytes().map(u64::from);
        let seed = random_bytes().iter().fold(seed, |word, byte| word << 8 ^ u64::from(*byte));
        let stack = stack.build(local.clone(), seed)?;
        let sends = parts.contains(Parts::SEND);
        let (udp_sender, udp_receiver) = udp.unzip();
        let core = Arc::new(Core::new(stack, local, Some(sender).filter(|_| sends), udp_sender.filter(|_| sends)));
        builder.message_listeners.into_iter().for_each(|listener| core.message_listeners().add(listener).forever());
        builder.membership_listeners.into_iter().for_each(|listener| core.membership_listeners().add(listener).forever());
        let channel = Self(Arc::new(Handle { core: Arc::clone(&core), driver: Mutex::default(), drain }));
        // From here on, dropping `channel` on an error stops whatever has started.
        for sender in core.senders() {
            let inbox = Arc::clone(&core.inbox);
            let sink = LinkSink::new(move |member| inbox.post(driver::Report::Event(Event::Suspect(member.clone()))));
            sender.start(sink).map_err(ChannelError::Sender)?;
        }
        if parts.contains(Parts::RECEIVE) {
            let mut listening = Listening::default();
            for mut receiver in [Some(receiver), udp_receiver].into_iter().flatten() {
                let sink = MessageSink::new(Arc::clone(&core) as Arc<dyn MessageHandler>);
                let at = receiver.start(sink).map_err(ChannelError::Receiver)?;
                core.add_receiver(receiver);
                listening.address = listening.address.or(at.address);
                listening.udp_port = listening.udp_port.or(at.udp_port);
            }
            let bound = listening.address.unwrap_or(nowhere);
            let mut address = advertise.unwrap_or(bound);
            if address.port() == 0 {
                address.set_port(bound.port());
            }
            core.set_local(|local| local.with_address(address).with_udp_port(listening.udp_port))
                .map_err(ChannelError::Receiver)?;
        }
        let thread = driver::spawn(&core, heartbeat).map_err(ChannelError::Thread)?;
        *channel.0.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        if parts.contains(Parts::OBSERVE) {
            let mode = if parts.contains(Parts::ANNOUNCE) { Mode::Full } else { Mode::Observe };
            let sink = MemberSink::new(Arc::new(MemberFeed::new(&core)));
            let mut membership = membership;
            membership.start(&core.local(), mode, sink).map_err(ChannelError::Membership)?;
            core.put_membership(membership);
        }
        Ok(channel)
    }

    /// The local member.
    #[must_use]
    pub fn local(&self) -> Member {
        self.0.core.local()
    }

    /// The other members, as the layers of the stack let them be seen: a snapshot that does not change.
    #[must_use]
    pub fn members(&self) -> Arc<View> {
        self.0.core.view()
    }

    /// Sends a message and blocks until it is known what became of it: as far as `options` ask, and at most as long as the
    /// transport's time-outs allow. Destinations need not be in the view. To no destination at all, it succeeds at once.
    ///
    /// From a message listener, do not wait for [`SYNC_ACK`](SendOptions::SYNC_ACK) of a member that may itself be waiting for yours:
    /// messages of one sender are handled one after another, so both would wait until the time-out. Use
    /// [`send_with`](Self::send_with) there.
    ///
    /// # Errors
    ///
    /// When a destination was not reached. The error names each one and why; those it does not name were reached.
    pub fn send(
        &self,
        members: impl IntoIterator<Item = Member>,
        body: impl Into<Body>,
        options: SendOptions,
    ) -> Result<Receipt, SendError> {
        let members: Vec<Member> = members.into_iter().collect();
        self.0.core.send_attended(&members, body.into(), options).wait()
    }

    /// As [`send`](Self::send), to every member of the view.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_all(&self, body: impl Into<Body>, options: SendOptions) -> Result<Receipt, SendError> {
        self.0.core.send_attended(self.members().as_slice(), body.into(), options).wait()
    }

    /// Sends a message without waiting: the handle tells what became of it, to whoever wants to know.
    ///
    /// Messages of one thread to one destination arrive in the order they were sent. With [`ASYNC`](SendOptions::ASYNC) and a
    /// [`MessageDispatch`](crate::interceptors::MessageDispatch) in the stack, what is queued is bounded, and a full queue is treated as configured there.
    ///
    /// ```no_run
    /// # async fn example(channel: tribes::GroupChannel) -> Result<(), tribes::SendError> {
    /// use tribes::SendOptions;
    /// let options = SendOptions::ACK | SendOptions::ASYNC;
    /// let members = channel.members().as_slice().to_vec();
    /// channel.send_with(members.clone(), "awaited", options).await?;
    /// channel.send_with(members, "watched", options).on_complete(|outcome| {
    ///     if let Err(error) = outcome {
    ///         eprintln!("{error}");
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_with(&self, members: impl IntoIterator<Item = Member>, body: impl Into<Body>, options: SendOptions) -> Sending {
        self.0.core.send(members, body.into(), options, Urgency::Queued)
    }

    /// The first half of [`send`](Self::send): the message has its place in the queues of its destinations, and whoever called is
    /// about to [assist](Self::assist). Does not block. `time` is now.
    pub(crate) fn submit(
        &self,
        time: Time,
        members: impl IntoIterator<Item = Member>,
        body: Bytes,
        options: SendOptions,
    ) -> Sending {
        self.0.core.send_at(time, members, body.into(), options, Urgency::Attended)
    }

    /// The second half: writes and reads on this thread, as long as that gets a message to `members` further. It may still be on its
    /// way afterwards, to a member that does not answer for a while.
    pub(crate) fn assist(&self, members: &[Member], sending: &Sending) {
        self.0.core.assist(members, sending);
    }

    /// Calls `watcher` after each change of the view or of the local member, under the channel's locks: it must do next to nothing.
    pub(crate) fn watch_view(&self, watcher: impl Fn() + Send + Sync + 'static) -> Subscription {
        self.0.core.view_watchers().add(Arc::new(watcher))
    }

    /// Calls `listener` with each message that comes in, as long as the subscription lives. It may return nothing, or a result:
    /// an error, or a panic, rejects the message, which its sender sees if it asked for [`SYNC_ACK`](SendOptions::SYNC_ACK).
    /// To miss none that arrives while the channel starts, use [`ChannelBuilder::on_message`].
    pub fn on_message<R: ListenerOutcome>(&self, listener: impl Fn(&Message) -> R + Send + Sync + 'static) -> Subscription {
        self.subscribe(Closure(listener))
    }

    /// As [`on_message`](Self::on_message), with a listener that chooses what it accepts.
    pub fn subscribe(&self, listener: impl MessageListener + 'static) -> Subscription {
        self.0.core.message_listeners().add(Arc::new(listener))
    }

    /// Calls `listener` when a member comes, changes or goes, in that order, one event after another, as long as the subscription
    /// lives. Who was there before, [`members`](Self::members) tells; a listener [of the builder](ChannelBuilder::on_membership)
    /// hears of everybody.
    pub fn on_membership(&self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Subscription {
        self.0.core.membership_listeners().add(Arc::new(listener))
    }

    /// Hands every message that names the session context `hash` to `handler`, and to no listener, as long as the guard lives.
    ///
    /// # Errors
    ///
    /// When a guard for this context lives already.
    pub(crate) fn register_context(
        &self,
        hash: u64,
        handler: Weak<dyn ContextHandler>,
    ) -> Result<ContextGuard, AlreadyRegistered> {
        self.0.core.contexts().register(hash, handler)
    }

    /// Changes the local member's payload and tells the group.
    ///
    /// # Errors
    ///
    /// When domain and payload together are longer than [`Member::MAX_TEXT`], or the group could not be told now; the next
    /// heartbeat tells it then.
    pub fn set_payload(&self, payload: impl Into<Bytes>) -> io::Result<()> {
        self.0.core.set_local(|local| local.with_payload(payload))
    }

    /// Changes the local member's domain and tells the group. A Tribes node keeps the domain that it heard first.
    ///
    /// # Errors
    ///
    /// As [`set_payload`](Self::set_payload).
    pub fn set_domain(&self, domain: impl Into<Bytes>) -> io::Result<()> {
        self.0.core.set_local(|local| local.with_domain(domain))
    }

    /// What the channel has done so far.
    #[must_use]
    pub fn stats(&self) -> ChannelStats {
        self.0.core.stats()
    }

    /// Stops the channel: lets queued messages go out, as long as [`ChannelBuilder::drain`] allows, reports the rest as not sent,
    /// says goodbye, and ends all threads. Sends fail from then on. Only the first call does anything; others
    /// return when it has.
    ///
    /// Called from a listener or a completion callback, it returns at once, and a thread of its own does all that.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Handle {
    fn stop(&self) {
        let (core, drain) = (Arc::clone(&self.core), self.drain);
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stop = move || {
            core.stop(drain);
            if let Some(driver) = driver {
                // It cannot have panicked: what it runs is no user code.
                let _ = driver.join();
            }
        };
        if !UserCode::is_running() {
            return stop();
        }
        // This may well be one of the threads that are about to be joined.
        if let Err(error) = thread::Builder::new().name("tribes-stop".into()).spawn(stop) {
            log::error!("no thread to stop the channel with: {error}");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for GroupChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupChannel")
            .field("local", &self.local())
            .field("members", &self.members().as_slice())
            .field("stack", &self.0.core.layers())
            .finish_non_exhaustive()
    }
}
