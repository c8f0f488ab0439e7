//! What a document says of the values of tensors: conjugated, negated, quantised (`spec/torch.md` section 2).

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::format::dtype::DType;
use crate::format::len_u64;
use crate::format::value::{TensorRef, Value};
use crate::read::{Checkpoint, TensorView};

/// `true` if the tensor's elements are the complex conjugates of those that are stored.
pub const CONJ: &str = "conj";
/// `true` if the tensor's elements are the negatives of those that are stored.
pub const NEG: &str = "neg";
/// The arguments of the quantiser: a tuple.
pub const QUANTIZER: &str = "quantizer";

/// How many bytes are changed at a time.
const STEP: usize = 1 << 16;

/// Which tensors have other values than those that are stored, because the document says so: complex conjugates, negatives, quantised
/// numbers. What takes elements out of a checkpoint, to where the document does not come along, must ask this.
///
/// A tensor that the document does not mention is understood as those that it mentions and that lie in the very same place with the
/// same dtype, shape and strides, if it says the same of all of them.
#[derive(Clone, Debug, Default)]
pub struct Held(BTreeMap<String, How>);

/// What is said of one tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct How {
    conj: bool,
    neg: bool,
    quantised: bool,
    /// Different things are said: it is taken as it is stored.
    ambiguous: bool,
}

impl How {
    fn of(reference: &TensorRef) -> How {
        let said = |key| reference.attributes.get(key);
        let flag = |key| said(key).and_then(Value::as_bool).unwrap_or(false);
        How {
            conj: flag(CONJ),
            neg: flag(NEG),
            quantised: said(QUANTIZER).is_some_and(|value| !value.is_null()),
            ambiguous: false,
        }
    }

    fn is_plain(self) -> bool {
        self == How::default()
    }

    /// What is true if both are said.
    fn and(self, other: How) -> How {
        if self == other { self } else { How { ambiguous: true, ..How::default() } }
    }
}

/// Where a tensor lies: two of the same place have the same stored elements.
type Place<'a> = (u32, u64, DType, &'a [u64], Option<&'a [u64]>);

fn place<'a>(tensor: &TensorView<'a>) -> Place<'a> {
    (tensor.storage(), tensor.start(), tensor.dtype(), tensor.shape(), tensor.explicit_strides())
}

impl Held {
    /// What the document of a checkpoint says; nothing if it has none.
    ///
    /// **Cost**: decodes the document; if that says something of any tensor, a pass over the index, and memory for the names of those
    /// that it is said of. No data is read.
    ///
    /// # Errors
    /// As [`Checkpoint::document`]; and what is wrong with the index.
    pub fn of(checkpoint: &Checkpoint) -> Result<Held> {
        match checkpoint.document()? {
            Some(document) => Held::in_document(checkpoint, &document),
            None => Ok(Held::default()),
        }
    }

    /// As [`of`](Held::of), for who has decoded the document already.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn in_document(checkpoint: &Checkpoint, document: &Value) -> Result<Held> {
        let mut said: HashMap<&str, How> = HashMap::new();
        for value in document.descendants() {
            let Value::Tensor(reference) = value else { continue };
            let how = How::of(reference);
            said.entry(&reference.name).and_modify(|known| *known = known.and(how)).or_insert(how);
        }
        if said.values().all(|how| how.is_plain()) {
            return Ok(Held::default());
        }
        let mut places: HashMap<Place<'_>, How> = HashMap::new();
        let mut unmentioned = Vec::new();
        for tensor in checkpoint.tensors() {
            let tensor = tensor?;
            match said.get(tensor.name()) {
                Some(&how) => {
                    places.entry(place(&tensor)).and_modify(|known| *known = known.and(how)).or_insert(how);
                }
                None => unmentioned.push(tensor),
            }
        }
        let mut held = BTreeMap::new();
        for tensor in unmentioned {
            if let Some(&how) = places.get(&place(&tensor)).filter(|how| !how.is_plain()) {
                held.insert(tensor.name().to_owned(), how);
            }
        }
        let marked = said.into_iter().filter(|(_, how)| !how.is_plain());
        held.extend(marked.map(|(name, how)| (name.to_owned(), how)));
        Ok(Held(held))
    }

    fn how(&self, name: &str) -> How {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Whether the elements of the tensor of this name are the complex conjugates of those that are stored.
    pub fn is_conj(&self, name: &str) -> bool {
        self.how(name).conj
    }

    /// Whether the elements of the tensor of this name are the negatives of those that are stored.
    pub fn is_neg(&self, name: &str) -> bool {
        self.how(name).neg
    }

    /// Whether the elements of the tensor of this name are integers that stand for others, by a scale and a zero point.
    pub fn is_quantised(&self, name: &str) -> bool {
        self.how(name).quantised
    }

    /// Whether a tensor's elements are others than those that are stored, so that [`stream`](Held::stream) changes them.
    pub fn changes(&self, tensor: &TensorView<'_>) -> bool {
        Change::of(tensor, self.how(tensor.name())).is_some()
    }

    /// What is lost of a tensor where its elements, as [`stream`](Held::stream) gives them, are all that is kept: a sentence each.
    pub fn lost(&self, tensor: &TensorView<'_>) -> Vec<String> {
        let how = self.how(tensor.name());
        let mut lost = Vec::new();
        if how.quantised {
            lost.push("it is quantised: its integers are written, without scale and zero point".to_owned());
        }
        if how.neg && !self.changes(tensor) {
            let message = format!("the document says that it is negated, and {} has no negatives", tensor.dtype());
            lost.push(format!("{message}: its elements are written as they are stored"));
        }
        if how.ambiguous {
            let message =
                "the document says of what lies there that it is conjugated, negated or quantised, and that it is not";
            lost.push(format!("{message}: its elements are written as they are stored"));
        }
        lost
    }

    /// Gives a tensor's elements in row-major order, verified, piece by piece, as [`TensorView::stream`] does; conjugated and negated if the
    /// document says so. Quantised ones are given as the integers that they are.
    ///
    /// **Cost**: that of [`TensorView::stream`]; where elements are changed, a pass over them and 64 KiB.
    ///
    /// # Errors
    /// As [`TensorView::stream`].
    pub fn stream(&self, tensor: &TensorView<'_>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(mut change) = Change::of(tensor, self.how(tensor.name())) else { return tensor.stream(take) };
        let mut changed = Vec::new();
        tensor.stream(|piece| {
            piece.chunks(STEP).try_for_each(|piece| {
                changed.clear();
                change.apply(piece, &mut changed);
                take(&changed)
            })
        })
    }
}

/// Elements as they are changed, while their bytes go by; cut anywhere.
struct Change {
    kind: Kind,
    /// How many bytes have gone by.
    at: u64,
    /// How many bits the elements have; what is beyond stays as it is.
    bits: u64,
}

enum Kind {
    /// Bits to flip, in bytes that repeat.
    Flip(Vec<u8>),
    /// The sign of bytes that have no negative zero: what would be one is the NaN, which has no sign.
    FlipNonZero,
    /// Two's complement of so many bytes, and what is carried to the next one.
    Complement { len: u64, carry: bool },
}

impl Change {
    /// How to change a tensor's elements; `None` if they are those that are stored.
    fn of(tensor: &TensorView<'_>, how: How) -> Option<Change> {
        let (conj, neg) = (how.conj, how.neg);
        let dtype = tensor.dtype();
        // The sign is the highest bit of the last byte.
        let component = |len: usize, flip: bool| {
            let mut bytes = vec![0; len];
            if let Some(last) = bytes.last_mut() {
                *last = if flip { 0x80 } else { 0 };
            }
            bytes
        };
        // Conjugating flips the sign of the imaginary part, and negating the signs of both.
        let complex = |len: usize| Kind::Flip([component(len, neg), component(len, neg != conj)].concat());
        let kind = match dtype {
            DType::C32 | DType::C64 | DType::C128 if !conj && !neg => return None,
            DType::C32 => complex(2),
            DType::C64 => complex(4),
            DType::C128 => complex(8),
            // Real numbers are their own conjugates.
            _ if !neg => return None,
            DType::F16 | DType::BF16 => Kind::Flip(component(2, true)),
            DType::F32 => Kind::Flip(component(4, true)),
            DType::F64 => Kind::Flip(component(8, true)),
            DType::F8E4M3Fn | DType::F8E5M2 => Kind::Flip(component(1, true)),
            DType::F8E4M3Fnuz | DType::F8E5M2Fnuz => Kind::FlipNonZero,
            DType::F4E2M1FnX2 | DType::F4E2M1Fn => Kind::Flip(vec![0x88]),
            // Bits 5, 11, 17 and 23 of each four elements.
            DType::F6E2M3Fn | DType::F6E3M2Fn => Kind::Flip(vec![0x20, 0x08, 0x82]),
            DType::U8 | DType::I8 => Kind::Complement { len: 1, carry: true },
            DType::U16 | DType::I16 => Kind::Complement { len: 2, carry: true },
            DType::U32 | DType::I32 => Kind::Complement { len: 4, carry: true },
            DType::U64 | DType::I64 => Kind::Complement { len: 8, carry: true },
            _ => return None,
        };
        let bits = tensor.element_count().saturating_mul(dtype.bits().into());
        Some(Change { kind, at: 0, bits })
    }
    /// Changes the next bytes.
    fn apply(&mut self, piece: &[u8], changed: &mut Vec<u8>) {
        match &mut self.kind {
            Kind::Flip(mask) => {
                let begun = self.at.checked_rem(len_u64(mask.len())).unwrap_or_default();
                let mask = mask.iter().cycle().skip(usize::try_from(begun).unwrap_or_default());
                changed.extend(piece.iter().zip(mask).map(|(byte, flipped)| byte ^ flipped));
            }
            Kind::FlipNonZero => {
                changed.extend(piece.iter().map(|&byte| if byte & 0x7F == 0 { byte } else { byte ^ 0x80 }));
            }
            Kind::Complement { len, carry } => {
                for (at, byte) in (self.at..).zip(piece) {
                    *carry |= at.is_multiple_of(*len);
                    let (byte, carried) = (!byte).overflowing_add(u8::from(*carry));
                    *carry = carried;
                    changed.push(byte);
                }
            }
        }
        self.at = self.at.saturating_add(len_u64(piece.len()));
        // Only packed elements end within a byte, and only in the last one.
        let unused = self.at.saturating_mul(8).saturating_sub(self.bits);
        if let (1..8, Some(last), Some(stored)) = (unused, changed.last_mut(), piece.last()) {
            let used = u8::try_from(unused).ok().and_then(|unused| 0xFF_u8.checked_shr(unused.into())).unwrap_or(0xFF);
            *last = (*last & used) | (*stored & !used);
        }
    }
}
