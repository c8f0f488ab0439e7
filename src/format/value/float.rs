//! Floats in their shortest form, and integers as floats.
//!
//! Everything here works on bits: arithmetic on a NaN, even a conversion between widths, may change its payload.

use half::f16;

/// The shortest of half, single and double that keeps every bit of a float's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortest {
    Half(u16),
    Single(u32),
    Double(u64),
}

const PAYLOAD: u64 = 0x000F_FFFF_FFFF_FFFF;

/// The shortest form of a float.
#[allow(
    clippy::as_conversions,
    reason = "nothing else narrows a float, and the result is compared; bits are masked before they are narrowed"
)]
pub(super) fn shortest(value: f64) -> Shortest {
    let bits = value.to_bits();
    if value.is_nan() {
        let payload = bits & PAYLOAD;
        return match payload.trailing_zeros() {
            42.. => Shortest::Half(((bits >> 48) & 0x8000) as u16 | 0x7C00 | (payload >> 42) as u16),
            29..42 => Shortest::Single(((bits >> 32) & 0x8000_0000) as u32 | 0x7F80_0000 | (payload >> 29) as u32),
            _ => Shortest::Double(bits),
        };
    }
    let half = f16::from_f64(value);
    if half.to_f64().to_bits() == bits {
        return Shortest::Half(half.to_bits());
    }
    let single = value as f32;
    if f64::from(single).to_bits() == bits {
        return Shortest::Single(single.to_bits());
    }
    Shortest::Double(bits)
}

impl Shortest {
    /// The float that this form, shortest or not, stands for.
    pub(super) fn widen(self) -> f64 {
        match self {
            Shortest::Half(bits) => {
                let half = f16::from_bits(bits);
                if half.is_nan() {
                    let bits = u64::from(bits);
                    return f64::from_bits((bits & 0x8000) << 48 | 0x7FF0_0000_0000_0000 | (bits & 0x3FF) << 42);
                }
                half.to_f64()
            }
            Shortest::Single(bits) => {
                let single = f32::from_bits(bits);
                if single.is_nan() {
                    let bits = u64::from(bits);
                    return f64::from_bits(
                        (bits & 0x8000_0000) << 32 | 0x7FF0_0000_0000_0000 | (bits & 0x007F_FFFF) << 29,
                    );
                }
                f64::from(single)
            }
            Shortest::Double(bits) => f64::from_bits(bits),
        }
    }
}

/// The integers on either side of 0 up to which a double holds each one.
pub(super) const EXACT: u64 = 1 << 53;

/// An integer as a float, if it is in the range in which a float holds each integer.
#[allow(clippy::as_conversions, reason = "exact in this range, and nothing else converts it")]
pub(super) fn exact(value: i64) -> Option<f64> {
    (value.unsigned_abs() <= EXACT).then_some(value as f64)
}
