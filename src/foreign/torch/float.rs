//! Floats from one width to another, with every bit of a NaN: conversions by the processor may change its payload, and need not do so
//! the same way each time.

const PAYLOAD: u64 = 0x000F_FFFF_FFFF_FFFF;
/// Set in NaNs that arithmetic gives; one without it becomes another when it is converted.
const QUIET: u64 = 0x0008_0000_0000_0000;
/// By how many bits the payload of a double is longer.
const LONGER: u32 = 29;

/// The double that is exactly this float, to the bits of a NaN.
pub(super) fn widened(value: f32) -> f64 {
    if !value.is_nan() {
        return value.into();
    }
    let bits = u64::from(value.to_bits());
    f64::from_bits((bits & 0x8000_0000) << 32 | 0x7FF0_0000_0000_0000 | (bits & 0x007F_FFFF) << LONGER)
}

/// The float that is exactly this double, to the bits of a NaN, if there is one; none for a NaN that other programs would change when they
/// widen it again.
pub(super) fn narrowed(value: f64) -> Option<f32> {
    #[allow(clippy::as_conversions, reason = "whether this loses anything is what is asked")]
    if !value.is_nan() {
        let narrow = value as f32;
        return (f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow);
    }
    let bits = value.to_bits();
    let payload = bits & PAYLOAD;
    if payload & QUIET == 0 || payload.trailing_zeros() < LONGER {
        return None;
    }
    let (sign, payload) = (u32::try_from(bits >> 32).ok()? & 0x8000_0000, u32::try_from(payload >> LONGER).ok()?);
    Some(f32::from_bits(sign | 0x7F80_0000 | payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_keeps_every_bit_and_narrowing_undoes_it() {
        for bits in [0, 1, 0x8000_0000, 0x3F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0xFFC1_2345, 0xFFFF_FFFF] {
            let narrow = f32::from_bits(bits);
            assert_eq!(narrowed(widened(narrow)).map(f32::to_bits), Some(bits), "{bits:08x}");
        }
        assert_eq!(widened(f32::from_bits(0xFF80_0001)).to_bits(), 0xFFF0_0000_2000_0000);
        assert_eq!(widened(f32::from_bits(0x7FC1_2345)).to_bits(), 0x7FF8_2468_A000_0000);
    }

    #[test]
    fn what_a_float_does_not_hold_is_not_narrowed() {
        let nan = |bits| f64::from_bits(0x7FF0_0000_0000_0000 | bits);
        for value in [0.1, 1e-46, f64::MAX, nan(QUIET | 1), nan(QUIET | 1 << 28), nan(1 << LONGER), nan(PAYLOAD)] {
            assert_eq!(narrowed(value), None, "{:016x}", value.to_bits());
        }
    }
}
