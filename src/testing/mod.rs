//! For those who write their own memberships, transports and interceptors: what the crate tests its own with.
//!
//! Needs the feature `testing`.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`conformance`] | suites that any implementation of a plug point can run |
//! | [`simulator`] | a whole group on a virtual clock and a seeded network |

pub mod conformance;
pub mod simulator;

/// Feeds an engine of sessions what a peer may say, for fuzzing: lengths, kinds and bodies. Panics when the engine does not stand it.
#[doc(hidden)]
pub fn session_messages(data: &[u8]) {
    crate::session::engine::hostile::session_messages(data);
}
