//! Sessions that survive: entries replicated among the members of a group, their ids, the route that balancers want in a cookie,
//! and where sessions are kept beyond memory.

pub mod route;
pub mod store;

#[allow(dead_code, unreachable_pub, reason = "being built")]
mod engine;
mod id;

pub use id::{ParseSessionIdError, SessionId};
