//! A list of what is nearly always one.

use std::ops::{Deref, DerefMut};

/// A list that takes no allocation when it has one item.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(list) => list,
        }
    }

    pub(crate) fn push(&mut self, item: T) {
        *self = match std::mem::take(self) {
            Self::Many(list) if list.is_empty() => Self::One(item),
            few => {
                let mut list = few.into_vec();
                list.push(item);
                Self::Many(list)
            }
        };
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let mut list = std::mem::take(self).into_vec();
        list.retain(keep);
        *self = list.into();
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T> From<T> for Few<T> {
    fn from(only: T) -> Self {
        Self::One(only)
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(list: Vec<T>) -> Self {
        Self::Many(list)
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::One(only) => (Some(only), Vec::new()),
            Self::Many(list) => (None, list),
        };
        one.into_iter().chain(many)
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        match (items.next(), items.next()) {
            (Some(only), None) => Self::One(only),
            (Some(first), Some(second)) => Self::Many([first, second].into_iter().chain(items).collect()),
            (None, _) => Self::Many(Vec::new()),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(list) => list,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(only) => std::slice::from_mut(only),
            Self::Many(list) => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        for length in 0..4 {
            let list: Vec<u8> = (0..length).collect();
            let few: Few<u8> = list.iter().copied().collect();
            assert_eq!(*few, *list);
            assert!(few.clone().into_iter().eq(list.iter().copied()));
            let mut changed = few.clone();
            changed.push(9);
            assert_eq!((*changed).split_last(), Some((&9, &*list)));
            changed.retain(|item| *item == 9);
            assert_eq!(*changed, [9]);
            assert_eq!(few.into_vec(), list);
        }
    }
}
