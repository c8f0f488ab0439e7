//! What is put where bytes are damaged.

use crate::format::dtype::DType;

/// What to put where bytes of a tensor are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fill {
    /// Bytes that are 0.
    Zeros,
    /// The number 1, in the tensor's dtype.
    Ones,
    /// A NaN, in the tensor's dtype, which must have one.
    Nan,
    /// This byte.
    Byte(u8),
}

impl Fill {
    /// The name in the metadata and in messages: `zeros`, `ones`, `nan`, or a byte such as `0xff`.
    pub fn name(self) -> String {
        match self {
            Fill::Zeros => "zeros".to_owned(),
            Fill::Ones => "ones".to_owned(),
            Fill::Nan => "nan".to_owned(),
            Fill::Byte(byte) => format!("{byte:#04x}"),
        }
    }

    /// The bytes that are repeated from a tensor's first byte on; `None` if the dtype has no such element.
    pub(crate) fn pattern(self, dtype: DType) -> Option<Vec<u8>> {
        match self {
            Fill::Zeros => Some(vec![0]),
            Fill::Byte(byte) => Some(vec![byte]),
            Fill::Ones => one(dtype),
            Fill::Nan => nan(dtype),
        }
    }
}

/// The number 1; of packed elements as many as begin and end at bytes.
fn one(dtype: DType) -> Option<Vec<u8>> {
    let complex = |one: &[u8]| [one, &vec![0; one.len()]].concat();
    let f16 = half::f16::ONE.to_le_bytes();
    Some(match dtype {
        DType::Bool | DType::U8 | DType::I8 => vec![1],
        DType::U16 | DType::I16 => 1u16.to_le_bytes().to_vec(),
        DType::U32 | DType::I32 => 1u32.to_le_bytes().to_vec(),
        DType::U64 | DType::I64 => 1u64.to_le_bytes().to_vec(),
        DType::F16 => f16.to_vec(),
        DType::BF16 => half::bf16::ONE.to_le_bytes().to_vec(),
        DType::F32 => 1f32.to_le_bytes().to_vec(),
        DType::F64 => 1f64.to_le_bytes().to_vec(),
        DType::C32 => complex(&f16),
        DType::C64 => complex(&1f32.to_le_bytes()),
        DType::C128 => complex(&1f64.to_le_bytes()),
        // Sign, exponent (the bias, for 2^0), mantissa 0.
        DType::F8E4M3Fn => vec![7 << 3],
        DType::F8E4M3Fnuz => vec![8 << 3],
        DType::F8E5M2 => vec![15 << 2],
        DType::F8E5M2Fnuz => vec![16 << 2],
        DType::F8E8M0Fnu => vec![127],
        // One element: sign, two bits of exponent with bias 1, one of mantissa.
        DType::F4E2M1Fn | DType::F4E2M1FnX2 => vec![0b0010_0010],
        // Sign, two bits of exponent with bias 1, three of mantissa: 0b001000, four times.
        DType::F6E2M3Fn => vec![0b0000_1000, 0b1000_0010, 0b0010_0000],
        // Sign, three bits of exponent with bias 3, two of mantissa: 0b001100, four times.
        DType::F6E3M2Fn => vec![0b0000_1100, 0b1100_0011, 0b0011_0000],
        DType::U1 => vec![0xFF],
        DType::U2 | DType::I2 => vec![0b0101_0101],
        DType::U4 | DType::I4 => vec![0b0001_0001],
        _ => return None,
    })
}

/// A quiet NaN.
fn nan(dtype: DType) -> Option<Vec<u8>> {
    let twice = |nan: &[u8]| [nan, nan].concat();
    let f16 = half::f16::NAN.to_le_bytes();
    Some(match dtype {
        DType::F16 => f16.to_vec(),
        DType::BF16 => half::bf16::NAN.to_le_bytes().to_vec(),
        DType::F32 => f32::NAN.to_le_bytes().to_vec(),
        DType::F64 => f64::NAN.to_le_bytes().to_vec(),
        DType::C32 => twice(&f16),
        DType::C64 => twice(&f32::NAN.to_le_bytes()),
        DType::C128 => twice(&f64::NAN.to_le_bytes()),
        DType::F8E4M3Fn => vec![0x7F],
        DType::F8E5M2 => vec![0x7E],
        // What would be a negative zero.
        DType::F8E4M3Fnuz | DType::F8E5M2Fnuz => vec![0x80],
        DType::F8E8M0Fnu => vec![0xFF],
        _ => return None,
    })
}
