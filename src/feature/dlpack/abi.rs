//! The structs of `dlpack.h`, as DLPack 1 has them.

use std::ffi::c_void;

use crate::error::{Error, Result};
use crate::format::dtype::DType;

/// The version that tensors are handed over in: that which brought the 8-bit floats. What 1.2 asks for, that strides are never left out, is
/// done, too.
pub const DLPACK_VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };

/// Flag of a tensor that must not be written to.
pub const DLPACK_FLAG_BITMASK_READ_ONLY: u64 = 1;

/// The host's memory.
pub const K_DL_CPU: i32 = 1;

/// The memory of a GPU of NVIDIA's.
pub const K_DL_CUDA: i32 = 2;

/// A version of DLPack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLPackVersion {
    /// Layouts differ between these.
    pub major: u32,
    /// These add values, and change no layout.
    pub minor: u32,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDevice {
    /// Which kind of device, such as [`K_DL_CPU`].
    pub device_type: i32,
    /// Which of that kind, from 0.
    pub device_id: i32,
}

/// A dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDataType {
    /// What the bits mean: `DLDataTypeCode`.
    pub code: u8,
    /// Bits of an element.
    pub bits: u8,
    /// Elements that make up one; always 1 here.
    pub lanes: u16,
}

/// A tensor that somebody else owns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DLTensor {
    /// The address of the first element, on the device; null for a tensor of no elements.
    pub data: *mut c_void,
    /// The device.
    pub device: DLDevice,
    /// How many axes there are.
    pub ndim: i32,
    /// The dtype.
    pub dtype: DLDataType,
    /// The shape: `ndim` numbers.
    pub shape: *mut i64,
    /// The strides, in elements: `ndim` numbers.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element; always 0 here.
    pub byte_offset: u64,
}

/// A tensor that whoever has the pointer to this owns, as DLPack had it before version 1.
#[derive(Debug)]
#[repr(C)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// What the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Ends it; called once, with the pointer to this, from any thread.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// A tensor that whoever has the pointer to this owns.
#[derive(Debug)]
#[repr(C)]
pub struct DLManagedTensorVersioned {
    /// The version of this layout.
    pub version: DLPackVersion,
    /// What the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Ends it; called once, with the pointer to this, from any thread.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// What else there is to say, such as [`DLPACK_FLAG_BITMASK_READ_ONLY`].
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// The offsets and sizes that a C compiler gives the header's structs where pointers have 64 bits.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<DLPackVersion>() == 8 && offset_of!(DLPackVersion, minor) == 4);
    assert!(size_of::<DLDevice>() == 8 && offset_of!(DLDevice, device_id) == 4);
    assert!(size_of::<DLDataType>() == 4 && offset_of!(DLDataType, bits) == 1 && offset_of!(DLDataType, lanes) == 2);
    assert!(size_of::<DLTensor>() == 48 && align_of::<DLTensor>() == 8);
    assert!(offset_of!(DLTensor, data) == 0 && offset_of!(DLTensor, device) == 8 && offset_of!(DLTensor, ndim) == 16);
    assert!(offset_of!(DLTensor, dtype) == 20 && offset_of!(DLTensor, shape) == 24);
    assert!(offset_of!(DLTensor, strides) == 32 && offset_of!(DLTensor, byte_offset) == 40);
    assert!(size_of::<DLManagedTensor>() == 64 && offset_of!(DLManagedTensor, dl_tensor) == 0);
    assert!(offset_of!(DLManagedTensor, manager_ctx) == 48 && offset_of!(DLManagedTensor, deleter) == 56);
    assert!(size_of::<DLManagedTensorVersioned>() == 80 && offset_of!(DLManagedTensorVersioned, version) == 0);
    assert!(offset_of!(DLManagedTensorVersioned, manager_ctx) == 8);
    assert!(offset_of!(DLManagedTensorVersioned, deleter) == 16);
    assert!(offset_of!(DLManagedTensorVersioned, flags) == 24);
    assert!(offset_of!(DLManagedTensorVersioned, dl_tensor) == 32);
};

impl DLDataType {
    /// A dtype as DLPack has it.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for packed dtypes, and for those that DLPack does not have.
    pub fn of(dtype: DType) -> Result<DLDataType> {
        let code = match dtype {
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
            DType::F16 | DType::F32 | DType::F64 => 2,
            DType::BF16 => 4,
            DType::C32 | DType::C64 | DType::C128 => 5,
            DType::Bool => 6,
            DType::F8E4M3Fn => 10,
            DType::F8E4M3Fnuz => 11,
            DType::F8E5M2 => 12,
            DType::F8E5M2Fnuz => 13,
            DType::F8E8M0Fnu => 14,
            _ => return Err(Error::invalid(format!("dtype {dtype} cannot be handed over by DLPack"))),
        };
        // 128 bits at most.
        let bits = u8::try_from(dtype.bits()).map_err(|_| Error::invalid("an element is too long for DLPack"))?;
        Ok(DLDataType { code, bits, lanes: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_have_the_codes_of_the_header() {
        let expected = [
            ("bool", 6, 8),
            ("u8", 1, 8),
            ("u16", 1, 16),
            ("u32", 1, 32),
            ("u64", 1, 64),
            ("i8", 0, 8),
            ("i16", 0, 16),
            ("i32", 0, 32),
            ("i64", 0, 64),
            ("f16", 2, 16),
            ("bf16", 4, 16),
            ("f32", 2, 32),
            ("f64", 2, 64),
            ("c32", 5, 32),
            ("c64", 5, 64),
            ("c128", 5, 128),
            ("f8_e4m3fn", 10, 8),
            ("f8_e4m3fnuz", 11, 8),
            ("f8_e5m2", 12, 8),
            ("f8_e5m2fnuz", 13, 8),
            ("f8_e8m0fnu", 14, 8),
        ];
        for &dtype in DType::ALL {
            let wanted = expected.iter().find(|(name, ..)| *name == dtype.name());
            let wanted = wanted.map(|&(_, code, bits)| DLDataType { code, bits, lanes: 1 });
            assert_eq!(DLDataType::of(dtype).ok(), wanted, "{dtype}");
        }
        for dtype in [DType::Opaque { bits: 32 }, DType::Unknown { code: 0x1234, bits: 8 }] {
            let error = DLDataType::of(dtype).unwrap_err();
            assert_eq!(error.to_string(), format!("dtype {dtype} cannot be handed over by DLPack"));
        }
    }
}
