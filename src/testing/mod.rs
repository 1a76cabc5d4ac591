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
