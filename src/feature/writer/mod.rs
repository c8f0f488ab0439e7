//! [`TableWriter`]: a table of features, written as its rows are computed.
//!
//! Whoever computes features appends batches of rows with their ids; `file` is the file that they go into, `name` what the files of a table
//! are called, and `resume` what a job finds of its table when it is started again. What a file holds is in `spec/features.md`.

mod file;
mod name;
mod options;
mod resume;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::dtype::{DType, Element};
use crate::format::{len_u64, len_usize};
use file::OpenFile;
pub use name::MAX_FILES;
use name::Prefix;
pub use options::TableWriterOptions;

/// A file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableFile {
    /// Where it is.
    pub path: PathBuf,
    /// How many rows it has.
    pub rows: u64,
}

/// Writes a table of features as its rows are computed: any number of rows, in bounded memory, in one file or in a file for each so many
/// rows.
///
/// Each file appears whole or not at all, and is durable when the call that gave it its last row returns; a job that died is
/// [resumed](Self::resume) after it. The rows decide the bytes: in which batches they came does not matter, nor how often the job died.
///
/// **Cost**: one pass over the rows; large batches are written from where they lie. In memory are about 1 MiB and, of the file that is
/// being written, ids and labels; when it is finished its ids are there three times for a moment.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let prefix = dir.path().join("part");
/// use dolmen::feature::{TableWriter, TableWriterOptions};
/// use dolmen::{Checkpoint, DType};
///
/// let options = TableWriterOptions::new(DType::F32, [2])?.rows_per_file(2);
/// let mut w = TableWriter::resume(&prefix, &options)?;
/// let all = [("a", [0.5f32, 1.0]), ("b", [1.5, 2.0]), ("c", [2.5, 3.0])];
/// // What is there already is not computed again.
/// for (id, row) in &all[usize::try_from(w.rows_written()).unwrap()..] {
///     w.append(&[id], row)?;
/// }
/// let files = w.finish()?;
/// assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2, 1]);
/// assert!(files[1].path.ends_with("part-00001.dolmen"));
/// assert_eq!(Checkpoint::open(&files[1].path)?.tensor("data")?.as_slice::<f32>()?, [2.5, 3.0]);
/// # Ok(())
/// # }
/// ```
///
/// # When something fails
/// What an append refuses as [`InvalidInput`](crate::ErrorKind::InvalidInput) was not begun, and the writer can go on. After any other error
/// (a full disk) it takes no more: the files that were finished stay, the one that was not is gone, and a writer that resumes goes on from
/// there. It is the same if the writer is dropped, or its process killed.
#[derive(Debug)]
#[must_use = "the last file is there only when the table is finished"]
pub struct TableWriter {
    target: Target,
    options: TableWriterOptions,
    files: Vec<TableFile>,
    open: Option<OpenFile>,
    closed: Option<Closed>,
}

/// Where the rows go.
#[derive(Debug)]
enum Target {
    Single(PathBuf),
    Numbered(Prefix),
}

/// Why no more rows are taken.
#[derive(Debug)]
enum Closed {
    /// The last file that was there has fewer rows than a file has: the table was finished.
    Finished,
    Failed(String),
}

/// Rows, and what goes with them.
struct Batch<'b, S> {
    ids: &'b [S],
    bytes: &'b [u8],
    /// One for each row, or none at all.
    labels: &'b [i64],
}

impl<'b, S> Batch<'b, S> {
    /// The first rows, and the others.
    fn split(self, rows: usize, row_len: usize) -> Option<(Self, Self)> {
        let (ids, later_ids) = self.ids.split_at_checked(rows)?;
        let (bytes, later_bytes) = self.bytes.split_at_checked(rows.checked_mul(row_len)?)?;
        let (labels, later_labels) = self.labels.split_at_checked(rows.min(self.labels.len()))?;
        Some((Batch { ids, bytes, labels }, Batch { ids: later_ids, bytes: later_bytes, labels: later_labels }))
    }
}

impl TableWriter {
    /// Begins a table in files of their own for each [so many rows](TableWriterOptions::rows_per_file): `features/part` gives
    /// `features/part-00000.dolmen`, `features/part-00001.dolmen` and so on, which sort by name.
    ///
    /// One writer at a time writes a table.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a file of such a name is there, or another writer has begun one;
    /// [`Io`](crate::ErrorKind::Io) if the directory is not there, or cannot be written.
    pub fn create(prefix: impl AsRef<Path>, options: &TableWriterOptions) -> Result<TableWriter> {
        let prefix = Prefix::new(prefix.as_ref())?;
        check_rows_per_file(options)?;
        resume::check_new(&prefix, options)?;
        TableWriter::begin(Target::Numbered(prefix), options, Vec::new())
    }

    /// Begins a table in one file, which is there when the table is finished and replaces, then, what was at this path.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the options say how many rows a file has; those of
    /// [`Writer::create_with`](crate::Writer::create_with).
    pub fn single(path: impl AsRef<Path>, options: &TableWriterOptions) -> Result<TableWriter> {
        let path = path.as_ref();
        if options.rows_per_file.is_some() {
            let e = Error::invalid("a table in a single file has all its rows there, and not so many in a file");
            return Err(e.with_path(path).with_advice("leave out `rows_per_file`, or use `create`"));
        }
        TableWriter::begin(Target::Single(path.to_path_buf()), options, Vec::new())
    }

    /// Goes on with a table that [`create`](Self::create) began, after the last file that is there: its rows are
    /// [written](Self::rows_written) already. If there is none, it begins the table.
    ///
    /// A table that was finished can be resumed and finished again, to no effect; but its last file, if it has fewer rows than a file
    /// has, takes no more, and then nor does the table.
    ///
    /// **Cost**: opens each file and decodes its ids; with [`verify`](TableWriterOptions::verify), reads all of it. What dead writers left
    /// unfinished is removed.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if a file is missing before one that is there;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a file has other rows than the options say, or another number of them, or another
    /// writer is at work; what is wrong with a file that is not whole; those of [`create`](Self::create).
    pub fn resume(prefix: impl AsRef<Path>, options: &TableWriterOptions) -> Result<TableWriter> {
        let prefix = Prefix::new(prefix.as_ref())?;
        check_rows_per_file(options)?;
        let files = resume::survey(&prefix, options)?;
        TableWriter::begin(Target::Numbered(prefix), options, files)
    }

    fn begin(target: Target, options: &TableWriterOptions, files: Vec<TableFile>) -> Result<TableWriter> {
        let is_finished = files.last().is_some_and(|last| last.rows < options.rows_at_most());
        let closed = is_finished.then_some(Closed::Finished);
        let mut writer = TableWriter { target, options: options.clone(), files, open: None, closed };
        if writer.files.is_empty() {
            // Now, and not hours later with the first rows, is the time to say that there is nowhere to write them to.
            writer.open_file()?;
        }
        Ok(writer)
    }

    /// How many rows were appended, those of the files that were there before included; after a failure, those of the finished files.
    pub fn rows_written(&self) -> u64 {
        let finished = self.files.iter().map(|file| file.rows);
        finished.chain(self.open.as_ref().map(OpenFile::row_count)).fold(0, u64::saturating_add)
    }

    /// The files that are finished, with those that were there before, in order: what is there after a crash.
    pub fn files(&self) -> &[TableFile] {
        &self.files
    }

    /// Appends rows: as many as there are ids, one after the other.
    ///
    /// **Cost**: writes them to the file beside its target. The row that fills a file finishes it, which waits until the device has it.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the elements are of another dtype or number, or the rows of this table have
    /// labels: nothing was appended then. [`Io`](crate::ErrorKind::Io) or [`NotDurable`](crate::ErrorKind::NotDurable), naming the file, if
    /// saving fails; the writer takes no more then.
    pub fn append<T: Element>(&mut self, ids: &[impl AsRef<str>], rows: &[T]) -> Result<()> {
        self.check_dtype(T::DTYPE)?;
        self.append_batch(Batch { ids, bytes: bytemuck::cast_slice(rows), labels: &[] }, false)
    }

    /// As [`append`](Self::append), with a label for each row.
    ///
    /// # Errors
    /// As there; or if the rows of this table have no labels.
    pub fn append_labelled<T: Element>(&mut self, ids: &[impl AsRef<str>], rows: &[T], labels: &[i64]) -> Result<()> {
        self.check_dtype(T::DTYPE)?;
        self.append_batch(Batch { ids, bytes: bytemuck::cast_slice(rows), labels }, true)
    }

    /// As [`append`](Self::append), of the bytes of rows: little-endian elements in row-major order, of whatever dtype the table has.
    ///
    /// # Errors
    /// As there.
    pub fn append_bytes(&mut self, ids: &[impl AsRef<str>], bytes: &[u8]) -> Result<()> {
        self.append_batch(Batch { ids, bytes, labels: &[] }, false)
    }

    /// As [`append_bytes`](Self::append_bytes), with a label for each row.
    ///
    /// # Errors
    /// As [`append_labelled`](Self::append_labelled).
    pub fn append_bytes_labelled(&mut self, ids: &[impl AsRef<str>], bytes: &[u8], labels: &[i64]) -> Result<()> {
        self.append_batch(Batch { ids, bytes, labels }, true)
    }

    /// Finishes the last file; gives all files, with those that were there before, in order. A table without rows is a file without rows.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`NotDurable`](crate::ErrorKind::NotDurable), naming the file, if saving fails;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it failed before.
    pub fn finish(mut self) -> Result<Vec<TableFile>> {
        if let Some(Closed::Failed(reason)) = &self.closed {
            return Err(self.wrong(format!("the table cannot be finished, for an append failed: {reason}")));
        }
        if self.files.is_empty() || self.open.as_ref().is_some_and(|open| open.row_count() > 0) {
            self.open_file()?;
            self.commit()?;
        }
        Ok(self.files)
    }

    fn append_batch<S: AsRef<str>>(&mut self, batch: Batch<'_, S>, labelled: bool) -> Result<()> {
        self.check(&batch, labelled)?;
        self.append_checked(batch).inspect_err(|e| {
            self.open = None;
            self.closed = Some(Closed::Failed(e.reason()));
        })
    }

    /// Appends rows to the file that is open, and to as many others as they fill.
    fn append_checked<S: AsRef<str>>(&mut self, mut batch: Batch<'_, S>) -> Result<()> {
        let (row_len, rows_at_most) = (self.options.row_len, self.options.rows_at_most());
        while !batch.ids.is_empty() {
            let open = self.open_file()?;
            let room = len_usize(rows_at_most.saturating_sub(open.row_count())).unwrap_or(usize::MAX);
            let rows = room.min(batch.ids.len());
            let (now, later) =
                batch.split(rows, row_len).ok_or_else(|| Error::invalid("rows, ids and labels differ"))?;
            open.append(&now)?;
            if open.row_count() >= rows_at_most {
                self.commit()?;
            }
            batch = later;
        }
        Ok(())
    }

    /// The file that rows go into, begun if there is none.
    fn open_file(&mut self) -> Result<&mut OpenFile> {
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenFile::begin(self.next_path()?, &self.options)?,
        };
        Ok(self.open.insert(open))
    }

    fn commit(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if let Target::Numbered(prefix) = &self.target
            && resume::is_there(prefix, len_u64(self.files.len()), &self.options)?
        {
            let e = Error::invalid("another writer has written this file of the table").with_path(open.path());
            return Err(e.with_advice("let one writer at a time write a table; resume when the other has ended"));
        }
        self.files.push(open.commit(&self.options)?);
        Ok(())
    }

    fn next_path(&self) -> Result<PathBuf> {
        match &self.target {
            Target::Single(path) => Ok(path.clone()),
            Target::Numbered(prefix) => {
                let number = len_u64(self.files.len());
                if number < MAX_FILES {
                    return Ok(prefix.path(number));
                }
                let e = Error::invalid(format!("a table has at most {MAX_FILES} files"));
                Err(e.with_path(prefix.path(number)).with_advice("give each file more rows"))
            }
        }
    }

    fn check_dtype(&self, dtype: DType) -> Result<()> {
        if dtype == self.options.dtype {
            return Ok(());
        }
        Err(self.wrong(format!("rows of {dtype} were given, and the rows of this table are of {}", self.options.dtype)))
    }

    /// Whether a batch can be appended, before any of it is.
    fn check<S>(&self, batch: &Batch<'_, S>, labelled: bool) -> Result<()> {
        let Batch { ids, bytes, labels } = *batch;
        match &self.closed {
            Some(Closed::Failed(reason)) => {
                return Err(self.wrong(format!("nothing more is written, for an append failed: {reason}")));
            }
            Some(Closed::Finished) if !ids.is_empty() => {
                let rows = self.files.last().map_or(0, |last| last.rows);
                let e = self.wrong(format!("the table was finished: its last file has {rows} rows, and takes no more"));
                return Err(e.with_advice("remove that file and resume, to write its rows again and more after them"));
            }
            _ => {}
        }
        match (self.options.labels, labelled) {
            (true, false) => return Err(self.wrong("no labels were given, and the rows of this table have labels")),
            (false, true) => return Err(self.wrong("labels were given, and the rows of this table have none")),
            (true, true) if labels.len() != ids.len() => {
                return Err(self.wrong(format!("{} labels were given for {} ids", labels.len(), ids.len())));
            }
            _ => {}
        }
        let TableWriterOptions { dtype, row_shape, row_len, .. } = &self.options;
        if ids.len().checked_mul(*row_len) != Some(bytes.len()) {
            let message = format!(
                "{} bytes were given for {} ids, and a row of shape {row_shape:?} of {dtype} takes {row_len}",
                bytes.len(),
                ids.len()
            );
            return Err(self.wrong(message));
        }
        if *dtype == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
            return Err(self.wrong("a bool is neither 0 nor 1").with_advice("write it as u8"));
        }
        Ok(())
    }

    /// An error of the caller's, at the file that is next.
    fn wrong(&self, message: impl Into<String>) -> Error {
        let path = match (&self.target, self.files.last()) {
            (_, Some(last)) if matches!(self.closed, Some(Closed::Finished)) => last.path.clone(),
            (Target::Single(path), _) => path.clone(),
            (Target::Numbered(prefix), _) => prefix.path(len_u64(self.files.len())),
        };
        Error::invalid(message).with_path(path)
    }
}

fn check_rows_per_file(options: &TableWriterOptions) -> Result<()> {
    match options.rows_per_file {
        Some(0) => Err(Error::invalid("a file of a table has one row at least, and not 0")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_can_move_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<TableWriter>();
        check::<TableWriterOptions>();
    }

    #[test]
    fn a_table_has_no_more_files_than_five_digits_number() {
        let directory = tempfile::tempdir().unwrap();
        let options = TableWriterOptions::new(DType::U8, [1]).unwrap().rows_per_file(1);
        let options = options.save(crate::SaveOptions::new().durability(crate::Durability::None));
        let mut w = TableWriter::create(directory.path().join("part"), &options).unwrap();
        (w.files, w.open) = (vec![TableFile { path: PathBuf::new(), rows: 1 }; 99_999], None);
        w.append(&["a"], &[1u8]).unwrap();
        assert!(w.files.last().unwrap().path.ends_with("part-99999.dolmen"));
        let e = w.append(&["a"], &[1u8]).unwrap_err().to_string();
        assert!(e.contains("a table has at most 100000 files; give each file more rows"), "{e}");
    }
}
