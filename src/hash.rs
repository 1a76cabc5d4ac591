//! Hash tables by id: cheap, because ids are random where nobody means harm, and keyed, for those who do.

use std::hash::{BuildHasher, Hasher};

use crate::id::{UniqueId, mix, random_bytes};

/// A table by id, or by member, whose hash is its id's.
pub(crate) type ById<V, K = UniqueId> = std::collections::HashMap<K, V, Keyed>;

/// Spreads ids that peers chose, under a key that they do not know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64);

impl Default for Keyed {
    fn default() -> Self {
        let bytes = random_bytes();
        Self(bytes[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Keyed {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.write_u64(rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
