//! A store of one file for each record.

mod disk;
mod record;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{MAX_KEY_LEN, Store, all_of, check_key};
use disk::{Directory, Disk as _, replace};
use record::{Fault, HEADER_LEN, Header};

/// A [`Store`] of one file for each record, in a directory of its own, that survives crashes of the process and of the machine.
///
/// A save writes a new file, syncs it, renames it over the old one, and syncs the directory. So it is durable when it returns, and
/// until then the old record stays whole. It takes two syncs, some milliseconds on a disk; several threads that save at once share
/// them as far as the file system lets them. The directory should be on a local file system: on a network, locks and renames
/// promise less.
///
/// # The directory
///
/// | file | what it is |
/// | --- | --- |
/// | `KEY.record` | a record; the key in hex, so that no key leads out of the directory |
/// | `KEY.record.damaged` | a file that was no whole record; for people to look at, and to remove. A later one takes its place |
/// | `KEY.N.tmp` | a save under way; what a crash leaves is removed at the next open |
/// | `tribes.lock` | locked while a store has the directory |
///
/// Other files are left alone. On Unix what the store makes is for its user only, as records are secrets, and so may keys be.
///
/// # Errors
///
/// Beside those of the operating system, as they are:
///
/// | [`ErrorKind`] | when |
/// | --- | --- |
/// | [`FileTooLarge`](ErrorKind::FileTooLarge) | a record is larger than [`FileStoreConfig::max_record`], at a save or at a load |
/// | [`InvalidData`](ErrorKind::InvalidData) | a load found a file that is cut short, changed, or another's; it is renamed to `.damaged`, so that the key has no record from then on |
/// | [`InvalidInput`](ErrorKind::InvalidInput) | a key is empty or longer than [`MAX_KEY_LEN`] |
/// | [`ResourceBusy`](ErrorKind::ResourceBusy) | at an open: another store has the directory, in this process or another |
/// | [`Unsupported`](ErrorKind::Unsupported) | a newer version of this crate wrote the record; it is left as it is |
///
/// What concerns the file of one record is a [`RecordError`] within the [`io::Error`], which has the path. Other records still
/// load.
///
/// ```
/// use tribes::session::store::{FileStore, Store};
///
/// # let directory = std::env::temp_dir().join(format!("tribes-doc-{}", std::process::id()));
/// let store = FileStore::open(&directory)?;
/// store.save(b"key", b"record")?;
/// drop(store);
///
/// let store = FileStore::open(&directory)?;
/// assert_eq!(store.load(b"key")?.as_deref(), Some(&b"record"[..]));
/// # drop(store);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct FileStore {
    directory: Directory,
    config: FileStoreConfig,
    /// Held for a change of names, so that a file that is put aside as damaged is not one that was saved a moment ago.
    names: Mutex<()>,
    /// Makes the names of temporary files.
    saves: AtomicU64,
    _lock: Lock,
}

impl FileStore {
    /// Opens a directory, which is made where there is none, with the default configuration.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ResourceBusy`] when another store has the directory, and what the operating system refuses.
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(directory, FileStoreConfig::default())
    }

    /// Opens a directory, which is made where there is none.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(directory: impl AsRef<Path>, config: FileStoreConfig) -> io::Result<Self> {
        let path = directory.as_ref();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let directory = Directory::open(path).map_err(named)?;
        let lock = Lock::take(directory.path()).map_err(named)?;
        let store = Self { directory, config, names: Mutex::new(()), saves: AtomicU64::new(0), _lock: lock };
        store.remove_temporary().map_err(named)?;
        Ok(store)
    }

    /// Removes what saves of a process that died have left. The lock is held, so none is under way.
    fn remove_temporary(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.path())? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_temporary) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, key: &[u8]) -> PathBuf {
        self.directory.path().join(format!("{}.{EXTENSION}", hex(key)))
    }

    /// Takes the name of a record away; that lasts when the directory is synced.
    fn remove_name(&self, key: &[u8]) -> io::Result<()> {
        check_key(key)?;
        let path = self.path(key);
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match self.directory.remove(&path) {
            // A removal that died before its sync may have taken the name away, so this one syncs all the same.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| RecordError::at(&path, Problem::Io(error))),
        }
    }

    /// Puts a damaged file aside, unless a save has replaced it since it was read.
    fn put_aside(&self, path: &Path, key: &[u8]) -> io::Result<Option<Bytes>> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = match read(path, key, self.config.max_record) {
            Err(Problem::Damaged(fault, _)) => fault,
            read => return read.map_err(|problem| RecordError::at(path, problem)),
        };
        let mut aside = path.as_os_str().to_owned();
        aside.push(DAMAGED);
        let moved = self.directory.rename(path, Path::new(&aside)).and_then(|()| self.directory.sync_names());
        Err(RecordError::at(path, Problem::Damaged(fault, moved.err())))
    }
}

impl Store for FileStore {
    fn save(&self, key: &[u8], record: &[u8]) -> io::Result<()> {
        check_key(key)?;
        let path = self.path(key);
        if record.len() > self.config.max_record {
            let problem = Problem::TooLarge { len: record.len() as u64, max: self.config.max_record };
            return Err(RecordError::at(&path, problem));
        }
        let number = self.saves.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{number}{TEMPORARY}"));
        let header = Header::new(key, record).encode();
        replace(&self.directory, &temporary, &path, [&header, record], &self.names)
            .map_err(|error| RecordError::at(&path, Problem::Io(error)))
    }

    fn load(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        check_key(key)?;
        let path = self.path(key);
        match read(&path, key, self.config.max_record) {
            Ok(record) => Ok(record),
            Err(Problem::Damaged(..)) => self.put_aside(&path, key),
            Err(problem) => Err(RecordError::at(&path, problem)),
        }
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.remove_all(&[key])
    }

    /// One sync of the directory for all.
    fn remove_all(&self, keys: &[&[u8]]) -> io::Result<()> {
        let removed = all_of(keys, |key| self.remove_name(key));
        let Some(last) = keys.last() else { return removed };
        let synced = self.directory.sync_names().map_err(|error| RecordError::at(&self.path(last), Problem::Io(error)));
        removed.and(synced)
    }

    /// What has the name of a record, without a look into the files.
    fn keys(&self) -> io::Result<Vec<Bytes>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.directory.path())? {
            let name = entry?.file_name();
            keys.extend(name.to_str().and_then(key_of).map(Bytes::from));
        }
        Ok(keys)
    }
}

/// Shows where the store is, and no record.
impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, config, .. } = self;
        f.debug_struct("FileStore").field("directory", &directory.path()).field("config", config).finish_non_exhaustive()
    }
}

/// What can be set of a [`FileStore`].
#[derive(Clone, Debug)]
pub struct FileStoreConfig {
    max_record: usize,
}

impl FileStoreConfig {
    /// The largest record in bytes; 64 MiB unless set. A larger one is not saved, and one that is in the directory already is
    /// left there and not loaded.
    #[must_use]
    pub fn max_record(mut self, bytes: usize) -> Self {
        self.max_record = bytes;
        self
    }
}

impl Default for FileStoreConfig {
    fn default() -> Self {
        Self { max_record: 64 << 20 }
    }
}

/// What is wrong with the file of one record. A [`FileStore`]'s errors carry it:
///
/// ```
/// use tribes::session::store::{FileStore, RecordError, Store};
///
/// # let directory = std::env::temp_dir().join(format!("tribes-doc-error-{}", std::process::id()));
/// # let store = FileStore::open(&directory)?;
/// std::fs::write(directory.join("6b6579.record"), "no record of this store")?;
/// let error = store.load(b"key").unwrap_err();
/// let record: &RecordError = error.get_ref().unwrap().downcast_ref().unwrap();
/// assert_eq!(record.path().file_name().unwrap(), "6b6579.record");
/// assert!(directory.join("6b6579.record.damaged").exists());
/// # drop(store);
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A file's name is its key, and the key of a session is a secret. So what it prints, also by `Debug`, has the first digits of the
/// name only; [`path`](Self::path) has it whole.
pub struct RecordError {
    path: PathBuf,
    problem: Problem,
}

impl RecordError {
    /// The file of the record, by the name that it has while it is whole.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(path: &Path, problem: Problem) -> io::Error {
        let kind = match &problem {
            Problem::Damaged(..) => ErrorKind::InvalidData,
            Problem::Io(error) => error.kind(),
            Problem::Newer(_) => ErrorKind::Unsupported,
            Problem::TooLarge { .. } => ErrorKind::FileTooLarge,
        };
        io::Error::new(kind, Self { path: path.to_owned(), problem })
    }
}

/// Digits of a key in a message.
const SHOWN: usize = 8;

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.path.parent().unwrap_or(&self.path).join("");
        let key = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let (shown, more) = key.split_at_checked(SHOWN).map_or((key, ""), |(shown, _)| (shown, "…"));
        write!(f, "{}{shown}{more}.{EXTENSION}: ", directory.display())?;
        match &self.problem {
            Problem::Damaged(fault, None) => write!(f, "damaged: {fault}; the file now ends in {DAMAGED}"),
            Problem::Damaged(fault, Some(error)) => write!(f, "damaged: {fault}; it could not be put aside: {error}"),
            Problem::Io(error) => error.fmt(f),
            Problem::Newer(fault) => write!(f, "{fault}; left as it is"),
            Problem::TooLarge { len, max } => write!(f, "a record of {len} bytes, and the store takes up to {max}"),
        }
    }
}

impl fmt::Debug for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordError({self})")
    }
}

impl Error for RecordError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Io(error) | Problem::Damaged(_, Some(error)) => Some(error),
            _ => None,
        }
    }
}

enum Problem {
    /// What is wrong, and why the file could not be put aside.
    Damaged(Fault, Option<io::Error>),
    Io(io::Error),
    Newer(Fault),
    TooLarge {
        len: u64,
        max: usize,
    },
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Newer(_) => Self::Newer(fault),
            fault => Self::Damaged(fault, None),
        }
    }
}

/// Reads a file whole. It is never written in place, so a save meanwhile leaves this one as it was.
fn read(path: &Path, key: &[u8], max: usize) -> Result<Option<Bytes>, Problem> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let size = file.metadata()?.len();
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).map_err(|error| ended(error, Fault::Short))?;
    let header = Header::decode(&header, size)?;
    let len = usize::try_from(header.len).ok().filter(|len| *len <= max);
    // The length is that of the file, and within the cap: only now is there room made for it.
    let mut record = vec![0; len.ok_or(Problem::TooLarge { len: header.len, max })?];
    file.read_exact(&mut record).map_err(|error| ended(error, Fault::Length { len: header.len, size }))?;
    header.check(key, &record)?;
    Ok(Some(record.into()))
}

/// The end of a file where there should be more is damage.
fn ended(error: io::Error, fault: Fault) -> Problem {
    if error.kind() == ErrorKind::UnexpectedEof { fault.into() } else { error.into() }
}

const EXTENSION: &str = "record";
const DAMAGED: &str = ".damaged";
const TEMPORARY: &str = ".tmp";
const LOCK: &str = "tribes.lock";

/// Lower-case hex: safe in every file system, also in those where `A` and `a` are one name.
fn hex(key: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).expect("four bits");
    key.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let key = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<_>>>()?;
    (rest.is_empty() && (1..=MAX_KEY_LEN).contains(&key.len())).then_some(key)
}

/// The key of a record's file.
fn key_of(name: &str) -> Option<Vec<u8>> {
    from_hex(name.strip_suffix(EXTENSION)?.strip_suffix('.')?)
}

fn is_temporary(name: &str) -> bool {
    let parts = name.strip_suffix(TEMPORARY).and_then(|name| name.split_once('.'));
    parts.is_some_and(|(key, number)| from_hex(key).is_some() && number.parse::<u64>().is_ok())
}

/// Holds a directory against other stores, until it is dropped or the process ends, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(directory: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(directory.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another store has this directory; {LOCK} is locked");
                Err(io::Error::new(ErrorKind::ResourceBusy, message))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is just being started may have a copy of it for a moment.
        let _ = self.0.unlock();
    }
}
