//! Looking for checkpoints in directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};
use crate::format::diagnosis::{self, DIAGNOSIS_LEN};
use crate::format::len_u64;

/// Names that checkpoints have.
const NAMED: [&str; 5] = ["dolmen", "pt", "pth", "ckpt", "safetensors"];
/// Names that checkpoints can have, as other files do.
const PERHAPS: [&str; 2] = ["bin", "pt2"];

/// A file that may be a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub byte_len: u64,
    /// Why it may be one.
    pub claim: Claim,
}

/// Why a file may be a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Claim {
    /// It was named by the caller.
    Given,
    /// Its name ends as those of checkpoints do: `.dolmen`, `.pt`, `.pth`, `.ckpt` or `.safetensors`.
    Named,
    /// Its name ends as those of checkpoints may: `.bin` or `.pt2`.
    Perhaps,
    /// It lies in a directory that was searched; its content alone can tell.
    Found,
}

/// What a search found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Candidates {
    /// The files, ascending by path, each once.
    pub files: Vec<Candidate>,
    /// What could not be looked at: each error names its path.
    pub failed: Vec<Error>,
}

impl Candidate {
    /// Whether a file that cannot be opened is to be passed over: nobody says that it is a checkpoint, and it is none.
    ///
    /// What an interrupted save left behind is passed over as well: no checkpoint was ever promised there. A `.bin` or `.pt2` file is not if it
    /// only stands where another should be, empty, a git-LFS pointer or a web page.
    pub fn is_passed_over(&self, e: &Error) -> bool {
        match self.claim {
            Claim::Given | Claim::Named => false,
            Claim::Perhaps | Claim::Found => {
                let is_none = e.kind() == ErrorKind::NotThisFormat || self.is_unfinished_save();
                is_none && !(self.claim == Claim::Perhaps && self.is_placeholder())
            }
        }
    }

    fn is_unfinished_save(&self) -> bool {
        self.path.extension() == Some(OsStr::new("dolmen-tmp"))
    }

    fn is_placeholder(&self) -> bool {
        let mut start = Vec::new();
        let read =
            std::fs::File::open(&self.path).and_then(|file| file.take(len_u64(DIAGNOSIS_LEN)).read_to_end(&mut start));
        read.is_ok() && diagnosis::is_placeholder(&start)
    }
}

impl Candidates {
    /// The files that are given, and all files in the directories that are given and in those within them. Links to directories are not
    /// followed there.
    ///
    /// **Cost**: reads the directories; opens no file.
    pub fn search<P: AsRef<Path>>(paths: &[P]) -> Candidates {
        let mut found = Candidates::default();
        let mut pending = Vec::new();
        for path in paths {
            let path = path.as_ref();
            match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => pending.push(path.to_path_buf()),
                Ok(metadata) => {
                    let byte_len = metadata.len();
                    found.files.push(Candidate { path: path.to_path_buf(), byte_len, claim: Claim::Given });
                }
                Err(e) => found.failed.push(Error::io("cannot open", e).with_path(path)),
            }
        }
        while let Some(directory) = pending.pop() {
            let cannot = |e| Error::io("cannot read the directory", e).with_path(&directory);
            match std::fs::read_dir(&directory) {
                Ok(entries) => {
                    for entry in entries {
                        if let Err(e) = entry.and_then(|entry| found.look_at(&entry, &mut pending)) {
                            found.failed.push(cannot(e));
                        }
                    }
                }
                Err(e) => found.failed.push(cannot(e)),
            }
        }
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        // What was given counts as given, also if it was found too.
        found.files.sort_by_key(|file| file.claim != Claim::Given);
        let mut seen = BTreeSet::new();
        found.files.retain(|file| seen.insert(file.path.clone()));
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn look_at(&mut self, entry: &std::fs::DirEntry, pending: &mut Vec<PathBuf>) -> std::io::Result<()> {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            pending.push(path);
            return Ok(());
        }
        let claim = if has_extension(&path, &NAMED) {
            Claim::Named
        } else if has_extension(&path, &PERHAPS) {
            Claim::Perhaps
        } else {
            Claim::Found
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                self.files.push(Candidate { path, byte_len: metadata.len(), claim });
            }
            // A link that leads nowhere is reported if its name says that it should lead to a checkpoint.
            Err(e) if claim == Claim::Named => self.failed.push(Error::io("cannot open", e).with_path(&path)),
            _ => {}
        }
        Ok(())
    }

    /// How many bytes the files have in all.
    pub fn byte_len(&self) -> u64 {
        self.files.iter().map(|file| file.byte_len).fold(0, u64::saturating_add)
    }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    extension.is_some_and(|extension| extensions.iter().any(|known| extension == *known))
}

/// Works on files of these lengths, each by its number and with so many threads: small files side by side, each on one thread; then
/// large ones one by one, each on all of them.
pub fn spread(byte_lens: &[u64], threads: usize, work: impl Fn(usize, usize) + Sync) {
    const LARGE: u64 = 64 << 20;
    let (large, small): (Vec<usize>, Vec<usize>) =
        (0..byte_lens.len()).partition(|&i| byte_lens.get(i).is_some_and(|&len| len >= LARGE));
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(&i) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(i, 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(small.len()) {
            // Without another thread, this one does it all.
            let _ = std::thread::Builder::new().name("dolmen".into()).spawn_scoped(scope, run);
        }
        run();
    });
    for i in large {
        work(i, threads);
    }
}
