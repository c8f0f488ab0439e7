//! [`Store`]: the directory in which the state file lies, read and written through the commit room alone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::PipelineError;
use super::state::{PipelineState, STATE_FILE, STATE_LEN_MAX, check_len};
use crate::commit::file_system::{Directory, FileKind, uninterrupted};
use crate::commit::{AtomicFile, SaveOptions, create_directories, sweep_in};
use crate::error::{Error, ErrorKind, Result};
use crate::format::len_u64;
use crate::lifecycle::CheckpointError;
use crate::lifecycle::lock::Lock;

/// The name of the lock file.
const LOCK_FILE: &str = "pipeline.lock";

/// How many names are tried for a state that is kept.
const ATTEMPTS: usize = 1000;

/// The directory of a state file, locked.
#[derive(Debug)]
pub(super) struct Store {
    directory: Box<dyn Directory>,
    directory_path: PathBuf,
    path: PathBuf,
    save: SaveOptions,
    lock: Lock,
}

impl Store {
    /// Opens the directory, making it if it is not there, and takes its lock.
    pub(super) fn open(directory_path: &Path, save: &SaveOptions, now: &str) -> Result<Store, PipelineError> {
        let file_system = save.saves_in();
        create_directories(&**file_system, directory_path)?;
        let directory = uninterrupted(|| file_system.open_directory(directory_path))
            .map_err(|e| Error::io("cannot open the pipeline's directory", e).with_path(directory_path))?;
        let lock_path = directory_path.join(LOCK_FILE);
        let lock = Lock::take(&*directory, OsStr::new(LOCK_FILE), now)
            .map_err(|e| Error::io("cannot lock the pipeline's directory", e).with_path(&lock_path))?
            .map_err(|holder| PipelineError::Locked { path: lock_path, holder })?;
        Ok(Store {
            directory,
            directory_path: directory_path.to_path_buf(),
            path: directory_path.join(STATE_FILE),
            save: save.clone(),
            lock,
        })
    }

    /// The state file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock keeps others out.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.holds
    }

    /// Removes what killed savers left in a directory. What cannot be removed now may be another time.
    pub(super) fn sweep(&self, directory: &Path) {
        let _ = sweep_in(&**self.save.saves_in(), directory);
    }

    /// The state, if there is one.
    pub(super) fn read(&self) -> Result<Option<PipelineState>, CheckpointError> {
        match self.read_bytes() {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => PipelineState::parse(&self.path, &bytes).map(Some),
            Err(e) => Err(CheckpointError::of(&self.path, e)),
        }
    }

    fn read_bytes(&self) -> Result<Option<Vec<u8>>> {
        let name = OsStr::new(STATE_FILE);
        let doing = |e| Error::io("cannot read the pipeline's state", e);
        match uninterrupted(|| self.directory.status(name)).map_err(doing)?.map(|status| status.kind) {
            None => return Ok(None),
            Some(FileKind::File) => {}
            // It is saved beside where the link leads, and kept where the link is: the two would go apart.
            Some(FileKind::Symlink) => {
                let e = io::Error::other("it is a symbolic link");
                return Err(doing(e).with_advice("name the directory in which the file is"));
            }
            Some(_) => return Err(doing(io::Error::other("it is not a regular file"))),
        }
        let file = uninterrupted(|| self.directory.open_existing(name)).map_err(doing)?;
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        while len_u64(bytes.len()) <= STATE_LEN_MAX {
            let read = uninterrupted(|| file.read_at(&mut chunk, len_u64(bytes.len()))).map_err(doing)?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
        Ok(Some(bytes))
    }

    /// Replaces the state file, durably.
    pub(super) fn write(&self, state: &PipelineState) -> Result<()> {
        let bytes = state.to_bytes();
        if check_len(&bytes).is_err() {
            let message = "the pipeline's state would be too long to be read again";
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_path(&self.path)
                .with_advice("name fewer files, such as one for each stage that lists the others"));
        }
        let named = self.lock.has_its_name(&*self.directory, OsStr::new(LOCK_FILE));
        if !named.map_err(|e| Error::io("cannot look at the lock", e).with_path(self.directory_path.join(LOCK_FILE)))? {
            let message = "the lock was taken away while this pipeline was running: another may be running too";
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_path(self.directory_path.join(LOCK_FILE))
                .with_advice("nothing was recorded; see that nothing else runs here, and resume"));
        }
        let mut file = AtomicFile::create(&self.path, &self.save)?;
        file.append(&bytes)?;
        file.commit()
    }

    /// Gives the state file a second name, which it keeps when it is replaced: `pipeline_state.REASON.json`, or with a number.
    pub(super) fn keep(&self, reason: &str) -> Result<PathBuf> {
        let doing = |e| Error::io("cannot keep the state of before", e).with_path(&self.path);
        for n in 1..=ATTEMPTS {
            let number = if n == 1 { String::new() } else { format!(".{n}") };
            let kept = OsString::from(format!("pipeline_state.{reason}{number}.json"));
            match self.give_name(&kept) {
                Ok(()) => return Ok(self.directory_path.join(kept)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(doing(e)),
            }
        }
        Err(doing(io::Error::other("too many of them are kept already")))
    }

    /// Never replaces what has the name.
    fn give_name(&self, kept: &OsStr) -> io::Result<()> {
        let name = OsStr::new(STATE_FILE);
        match self.directory.hard_link(name, kept) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(e),
            // Where there are no hard links. A crash before the new state is saved then leaves none, which is noticed: every
            // stage is looked at anew.
            Err(_) => match self.directory.rename_no_replace(name, kept) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    if self.directory.status(kept)?.is_some() {
                        return Err(io::ErrorKind::AlreadyExists.into());
                    }
                    self.directory.rename(name, kept)?;
                }
                renamed => renamed?,
            },
            Ok(()) => {}
        }
        self.directory.sync()
    }
}
