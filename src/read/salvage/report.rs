//! What a salvage found, as data: of each tensor what became of it, what is damaged, what belongs to nothing known.

use std::ops::Range;

use crate::error::{Error, ErrorKind};
use crate::format::dtype::DType;
use crate::format::layout;

/// What a salvage found of a damaged file.
#[derive(Debug)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The format of the damaged file, as [`Checkpoint::format`](crate::Checkpoint::format) names it; empty if it is nothing that is known.
    pub format: &'static str,
    /// The length of the damaged file in bytes.
    pub file_len: u64,
    /// What led to the tensors.
    pub guide: Guide,
    /// At which byte of the damaged file the first byte of the original lies: more than 0 if something was put before it, less if its
    /// beginning is missing. `None` if that is not known.
    pub begins_at: Option<i64>,
    /// How long the original was, if something of the file still says it.
    pub original_len: Option<u64>,
    /// Whether the file was never committed: its writer stopped, or is still at it.
    pub unfinished: bool,
    /// Whether a living writer holds the file's lock.
    pub being_written: bool,
    /// Whether the file may have held tensors that nothing is known of.
    pub may_have_more: bool,
    /// What is damaged, in the order of the file; at most [`MAX_DAMAGES`](SalvageReport::MAX_DAMAGES) of it.
    pub damages: Vec<Damage>,
    /// How many damages there are, listed or not.
    pub damage_count: u64,
    /// Every tensor that something is known of, in the order of the names.
    pub tensors: Vec<SalvagedTensor>,
    /// What became of the metadata.
    pub metadata: ExtraOutcome,
    /// What became of the document. References in it to tensors that are lost are [marked](crate::salvage::LOST) as such.
    pub document: ExtraOutcome,
    /// Tensors of which an earlier salvage said that not all of their bytes were vouched for, and which are saved with what it said.
    pub marked_before: Vec<String>,
    /// Bytes of the damaged file that belong to nothing that is known, in ascending order; at most
    /// [`MAX_DAMAGES`](SalvageReport::MAX_DAMAGES) stretches.
    pub unknown: Vec<Range<u64>>,
    /// How many bytes belong to nothing that is known, listed or not.
    pub unknown_len: u64,
    /// Why there is nothing to salvage, if the file is something else: empty, a web page, a git-LFS pointer.
    pub impostor: Option<Error>,
}

/// What led to the tensors of a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guide {
    /// Nothing did.
    Nothing,
    /// The file's own index (or an archive's directory), whose checksum is right.
    Index,
    /// The descriptions that stand beside the data: descriptors, or the headers of an archive's entries.
    Records,
}

/// A tensor of a damaged file, and what became of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SalvagedTensor {
    /// Its name.
    pub name: String,
    /// Its dtype, if that is known.
    pub dtype: Option<DType>,
    /// Its shape, if that is known.
    pub shape: Option<Vec<u64>>,
    /// What became of it.
    pub outcome: Outcome,
    /// How many further rows were found of a tensor that its writer was in the middle of: nothing vouches for them, and they were not asked
    /// for.
    pub further_rows: u64,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is saved, and a checksum of the damaged file vouches for every byte.
    Intact,
    /// It is saved, as was asked for, with damaged bytes replaced. It may have bytes that nothing vouches for, too.
    Partial(Doubt),
    /// It is saved, as was asked for, with bytes that nothing vouches for.
    Unverified(Doubt),
    /// It is not saved.
    Lost(Loss),
}

/// Which bytes of a saved tensor are not known to be those that were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Doubt {
    /// Why, for people to read.
    pub why: String,
    /// Bytes that were replaced, counted from its first element; ascending, none touching the next.
    pub replaced: Vec<Range<u64>>,
    /// Bytes that are as they were found and that nothing vouches for; likewise.
    pub unverified: Vec<Range<u64>>,
    /// The rows, along the first axis, that have bytes of either kind; `None` if it has no rows that lie one after the other.
    pub rows: Option<RowsHit>,
}

/// Rows of a tensor that are not known to be whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowsHit {
    /// How many rows the tensor has.
    pub count: u64,
    /// The rows that are hit: ascending, none touching the next.
    pub hit: Vec<Range<u64>>,
}

/// Why a tensor is not saved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The kind of reason.
    pub reason: LossReason,
    /// The reason, for people to read.
    pub why: String,
    /// The bytes of the damaged file that it is about, if it is about some.
    pub at: Option<Range<u64>>,
    /// What would have saved it, or some of it, if anything would.
    pub rescue: Option<Rescue>,
}

/// The kinds of reasons for which a tensor is not saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// Its bytes are damaged, or cannot be read.
    DataDamaged,
    /// Nothing vouches for its bytes.
    Unverified,
    /// Some of its bytes would lie beyond the end of the file, or before its beginning.
    CutOff,
    /// What describes it is damaged or makes no sense.
    DescriptionDamaged,
    /// The bytes that it is a view of were not found.
    StorageMissing,
    /// Its bytes would overlap those of another.
    Overlap,
    /// Another tensor has its name.
    NameTwice,
    /// It goes beyond a limit that was set.
    Limit,
}

/// What would save a lost tensor, or some of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rescue {
    /// Whether [`partial`](crate::SalvageOptions::partial) must be asked for.
    pub partial: bool,
    /// Whether [`unverified`](crate::SalvageOptions::unverified) must be asked for.
    pub unverified: bool,
    /// Whether [`raw`](crate::SalvageOptions::raw) must be asked for.
    pub raw: bool,
    /// How many of its rows would be as they were found, and how many it has.
    pub rows: Option<(u64, u64)>,
}

/// What became of the metadata, or of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtraOutcome {
    /// The file had none.
    #[default]
    Absent,
    /// It is saved, and a checksum vouches for it.
    Intact,
    /// It is saved, as was asked for, and nothing vouches for it.
    Unverified,
    /// It is not saved.
    Lost(Loss),
    /// Whether the file had one is not known.
    Unknown,
}

/// Something that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Which part of the file it is.
    pub part: Part,
    /// What is wrong with it, for people to read.
    pub what: String,
    /// The bytes of the damaged file, if it is about some.
    pub at: Option<Range<u64>>,
}

/// The parts of a file that can be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The file as a whole: it is cut off, or something was put before or behind it.
    File,
    /// The header.
    Header,
    /// The trailer.
    Trailer,
    /// The index of a Dolmen file, or an archive's directory.
    Index,
    /// The description of a tensor beside its data: a descriptor, or the header of an archive's entry.
    Record,
    /// Bytes of tensors.
    Data,
    /// Bytes that must be zero.
    Padding,
    /// A pickle that says what the tensors are.
    Pickle,
}

impl Guide {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Guide::Nothing => "nothing",
            Guide::Index => "index",
            Guide::Records => "records",
        }
    }
}

impl Part {
    /// The name in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Part::File => "file",
            Part::Header => "header",
            Part::Trailer => "trailer",
            Part::Index => "index",
            Part::Record => "record",
            Part::Data => "data",
            Part::Padding => "padding",
            Part::Pickle => "pickle",
        }
    }
}

impl Outcome {
    /// The name in JSON and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Intact => "intact",
            Outcome::Partial(_) => "partial",
            Outcome::Unverified(_) => "unverified",
            Outcome::Lost(_) => "lost",
        }
    }

    /// Whether the tensor is saved, verified or not.
    pub fn is_saved(&self) -> bool {
        !matches!(self, Outcome::Lost(_))
    }

    /// Which of its bytes are in doubt, if it is saved with such.
    pub fn doubt(&self) -> Option<&Doubt> {
        match self {
            Outcome::Partial(doubt) | Outcome::Unverified(doubt) => Some(doubt),
            Outcome::Intact | Outcome::Lost(_) => None,
        }
    }
}

impl LossReason {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            LossReason::DataDamaged => "data_damaged",
            LossReason::Unverified => "unverified",
            LossReason::CutOff => "cut_off",
            LossReason::DescriptionDamaged => "description_damaged",
            LossReason::StorageMissing => "storage_missing",
            LossReason::Overlap => "overlap",
            LossReason::NameTwice => "name_twice",
            LossReason::Limit => "limit",
        }
    }
}

impl ExtraOutcome {
    /// The name in JSON and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            ExtraOutcome::Absent => "absent",
            ExtraOutcome::Intact => "intact",
            ExtraOutcome::Unverified => "unverified",
            ExtraOutcome::Lost(_) => "lost",
            ExtraOutcome::Unknown => "unknown",
        }
    }
}

impl ExtraOutcome {
    /// It is there and cannot be understood.
    pub(crate) fn broken(why: impl Into<String>) -> ExtraOutcome {
        ExtraOutcome::Lost(Loss::new(LossReason::DescriptionDamaged, why))
    }

    /// It would be saved if what nothing vouches for had been asked for.
    pub(crate) fn not_vouched_for(why: impl Into<String>) -> ExtraOutcome {
        let loss = Loss::new(LossReason::Unverified, why);
        ExtraOutcome::Lost(loss.rescued_by(Some(Rescue::new(false, true, None))))
    }
}

impl Loss {
    /// A loss that nothing helps against.
    pub(crate) fn new(reason: LossReason, why: impl Into<String>) -> Loss {
        Loss { reason, why: why.into(), at: None, rescue: None }
    }

    /// Says which bytes of the damaged file it is about.
    pub(crate) fn at(mut self, at: Range<u64>) -> Loss {
        self.at = Some(at);
        self
    }

    /// Says what would have saved it.
    pub(crate) fn rescued_by(mut self, rescue: Option<Rescue>) -> Loss {
        self.rescue = rescue;
        self
    }
}

impl Rescue {
    /// What must be asked for, and how many rows of how many that would give.
    pub(crate) fn new(partial: bool, unverified: bool, rows: Option<(u64, u64)>) -> Rescue {
        Rescue { partial, unverified, raw: false, rows }
    }

    /// Says that raw storages must be asked for, too.
    pub(crate) fn raw(mut self) -> Rescue {
        self.raw = true;
        self
    }
}

impl RowsHit {
    /// The rows of a contiguous tensor that have some of these bytes, which are ascending and do not touch; `None` if it has no rows of whole
    /// bytes.
    pub(crate) fn of(shape: &[u64], bits: u32, bytes: &[Range<u64>]) -> Option<RowsHit> {
        let (&count, row_shape) = shape.split_first()?;
        let row_len = layout::row_len(row_shape, bits)?;
        let mut hit: Vec<Range<u64>> = Vec::new();
        for range in bytes.iter().filter(|range| !range.is_empty()) {
            let rows = range.start.checked_div(row_len)?..range.end.div_ceil(row_len).min(count);
            match hit.last_mut() {
                Some(last) if last.end >= rows.start => last.end = last.end.max(rows.end),
                _ => hit.push(rows),
            }
        }
        Some(RowsHit { count, hit })
    }

    /// How many rows are hit.
    pub fn hit_count(&self) -> u64 {
        self.hit.iter().fold(0, |sum, rows| sum.saturating_add(rows.end.saturating_sub(rows.start)))
    }
}

impl SalvagedTensor {
    pub(crate) fn new(name: &str, dtype: Option<DType>, shape: Option<&[u64]>, outcome: Outcome) -> SalvagedTensor {
        SalvagedTensor { name: name.to_owned(), dtype, shape: shape.map(<[u64]>::to_vec), outcome, further_rows: 0 }
    }
}

impl SalvageReport {
    /// How many damages, and how many stretches of unknown bytes, are listed at most.
    pub const MAX_DAMAGES: usize = 1000;

    /// Nothing is known of a file of that length yet.
    pub(crate) fn new(format: &'static str, file_len: u64) -> SalvageReport {
        SalvageReport {
            format,
            file_len,
            guide: Guide::Nothing,
            begins_at: None,
            original_len: None,
            unfinished: false,
            being_written: false,
            may_have_more: false,
            damages: Vec::new(),
            damage_count: 0,
            tensors: Vec::new(),
            metadata: ExtraOutcome::Absent,
            document: ExtraOutcome::Absent,
            marked_before: Vec::new(),
            unknown: Vec::new(),
            unknown_len: 0,
            impostor: None,
        }
    }

    /// Takes a damage.
    pub(crate) fn damage(&mut self, part: Part, at: Option<Range<u64>>, what: impl Into<String>) {
        self.damage_count = self.damage_count.saturating_add(1);
        if self.damages.len() < SalvageReport::MAX_DAMAGES {
            self.damages.push(Damage { part, what: what.into(), at });
        }
    }

    /// Takes a stretch of bytes that belongs to nothing known.
    pub(crate) fn unknown(&mut self, bytes: Range<u64>) {
        let len = bytes.end.saturating_sub(bytes.start);
        self.unknown_len = self.unknown_len.saturating_add(len);
        if len > 0 && self.unknown.len() < SalvageReport::MAX_DAMAGES {
            self.unknown.push(bytes);
        }
    }

    /// Takes what became of a tensor.
    pub(crate) fn tensor(&mut self, name: &str, dtype: Option<DType>, shape: Option<&[u64]>, outcome: Outcome) {
        self.tensors.push(SalvagedTensor::new(name, dtype, shape, outcome));
    }

    /// How many tensors are saved, verified or not.
    pub fn saved_count(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.outcome.is_saved()).count()
    }

    /// How many tensors are intact.
    pub fn intact_count(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.outcome == Outcome::Intact).count()
    }

    /// Whether nothing is damaged, as far as the file's checksums go: a salvage of it is a copy.
    pub fn is_undamaged(&self) -> bool {
        self.damage_count == 0 && self.is_complete()
    }

    /// Whether everything that the file held is known to be saved, and verified. Much can be damaged all the same: what is there twice.
    pub fn is_complete(&self) -> bool {
        let kept = |extra: &ExtraOutcome| matches!(extra, ExtraOutcome::Absent | ExtraOutcome::Intact);
        self.impostor.is_none()
            && !self.unfinished
            && !self.may_have_more
            && self.intact_count() == self.tensors.len()
            && kept(&self.metadata)
            && kept(&self.document)
    }

    /// Whether there is anything to save: a tensor, metadata, or a document.
    pub fn has_something(&self) -> bool {
        let kept = |extra: &ExtraOutcome| matches!(extra, ExtraOutcome::Intact | ExtraOutcome::Unverified);
        self.saved_count() > 0 || kept(&self.metadata) || kept(&self.document)
    }

    /// Says what the file is instead, if there is nothing of a checkpoint in it.
    pub(crate) fn is_something_else(&mut self, e: Error) {
        debug_assert_eq!(e.kind(), ErrorKind::NotThisFormat);
        self.impostor = Some(e);
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is compared")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_hit_by_any_of_their_bytes() {
        let hit = |shape: &[u64], bytes: &[Range<u64>]| RowsHit::of(shape, 32, bytes).map(|rows| rows.hit);
        assert_eq!(hit(&[10, 2], &[0..1, 7..9, 79..80]), Some(vec![0..2, 9..10]));
        assert_eq!(hit(&[10, 2], &[8..16, 16..24, 40..41]), Some(vec![1..3, 5..6]));
        assert_eq!(hit(&[10], &[]), Some(vec![]));
        assert_eq!((hit(&[], &[0..4]), hit(&[3, 0], &[])), (None, None));
        assert_eq!(RowsHit::of(&[3, 3], 4, &[0..1]), None, "rows that do not begin at bytes");
    }
}
