//! The attributes of one record, sorted by name.

use std::ops::{Deref, DerefMut};

use super::record::Attribute;
use crate::few::Few;

/// A sorted list. Many records have just one attribute, which then needs no allocation of its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attributes(Few<Attribute>);

impl Attributes {
    pub(crate) fn one(attribute: Attribute) -> Self {
        Self(attribute.into())
    }

    /// Puts an attribute at a position, before what is there.
    pub(crate) fn insert(&mut self, at: usize, attribute: Attribute) {
        if self.0.is_empty() {
            self.0 = attribute.into();
            return;
        }
        let mut list = std::mem::take(&mut self.0).into_vec();
        // Lists live long and grow seldom.
        list.reserve_exact(1 + list.len() / 8);
        list.insert(at, attribute);
        self.0 = list.into();
    }
}

/// A list that is sorted already.
impl From<Vec<Attribute>> for Attributes {
    fn from(mut list: Vec<Attribute>) -> Self {
        debug_assert!(list.is_sorted_by(|a, b| a.name < b.name), "attributes are sorted by name");
        match list.pop() {
            Some(only) if list.is_empty() => Self::one(only),
            last => {
                list.extend(last);
                Self(list.into())
            }
        }
    }
}

impl Deref for Attributes {
    type Target = [Attribute];

    fn deref(&self) -> &[Attribute] {
        &self.0
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut [Attribute] {
        &mut self.0
    }
}

impl IntoIterator for Attributes {
    type Item = Attribute;
    type IntoIter = <Few<Attribute> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = &'a Attribute;
    type IntoIter = std::slice::Iter<'a, Attribute>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
