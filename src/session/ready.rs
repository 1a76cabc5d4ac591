//! Waiting for a member to have all that it is to hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::replica::Pending;

/// Tells when a manager or a map is ready, to be awaited on any executor: true when it is, false when it was stopped before.
#[must_use = "it does nothing unless it is awaited"]
pub struct WhenReady(Pending<bool>);

impl WhenReady {
    pub(crate) fn new(ready: Pending<bool>) -> Self {
        Self(ready)
    }
}

impl Future for WhenReady {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(cx).map(|ready| ready.unwrap_or(false))
    }
}

impl fmt::Debug for WhenReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhenReady")
    }
}
