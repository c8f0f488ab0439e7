//! Lists of numbers in a pickle.

use super::super::float::widened;
use super::opcodes::{APPEND, APPENDS, BATCH, EMPTY_LIST, MARK};
use super::values::Pickler;
use crate::error::{Error, Result};
use crate::format::dtype::DType;
use crate::read::TensorView;

/// Whether elements can be Python's numbers.
pub(super) fn is_listable(dtype: DType) -> bool {
    matches!(dtype, DType::Bool | DType::F16 | DType::BF16 | DType::F32 | DType::F64 | DType::C64 | DType::C128)
        || is_integer(dtype)
}

fn is_integer(dtype: DType) -> bool {
    use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, U8 | U16 | U32 | U64 | I8 | I16 | I32 | I64)
}

/// How many bytes a list takes in a pickle, at most.
fn list_len(tensor: &TensorView<'_>) -> u64 {
    /// An opcode for each list, and three for what is in it.
    const LIST_LEN: u64 = 4;
    let element_len = match tensor.dtype() {
        DType::Bool => 1,
        DType::U8 => 2,
        DType::U16 => 3,
        DType::I8 | DType::I16 | DType::I32 => 5,
        DType::C64 | DType::C128 => 25,
        // Floats take nine; integers of 64 bits two more than their bytes.
        _ => 11,
    };
    // Lists within lists, as far as there are any.
    let (mut lists, mut within) = (1u64, 1u64);
    for &dim in tensor.shape().split_last().map_or(&[][..], |(_, outer)| outer) {
        within = within.saturating_mul(dim);
        lists = lists.saturating_add(within);
    }
    let elements = tensor.element_count().saturating_mul(element_len);
    lists.saturating_mul(LIST_LEN).saturating_add(elements)
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    out.extend_from_slice(bytes);
    Ok(())
}

impl Pickler<'_, '_> {
    /// A list of numbers, nested as deep as the tensor's rank.
    pub(super) fn list(&mut self, tensor: &TensorView<'_>, number: Option<usize>) -> Result<()> {
        self.spend(tensor, list_len(tensor))?;
        let shape = tensor.shape();
        let Some((&inner, outer)) = shape.split_last() else {
            let mut element = Vec::new();
            tensor.stream(|bytes| append(&mut element, bytes))?;
            self.element(tensor.dtype(), &element)?;
            return self.remember(number);
        };
        self.ops.op(EMPTY_LIST)?;
        self.remember(number)?;
        if tensor.element_count() == 0 {
            return self.empty_lists(outer);
        }
        // How many elements one list at each level has within it, the innermost last.
        let sizes: Vec<u64> = (1..shape.len())
            .map(|level| {
                shape.get(level..).unwrap_or_default().iter().fold(1u64, |size, &dim| size.saturating_mul(dim))
            })
            .collect();
        let dtype = tensor.dtype();
        let size = usize::try_from(dtype.bits().div_euclid(8)).unwrap_or(1);
        let (mut at, mut carry) = (0u64, Vec::new());
        tensor.stream(|bytes| {
            // Pieces need not end between elements.
            carry.extend_from_slice(bytes);
            let whole = carry.len().saturating_sub(carry.len().checked_rem(size).unwrap_or(0));
            let rest = carry.split_off(whole);
            for element in carry.chunks_exact(size) {
                self.list_element(dtype, element, at, inner, &sizes)?;
                at = at.saturating_add(1);
            }
            carry = rest;
            Ok(())
        })
    }

    /// An element of a list, and the lists that begin before it or end after it.
    fn list_element(&mut self, dtype: DType, element: &[u8], at: u64, inner: u64, sizes: &[u64]) -> Result<()> {
        for _ in sizes.iter().filter(|&&size| at.checked_rem(size) == Some(0)) {
            self.ops.op(EMPTY_LIST)?;
        }
        let within = at.checked_rem(inner).unwrap_or(0);
        if within.checked_rem(BATCH) == Some(0) {
            self.ops.op(MARK)?;
        }
        self.element(dtype, element)?;
        let next = within.saturating_add(1);
        if next == inner || next.checked_rem(BATCH) == Some(0) {
            self.ops.op(APPENDS)?;
        }
        for _ in sizes.iter().filter(|&&size| at.saturating_add(1).checked_rem(size) == Some(0)) {
            self.ops.op(APPEND)?;
        }
        Ok(())
    }

    /// What is within a list of lists that are empty at last.
    fn empty_lists(&mut self, shape: &[u64]) -> Result<()> {
        let Some((&count, within)) = shape.split_first() else { return Ok(()) };
        for _ in 0..count {
            self.ops.op(EMPTY_LIST)?;
            self.empty_lists(within)?;
            self.ops.op(APPEND)?;
        }
        Ok(())
    }

    /// A number as Python has it: what is narrower is widened, which loses nothing.
    fn element(&mut self, dtype: DType, bytes: &[u8]) -> Result<()> {
        let lost = || Error::invalid("an element of a list is cut off");
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk::<N>().copied()
        }
        match dtype {
            DType::Bool => self.ops.bool(bytes.first().is_some_and(|&byte| byte != 0)),
            DType::F64 => self.ops.float(f64::from_le_bytes(le(bytes).ok_or_else(lost)?)),
            DType::F32 => self.ops.float(widened(f32::from_le_bytes(le(bytes).ok_or_else(lost)?))),
            DType::F16 => self.ops.float(half::f16::from_le_bytes(le(bytes).ok_or_else(lost)?).into()),
            DType::BF16 => self.ops.float(half::bf16::from_le_bytes(le(bytes).ok_or_else(lost)?).into()),
            DType::C64 | DType::C128 => {
                let (real, imaginary) = bytes.split_at_checked(bytes.len().div_euclid(2)).ok_or_else(lost)?;
                let part = |bytes: &[u8]| match bytes.len() {
                    4 => le(bytes).map(|bytes| widened(f32::from_le_bytes(bytes))),
                    _ => le(bytes).map(f64::from_le_bytes),
                };
                self.complex(part(real).ok_or_else(lost)?, part(imaginary).ok_or_else(lost)?)
            }
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                let mut word = [0; 8];
                word.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
                self.ops.natural(u64::from_le_bytes(word))
            }
            _ => {
                let fill = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xFF } else { 0 };
                let mut word = [fill; 8];
                word.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
                self.ops.int(i64::from_le_bytes(word))
            }
        }
    }
}
