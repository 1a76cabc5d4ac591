//! Where records of sessions are kept beyond memory: across a restart, or while they are idle.
//!
//! A [`Store`] is for the node that owns it. What makes sessions survive the death of a node is replication; a store makes them
//! survive the end of all nodes, and holds what does not fit into memory. [`FileStore`] keeps a file for each record,
//! [`MemoryStore`] keeps them in memory. A store of your own, over a database say, implements four methods and is checked by
#![cfg_attr(feature = "testing", doc = "[`testing::conformance::store`](crate::testing::conformance::store).")]
#![cfg_attr(not(feature = "testing"), doc = "`testing::conformance::store`, with the feature `testing`.")]

mod file;
mod memory;

pub use file::{FileStore, FileStoreConfig, RecordError};
pub use memory::MemoryStore;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

/// The longest key that a store takes, in bytes.
pub const MAX_KEY_LEN: usize = 64;

/// Keeps records by key; neither means anything to it.
///
/// A key has 1 to [`MAX_KEY_LEN`] bytes of any value; two keys that differ in any bit are different. A record is any number of
/// bytes, none included, up to what the store takes.
///
/// Calls block, and come from any thread, several at once, also for one key. Each is atomic: a load sees one record that was
/// saved, whole, never parts of two or half of one, and of two saves of one key at once one wins.
///
/// # Errors
///
/// All methods refuse a key that is empty or too long with [`io::ErrorKind::InvalidInput`]. An error concerns the record
/// that was asked for, not the others. [`FileStore`] says which it has beside those of the operating system.
///
/// ```
/// use tribes::session::store::{MemoryStore, Store};
///
/// let store: &dyn Store = &MemoryStore::new();
/// store.save(b"key", b"first")?;
/// store.save(b"key", b"second")?;
/// assert_eq!(store.load(b"key")?.as_deref(), Some(&b"second"[..]));
/// assert_eq!(store.keys()?, ["key"]);
/// store.remove(b"key")?;
/// assert_eq!(store.load(b"key")?, None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Store: Send + Sync + Debug {
    /// Keeps a record, in place of the one that the key has.
    ///
    /// When it returns, the record is as durable as the store makes it: what a disk has, it has after a power failure too. When it
    /// fails, or the process dies meanwhile, the key has the old record or the new one.
    ///
    /// # Errors
    ///
    /// When the record cannot be kept, or is larger than the store takes.
    fn save(&self, key: &[u8], record: &[u8]) -> io::Result<()>;

    /// The record of a key; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read: it will be asked again. [`InvalidData`](io::ErrorKind::InvalidData) when what is there is not what was saved:
    /// then the session is got from other members, if they have it, and is lost if not.
    fn load(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Forgets the record of a key, as durably as a save; fine when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be removed. The record may or may not be there then.
    fn remove(&self, key: &[u8]) -> io::Result<()>;

    /// Forgets the records of many keys, as [`remove`](Self::remove) does one by one. A store overrides this where many at once cost less;
    /// when thousands of sessions expire, this is what is called.
    ///
    /// # Errors
    ///
    /// When one or more cannot be removed: the first of these errors. The others are removed all the same.
    fn remove_all(&self, keys: &[&[u8]]) -> io::Result<()> {
        all_of(keys, |key| self.remove(key))
    }

    /// All keys that have a record, each once, in no order. One that is saved or removed meanwhile may be among them or not.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    fn keys(&self) -> io::Result<Vec<Bytes>>;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn save(&self, key: &[u8], record: &[u8]) -> io::Result<()> {
        (**self).save(key, record)
    }

    fn load(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        (**self).load(key)
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        (**self).remove(key)
    }

    fn remove_all(&self, keys: &[&[u8]]) -> io::Result<()> {
        (**self).remove_all(keys)
    }

    fn keys(&self) -> io::Result<Vec<Bytes>> {
        (**self).keys()
    }
}

/// Does this with all of them, whatever comes of one; the first error.
fn all_of(keys: &[&[u8]], act: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut first = Ok(());
    for key in keys {
        let done = act(key);
        if first.is_ok() {
            first = done;
        }
    }
    first
}

/// Refuses what is no key.
fn check_key(key: &[u8]) -> io::Result<()> {
    match key.len() {
        1..=MAX_KEY_LEN => Ok(()),
        length => {
            let message = format!("a key of a store has 1 to {MAX_KEY_LEN} bytes, not {length}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}
