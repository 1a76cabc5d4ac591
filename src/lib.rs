//! Group messaging for Rust processes, byte for byte on the wire of Apache Tribes, the module that clusters Tomcat.
//!
//! A [`GroupChannel`] finds the other members of its group, sends to them with the delivery guarantee that each message asks for,
//! and runs every message through an ordered stack of interceptors. A Rust node and a Tomcat node can sit in one group.
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
//! # The house
//!
//! | module | what lives there | I/O |
//! | --- | --- | --- |
//! | the root | what every user needs: channel, member, message, options, completions | |
//! | [`stack`] | the [`Interceptor`](stack::Interceptor) trait and the engine that moves messages through the layers | none |
//! | [`interceptors`] | the layers that ship with the crate | none |
//! | [`membership`] | who is there: the trait, multicast, static lists, in memory | sockets, threads |
//! | [`transport`] | how messages travel: the traits, TCP, UDP, in memory | sockets, threads |
//! | [`wire`] | the bytes of Tribes, as pure functions | none |
//! | [`session`] | replicated sessions on a channel: `BackupManager`, `DeltaManager`, stores, routes | a thread, files |
//! | [`map`] | the same for other data: `ReplicatedMap` | a thread |
//! | [`session`] | session ids, routes for balancers, stores of records | files |
#![cfg_attr(
    feature = "testing",
    doc = "| [`testing`] | a simulator and conformance suites, for layers and plug-ins of your own | none |"
)]
//!
//! Each plug point, that is membership, receiver, sender and interceptor, is a small trait; the builder takes any implementation.
//!
//! # Threads
//!
//! A channel has few threads, and all are named. `tribes-timers` runs timers and what plug-ins report; `tribes-multicast` hears and
//! sends heartbeats; `tribes-receive-N` take messages in and run the listeners; `tribes-send` writes what is queued.
//! `tribes-udp` and `tribes-udp-acks` belong to a `UdpTransport`, where there is one.
//! `tribes-events` runs the membership listeners and is there only while there is something to tell; listeners of sessions and maps have
//! one of their own. `tribes-session` keeps the time of one manager or map. Callers that wait for an
//! acknowledgement write their message and read its answer themselves.
//!
//! # Features
//!
//! `testing` adds the module of that name, `serde` methods for values of other types than bytes to
//! [`Session`](session::Session). The default build has no feature.
//!
//! # Trust
//!
//! As Tribes, this crate trusts the network it is on: there is no authentication. What an untrusted peer can and cannot do is
//! written in `SECURITY.md`; it can send and can forge members, it cannot crash, wedge or exhaust a node.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod channel;
mod clock;
mod completion;
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
