//! Integers of any size.

use std::fmt;

use super::Value;

/// An integer that an `i64` does not hold.
///
/// [`Value::integer`] and [`Value::integer_from_le_bytes`] make it, and make a [`Value::Int`] of what is smaller; so each
/// integer has one representation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BigInt {
    negative: bool,
    /// Big-endian, without leading zero bytes.
    magnitude: Vec<u8>,
}

/// Longer ones are shown in hexadecimal: the time to write decimal digits grows with the square of their number.
const DECIMAL_BYTES: usize = 1024;

impl BigInt {
    pub(super) fn normalise(negative: bool, magnitude: &[u8]) -> Value {
        let magnitude = without_leading_zeros(magnitude);
        if let Some(small) = to_u64(magnitude) {
            let small = if negative { 0_i64.checked_sub_unsigned(small) } else { i64::try_from(small).ok() };
            if let Some(small) = small {
                return Value::Int(small);
            }
        }
        Value::BigInt(BigInt { negative, magnitude: magnitude.to_vec() })
    }

    pub(super) fn normalise_le(bytes: &[u8]) -> Value {
        let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
        let mut magnitude: Vec<u8> = bytes.iter().rev().copied().collect();
        if negative {
            negate(&mut magnitude);
        }
        BigInt::normalise(negative, &magnitude)
    }

    /// The negative integer -1 - n.
    pub(super) fn normalise_complement(n: &[u8]) -> Value {
        let mut magnitude = Vec::with_capacity(n.len().saturating_add(1));
        magnitude.push(0);
        magnitude.extend_from_slice(n);
        increment(&mut magnitude);
        BigInt::normalise(true, &magnitude)
    }

    /// Whether it is less than 0.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Its distance from 0: big-endian bytes without leading zeros.
    pub fn magnitude(&self) -> &[u8] {
        &self.magnitude
    }

    /// The integer, if a `u64` holds it.
    pub fn to_u64(&self) -> Option<u64> {
        if self.negative { None } else { to_u64(&self.magnitude) }
    }

    /// Its two's complement in as few bytes as hold it, little-endian.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.magnitude.len().saturating_add(1));
        bytes.push(0);
        bytes.extend_from_slice(&self.magnitude);
        if self.negative {
            negate(&mut bytes);
        }
        bytes.reverse();
        let sign_fits = match (self.negative, bytes.iter().rev().nth(1)) {
            (_, None) => false,
            (true, Some(byte)) => *byte >= 0x80,
            (false, Some(byte)) => *byte < 0x80,
        };
        if sign_fits {
            bytes.pop();
        }
        bytes
    }

    /// What is encoded: n itself, or for a negative integer the n of which it is -1 - n, without leading zeros.
    pub(super) fn encoded_magnitude(&self) -> Vec<u8> {
        let mut n = self.magnitude.clone();
        if self.negative {
            decrement(&mut n);
        }
        without_leading_zeros(&n).to_vec()
    }
}

pub(super) fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// The number that big-endian bytes without leading zeros are, if a `u64` holds it.
pub(super) fn to_u64(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Adds 1 to a big-endian number, modulo its width.
fn increment(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return;
        }
    }
}

/// Subtracts 1 from a big-endian number, modulo its width.
fn decrement(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().rev() {
        let borrow = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrow {
            return;
        }
    }
}

/// Negates a big-endian number in two's complement.
fn negate(bytes: &mut [u8]) {
    for byte in bytes.iter_mut() {
        *byte = !*byte;
    }
    increment(bytes);
}

impl fmt::Display for BigInt {
    /// In decimal; if it has more than a thousand bytes, in hexadecimal with `0x` before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        if self.magnitude.len() > DECIMAL_BYTES {
            f.write_str("0x")?;
            return self.magnitude.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        }
        let mut groups = decimal_groups(&self.magnitude).into_iter().rev();
        write!(f, "{}", groups.next().unwrap_or_default())?;
        groups.try_for_each(|group| write!(f, "{group:09}"))
    }
}

/// Groups of nine decimal digits, the lowest first.
fn decimal_groups(magnitude: &[u8]) -> Vec<u32> {
    const GROUP: u64 = 1_000_000_000;
    let mut groups: Vec<u32> = Vec::new();
    for byte in magnitude {
        let mut carry = u64::from(*byte);
        for group in &mut groups {
            // Below 256 × 10^9 + 256, and so is the quotient below 2^32.
            let sum = u64::from(*group).wrapping_mul(256).wrapping_add(carry);
            *group = u32::try_from(sum % GROUP).unwrap_or_default();
            carry = sum / GROUP;
        }
        if carry != 0 {
            groups.push(u32::try_from(carry).unwrap_or_default());
        }
    }
    groups
}

impl fmt::Debug for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
