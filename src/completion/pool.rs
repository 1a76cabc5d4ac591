//! Used completions, kept for the next sends.
//!
//! A send's completion is made on the thread that sends and ends on the thread that settles it. Giving that memory back to the
//! allocator makes both threads meet at its lock for every message, which costs more than all the rest of the completion.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;

/// What a thread takes or gives at a time.
const CHUNK: usize = 64;
/// The chunks that are kept for all threads together: about 700 KiB.
const CHUNKS: usize = 64;

type Chunk = Vec<Arc<Shared>>;

/// Full chunks, from threads that settle more than they send.
static DEPOT: Mutex<Vec<Chunk>> = Mutex::new(Vec::new());
/// How many there are, so that nobody takes the lock in vain.
static STOCKED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Chunk> = const { RefCell::new(Vec::new()) };
}

/// A completion in its first state.
pub(super) fn take() -> Arc<Shared> {
    let spare = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.is_empty() && STOCKED.load(Ordering::Relaxed) > 0 {
            let mut depot = DEPOT.lock().unwrap_or_else(PoisonError::into_inner);
            *spare = depot.pop().unwrap_or_default();
            STOCKED.store(depot.len(), Ordering::Relaxed);
        }
        spare.pop()
    });
    // Unavailable only when the thread is ending.
    spare.ok().flatten().unwrap_or_default()
}

/// Lets go of a completion; whoever does so last keeps it for another send.
pub(super) fn give(mut shared: Arc<Shared>) {
    let Some(last) = Arc::get_mut(&mut shared) else { return };
    last.reset();
    // Unavailable only when the thread is ending; then the allocator gets it.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        spare.push(shared);
        if spare.len() < 2 * CHUNK {
            return;
        }
        let chunk = spare.split_off(CHUNK);
        let mut depot = DEPOT.lock().unwrap_or_else(PoisonError::into_inner);
        if depot.len() < CHUNKS {
            depot.push(chunk);
            STOCKED.store(depot.len(), Ordering::Relaxed);
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::completion::{FaultCause, Leg, Sending};
    use crate::id::UniqueId;
    use crate::member::Member;

    #[test]
    fn a_completion_that_is_used_again_remembers_nothing() {
        let member = || Member::new(([127, 0, 0, 1], 1).into());
        for round in 0..1000_u128 {
            let id = UniqueId::from_bytes(round.to_be_bytes());
            let (sending, legs) = Sending::new(id, [member(), member()]);
            assert!(!sending.is_done());
            assert_eq!(sending.id(), id);
            let watched = (round % 3 == 0).then_some(sending);
            legs.into_iter().for_each(|leg| if round % 2 == 0 { leg.delivered() } else { leg.fail(FaultCause::Rejected) });
            match watched.map(Sending::wait) {
                Some(Ok(receipt)) => assert_eq!((round % 2, receipt.id, receipt.delivered), (0, id, 2)),
                Some(Err(error)) => assert_eq!((round % 2, error.id, error.destinations), (1, id, 2)),
                None => {}
            }
        }
    }

    #[test]
    fn completions_travel_between_threads() {
        let (legs, settled) = std::sync::mpsc::channel::<Vec<Leg>>();
        let settler = std::thread::spawn(move || settled.iter().flatten().for_each(Leg::delivered));
        for round in 0..10_000_u128 {
            let (sending, made) =
                Sending::new(UniqueId::from_bytes(round.to_be_bytes()), [Member::new(([127, 0, 0, 1], 1).into())]);
            legs.send(made).expect("the settler lives");
            if round % 100 == 0 {
                assert_eq!(sending.wait().expect("delivered").id, UniqueId::from_bytes(round.to_be_bytes()));
            }
        }
        drop(legs);
        settler.join().expect("no panic");
    }
}
