//! A commit that is under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::engine::{CommitFault, Committed};
use super::error::CommitError;
use super::outcome::CommitReceipt;
use super::replica::Pending;

/// A commit that is under way; its change is made. Wait for it, or `.await` it on any executor; dropping it changes nothing.
///
/// ```
/// # use tribes::session::{CommitError, Session};
/// async fn save(session: &mut Session) -> Result<(), CommitError> {
///     let receipt = session.start_commit().await?;
///     println!("{receipt}");
///     Ok(())
/// }
/// ```
#[must_use = "what becomes of the commit is lost with this"]
pub struct Committing(State);

enum State {
    Known(Option<Result<CommitReceipt, CommitError>>),
    Waiting(Pending<Result<Committed, CommitFault>>),
}

impl Committing {
    pub(crate) fn known(outcome: Result<CommitReceipt, CommitError>) -> Self {
        Self(State::Known(Some(outcome)))
    }

    /// What could not be begun is over.
    pub(crate) fn begun(begun: Result<Self, CommitError>) -> Self {
        begun.unwrap_or_else(|error| Self::known(Err(error)))
    }

    pub(crate) fn waiting(outcome: Pending<Result<Committed, CommitFault>>) -> Self {
        Self(State::Waiting(outcome))
    }

    /// Blocks until the outcome is known.
    ///
    /// # Errors
    ///
    /// As [`Session::commit`](super::Session::commit).
    pub fn wait(self) -> Result<CommitReceipt, CommitError> {
        match self.0 {
            State::Known(known) => known.unwrap_or(Err(CommitError::Stopped)),
            State::Waiting(waiting) => receipt(waiting.wait()),
        }
    }

    /// Blocks until the outcome is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<CommitReceipt, CommitError>, Self> {
        match self.0 {
            State::Waiting(waiting) => match waiting.wait_timeout(timeout) {
                Ok(outcome) => Ok(receipt(outcome)),
                Err(waiting) => Err(Self(State::Waiting(waiting))),
            },
            known => Ok(Self(known).wait()),
        }
    }
}

impl Future for Committing {
    type Output = Result<CommitReceipt, CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Known(known) => Poll::Ready(known.take().unwrap_or(Err(CommitError::Stopped))),
            State::Waiting(waiting) => Pin::new(waiting).poll(cx).map(receipt),
        }
    }
}

impl fmt::Debug for Committing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Committing")
    }
}

pub(crate) fn receipt(outcome: Option<Result<Committed, CommitFault>>) -> Result<CommitReceipt, CommitError> {
    match outcome {
        Some(Ok(committed)) => Ok(committed.into()),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(CommitError::Stopped),
    }
}
