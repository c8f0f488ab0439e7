//! Salvage: what is intact of a damaged file, found and told.
//!
//! A *finder* looks at a damaged file and makes a [`Finding`]: a guest's index of the storages and tensors that are good, over the damaged
//! bytes as they are, and a [`SalvageReport`]. From there on it is a [`Checkpoint`](crate::Checkpoint) like any other, which a
//! [`Builder`](crate::Builder) copies. The front door (`salvage.rs`) chooses the finder and joins it with writing. The finder for Dolmen files
//! is here; the one for PyTorch's archives is in `foreign`.

mod bytes;
mod content;
mod dolmen;
mod fill;
mod frame;
mod marks;
mod report;
mod stored;
mod walk;

use std::sync::Arc;

pub(crate) use dolmen::find;
pub use fill::Fill;
#[cfg(feature = "torch")]
pub(crate) use marks::merge;
pub use marks::{LOST, MARKS, lost_tensor, marked_tensors};
pub(crate) use marks::{mark_lost, marks_of};
pub use report::{
    Damage, Doubt, ExtraOutcome, Guide, Loss, LossReason, Outcome, Part, Rescue, RowsHit, SalvageReport, SalvagedTensor,
};

use super::guest::GuestIndex;
use crate::format::limits::Limits;

/// Called with numbers of bytes as so many more have been looked at.
pub(crate) type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What to salvage of a damaged file, besides what is intact.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let (path, out) = (dir.path().join("damaged.dolmen"), dir.path().join("out.dolmen"));
/// use dolmen::SalvageOptions;
/// # let mut b = dolmen::Builder::new();
/// # b.tensor("intact", &[1u8, 2, 3])?;
/// # b.tensor("damaged", &[4u8, 5, 6])?;
/// # let mut bytes = b.to_vec()?;
/// # let at = bytes.windows(3).position(|w| w == [4, 5, 6]).unwrap();
/// # bytes[at] ^= 1;
/// # std::fs::write(&path, bytes).unwrap();
///
/// let salvaged = SalvageOptions::new().salvage(&path)?;
/// for tensor in &salvaged.report().tensors {
///     println!("{}: {}", tensor.name, tensor.outcome.name());
/// }
/// assert_eq!(salvaged.checkpoint().tensor("intact")?.as_slice::<u8>()?, [1, 2, 3]);
/// salvaged.save(&out)?;
/// assert_eq!(dolmen::Checkpoint::open(&out)?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct SalvageOptions {
    pub(crate) partial: Option<Fill>,
    pub(crate) unverified: bool,
    pub(crate) raw: bool,
    pub(crate) limits: Limits,
    pub(crate) threads: usize,
    pub(crate) progress: Option<Progress>,
}

impl SalvageOptions {
    /// Nothing but what is intact.
    pub fn new() -> SalvageOptions {
        SalvageOptions {
            partial: None,
            unverified: false,
            raw: false,
            limits: Limits::NONE,
            threads: super::default_threads(),
            progress: None,
        }
    }

    /// Saves tensors of which some bytes are damaged, too, with those bytes replaced. The report lists them, and the output is marked.
    pub fn partial(mut self, fill: Fill) -> SalvageOptions {
        self.partial = Some(fill);
        self
    }

    /// Whether to save bytes that no checksum vouches for: such as the last rows of a file whose writer was killed. The report lists them, and
    /// the output is marked.
    pub fn unverified(mut self, unverified: bool) -> SalvageOptions {
        self.unverified = unverified;
        self
    }

    /// Whether to save the storages of a PyTorch checkpoint whose pickle is lost, as bytes under the names of their records: of what dtype and
    /// shape the tensors in them were, nothing says any more.
    pub fn raw(mut self, raw: bool) -> SalvageOptions {
        self.raw = raw;
        self
    }

    /// What to accept at most of the damaged file.
    pub fn limits(mut self, limits: Limits) -> SalvageOptions {
        self.limits = limits;
        self
    }

    /// How many threads to use.
    pub fn threads(mut self, threads: usize) -> SalvageOptions {
        self.threads = if cfg!(feature = "parallel") { threads.max(1) } else { 1 };
        self
    }

    /// What to call with a number of bytes each time so many more have been looked at, from any thread. They can be more than the file has.
    pub fn progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> SalvageOptions {
        self.progress = Some(Arc::new(progress));
        self
    }
}

impl Default for SalvageOptions {
    fn default() -> SalvageOptions {
        SalvageOptions::new()
    }
}

impl std::fmt::Debug for SalvageOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SalvageOptions")
            .field("partial", &self.partial)
            .field("unverified", &self.unverified)
            .field("raw", &self.raw)
            .field("limits", &self.limits)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// What a finder hands to the front door.
///
/// `guest` has the tensors that are to be saved, and no others: those of the report whose [outcome](Outcome::is_saved) says so. A storage that
/// is intact has its CRC; one that is filled or not verified is a [made](GuestIndex::made_storage) one that is
/// [never](super::Checked::Never) checked, or has none. Metadata and document are as they were found: the front door adds the
/// [marks](MARKS), and replaces references to lost tensors.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) guest: GuestIndex,
    pub(crate) report: SalvageReport,
    /// Alignment and length of checksum blocks of the damaged file, as powers of two, if it is a Dolmen file of which they are known.
    pub(crate) layout: Option<(u8, u8)>,
}
