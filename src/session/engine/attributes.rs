//! The attributes of one record, sorted by name.

use std::ops::{Deref, DerefMut};

use super::record::Attribute;

/// A sorted list. Many records have just one attribute, which then needs no allocation of its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attributes(Inner);

#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Inner {
    #[default]
    None,
    One(Attribute),
    /// Two or more.
    Many(Vec<Attribute>),
}

impl Attributes {
    pub(crate) fn one(attribute: Attribute) -> Self {
        Self(Inner::One(attribute))
    }

    /// Puts an attribute at a position, before what is there.
    pub(crate) fn insert(&mut self, at: usize, attribute: Attribute) {
        self.0 = match std::mem::take(&mut self.0) {
            Inner::None => Inner::One(attribute),
            Inner::One(only) => Inner::Many(if at == 0 { vec![attribute, only] } else { vec![only, attribute] }),
            Inner::Many(mut list) => {
                // Lists live long and grow seldom.
                list.reserve_exact(1 + list.len() / 8);
                list.insert(at, attribute);
                Inner::Many(list)
            }
        };
    }
}

/// A list that is sorted already.
impl From<Vec<Attribute>> for Attributes {
    fn from(mut list: Vec<Attribute>) -> Self {
        debug_assert!(list.is_sorted_by(|a, b| a.name < b.name), "attributes are sorted by name");
        Self(match list.len() {
            0 => Inner::None,
            1 => list.pop().map_or(Inner::None, Inner::One),
            _ => Inner::Many(list),
        })
    }
}

impl Deref for Attributes {
    type Target = [Attribute];

    fn deref(&self) -> &[Attribute] {
        match &self.0 {
            Inner::None => &[],
            Inner::One(only) => std::slice::from_ref(only),
            Inner::Many(list) => list,
        }
    }
}

impl DerefMut for Attributes {
    fn deref_mut(&mut self) -> &mut [Attribute] {
        match &mut self.0 {
            Inner::None => &mut [],
            Inner::One(only) => std::slice::from_mut(only),
            Inner::Many(list) => list,
        }
    }
}

impl IntoIterator for Attributes {
    type Item = Attribute;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Attribute>, std::vec::IntoIter<Attribute>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self.0 {
            Inner::None => (None, Vec::new()),
            Inner::One(only) => (Some(only), Vec::new()),
            Inner::Many(list) => (None, list),
        };
        one.into_iter().chain(many)
    }
}

impl<'a> IntoIterator for &'a Attributes {
    type Item = &'a Attribute;
    type IntoIter = std::slice::Iter<'a, Attribute>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
