//! Salvage: what is intact of a damaged file, saved.
//!
//! This is the front door: it chooses the finder for a file (`read::salvage` for Dolmen files, `foreign::torch::salvage` for PyTorch's
//! archives), makes a [`Checkpoint`] of what that finds, and joins it with writing. The damaged file is never written to.
//!
//! [`SalvageOptions`] is where it begins; [`Salvaged`] is what comes of it, with a [`SalvageReport`].

#[cfg(feature = "fs")]
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::foreign::Kind;
#[cfg(feature = "fs")]
use crate::foreign::{ConvertOptions, Notes};
use crate::format::header::MAGIC;
pub use crate::read::salvage::{
    Damage, Doubt, ExtraOutcome, Fill, Guide, LOST, Loss, LossReason, MARKS, Outcome, Part, Rescue, RowsHit,
    SalvageOptions, SalvageReport, SalvagedTensor, lost_tensor, marked_tensors,
};
use crate::read::salvage::{Finding, mark_lost, marks_of};
use crate::read::{Checkpoint, GuestIndex};
use crate::source::{AlignedBytes, ReadAt, Source};
use crate::write::FileOptions;

/// What was salvaged of a damaged file: a checkpoint of what is good, over the damaged file as it is, and the report.
#[derive(Debug)]
pub struct Salvaged {
    checkpoint: Checkpoint,
    report: SalvageReport,
    file: FileOptions,
}

impl Salvaged {
    /// What is saved: the tensors that the report says are, the metadata with its [marks](MARKS), and the document.
    ///
    /// Its data is read from the damaged file, and verified, when it is touched.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What was found.
    pub fn report(&self) -> &SalvageReport {
        &self.report
    }

    /// Alignment and checksum blocks of the damaged file, if it is a Dolmen file of which they are known; otherwise the usual ones.
    pub fn file_options(&self) -> FileOptions {
        self.file
    }

    /// Saves it, in the format that the path's extension names, as [`convert`](crate::foreign::convert()) does: atomically, and read back
    /// before it gets its name. Gives what the format could not hold.
    ///
    /// **Cost**: reads what is saved once more; memory as `convert`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is nothing to save, or the path is that of the damaged file; and as `convert`.
    #[cfg(feature = "fs")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Notes> {
        self.save_with(path, &ConvertOptions::new().file(self.file).validate(true))
    }

    /// As [`save`](Self::save), with options.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    #[cfg(feature = "fs")]
    pub fn save_with(&self, path: impl AsRef<Path>, options: &ConvertOptions) -> Result<Notes> {
        let path = path.as_ref();
        if !self.report.has_something() {
            return Err(Error::invalid("there is nothing to save").with_path(path));
        }
        if self.checkpoint.path().is_some_and(|damaged| is_same_file(damaged, path)) {
            let e = Error::invalid("this is the damaged file, and it is not written over");
            return Err(e
                .with_path(path)
                .with_advice("save under another name; what is lost may still be found in it"));
        }
        crate::foreign::save_as(&self.checkpoint, path, options)
    }
}

impl SalvageOptions {
    /// Finds what is good in a damaged file.
    ///
    /// A file that is not damaged gives all of it. One of which nothing is left gives an empty checkpoint, and a report that says so.
    ///
    /// **Cost**: reads the file once, parts of it that are damaged a few times; memory for what describes the tensors, and a few MiB.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be opened; that parts of it cannot be read is damage like any other.
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion) if it needs a newer reader; [`Limit`](crate::ErrorKind::Limit);
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a tensor to be filled has a dtype without such an element.
    #[cfg(feature = "fs")]
    pub fn salvage(&self, path: impl AsRef<Path>) -> Result<Salvaged> {
        let path = path.as_ref();
        let (file, _) = crate::source::file::open_regular(path)?;
        let finding = find(&file, self).map_err(|e| e.with_path(path))?;
        // A lock that cannot be had for another reason than that somebody has it says nothing.
        let locked =
            finding.report.unfinished && matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock));
        if finding.report.unfinished && !locked {
            let _ = file.unlock();
        }
        let mut salvaged = join(Source::File(file), finding, self).map_err(|e| e.with_path(path))?;
        salvaged.report.being_written = locked;
        salvaged.checkpoint = salvaged.checkpoint.at_path(path);
        Ok(salvaged)
    }

    /// As [`salvage`](Self::salvage), of a file that is in memory, copying it.
    ///
    /// # Errors
    /// As there.
    pub fn salvage_bytes(&self, bytes: &[u8]) -> Result<Salvaged> {
        let copy = AlignedBytes::copy_of(bytes).map_err(|e| Error::io("cannot hold the file in memory", e))?;
        let source = Source::Heap(copy);
        let finding = find(&source, self)?;
        join(source, finding, self)
    }

    /// Says what could be salvaged from anything that can be read at positions.
    ///
    /// # Errors
    /// As [`salvage`](Self::salvage).
    pub fn examine(&self, source: &dyn ReadAt) -> Result<SalvageReport> {
        let finding = find(source, self)?;
        let byte_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        join(Source::Absent(byte_len), finding, self).map(|salvaged| salvaged.report)
    }
}

/// Finds what is good, with the finder for the file's format.
fn find(source: &dyn ReadAt, options: &SalvageOptions) -> Result<Finding> {
    // That a file cannot be read at its beginning is no reason not to look at the rest.
    let begun = crate::read::read_start(source);
    let start = begun.as_deref().unwrap_or_default();
    // Either can lie within a tensor of the other: how the file begins decides, if that is left.
    let is_zip = start.starts_with(b"PK");
    let mut dolmen = if is_zip { None } else { crate::read::salvage::find(source, options)? };
    if let Some(found) = dolmen.take_if(|found| found.report.has_something() || start.starts_with(&MAGIC)) {
        #[cfg(feature = "torch")]
        if begun.is_ok()
            && !start.starts_with(&MAGIC)
            && let Some(around) = crate::foreign::torch::salvage::find(source, options)?
            && begins_before(&around.report, &found.report)
        {
            return Ok(around);
        }
        return Ok(found);
    }
    let start = begun?;
    #[cfg(feature = "torch")]
    if let Some(found) = crate::foreign::torch::salvage::find(source, options)? {
        return Ok(found);
    }
    if is_zip {
        dolmen = crate::read::salvage::find(source, options)?;
    }
    if let Some(found) = dolmen {
        return Ok(found);
    }
    let byte_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    let mut report = SalvageReport::new("", byte_len);
    report.is_something_else(match crate::foreign::recognise(&start) {
        Some(kind @ (Kind::Safetensors | Kind::Npy | Kind::Npz)) => {
            let what = format!("this is a file of the format {kind}, which has no checksums of tensors: nothing in it tells what is damaged");
            Error::new(ErrorKind::NotThisFormat, what).with_advice("if it opens, convert it")
        }
        _ => crate::format::diagnosis::not_dolmen(&start),
    });
    Ok(Finding { guest: GuestIndex::new("", ""), report, layout: None })
}

/// Whether something was found that begins before what else was, and so may hold it.
#[cfg(feature = "torch")]
fn begins_before(one: &SalvageReport, other: &SalvageReport) -> bool {
    one.has_something() && one.begins_at.is_some_and(|one| other.begins_at.is_some_and(|other| one < other))
}

/// Makes a checkpoint of what was found: marked with what nothing vouches for, its document without references to what is lost.
fn join(source: Source, finding: Finding, options: &SalvageOptions) -> Result<Salvaged> {
    let Finding { mut guest, mut report, layout } = finding;
    report.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    report.marked_before.sort();
    if let Some(marks) = marks_of(&mut report, options.partial, guest.extras().metadata.get(MARKS)) {
        guest.metadata(MARKS, marks);
    }
    lose_references(&mut guest, &mut report);
    let file = layout
        .and_then(|(alignment, block)| FileOptions::new().alignment(1 << alignment).ok()?.block_len(1 << block).ok())
        .unwrap_or_default();
    let checkpoint = Checkpoint::of_guest(source, guest, options.limits)?.with_threads(options.threads);
    Ok(Salvaged { checkpoint, report, file })
}

/// Marks what the document refers to and is lost. A document that is nested too deep for the marks is lost itself.
fn lose_references(guest: &mut GuestIndex, report: &mut SalvageReport) {
    let Some(mut document) = guest.take_document() else { return };
    let lost = mark_lost(&mut document, |name| guest.contains(name));
    if lost > 0
        && let Err(e) = crate::format::value::encode_document(&document)
    {
        let why = format!("it cannot say which of its tensors are lost: {}", e.reason());
        report.document = ExtraOutcome::Lost(Loss::new(LossReason::Limit, why));
        return;
    }
    guest.document(document);
}

/// Whether two paths lead to one file.
#[cfg(feature = "fs")]
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (std::fs::metadata(a), std::fs::metadata(b)) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
