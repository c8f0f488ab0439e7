//! The words for PyTorch's objects in a document (`spec/torch.md`): keys and values of attributes of tensor references, and dtypes.

pub use crate::foreign::held::{CONJ, NEG, QUANTIZER};
use crate::format::dtype::DType;

/// The attribute that says what the tensor was held as; without it, a `torch.Tensor`.
pub const AS: &str = "as";
/// A list of Python numbers.
pub const LIST: &str = "list";
/// A `torch.nn.Parameter`.
pub const PARAMETER: &str = "parameter";
/// A storage with a dtype; the tensor is over all of it.
pub const STORAGE: &str = "storage";
/// A storage of bytes; the tensor is over all of it.
pub const UNTYPED_STORAGE: &str = "untyped_storage";
/// A `numpy.ndarray`.
pub const ARRAY: &str = "array";
/// A NumPy scalar.
pub const SCALAR: &str = "scalar";

/// `true` if it requires a gradient.
pub const REQUIRES_GRAD: &str = "requires_grad";
/// Backward hooks, unless there are none.
pub const HOOKS: &str = "hooks";
/// Further metadata of the tensor: a dictionary.
pub const METADATA: &str = "metadata";
/// The state of a parameter, or of a tensor of a subclass.
pub const STATE: &str = "state";
/// The subclass of `torch.Tensor`: a global.
pub const TYPE: &str = "type";
/// The device of the storage, if it is not `cpu`.
pub const LOCATION: &str = "location";
/// PyTorch's dtype, where the tensor's own does not say it.
pub const DTYPE: &str = "dtype";
/// `big` if a NumPy array is big-endian; what is stored never is.
pub const BYTE_ORDER: &str = "byte_order";
/// [`NUMPY_CORE`] if the pickle names NumPy's functions as they were before its version 2.
pub const MODULE: &str = "module";
/// The value of [`MODULE`].
pub const NUMPY_CORE: &str = "numpy.core";
/// The value of [`BYTE_ORDER`].
pub const BIG: &str = "big";

/// The values of [`AS`].
pub const KINDS: [&str; 6] = [LIST, PARAMETER, STORAGE, UNTYPED_STORAGE, ARRAY, SCALAR];
/// The other keys.
pub const ATTRIBUTES: [&str; 12] =
    [REQUIRES_GRAD, HOOKS, CONJ, NEG, METADATA, STATE, TYPE, LOCATION, DTYPE, QUANTIZER, BYTE_ORDER, MODULE];

/// The device that needs no saying.
pub const CPU: &str = "cpu";

/// A dtype of PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TorchDType {
    /// PyTorch's name of it, as in `torch.float32`.
    pub name: &'static str,
    /// The dtype of the tensors that hold it.
    pub dtype: DType,
    /// The class of its storages, as in `torch.FloatStorage`, if it has one of its own.
    pub storage: Option<&'static str>,
    /// Whether the attribute [`DTYPE`] must say which it is, because another has the same `dtype`.
    pub needs_attribute: bool,
}

const fn plain(name: &'static str, dtype: DType, storage: Option<&'static str>) -> TorchDType {
    TorchDType { name, dtype, storage, needs_attribute: false }
}

const fn special(name: &'static str, dtype: DType, storage: Option<&'static str>) -> TorchDType {
    TorchDType { name, dtype, storage, needs_attribute: true }
}

/// Every dtype of PyTorch's that can be saved.
pub const DTYPES: &[TorchDType] = &[
    plain("float64", DType::F64, Some("DoubleStorage")),
    plain("float32", DType::F32, Some("FloatStorage")),
    plain("float16", DType::F16, Some("HalfStorage")),
    plain("bfloat16", DType::BF16, Some("BFloat16Storage")),
    plain("int64", DType::I64, Some("LongStorage")),
    plain("int32", DType::I32, Some("IntStorage")),
    plain("int16", DType::I16, Some("ShortStorage")),
    plain("int8", DType::I8, Some("CharStorage")),
    plain("uint8", DType::U8, Some("ByteStorage")),
    plain("uint16", DType::U16, None),
    plain("uint32", DType::U32, None),
    plain("uint64", DType::U64, None),
    plain("bool", DType::Bool, Some("BoolStorage")),
    plain("complex128", DType::C128, Some("ComplexDoubleStorage")),
    plain("complex64", DType::C64, Some("ComplexFloatStorage")),
    plain("complex32", DType::C32, None),
    plain("float8_e4m3fn", DType::F8E4M3Fn, None),
    plain("float8_e4m3fnuz", DType::F8E4M3Fnuz, None),
    plain("float8_e5m2", DType::F8E5M2, None),
    plain("float8_e5m2fnuz", DType::F8E5M2Fnuz, None),
    plain("float8_e8m0fnu", DType::F8E8M0Fnu, None),
    plain("float4_e2m1fn_x2", DType::F4E2M1FnX2, None),
    special("qint8", DType::I8, Some("QInt8Storage")),
    special("quint8", DType::U8, Some("QUInt8Storage")),
    special("qint32", DType::I32, Some("QInt32Storage")),
    // Several elements in a byte, each row beginning with one of its own: only their storages are understood, as bytes.
    special("quint4x2", DType::U8, Some("QUInt4x2Storage")),
    special("quint2x4", DType::U8, Some("QUInt2x4Storage")),
    special("bits8", DType::U8, None),
    special("bits16", DType::U16, None),
    special("bits1x8", DType::U8, None),
    special("bits2x4", DType::U8, None),
    special("bits4x2", DType::U8, None),
];

/// NumPy's names of dtypes, as its pickles have them, and the dtypes of the tensors that hold such arrays.
pub const NUMPY_DTYPES: &[(&str, DType)] = &[
    ("b1", DType::Bool),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("c8", DType::C64),
    ("c16", DType::C128),
];

/// PyTorch's dtype of that name.
pub fn dtype_named(name: &str) -> Option<&'static TorchDType> {
    DTYPES.iter().find(|dtype| dtype.name == name)
}

/// The dtype of the elements of a class of storages.
pub fn dtype_of_storage(class: &str) -> Option<&'static TorchDType> {
    DTYPES.iter().find(|dtype| dtype.storage == Some(class))
}

/// PyTorch's dtype that a tensor's own means, without an attribute.
pub fn dtype_of(dtype: DType) -> Option<&'static TorchDType> {
    DTYPES.iter().find(|known| known.dtype == dtype && !known.needs_attribute)
}

/// Bytes of what has a byte order of its own: a part of a complex number has one.
pub fn component_len(dtype: DType) -> u64 {
    let parts = if matches!(dtype, DType::C32 | DType::C64 | DType::C128) { 2 } else { 1 };
    u64::from(dtype.bits()).div_euclid(8).div_euclid(parts)
}

impl TorchDType {
    /// Bytes of an element, as storages count them.
    pub fn element_len(&self) -> u64 {
        u64::from(self.dtype.bits().div_euclid(8))
    }

    /// Bytes of what has a byte order of its own.
    pub fn component_len(&self) -> u64 {
        component_len(self.dtype)
    }

    /// Whether elements are packed, several in a byte, in a way that Dolmen's packed dtypes are not.
    pub fn is_packed_by_rows(&self) -> bool {
        matches!(self.storage, Some("QUInt4x2Storage" | "QUInt2x4Storage"))
    }
}
