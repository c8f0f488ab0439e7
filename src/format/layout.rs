//! Where things lie: alignment, strides and extents (`spec/format.md` sections 3 and 6.1).

/// Descriptors and the index begin at multiples of this.
pub const RECORD_ALIGNMENT: u64 = 64;
/// The default alignment of data, as a power of two: 256 bytes.
pub const DEFAULT_ALIGNMENT_LOG2: u8 = 8;
/// The default size of a checksum block, as a power of two: 1 MiB.
pub const DEFAULT_BLOCK_LOG2: u8 = 20;

/// The smallest multiple of `alignment` (a power of two) that is not less than `x`, unless it overflows.
#[inline]
pub fn round_up(x: u64, alignment: u64) -> Option<u64> {
    x.checked_next_multiple_of(alignment)
}

/// The product of the dims; `None` if that of the dims that are not 0 overflows, or overflows times `bits`
/// (rule TEN-8).
pub fn element_count(shape: &[u64], bits: u32) -> Option<u64> {
    let mut count = 1u64;
    let mut nonzero = 1u64;
    for &dim in shape {
        nonzero = nonzero.checked_mul(dim.max(1))?;
        count = if dim == 0 { 0 } else { count.checked_mul(dim)? };
    }
    nonzero.checked_mul(u64::from(bits))?;
    Some(count)
}

/// The bytes that `count` elements take when they lie one after the other.
pub fn contiguous_len(count: u64, bits: u32) -> Option<u64> {
    Some(count.checked_mul(u64::from(bits))?.div_ceil(8))
}

/// The bytes of a row of that shape; `None` if they are no whole number, or none at all, or overflow.
pub fn row_len(row_shape: &[u64], bits: u32) -> Option<u64> {
    let bits = element_count(row_shape, bits)?.checked_mul(u64::from(bits))?;
    (bits > 0 && bits.is_multiple_of(8)).then(|| bits.div_euclid(8))
}

/// The strides of row-major order, in elements, from the last to the first: the last is 1, each other one is
/// the stride after it times the dim after it (or 1, if that is 0).
///
/// They do not overflow if [`element_count`] does not; a stride that would is given as `u64::MAX`.
pub fn contiguous_strides_reversed(shape: &[u64]) -> impl Iterator<Item = u64> + '_ {
    shape.iter().rev().scan(1u64, |next, &dim| {
        let stride = *next;
        *next = stride.saturating_mul(dim.max(1));
        Some(stride)
    })
}

/// The strides of row-major order, in elements.
pub fn contiguous_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides: Vec<u64> = contiguous_strides_reversed(shape).collect();
    strides.reverse();
    strides
}

/// Whether strides are those of row-major order, to the letter: also along axes of length 1 or 0.
pub fn strides_are_contiguous(shape: &[u64], strides: &[u64]) -> bool {
    shape.len() == strides.len() && contiguous_strides_reversed(shape).eq(strides.iter().rev().copied())
}

/// The bytes from a tensor's first element to the end of its last one; `None` if that overflows.
///
/// `strides` is `None` for a contiguous tensor.
pub fn extent(shape: &[u64], strides: Option<&[u64]>, bits: u32) -> Option<u64> {
    let count = element_count(shape, bits)?;
    let Some(strides) = strides else { return contiguous_len(count, bits) };
    if count == 0 {
        return Some(0);
    }
    let mut elements = 1u64;
    for (&dim, &stride) in shape.iter().zip(strides) {
        elements = elements.checked_add(dim.checked_sub(1)?.checked_mul(stride)?)?;
    }
    contiguous_len(elements, bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_follow_row_major_order_with_zero_dims_counted_as_one() {
        assert_eq!(contiguous_strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(contiguous_strides(&[3, 0]), [1, 1]);
        assert_eq!(contiguous_strides(&[0, 3]), [3, 1]);
        assert!(contiguous_strides(&[]).is_empty());
        assert!(strides_are_contiguous(&[1, 5], &[5, 1]));
        assert!(!strides_are_contiguous(&[1, 5], &[1, 1]));
    }

    #[test]
    fn counts_that_overflow_are_refused_in_any_order() {
        assert_eq!(element_count(&[1 << 40, 1 << 40, 0], 8), None);
        assert_eq!(element_count(&[0, 1 << 40, 1 << 40], 8), None);
        assert_eq!(element_count(&[1 << 61], 8), None);
        assert_eq!(element_count(&[(1 << 61) - 1], 8), Some((1 << 61) - 1));
        assert_eq!(element_count(&[], 8), Some(1));
    }

    #[test]
    fn rows_take_whole_bytes_and_at_least_one() {
        assert_eq!(row_len(&[3328], 32), Some(13_312));
        assert_eq!(row_len(&[], 16), Some(2));
        assert_eq!(row_len(&[4], 4), Some(2));
        assert_eq!(row_len(&[3], 4), None);
        assert_eq!(row_len(&[0], 32), None);
        assert_eq!(row_len(&[1 << 61], 8), None);
    }

    #[test]
    fn extents_reach_to_the_end_of_the_last_element() {
        assert_eq!(extent(&[2, 3], None, 32), Some(24));
        assert_eq!(extent(&[3], None, 4), Some(2));
        assert_eq!(extent(&[3, 2], Some(&[1, 3]), 32), Some(24));
        assert_eq!(extent(&[1000, 1000], Some(&[0, 0]), 32), Some(4));
        assert_eq!(extent(&[0, 7], Some(&[9, 9]), 32), Some(0));
        assert_eq!(extent(&[3, 2], Some(&[u64::MAX, 1]), 8), None);
    }
}
