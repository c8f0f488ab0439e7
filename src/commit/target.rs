//! What a save replaces: the open directory, the name in it, and what has that name now.

use super::file_system::{Directory, FileKind, FileSystem, Status, uninterrupted};
use super::temp;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// As many links in a chain as Linux follows.
const LINKS_MAX: usize = 40;

pub(super) struct Target {
    pub(super) directory: Box<dyn Directory>,
    pub(super) directory_path: PathBuf,
    pub(super) name: OsString,
    /// The regular file that has the name now.
    pub(super) replaced: Option<Status>,
}

impl Target {
    /// Opens the directory that `path` is in; if `path` is a symbolic link and may be replaced, the directory that
    /// the file at the end of the chain is in.
    pub(super) fn find(file_system: &dyn FileSystem, path: &Path, create_new: bool) -> Result<Target> {
        let (parent, name) = split(path)?;
        if temp::is_temp_name(name) {
            return Err(Error::invalid("cannot save under a name that marks unfinished saves")
                .with_advice("choose a name that does not end in .dolmen-tmp"));
        }
        let directory = uninterrupted(|| file_system.open_directory(parent)).map_err(cannot_open_directory)?;
        let mut target = Target { directory, directory_path: parent.to_owned(), name: name.to_owned(), replaced: None };

        for _ in 0..LINKS_MAX {
            let status = uninterrupted(|| target.directory.status(&target.name))
                .map_err(|e| Error::io("cannot look at the file to save", e))?;
            match status.map(|s| s.kind) {
                None => return Ok(target),
                Some(_) if create_new => return Err(already_exists()),
                Some(FileKind::File) => return Ok(Target { replaced: status, ..target }),
                Some(FileKind::Symlink) => target.follow()?,
                Some(FileKind::Directory) => return Err(is_a_directory()),
                Some(FileKind::Other) => {
                    return Err(Error::invalid("cannot save: there is a device, pipe or socket of that name")
                        .with_advice("save to a regular file: a saved file replaces what has its name"));
                }
            }
        }
        Err(Error::invalid("cannot save: too many symbolic links"))
    }

    fn follow(&mut self) -> Result<()> {
        let link = uninterrupted(|| self.directory.read_link(&self.name))
            .map_err(|e| Error::io("cannot follow the symbolic link", e))?;
        let (parent, name) = split(&link)?;
        if parent != Path::new(".") {
            self.directory = uninterrupted(|| self.directory.open_directory(parent)).map_err(cannot_open_directory)?;
            self.directory_path.push(parent);
        }
        self.name = name.to_owned();
        Ok(())
    }
}

/// A path's directory and the name in it.
pub(crate) fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    // `file_name` overlooks these endings, which only a directory can have.
    let bytes = path.as_os_str().as_encoded_bytes();
    let names_directory = [&b"/"[..], b"/.", std::path::MAIN_SEPARATOR_STR.as_bytes()];
    if names_directory.iter().any(|ending| bytes.ends_with(ending)) {
        return Err(is_a_directory());
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => Ok((Path::new("."), name)),
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ if bytes.is_empty() => Err(Error::invalid("cannot save: the path is empty")),
        _ => Err(is_a_directory()),
    }
}

fn is_a_directory() -> Error {
    Error::invalid("cannot save: the path is that of a directory").with_advice("add a file name to it")
}

pub(super) fn already_exists() -> Error {
    Error::invalid("cannot save: the file already exists").with_advice("choose another name, or allow replacing it")
}

fn cannot_open_directory(e: io::Error) -> Error {
    let advice = match e.kind() {
        io::ErrorKind::NotFound => Some("create the directory first"),
        io::ErrorKind::PermissionDenied => Some("saving needs a directory that may be read and written"),
        _ => None,
    };
    let error = Error::io("cannot open the directory to save in", e);
    match advice {
        Some(advice) => error.with_advice(advice),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_into_directory_and_name() {
        for (path, parent, name) in
            [("a", ".", "a"), ("./a", ".", "a"), ("/a", "/", "a"), ("x/../a", "x/..", "a"), ("x//a", "x", "a")]
        {
            assert_eq!(split(Path::new(path)).unwrap(), (Path::new(parent), OsStr::new(name)), "{path}");
        }
        for path in ["", ".", "..", "/", "a/", "a/.", "a/..", "a//"] {
            assert!(split(Path::new(path)).is_err(), "{path}");
        }
    }
}
