//! Batches and loaded tensors as cudarc's views.

use bytemuck::AnyBitPattern;
use cudarc::driver::CudaView;

use super::Cuda;
use crate::error::{Error, Result};
use crate::feature::load::DeviceTensor;
use crate::feature::loader::Batch;
use crate::format::dtype::{DType, Element};

impl Batch<Cuda> {
    /// The features, for cudarc's functions and launches, on the [device's stream](Cuda::stream). Bools are viewed as `u8`.
    ///
    /// **Shape**: [`shape`](Batch::shape).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `T` is not their dtype.
    pub fn features_view<T: Element + AnyBitPattern>(&self) -> Result<CudaView<'_, T>> {
        check_dtype::<T>(self.dtype(), "the batch")?;
        self.memory().as_cuda_view(self.features_in_memory())
    }

    /// The labels, if the table has labels. As [`features_view`](Self::features_view).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) never, unless memory and batch do not go together.
    pub fn labels_view(&self) -> Result<Option<CudaView<'_, i64>>> {
        self.labels_in_memory().map(|bytes| self.memory().as_cuda_view(bytes)).transpose()
    }
}

impl<'l> DeviceTensor<'l, Cuda> {
    /// The elements in row-major order, for cudarc's functions and launches, on the [device's stream](Cuda::stream). Bools are viewed as `u8`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `T` is not its dtype, it is strided, or a file of another format did not align it.
    pub fn as_cuda_view<T: Element + AnyBitPattern>(&self) -> Result<CudaView<'l, T>> {
        let view = || {
            check_dtype::<T>(self.dtype(), "it")?;
            if self.explicit_strides().is_some() {
                return Err(Error::invalid("its strides are not contiguous"));
            }
            self.memory().as_cuda_view(self.bytes_in_memory())
        };
        view().map_err(|e| e.with_tensor(self.name()))
    }
}

fn check_dtype<T: Element>(dtype: DType, what: &str) -> Result<()> {
    // Not every byte is a `bool`, and nobody looks at those of a device.
    if dtype == T::DTYPE || (dtype == DType::Bool && T::DTYPE == DType::U8) {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} is of dtype {dtype}, not {}", T::DTYPE)))
}
