//! Filling one batch: what a thread of a loader does.

use std::ops::Range;
use std::sync::Arc;

use super::options::OnDamage;
use crate::error::{Error, ErrorKind, Result};
use crate::feature::device::{DEVICE_ALIGNMENT, Device};
use crate::feature::order::BatchPlan;
use crate::feature::table::{Gather, Table};
use crate::format::{len_u64, len_usize};

/// Bytes of a label.
const LABEL_LEN: usize = size_of::<i64>();

/// Where in a batch's memory its features and labels lie: the same in every batch of a loader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) row_len: usize,
    /// Where labels begin.
    pub(super) labels_at: usize,
    pub(super) byte_len: usize,
    /// Rows that go into a part of memory.
    rows_per_part: usize,
    labels_per_part: usize,
}

impl Shape {
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a batch is too long for this machine, or a row for the device's buffers.
    pub(super) fn of(table: &Table, batch_len: u64, max_part_len: usize) -> Result<Shape> {
        let row_len = table.row_byte_len();
        // A table with fewer rows than a batch needs memory for those only.
        let rows = len_usize(batch_len.min(table.rows()));
        let too_long = || Error::invalid(format!("a batch of {batch_len} rows of {row_len} bytes is too long"));
        let rows = rows.ok_or_else(too_long)?;
        let features = rows.checked_mul(row_len).and_then(|len| len.checked_next_multiple_of(DEVICE_ALIGNMENT));
        let labels = if table.labels().is_some() { rows.checked_mul(LABEL_LEN) } else { Some(0) };
        let labels_at = features.ok_or_else(too_long)?;
        let byte_len = labels.and_then(|labels| labels.checked_add(labels_at));
        let byte_len = byte_len.filter(|&len| isize::try_from(len).is_ok()).ok_or_else(too_long)?;
        let rows_per_part = if row_len == 0 { rows.max(1) } else { max_part_len.checked_div(row_len).unwrap_or(0) };
        if rows_per_part == 0 {
            let message = format!("a row takes {row_len} bytes, and the device's buffers hold {max_part_len}");
            return Err(Error::invalid(message).with_advice("give the device longer buffers"));
        }
        let labels_per_part = max_part_len.checked_div(LABEL_LEN).unwrap_or(0);
        if labels_per_part == 0 && table.labels().is_some() {
            let message = format!("a label takes {LABEL_LEN} bytes, and the device's buffers hold {max_part_len}");
            return Err(Error::invalid(message).with_advice("give the device longer buffers"));
        }
        let labels_per_part = labels_per_part.max(1);
        Ok(Shape { row_len, labels_at, byte_len, rows_per_part, labels_per_part })
    }

    /// The bytes of so many rows.
    pub(super) fn features(&self, rows: usize) -> Range<usize> {
        0..rows.saturating_mul(self.row_len)
    }

    /// The bytes of so many labels.
    pub(super) fn labels(&self, rows: usize) -> Range<usize> {
        self.labels_at..self.labels_at.saturating_add(rows.saturating_mul(LABEL_LEN))
    }
}

/// A batch that is filled, and not yet handed out.
#[derive(Debug)]
pub(super) struct Filled<M> {
    pub(super) memory: M,
    pub(super) rows: Vec<u64>,
    pub(super) labels: Option<Vec<i64>>,
    pub(super) skipped: Vec<u64>,
    /// Whether the memory is not the device's own.
    pub(super) lent: bool,
}

/// What a thread needs to fill batches.
pub(super) struct Filler<D: Device> {
    pub(super) device: Arc<D>,
    pub(super) lane: D::Lane,
    pub(super) gather: Gather,
    pub(super) table: Table,
    pub(super) plan: Arc<BatchPlan>,
    pub(super) shape: Shape,
    pub(super) on_damage: OnDamage,
    /// Whether the page cache is to be spared.
    pub(super) spare: bool,
    /// Whether batches are copied even if they could be lent.
    pub(super) copied: bool,
}

impl<D: Device> Filler<D> {
    /// Fills a batch, into this memory if there is some; what is not needed stays.
    ///
    /// # Errors
    /// What is wrong with the files, with the batch's number; what the device says.
    pub(super) fn fill(&mut self, batch: u64, memory: &mut Option<D::Memory>) -> Result<Filled<D::Memory>> {
        // What a batch left that was given up, if only because a device's implementation panicked, is none of this one's.
        self.gather.reset();
        self.try_fill(batch, memory).map_err(|e| e.with_words_before(&format!("batch {batch}: ")))
    }

    fn try_fill(&mut self, batch: u64, memory: &mut Option<D::Memory>) -> Result<Filled<D::Memory>> {
        if let Some(filled) = self.lend(batch)? {
            return Ok(filled);
        }
        let mut memory = match memory.take() {
            Some(memory) => memory,
            None => self.device.allocate(self.shape.byte_len)?,
        };
        let mut rows = Vec::new();
        self.plan.fill(batch, &mut rows)?;
        let mut skipped = Vec::new();
        if self.on_damage == OnDamage::SkipRows {
            self.leave_out_damaged(&mut rows, &mut skipped)?;
        }
        if self.spare && !self.plan.is_sequential() {
            self.gather.will_need(&rows);
        }
        let labels = loop {
            match self.copy(&rows, &mut memory) {
                Ok(labels) => break labels,
                Err(e) => {
                    self.gather.reset();
                    // What is not known to be damaged now would fail again.
                    if self.on_damage == OnDamage::Fail
                        || !is_damage(&e)
                        || !self.leave_out_damaged(&mut rows, &mut skipped)?
                    {
                        return Err(e);
                    }
                }
            }
        };
        if self.spare
            && let Some(range) = self.plan.batch_range(batch)
        {
            self.gather.forget(range);
        }
        skipped.sort_unstable();
        Ok(Filled { memory, rows, labels, skipped, lent: false })
    }

    /// A batch that is used where it lies, if that can be.
    fn lend(&mut self, batch: u64) -> Result<Option<Filled<D::Memory>>> {
        if self.copied || self.table.labels().is_some() {
            return Ok(None);
        }
        let Some(range) = self.plan.batch_range(batch).filter(|range| !range.is_empty()) else { return Ok(None) };
        let lent = match self.table.lend(range.clone(), self.gather.checking()) {
            // The rows that are not damaged are copied.
            Err(e) if self.on_damage == OnDamage::SkipRows && is_damage(&e) => return Ok(None),
            lent => lent?,
        };
        let Some(memory) = lent.and_then(|lent| self.device.lend(lent)) else { return Ok(None) };
        Ok(Some(Filled { memory, rows: range.collect(), labels: None, skipped: Vec::new(), lent: true }))
    }

    /// Takes out rows that are known to be damaged; says whether there were any.
    fn leave_out_damaged(&self, rows: &mut Vec<u64>, skipped: &mut Vec<u64>) -> Result<bool> {
        let mut kept = Vec::with_capacity(rows.len());
        for &row in rows.iter() {
            let list = if self.gather.is_damaged(row)? { &mut *skipped } else { &mut kept };
            list.push(row);
        }
        let any = kept.len() < rows.len();
        *rows = kept;
        Ok(any)
    }

    /// Copies rows and labels into memory, part by part.
    fn copy(&mut self, rows: &[u64], memory: &mut D::Memory) -> Result<Option<Vec<i64>>> {
        let labels = self.table.labels().map(|labels| {
            let label = |&row: &u64| len_usize(row).and_then(|row| labels.get(row)).copied().unwrap_or(0);
            rows.iter().map(label).collect::<Vec<i64>>()
        });
        let shape = self.shape;
        let chunks = || rows.chunks(shape.rows_per_part);
        let label_chunks = || labels.iter().flat_map(|labels| labels.chunks(shape.labels_per_part));
        let gap = shape.labels_at.saturating_sub(shape.features(rows.len()).end);
        let lens = chunks().map(|rows| shape.features(rows.len()).end).chain([gap]);
        let lens: Vec<usize> = lens.chain(label_chunks().map(size_of_val)).collect();
        let (device, lane, gather) = (&*self.device, &mut self.lane, &mut self.gather);
        {
            let mut parts = device.parts(memory, &lens)?.into_iter();
            for (rows, part) in chunks().zip(&mut parts) {
                device.fill(lane, part, &mut |buffer| gather.copy_rows(rows, buffer))?;
            }
            // The gap is left as it is.
            for (labels, part) in label_chunks().zip(parts.skip(1)) {
                device.fill(lane, part, &mut |buffer| {
                    buffer.copy_from_slice(bytemuck::cast_slice(labels));
                    Ok(())
                })?;
            }
        }
        gather.settle()?;
        device.finish(lane, memory)?;
        Ok(labels)
    }
}

/// Whether it is the file's data that is at fault.
fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Malformed)
}

/// The bytes that an epoch over all rows reads.
pub(super) fn bytes_of(table: &Table) -> u64 {
    table.rows().saturating_mul(len_u64(table.row_byte_len()))
}
