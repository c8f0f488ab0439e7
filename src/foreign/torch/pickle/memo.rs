//! What a pickle has given numbers to.

use std::collections::HashMap;

use super::Ref;
use crate::format::{len_u64, len_usize};

/// The memo: numbers are nearly always consecutive, but need not be.
#[derive(Default)]
pub(super) struct Memo {
    near: Vec<Option<Ref>>,
    /// Numbers beyond what is reasonable for an array.
    far: HashMap<u64, Ref>,
    count: u64,
}

/// How far beyond its length the array may grow at once: what is skipped costs memory that no opcode has paid for.
const GAP: u64 = 4;

impl Memo {
    pub(super) fn put(&mut self, number: u64, value: Ref) {
        let next = len_u64(self.near.len());
        if number < next.saturating_add(GAP)
            && let Some(place) = len_usize(number)
        {
            if number >= next {
                self.near.resize(place.saturating_add(1), None);
            }
            if let Some(place) = self.near.get_mut(place) {
                // One that was put far away before is hidden from now on, as it must be.
                if place.is_none() && self.far.remove(&number).is_none() {
                    self.count = self.count.saturating_add(1);
                }
                *place = Some(value);
            }
        } else if self.far.insert(number, value).is_none() {
            self.count = self.count.saturating_add(1);
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<Ref> {
        let near = len_usize(number).and_then(|number| *self.near.get(number)?);
        near.or_else(|| self.far.get(&number).copied())
    }

    /// How many places are taken up, used or not.
    pub(super) fn places(&self) -> u64 {
        len_u64(self.near.len()).saturating_add(len_u64(self.far.len()))
    }

    /// How many there are: what `MEMOIZE` takes for a number.
    pub(super) fn len(&self) -> u64 {
        self.count
    }
}
