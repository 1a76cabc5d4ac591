//! For those who write their own memberships, transports and interceptors: what the crate tests its own with.
//!
//! Needs the feature `testing`.

pub mod conformance;
