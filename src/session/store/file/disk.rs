//! The few things that a save asks of a disk, and their order, which is what makes it safe against crashes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a save needs of a disk. A trait, so that tests can stop a save at each step and lose what was not yet synced.
pub(super) trait Disk {
    type File;

    /// Creates a file that is not there yet.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Returns when what was written is durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Replaces `to` in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when what was created, renamed and removed is durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// Puts a file of these parts in the place of `target`, by way of `temporary`, which nobody else uses.
///
/// The content is durable before the name points at it, so no crash leaves a name with half a record. `names` is held for the
/// rename only.
pub(super) fn replace(disk: &impl Disk, temporary: &Path, target: &Path, parts: [&[u8]; 2], names: &Mutex<()>) -> io::Result<()> {
    let replaced = write(disk, temporary, parts).and_then(|()| {
        let _names = names.lock().unwrap_or_else(PoisonError::into_inner);
        disk.rename(temporary, target)
    });
    if let Err(error) = replaced {
        // What cannot be removed now is removed at the next open.
        let _ = disk.remove(temporary);
        return Err(error);
    }
    disk.sync_names()
}

fn write(disk: &impl Disk, path: &Path, parts: [&[u8]; 2]) -> io::Result<()> {
    let mut file = disk.create(path)?;
    parts.iter().try_for_each(|part| disk.write(&mut file, part))?;
    disk.sync(&file)
}

/// A directory of the operating system.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Open for syncs.
    #[cfg(unix)]
    handle: File,
}

impl Directory {
    /// Opens a directory, and makes it and those above it where they are missing: durably, and on Unix for this user only.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path)?) & 0o077 != 0 {
            log::warn!(
                "other users can list the session store {}: names of files are ids of sessions; make it mode 0700",
                path.display()
            );
        }
        for above in missing.iter().filter_map(|made| made.parent()) {
            Self::at(above.to_owned())?.sync_names()?;
        }
        Self::at(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        #[cfg(unix)]
        let handle = File::open(&path)?;
        Ok(Self {
            path,
            #[cfg(unix)]
            handle,
        })
    }
}

impl Disk for Directory {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Elsewhere than on Unix a directory cannot be synced by the standard library, and the file system's own journal has to do.
    fn sync_names(&self) -> io::Result<()> {
        #[cfg(unix)]
        self.handle.sync_all()?;
        Ok(())
    }
}
