//! Creating directories that are there after a crash.

use super::file_system::{Directory, FileSystem, uninterrupted};
use crate::error::{Error, Result};
use std::io;
use std::path::Path;

/// Creates a directory, and those above it that are missing, durably; does nothing else if it is there.
///
/// A file that is saved in a directory is lost with it if a crash of the machine takes the directory's own name away. So
/// each directory is flushed after something was created in it, and the one above `path` always, for whoever created
/// `path` may have died before that.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if a directory cannot be opened, created or flushed, or something else has its name.
pub fn create_directories(file_system: &dyn FileSystem, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    create(file_system, path).map(drop).map_err(|e| Error::io("cannot create the directory", e).with_path(path))
}

fn create(file_system: &dyn FileSystem, path: &Path) -> io::Result<Box<dyn Directory>> {
    let open = || uninterrupted(|| file_system.open_directory(path));
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return open(),
    };
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = create(file_system, parent)?;
            match uninterrupted(|| parent.create_directory(name, 0o777)) {
                // Another process was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                result => result?,
            }
            parent.sync()?;
            open()
        }
        Err(e) => Err(e),
        Ok(directory) => {
            // One may be allowed to work in a directory and not to open the one above it.
            if let Ok(parent) = uninterrupted(|| file_system.open_directory(parent)) {
                match parent.sync() {
                    Err(e) if !cannot_be_flushed(&e) => return Err(e),
                    _ => {}
                }
            }
            Ok(directory)
        }
    }
}

/// Whether a directory is of a kind that is never flushed, such as an automounter's or one that cannot be written: what is in it
/// was not created there.
pub(crate) fn cannot_be_flushed(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::ReadOnlyFilesystem)
}
