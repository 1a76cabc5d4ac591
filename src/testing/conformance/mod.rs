//! Suites that any implementation of a plug point can run: each checks what the channel relies on, and panics with the name of
//! the promise that is broken.

pub mod interceptor;
pub mod membership;
pub mod store;
pub mod transport;
