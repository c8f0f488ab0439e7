//! Tables of features over checkpoints: rows, columns, ids and labels. Nothing is copied until rows are asked for.

mod gather;
mod join;
mod layout;
mod locate;
mod part;
mod stack;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use gather::{Checking, Gather};
pub use join::{Join, JoinOptions, OnMissing};
pub use layout::Layout;
use part::{Columns, Matrix, Part, Texts};
use stack::{RowMap, Side, Stack};

use super::convert::Conversion;
use super::device::Lent;
use super::ids::{Duplicates, IdIndex, Ids, IdsBuilder};
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::{DType, Element};
use crate::format::{len_u64, len_usize};
use crate::open::OpenOptions;
use crate::read::Checkpoint;

/// Rows are lent only if they begin at a multiple of this, in bytes: enough for every dtype, and for the widest instructions but one.
const LENT_ALIGNMENT: usize = 16;

/// How the files of a table are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Rows are read from the files when they are asked for, through the system's page cache. Nothing that happens to the files hurts.
    #[default]
    Read,
    /// Rows are read past the page cache, where the system can do that: for tables of more than the memory.
    Direct,
    /// All files are read into memory, and verified, before the table is there.
    Memory,
}

/// A table of features: rows of numbers over one or many checkpoints, with ids and labels.
///
/// It is a view. Files stay where they are; a table that [joins](Table::join) others, takes [columns](Table::columns) or
/// [rows](Table::take_rows) of one, or has another [dtype](Table::cast), refers to the same files, and a row is put together when it is read.
/// So it costs little to make, and cloning it costs nothing.
///
/// Rows are read with [`read_rows`](Table::read_rows), borrowed with [`slice`](Table::slice), or streamed in [`Batches`](super::Batches).
/// All are verified the first time that a block of a file is touched; what was verified is remembered.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("part-00000.dolmen");
/// use dolmen::feature::{Layout, Table};
///
/// # let mut b = dolmen::Builder::new();
/// # b.tensor("data", (&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]))?;
/// # b.save(&path)?;
/// let table = Table::open([&path], &Layout::new())?;
/// assert_eq!((table.rows(), table.width()), (3, 2));
/// assert_eq!(table.read_rows::<f32>(&[2, 0])?, [5.0, 6.0, 1.0, 2.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Table(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    rows: u64,
    sides: Vec<Side>,
    segments: Vec<Segment>,
    dtype: DType,
    width: u64,
    ids: Option<Arc<Ids>>,
    labels: Option<Arc<[i64]>>,
    surplus_ids: u64,
}

/// Columns of a matrix of a side.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) side: usize,
    pub(crate) matrix: usize,
    pub(crate) columns: Range<u64>,
}

impl Segment {
    fn width(&self) -> u64 {
        self.columns.end.saturating_sub(self.columns.start)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("rows", &self.rows())
            .field("width", &self.width())
            .field("dtype", &self.dtype())
            .field("files", &self.checkpoints().count())
            .field("ids", &self.0.ids.is_some())
            .field("labels", &self.0.labels.is_some())
            .finish_non_exhaustive()
    }
}

impl Table {
    /// A table over files, one below the other in this order, whose rows are read when they are asked for.
    ///
    /// **Cost**: opens each file, on several threads, and reads its document, ids and labels; no features.
    ///
    /// # Errors
    /// As [`Checkpoint::open_on_demand`]; [`InvalidInput`](ErrorKind::InvalidInput) or [`NotFound`](ErrorKind::NotFound) if a file does not have
    /// what the layout names, if it is not clear what is meant, or if the files do not go together.
    pub fn open<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, layout: &Layout) -> Result<Table> {
        Table::open_with(paths, layout, Access::Read)
    }

    /// As [`open`](Self::open), read another way.
    ///
    /// # Errors
    /// As [`open`](Self::open); with [`Access::Memory`] as [`Checkpoint::open`].
    pub fn open_with<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
        layout: &Layout,
        access: Access,
    ) -> Result<Table> {
        let options = OpenOptions::new().threads(1).direct(access == Access::Direct);
        Table::of_paths(paths, layout, |path| match access {
            Access::Read | Access::Direct => options.open_on_demand(path),
            Access::Memory => options.open(path),
        })
    }

    /// As [`open`](Self::open), with the files mapped: rows that are in the page cache are used where they lie.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Safety
    /// As [`Checkpoint::map`], of every file, for as long as the table or anything made of it lives.
    pub unsafe fn map<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, layout: &Layout) -> Result<Table> {
        let options = OpenOptions::new().threads(1);
        // SAFETY: the caller's promise is the same.
        Table::of_paths(paths, layout, |path| unsafe { options.map(path) })
    }

    fn of_paths<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
        layout: &Layout,
        open: impl Fn(&Path) -> Result<Checkpoint> + Sync,
    ) -> Result<Table> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().to_path_buf()).collect();
        Table::of_parts(paths.len(), layout, |number| {
            let path = paths.get(number).map(PathBuf::as_path).unwrap_or(Path::new(""));
            open(path).map(Arc::new)
        })
    }

    /// A table over checkpoints that are open, one below the other.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_checkpoints(
        checkpoints: impl IntoIterator<Item = impl Into<Arc<Checkpoint>>>,
        layout: &Layout,
    ) -> Result<Table> {
        let checkpoints: Vec<Arc<Checkpoint>> = checkpoints.into_iter().map(Into::into).collect();
        let nth = |number: usize| {
            let checkpoint = checkpoints.get(number);
            checkpoint.map(Arc::clone).ok_or_else(|| Error::invalid("there is no such checkpoint"))
        };
        Table::of_parts(checkpoints.len(), layout, nth)
    }

    fn of_parts(
        count: usize,
        layout: &Layout,
        open: impl Fn(usize) -> Result<Arc<Checkpoint>> + Sync,
    ) -> Result<Table> {
        if count == 0 {
            return Err(Error::invalid("there are no checkpoints to make a table of"));
        }
        let opened: Vec<Mutex<Option<(Part, Columns)>>> = (0..count).map(|_| Mutex::new(None)).collect();
        // Files wait for the disk more than they compute, but each also decodes its document.
        let threads = crate::read::default_threads().min(count);
        crate::read::for_each(
            threads,
            opened.iter().enumerate(),
            || (),
            |(), (number, place)| {
                let part = Part::of(open(number)?, layout)?;
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
                Ok(())
            },
        )?;
        let parts = opened.into_iter().filter_map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        Table::of_opened(parts.collect())
    }

    fn of_opened(opened: Vec<(Part, Columns)>) -> Result<Table> {
        let agreed = agreed_matrices(opened.iter().map(|(part, _)| part))?;
        let has_ids = all_or_none(&opened, "ids", |columns| columns.ids.is_some())?;
        let has_labels = all_or_none(&opened, "labels", |columns| columns.labels.is_some())?;
        let (mut ids, mut labels) = (IdsBuilder::new(), Vec::new());
        let mut surplus_ids = 0u64;
        let mut parts = Vec::with_capacity(opened.len());
        for (part, columns) in opened {
            let rows = len_usize(part.rows).unwrap_or(usize::MAX);
            if let Some(texts) = &columns.ids {
                surplus_ids = surplus_ids.saturating_add(texts.len().saturating_sub(part.rows));
            }
            match columns.ids {
                Some(Texts::Texts(texts)) => texts.iter().take(rows).try_for_each(|text| ids.push(text))?,
                Some(Texts::Integers(integers)) => {
                    integers.iter().take(rows).try_for_each(|integer| ids.push(&integer.to_string()))?;
                }
                None => {}
            }
            labels.extend(columns.labels.unwrap_or_default());
            parts.push(part);
        }
        let stack = Stack::new(parts)?;
        let segment =
            |(number, &(_, width)): (usize, &(DType, u64))| Segment { side: 0, matrix: number, columns: 0..width };
        let segments = agreed.iter().enumerate().map(segment);
        let width = agreed.iter().try_fold(0u64, |all, (_, width)| all.checked_add(*width));
        let width = width.ok_or_else(|| Error::invalid("the width of all matrices overflows"))?;
        let table = Inner {
            rows: stack.rows(),
            segments: segments.collect(),
            sides: vec![Side { stack: Arc::new(stack), rows: None }],
            dtype: agreed.first().map_or(DType::F32, |(dtype, _)| *dtype),
            width,
            ids: has_ids.then(|| Arc::new(ids.finish())),
            labels: has_labels.then(|| labels.into()),
            surplus_ids,
        };
        Table::checked(table)
    }

    /// Checks that every matrix can be given in the table's dtype, and that a row has a length.
    fn checked(inner: Inner) -> Result<Table> {
        for segment in &inner.segments {
            let Some(side) = inner.sides.get(segment.side) else { continue };
            for part in &side.stack.parts {
                let Some(matrix) = part.matrices.get(segment.matrix).filter(|_| part.rows > 0) else { continue };
                Conversion::new(matrix.dtype, inner.dtype)
                    .map_err(|e| part.checkpoint.in_file(e.with_tensor(&matrix.name)))?;
                // Columns of packed dtypes, several elements to a byte, could not be cut out.
                if !inner.dtype.bits().is_multiple_of(8) {
                    let e = Error::invalid(format!("a table cannot have dtype {}: it is packed", inner.dtype));
                    return Err(part.checkpoint.in_file(e.with_tensor(&matrix.name)));
                }
            }
        }
        let bits = inner.width.checked_mul(inner.dtype.bits().into());
        if bits.is_none_or(|bits| len_usize(bits / 8).is_none()) {
            return Err(Error::invalid(format!("a row of {} elements has too many bytes", inner.width)));
        }
        Ok(Table(Arc::new(inner)))
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.0.rows
    }

    /// Elements of a row.
    pub fn width(&self) -> u64 {
        self.0.width
    }

    /// The dtype in which rows are given: that of the first file that has rows, and of its first matrix. What has another one is converted, so
    /// choose with [`cast`](Self::cast) where files or matrices differ and nothing may be lost.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Bytes of a row.
    pub fn row_byte_len(&self) -> usize {
        // Checked when the table was made.
        len_usize(self.width().saturating_mul(self.dtype().bits().into()) / 8).unwrap_or(usize::MAX)
    }

    /// The checkpoints that it is made of; one that several matrices are taken from comes once for each table that was joined.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        self.0.sides.iter().flat_map(|side| side.stack.parts.iter().map(|part| &part.checkpoint))
    }

    /// The id of a row; `None` if there is no such row, or the table has no ids.
    pub fn id(&self, row: u64) -> Option<&str> {
        self.0.ids.as_ref()?.get(row)
    }

    /// The ids of all rows, if it has ids. Integers are given as decimal text.
    pub fn ids(&self) -> Option<&Ids> {
        self.0.ids.as_deref()
    }

    /// The row of an id; the first, if several rows have it ([`duplicates`](Self::duplicates) tells).
    ///
    /// **Cost**: the first time, an index of all ids: some 10 bytes and 100 ns for each.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the table has no ids; [`NotFound`](ErrorKind::NotFound) if no row has this one;
    /// [`Io`](ErrorKind::Io) without memory for the index.
    pub fn row_of(&self, id: &str) -> Result<u64> {
        let missing = || Error::new(ErrorKind::NotFound, format!("no row has the id {}", crate::error::quoted(id)));
        self.id_index()?.find(id).ok_or_else(missing)
    }

    /// Which ids several rows have.
    ///
    /// # Errors
    /// As [`row_of`](Self::row_of).
    pub fn duplicates(&self) -> Result<Duplicates<'_>> {
        Ok(self.id_index()?.duplicates())
    }

    fn id_index(&self) -> Result<IdIndex<'_>> {
        self.ids_or_error()?.index()
    }

    fn ids_or_error(&self) -> Result<&Ids> {
        self.ids().ok_or_else(|| {
            Error::invalid("the table has no ids").with_advice("name them in the layout, if the files have any")
        })
    }

    /// How many ids of its files name no row, because a file has more ids than rows.
    pub fn surplus_ids(&self) -> u64 {
        self.0.surplus_ids
    }

    /// The labels, one for each row, if it has labels.
    pub fn labels(&self) -> Option<&[i64]> {
        self.0.labels.as_deref()
    }

    /// Columns `columns` of it.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there are no such columns.
    pub fn columns(&self, columns: Range<u64>) -> Result<Table> {
        if columns.start > columns.end || columns.end > self.width() {
            let message = format!("there are no columns {}..{} of {}", columns.start, columns.end, self.width());
            return Err(Error::invalid(message));
        }
        let mut segments = Vec::new();
        let mut at = 0u64;
        for segment in &self.0.segments {
            let end = at.saturating_add(segment.width());
            let cut = columns.start.max(at)..columns.end.min(end);
            if cut.start < cut.end {
                // Within the segment, whose columns do not overflow.
                let within = |column: u64| segment.columns.start.saturating_add(column.saturating_sub(at));
                segments.push(Segment { columns: within(cut.start)..within(cut.end), ..segment.clone() });
            }
            at = end;
        }
        let width = columns.end.saturating_sub(columns.start);
        Table::checked(Inner { segments, width, ..Inner::clone(&self.0) })
    }

    /// These rows of it, in this order; a row may come more than once.
    ///
    /// **Cost**: 4 bytes for each row (8 for tables of 2^32 rows), and their ids and labels.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no such row; [`Io`](ErrorKind::Io) without the memory.
    pub fn take_rows(&self, rows: &[u64]) -> Result<Table> {
        let map = Arc::new(RowMap::new(rows.iter().copied(), self.rows())?);
        let sides = self.0.sides.iter().map(|side| side.taking(&map)).collect::<Result<_>>()?;
        let ids = self.0.ids.as_ref().map(|ids| {
            let mut taken = IdsBuilder::new();
            rows.iter().filter_map(|&row| ids.get(row)).try_for_each(|id| taken.push(id))?;
            Ok::<_, Error>(Arc::new(taken.finish()))
        });
        let labels =
            self.0.labels.as_ref().map(|labels| {
                rows.iter().filter_map(|&row| labels.get(len_usize(row)?).copied()).collect::<Arc<[i64]>>()
            });
        let inner = Inner { rows: len_u64(rows.len()), sides, ids: ids.transpose()?, labels, ..Inner::clone(&self.0) };
        Ok(Table(Arc::new(inner)))
    }

    /// The same rows in another dtype: f16, bf16, f32 or f64. They are converted when they are read, rounded to the nearest.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for dtypes that cannot be converted.
    pub fn cast(&self, dtype: DType) -> Result<Table> {
        Table::checked(Inner { dtype, ..Inner::clone(&self.0) })
    }

    /// The rows' elements, one row after the other, verified.
    ///
    /// **Shape**: the number of rows, times [`width`](Self::width).
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `T` is not the table's dtype, or there is no such row;
    /// [`Corrupt`](ErrorKind::Corrupt) with file, tensor and block if their data is damaged; [`Io`](ErrorKind::Io).
    pub fn read_rows<T: Element + bytemuck::Pod>(&self, rows: &[u64]) -> Result<Vec<T>> {
        self.check_dtype::<T>()?;
        let no_memory = || Error::io("cannot hold the rows", std::io::ErrorKind::OutOfMemory.into());
        let len = rows.len().checked_mul(len_usize(self.width()).unwrap_or(usize::MAX)).ok_or_else(no_memory)?;
        let mut out: Vec<T> = bytemuck::allocation::try_zeroed_vec(len).map_err(|()| no_memory())?;
        self.read_rows_into(rows, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// As [`read_rows`](Self::read_rows), as bytes, into a buffer of exactly their length.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows); [`InvalidInput`](ErrorKind::InvalidInput) for a buffer of another length.
    pub fn read_rows_into(&self, rows: &[u64], to: &mut [u8]) -> Result<()> {
        let mut gather = Gather::new(self, Checking::Remembered);
        gather.copy_rows(rows, to)?;
        gather.settle()
    }

    /// Rows that follow each other, borrowed where they lie, verified: `None` if they do not lie together in memory, because they are read on
    /// demand, of several files, of several or some columns, or are converted.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    pub fn slice<T: Element>(&self, rows: Range<u64>) -> Result<Option<&[T]>> {
        self.check_dtype::<T>()?;
        if rows.start > rows.end || rows.end > self.rows() {
            let message = format!("there are no rows {}..{} of {}", rows.start, rows.end, self.rows());
            return Err(Error::invalid(message));
        }
        if rows.is_empty() {
            return Ok(Some(&[]));
        }
        let Some((part, matrix, storage, range)) = self.together(rows) else { return Ok(None) };
        let bytes = part.checkpoint.storage_bytes(storage, range, true);
        let bytes = bytes.map_err(|e| part.checkpoint.in_file(e.with_tensor(&matrix.name)))?;
        // A guest's file may not align them, and truth values may be neither 0 nor 1.
        Ok(bytemuck::checked::try_cast_slice(bytes).ok())
    }

    /// The bytes of rows that follow each other, if they lie together in memory, as they are given: part, matrix, storage, and place there.
    fn together(&self, rows: Range<u64>) -> Option<(&Part, &Matrix, u32, Range<u64>)> {
        let ([segment], [side]) = (self.0.segments.as_slice(), self.0.sides.as_slice()) else { return None };
        if side.rows.is_some() {
            return None;
        }
        let (number, first) = side.stack.place(rows.start, 0)?;
        let (last_number, last) = side.stack.place(rows.end.checked_sub(1)?, number)?;
        let part = side.stack.parts.get(number).filter(|_| number == last_number)?;
        let matrix = part.matrices.get(segment.matrix)?;
        if segment.columns != (0..matrix.width) || !matrix.is_dense() || matrix.dtype != self.dtype() {
            return None;
        }
        let ((storage, first), (_, last)) = (matrix.place(first)?, matrix.place(last)?);
        let is_there = part.checkpoint.is_resident() && first.start <= last.end;
        is_there.then_some((part, matrix, storage, first.start..last.end))
    }

    /// Rows that follow each other, lent where they lie; `None` if they do not lie together in memory, aligned for their dtype.
    pub(crate) fn lend(&self, rows: Range<u64>, checking: &Checking) -> Result<Option<Lent>> {
        let Some((part, matrix, storage, range)) = self.together(rows.clone()) else { return Ok(None) };
        let bytes = match checking {
            // What they remember would have to be copied to be checked anew.
            Checking::Fresh(_) => return Ok(None),
            Checking::Off => part.checkpoint.storage_bytes(storage, range.clone(), false),
            Checking::Remembered => part.checkpoint.storage_bytes(storage, range.clone(), true),
        };
        let bytes = bytes.map_err(|e| gather::told(e, part, matrix, rows))?;
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(LENT_ALIGNMENT);
        Ok(is_aligned.then(|| Lent::new(Arc::clone(&part.checkpoint), storage, range)))
    }

    fn check_dtype<T: Element>(&self) -> Result<()> {
        if self.dtype() == T::DTYPE {
            return Ok(());
        }
        Err(Error::invalid(format!("the table is of dtype {}, not {}", self.dtype(), T::DTYPE)))
    }

    pub(crate) fn sides(&self) -> &[Side] {
        &self.0.sides
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0.segments
    }
}

/// The dtype and width of each matrix: those of the first part that has rows, or of the first.
fn agreed_matrices<'p>(parts: impl Iterator<Item = &'p Part> + Clone) -> Result<Vec<(DType, u64)>> {
    let leading = parts.clone().find(|part| part.rows > 0).or_else(|| parts.clone().next());
    let Some(leading) = leading else { return Ok(Vec::new()) };
    for part in parts {
        for (matrix, expected) in part.matrices.iter().zip(&leading.matrices) {
            // A list without tensors has no width, and no rows to be of one.
            let fits = matrix.width == expected.width || (part.rows == 0 && matrix.width == 0);
            if !fits {
                let named =
                    |part: &Part| part.checkpoint.path().map_or(String::new(), |p| format!(" of {}", p.display()));
                let message = format!(
                    "its rows have {} elements, and those{} have {}",
                    matrix.width,
                    named(leading),
                    expected.width
                );
                let e = Error::invalid(message).with_tensor(&matrix.name).with_numbers(expected.width, matrix.width);
                return Err(part.checkpoint.in_file(e));
            }
        }
    }
    Ok(leading.matrices.iter().map(|matrix| (matrix.dtype, matrix.width)).collect())
}

fn all_or_none(opened: &[(Part, Columns)], what: &str, has: impl Fn(&Columns) -> bool) -> Result<bool> {
    // Files without rows go with any.
    let with_rows = || opened.iter().filter(|(part, _)| part.rows > 0);
    let Some((_, first)) = with_rows().next() else { return Ok(opened.iter().any(|(_, columns)| has(columns))) };
    let expected = has(first);
    match with_rows().find(|(_, columns)| has(columns) != expected) {
        None => Ok(expected),
        Some((part, _)) => {
            let (has, have) = if expected { ("has no", "have") } else { ("has", "have none") };
            let e = Error::invalid(format!("it {has} {what}, and files before it {have}"));
            Err(part.checkpoint.in_file(e.with_advice("name them in the layout, or leave them out")))
        }
    }
}
