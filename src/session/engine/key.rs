//! Keys, kept where they are.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// A key as it is kept: a session id's 16 bytes, or what a map was given. Short ones, as nearly all are, need no allocation.
#[derive(Clone)]
pub(crate) struct Key(Inner);

const INLINE: usize = 22;

#[derive(Clone)]
enum Inner {
    Short { length: u8, bytes: [u8; INLINE] },
    Long(Box<[u8]>),
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Short { length, bytes } => &bytes[..usize::from(*length)],
            Inner::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key);
                // It is below the length of the array.
                Self(Inner::Short { length: key.len() as u8, bytes })
            }
            None => Self(Inner::Long(key.into())),
        }
    }
}

impl<const N: usize> From<[u8; N]> for Key {
    fn from(key: [u8; N]) -> Self {
        key.as_slice().into()
    }
}

impl From<Vec<u8>> for Key {
    fn from(key: Vec<u8>) -> Self {
        key.as_slice().into()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// Keys are secrets where they are session ids: only the beginning is shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().take(3).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "…({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_are_what_they_were_made_of() {
        for length in [0, 1, 16, 21, 22, 23, 24, 1000] {
            let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let key = Key::from(bytes.as_slice());
            assert_eq!(*key, *bytes);
            assert_eq!(key, Key::from(bytes));
        }
        assert!(Key::from([1, 2]) < Key::from(vec![1; 30].into_iter().map(|byte: u8| byte + 1).collect::<Vec<_>>()));
        assert_eq!(size_of::<Key>(), 24);
    }
}
