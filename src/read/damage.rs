//! Which damage to tell when several threads find some, and whose it is.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::span::{Span, Spans};
use super::window::Window;
use super::{parallel, verify};
use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::format::index::Index;

/// Keeps the damage that comes first in the file, whichever thread finds it when.
#[derive(Default)]
pub(super) struct FirstDamage(Mutex<Option<Error>>);

impl FirstDamage {
    /// Takes what a thread found.
    pub(super) fn note(&self, e: Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|known| e.offset() < known.offset()) {
            *first = Some(e);
        }
    }

    /// Nothing, or the damage, with the name of a tensor that it concerns.
    pub(super) fn into_result(self, header: &Header, index: &Index<'_>) -> Result<()> {
        let first = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        first.map_or(Ok(()), |e| Err(name_damaged(header, index, e)))
    }
}

/// Names the first tensor that a damaged place of the file belongs to.
fn name_damaged(header: &Header, index: &Index<'_>, e: Error) -> Error {
    let Some(offset) = e.offset() else { return e };
    for tensor in (0..index.tensor_count()).filter_map(|number| index.tensor(number).ok()) {
        let Ok(storage) = index.storage_of(&tensor) else { continue };
        let touched = verify::touched_blocks(header, &tensor.range());
        let first = touched.start << header.block_log2;
        let place = storage.in_file(&(first..touched.end.saturating_mul(header.block_len())));
        if place.contains(&offset) {
            return e.with_tensor(tensor.name);
        }
    }
    e
}

/// Names the first tensor over a storage.
pub(super) fn name_storage(index: &Index<'_>, storage: u32, e: Error) -> Error {
    FirstTensors::default().name(index, storage, e)
}

/// The first tensor over each storage, found out when it is asked for: many storages may be damaged.
#[derive(Default)]
pub(super) struct FirstTensors(OnceLock<HashMap<u32, usize>>);

impl FirstTensors {
    /// Names the first tensor over a storage.
    pub(super) fn name(&self, index: &Index<'_>, storage: u32, e: Error) -> Error {
        let first = self.0.get_or_init(|| {
            let mut first = HashMap::new();
            for number in 0..index.tensor_count() {
                if let Ok(tensor) = index.tensor(number) {
                    first.entry(tensor.storage).or_insert(number);
                }
            }
            first
        });
        match first.get(&storage).and_then(|&number| index.tensor(number).ok()) {
            Some(tensor) => e.with_tensor(tensor.name),
            None => e,
        }
    }
}

impl super::Checkpoint {
    /// Verifies the data of all tensors now, on several threads, and remembers it: no later touch costs anything.
    ///
    /// What [`open`](super::Checkpoint::open) does; for a map it is the fastest way to have all of it checked. Of a checkpoint that reads on
    /// demand it reads, and keeps, every storage. **Cost**: the CRC of what was not verified before.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the first damaged block of the file, and a tensor that touches it; and what
    /// [`check_index`](super::Checkpoint::check_index) finds.
    pub fn check_data(&self) -> Result<()> {
        self.check_index()?;
        let (header, index) = (self.header(), self.index());
        if self.guest.is_some() {
            // A storage is one block: several are verified at once.
            let numbers = 0..u32::try_from(index.storage_count()).unwrap_or(u32::MAX);
            let check = |number| {
                let len = self.storage_entry(number)?.data_len;
                let checked = self.storage_bytes(number, 0..len, true);
                checked.map(drop).map_err(|e| self.in_file(name_storage(&index, number, e)))
            };
            return parallel::for_each(self.threads, numbers, || (), |(), number| check(number));
        }
        let Some(bytes) = self.source.resident() else {
            // One after the other: each that is long is verified by several threads.
            return (0..index.storage_count()).zip(0u32..).try_for_each(|(_, number)| {
                let len = self.storage_entry(number)?.data_len;
                let checked = self.storage_bytes(number, 0..len, true);
                checked.map(drop).map_err(|e| self.in_file(name_damaged(header, &index, e)))
            });
        };
        let file = Window::new(0, bytes);
        let damage = FirstDamage::default();
        let check = |span: Result<Span>| {
            for piece in &span?.pieces {
                let Some(storage) = index.storage(piece.storage)? else { continue };
                let data = Window::new(0, file.get(&storage.place())?);
                for block in piece.blocks.clone() {
                    if let Err(e) = self.check_once(&storage, piece.storage, block, data) {
                        damage.note(e);
                    }
                }
            }
            Ok(())
        };
        parallel::for_each(self.threads, Spans::new(header, index), || (), |(), span| check(span))
            .and_then(|()| damage.into_result(header, &index))
            .map_err(|e| self.in_file(e))
    }
}
