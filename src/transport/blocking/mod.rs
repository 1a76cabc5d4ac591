//! TCP with a thread per connection: the plainest transport that keeps every promise of the seam.
//!
//! It is here to prove the seam, to be compared with, and to be read first: `receiver` and `peer` hold the whole of it. It has one
//! acknowledged message in flight per destination, so [`tcp`](super::tcp) is faster wherever there is more than one caller, and it
//! takes a thread for each peer in either direction.
//!
//! Threads: `tribes-accept`; `tribes-receive`, one for each connection that came in, which runs the listeners; `tribes-send`, one
//! for each destination with something to send, until it has been idle; `tribes-probe`, while probes run, at most 16.
//!
//! ```no_run
//! use tribes::transport::blocking::{BlockingReceiver, BlockingReceiverConfig, BlockingSender, BlockingSenderConfig};
//! let receiver = BlockingReceiver::new(BlockingReceiverConfig::default().bind("127.0.0.1:4000".parse()?));
//! let sender = BlockingSender::new(BlockingSenderConfig::default());
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod answers;
mod connection;
mod peer;
mod probes;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use receiver::{BlockingReceiver, BlockingReceiverConfig};
pub use sender::{BlockingSender, BlockingSenderConfig};

/// Locks whatever a thread that panicked left behind: every change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
