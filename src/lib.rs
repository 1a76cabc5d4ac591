//! Group messaging for Rust processes, byte for byte on the wire of Apache Tribes.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod clock;
mod completion;
mod id;
mod member;
mod message;
mod options;

pub mod interceptors;
pub mod membership;
pub mod stack;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod transport;
pub mod wire;

pub use completion::{Fault, FaultCause, Leg, Receipt, SendError, Sending};
pub use id::{Capabilities, UniqueId};
pub use member::Member;
pub use message::{Body, Message};
pub use options::{Acknowledgement, ParseOptionsError, SendOptions};
