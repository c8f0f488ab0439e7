//! Checkpoints from before version 1.6 that were cut off. They have no checksums: whatever is left of one is unverified.

use super::super::assemble::Assembled;
use super::super::legacy::Legacy;
use super::super::rebuild::Found;
use super::tensors::{self, Judge, Judged, Meant};
use crate::error::{Error, ErrorKind, Result};
use crate::read::GuestIndex;
use crate::read::salvage::{ExtraOutcome, Finding, Guide, Loss, LossReason, Part, SalvageOptions, SalvageReport};
use crate::source::ReadAt;

const WHY: &str = "PyTorch's files from before version 1.6 have no checksums";

/// What is left of such a file.
///
/// # Errors
/// As [`find`](super::find).
pub(super) fn find(source: &dyn ReadAt, file_len: u64, options: &SalvageOptions) -> Result<Finding> {
    let mut report = SalvageReport::new("torch", file_len);
    report.guide = Guide::Records;
    report.begins_at = Some(0);
    let legacy = match Legacy::read(source, &options.limits) {
        Ok(legacy) => legacy,
        Err(e) => return broken(e, report),
    };
    if let Some(e) = &legacy.broken {
        report.damage(Part::File, e.offset().map(|at| at..file_len), e.reason());
    }
    if legacy.left > 0 {
        report.unknown(legacy.end..file_len);
        if legacy.broken.is_none() {
            let what = "the file goes on after its last storage";
            report.damage(Part::File, Some(legacy.end..file_len), what);
        }
    }
    let judge = |key: &str, len: u64| match legacy.storages.get(key) {
        None => Judged::Lost(Loss::new(LossReason::CutOff, "its storage is not there any more: the file is cut off")),
        Some(&(_, found)) if found != len => {
            Judged::Lost(Loss::new(LossReason::DescriptionDamaged, "its storage is spoken of as of two lengths"))
        }
        Some(&(offset, len)) if offset.checked_add(len).is_some_and(|end| end <= file_len) => Judged::Doubtful {
            found: Found::InFile { offset, len, crc32: None },
            reason: LossReason::Unverified,
            why: WHY.to_owned(),
        },
        Some(&(offset, _)) => {
            Judged::Cut { offset, have: file_len.saturating_sub(offset), why: "its storage is cut off".to_owned() }
        }
    };
    let judge = Judge::new(judge, false, source);
    let rebuilt = match legacy.rebuild(&judge) {
        Ok(rebuilt) => rebuilt,
        Err(e) => return broken(e, report),
    };
    let meant = Meant { rebuilt, said: judge.said(), prefix: None, inflated: None, doubt: Some(WHY.to_owned()) };
    let mut assembled = Assembled::salvaged("legacy");
    tensors::settle(meant, &mut assembled, &mut report, options)?;
    let mut guest = assembled.finish(&options.limits)?;
    report.document = if options.unverified { ExtraOutcome::Unverified } else { ExtraOutcome::not_vouched_for(WHY) };
    if !options.unverified {
        drop(guest.take_document());
    }
    Ok(Finding { guest, report, layout: None })
}

/// What is left of a file whose pickle means nothing.
fn broken(e: Error, mut report: SalvageReport) -> Result<Finding> {
    if matches!(e.kind(), ErrorKind::Io | ErrorKind::Limit | ErrorKind::UnsupportedVersion) {
        return Err(e);
    }
    report.damage(Part::Pickle, None, e.reason());
    report.document = ExtraOutcome::broken(e.reason());
    report.may_have_more = true;
    Ok(Finding { guest: GuestIndex::new("torch", "legacy"), report, layout: None })
}
