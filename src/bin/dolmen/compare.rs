//! The values of two tensors, compared as they stream from their files.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use dolmen::foreign::Held;
use dolmen::{DType, Error, ErrorKind, Result, TensorView};

use crate::number::{self, Distance, Number};

/// What came of comparing values.
#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// All are the same, bit for bit; of different dtypes, value for value.
    Equal,
    /// Some are not.
    Differing(Differences),
    /// It cannot be told, and why.
    Not(String),
}

/// Where values differ, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Differences {
    /// How many elements were compared (or bytes, if the dtype has no values).
    pub compared: u64,
    /// How many of them differ.
    pub differing: u64,
    /// At how many of these one side is a NaN and the other is not, or both are NaNs of different bits.
    pub nans: u64,
    /// The first of the pairs that are farthest apart, if their distance can be told.
    pub largest: Option<Largest>,
    /// Whether bytes were compared, not elements.
    pub bytes: bool,
}

/// The pair of elements that are farthest apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Largest {
    /// How far.
    pub distance: Distance,
    /// Which element, in row-major order.
    pub element: u64,
    /// The value on the left.
    pub a: Number,
    /// The value on the right.
    pub b: Number,
}

/// Strides may expand to this many bytes, or to the length of the files if that is more.
const EXPANSION: u64 = 256 << 20;
/// Tensors of up to this many bytes are read at once.
const SMALL: u64 = 1 << 20;
/// Elements compared at a time: a multiple of 8, so that packed dtypes begin at byte boundaries.
const STEP: u64 = 1 << 14;

/// A tensor, and what its document says of the values of tensors.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub tensor: TensorView<'a>,
    pub held: &'a Held,
}

/// Compares the values of two tensors of the same shape: those that their documents say they have.
///
/// # Errors
/// What is damaged in either, or cannot be read.
pub fn compare(left: Side<'_>, right: Side<'_>, longest_file: u64, progress: &dyn Fn(u64)) -> Result<Compared> {
    let (a, b) = (&left.tensor, &right.tensor);
    let allowed = longest_file.max(EXPANSION);
    let expanded = a.contiguous_byte_len().max(b.contiguous_byte_len());
    if expanded > allowed {
        // The same strides over the same bytes give the same elements, however many they are.
        let same_layout = a.dtype() == b.dtype() && a.explicit_strides() == b.explicit_strides();
        let meant = |side: Side<'_>| (side.held.is_conj(side.tensor.name()), side.held.is_neg(side.tensor.name()));
        if same_layout && meant(left) == meant(right) && a.bytes()? == b.bytes()? {
            return Ok(Compared::Equal);
        }
        let expanded = crate::human::size(expanded);
        return Ok(Compared::Not(format!("their strides expand to {expanded}, far more than the files hold")));
    }
    let comparison = match (a.dtype(), b.dtype()) {
        (x, y) if number::is_numeric(x) && number::is_numeric(y) => Comparison::new(x, y, a.element_count(), false),
        (x, y) if x == y => Comparison::new(DType::U8, DType::U8, a.contiguous_byte_len(), true),
        (x, y) => return Ok(Compared::Not(format!("elements of {x} and {y} have no values in common"))),
    };
    if a.contiguous_byte_len().max(b.contiguous_byte_len()) <= SMALL {
        return comparison.run(&mut Stream::read(left)?, &mut Stream::read(right)?, progress);
    }
    // Two tensors are read side by side, each by a thread of its own, which is a few pieces ahead at most.
    std::thread::scope(|scope| {
        let begin = |side: Side<'_>, to: SyncSender<Result<Vec<u8>>>| {
            let mut gathered = Vec::new();
            let read = side.held.stream(&side.tensor, |run| {
                // Runs of strided tensors can be as short as an element.
                gathered.extend_from_slice(run);
                if gathered.len() as u64 >= SMALL { send(&to, &mut gathered) } else { Ok(()) }
            });
            let _ = match read {
                Ok(()) => to.send(Ok(gathered)),
                Err(e) => to.send(Err(e)),
            };
        };
        let (to_a, from_a) = sync_channel(2);
        let (to_b, from_b) = sync_channel(2);
        let spawned = |e| Error::io("cannot start a thread", e);
        std::thread::Builder::new().spawn_scoped(scope, move || begin(left, to_a)).map_err(spawned)?;
        std::thread::Builder::new().spawn_scoped(scope, move || begin(right, to_b)).map_err(spawned)?;
        comparison.run(&mut Stream::of(from_a), &mut Stream::of(from_b), progress)
    })
}

fn send(to: &SyncSender<Result<Vec<u8>>>, bytes: &mut Vec<u8>) -> Result<()> {
    // The other end is gone only if the comparison has ended with an error, which then is the one to tell.
    let gone = |_| Error::new(ErrorKind::InvalidInput, "the comparison has ended");
    to.send(Ok(std::mem::take(bytes))).map_err(gone)
}

/// The bytes of a tensor, in pieces of any length.
struct Stream {
    from: Option<Receiver<Result<Vec<u8>>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Stream {
    fn of(from: Receiver<Result<Vec<u8>>>) -> Stream {
        Stream { from: Some(from), piece: Vec::new(), at: 0 }
    }

    fn read(side: Side<'_>) -> Result<Stream> {
        let mut piece = Vec::new();
        side.held.stream(&side.tensor, |run| {
            piece.extend_from_slice(run);
            Ok(())
        })?;
        Ok(Stream { from: None, piece, at: 0 })
    }

    /// Fills a buffer with the next `len` bytes.
    fn next(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<()> {
        buffer.clear();
        while buffer.len() < len {
            if self.at == self.piece.len() {
                let next = self.from.as_ref().and_then(|from| from.recv().ok());
                let ended = || Error::new(ErrorKind::Malformed, "a tensor ended before its shape did");
                self.piece = next.ok_or_else(ended)??;
                self.at = 0;
                continue;
            }
            let rest = &self.piece[self.at..];
            let taken = rest.len().min(len - buffer.len());
            buffer.extend_from_slice(&rest[..taken]);
            self.at += taken;
        }
        Ok(())
    }
}

/// A comparison in progress.
struct Comparison {
    dtypes: (DType, DType),
    found: Differences,
}

impl Comparison {
    fn new(a: DType, b: DType, compared: u64, bytes: bool) -> Comparison {
        Comparison { dtypes: (a, b), found: Differences { compared, differing: 0, nans: 0, largest: None, bytes } }
    }

    fn run(mut self, a: &mut Stream, b: &mut Stream, progress: &dyn Fn(u64)) -> Result<Compared> {
        let len = |count: u64, dtype: DType| (count * u64::from(dtype.bits())).div_ceil(8) as usize;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut done = 0;
        while done < self.found.compared {
            let count = STEP.min(self.found.compared - done);
            a.next(&mut left, len(count, self.dtypes.0))?;
            b.next(&mut right, len(count, self.dtypes.1))?;
            if self.dtypes.0 != self.dtypes.1 || left != right {
                self.step(&left, &right, done, count as usize);
            }
            progress((left.len() + right.len()) as u64);
            done += count;
        }
        Ok(if self.found.differing == 0 { Compared::Equal } else { Compared::Differing(self.found) })
    }

    /// Compares some elements one by one.
    fn step(&mut self, left: &[u8], right: &[u8], first: u64, count: usize) {
        let (x, y) = self.dtypes;
        let size = if x == y { x.byte_size().map(|size| size as usize) } else { None };
        for i in 0..count {
            if let Some(size) = size {
                let place = i * size..(i + 1) * size;
                if left.get(place.clone()) == right.get(place) {
                    continue;
                }
            }
            let (Some(a), Some(b)) = (number::element(x, left, i), number::element(y, right, i)) else { continue };
            // Elements of one dtype with a size were told apart by their bits above: 0.0 and -0.0 differ, as do NaNs.
            if size.is_none() && a.is_same_value(b) && !(x == y && is_negative_zero(a) != is_negative_zero(b)) {
                continue;
            }
            self.found.differing += 1;
            if self.found.bytes {
                continue;
            }
            match a.distance(b) {
                None => self.found.nans += 1,
                Some(distance) => {
                    let farther = |largest: &Largest| distance.as_f64() > largest.distance.as_f64();
                    if self.found.largest.as_ref().is_none_or(farther) {
                        self.found.largest = Some(Largest { distance, element: first + i as u64, a, b });
                    }
                }
            }
        }
    }
}

/// Whether a packed float is -0.0.
fn is_negative_zero(number: Number) -> bool {
    matches!(number, Number::Float(x) if x == 0.0 && x.is_sign_negative())
}

/// The index, along each axis, of an element in row-major order.
pub fn index_of(element: u64, shape: &[u64]) -> Vec<u64> {
    let mut rest = element;
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let at = rest.checked_rem(dim).unwrap_or(0);
            rest = rest.checked_div(dim).unwrap_or(0);
            at
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_an_index_along_each_axis() {
        assert_eq!(index_of(0, &[]), Vec::<u64>::new());
        assert_eq!(index_of(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(index_of(5, &[2, 1, 4]), [1, 0, 1]);
    }
}
