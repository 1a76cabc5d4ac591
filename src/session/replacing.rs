//! A write on a condition that is under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::committing::Committing;
use super::engine::{Committed, Name, SwapFault, Version};
use super::error::ReplaceError;
use super::outcome::CommitReceipt;
use super::replica::Pending;
use super::session::Session;
use crate::clock;

/// A write on a condition that is under way. Wait for it, or `.await` it on any executor.
///
/// It holds on to its session, which shows the new value afterwards. What was asked for may happen although this is dropped; the handle
/// does not know then.
///
/// ```
/// # use tribes::session::{ReplaceError, Session};
/// async fn take_one(session: &mut Session) -> Result<bool, ReplaceError> {
///     let left = session.get("left").map_or(0, |value| value[0]);
///     let Some(fewer) = left.checked_sub(1) else { return Ok(false) };
///     let seen = session.version("left");
///     session.start_replace_if("left", seen, Some(vec![fewer].into())).await?;
///     Ok(true)
/// }
/// ```
#[must_use = "whether the value is replaced is lost with this"]
pub struct Replacing<'a> {
    session: &'a mut Session,
    write: Box<Write>,
    state: State,
}

/// What is to be written, and on which condition.
struct Write {
    name: Name,
    expected: Version,
    value: Option<Bytes>,
}

pub(super) enum State {
    Known(Option<Result<CommitReceipt, ReplaceError>>),
    /// The session is new: it has to be there first.
    Creating(Committing),
    Asking(Pending<Result<Committed, SwapFault>>),
}

impl<'a> Replacing<'a> {
    pub(super) fn new(session: &'a mut Session, name: Name, expected: Version, value: Option<Bytes>, state: State) -> Self {
        Self { session, write: Box::new(Write { name, expected, value }), state }
    }

    /// Blocks until the outcome is known.
    ///
    /// # Errors
    ///
    /// As [`Session::replace_if`].
    pub fn wait(mut self) -> Result<CommitReceipt, ReplaceError> {
        loop {
            match self.take() {
                State::Known(known) => return known.unwrap_or(Err(ReplaceError::Stopped)),
                State::Creating(creating) => self.created(creating.wait().err().map(ReplaceError::NotCreated)),
                State::Asking(answer) => return self.answered(answer.wait()),
            }
        }
    }

    /// Blocks until the outcome is known or the time is over, and then gives the handle back.
    ///
    /// # Errors
    ///
    /// The handle itself when the time is over.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Result<CommitReceipt, ReplaceError>, Self> {
        let since = clock::now();
        loop {
            let left = clock::left(since, timeout);
            match self.take() {
                State::Known(known) => return Ok(known.unwrap_or(Err(ReplaceError::Stopped))),
                State::Creating(creating) => match creating.wait_timeout(left) {
                    Ok(created) => self.created(created.err().map(ReplaceError::NotCreated)),
                    Err(creating) => return Err(Self { state: State::Creating(creating), ..self }),
                },
                State::Asking(answer) => match answer.wait_timeout(left) {
                    Ok(answer) => return Ok(self.answered(answer)),
                    Err(answer) => return Err(Self { state: State::Asking(answer), ..self }),
                },
            }
        }
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Known(None))
    }

    /// The new session is there, or could not be made.
    fn created(&mut self, fault: Option<ReplaceError>) {
        self.state = match fault {
            Some(fault) => State::Known(Some(Err(fault))),
            None => self.session.ask_to_replace(&self.write.name, self.write.expected, self.write.value.clone()),
        };
    }

    fn answered(&mut self, answer: Option<Result<Committed, SwapFault>>) -> Result<CommitReceipt, ReplaceError> {
        self.session.replaced(&self.write.name, self.write.value.take(), answer)
    }
}

impl Future for Replacing<'_> {
    type Output = Result<CommitReceipt, ReplaceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Known(known) => return Poll::Ready(known.take().unwrap_or(Err(ReplaceError::Stopped))),
                State::Creating(creating) => match Pin::new(creating).poll(cx) {
                    Poll::Ready(created) => self.created(created.err().map(ReplaceError::NotCreated)),
                    Poll::Pending => return Poll::Pending,
                },
                State::Asking(answer) => match Pin::new(answer).poll(cx) {
                    Poll::Ready(answer) => {
                        self.state = State::Known(None);
                        return Poll::Ready(self.answered(answer));
                    }
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

impl fmt::Debug for Replacing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacing").field("session", &self.session.id()).finish_non_exhaustive()
    }
}
