//! What becomes of tensors, when it is known what has become of their storages.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::super::assemble::Assembled;
use super::super::rebuild::{Container, Found, Planned, Rebuilt, RebuiltTensor};
use crate::error::{Error, Result};
use crate::format::layout;
use crate::read::salvage::{Doubt, Fill, Loss, LossReason, Outcome, Rescue, RowsHit, SalvageOptions, SalvageReport};
use crate::source::ReadAt;

/// What has become of a storage.
#[derive(Clone, Debug)]
pub(super) enum Judged {
    /// Its CRC-32 agrees.
    Good(Found),
    /// Its bytes are there, and nothing vouches for them.
    Doubtful { found: Found, reason: LossReason, why: String },
    /// The file ends within it: so many of its bytes are left, and nothing vouches for them.
    Cut { offset: u64, have: u64, why: String },
    /// There is nothing of it.
    Lost(Loss),
}

/// Says of each storage what has become of it; and keeps what it said.
pub(super) struct Judge<'a, F> {
    pub(super) judge: F,
    pub(super) big_endian: bool,
    pub(super) pickle: &'a dyn ReadAt,
    said: RefCell<Vec<Judged>>,
}

impl<'a, F: Fn(&str, u64) -> Judged> Judge<'a, F> {
    pub(super) fn new(judge: F, big_endian: bool, pickle: &'a dyn ReadAt) -> Judge<'a, F> {
        Judge { judge, big_endian, pickle, said: RefCell::default() }
    }

    /// What was said, in the order of the storages of what was rebuilt meanwhile.
    pub(super) fn said(self) -> Vec<Judged> {
        self.said.into_inner()
    }
}

impl<F: Fn(&str, u64) -> Judged> Container for Judge<'_, F> {
    fn find(&self, key: &str, byte_len: u64) -> Result<Option<Found>> {
        let judged = (self.judge)(key, byte_len);
        let found = match &judged {
            Judged::Good(found) => found.clone(),
            _ => Found::Lost { len: byte_len },
        };
        self.said.borrow_mut().push(judged);
        Ok(Some(found))
    }

    fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    fn pickle(&self) -> &dyn ReadAt {
        self.pickle
    }
}

/// What a pickle means, and what has become of it.
pub(super) struct Meant<'p> {
    pub(super) rebuilt: Rebuilt,
    /// Of each storage that the pickle does not hold itself.
    pub(super) said: Vec<Judged>,
    /// What stands in front of the names of its tensors, if it is not the main one.
    pub(super) prefix: Option<&'p str>,
    pub(super) inflated: Option<Arc<Vec<u8>>>,
    /// Why nothing of the pickle can be relied on, if so.
    pub(super) doubt: Option<String>,
}

/// The bytes of a tensor from its first element on, and whether its rows lie one after the other.
fn extent(tensor: &RebuiltTensor) -> (u64, bool) {
    let strides = tensor.strides.as_deref();
    let len = layout::extent(&tensor.shape, strides, tensor.dtype.bits()).unwrap_or(0);
    (len, strides.is_none_or(|strides| layout::strides_are_contiguous(&tensor.shape, strides)))
}

fn rows(tensor: &RebuiltTensor, bytes: &[Range<u64>]) -> Option<RowsHit> {
    let (_, is_contiguous) = extent(tensor);
    if is_contiguous { RowsHit::of(&tensor.shape, tensor.dtype.bits(), bytes) } else { None }
}

/// As a tensor whose bytes are there, and nothing vouches for them.
fn doubtful(tensor: &RebuiltTensor, unverified: bool, loss: Loss) -> Outcome {
    let (len, _) = extent(tensor);
    if unverified {
        let bytes: Vec<Range<u64>> = if len > 0 { Vec::from([0..len; 1]) } else { Vec::new() };
        let rows = rows(tensor, &bytes);
        return Outcome::Unverified(Doubt { why: loss.why, replaced: Vec::new(), unverified: bytes, rows });
    }
    Outcome::Lost(loss.rescued_by(Some(Rescue::new(false, true, None))))
}

/// As a tensor of which only the first `have` bytes are left.
fn cut(tensor: &RebuiltTensor, have: u64, options: &SalvageOptions, loss: Loss) -> Outcome {
    let (len, _) = extent(tensor);
    if options.partial.is_some() && options.unverified {
        let (unverified, replaced) = (ranges(0, have), ranges(have, len));
        let all: Vec<Range<u64>> = ranges(0, len);
        let rows = rows(tensor, &all);
        return Outcome::Partial(Doubt { why: loss.why, replaced, unverified, rows });
    }
    let lost = rows(tensor, &ranges(have, len));
    let rescued = lost.map(|rows| (rows.count.saturating_sub(rows.hit_count()), rows.count));
    if have == 0 || rescued.is_some_and(|(left, _)| left == 0) {
        return Outcome::Lost(loss);
    }
    Outcome::Lost(loss.rescued_by(Some(Rescue::new(true, true, rescued))))
}

fn ranges(start: u64, end: u64) -> Vec<Range<u64>> {
    if start < end { std::iter::once(start..end).collect() } else { Vec::new() }
}

/// Adds to an index what is to be saved of a pickle's tensors, and to a report what has become of each.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a tensor to be filled has a dtype without such an element.
pub(super) fn settle(
    meant: Meant<'_>,
    assembled: &mut Assembled,
    report: &mut SalvageReport,
    options: &SalvageOptions,
) -> Result<()> {
    let Meant { mut rebuilt, said, prefix, inflated, doubt } = meant;
    if let Some(prefix) = prefix {
        assembled.prefix(&mut rebuilt, prefix);
    }
    let mut said = said.into_iter();
    // Of each storage; `None` if the pickle holds it.
    let judged: Vec<Option<Judged>> = rebuilt
        .storages
        .iter()
        .map(|planned| if matches!(planned, Planned::Found { .. }) { said.next() } else { None })
        .collect();
    let mut kept = Vec::with_capacity(rebuilt.tensors.len());
    // Of storages that are filled, the first tensor: the pattern is of its dtype, and begins where it does.
    let mut filled: Vec<Option<(Vec<u8>, u64)>> = judged.iter().map(|_| None).collect();
    for tensor in std::mem::take(&mut rebuilt.tensors) {
        let judged = judged.get(tensor.storage).and_then(Option::as_ref);
        let outcome = match rebuilt.storages.get(tensor.storage) {
            Some(planned) if is_cut_in_a_number(planned) => {
                let why = "its storage holds no whole number of numbers, and their bytes are in another order";
                Outcome::Lost(Loss::new(LossReason::DescriptionDamaged, why))
            }
            _ => outcome(&tensor, judged, doubt.as_deref(), options),
        };
        if let (Outcome::Partial(_), Some(fill)) = (&outcome, options.partial) {
            let pattern = pattern(fill, &tensor)?;
            if let Some(filled) = filled.get_mut(tensor.storage).filter(|filled| filled.is_none()) {
                *filled = Some((pattern, tensor.start));
            }
        }
        let is_saved = outcome.is_saved();
        report.tensor(&tensor.name, Some(tensor.dtype), Some(&tensor.shape), outcome);
        if is_saved {
            kept.push(tensor);
        }
    }
    rebuilt.tensors = kept;
    for ((planned, judged), filled) in rebuilt.storages.iter_mut().zip(judged).zip(filled) {
        let Planned::Found { found, swap, .. } = planned else { continue };
        match judged {
            Some(Judged::Doubtful { found: there, .. }) if options.unverified => *found = unchecked(there),
            Some(Judged::Good(there)) if doubt.is_some() && options.unverified => *found = unchecked(there),
            Some(Judged::Cut { offset, have, .. }) if options.unverified => match filled {
                Some((pattern, phase)) => {
                    let (len, swap) = (found.len(), *swap);
                    *planned = Planned::Filled { offset, have: whole(have), len, swap, pattern, phase };
                }
                None => *found = Found::InFile { offset, len: whole(have), crc32: None },
            },
            _ => {}
        }
    }
    // Where nothing is left of a storage, a tensor without elements needs one nevertheless.
    for tensor in &mut rebuilt.tensors {
        if let Some(planned) = rebuilt.storages.get_mut(tensor.storage)
            && let Planned::Found { found: Found::Lost { .. }, .. } = planned
        {
            *planned = Planned::Held(Vec::new());
        }
        if extent(tensor).0 == 0 {
            tensor.start = 0;
        }
    }
    assembled.add(rebuilt, prefix.is_none(), inflated)
}

/// Whether bytes that must be put in another order, number by number, end within a number: no reader can use them.
fn is_cut_in_a_number(planned: &Planned) -> bool {
    match planned {
        Planned::Found { found, swap: Some(size), .. } => {
            found.len().checked_rem((*size).into()).is_some_and(|rest| rest != 0)
        }
        _ => false,
    }
}

/// So many bytes that no number is cut in two.
fn whole(have: u64) -> u64 {
    have.saturating_sub(have.checked_rem(16).unwrap_or(0))
}

/// The same bytes, without their CRC.
fn unchecked(found: Found) -> Found {
    match found {
        Found::InFile { offset, len, .. } => Found::InFile { offset, len, crc32: None },
        Found::Record(mut record) => {
            record.crc32 = None;
            Found::Record(record)
        }
        lost => lost,
    }
}

fn pattern(fill: Fill, tensor: &RebuiltTensor) -> Result<Vec<u8>> {
    fill.pattern(tensor.dtype).ok_or_else(|| {
        let message = format!("it is of {}, which has no {} to fill it with", tensor.dtype, fill.name());
        Error::invalid(message).with_tensor(&tensor.name)
    })
}

fn outcome(
    tensor: &RebuiltTensor,
    judged: Option<&Judged>,
    pickle_doubt: Option<&str>,
    options: &SalvageOptions,
) -> Outcome {
    let (len, _) = extent(tensor);
    let unsure = |reason, why: &str, at: Option<Range<u64>>| {
        let loss = Loss::new(reason, why);
        doubtful(tensor, options.unverified, at.map_or(loss.clone(), |at| loss.at(at)))
    };
    match judged {
        Some(Judged::Lost(loss)) if len > 0 => Outcome::Lost(loss.clone()),
        Some(Judged::Cut { have, why, offset }) if len > 0 => {
            let have = whole(*have);
            let at = *offset..offset.saturating_add(have);
            let loss = Loss::new(LossReason::CutOff, why.as_str()).at(at.clone());
            match tensor.start.checked_add(len) {
                Some(end) if end <= have => doubtful(tensor, options.unverified, loss),
                _ => cut(tensor, have.saturating_sub(tensor.start), options, loss),
            }
        }
        Some(Judged::Doubtful { found, reason, why }) if len > 0 => {
            let at = match found {
                Found::InFile { offset, len, .. } => Some(*offset..offset.saturating_add(*len)),
                Found::Record(record) => Some(record.data_offset..record.data_offset.saturating_add(record.stored_len)),
                Found::Lost { .. } => None,
            };
            unsure(*reason, why, at)
        }
        _ => match pickle_doubt {
            Some(why) => unsure(LossReason::Unverified, why, None),
            None if matches!(judged, Some(Judged::Good(_)) | None) => Outcome::Intact,
            // It has no bytes that could be lost.
            None => Outcome::Intact,
        },
    }
}
