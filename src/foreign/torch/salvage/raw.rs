//! The storages of a checkpoint whose pickle is lost: of what shape and dtype their tensors were, nothing says.
//!
//! They are saved only if that is asked for: as bytes, under the names of their records.

use super::super::archive::{Record, copy_record};
use super::super::assemble::Assembled;
use super::super::rebuild::{Planned, Rebuilt, RebuiltTensor};
use super::super::zip;
use super::names::{FOLDERS, Names};
use super::records::{Found, Sum};
use crate::error::Result;
use crate::format::dtype::DType;
use crate::format::value::Value;
use crate::read::salvage::{Doubt, Loss, LossReason, Outcome, Rescue, SalvageOptions, SalvageReport};
use crate::source::ReadAt;

const WHY: &str = "the pickle that says which tensors lie in it is lost";

/// Adds what is to be saved of storages, and says of each what has become of it.
///
/// # Errors
/// If there are too many.
pub(super) fn storages(
    source: &dyn ReadAt,
    found: &[Found],
    names: &Names,
    options: &SalvageOptions,
    assembled: &mut Assembled,
    report: &mut SalvageReport,
) -> Result<()> {
    let mut rebuilt = Rebuilt { document: Value::Null, storages: Vec::new(), tensors: Vec::new() };
    for (name, named) in FOLDERS.iter().flat_map(|folder| names.beginning(folder)) {
        let Some(one) = found.get(named.number).filter(|_| !name.ends_with('/')) else { continue };
        let record = &one.record;
        let at = record.data_offset..one.data_end();
        let (reason, why) = match (one.sum, named.doubt) {
            (Sum::Right, None) => (LossReason::DescriptionDamaged, WHY.to_owned()),
            (Sum::Right, Some(why)) => (LossReason::DescriptionDamaged, why.to_owned()),
            (Sum::Absent, _) => (LossReason::Unverified, "the archive has no CRC-32 of it".to_owned()),
            (Sum::Wrong, _) => (LossReason::DataDamaged, "it is damaged: its CRC-32 differs".to_owned()),
            (Sum::Unreadable, _) => (LossReason::DataDamaged, "some of its bytes cannot be read".to_owned()),
            (Sum::Open, _) => (LossReason::DescriptionDamaged, "where it ends is not known".to_owned()),
        };
        let is_good = one.sum == Sum::Right && named.doubt.is_none();
        // What is damaged may not become as many bytes as there were, and then there is nothing to be unverified.
        let as_found = || copy_record(source, &Record { crc32: None, ..record.clone() }, &mut std::io::sink());
        let broken = if one.sum == Sum::Right { None } else { as_found().err() };
        let outcome = match (one.sum, broken) {
            (Sum::Open | Sum::Unreadable, _) => Outcome::Lost(Loss::new(reason, why).at(at)),
            (_, Some(e)) => Outcome::Lost(Loss::new(LossReason::DataDamaged, e.reason()).at(at)),
            _ if options.raw && is_good => Outcome::Intact,
            _ if options.raw && options.unverified => {
                let all = 0..record.len;
                let unverified = if all.is_empty() { Vec::new() } else { Vec::from([all; 1]) };
                Outcome::Unverified(Doubt { why, unverified, ..Doubt::default() })
            }
            _ => {
                let rescue = Rescue::new(false, !is_good, None).raw();
                Outcome::Lost(Loss::new(reason, why).at(at).rescued_by(Some(rescue)))
            }
        };
        let (dtype, shape) = (DType::U8, Vec::from([record.len; 1]));
        let is_saved = outcome.is_saved();
        report.tensor(name, Some(dtype), Some(&shape), outcome);
        if is_saved {
            let mut record = record.clone();
            record.crc32 = record.crc32.filter(|_| is_good);
            let storage = rebuilt.storages.len();
            rebuilt.storages.push(Planned::Found { found: zip::found(&record), swap: None, copy: false });
            let name = name.to_owned();
            rebuilt.tensors.push(RebuiltTensor { name, dtype, shape, strides: None, storage, start: 0 });
        }
    }
    assembled.add(rebuilt, false, None)
}
