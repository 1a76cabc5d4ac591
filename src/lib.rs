//! Replicated sessions and group messaging that run inside your Rust process: no separate server, no async runtime, no unsafe code.
//!
//! The crate speaks the Apache Tribes (Tomcat clustering) protocol byte for byte, so Rust and Tomcat nodes can exchange messages in one
//! group; sessions are shared among Rust nodes only.
//!
//! # Sessions
//!
//! A [`BackupManager`](session::BackupManager) keeps each session in the memory of an owner and `k` backups, a
//! [`DeltaManager`](session::DeltaManager) on every member. A commit returns a receipt that names the members which have a copy.
//!
//! ```no_run
//! use std::time::Duration;
//! use tribes::{GroupChannel, session::BackupManager};
//!
//! let channel = GroupChannel::builder().start()?; // the defaults of a Tomcat cluster: see below
//! let manager = BackupManager::builder("/shop").backups(1).start(&channel)?;
//! assert!(manager.wait_ready(Duration::from_secs(90)));
//!
//! let mut session = manager.create()?; // its id goes into a cookie
//! session.set("cart", "3 apples")?;
//! let receipt = session.commit()?;
//! if !receipt.is_met() {
//!     println!("saved on this member only, so far: {receipt}"); // for example, alone in the group
//! }
//!
//! let again = manager.get(&session.id())?; // works on any member, also after this one is gone
//! assert!(again.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Messages
//!
//! A [`GroupChannel`] finds the other members of its group, sends to them with the delivery guarantee that each message asks for,
//! and passes every message through an ordered stack of interceptors.
//!
//! ```no_run
//! use tribes::{GroupChannel, SendOptions};
//!
//! let channel = GroupChannel::builder()
//!     .payload("eu-1")
//!     .on_membership(|event| println!("{event:?}"))
//!     .on_message(|message| println!("{}: {:?}", message.sender(), message.bytes()))
//!     .start()?;
//!
//! match channel.send_all("hello", SendOptions::SYNC_ACK) {
//!     Ok(receipt) => println!("handled by {} members", receipt.delivered),
//!     Err(error) => println!("{error}"), // names each member that was not reached, and why
//! }
//! # Ok::<(), tribes::ChannelError>(())
//! ```
//!
//! # Network
//!
//! By default members find each other by multicast, in group 228.0.0.4, port 45564, and receive on the first free TCP port from 4000 to
//! 4099. **Those are Tomcat's defaults**: every Tomcat cluster and every other program on the network that uses them is in the same
//! group. Choose another with [`MulticastConfig::group`](membership::multicast::MulticastConfig::group). Without multicast, list the
//! addresses: [`StaticMembers`](membership::static_members::StaticMembers).
//!
//! # Modules
//!
//! | Module | Contents | I/O |
//! | --- | --- | --- |
//! | the root | what every user needs: channel, member, message, options, completions | |
//! | [`session`] | replicated sessions: `BackupManager`, `DeltaManager`, session ids, routes for balancers, stores | a thread, files |
//! | [`map`] | the same for other data: `ReplicatedMap` | a thread |
//! | [`stack`] | the [`Interceptor`](stack::Interceptor) trait and the engine that moves messages through the layers | none |
//! | [`interceptors`] | the layers that ship with the crate | none |
//! | [`membership`] | finding members: the trait, multicast, static lists, in memory | sockets, threads |
//! | [`transport`] | moving messages: the traits, TCP, UDP, in memory | sockets, threads |
//! | [`wire`] | the bytes of the Tribes protocol, as pure functions | none |
#![cfg_attr(feature = "testing", doc = "| [`testing`] | a simulator, and conformance suites for your own plug-ins | none |")]
//!
//! Membership, receiver, sender and interceptor are plug points: each is a small trait, and the builder takes any implementation.
//!
//! # Threads
//!
//! A channel has few threads, and all have names. `tribes-timers` runs timers and what plug-ins report; `tribes-multicast` receives and
//! sends heartbeats; `tribes-receive-N` receive messages and run the listeners; `tribes-send` writes what is queued. `tribes-udp` and
//! `tribes-udp-acks` belong to a `UdpTransport`. `tribes-events` runs the membership listeners, and exists only while there is something
//! to report; the listeners of each manager and map have a thread of their own with the same name. `tribes-session` keeps the time of one
//! manager or map; `tribes-store` uses the store of a manager. Callers that wait for an acknowledgement write their message and read
//! its answer themselves.
//!
//! # Features
//!
//! `serde` adds methods for values of any serialisable type to [`Session`](session::Session). `testing` adds the module of that name. No
//! feature is on by default.
//!
//! # Trust
//!
//! Like Tribes, this crate trusts the network: there is no encryption and no authentication. `SECURITY.md` says what an untrusted peer can
//! and cannot do. It can send messages, forge members, and read and write sessions; it cannot crash, block or exhaust a node.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod channel;
mod clock;
mod completion;
mod few;
mod hash;
mod id;
mod member;
mod message;
mod options;

pub mod interceptors;
pub mod map;
pub mod membership;
pub mod session;
pub mod stack;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod transport;
pub mod wire;

pub use channel::{
    ChannelBuilder, ChannelError, ChannelStats, GroupChannel, ListenerError, ListenerOutcome, MessageListener, Parts,
    Subscription,
};
pub use completion::{Fault, FaultCause, Leg, Receipt, SendError, Sending};
pub use id::{Capabilities, UniqueId};
pub use member::Member;
pub use message::{Body, Message};
pub use options::{Acknowledgement, ParseOptionsError, SendOptions};

/// The code that pages show is compiled.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/COMING_FROM_TOMCAT.md")]
    struct ComingFromTomcat;

    #[doc = include_str!("../docs/SESSIONS.md")]
    struct Sessions;

    #[doc = include_str!("../docs/WEB.md")]
    struct Web;
}
