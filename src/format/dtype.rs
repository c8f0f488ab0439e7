//! Dtypes: what the bits of an element mean (`spec/format.md` section 7).

use std::borrow::Cow;
use std::fmt;

use half::{bf16, f16};

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $code:literal $name:literal $bits:literal)*) => {
        /// What the bits of an element mean.
        ///
        /// `Display` and `FromStr` use the names of the specification, such as `f32`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType {
            $($(#[$doc])* $variant,)*
            /// Bits that the format does not interpret, so many per element.
            Opaque {
                /// Bits per element.
                bits: u32,
            },
            /// A dtype that this version does not know. Its bytes are verified, given and copied all the same.
            Unknown {
                /// The dtype's code in the file.
                code: u16,
                /// Bits per element.
                bits: u32,
            },
        }

        impl DType {
            /// Every dtype that has a fixed number of bits, in the order of the specification.
            pub const ALL: &[DType] = &[$(DType::$variant),*];

            /// The code in the file.
            pub const fn code(self) -> u16 {
                match self {
                    $(DType::$variant => $code,)*
                    DType::Opaque { .. } => OPAQUE_CODE,
                    DType::Unknown { code, .. } => code,
                }
            }

            /// Bits per element.
            pub const fn bits(self) -> u32 {
                match self {
                    $(DType::$variant => $bits,)*
                    DType::Opaque { bits } | DType::Unknown { bits, .. } => bits,
                }
            }

            /// The name in the specification, such as `bf16`; `opaque`, or `unknown(0x1234)`.
            pub fn name(self) -> Cow<'static, str> {
                match self {
                    $(DType::$variant => Cow::Borrowed($name),)*
                    DType::Opaque { .. } => Cow::Borrowed("opaque"),
                    DType::Unknown { code, .. } => Cow::Owned(format!("unknown(0x{code:04X})")),
                }
            }

            /// The dtype of a code and a number of bits, as a file has them; `None` if they break rule TEN-7: a
            /// code or a width of 0, or a known code with another width than its own.
            pub const fn from_code(code: u16, bits: u32) -> Option<DType> {
                if bits == 0 {
                    return None;
                }
                match code {
                    0 => None,
                    $($code => if bits == $bits { Some(DType::$variant) } else { None },)*
                    OPAQUE_CODE => Some(DType::Opaque { bits }),
                    code => Some(DType::Unknown { code, bits }),
                }
            }
        }

        impl std::str::FromStr for DType {
            type Err = crate::Error;

            fn from_str(name: &str) -> crate::Result<DType> {
                match name {
                    $($name => Ok(DType::$variant),)*
                    _ => Err(crate::Error::invalid(format!("there is no dtype named {}", crate::error::quoted(name)))),
                }
            }
        }
    };
}

/// The code of the dtype `opaque`.
const OPAQUE_CODE: u16 = 0x00FF;

dtypes! {
    /// A byte that is 0 (false) or 1 (true).
    Bool 0x0001 "bool" 8
    /// Unsigned 8-bit integer.
    U8 0x0010 "u8" 8
    /// Unsigned 16-bit integer.
    U16 0x0011 "u16" 16
    /// Unsigned 32-bit integer.
    U32 0x0012 "u32" 32
    /// Unsigned 64-bit integer.
    U64 0x0013 "u64" 64
    /// Signed 8-bit integer.
    I8 0x0020 "i8" 8
    /// Signed 16-bit integer.
    I16 0x0021 "i16" 16
    /// Signed 32-bit integer.
    I32 0x0022 "i32" 32
    /// Signed 64-bit integer.
    I64 0x0023 "i64" 64
    /// IEEE 754 half precision.
    F16 0x0030 "f16" 16
    /// The upper half of an f32.
    BF16 0x0031 "bf16" 16
    /// IEEE 754 single precision.
    F32 0x0032 "f32" 32
    /// IEEE 754 double precision.
    F64 0x0033 "f64" 64
    /// Complex number of two f16.
    C32 0x0040 "c32" 32
    /// Complex number of two f32.
    C64 0x0041 "c64" 64
    /// Complex number of two f64.
    C128 0x0042 "c128" 128
    /// OCP 8-bit float with 4 exponent bits, no infinities.
    F8E4M3Fn 0x0050 "f8_e4m3fn" 8
    /// 8-bit float with 4 exponent bits, no infinities, no negative zero.
    F8E4M3Fnuz 0x0051 "f8_e4m3fnuz" 8
    /// OCP 8-bit float with 5 exponent bits.
    F8E5M2 0x0052 "f8_e5m2" 8
    /// 8-bit float with 5 exponent bits, no infinities, no negative zero.
    F8E5M2Fnuz 0x0053 "f8_e5m2fnuz" 8
    /// OCP scale: a power of two without sign.
    F8E8M0Fnu 0x0054 "f8_e8m0fnu" 8
    /// Two OCP 4-bit floats in a byte; the shape counts bytes, as PyTorch does.
    F4E2M1FnX2 0x0060 "f4_e2m1fn_x2" 8
    /// OCP 4-bit float, packed; the shape counts elements.
    F4E2M1Fn 0x0061 "f4_e2m1fn" 4
    /// OCP 6-bit float with 2 exponent bits, packed.
    F6E2M3Fn 0x0062 "f6_e2m3fn" 6
    /// OCP 6-bit float with 3 exponent bits, packed.
    F6E3M2Fn 0x0063 "f6_e3m2fn" 6
    /// Unsigned 1-bit integer, packed.
    U1 0x0070 "u1" 1
    /// Unsigned 2-bit integer, packed.
    U2 0x0071 "u2" 2
    /// Unsigned 4-bit integer, packed.
    U4 0x0072 "u4" 4
    /// Signed 2-bit integer, packed.
    I2 0x0078 "i2" 2
    /// Signed 4-bit integer, packed.
    I4 0x0079 "i4" 4
}

impl DType {
    /// Whether elements do not begin at byte boundaries: packed dtypes have no strides and no typed views.
    pub const fn is_packed(self) -> bool {
        !self.bits().is_multiple_of(8)
    }

    /// Bytes per element; `None` for packed dtypes.
    pub fn byte_size(self) -> Option<u64> {
        (!self.is_packed()).then(|| u64::from(self.bits() / 8))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// A Rust type whose values lie in memory as the elements of a dtype do.
///
/// Complex dtypes are arrays of two: `[f32; 2]` is [`DType::C64`]. The 8-bit floats, packed and opaque dtypes have no such
/// type; their raw bytes are always there.
pub trait Element: sealed::Element {
    /// The dtype.
    const DTYPE: DType;
}

mod sealed {
    pub trait Element: bytemuck::CheckedBitPattern + bytemuck::NoUninit + Send + Sync + std::fmt::Debug {}
}

macro_rules! elements {
    ($($rust:ty => $variant:ident)*) => {
        $(
            impl sealed::Element for $rust {}
            impl Element for $rust { const DTYPE: DType = DType::$variant; }
        )*
    };
}

elements! {
    bool => Bool
    u8 => U8
    u16 => U16
    u32 => U32
    u64 => U64
    i8 => I8
    i16 => I16
    i32 => I32
    i64 => I64
    f16 => F16
    bf16 => BF16
    f32 => F32
    f64 => F64
    [f16; 2] => C32
    [f32; 2] => C64
    [f64; 2] => C128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_lead_back_to_their_dtype() {
        for &dtype in DType::ALL {
            assert_eq!(DType::from_code(dtype.code(), dtype.bits()), Some(dtype));
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
            assert_eq!(DType::from_code(dtype.code(), dtype.bits() + 1), None, "{dtype} of another width");
        }
        assert_eq!(DType::from_code(0, 8), None);
        assert_eq!(DType::from_code(0x1234, 0), None);
        assert_eq!(DType::from_code(0xFF, 80), Some(DType::Opaque { bits: 80 }));
        let unknown = DType::from_code(0x9001, 3).unwrap();
        assert_eq!((unknown.to_string().as_str(), unknown.is_packed()), ("unknown(0x9001)", true));
    }

    #[test]
    fn elements_have_the_width_of_their_dtype() {
        fn check<T: Element>() {
            assert_eq!(T::DTYPE.byte_size(), Some(size_of::<T>() as u64));
        }
        check::<bool>();
        check::<f16>();
        check::<bf16>();
        check::<[f16; 2]>();
        check::<[f64; 2]>();
        check::<i64>();
    }
}
