//! Long lists of numbers: one tensor that remembers it was a list.

use super::super::float::narrowed;
use super::super::pickle::{Items, Ref};
use crate::format::dtype::DType;
use crate::format::len_u64;
use crate::format::value::LIST_LEN;

/// The dtype that holds every element exactly, if the list is long enough, of numbers of one kind and nothing else, and there is one.
pub(super) fn dtype_of(items: &Items) -> Option<DType> {
    if items.len() < LIST_LEN {
        return None;
    }
    match items {
        Items::Floats(floats) => Some(float_dtype(floats.iter().copied())),
        Items::Refs(refs) => {
            let (first, rest) = refs.split_first()?;
            let same = |one: &Ref| std::mem::discriminant(one) == std::mem::discriminant(first);
            if !matches!(first, Ref::Float(_) | Ref::Int(_) | Ref::Bool(_)) || !rest.iter().all(same) {
                return None;
            }
            Some(match first {
                Ref::Int(_) => DType::I64,
                Ref::Bool(_) => DType::Bool,
                _ => float_dtype(refs.iter().filter_map(|item| match item {
                    Ref::Float(value) => Some(*value),
                    _ => None,
                })),
            })
        }
    }
}

/// `f32` if it holds all of them to the last bit.
fn float_dtype(mut floats: impl Iterator<Item = f64>) -> DType {
    if floats.all(|value| narrowed(value).is_some()) { DType::F32 } else { DType::F64 }
}

/// Adds the elements to what a storage of that dtype holds; gives the byte at which they begin.
pub(super) fn append(items: &Items, dtype: DType, out: &mut Vec<u8>) -> u64 {
    let start = len_u64(out.len());
    for i in 0..items.len() {
        match (items.get(i), dtype) {
            (Some(Ref::Float(value)), DType::F32) => {
                out.extend_from_slice(&narrowed(value).unwrap_or_default().to_le_bytes());
            }
            (Some(Ref::Float(value)), _) => out.extend_from_slice(&value.to_le_bytes()),
            (Some(Ref::Int(value)), _) => out.extend_from_slice(&value.to_le_bytes()),
            (Some(Ref::Bool(value)), _) => out.push(value.into()),
            _ => {}
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(value: Ref, len: usize) -> Items {
        Items::Refs(vec![value; len])
    }

    #[test]
    fn only_long_lists_of_one_kind_become_tensors() {
        assert_eq!(dtype_of(&list(Ref::Int(1), LIST_LEN)), Some(DType::I64));
        assert_eq!(dtype_of(&list(Ref::Bool(true), LIST_LEN)), Some(DType::Bool));
        assert_eq!(dtype_of(&list(Ref::Int(1), LIST_LEN - 1)), None);
        assert_eq!(dtype_of(&list(Ref::None, LIST_LEN)), None);
        let mut mixed = vec![Ref::Int(1); LIST_LEN];
        mixed.push(Ref::Bool(false));
        assert_eq!(dtype_of(&Items::Refs(mixed)), None);
    }

    #[test]
    fn floats_are_narrowed_only_if_not_a_bit_is_lost() {
        let of = |value: f64| dtype_of(&Items::Floats([vec![0.5; LIST_LEN], vec![value]].concat()));
        for value in [0.0, -0.0, 1.0e-45_f32.into(), f32::MAX.into(), f64::INFINITY, f64::NAN] {
            assert_eq!(of(value), Some(DType::F32), "{value}");
        }
        for value in [0.1, 1.0e-46, f64::MAX, 1e300, f64::from_bits(0x7FF8_0000_0000_0001)] {
            assert_eq!(of(value), Some(DType::F64), "{value}");
        }
        // A signalling NaN would become a quiet one.
        assert_eq!(of(f64::from_bits(0x7FF0_0000_2000_0000)), Some(DType::F64));
    }
}
