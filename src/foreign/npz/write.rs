//! Writing an archive of arrays.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use super::SUFFIX;
use crate::commit::{AtomicFile, SaveOptions};
use crate::error::{Error, Result};
use crate::foreign::held::Held;
use crate::foreign::notes::{self, Notes};
use crate::foreign::npy::{array_header, write_data};
use crate::format::len_u64;
use crate::read::{Checkpoint, TensorView};

const BUFFER_LEN: usize = 1 << 20;
/// Entries begin at multiples of this, and headers of arrays are multiples of it: so the data does too.
const ALIGNMENT: u16 = 64;

/// Writes all tensors of a checkpoint as a `.npz` file: entries stored, not compressed, in the order of their names, the data aligned to
/// 64 bytes, ZIP64 where needed. The same tensors give the same bytes: all times are 1980-01-01.
///
/// Data is verified as it is read. What [`write_npy`](crate::foreign::npy::write_npy) cannot hold is noted, as are shared storages,
/// document and metadata, which have no place in the format.
///
/// **Cost**: one pass over the data, a buffer of 1 MiB, memory for the archive's directory.
///
/// # Errors
/// As [`write_npy`](crate::foreign::npy::write_npy); [`InvalidInput`](crate::ErrorKind::InvalidInput) for names with zero bytes or of more
/// than 65,000 bytes. Nothing is written if it is one of those that are known from the index.
pub fn write(checkpoint: &Checkpoint, out: impl Write + Seek) -> Result<Notes> {
    let mut notes = Notes::default();
    let held = Held::of(checkpoint)?;
    let mut headers = Vec::with_capacity(checkpoint.len());
    for tensor in checkpoint.tensors() {
        let tensor = tensor?;
        check_name(tensor.name())?;
        headers.push((tensor, array_header(&tensor, &held, &mut notes)?));
    }
    notes::structure(checkpoint, &mut notes)?;
    match checkpoint.metadata()?.len() {
        0 => {}
        1 => notes.push("the metadata (1 entry) is left out"),
        count => notes.push(format!("the metadata ({count} entries) is left out")),
    }

    let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
    let mut zip = ZipWriter::new(&mut out);
    let written = headers.iter().try_for_each(|(tensor, header)| add(&mut zip, tensor, &held, header));
    if let Err(e) = written {
        // Dropping it would write a directory after what is broken, and complain on stderr if it cannot.
        std::mem::forget(zip);
        return Err(e);
    }
    zip.finish().map_err(cannot_write)?;
    out.flush().map_err(|e| Error::io("cannot write", e))?;
    Ok(notes)
}

/// As [`write()`], to a path: atomically and durably. See [`commit`](crate::commit) for what that means.
///
/// A validator among the options must be one for such files.
///
/// # Errors
/// As [`write()`]; with every error but [`NotDurable`](crate::ErrorKind::NotDurable) the old file, if any, is untouched.
pub fn save(checkpoint: &Checkpoint, path: impl AsRef<Path>, options: &SaveOptions) -> Result<Notes> {
    let path = path.as_ref();
    let save = || {
        let mut file = Seekable { file: AtomicFile::create(path, options)?, at: 0 };
        let notes = write(checkpoint, &mut file)?;
        file.file.commit()?;
        Ok(notes)
    };
    save().map_err(|e: Error| e.with_path(path))
}

fn check_name(name: &str) -> Result<()> {
    // What stands before an entry takes 64 KiB at most in all, with what it is padded by.
    const MAX_LEN: usize = 65_000;
    let wrong = |message: String| Err(Error::invalid(message).with_tensor(name));
    if name.contains('\0') {
        return wrong("names in a ZIP archive end at a zero byte, and this one has one within".to_owned());
    }
    if name.len() > MAX_LEN {
        return wrong(format!("its name has {} bytes, and a ZIP archive holds {MAX_LEN} at most", name.len()));
    }
    Ok(())
}

fn cannot_write(e: zip::result::ZipError) -> Error {
    match e {
        zip::result::ZipError::Io(e) => Error::io("cannot write", e),
        other => Error::invalid(format!("a ZIP archive cannot hold this: {other}")),
    }
}

fn add<W: Write + Seek>(zip: &mut ZipWriter<W>, tensor: &TensorView<'_>, held: &Held, header: &[u8]) -> Result<()> {
    let len = tensor.contiguous_byte_len().saturating_add(len_u64(header.len()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::DEFAULT)
        .system(System::Unix)
        .with_alignment(ALIGNMENT)
        .large_file(len >= u64::from(u32::MAX));
    let name = format!("{}{SUFFIX}", tensor.name());
    zip.start_file(name, options).map_err(|e| cannot_write(e).with_tensor(tensor.name()))?;
    zip.write_all(header).map_err(|e| Error::io("cannot write", e))?;
    write_data(tensor, held, zip)
}

/// An [`AtomicFile`] in which one can go back: ZIP archives have lengths and CRCs before the data.
struct Seekable {
    file: AtomicFile,
    at: u64,
}

impl Write for Seekable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before_end = usize::try_from(self.file.byte_len().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let (over, beyond) = bytes.split_at_checked(before_end).unwrap_or((bytes, &[]));
        if !over.is_empty() {
            let told = |e: Error| match e.io_error() {
                Some(cause) => cause.raw_os_error().map_or_else(|| cause.kind().into(), io::Error::from_raw_os_error),
                None => io::Error::other(e.reason()),
            };
            self.file.patch(self.at, over).map_err(told)?;
        }
        if !beyond.is_empty() {
            self.file.write_all(beyond)?;
        }
        self.at = self.at.saturating_add(len_u64(bytes.len()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Seekable {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.byte_len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        // There are no holes in what is saved.
        self.at = at.filter(|&at| at <= self.file.byte_len()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
