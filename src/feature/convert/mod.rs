//! Elements converted from one dtype to another on their way into a batch: from bytes to bytes.
//!
//! Whoever fills a batch asks for a [`Conversion`] once for each tensor, and converts whatever piece of it has been read. Neither side need
//! be aligned: files of others may not be.
//!
//! Every value is rounded once, to the nearest, ties to even; what is too large becomes infinite, and subnormal numbers are kept. That takes
//! care where f32 lies between: [`Source::to_f32_odd`].

use std::fmt;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::format::dtype::DType;

/// A conversion of elements of one dtype to another.
///
/// From: bool (1 for every byte but 0), u8 to u64, i8 to i64, f16, bf16, f32, f64. To: f16, bf16, f32, f64.
///
/// A NaN stays a NaN. Between f16, bf16 and f32 it keeps its sign and the upper bits of its payload, and becomes quiet, as the crate `half`
/// and processors do it; to and from f64 nothing is promised of them.
#[derive(Clone, Copy)]
pub(crate) struct Conversion {
    from: DType,
    to: DType,
    from_size: usize,
    to_size: usize,
    kernel: Kernel,
}

/// Converts elements: of both sides the same number, whole ones.
type Kernel = fn(&[u8], &mut [u8]);

impl Conversion {
    /// The conversion from a dtype to another; `None` if they are the same, whichever they are, and there is nothing to convert.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such conversion.
    pub(crate) fn new(from: DType, to: DType) -> Result<Option<Conversion>> {
        if from == to {
            return Ok(None);
        }
        let (Some(kernel), Some(from_size), Some(to_size)) = (kernel(from, to), size(from), size(to)) else {
            let message = format!("elements of dtype {from} cannot be converted to {to}");
            let advice =
                "bool, integers of 8 to 64 bits, f16, bf16, f32 and f64 are converted, to f16, bf16, f32 or f64";
            return Err(Error::invalid(message).with_advice(advice));
        };
        Ok(Some(Conversion { from, to, from_size, to_size, kernel }))
    }

    /// Converts elements, and writes all of `to`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the bytes are not whole elements, or `to` has not room for exactly as many.
    pub(crate) fn convert(&self, from: &[u8], to: &mut [u8]) -> Result<()> {
        let whole = from.len().is_multiple_of(self.from_size);
        let count = from.len().checked_div(self.from_size);
        let to_len = count.and_then(|count| count.checked_mul(self.to_size));
        if !whole || to_len != Some(to.len()) {
            let (from_len, to_len) = (from.len(), to.len());
            let message =
                format!("{from_len} bytes of {} are not as many elements as {to_len} of {}", self.from, self.to);
            return Err(Error::invalid(message));
        }
        (self.kernel)(from, to);
        Ok(())
    }
}

impl fmt::Debug for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conversion({} to {})", self.from, self.to)
    }
}

fn size(dtype: DType) -> Option<usize> {
    dtype.byte_size().and_then(|size| usize::try_from(size).ok())
}

fn kernel(from: DType, to: DType) -> Option<Kernel> {
    match from {
        DType::Bool => kernel_from::<Truth>(to),
        DType::U8 => kernel_from::<u8>(to),
        DType::U16 => kernel_from::<u16>(to),
        DType::U32 => kernel_from::<u32>(to),
        DType::U64 => kernel_from::<u64>(to),
        DType::I8 => kernel_from::<i8>(to),
        DType::I16 => kernel_from::<i16>(to),
        DType::I32 => kernel_from::<i32>(to),
        DType::I64 => kernel_from::<i64>(to),
        DType::BF16 => kernel_from::<bf16>(to),
        DType::F32 if to == DType::F16 => Some(f32_to_f16),
        DType::F32 => kernel_from::<f32>(to),
        DType::F64 => kernel_from::<f64>(to),
        DType::F16 => match to {
            DType::BF16 => Some(from_f16::<bf16>),
            DType::F32 => Some(f16_to_f32),
            DType::F64 => Some(from_f16::<f64>),
            _ => None,
        },
        _ => None,
    }
}

fn kernel_from<S: Source>(to: DType) -> Option<Kernel> {
    match to {
        DType::F16 => Some(to_f16::<S>),
        DType::BF16 => Some(each::<S, bf16>),
        DType::F32 => Some(each::<S, f32>),
        DType::F64 => Some(each::<S, f64>),
        _ => None,
    }
}

/// Converts element by element, in a loop that the compiler can vectorise, at any alignment.
fn each<S: Source, T: Target>(from: &[u8], to: &mut [u8]) {
    // Never an error: arrays of bytes are aligned everywhere, and `convert` has seen to the lengths.
    let (Ok(from), Ok(to)) = (bytemuck::try_cast_slice(from), bytemuck::try_cast_slice_mut(to)) else {
        return;
    };
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::of(S::from_bytes(from)).into_bytes();
    }
}

/// Elements that are staged at a time: what they take stays in the innermost cache.
const STAGE_LEN: usize = 1024;

/// To f16, through f32: `half` has what is fast for slices, on whatever processor it is.
fn to_f16<S: Source>(from: &[u8], to: &mut [u8]) {
    let (mut singles, mut halves) = ([0f32; STAGE_LEN], [f16::ZERO; STAGE_LEN]);
    let from = from.chunks(STAGE_LEN.saturating_mul(size_of::<S::Bytes>()));
    for (from, to) in from.zip(to.chunks_mut(STAGE_LEN.saturating_mul(size_of::<f16>()))) {
        let count = to.len().checked_div(size_of::<f16>()).unwrap_or_default();
        let (Some(singles), Some(halves)) = (singles.get_mut(..count), halves.get_mut(..count)) else {
            return;
        };
        each::<S, OddF32>(from, bytemuck::cast_slice_mut(singles));
        halves.convert_from_f32_slice(singles);
        to.copy_from_slice(bytemuck::cast_slice(halves));
    }
}

/// From f16, through f32, which holds every value of it.
fn from_f16<T: Target>(from: &[u8], to: &mut [u8]) {
    let (mut singles, mut halves) = ([0f32; STAGE_LEN], [f16::ZERO; STAGE_LEN]);
    let from = from.chunks(STAGE_LEN.saturating_mul(size_of::<f16>()));
    for (from, to) in from.zip(to.chunks_mut(STAGE_LEN.saturating_mul(size_of::<T::Bytes>()))) {
        let count = from.len().checked_div(size_of::<f16>()).unwrap_or_default();
        let (Some(singles), Some(halves)) = (singles.get_mut(..count), halves.get_mut(..count)) else {
            return;
        };
        bytemuck::cast_slice_mut(halves).copy_from_slice(from);
        halves.convert_to_f32_slice(singles);
        each::<f32, T>(bytemuck::cast_slice(singles), to);
    }
}

fn f32_to_f16(from: &[u8], to: &mut [u8]) {
    match (bytemuck::try_cast_slice(from), bytemuck::try_cast_slice_mut::<u8, f16>(to)) {
        (Ok(from), Ok(to)) => to.convert_from_f32_slice(from),
        _ => to_f16::<f32>(from, to),
    }
}

fn f16_to_f32(from: &[u8], to: &mut [u8]) {
    match (bytemuck::try_cast_slice::<u8, f16>(from), bytemuck::try_cast_slice_mut(to)) {
        (Ok(from), Ok(to)) => from.convert_to_f32_slice(to),
        _ => from_f16::<f32>(from, to),
    }
}

/// A number that is converted.
trait Source: Copy {
    /// An array of as many bytes.
    type Bytes: Pod;

    fn from_bytes(bytes: Self::Bytes) -> Self;

    /// The nearest f32, ties to even.
    fn to_f32(self) -> f32;

    /// The nearest f64, ties to even.
    fn to_f64(self) -> f64;

    /// The number itself if it is an f32, and otherwise that of its two neighbours whose last bit is 1.
    ///
    /// Rounding that to an f16 or bf16 gives what rounding the number itself would: the last bit says that there was something beyond, so
    /// that nothing becomes a tie that was none. Rounding to the nearest twice would not. It needs two bits more than the target has, and
    /// an f32 has at least 13 more, and 16 more where a bf16 is subnormal.
    fn to_f32_odd(self) -> f32;
}

/// A number that others are converted to.
trait Target {
    /// An array of as many bytes.
    type Bytes: Pod;

    fn of<S: Source>(number: S) -> Self;

    fn into_bytes(self) -> Self::Bytes;
}

/// An element of dtype bool: true unless it is 0.
#[derive(Clone, Copy)]
struct Truth(bool);

impl Source for Truth {
    type Bytes = [u8; 1];

    fn from_bytes([byte]: [u8; 1]) -> Truth {
        Truth(byte != 0)
    }

    fn to_f32(self) -> f32 {
        f32::from(u8::from(self.0))
    }

    fn to_f64(self) -> f64 {
        f64::from(u8::from(self.0))
    }

    fn to_f32_odd(self) -> f32 {
        self.to_f32()
    }
}

macro_rules! sources {
    ($($rust:ty: |$number:ident| $to_f32:expr, $to_f64:expr, $to_f32_odd:expr;)*) => {
        $(
            impl Source for $rust {
                type Bytes = [u8; size_of::<$rust>()];

                #[inline]
                fn from_bytes(bytes: Self::Bytes) -> $rust {
                    <$rust>::from_le_bytes(bytes)
                }

                #[inline]
                #[allow(clippy::as_conversions, reason = "to a float, `as` rounds to nearest even: no bits are cut off")]
                fn to_f32(self) -> f32 {
                    let $number = self;
                    $to_f32
                }

                #[inline]
                #[allow(clippy::as_conversions, reason = "to a float, `as` rounds to nearest even: no bits are cut off")]
                fn to_f64(self) -> f64 {
                    let $number = self;
                    $to_f64
                }

                #[inline]
                fn to_f32_odd(self) -> f32 {
                    let $number = self;
                    $to_f32_odd
                }
            }
        )*
    };
}

sources! {
    u8: |x| f32::from(x), f64::from(x), x.to_f32();
    i8: |x| f32::from(x), f64::from(x), x.to_f32();
    u16: |x| f32::from(x), f64::from(x), x.to_f32();
    i16: |x| f32::from(x), f64::from(x), x.to_f32();
    u32: |x| x as f32, f64::from(x), odd(x.to_f64());
    i32: |x| x as f32, f64::from(x), odd(x.to_f64());
    u64: |x| x as f32, x as f64, odd(odd_f64(x));
    i64: |x| x as f32, x as f64, odd(odd_f64(x.unsigned_abs())).copysign(if x < 0 { -1.0 } else { 1.0 });
    bf16: |x| widened(x), f64::from(widened(x)), widened(x);
    f32: |x| x, f64::from(x), x;
    f64: |x| x as f32, x, odd(x);
}

/// See [`Source::to_f32_odd`]. Without branches, so that it can be vectorised.
#[inline]
#[allow(clippy::as_conversions, reason = "to a float, `as` rounds to nearest even: no bits are cut off")]
fn odd(number: f64) -> f32 {
    let nearest = number as f32;
    let (bits, size) = (nearest.to_bits(), f64::from(nearest).abs());
    // The neighbour of an even one is odd. Neither comparison is true of a NaN. Of what is larger than every f32, the neighbour is the largest.
    let even = !bits & 1;
    let up = u32::from(size < number.abs()) & even;
    let down = u32::from(size > number.abs()) & even;
    f32::from_bits(bits.wrapping_add(up).wrapping_sub(down))
}

/// As [`Source::to_f32_odd`], as an f64 of its 53 bits.
#[inline]
#[allow(clippy::as_conversions, reason = "the number has 53 bits and is an f64")]
fn odd_f64(number: u64) -> f64 {
    const BEYOND: u64 = (1 << 11) - 1;
    let odd = (number & !BEYOND) | (u64::from(number & BEYOND != 0) << 11);
    (if number >> 53 == 0 { number } else { odd }) as f64
}

/// The f32 of a bf16. `half` gives the same, but for a loop that the compiler vectorises.
#[inline]
fn widened(number: bf16) -> f32 {
    let bits = u32::from(number.to_bits()) << 16;
    f32::from_bits(if is_nan(bits) { bits | QUIET } else { bits })
}

/// The bit of an f32 that makes a NaN quiet. In the upper half: so it leaves a NaN in a bf16.
const QUIET: u32 = 0x0040_0000;

#[inline]
fn is_nan(f32_bits: u32) -> bool {
    f32_bits & 0x7FFF_FFFF > 0x7F80_0000
}

impl Target for f32 {
    type Bytes = [u8; 4];

    #[inline]
    fn of<S: Source>(number: S) -> f32 {
        number.to_f32()
    }

    #[inline]
    fn into_bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

impl Target for f64 {
    type Bytes = [u8; 8];

    #[inline]
    fn of<S: Source>(number: S) -> f64 {
        number.to_f64()
    }

    #[inline]
    fn into_bytes(self) -> [u8; 8] {
        self.to_le_bytes()
    }
}

impl Target for bf16 {
    type Bytes = [u8; 2];

    /// Several times as fast as `half`, whose branches keep the compiler from vectorising.
    #[inline]
    #[allow(clippy::as_conversions, reason = "a u32 shifted by 16 is a u16, and `try_from` is not vectorised")]
    fn of<S: Source>(number: S) -> bf16 {
        let bits = number.to_f32_odd().to_bits();
        // Half of the last place less one, and one more if it is odd. A carry ends in the exponent, at the last in that of infinity.
        let rounded = bits.wrapping_add(0x7FFF).wrapping_add((bits >> 16) & 1);
        let bits = if is_nan(bits) { bits | QUIET } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }

    #[inline]
    fn into_bytes(self) -> [u8; 2] {
        self.to_le_bytes()
    }
}

/// [`Source::to_f32_odd`].
struct OddF32(f32);

impl Target for OddF32 {
    type Bytes = [u8; 4];

    #[inline]
    fn of<S: Source>(number: S) -> OddF32 {
        OddF32(number.to_f32_odd())
    }

    #[inline]
    fn into_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests;
