//! Elements as numbers, whatever their dtype.

use dolmen::DType;
use dolmen::half::{bf16, f16};

/// An element's value, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of a bool, or an integer of any width.
    Int(i128),
    /// Of a float of any width.
    Float(f64),
    /// A complex number, or two floats in one element.
    Pair(f64, f64),
}

/// How far two numbers are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// Between integers.
    Int(u128),
    /// Between floats; between pairs, the larger distance of their parts. Infinite if one of them is.
    Float(f64),
}

impl Distance {
    /// The distance as a float, for comparing distances.
    pub fn as_f64(self) -> f64 {
        match self {
            Distance::Int(n) => n as f64,
            Distance::Float(x) => x,
        }
    }
}

impl Number {
    /// Whether the value is a NaN, or a part of it is.
    pub fn is_nan(self) -> bool {
        match self {
            Number::Int(_) => false,
            Number::Float(x) => x.is_nan(),
            Number::Pair(x, y) => x.is_nan() || y.is_nan(),
        }
    }

    /// The distance to another number; `None` if either is a NaN.
    pub fn distance(self, other: Number) -> Option<Distance> {
        if self.is_nan() || other.is_nan() {
            return None;
        }
        // Infinities of the same sign are not apart.
        let apart = |x: f64, y: f64| if x == y { 0.0 } else { (x - y).abs() };
        Some(match (self, other) {
            (Number::Int(a), Number::Int(b)) => Distance::Int(a.abs_diff(b)),
            (Number::Pair(..), _) | (_, Number::Pair(..)) => {
                let ((a, b), (c, d)) = (self.parts(), other.parts());
                Distance::Float(apart(a, c).max(apart(b, d)))
            }
            _ => Distance::Float(apart(self.parts().0, other.parts().0)),
        })
    }

    /// Whether the values are the same, or both NaN: for elements of different dtypes.
    pub fn is_same_value(self, other: Number) -> bool {
        let same = |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan());
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a == b,
            _ => {
                let ((a, b), (c, d)) = (self.parts(), other.parts());
                same(a, c) && same(b, d)
            }
        }
    }

    fn parts(self) -> (f64, f64) {
        match self {
            Number::Int(n) => (n as f64, 0.0),
            Number::Float(x) => (x, 0.0),
            Number::Pair(x, y) => (x, y),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(n) => write!(f, "{n}"),
            Number::Float(x) => write!(f, "{x:?}"),
            Number::Pair(x, y) => write!(f, "({x:?}, {y:?})"),
        }
    }
}

/// Whether elements of a dtype have values that can be told.
pub fn is_numeric(dtype: DType) -> bool {
    DType::ALL.contains(&dtype)
}

/// Element `i` of contiguous bytes; `None` if it is not there or its dtype has no values.
pub fn element(dtype: DType, bytes: &[u8], i: usize) -> Option<Number> {
    let raw = raw(bytes, i, dtype.bits())?;
    let low = |bits: u32| raw & ((1 << bits) - 1);
    let float = |x: f64| Some(Number::Float(x));
    match dtype {
        DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::U1 | DType::U2 | DType::U4 => {
            i128::try_from(raw).ok().map(Number::Int)
        }
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::I2 | DType::I4 => {
            // The sign bit moved to the top and back brings its copies with it.
            let above = 128 - dtype.bits();
            Some(Number::Int(raw.cast_signed() << above >> above))
        }
        DType::F16 => float(f16::from_bits(raw as u16).to_f64()),
        DType::BF16 => float(bf16::from_bits(raw as u16).to_f64()),
        DType::F32 => float(f32::from_bits(raw as u32).into()),
        DType::F64 => float(f64::from_bits(raw as u64)),
        DType::C32 => {
            let part = |bits: u128| f16::from_bits(bits as u16).to_f64();
            Some(Number::Pair(part(low(16)), part(raw >> 16)))
        }
        DType::C64 => {
            let part = |bits: u128| f64::from(f32::from_bits(bits as u32));
            Some(Number::Pair(part(low(32)), part(raw >> 32)))
        }
        DType::C128 => {
            let part = |bits: u128| f64::from_bits(bits as u64);
            Some(Number::Pair(part(low(64)), part(raw >> 64)))
        }
        DType::F8E4M3Fn if low(7) == 0x7F => float(f64::NAN),
        DType::F8E4M3Fn => float(small_float(raw, 4, 3, 7)),
        DType::F8E4M3Fnuz | DType::F8E5M2Fnuz if raw == 0x80 => float(f64::NAN),
        DType::F8E4M3Fnuz => float(small_float(raw, 4, 3, 8)),
        DType::F8E5M2 if low(7) > 0x7C => float(f64::NAN),
        DType::F8E5M2 if low(7) == 0x7C => float(if raw >> 7 == 0 { f64::INFINITY } else { f64::NEG_INFINITY }),
        DType::F8E5M2 => float(small_float(raw, 5, 2, 15)),
        DType::F8E5M2Fnuz => float(small_float(raw, 5, 2, 16)),
        DType::F8E8M0Fnu if raw == 0xFF => float(f64::NAN),
        DType::F8E8M0Fnu => float(2f64.powi(raw as i32 - 127)),
        DType::F4E2M1FnX2 => Some(Number::Pair(small_float(low(4), 2, 1, 1), small_float(raw >> 4, 2, 1, 1))),
        DType::F4E2M1Fn => float(small_float(raw, 2, 1, 1)),
        DType::F6E2M3Fn => float(small_float(raw, 2, 3, 1)),
        DType::F6E3M2Fn => float(small_float(raw, 3, 2, 3)),
        _ => None,
    }
}

/// The bits of element `i`, for elements of at most 128 bits.
fn raw(bytes: &[u8], i: usize, bits: u32) -> Option<u128> {
    if bits > 128 {
        return None;
    }
    let first = i.checked_mul(bits as usize)?;
    if first.checked_add(bits as usize)? > bytes.len().checked_mul(8)? {
        return None;
    }
    let mut buffer = [0; 16];
    if bits.is_multiple_of(8) {
        let len = bits as usize / 8;
        buffer[..len].copy_from_slice(bytes.get(first / 8..)?.get(..len)?);
        return Some(u128::from_le_bytes(buffer));
    }
    // Packed elements have fewer than 8 bits here, so two bytes hold any of them.
    let rest = bytes.get(first / 8..)?;
    let len = rest.len().min(2);
    buffer[..len].copy_from_slice(&rest[..len]);
    Some(u128::from_le_bytes(buffer) >> (first % 8) & ((1 << bits) - 1))
}

/// A float of a sign bit, so many bits of exponent and of mantissa, without infinities or NaNs.
fn small_float(raw: u128, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = (raw & ((1 << mantissa_bits) - 1)) as f64 / f64::from(1u32 << mantissa_bits);
    let exponent = (raw >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let sign = if raw >> (mantissa_bits + exponent_bits) & 1 == 0 { 1.0 } else { -1.0 };
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - bias),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(dtype: DType, byte: u8) -> f64 {
        match element(dtype, &[byte], 0) {
            Some(Number::Float(x)) => x,
            other => panic!("{dtype}: {other:?}"),
        }
    }

    #[test]
    fn eight_bit_floats_have_the_values_of_their_definitions() {
        assert_eq!(float(DType::F8E4M3Fn, 0x7E), 448.0);
        assert_eq!(float(DType::F8E4M3Fn, 0x01), 2f64.powi(-9));
        assert!(float(DType::F8E4M3Fn, 0xFF).is_nan());
        assert_eq!(float(DType::F8E4M3Fnuz, 0x7F), 240.0);
        assert!(float(DType::F8E4M3Fnuz, 0x80).is_nan());
        assert_eq!(float(DType::F8E5M2, 0x7B), 57344.0);
        assert_eq!(float(DType::F8E5M2, 0xFC), f64::NEG_INFINITY);
        assert!(float(DType::F8E5M2, 0x7D).is_nan());
        assert_eq!(float(DType::F8E5M2Fnuz, 0x7F), 57344.0);
        assert_eq!(float(DType::F8E8M0Fnu, 127), 1.0);
        assert!(float(DType::F8E8M0Fnu, 255).is_nan());
        assert_eq!(element(DType::F4E2M1FnX2, &[0xF7], 0), Some(Number::Pair(6.0, -6.0)));
        assert_eq!(float(DType::F6E2M3Fn, 0x1F), 7.5);
        assert_eq!(float(DType::F6E3M2Fn, 0x1F), 28.0);
    }

    #[test]
    fn packed_elements_are_found_across_bytes() {
        // The first element takes the low bits.
        let of = |dtype, bytes: &[u8], n| (0..n).map(|i| element(dtype, bytes, i)).collect::<Vec<_>>();
        let ints = |all: &[i128]| all.iter().map(|&n| Some(Number::Int(n))).collect::<Vec<_>>();
        assert_eq!(of(DType::U4, &[0x21, 0x03], 3), ints(&[1, 2, 3]));
        assert_eq!(of(DType::I4, &[0xF7], 2), ints(&[7, -1]));
        assert_eq!(of(DType::I2, &[0b11_10_01_00], 4), ints(&[0, 1, -2, -1]));
        let six = u32::to_le_bytes(0x1F | 0x3F << 6 | 0x01 << 12);
        let expected = [28.0, -28.0, 0.0625].map(|x| Some(Number::Float(x)));
        assert_eq!(of(DType::F6E3M2Fn, &six[..3], 3), expected);
        assert_eq!(element(DType::F6E3M2Fn, &six[..3], 4), None);
    }

    #[test]
    fn integers_keep_all_their_bits() {
        assert_eq!(element(DType::U64, &[0xFF; 8], 0), Some(Number::Int(u64::MAX.into())));
        assert_eq!(element(DType::I64, &i64::MIN.to_le_bytes(), 0), Some(Number::Int(i64::MIN.into())));
        let (a, b) = (Number::Int(u64::MAX.into()), Number::Int(i64::MIN.into()));
        assert_eq!(a.distance(b), Some(Distance::Int(u128::from(u64::MAX) + (1 << 63))));
    }

    #[test]
    fn nans_and_infinities_have_no_surprising_distances() {
        let float = Number::Float;
        assert_eq!(float(f64::NAN).distance(float(1.0)), None);
        assert_eq!(float(f64::INFINITY).distance(float(f64::INFINITY)), Some(Distance::Float(0.0)));
        assert_eq!(float(f64::INFINITY).distance(float(1.0)), Some(Distance::Float(f64::INFINITY)));
        assert!(float(f64::NAN).is_same_value(float(f64::NAN)));
        assert!(Number::Int(3).is_same_value(float(3.0)));
        assert!(!Number::Int(3).is_same_value(Number::Pair(3.0, 1.0)));
    }
}
