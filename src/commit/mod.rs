//! Saving: a file appears under its name complete and durable, or not at all.
//!
//! `write` streams its bytes into an [`AtomicFile`]; whatever else must replace a file safely can use it too. How
//! bytes reach the disk is behind the traits of [`file_system`], so that tests can fail any call and enumerate what
//! any crash leaves. A [`SharedFile`] is the exception: a log of lines that several processes append to in place.
//!
//! # The order of things
//! 1. The target's directory is opened, and everything below happens relative to it. What would prevent the flush at
//!    the end prevents the beginning.
//! 2. A file with an unpredictable name is created in it, exclusively, and locked to say that its writer lives.
//! 3. The bytes are written. A failed write is final.
//! 4. The length is compared with what was written; the file is flushed. A failed flush is final too and never
//!    repeated, for the second would succeed with the bytes lost.
//! 5. The validator, if any, reads the file.
//! 6. The file is renamed to its target, replacing in one step what was there.
//! 7. The directory is flushed. If this fails the new file is visible but a crash may bring the old one back:
//!    [`NotDurable`](crate::ErrorKind::NotDurable).
//!
//! So there are three outcomes: success and the new file; `NotDurable` and the new file; any other error and the old
//! file. (Specification, section 11, items 6 and 7.)
//!
//! # What the new file inherits, and what not
//! - **Mode**: the permission bits of the file it replaces (not set-uid, set-gid or sticky); a file under a new name
//!   has `0666` less the umask.
//! - **Owner, group, ACLs, extended attributes** are those of a new file made by this process: not inherited. This
//!   matters most when root replaces the file of somebody else.
//! - **Hard links**: the new file is a new file. Other names of the old one keep the old content.
//! - **Symbolic links** are followed, and the file at the end is replaced in its own directory; the links stay. A
//!   link to a missing file creates that file. With [`create_new`](SaveOptions::create_new) they are not followed.
//! - **Open and mapped files**: who has the old file open or mapped keeps it as it was. A checkpoint may be saved over
//!   itself while it is mapped. Not so on Windows: a mapped file cannot be replaced there, and the commit fails.
//! - Directories, devices, pipes and sockets are refused.
//!
//! Two writers of one target do not disturb each other; the last commit wins.
//!
//! # What is left behind
//! A process that is killed leaves its temporary file `.name.0123456789abcdef.dolmen-tmp`: an interrupted streaming
//! save can be salvaged from it. The next successful save of the same target removes it, and [`sweep()`] removes all
//! in a directory. Both leave alone the files of living writers, whom they know by their locks; see [`sweep()`] about
//! file systems shared between machines.
//!
//! # Limits
//! - A process that writes beyond `RLIMIT_FSIZE` is killed by SIGXFSZ unless it ignores that signal. If it does, the
//!   save fails like on a full disk; either way the old file stays.
//! - A file system that acknowledges flushes and does not do them cannot be helped from here.
//! - Over NFS, errors of writing may come as late as the close. Flushing brings them forward;
//!   [`Durability::None`] does not flush, and can miss them.

mod atomic_file;
mod directories;
pub mod file_system;
#[cfg(not(unix))]
mod portable;
#[cfg(unix)]
mod real;
mod shared_file;
mod sweep;
mod target;
mod temp;

pub use atomic_file::AtomicFile;
#[cfg(feature = "lifecycle")]
pub(crate) use directories::cannot_be_flushed;
pub use directories::create_directories;
#[cfg(not(unix))]
pub use portable::RealFileSystem;
#[cfg(unix)]
pub use real::RealFileSystem;
#[cfg(all(unix, feature = "lifecycle"))]
pub(crate) use real::flush_file;
pub use shared_file::SharedFile;
#[cfg(feature = "lifecycle")]
pub(crate) use shared_file::means_no_locks;
#[cfg(feature = "feature")]
pub(crate) use sweep::sweep_target;
pub use sweep::{Swept, sweep, sweep_in};
#[cfg(any(feature = "feature", feature = "lifecycle"))]
pub(crate) use target::split;

use crate::error::Result;
use crate::source::ReadAt;
use file_system::FileSystem;
use std::sync::Arc;

/// Checks a finished file before it is put in place.
pub type Validator = Arc<dyn Fn(&dyn ReadAt) -> Result<()> + Send + Sync>;

/// What a successful save promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The new file is there after a crash of the machine. **Cost**: waits until the device has all of it.
    #[default]
    Full,
    /// Nothing is flushed. Readers, and a killed process, still see the old or the new file; after a crash of the
    /// machine the file can be old, new, empty or partly zeros (which its checksums then show).
    None,
}

/// How to save: durably, replacing what is there, and without validation unless told otherwise.
#[derive(Clone)]
pub struct SaveOptions {
    durability: Durability,
    create_new: bool,
    validator: Option<Validator>,
    file_system: Arc<dyn FileSystem>,
}

impl SaveOptions {
    /// The defaults.
    pub fn new() -> SaveOptions {
        SaveOptions {
            durability: Durability::default(),
            create_new: false,
            validator: None,
            file_system: Arc::new(RealFileSystem),
        }
    }

    /// What success promises.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> SaveOptions {
        self.durability = durability;
        self
    }

    /// Whether to fail if the target exists, rather than replace it.
    ///
    /// It is looked for at the beginning, and made sure of at the commit in one step with putting the file in place:
    /// by a rename that does not replace or, where the file system has none, by a hard link.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> SaveOptions {
        self.create_new = create_new;
        self
    }

    /// A check that reads the finished, flushed file before it is put in place. If it fails, so does the commit.
    ///
    /// What it reads comes from memory where the system still has it there: it finds mistakes of programs, not of
    /// disks.
    #[must_use]
    pub fn validator(mut self, validator: Option<Validator>) -> SaveOptions {
        self.validator = validator;
        self
    }

    /// Where to save: the machine's file system, or a test's.
    #[must_use]
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> SaveOptions {
        self.file_system = file_system;
        self
    }

    /// What success promises.
    #[cfg(any(feature = "feature", feature = "lifecycle"))]
    pub(crate) fn promised(&self) -> Durability {
        self.durability
    }

    /// Where it saves.
    pub fn saves_in(&self) -> &Arc<dyn FileSystem> {
        &self.file_system
    }
}

impl std::fmt::Debug for SaveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaveOptions")
            .field("durability", &self.durability)
            .field("create_new", &self.create_new)
            .field("validated", &self.validator.is_some())
            .field("file_system", &self.file_system)
            .finish()
    }
}

impl Default for SaveOptions {
    fn default() -> SaveOptions {
        SaveOptions::new()
    }
}
