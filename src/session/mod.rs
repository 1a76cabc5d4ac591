//! Replicated sessions: kept in the memory of several members of a group, without a separate server.
//!
//! A [`BackupManager`] keeps each session on its owner and `k` backups, a [`DeltaManager`] on every member. Both give out
//! [`Session`]s, which are read, changed and [committed](Session::commit). A commit returns a [receipt](CommitReceipt) that names the
//! members which have confirmed the change. For data other than sessions there is the [`ReplicatedMap`](crate::map::ReplicatedMap), on
//! the same engine.
//!
//! | Topic | Where |
//! | --- | --- |
//! | Starting and configuring a manager | [`ManagerBuilder`] |
//! | What a commit waits for | [`Confirm`] |
//! | Reading without blocking, in async code | [`Manager::find`], [`Session::start_commit`] |
//! | Events | [`SessionEvent`] |
//! | Conditional writes | [`Session::replace_if`] |
//! | The node's name in the cookie, for balancers | [`route`] |
//! | Sessions on disk | [`store`] |
//! | Figures to watch | [`Statistics`] |
//!
//! `docs/SESSIONS.md` has every promise with its test, `docs/WEB.md` the use in a web application.

pub mod route;
pub mod store;

mod committing;

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
