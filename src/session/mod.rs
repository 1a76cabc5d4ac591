//! Sessions that survive: replicated among the members of a group, with no server beside the application.
//!
//! A [`BackupManager`] keeps each session on its owner and `k` backups, a [`DeltaManager`] on every member. Both give
//! [`Session`]s: read, changed, and [committed](Session::commit), which says in a [receipt](CommitReceipt) which members hold the change.
//! For data that is no session, there is the [`ReplicatedMap`](crate::map::ReplicatedMap) on the same engine.
//!
//! | to | look at |
//! | --- | --- |
//! | start one | [`ManagerBuilder`] |
//! | know what a commit waits for | [`Confirm`] |
//! | be told of what happens | [`SessionEvent`] |
//! | write on a condition | [`Session::replace_if`] |
//! | put the node's name into the cookie | [`route`] |
//! | keep sessions beyond memory | [`store`] |

pub mod route;
pub mod store;

mod committing;
#[allow(dead_code, unreachable_pub, reason = "being built")]
pub(crate) mod engine;
mod error;
mod event;
mod id;
mod lease;
mod manager;
mod outcome;
mod ready;
mod replacing;
pub(crate) mod replica;
#[expect(clippy::module_inception, reason = "the handle is what the module is named for")]
mod session;
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
mod typed;
#[cfg(all(test, feature = "testing"))]
mod whole_stack;

pub use committing::Committing;
pub(crate) use committing::receipt;
pub use engine::Version;
pub use error::{CommitError, CreateError, GetError, ReplaceError, SetError, StartError};
pub use event::{Field, SessionEvent, Written};
pub use id::{ParseSessionIdError, SessionId};
pub(crate) use lease::lease_of;
pub(crate) use manager::context_hash;
pub use manager::{
    Backup, BackupManager, Delta, DeltaManager, Drained, Finding, Manager, ManagerBuilder, Notify, Persistence, Statistics,
};
pub use outcome::{CommitReceipt, Confirm};
pub use ready::WhenReady;
pub use replacing::Replacing;
pub use session::Session;
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub use typed::DecodeError;

/// Handles are used where the work is: on any thread, and by several at once.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Session>();
    shared::<BackupManager>();
    shared::<DeltaManager>();
    shared::<Committing>();
    shared::<Finding>();
    shared::<Replacing<'_>>();
    shared::<WhenReady>();
    shared::<crate::map::ReplicatedMap>();
    shared::<crate::map::Finding>();
    shared::<crate::map::Replacing>();
};
