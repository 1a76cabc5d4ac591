//! A store that ends with the process.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Store, check_key};

/// A [`Store`] in memory: for tests, and for several managers of one process. Share it in an [`Arc`](std::sync::Arc).
///
/// What it keeps ends with it, and nothing caps it. `Debug` shows how many records there are, and none of them.
#[derive(Default)]
pub struct MemoryStore {
    records: Mutex<HashMap<Bytes, Bytes>>,
}

impl MemoryStore {
    /// A store without records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Bytes, Bytes>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn save(&self, key: &[u8], record: &[u8]) -> io::Result<()> {
        check_key(key)?;
        let (key, record) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(record));
        self.records().insert(key, record);
        Ok(())
    }

    fn load(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        check_key(key)?;
        Ok(self.records().get(key).cloned())
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        check_key(key)?;
        self.records().remove(key);
        Ok(())
    }

    fn keys(&self) -> io::Result<Vec<Bytes>> {
        Ok(self.records().keys().cloned().collect())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("records", &self.records().len()).finish()
    }
}
