//! From what a pickle means to the index of a guest.

use std::collections::HashSet;
use std::sync::Arc;

use super::made::{self, Form};
use super::rebuild::{Found, Planned, Rebuilt, RebuiltTensor};
use super::records;
use super::zip;
use crate::error::Result;
use crate::format::limits::Limits;
use crate::read::{Checked, GuestIndex};

/// A guest's index in the making: of one pickle, or several.
pub(super) struct Assembled {
    index: GuestIndex,
    names: HashSet<String>,
    /// Where the data of records begins that are storages; `None` if the file is no archive, or is too damaged to be verified as one.
    records: Option<HashSet<u64>>,
}

impl Assembled {
    pub(super) fn new(format: &'static str, version: &str) -> Assembled {
        let records = version.starts_with("zip").then(HashSet::new);
        Assembled { index: GuestIndex::new(format, version), names: HashSet::new(), records }
    }

    /// Of a file that is being salvaged.
    pub(super) fn salvaged(version: &str) -> Assembled {
        Assembled { records: None, ..Assembled::new("torch", version) }
    }

    /// Adds all of a pickle; without its document, only tensors and storages. `inflated` is the pickle, if it is not in the file as it is.
    pub(super) fn add(&mut self, rebuilt: Rebuilt, with_document: bool, inflated: Option<Arc<Vec<u8>>>) -> Result<()> {
        let mut numbers = Vec::with_capacity(rebuilt.storages.len());
        for planned in rebuilt.storages {
            if let Planned::Found { found: Found::Lost { .. }, .. } = planned {
                numbers.push(None);
                continue;
            }
            let form = form(&planned);
            let number = self.storage(planned, inflated.as_ref())?;
            form.into_iter().for_each(|form| self.index.storage_form(number, form));
            numbers.push(Some(number));
        }
        for RebuiltTensor { name, dtype, shape, strides, storage, start } in rebuilt.tensors {
            let Some(&Some(storage)) = numbers.get(storage) else {
                return Err(super::wrong("its storage is lost").with_tensor(&name));
            };
            self.index.tensor(&name, dtype, shape, strides, storage, start)?;
            self.names.insert(name);
        }
        if with_document {
            self.index.document(rebuilt.document);
        }
        Ok(())
    }

    /// Puts something in front of the names of a pickle's tensors, so that none is that of another pickle's.
    pub(super) fn prefix(&mut self, rebuilt: &mut Rebuilt, prefix: &str) {
        for tensor in &mut rebuilt.tensors {
            tensor.name = self.unused(&format!("{prefix}.{}", tensor.name));
            self.names.insert(tensor.name.clone());
        }
    }

    fn unused(&self, name: &str) -> String {
        let mut unused = name.to_owned();
        while self.names.contains(&unused) {
            unused.push('\'');
        }
        unused
    }

    fn storage(&mut self, planned: Planned, inflated: Option<&Arc<Vec<u8>>>) -> Result<u32> {
        let index = &mut self.index;
        if let (Some(records), Planned::Found { found, .. }) = (&mut self.records, &planned) {
            match found {
                Found::InFile { offset, .. } => drop(records.insert(*offset)),
                Found::Record(record) => drop(records.insert(record.data_offset)),
                Found::Lost { .. } => {}
            }
        }
        match planned {
            Planned::Found { found: Found::InFile { offset, len, crc32 }, swap: None, copy: false } => {
                index.storage(offset, len, crc32)
            }
            Planned::Found { found: Found::InFile { offset, len, crc32 }, swap, copy: _ } => {
                let form = Form { latin1: false, swap };
                index.made_storage(len, checked(crc32, swap), move |source, out| {
                    made::transfer(source, (offset, len), crc32, form, out)
                })
            }
            Planned::Found { found: Found::Record(record), swap, copy: _ } => {
                let form = Form { latin1: false, swap };
                index.made_storage(record.len, checked(record.crc32, swap), move |source, out| {
                    zip::transfer(source, &record, form, out)
                })
            }
            Planned::Found { found: Found::Lost { .. }, .. } => Err(super::wrong("a storage is lost")),
            Planned::Filled { offset, have, len, swap, pattern, phase } => {
                let form = Form { latin1: false, swap };
                index.made_storage(len, Checked::Never, move |source, out| {
                    made::transfer(source, (offset, have), None, form, out)?;
                    made::fill(&pattern, have.saturating_sub(phase), len.saturating_sub(have), out)
                })
            }
            Planned::Held(bytes) => index.held_storage(&bytes),
            Planned::Payload { payload, form, len, crc32 } => {
                let range = (payload.offset, payload.len);
                match inflated.map(Arc::clone) {
                    None => index.made_storage(len, Checked::Crc32(crc32), move |source, out| {
                        made::transfer(source, range, None, form, out)
                    }),
                    Some(held) => index.made_storage(len, Checked::Crc32(crc32), move |_, out| {
                        made::transfer(&*held, range, None, form, out)
                    }),
                }
            }
        }
    }

    pub(super) fn finish(mut self, limits: &Limits) -> Result<GuestIndex> {
        limits.check("the number of tensors,", crate::format::len_u64(self.names.len()), limits.max_tensors)?;
        if let Some(storages) = self.records {
            self.index.check_parts(move |source, parts| records::check(source, &storages, parts));
        }
        Ok(self.index)
    }
}

/// In which form the file has a storage, if it is not used where it lies.
fn form(planned: &Planned) -> Option<&'static str> {
    match planned {
        Planned::Found { found: Found::InFile { .. }, swap: None, copy: false } => None,
        Planned::Found { found: Found::InFile { .. }, swap: None, copy: true } => Some("unaligned"),
        Planned::Found { found: Found::InFile { .. }, swap: Some(_), .. } => Some("big-endian"),
        Planned::Found { found: Found::Lost { .. }, .. } => None,
        Planned::Filled { .. } => Some("cut off"),
        Planned::Found { found: Found::Record(_), swap: None, .. } => Some("compressed"),
        Planned::Found { found: Found::Record(_), swap: Some(_), .. } => Some("compressed and big-endian"),
        Planned::Held(_) | Planned::Payload { .. } => Some("in the pickle"),
    }
}

/// How a record's bytes are known to be right once they are in another form.
fn checked(crc32: Option<u32>, swap: Option<u8>) -> Checked {
    match (crc32, swap) {
        (None, _) => Checked::Never,
        (Some(_), Some(_)) => Checked::WhenMade,
        (Some(crc32), None) => Checked::Crc32(crc32),
    }
}
