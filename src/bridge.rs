//! Where reading meets writing: tensors of one checkpoint written into another, and saves validated by the reader.
//!
//! `read` and `write` know nothing of each other; the front door joins them here.

use crate::error::{Error, Result};
use crate::read::{Checkpoint, TensorView};
use crate::write::{Builder, IntoTensor, TensorData};

impl<'a> IntoTensor<'a> for TensorView<'a> {
    /// The tensor with its strides; its bytes are read, and verified, when they are written.
    fn into_tensor(self) -> Result<TensorData<'a>> {
        let strides = self.explicit_strides().map(<[u64]>::to_vec);
        let len = self.byte_len();
        Ok(TensorData::streamed(self.dtype(), self.shape().to_vec(), strides, len, move |out| {
            self.stream_extent(|bytes| out.write_all(bytes).map_err(|e| Error::io("cannot write", e)))
        }))
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
    /// What is broken in the other one's index; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a name that was added before. What is
    /// damaged in its data is found when this builder is saved.
    pub fn checkpoint(&mut self, other: &'a Checkpoint) -> Result<&mut Self> {
        use crate::write::View;
        let mut by_storage: Vec<Vec<TensorView<'a>>> = vec![Vec::new(); other.storage_count()];
        for tensor in other.tensors() {
            let tensor = tensor?;
            if let Some(views) = by_storage.get_mut(tensor.storage() as usize) {
                views.push(tensor);
            }
        }
        for views in by_storage {
            let Some(&first) = views.first() else { continue };
            let storage = self.streamed_storage(first.storage_len()?, move |out| {
                first.stream_storage(|bytes| out.write_all(bytes).map_err(|e| Error::io("cannot write", e)))
            })?;
            for tensor in views {
                let mut view = View::new(tensor.dtype(), tensor.shape())?.start(tensor.start());
                if let Some(strides) = tensor.explicit_strides() {
                    view = view.strides(strides)?;
                }
                self.view(tensor.name(), storage, view)?;
            }
        }
        for (key, value) in other.metadata()? {
            self.metadata(key, value);
        }
        if let Some(document) = other.document()? {
            self.document(document);
        }
        for (kind, bytes) in other.unknown_sections() {
            self.carried_section(kind, bytes.to_vec())?;
        }
        Ok(self)
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
        self.validator(validate.then_some(validate_strictly as crate::commit::Validator))
    }
}

#[cfg(feature = "fs")]
fn validate_strictly(file: &dyn crate::source::ReadAt) -> Result<()> {
    crate::read::verify_source(file, &crate::read::VerifyOptions::default())?.into_result()
}
