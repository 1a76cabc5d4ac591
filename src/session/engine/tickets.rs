//! What is under way, by ticket or token.

use std::collections::VecDeque;

/// A queue sorted by number. Numbers rise and most of what is under way ends soon, so nearly everything comes in at the back and goes near
/// the front; a tree would allocate and free a node for each commit that is alone. What goes from the middle leaves a gap, which goes
/// with its neighbours.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    places: VecDeque<(u64, Option<T>)>,
    /// Places that are no gaps.
    len: usize,
}

/// Room that is kept when nothing is under way.
const KEPT: usize = 64;

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), len: 0 }
    }
}

impl<T> Tickets<T> {
    fn position(&self, number: u64) -> Result<usize, usize> {
        match self.places.back() {
            Some((last, _)) if *last == number => Ok(self.places.len() - 1),
            Some((last, _)) if *last > number => self.places.binary_search_by_key(&number, |(known, _)| *known),
            _ => Err(self.places.len()),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains_key(&self, number: &u64) -> bool {
        self.get(number).is_some()
    }

    pub(crate) fn get(&self, number: &u64) -> Option<&T> {
        self.places[self.position(*number).ok()?].1.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: &u64) -> Option<&mut T> {
        let at = self.position(*number).ok()?;
        self.places[at].1.as_mut()
    }

    pub(crate) fn insert(&mut self, number: u64, item: T) -> Option<T> {
        let old = match self.position(number) {
            Ok(at) => self.places[at].1.replace(item),
            Err(at) if at == self.places.len() => {
                self.places.push_back((number, Some(item)));
                None
            }
            Err(at) => {
                self.places.insert(at, (number, Some(item)));
                None
            }
        };
        self.len += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, number: &u64) -> Option<T> {
        let at = self.position(*number).ok()?;
        let item = if at == 0 {
            // As nearly always.
            self.places.pop_front()?.1?
        } else {
            self.places[at].1.take()?
        };
        self.len -= 1;
        let is_gap = |place: Option<&(u64, Option<T>)>| place.is_some_and(|(_, item)| item.is_none());
        while is_gap(self.places.front()) {
            self.places.pop_front();
        }
        while is_gap(self.places.back()) {
            self.places.pop_back();
        }
        if self.places.len() > 2 * self.len + KEPT {
            self.places.retain(|(_, item)| item.is_some());
        }
        if self.len == 0 && self.places.capacity() > 16 * KEPT {
            self.places.shrink_to(KEPT);
        }
        Some(item)
    }

    /// Takes all out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (u64, T)> {
        self.len = 0;
        std::mem::take(&mut self.places).into_iter().filter_map(|(number, item)| Some((number, item?)))
    }

    /// In the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &T)> {
        self.places.iter().filter_map(|(number, item)| Some((number, item.as_ref()?)))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &u64> {
        self.iter().map(|(number, _)| number)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, item)| item)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|(_, item)| item.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u64..200), 0..600)) {
            let (mut tickets, mut map, mut next) = (Tickets::default(), BTreeMap::new(), 0_u64);
            for (step, number) in steps {
                match step {
                    // As nearly always: a new one.
                    0 | 1 => {
                        next += 1 + number % 2;
                        prop_assert_eq!(tickets.insert(next, number), map.insert(next, number));
                    }
                    2 => prop_assert_eq!(tickets.insert(number, number), map.insert(number, number)),
                    _ => {
                        let number = next.saturating_sub(number / 4);
                        prop_assert_eq!(tickets.get(&number), map.get(&number));
                        prop_assert_eq!(tickets.remove(&number), map.remove(&number));
                        prop_assert!(!tickets.contains_key(&number));
                    }
                }
                prop_assert_eq!(tickets.len(), map.len());
                prop_assert!(tickets.places.len() <= 2 * tickets.len() + KEPT + 1, "gaps are bounded");
            }
            prop_assert!(tickets.iter().eq(map.iter()));
            prop_assert!(tickets.drain().eq(map));
            prop_assert_eq!((tickets.len(), tickets.places.len()), (0, 0));
        }
    }
}
