//! A list of what is nearly always one.

use std::ops::Deref;

/// A list that takes no allocation when it has one item.
#[derive(Clone, Debug)]
pub(super) enum Few<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(list) => list,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list() {
        for length in 0..4 {
            let list: Vec<u8> = (0..length).collect();
            let few: Few<u8> = list.iter().copied().collect();
            assert_eq!(*few, *list);
            assert_eq!(few.into_vec(), list);
        }
    }
}
