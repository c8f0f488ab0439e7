//! Where reading meets writing: tensors of one checkpoint written into another, and saves validated by the reader.
//!
//! `read` and `write` know nothing of each other; the front door joins them here.

use std::io;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::limits::Limits;
use crate::read::{Checkpoint, TensorView};
use crate::source::Source;
use crate::write::{Builder, IntoTensor, StorageId, StorageSource, TensorData, View};

impl StorageSource for Checkpoint {
    fn copy_storage(&self, storage: u32, range: Range<u64>, out: &mut dyn io::Write) -> Result<()> {
        self.stream_storage(storage, range, |bytes| out.write_all(bytes).map_err(|e| Error::io("cannot write", e)))
            .map_err(|e| self.in_file(e))
    }
}

impl<'a> IntoTensor<'a> for TensorView<'a> {
    /// The tensor with its strides; its bytes are read, and verified, when they are written.
    fn into_tensor(self) -> Result<TensorData<'a>> {
        let strides = self.explicit_strides().map(<[u64]>::to_vec);
        let (storage, range) = (self.storage(), self.range_in_storage());
        Ok(TensorData::copied(self.dtype(), self.shape().to_vec(), strides, self.checkpoint(), storage, range))
    }
}

impl<'a> IntoTensor<'a> for &TensorView<'a> {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        (*self).into_tensor()
    }
}

impl<'a> Builder<'a> {
    /// Adds everything of another checkpoint: storages whole, all tensors with their aliases and strides, metadata, document, and
    /// sections that this version does not know. Tensors of unknown dtypes are copied like all others.
    ///
    /// Metadata entries of the same key are replaced, as is the document, if the other one has one.
    ///
    /// # Errors
    /// What is broken in the other one's index; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a name or a section that was
    /// added before. Nothing has been added then. What is damaged in its data is found when this builder is saved.
    pub fn checkpoint(&mut self, other: &'a Checkpoint) -> Result<&mut Self> {
        // All that can be refused is looked at before anything is added.
        let mut by_storage: Vec<Vec<TensorView<'a>>> = vec![Vec::new(); other.storage_count()];
        for tensor in other.tensors() {
            let tensor = tensor?;
            if self.contains(tensor.name()) {
                return Err(Error::invalid("a tensor of this name was added before").with_tensor(tensor.name()));
            }
            if let Some(views) = by_storage.get_mut(tensor.storage() as usize) {
                views.push(tensor);
            }
        }
        let (metadata, document) = (other.metadata()?, other.document()?);
        if let Some((kind, _)) = other.unknown_sections().find(|(kind, _)| self.has_section(*kind)) {
            return Err(Error::invalid(format!("a section of kind {kind} was added before")));
        }
        for views in by_storage {
            let Some(&first) = views.first() else { continue };
            let storage = self.storage_beneath(&first)?;
            for tensor in views {
                let mut view = View::new(tensor.dtype(), tensor.shape())?.start(tensor.start());
                if let Some(strides) = tensor.explicit_strides() {
                    view = view.strides(strides)?;
                }
                self.view(tensor.name(), storage, view)?;
            }
        }
        for (key, value) in metadata {
            self.metadata(key, value);
        }
        if let Some(document) = document {
            self.document(document);
        }
        self.sections_of(other)
    }

    /// Adds the whole storage that a tensor of another checkpoint lies in, to be viewed by tensors; at least one must. It is read, and
    /// verified, when it is written.
    ///
    /// # Errors
    /// As [`storage`](Self::storage); what is broken in the other one's index.
    pub fn storage_beneath(&mut self, tensor: &TensorView<'a>) -> Result<StorageId> {
        self.copied_storage(tensor.checkpoint(), tensor.storage(), tensor.storage_len()?)
    }

    /// Carries along the sections of another checkpoint that this version does not know.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a section of a kind that was added before.
    pub fn sections_of(&mut self, other: &Checkpoint) -> Result<&mut Self> {
        for (kind, bytes) in other.unknown_sections() {
            self.carried_section(kind, bytes.to_vec())?;
        }
        Ok(self)
    }

    /// What the file would be, as a checkpoint in memory.
    ///
    /// **Cost**: one pass over the data, into memory for the whole file.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); what is damaged in data that is copied; [`Io`](crate::ErrorKind::Io) if there is not the memory.
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::of_source(Source::Heap(self.to_aligned()?), Limits::NONE)
    }
}

#[cfg(feature = "fs")]
impl crate::commit::SaveOptions {
    /// Whether to read the finished file back and verify it strictly before it gets its name. A file that fails is discarded, and the
    /// old one stays. Off by default.
    ///
    /// **Cost**: reads the whole file once more. It is read through the page cache: it proves that what was written is well
    /// formed and whole, not that the device stored it.
    #[must_use]
    pub fn validate(self, validate: bool) -> crate::commit::SaveOptions {
        self.validator(validate.then(|| std::sync::Arc::new(validate_strictly) as crate::commit::Validator))
    }
}

#[cfg(feature = "fs")]
fn validate_strictly(file: &dyn crate::source::ReadAt) -> Result<()> {
    crate::read::verify_source(file, &crate::read::VerifyOptions::default())?.into_result()
}
