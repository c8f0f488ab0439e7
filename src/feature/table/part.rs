//! One checkpoint of a table: where each row of its matrices lies.

use std::ops::Range;
use std::sync::Arc;

use super::layout::{Layout, Wanted};
use super::locate::{Column, Rows, locate};
use crate::error::{Error, Result, quoted};
use crate::format::dtype::DType;
use crate::format::{len_u64, len_usize};
use crate::read::{Checkpoint, TensorView};

/// A checkpoint, and its matrices. All have the same number of rows.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) rows: u64,
    pub(crate) matrices: Vec<Matrix>,
}

/// What a part has besides its matrices, while a table is being put together.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) ids: Option<Texts>,
    pub(super) labels: Option<Vec<i64>>,
}

/// Ids as they are in a file.
#[derive(Debug)]
pub(super) enum Texts {
    Texts(Vec<String>),
    Integers(Vec<i64>),
}

/// A matrix of a part: rows of one dtype and width.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// The tensor's name, or the key of the list of tensors: for messages.
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Elements of a row.
    pub(crate) width: u64,
    /// Bytes of a row.
    pub(crate) row_len: u64,
    pub(crate) places: Places,
}

/// Where rows begin.
#[derive(Debug)]
pub(crate) enum Places {
    /// In one storage, so many bytes apart.
    Even { storage: u32, start: u64, step: u64 },
    /// Each in a storage of its own, or somewhere in a common one: the storage, and the byte at which it begins there.
    Listed(Box<[(u32, u64)]>),
}

impl Matrix {
    /// The storage of a row, and its bytes there. The row exists.
    #[inline]
    pub(crate) fn place(&self, row: u64) -> Option<(u32, Range<u64>)> {
        // In a storage whose end does not overflow.
        let (storage, start) = match &self.places {
            Places::Even { storage, start, step } => (*storage, start.checked_add(row.checked_mul(*step)?)?),
            Places::Listed(places) => *places.get(usize::try_from(row).ok()?)?,
        };
        Some((storage, start..start.checked_add(self.row_len)?))
    }

    /// Whether rows that follow each other do so without a gap.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.places, Places::Even { step, .. } if step == self.row_len)
    }
}

impl Part {
    /// Finds what a layout names in a checkpoint.
    ///
    /// **Cost**: decodes the document, and reads ids and labels.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is not there, or is no table; what is wrong with the file.
    pub(super) fn of(checkpoint: Arc<Checkpoint>, layout: &Layout) -> Result<(Part, Columns)> {
        let located = locate(&checkpoint, layout)?;
        let read = || {
            let mut matrices = Vec::with_capacity(located.matrices.len());
            let mut rows: Option<(u64, String)> = None;
            for (key, place) in located.matrices {
                let (matrix, count) = match place {
                    Rows::Tensor(name) => matrix_of(&checkpoint.tensor(&name)?)?,
                    Rows::Listed(names) => matrix_of_list(&checkpoint, &key, &names)?,
                };
                if let Some((other, name)) = rows.as_ref().filter(|(other, _)| *other != count) {
                    let message = format!(
                        "its matrices have different numbers of rows: {} has {other} and {} has {count}",
                        quoted(name),
                        quoted(&matrix.name)
                    );
                    return Err(Error::invalid(message));
                }
                rows = Some((count, matrix.name.clone()));
                matrices.push(matrix);
            }
            let rows = rows.map_or(0, |(count, _)| count);
            // An empty list that nobody named is that of a table without rows, or has nothing to do with the rows.
            let is_meant = |column: &Column, wanted: &Wanted| {
                rows == 0
                    || matches!(wanted, Wanted::At(_))
                    || !matches!(column, Column::Texts(texts) if texts.is_empty())
            };
            let located_ids = located.ids.filter(|column| is_meant(column, &layout.ids));
            let located_labels = located.labels.filter(|column| is_meant(column, &layout.labels));
            let ids = located_ids.map(|column| ids_of(&checkpoint, column)).transpose()?;
            let labels = located_labels.map(|column| labels_of(&checkpoint, column, rows)).transpose()?;
            let id_count = ids.as_ref().map(Texts::len);
            if let Some(count) = id_count.filter(|&count| count < rows) {
                let e = Error::invalid(format!("{rows} rows have {count} ids")).with_numbers(rows, count);
                return Err(e.with_advice("the file was cut short when it was made, or `ids` names something else"));
            }
            Ok((rows, matrices, Columns { ids, labels }))
        };
        let (rows, matrices, columns) = read().map_err(|e| checkpoint.in_file(e))?;
        Ok((Part { checkpoint, rows, matrices }, columns))
    }
}

impl Texts {
    pub(super) fn len(&self) -> u64 {
        match self {
            Texts::Texts(texts) => len_u64(texts.len()),
            Texts::Integers(integers) => len_u64(integers.len()),
        }
    }
}

/// The bytes of so many elements, if that is a whole number.
fn bytes_of(dtype: DType, elements: u64) -> Option<u64> {
    elements.checked_mul(u64::from(dtype.bits())).filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
}

/// A tensor as a matrix, and the number of its rows.
fn matrix_of(tensor: &TensorView<'_>) -> Result<(Matrix, u64)> {
    let wrong = |message: &str| Err(Error::invalid(message).with_tensor(tensor.name()));
    let Some((&rows, row_shape)) = tensor.shape().split_first() else {
        return wrong("it is a scalar, which has no rows");
    };
    let dtype = tensor.dtype();
    let width = row_shape.iter().try_fold(1u64, |width, &dim| width.checked_mul(dim));
    let Some((width, row_len)) = width.and_then(|width| Some((width, bytes_of(dtype, width)?))) else {
        return wrong("its rows do not begin at byte boundaries");
    };
    // Of what is empty, strides mean nothing.
    let step = match tensor.explicit_strides() {
        Some(strides) if !tensor.is_contiguous() => {
            // The elements of a row must lie together; rows may lie apart, as those of a slice of columns do.
            let mut expected = 1u64;
            for (&dim, &stride) in row_shape.iter().zip(strides.get(1..).unwrap_or_default()).rev() {
                if dim != 1 && stride != expected {
                    let e = Error::invalid(format!("its strides {strides:?} tear rows apart"));
                    return Err(e.with_tensor(tensor.name()).with_advice("store it contiguous: rows first"));
                }
                expected = expected.saturating_mul(dim);
            }
            strides.first().and_then(|&stride| bytes_of(dtype, stride))
        }
        _ => Some(row_len),
    };
    let Some(step) = step else { return wrong("its rows do not begin at byte boundaries") };
    let places = Places::Even { storage: tensor.storage(), start: tensor.start(), step };
    Ok((Matrix { name: tensor.name().to_owned(), dtype, width, row_len, places }, rows))
}

/// A list of tensors as a matrix, and the number of its rows.
fn matrix_of_list(checkpoint: &Checkpoint, key: &str, names: &[String]) -> Result<(Matrix, u64)> {
    let mut first: Option<(DType, u64, u64)> = None;
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        let tensor = checkpoint.tensor(name)?;
        if !tensor.is_contiguous() {
            return Err(Error::invalid("it is one row of a table, and not contiguous").with_tensor(name));
        }
        let of = (tensor.dtype(), tensor.element_count(), tensor.byte_len());
        let expected = *first.get_or_insert(of);
        if of != expected {
            let e = Error::invalid(format!(
                "it is a row of {} {} where the first row of {} has {} {}",
                of.1,
                of.0,
                quoted(key),
                expected.1,
                expected.0
            ));
            return Err(e.with_tensor(name).with_numbers(expected.1, of.1));
        }
        places.push((tensor.storage(), tensor.start()));
    }
    let (dtype, width, row_len) = first.unwrap_or((DType::F32, 0, 0));
    let rows = len_u64(places.len());
    Ok((Matrix { name: key.to_owned(), dtype, width, row_len, places: Places::Listed(places.into()) }, rows))
}

fn ids_of(checkpoint: &Checkpoint, column: Column) -> Result<Texts> {
    Ok(match column {
        Column::Texts(texts) => Texts::Texts(texts),
        Column::Integers(integers) => Texts::Integers(integers),
        Column::Tensor(name) => Texts::Integers(integers_of(&checkpoint.tensor(&name)?)?),
    })
}

fn labels_of(checkpoint: &Checkpoint, column: Column, rows: u64) -> Result<Vec<i64>> {
    let labels = match column {
        Column::Texts(texts) if texts.is_empty() => Vec::new(),
        Column::Texts(_) => {
            let e = Error::invalid("its labels are texts; integers are needed");
            return Err(e.with_advice("name others in the layout, or leave them out with `no_labels`"));
        }
        Column::Integers(integers) => integers,
        Column::Tensor(name) => integers_of(&checkpoint.tensor(&name)?)?,
    };
    if len_u64(labels.len()) == rows {
        return Ok(labels);
    }
    let e = Error::invalid(format!("{rows} rows have {} labels", labels.len()));
    let e = e.with_numbers(rows, len_u64(labels.len()));
    Err(e.with_advice("name others in the layout, or leave them out with `no_labels`"))
}

/// The elements of a tensor of integers, verified.
fn integers_of(tensor: &TensorView<'_>) -> Result<Vec<i64>> {
    fn each<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> Option<i64>) -> Option<Vec<i64>> {
        bytes.as_chunks().0.iter().map(|&element| one(element)).collect()
    }
    if tensor.expands_too_far() {
        return Err(Error::invalid("its strides expand to far more than the file holds").with_tensor(tensor.name()));
    }
    let no_memory = || Error::io("cannot hold a copy", std::io::ErrorKind::OutOfMemory.into());
    let mut bytes = Vec::new();
    let len = len_usize(tensor.contiguous_byte_len()).ok_or_else(no_memory)?;
    bytes.try_reserve_exact(len).map_err(|_| no_memory())?;
    bytes.resize(len, 0);
    tensor.read_into(&mut bytes)?;
    let some = |integer: i64| Some(integer);
    let integers = match tensor.dtype() {
        DType::I64 => each(&bytes, |b| some(i64::from_le_bytes(b))),
        DType::I32 => each(&bytes, |b| some(i32::from_le_bytes(b).into())),
        DType::I16 => each(&bytes, |b| some(i16::from_le_bytes(b).into())),
        DType::I8 => each(&bytes, |b| some(i8::from_le_bytes(b).into())),
        DType::U64 => each(&bytes, |b| i64::try_from(u64::from_le_bytes(b)).ok()),
        DType::U32 => each(&bytes, |b| some(u32::from_le_bytes(b).into())),
        DType::U16 => each(&bytes, |b| some(u16::from_le_bytes(b).into())),
        DType::U8 | DType::Bool => each(&bytes, |[b]| some(b.into())),
        other => {
            let e = Error::invalid(format!("it is of dtype {other}; integers are needed"));
            let advice = "name others in the layout, or leave them out with `no_ids` or `no_labels`";
            return Err(e.with_tensor(tensor.name()).with_advice(advice));
        }
    };
    integers.ok_or_else(|| Error::invalid("an integer is larger than an i64 holds").with_tensor(tensor.name()))
}
