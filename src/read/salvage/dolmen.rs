//! The finder for Dolmen files (`spec/format.md` section 16).
//!
//! Where the file lies and what its header said ([`frame`](super::frame)); what it held, by its index or, without that, by its records
//! ([`content`](super::content)); which bytes are good ([`stored`](super::stored)); and from that, what becomes of each tensor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::bytes::Damaged;
use super::content::{self, Content};
use super::fill::Fill;
use super::frame::Frame;
use super::report::{Doubt, Loss, LossReason, Outcome, Part, Rescue, RowsHit, SalvageReport};
use super::stored::{Filling, Patched, Stored, check_all, overlaps, within};
use super::{Finding, SalvageOptions};
use crate::error::{Error, Result};
use crate::format::catalog::Tensor;
use crate::format::dtype::DType;
use crate::format::layout;
use crate::format::{len_u64, len_usize};
use crate::read::guest::{Checked, GuestIndex};
use crate::source::ReadAt;

/// Finds what is good in a damaged Dolmen file; `None` if nothing of such a file is there.
///
/// **Cost**: reads the file once, and what lies between damaged records once more; memory for the index, or for what the records say, and a
/// few MiB.
///
/// # Errors
/// As [`SalvageOptions::salvage`].
pub(crate) fn find(source: &dyn ReadAt, options: &SalvageOptions) -> Result<Option<Finding>> {
    let file = Damaged::new(source)?;
    options.limits.check("file length", file.len(), options.limits.max_file_len)?;
    let looked_at = |bytes| options.progress.iter().for_each(|progress| progress(bytes));
    let mut report = SalvageReport::new("dolmen", file.len());
    let Some(frame) = Frame::find(&file, &mut report, &looked_at)? else { return Ok(None) };
    let mut content = content::find(&file, &frame, &options.limits, options.unverified, &mut report)?;
    check_all(&file, frame.base, &mut content.storages, options.threads, &looked_at)?;
    content.drop_mere_views(&mut report);
    for stored in content.storages.iter().filter(|stored| !stored.only_viewed) {
        for bad in stored.bad.iter().chain(stored.unverified.iter().filter(|_| content.unfinished.is_none())) {
            let own = stored.own.start.saturating_add(bad.start)..stored.own.start.saturating_add(bad.end);
            let places = frame.base.places(&own, file.len());
            let what = if places.is_empty() { "bytes are missing" } else { "its checksum is wrong" };
            report.damage(Part::Data, Some(places), what);
        }
    }
    content.end_unfinished(options, &mut report);
    let mut guest = GuestIndex::new("dolmen", format!("{}.0", crate::format::header::MAJOR));
    assemble(&content, &frame, options, &mut guest, &mut report)?;
    for (key, value) in std::mem::take(&mut content.metadata) {
        guest.metadata(key, value);
    }
    if let Some(document) = content.document.take() {
        guest.document(document);
    }
    for (kind, bytes) in std::mem::take(&mut content.sections) {
        guest.section(kind, bytes)?;
    }
    report.damages.sort_by_key(|damage| damage.at.as_ref().map_or(0, |at| at.start));
    report.unknown.sort_by_key(|bytes| bytes.start);
    let layout = frame.alignment_log2.zip(frame.block_log2);
    Ok(Some(Finding { guest, report, layout }))
}

impl Content {
    /// Gives the tensor that its writer was in the middle of the rows that are taken: those that its last note vouches for, and the others if
    /// that was asked for.
    fn end_unfinished(&mut self, options: &SalvageOptions, report: &mut SalvageReport) {
        let Some((name, row_len)) = self.unfinished.clone() else { return };
        let Some(tensor) = self.tensors.get_mut(&name) else { return };
        let Some(stored) = len_usize(tensor.storage.into()).and_then(|number| self.storages.get_mut(number)) else {
            return;
        };
        let all = stored.byte_len();
        let vouched = stored.unverified.first().map_or(all, |range| range.start);
        let rows_of = |bytes: u64| bytes.checked_div(row_len).unwrap_or(0);
        let (rows, vouched_rows) = (rows_of(all), rows_of(vouched));
        let further = rows.saturating_sub(vouched_rows);
        let what = format!(
            "its writer was in the middle of tensor {}: of {rows} rows, {vouched_rows} are vouched for",
            crate::error::quoted(&name)
        );
        report.damage(Part::Record, None, what);
        if options.unverified || further == 0 {
            return;
        }
        stored.cut(vouched_rows.saturating_mul(row_len));
        if let Some(first) = tensor.shape.first_mut() {
            *first = vouched_rows;
        }
        self.further_rows = further;
    }
}

/// Says of each tensor what becomes of it, and adds those that are saved.
fn assemble(
    content: &Content,
    frame: &Frame,
    options: &SalvageOptions,
    guest: &mut GuestIndex,
    report: &mut SalvageReport,
) -> Result<()> {
    let mut saved: BTreeMap<u32, Vec<(&str, &Tensor, bool)>> = BTreeMap::new();
    // As many ranges as storages that share nothing could have, and a generous number for those that do: a report must not grow with the
    // product of views and damaged blocks.
    const SHARED: usize = 100_000;
    let mut room = content.storages.iter().fold(SHARED, |sum, s| sum.saturating_add(s.bad.len()));
    for (name, tensor) in &content.tensors {
        let Some(stored) = len_usize(tensor.storage.into()).and_then(|number| content.storages.get(number)) else {
            continue;
        };
        let outcome = outcome(tensor, stored, frame, report.file_len, options, &mut room);
        if outcome.is_saved() {
            let partial = matches!(outcome, Outcome::Partial(_));
            saved.entry(tensor.storage).or_default().push((name, tensor, partial));
        }
        let further = content.unfinished.as_ref().is_some_and(|(open, _)| open == name);
        report.tensor(name, Some(tensor.dtype), Some(&tensor.shape), outcome);
        if let Some(last) = report.tensors.last_mut().filter(|_| further) {
            last.further_rows = content.further_rows;
        }
    }
    for (number, tensors) in saved {
        let Some(stored) = len_usize(number.into()).and_then(|number| content.storages.get(number)) else { continue };
        let storage = add_storage(stored, frame, options, &tensors, guest)?;
        for (name, tensor, _) in tensors {
            let Tensor { dtype, shape, strides, start, .. } = tensor;
            guest.tensor(name, *dtype, shape.clone(), strides.clone(), storage, *start)?;
        }
    }
    Ok(())
}

/// The bytes of its storage that a tensor reaches over.
fn range_of(tensor: &Tensor) -> Range<u64> {
    let extent = layout::extent(&tensor.shape, tensor.strides.as_deref(), tensor.dtype.bits()).unwrap_or(0);
    tensor.start..tensor.start.saturating_add(extent)
}

/// What becomes of a tensor.
fn outcome(
    tensor: &Tensor,
    stored: &Stored,
    frame: &Frame,
    file_len: u64,
    options: &SalvageOptions,
    room: &mut usize,
) -> Outcome {
    let range = range_of(tensor);
    let mut replaced = within(&stored.bad, &range);
    let mut unverified = within(&stored.unverified, &range);
    if replaced.is_empty() && unverified.is_empty() {
        return Outcome::Intact;
    }
    let extent = range.end.saturating_sub(range.start);
    // Who fills must not be made to fill a disk by a number in a small file.
    const ALWAYS_ALLOWED: u64 = 256 << 20;
    let most = file_len.saturating_mul(16).max(ALWAYS_ALLOWED);
    if !replaced.is_empty() && extent > most {
        let why = format!("it would take {extent} bytes, far more than the file has");
        return Outcome::Lost(Loss::new(LossReason::Limit, why));
    }
    let is_all_bad = replaced.first() == Some(&(0..extent));
    let reason = match (stored.cut_off, replaced.is_empty()) {
        (_, true) => LossReason::Unverified,
        (true, false) => LossReason::CutOff,
        (false, false) => LossReason::DataDamaged,
    };
    let why = match reason {
        LossReason::Unverified => "its checksum is wrong, and which of its bytes are damaged is not known".to_owned(),
        _ => {
            let bytes = replaced.iter().fold(0u64, |sum, bad| sum.saturating_add(bad.end.saturating_sub(bad.start)));
            let what = if stored.cut_off { "are damaged, or not in the file" } else { "lie in damaged blocks" };
            format!("{bytes} of its {extent} bytes {what}")
        }
    };
    let needs = (!replaced.is_empty(), !unverified.is_empty());
    let granted = (!needs.0 || options.partial.is_some()) && (!needs.1 || options.unverified);
    if !granted || is_all_bad {
        let first = replaced.first().or(unverified.first()).cloned().unwrap_or_default();
        let from = stored.own.start.saturating_add(range.start);
        let own = from.saturating_add(first.start)..from.saturating_add(first.end);
        let loss = Loss::new(reason, why).at(frame.base.places(&own, u64::MAX));
        if is_all_bad {
            return Outcome::Lost(loss);
        }
        // Of rows, those that would be as they were found: only the replaced ones would not.
        let whole =
            if tensor.strides.is_some() { None } else { RowsHit::of(&tensor.shape, tensor.dtype.bits(), &replaced) };
        let rows = whole.map(|rows| (rows.count.saturating_sub(rows.hit_count()), rows.count));
        return Outcome::Lost(loss.rescued_by(Some(Rescue::new(needs.0, needs.1, rows))));
    }
    let listed = replaced.len().saturating_add(unverified.len());
    if listed > *room {
        // More is put in doubt than need be, and never less.
        for ranges in [&mut replaced, &mut unverified] {
            if let (Some(first), Some(last)) = (ranges.first().cloned(), ranges.last().cloned()) {
                *ranges = Vec::from([Range { start: first.start, end: last.end }]);
            }
        }
    }
    *room = room.saturating_sub(listed);
    let mut hit = [replaced.clone(), unverified.clone()].concat();
    super::marks::merge(&mut hit);
    let rows = if tensor.strides.is_some() { None } else { RowsHit::of(&tensor.shape, tensor.dtype.bits(), &hit) };
    let is_partial = !replaced.is_empty();
    let doubt = Doubt { why, replaced, unverified, rows };
    if is_partial { Outcome::Partial(doubt) } else { Outcome::Unverified(doubt) }
}

/// Adds a storage of which some tensors are saved; of each, whether it is to be filled.
fn add_storage(
    stored: &Stored,
    frame: &Frame,
    options: &SalvageOptions,
    tensors: &[(&str, &Tensor, bool)],
    guest: &mut GuestIndex,
) -> Result<u32> {
    if stored.byte_len() == 0 {
        // It lies nowhere: where it would, the file may have ended.
        return guest.storage(0, 0, Some(0));
    }
    let place = frame.base.place(stored.own.start);
    if stored.is_intact()
        && let Some(place) = place
        && let Some(crc) = stored.whole_crc32()
    {
        return guest.storage(place, stored.byte_len(), Some(crc));
    }
    let mut fill: Option<(Filling, &str)> = None;
    for (name, tensor, _) in tensors.iter().filter(|(_, _, partial)| *partial) {
        let with = options.partial.unwrap_or(Fill::Zeros);
        let wanted = filling(name, tensor, with, stored)?;
        match &mut fill {
            None => fill = Some((wanted, name)),
            Some((known, first)) => {
                if !known.agrees(&wanted) {
                    let message = format!(
                        "it shares damaged bytes with {}, and they cannot be {} in both",
                        crate::error::quoted(first),
                        with.name()
                    );
                    return Err(Error::invalid(message).with_tensor(name).with_advice("fill with zeros"));
                }
                known.unused.extend(wanted.unused);
            }
        }
    }
    // Nothing that is in doubt is in a tensor that is saved: what makes the storage checks all that is.
    let is_doubted = tensors.iter().any(|(_, tensor, _)| {
        let range = range_of(tensor);
        stored.bad.iter().chain(&stored.unverified).any(|doubted| overlaps(doubted, &range))
    });
    let checked = if is_doubted { Checked::Never } else { Checked::WhenMade };
    let fill = fill.map_or_else(Filling::zeros, |(fill, _)| fill);
    let mut stored = stored.clone();
    stored.end_behind(tensors.iter().map(|(_, tensor, _)| range_of(tensor).end).max().unwrap_or(0));
    let byte_len = stored.byte_len();
    let patched = Arc::new(Patched::new(stored, frame.base, fill));
    let number = guest.made_storage(byte_len, checked, move |source, out| patched.write(source, out))?;
    guest.storage_form(number, "salvaged");
    Ok(number)
}

/// What replaces the bad bytes of a tensor.
fn filling(name: &str, tensor: &Tensor, fill: Fill, stored: &Stored) -> Result<Filling> {
    let none = |what: String| Error::invalid(what).with_tensor(name).with_advice("fill with zeros");
    let pattern = fill.pattern(tensor.dtype);
    let pattern = pattern.ok_or_else(|| none(format!("its dtype {} has no {}", tensor.dtype, fill.name())))?;
    if let (DType::Bool, Fill::Byte(byte @ 2..)) = (tensor.dtype, fill) {
        return Err(none(format!("it is of dtype bool, and {byte:#04x} is neither 0 nor 1")));
    }
    let range = range_of(tensor);
    let bits = layout::element_count(&tensor.shape, tensor.dtype.bits())
        .and_then(|count| count.checked_mul(tensor.dtype.bits().into()))
        .unwrap_or(0);
    let mut unused = Vec::new();
    if tensor.dtype.is_packed()
        && let used @ 1.. = bits.rem_euclid(8)
        && let Some(last) = range.end.checked_sub(1)
        && stored.bad.iter().any(|bad| bad.contains(&last))
    {
        unused.push((last, u8::MAX.checked_shl(u32::try_from(used).unwrap_or(0)).unwrap_or(0)));
    }
    let phase = if pattern.len() == 1 { 0 } else { range.start.rem_euclid(len_u64(pattern.len())) };
    Ok(Filling { pattern, phase, unused })
}
