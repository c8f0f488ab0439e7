//! Whether a damaged archive's numbers are little-endian: its record of that is one of two words, which can be told though it is damaged.

use std::ops::Range;

use super::names::Names;
use super::records::{Found, Records, Sum};
use crate::error::{Error, Result};
use crate::format::len_usize;
use crate::source::ReadAt;

/// In which order the bytes of a number come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
    /// The record is lost.
    Unknown,
}

/// The words, each with what follows it in the file.
const LITTLE: &[u8] = b"littlePK\x07\x08\x85\x3d\xe3\x19\x06\0\0\0\x06\0\0\0";
const BIG: &[u8] = b"bigPK\x07\x08\x49\xe2\xfb\xd3\x03\0\0\0\x03\0\0\0";
/// So many bytes of them must be left: by chance they never are.
const ENOUGH: usize = 13;
/// PyTorch's data begins at multiples of this.
const ALIGNMENT: usize = 64;
/// As much of what lies between records is looked at.
const MAX_LOOK: u64 = 256 << 10;

/// The byte order of an archive.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io).
pub(super) fn of(source: &dyn ReadAt, records: &Records, names: &Names) -> Result<ByteOrder> {
    if let Some(found) = names.get("byteorder").and_then(|named| records.found.get(named.number)) {
        if found.sum == Sum::Right
            && let Ok(word) = super::super::archive::read_record(source, &found.record, 64)
        {
            match word.trim_ascii() {
                b"little" => return Ok(ByteOrder::Little),
                b"big" => return Ok(ByteOrder::Big),
                _ => {}
            }
        }
        match found.record.len {
            6 => return Ok(ByteOrder::Little),
            3 => return Ok(ByteOrder::Big),
            _ => {}
        }
        // Where it ends is not known; where it begins is.
        let mut word = [0; 6];
        if source.read_exact_at(&mut word, found.record.data_offset).is_ok() {
            if word.iter().zip(b"little").filter(|(a, b)| a == b).count() >= 5 {
                return Ok(ByteOrder::Little);
            }
            if word.starts_with(b"big") {
                return Ok(ByteOrder::Big);
            }
        }
    }
    let mut may_look = MAX_LOOK;
    for gap in unnamed(&records.found, names) {
        let len = gap.end.saturating_sub(gap.start).min(may_look);
        may_look = may_look.saturating_sub(len);
        let mut bytes = vec![0; len_usize(len).unwrap_or_default()];
        source.read_exact_at(&mut bytes, gap.start).map_err(|e| Error::io("cannot read", e))?;
        let base = u64::try_from(records.base).unwrap_or(0);
        let step = u64::try_from(ALIGNMENT).unwrap_or(1);
        let into = gap.start.saturating_sub(base).checked_next_multiple_of(step).unwrap_or(0);
        let first = len_usize(into.saturating_sub(gap.start.saturating_sub(base))).unwrap_or_default();
        for at in (first..bytes.len()).step_by(ALIGNMENT) {
            let here = bytes.get(at..).unwrap_or_default();
            let alike = |word: &[u8]| here.iter().zip(word).filter(|(a, b)| a == b).count();
            let (little, big) = (alike(LITTLE), alike(BIG));
            if little.max(big) >= ENOUGH {
                return Ok(if little > big { ByteOrder::Little } else { ByteOrder::Big });
            }
        }
    }
    // A record that is lost lay in front of the first storage: unless the pickle comes last, as in programs. Of those the end may be lost.
    let is_torn = names.get("byteorder").is_some()
        || gaps(&records.found).any(|gap| is_in_front(records, names, &gap))
        || (is_program(records, names) && !records.has_directory);
    Ok(if is_torn { ByteOrder::Unknown } else { ByteOrder::Little })
}

/// What lies between records that are whole and have the names of PyTorch's.
fn unnamed(found: &[Found], names: &Names) -> Vec<Range<u64>> {
    let is_whole = |one: &&Found| {
        let mut own = [&one.local_name, &one.entry_name].into_iter().flatten();
        one.sum == Sum::Right && own.any(|name| names.is_usual(name))
    };
    let whole: Vec<&Found> = found.iter().filter(is_whole).collect();
    let between = whole.windows(2).filter_map(|two| match two {
        [before, next] => Some(before.data_end()..next.at),
        _ => None,
    });
    between.filter(|gap| gap.start < gap.end).collect()
}

/// What lies between records and is none.
fn gaps(found: &[Found]) -> impl Iterator<Item = Range<u64>> {
    found.windows(2).filter_map(|two| match two {
        [before, next] if !before.adjoins(next) => Some(before.data_end()..next.at).filter(|gap| !gap.is_empty()),
        _ => None,
    })
}

fn first_storage(records: &Records, names: &Names) -> u64 {
    let storages = names.beginning("data/").filter_map(|(_, named)| records.found.get(named.number));
    storages.map(|found| found.at).min().unwrap_or(u64::MAX)
}

/// Whether storages lie in front of the pickle, as in programs of TorchScript.
fn is_program(records: &Records, names: &Names) -> bool {
    let pickle = names.get("data.pkl").and_then(|named| records.found.get(named.number));
    pickle.is_some_and(|pickle| pickle.at > first_storage(records, names))
}

fn is_in_front(records: &Records, names: &Names, gap: &Range<u64>) -> bool {
    is_program(records, names) || gap.start < first_storage(records, names)
}
