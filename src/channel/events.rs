//! Membership events on their way to the listeners, bounded though a listener may block for ever and members may flap.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::stack::Event;

/// Above this many waiting events, only what changes the outcome is kept.
const CROWDED: usize = 4096;

/// Events that wait to be told, in order.
///
/// A change of a member that is not yet told replaces the one before it. In a crowd further changes are dropped, and a member's
/// coming and going cancel each other; so no more waits than a few events per member, and who is there at the end is right.
#[derive(Debug, Default)]
pub(super) struct Events(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    telling: bool,
    dropped: u64,
}

impl Events {
    /// Adds an event. True when somebody must come and [`tell`](Self::tell).
    pub(super) fn push(&self, event: Event) -> bool {
        let mut state = self.lock();
        let crowded = state.waiting.len() >= CROWDED;
        // The newest event of this member that still waits. Looked for only where it can matter.
        let newest = if crowded || matches!(event, Event::Updated(_)) {
            state.waiting.iter().rposition(|waiting| waiting.member() == event.member())
        } else {
            None
        };
        match (&event, newest.map(|at| (at, &state.waiting[at]))) {
            (Event::Updated(_), Some((at, Event::Updated(_)))) => state.waiting[at] = event,
            (Event::Updated(_), _) if crowded => state.dropped += 1,
            (Event::Removed(..), Some((at, Event::Added(_)))) | (Event::Added(_), Some((at, Event::Removed(..)))) if crowded => {
                drop(state.waiting.remove(at));
                state.dropped += 2;
            }
            _ => state.waiting.push_back(event),
        }
        !state.waiting.is_empty() && !std::mem::replace(&mut state.telling, true)
    }

    /// Tells everything that waits.
    pub(super) fn tell(&self, mut tell: impl FnMut(&Event)) {
        loop {
            let mut state = self.lock();
            let Some(event) = state.waiting.pop_front() else {
                state.telling = false;
                return;
            };
            drop(state);
            tell(&event);
        }
    }

    /// How many events were not told because listeners did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Member;
    use crate::stack::Departure;

    fn members(count: u16) -> Vec<Member> {
        (0..count).map(|port| Member::new(([127, 0, 0, 1], port).into())).collect()
    }

    fn told(events: &Events) -> Vec<Event> {
        let mut told = Vec::new();
        events.tell(|event| told.push(event.clone()));
        told
    }

    #[test]
    fn a_change_that_was_not_told_is_replaced_by_the_next() {
        let events = Events::default();
        let one = &members(1)[0];
        assert!(events.push(Event::Added(one.clone())), "somebody must tell");
        assert!(!events.push(Event::Updated(one.with_payload("a"))), "once is enough");
        events.push(Event::Updated(one.with_payload("b")));
        let all = told(&events);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].member().payload(), "b");
        assert!(events.push(Event::Removed(one.clone(), Departure::Left)), "somebody must tell again");
    }

    #[test]
    fn members_that_flap_before_a_blocked_listener_take_no_more_memory_than_they_are() {
        let events = Events::default();
        let all = members(100);
        for round in 0..1000 {
            for member in &all {
                events.push(Event::Added(member.clone()));
                events.push(Event::Updated(member.with_payload(round.to_string())));
                events.push(Event::Removed(member.clone(), Departure::Failed));
            }
        }
        events.push(Event::Added(all[0].clone()));
        assert!(events.lock().waiting.len() <= CROWDED + 2 * all.len());
        assert!(events.dropped() > 0);
        let mut there = std::collections::HashSet::new();
        for event in told(&events) {
            match event {
                Event::Added(member) => assert!(there.insert(member), "came twice"),
                Event::Removed(member, _) => assert!(there.remove(&member), "went without coming"),
                _ => {}
            }
        }
        assert_eq!(there.into_iter().collect::<Vec<_>>(), [all[0].clone()]);
    }
}
