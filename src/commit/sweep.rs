//! Removing what dead writers left behind.

use super::RealFileSystem;
use super::file_system::{Directory, FileKind, FileSystem, uninterrupted};
use super::temp;
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// What a sweep found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Swept {
    /// Unfinished saves of dead writers, now removed.
    pub removed: Vec<PathBuf>,
    /// Saves that are under way: their writers live, and they were left alone.
    pub live: Vec<PathBuf>,
    /// Unfinished saves that were left alone because they could not be locked or removed, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Removes the unfinished saves that dead writers left in a directory, for all targets.
///
/// A save that was interrupted (the process was killed, the machine went down) leaves its temporary file
/// `.name.0123456789abcdef.dolmen-tmp` behind, from which finished records can be salvaged. Salvage first what is
/// wanted: this removes them. Subdirectories are not entered.
///
/// A writer is alive if it holds the lock of its file. Where locks do not reach other machines (NFS mounted with
/// `local_lock`, some network and FUSE file systems) sweep only while no other machine saves there; a save that is
/// swept away fails with an error and leaves the file it would have replaced as it was. Where there are no locks at
/// all nothing is removed, and [`Swept::failed`] lists what was found.
///
/// **Cost**: reads all names of the directory; opens, locks and removes each temporary file.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if the directory cannot be opened or read. What fails for a single file is in
/// [`Swept::failed`].
pub fn sweep(directory: impl AsRef<Path>) -> Result<Swept> {
    sweep_in(&RealFileSystem, directory.as_ref())
}

/// [`sweep`] in another file system.
///
/// # Errors
/// Those of [`sweep`].
pub fn sweep_in(file_system: &dyn FileSystem, directory: &Path) -> Result<Swept> {
    uninterrupted(|| file_system.open_directory(directory))
        .and_then(|open| sweep_names(&*open, directory, temp::is_temp_name))
        .map_err(|e| Error::io("cannot sweep the directory", e).with_path(directory))
}

/// Removes the unfinished saves of one target that dead writers left behind.
pub(crate) fn sweep_target(directory: &dyn Directory, directory_path: &Path, target: &OsStr) -> io::Result<Swept> {
    sweep_names(directory, directory_path, |name| temp::is_temp_of(name, target))
}

/// Removes the temps of dead writers whose names are `wanted`.
fn sweep_names(directory: &dyn Directory, directory_path: &Path, wanted: impl Fn(&OsStr) -> bool) -> io::Result<Swept> {
    let mut swept = Swept::default();
    for name in uninterrupted(|| directory.names())? {
        if !wanted(&name) {
            continue;
        }
        let path = directory_path.join(&name);
        match sweep_one(directory, &name) {
            Ok(Verdict::Removed) => swept.removed.push(path),
            Ok(Verdict::Live) => swept.live.push(path),
            Ok(Verdict::Gone) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => swept.failed.push((path, e)),
        }
    }
    Ok(swept)
}

enum Verdict {
    Removed,
    Live,
    Gone,
}

fn sweep_one(directory: &dyn Directory, name: &OsStr) -> io::Result<Verdict> {
    let file = uninterrupted(|| directory.open_existing(name))?;
    if uninterrupted(|| file.status())?.kind != FileKind::File {
        return Err(io::Error::other("not a regular file"));
    }
    if !uninterrupted(|| file.try_lock())? {
        return Ok(Verdict::Live);
    }
    // Its writer may have put it in place between the two calls; the lock is then on the file in place, and the name
    // is gone for good. While the name exists and the lock is ours, no writer can hold the file.
    if uninterrupted(|| directory.status(name))?.is_none() {
        return Ok(Verdict::Gone);
    }
    uninterrupted(|| directory.remove(name))?;
    Ok(Verdict::Removed)
}
