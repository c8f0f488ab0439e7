//! Copying rows of a table into a buffer: where they lie, in which dtype, and whether they are whole.

use std::ops::Range;
use std::sync::Arc;

use super::Table;
use super::part::{Matrix, Part, Places};
use super::stack::Side;
use crate::error::{Error, ErrorKind, Result};
use crate::feature::convert::Conversion;
use crate::format::{len_u64, len_usize};
use crate::read::{Checks, Scratch};

/// Bytes that are converted at a time: they were just written, and are in the processor's cache.
const CONVERTED: usize = 64 << 10;

/// Which blocks count as checked.
#[derive(Clone, Debug)]
pub(crate) enum Checking {
    /// Nothing is checked.
    Off,
    /// What the checkpoints remember: each block is checked once, for as long as they are open.
    Remembered,
    /// What these remember, for each part of each side.
    Fresh(Arc<[Box<[Checks]>]>),
}

impl Checking {
    /// Nothing is remembered yet.
    ///
    /// # Errors
    /// What is broken in an index.
    pub(crate) fn fresh(table: &Table) -> Result<Checking> {
        let of_side = |side: &Side| side.stack.parts.iter().map(|part| part.checkpoint.new_checks()).collect();
        table.sides().iter().map(of_side).collect::<Result<_>>().map(Checking::Fresh)
    }

    fn of<'c>(&'c self, side: usize, number: usize, part: &'c Part) -> Option<&'c Checks> {
        match self {
            Checking::Off => None,
            Checking::Remembered => Some(part.checkpoint.checks()),
            Checking::Fresh(sides) => sides.get(side)?.get(number),
        }
    }
}

/// A block that was copied while another thread was checking it.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    side: usize,
    part: usize,
    matrix: usize,
    storage: u32,
    block: u64,
    /// The row it was copied for.
    row: u64,
}

/// Copies rows, one thread at a time. What is copied counts only after [`settle`](Gather::settle).
#[derive(Debug)]
pub(crate) struct Gather {
    table: Table,
    checking: Checking,
    scratch: Scratch,
    /// Rows before they are converted.
    unconverted: Vec<u8>,
    blocks: Vec<u64>,
    unsettled: Vec<Unsettled>,
}

/// Rows that follow each other in one matrix, and some of its columns.
struct Run<'t> {
    side: usize,
    number: usize,
    part: &'t Part,
    matrix_number: usize,
    matrix: &'t Matrix,
    /// Rows of the part.
    local: Range<u64>,
    /// The first row of the table.
    row: u64,
    /// Bytes of each row that are wanted.
    columns: Range<u64>,
}

impl Gather {
    pub(crate) fn new(table: &Table, checking: Checking) -> Gather {
        Gather {
            table: table.clone(),
            checking,
            scratch: Scratch::default(),
            unconverted: Vec::new(),
            blocks: Vec::new(),
            unsettled: Vec::new(),
        }
    }

    /// Which blocks count as checked.
    pub(crate) fn checking(&self) -> &Checking {
        &self.checking
    }

    /// Forgets what waits to be settled: the rows were given up.
    pub(crate) fn reset(&mut self) {
        self.unsettled.clear();
    }

    /// Copies rows, one after the other, in the table's dtype.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) with file, tensor, block and rows; [`Io`](ErrorKind::Io); [`InvalidInput`](ErrorKind::InvalidInput) if
    /// there is no such row, or the buffer is not of their length.
    pub(crate) fn copy_rows(&mut self, rows: &[u64], to: &mut [u8]) -> Result<()> {
        let row_len = self.table.row_byte_len();
        if rows.len().checked_mul(row_len) != Some(to.len()) {
            let message = format!("{} rows of {row_len} bytes do not take {} bytes", rows.len(), to.len());
            return Err(Error::invalid(message));
        }
        let table = self.table.clone();
        if let Some(row) = rows.iter().find(|&&row| row >= table.rows()) {
            return Err(Error::invalid(format!("there is no row {row} of {}", table.rows())));
        }
        let size = u64::from(table.dtype().bits()) / 8;
        let mut offset = 0u64;
        for segment in table.segments() {
            let Some(side) = table.sides().get(segment.side) else { continue };
            let place = |row: u64, hint: usize| side.stack.place(side.stack_row(row)?, hint);
            let mut hint = 0;
            let mut rest = rows;
            let mut done = 0usize;
            while let Some(&row) = rest.first() {
                let (number, first) = place(row, hint).ok_or_else(torn)?;
                hint = number;
                let part = side.stack.parts.get(number).ok_or_else(torn)?;
                let matrix = part.matrices.get(segment.matrix).ok_or_else(torn)?;
                // While a row is copied, the next one is on its way, if it is somewhere else.
                if let Some(&next) = rest.get(1).filter(|&&next| next != row.saturating_add(1))
                    && let Some((number, local)) = place(next, hint)
                    && let Some(part) = side.stack.parts.get(number)
                    && let Some((storage, place)) = part.matrices.get(segment.matrix).and_then(|m| m.place(local))
                {
                    part.checkpoint.prefetch(storage, &place);
                }
                // Rows that follow each other, in the table and in the part.
                let most = part.rows.saturating_sub(first);
                let follows =
                    |(i, &next): (u64, &u64)| i < most && next.checked_sub(row) == Some(i) && side.follows(row, i);
                let count = (0..).zip(rest).take_while(|&at| follows(at)).count().max(1);
                let source_size = u64::from(matrix.dtype.bits()) / 8;
                let bytes = |column: u64| column.saturating_mul(source_size);
                let run = Run {
                    side: segment.side,
                    number,
                    part,
                    matrix_number: segment.matrix,
                    matrix,
                    local: first..first.saturating_add(len_u64(count)),
                    row,
                    columns: if segment.columns == (0..matrix.width) {
                        0..matrix.row_len
                    } else {
                        bytes(segment.columns.start)..bytes(segment.columns.end)
                    },
                };
                let lines = Lines {
                    start: done
                        .saturating_mul(row_len)
                        .saturating_add(len_usize(offset.saturating_mul(size)).ok_or_else(torn)?),
                    len: len_usize(segment.width().saturating_mul(size)).ok_or_else(torn)?,
                    step: row_len,
                };
                let conversion = Conversion::new(matrix.dtype, table.dtype())?;
                self.copy_run(&run, &lines, conversion.as_ref(), to)?;
                done = done.saturating_add(count);
                rest = rest.get(count..).unwrap_or_default();
            }
            offset = offset.saturating_add(segment.width());
        }
        Ok(())
    }

    fn copy_run(&mut self, run: &Run<'_>, lines: &Lines, conversion: Option<&Conversion>, to: &mut [u8]) -> Result<()> {
        let count = len_usize(run.local.end.saturating_sub(run.local.start)).ok_or_else(torn)?;
        let whole = run.matrix.is_dense() && run.columns == (0..run.matrix.row_len);
        let source_len = len_usize(run.columns.end.saturating_sub(run.columns.start)).ok_or_else(torn)?;
        // How many rows are taken at a time.
        let together = match (whole && lines.step == lines.len, conversion) {
            (true, None) => count,
            (true, Some(_)) => CONVERTED.checked_div(source_len).unwrap_or(count).max(1),
            (false, _) => 1,
        };
        let mut done = 0usize;
        while done < count {
            let now = together.min(count.saturating_sub(done));
            let line = lines.range(done, now).ok_or_else(torn)?;
            let to = to.get_mut(line).ok_or_else(torn)?;
            let local = run.local.start.saturating_add(len_u64(done));
            match conversion {
                None => self.copy(run, local, now, to)?,
                Some(conversion) => {
                    let mut from = std::mem::take(&mut self.unconverted);
                    let len = source_len.saturating_mul(now);
                    if from.len() < len {
                        from.resize(len, 0);
                    }
                    let bytes = from.get_mut(..len).unwrap_or_default();
                    let copied = self.copy(run, local, now, bytes).and_then(|()| conversion.convert(bytes, to));
                    self.unconverted = from;
                    copied?;
                }
            }
            done = done.saturating_add(now);
        }
        Ok(())
    }

    /// Copies rows of a part that lie together, or some columns of one.
    fn copy(&mut self, run: &Run<'_>, local: u64, count: usize, to: &mut [u8]) -> Result<()> {
        let (storage, place) = run.matrix.place(local).ok_or_else(torn)?;
        let start = place.start.saturating_add(run.columns.start);
        let range = start..start.saturating_add(len_u64(to.len()));
        let checks = self.checking.of(run.side, run.number, run.part);
        let checkpoint = &run.part.checkpoint;
        let copied = checkpoint.copy_storage(storage, range, to, checks, &mut self.scratch, &mut self.blocks);
        let row = run.row.saturating_add(local.saturating_sub(run.local.start));
        self.unsettled.extend(self.blocks.drain(..).map(|block| Unsettled {
            side: run.side,
            part: run.number,
            matrix: run.matrix_number,
            storage,
            block,
            row,
        }));
        copied.map_err(|e| told(e, run.part, run.matrix, row..row.saturating_add(len_u64(count))))
    }

    /// Waits for what other threads find of blocks that were copied: the rows may be used afterwards.
    ///
    /// # Errors
    /// As [`copy_rows`](Self::copy_rows).
    pub(crate) fn settle(&mut self) -> Result<()> {
        let table = self.table.clone();
        for unsettled in std::mem::take(&mut self.unsettled) {
            let Unsettled { side, part: number, matrix, storage, block, row } = unsettled;
            let part = table.sides().get(side).and_then(|side| side.stack.parts.get(number)).ok_or_else(torn)?;
            let Some(checks) = self.checking.of(side, number, part) else { continue };
            let settled = part.checkpoint.settle(storage, block, checks, &mut self.scratch);
            settled.map_err(|e| match part.matrices.get(matrix) {
                Some(matrix) => told(e, part, matrix, row..row.saturating_add(1)),
                None => e,
            })?;
        }
        Ok(())
    }

    /// Whether a row touches a block that was found damaged.
    pub(crate) fn is_damaged(&self, row: u64) -> Result<bool> {
        for segment in self.table.segments() {
            let Some(side) = self.table.sides().get(segment.side) else { continue };
            let (number, local) = side.stack_row(row).and_then(|row| side.stack.place(row, 0)).ok_or_else(torn)?;
            let part = side.stack.parts.get(number).ok_or_else(torn)?;
            let matrix = part.matrices.get(segment.matrix).ok_or_else(torn)?;
            let (storage, place) = matrix.place(local).ok_or_else(torn)?;
            let Some(checks) = self.checking.of(segment.side, number, part) else { continue };
            let size = u64::from(matrix.dtype.bits()) / 8;
            let column = |column: u64| place.start.saturating_add(column.saturating_mul(size));
            let range = column(segment.columns.start)..column(segment.columns.end);
            if part.checkpoint.touches_damage(storage, &range, checks)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says that rows will be read soon. Best effort.
    pub(crate) fn will_need(&self, rows: &[u64]) {
        for segment in self.table.segments() {
            let Some(side) = self.table.sides().get(segment.side) else { continue };
            for &row in rows {
                if let Some((number, local)) = side.stack_row(row).and_then(|row| side.stack.place(row, 0))
                    && let Some(part) = side.stack.parts.get(number)
                    && let Some((storage, place)) = part.matrices.get(segment.matrix).and_then(|m| m.place(local))
                {
                    let checks = self.checking.of(segment.side, number, part);
                    part.checkpoint.will_need_soon(storage, place, checks);
                }
            }
        }
    }

    /// Says that rows that follow each other will not be read again soon. Best effort.
    pub(crate) fn forget(&self, rows: Range<u64>) {
        for segment in self.table.segments() {
            let Some(side) = self.table.sides().get(segment.side).filter(|side| side.rows.is_none()) else { continue };
            let mut row = rows.start;
            while let Some((number, local)) = side.stack.place(row, 0).filter(|_| row < rows.end) {
                let Some(part) = side.stack.parts.get(number) else { break };
                let count = part.rows.saturating_sub(local).min(rows.end.saturating_sub(row));
                if let Some(matrix) = part.matrices.get(segment.matrix)
                    && let Places::Even { .. } = matrix.places
                    && let Some((storage, first)) = matrix.place(local)
                    && let Some((_, last)) = matrix.place(local.saturating_add(count.saturating_sub(1)))
                {
                    part.checkpoint.forget(storage, first.start..last.end);
                }
                row = row.saturating_add(count.max(1));
            }
        }
    }
}

/// Where rows go in a buffer: so many bytes of each, so far apart.
struct Lines {
    start: usize,
    len: usize,
    step: usize,
}

impl Lines {
    /// The bytes of `count` lines from line `first` on: of one, or of several without gaps.
    fn range(&self, first: usize, count: usize) -> Option<Range<usize>> {
        let start = first.checked_mul(self.step)?.checked_add(self.start)?;
        Some(start..start.checked_add(self.len.checked_mul(count)?)?)
    }
}

impl Side {
    /// Whether row `row + i` of the table is `i` rows after row `row` in the stack.
    #[inline]
    fn follows(&self, row: u64, i: u64) -> bool {
        self.rows.is_none()
            || self
                .stack_row(row)
                .zip(self.stack_row(row.saturating_add(i)))
                .is_some_and(|(a, b)| b.checked_sub(a) == Some(i))
    }
}

/// An error of a part, with the tensor and the rows of the table that it concerns.
#[cold]
pub(super) fn told(e: Error, part: &Part, matrix: &Matrix, rows: Range<u64>) -> Error {
    let words = match rows.end.saturating_sub(rows.start) {
        0 | 1 => format!("row {} of the table: ", rows.start),
        _ => format!("rows {} to {} of the table: ", rows.start, rows.end.saturating_sub(1)),
    };
    let e = if e.kind() == ErrorKind::InvalidInput { e } else { e.with_words_before(&words) };
    part.checkpoint.in_file(e.with_tensor(&matrix.name))
}

/// A row that was found before is not there: a defect of ours.
#[cold]
fn torn() -> Error {
    Error::invalid("a row of the table is not where it was")
}
