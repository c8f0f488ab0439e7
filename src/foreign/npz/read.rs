//! Reading an archive of arrays.

use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::SUFFIX;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::foreign::is_torch_entry;
use crate::foreign::notes::Notes;
use crate::foreign::npy::{self, Header, copy_elements, descr_value};
use crate::foreign::positioned::Positioned;
use crate::source::ReadAt;
use crate::write::{Builder, View};

const BUFFER_LEN: usize = 64 << 10;
/// Deflate makes no more than this of a byte.
const MAX_RATIO: u64 = 1032;

/// Adds the arrays of a `.npz` file to a builder; what ends the names of their entries, `.npy`, is not part of their names.
///
/// Headers are read now. The data is read, and its CRC checked, when the builder is saved; the file must stay as it is until then.
/// Big-endian arrays become little-endian. Entries that are no arrays are left out and noted.
///
/// **Cost**: memory for the archive's directory; then one pass over the data, in pieces of 1 MiB.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) for an archive that is not in order: entries of the same name, overlapping, or of another length than
/// their array; [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for what is encrypted, compressed in other ways than deflate, a
/// PyTorch checkpoint, or of elements that are not supported; [`NotThisFormat`](ErrorKind::NotThisFormat) for archives without
/// arrays; [`Io`](ErrorKind::Io). When the builder is saved, [`Corrupt`](ErrorKind::Corrupt) for damaged data.
pub fn import(path: impl AsRef<Path>, builder: &mut Builder<'_>) -> Result<Notes> {
    let path = path.as_ref();
    add(path, builder).map_err(|e| e.with_path(path))
}

fn add(path: &Path, builder: &mut Builder<'_>) -> Result<Notes> {
    let (file, _) = crate::source::file::open_regular(path)?;
    let mut archive = open(Arc::new(file))?;
    let mut notes = Notes::default();
    let arrays = arrays(&mut archive, &mut notes)?;
    let descrs: Vec<(&str, &str)> =
        arrays.iter().filter_map(|array| Some((&*array.name, array.header.element.opaque_descr()?))).collect();
    for &(name, descr) in &descrs {
        notes.tensor(name, format_args!("elements {descr} are kept as opaque bytes"));
    }
    if !descrs.is_empty() {
        builder.metadata(npy::DESCR_KEY, descr_value(descrs));
    }
    let archive = Arc::new(Mutex::new(archive));
    for array in arrays {
        let name = array.name.clone();
        let mut view = View::new(array.header.element.dtype, &array.header.shape)?;
        if let Some(strides) = array.header.strides() {
            view = view.strides(strides)?;
        }
        let (archive, path) = (Arc::clone(&archive), path.to_path_buf());
        let storage = builder.deferred_storage(array.header.data_len, move |out| {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            array.copy(&mut archive, out).map_err(|e| e.with_tensor(&array.name).with_path(&path))
        })?;
        builder.view(&name, storage, view)?;
    }
    Ok(notes)
}

/// Reads an archive strictly, to the last byte of every array.
pub(crate) fn check(file: &dyn ReadAt) -> Result<()> {
    let mut archive = open(file)?;
    for array in arrays(&mut archive, &mut Notes::default())? {
        array.copy(&mut archive, &mut std::io::sink()).map_err(|e| e.with_tensor(&array.name))?;
    }
    Ok(())
}

type Archive<S> = ZipArchive<BufReader<Positioned<S>>>;

fn open<S: std::ops::Deref<Target: ReadAt>>(source: S) -> Result<Archive<S>> {
    let archive = ZipArchive::new(BufReader::with_capacity(BUFFER_LEN, Positioned::new(source)?)).map_err(broken)?;
    if archive.file_names_raw().any(is_torch_entry) {
        return Err(torch());
    }
    Ok(archive)
}

/// The error for a PyTorch checkpoint, where such are not read.
#[cold]
pub(crate) fn torch() -> Error {
    let e = Error::new(ErrorKind::UnsupportedVersion, "this is a PyTorch checkpoint, not an archive of NumPy arrays");
    e.with_advice("read it with Dolmen's feature `torch`")
}

/// What the archive's reader says is wrong.
#[cold]
fn broken(e: ZipError) -> Error {
    let malformed = |message: String| {
        let e = Error::new(ErrorKind::Malformed, message)
            .with_advice("a download or copy may have been cut off; get it again");
        Err::<Error, _>(e)
    };
    let unsupported = |message: String| Error::new(ErrorKind::UnsupportedVersion, message);
    let told = match e {
        ZipError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            malformed("the ZIP archive ends too early".to_owned())
        }
        // What the data itself made the reader say comes as one of these.
        ZipError::Io(e)
            if matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput)
                || e.raw_os_error().is_none() =>
        {
            malformed(format!("the ZIP archive is broken: {e}"))
        }
        ZipError::Io(e) => Ok(Error::io("cannot read", e)),
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => Ok(encrypted()),
        ZipError::UnsupportedArchive(what) => Ok(unsupported(format!("the ZIP archive is not supported: {what}"))),
        ZipError::CompressionMethodNotSupported(_) => {
            Ok(unsupported("an entry is compressed in another way than by deflate".to_owned()))
        }
        other => malformed(format!("the ZIP archive is broken: {other}")),
    };
    told.unwrap_or_else(|e| e)
}

#[cold]
fn encrypted() -> Error {
    Error::new(ErrorKind::UnsupportedVersion, "it is encrypted").with_advice("save it without a password")
}

/// An array of an archive.
struct Array {
    name: String,
    /// The number of its entry.
    entry: usize,
    header: Header,
}

/// The arrays of an archive, their headers read and checked.
fn arrays<R: Read + Seek>(archive: &mut ZipArchive<R>, notes: &mut Notes) -> Result<Vec<Array>> {
    let wrong = |message: &str| Error::new(ErrorKind::Malformed, message);
    if archive.has_duplicate_names() {
        return Err(wrong("two entries of the ZIP archive have the same name"));
    }
    if archive.has_overlapping_entries().map_err(broken)? {
        return Err(wrong("entries of the ZIP archive overlap").with_advice("do not trust where this file came from"));
    }
    let mut arrays: Vec<Array> = Vec::new();
    let mut others = 0usize;
    for entry in 0..archive.len() {
        let described = archive.by_index_data(entry).map_err(broken)?;
        let name = described.name().map_err(broken)?.into_owned();
        if described.is_dir() {
            continue;
        }
        let Some(name) = name.strip_suffix(SUFFIX) else {
            notes.push(format!("the entry {} is not an array and is left out", quoted(&name)));
            others = others.saturating_add(1);
            continue;
        };
        let in_array = |e: Error| e.with_tensor(name);
        let header = header_of(archive, entry).map_err(in_array)?;
        arrays.push(Array { name: name.to_owned(), entry, header });
    }
    if arrays.is_empty() && others > 0 {
        let e = Error::new(ErrorKind::NotThisFormat, "this is a ZIP archive without NumPy arrays in it");
        return Err(e.with_advice("check that this is the file you meant"));
    }
    Ok(arrays)
}

/// Reads the header of an array, and checks it against what the archive says of its entry.
fn header_of<R: Read + Seek>(archive: &mut ZipArchive<R>, entry: usize) -> Result<Header> {
    if archive.by_index_data(entry).map_err(broken)?.encrypted() {
        return Err(encrypted());
    }
    let mut file = archive.by_index(entry).map_err(broken)?;
    let (len, compressed_len) = (file.size(), file.compressed_size());
    let possible = match file.compression() {
        CompressionMethod::Stored => len == compressed_len,
        _ => len <= compressed_len.saturating_mul(MAX_RATIO),
    };
    if !possible {
        let message = format!("its entry of {compressed_len} bytes cannot hold the {len} that the archive claims");
        return Err(Error::new(ErrorKind::Malformed, message).with_advice("do not trust where this file came from"));
    }
    let header = Header::read(&mut file).map_err(damaged)?;
    // Neither overflows: the header was checked.
    let expected = header.data_at.saturating_add(header.data_len);
    if expected != len {
        let message = format!("the array takes {expected} bytes, and its entry has {len}");
        return Err(Error::new(ErrorKind::Malformed, message).with_numbers(expected, len));
    }
    Ok(header)
}

/// An error of reading that the archive's content is to blame for.
fn damaged(e: Error) -> Error {
    match e.io_error() {
        Some(cause) if cause.raw_os_error().is_none() => {
            Error::new(ErrorKind::Corrupt, format!("its entry is damaged: {cause}"))
        }
        _ => e,
    }
}

impl Array {
    /// Gives the data, little-endian; checks length and CRC.
    fn copy<R: Read + Seek>(&self, archive: &mut ZipArchive<R>, out: &mut dyn std::io::Write) -> Result<()> {
        let mut file = archive.by_index(self.entry).map_err(broken)?;
        if Header::read(&mut file).map_err(damaged)? != self.header {
            return Err(Error::new(ErrorKind::Malformed, "the file changed while it was read"));
        }
        copy_elements(&mut file, self.header.data_len, self.header.element.swap, out)?;
        // The CRC is checked at the end, so the end must be read.
        match file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Malformed, "its entry goes on after the data of the array")),
            Err(e) => Err(damaged(Error::io("cannot read", e))),
        }
    }
}
