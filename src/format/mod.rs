//! What the bytes mean: each noun of `spec/format.md` is a file here.
//!
//! Nothing in this room does I/O or allocates by a number from a file. [`header`], [`index`] and [`descriptor`] are the
//! structures, [`layout`] is where things lie, [`dtype`] what elements are, [`checksum`] what covers them, [`value`] the
//! nested values, and [`rules`] the rules that all of them enforce. `read` and `write` are built on this room and never on
//! each other.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

pub(crate) mod catalog;
pub mod checksum;
pub mod descriptor;
pub mod diagnosis;
pub mod dtype;
pub mod header;
pub mod index;
pub mod layout;
pub mod limits;
pub mod rules;
pub mod value;

/// A length in memory as a length in a file.
#[inline]
#[allow(clippy::as_conversions, reason = "usize is at most 64 bits wide on every target of Rust")]
pub(crate) const fn len_u64(len: usize) -> u64 {
    len as u64
}

/// A length from a file as a length in memory, if this machine can address it.
#[inline]
pub(crate) fn len_usize(len: u64) -> Option<usize> {
    usize::try_from(len).ok()
}
