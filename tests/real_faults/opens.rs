//! What is opened in these tests, and what may come of it when something happens.

use crate::errand::{Ended, Mark};
use crate::saves::builder;
use dolmen::format::checksum::crc32;
use dolmen::lifecycle::Validator;
use dolmen::{Checkpoint, Error, ErrorKind, OpenOptions, Result, TensorView, VerifyOptions};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of the tensor of the file that is opened: enough for memory that is mapped, and for work that is shared out.
const LEN: usize = 5_000_000;

/// A way of opening a file, and of reading all that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The whole file, read and verified.
    Whole,
    /// On as many threads as may be had.
    Threads,
    /// Each storage as it is touched.
    OnDemand,
    /// The same, past the page cache.
    Direct,
    /// Mapped.
    Map,
    /// Nothing but verified.
    Verify,
    /// Header and index, and one tensor's rows.
    Rows,
    /// Taken through the levels of validation.
    Validate,
    /// A checkpoint of PyTorch, mapped.
    Torch,
    /// Another, read and converted.
    TorchWhole,
}

impl Open {
    pub const ALL: [Open; 10] = [
        Open::Whole,
        Open::Threads,
        Open::OnDemand,
        Open::Direct,
        Open::Map,
        Open::Verify,
        Open::Rows,
        Open::Validate,
        Open::Torch,
        Open::TorchWhole,
    ];

    pub fn named(name: &str) -> Open {
        Open::ALL.into_iter().find(|open| format!("{open:?}") == name).unwrap_or_else(|| panic!("no way {name}"))
    }

    /// Puts the files that are opened into a directory.
    pub fn prepare(directory: &Path) {
        builder(7, LEN).save(directory.join("m.dolmen")).unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data");
        fs::copy(data.join("batch_2.pt"), directory.join("m.pt")).unwrap();
    }

    pub fn file(self, directory: &Path) -> PathBuf {
        directory.join(if matches!(self, Open::Torch | Open::TorchWhole) { "m.pt" } else { "m.dolmen" })
    }

    /// Opens and reads; gives what was read, in short.
    pub fn perform(self, directory: &Path, mark: &dyn Fn(Mark)) -> Result<String> {
        let path = self.file(directory);
        if self != Open::Whole {
            // How many threads there may be is asked for once, of files of the system.
            let _ = OpenOptions::new();
        }
        mark(Mark::Begin);
        let result = self.read(&path);
        mark(Mark::End);
        result
    }

    fn read(self, path: &Path) -> Result<String> {
        let one = OpenOptions::new().threads(1);
        match self {
            Open::Whole | Open::TorchWhole => everything(&one.open(path)?),
            Open::Threads => everything(&OpenOptions::new().threads(4).open(path)?),
            Open::OnDemand => everything(&one.open_on_demand(path)?),
            Open::Direct => everything(&one.direct(true).open_on_demand(path)?),
            // SAFETY: nobody writes to the files of these tests or truncates them while they are mapped.
            Open::Map | Open::Torch => everything(&unsafe { one.map(path) }?),
            Open::Verify => {
                let file = one.open_on_demand(path)?;
                let mut options = VerifyOptions::default();
                options.threads = 1;
                let report = file.verify_with(&options)?;
                match report.problems.into_iter().next() {
                    None => Ok(format!("{} tensors in {} bytes", report.tensor_count, report.file_len)),
                    Some(problem) => Err(problem.with_path(path)),
                }
            }
            Open::Rows => {
                let file = one.open_on_demand(path)?;
                let rows = file.tensor("pattern")?.rows(1_000_000..3_000_000)?;
                Ok(format!("rows with CRC {:08x}", crc32(rows.bytes()?)))
            }
            Open::Validate => {
                let validated = Validator::new().required_keys(["pattern"]).threads(1).validate(path);
                validated.map(|_| "valid".to_owned()).map_err(|e| {
                    let kind = e.error().map_or(ErrorKind::InvalidInput, Error::kind);
                    Error::new(kind, e.to_string())
                })
            }
        }
    }

    /// Whether what came of it is allowed: the right content, or an error that is the machine's and not the file's.
    pub fn judge(self, directory: &Path, ended: &Ended, right: &str) -> Result<Outcome, String> {
        match ended {
            Ended::Ok(read) if read == right => Ok(Outcome::RightContent),
            Ended::Error { kind, message } => {
                let name = self.file(directory);
                match (kind.as_str(), message.contains(name.to_str().unwrap())) {
                    ("Io", true) => Ok(Outcome::IoError),
                    ("Io", false) => Err(format!("the message does not name the file: {ended:?}")),
                    _ => Err(format!("the file is blamed for what the machine did: {ended:?}")),
                }
            }
            Ended::Signal(..) if ended.is_out_of_memory() => Ok(Outcome::Aborted),
            _ => Err(format!("{ended:?}, and right would be {right:?}")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    RightContent,
    IoError,
    /// The file is said not to exist, and so it is told.
    Missing,
    /// The allocator had no memory for a small thing, which ends a program in Rust.
    Aborted,
}

/// All that a checkpoint gives, in short.
fn everything(file: &Checkpoint) -> Result<String> {
    let of_tensor = |tensor: TensorView<'_>| {
        let mut crc = 0u64;
        let mut len = 0;
        tensor.for_each_run(|run| {
            crc = crc.rotate_left(1) ^ u64::from(crc32(run));
            len += run.len();
            Ok(())
        })?;
        Ok(format!("{} {} {:?} {len} {crc:x}; ", tensor.name(), tensor.dtype(), tensor.shape()))
    };
    let tensors: Result<String> = file.tensors().map(|tensor| of_tensor(tensor?)).collect();
    let rest = format!("{:?}, {:?}", file.metadata()?, file.document()?);
    Ok(format!("{}{:08x}", tensors?, crc32(rest.as_bytes())))
}
