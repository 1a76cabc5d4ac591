//! The legs of a message whose sender hears of each destination by itself.

use std::sync::{Arc, Mutex, PoisonError};

use crate::completion::{Fault, FaultCause, Leg, Receipt, SendError, Sending};
use crate::id::UniqueId;
use crate::member::Member;

/// What became of a whole message.
pub(super) type Outcome = Result<Receipt, SendError>;

/// What is known so far of a message.
struct Gathered {
    id: UniqueId,
    destinations: usize,
    pending: usize,
    faults: Vec<Fault>,
}

/// Legs of one message, each with a handle of its own: `each` is called for each that ends, and `all` after the last.
pub(super) fn each(
    id: UniqueId,
    to: &[Member],
    each: impl Fn(Member, Result<(), FaultCause>) + Clone + Send + 'static,
    all: impl FnOnce(Outcome) + Clone + Send + 'static,
) -> Vec<Leg> {
    let gathered = Gathered { id, destinations: to.len(), pending: to.len(), faults: Vec::new() };
    if to.is_empty() {
        all(gathered.outcome());
        return Vec::new();
    }
    let gathered = Arc::new(Mutex::new(gathered));
    let watched = |member: &Member| {
        let (sending, legs) = Sending::new(id, [member.clone()]);
        let (gathered, each, all, member) = (Arc::clone(&gathered), each.clone(), all.clone(), member.clone());
        sending.on_complete(move |outcome| {
            let fault = outcome.err().and_then(|error| error.faults.into_iter().next());
            each(member, fault.as_ref().map_or(Ok(()), |fault| Err(fault.cause.clone())));
            let done = gathered.lock().unwrap_or_else(PoisonError::into_inner).settle(fault);
            if let Some(outcome) = done {
                all(outcome);
            }
        });
        legs
    };
    to.iter().flat_map(watched).collect()
}

impl Gathered {
    fn settle(&mut self, fault: Option<Fault>) -> Option<Outcome> {
        self.faults.extend(fault);
        self.pending -= 1;
        (self.pending == 0).then(|| self.outcome())
    }

    fn outcome(&self) -> Outcome {
        let Self { id, destinations, .. } = *self;
        if self.faults.is_empty() {
            return Ok(Receipt { id, delivered: destinations });
        }
        Err(SendError { id, destinations, faults: self.faults.clone(), returned: None })
    }
}
