//! Values to deterministic CBOR.
//!
//! What cannot be encoded as it is, is an error: never is another value written in its place.

use std::collections::BTreeMap;
use std::convert::Infallible;

use minicbor::data::{Int, Tag};

use super::float::{Shortest, shortest};
use super::{BigInt, Dict, DictKind, Global, MAX_DEPTH, Object, TensorRef, Value, bigint, tag, wtf8};
use crate::error::{Error, Result};

/// The bytes of a metadata section.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the map is empty, or holds what metadata must not hold.
pub(crate) fn encode_metadata(metadata: &BTreeMap<String, Value>) -> Result<Vec<u8>> {
    if metadata.is_empty() {
        return Err(Error::invalid("metadata is empty; a file without metadata has no such section"));
    }
    let mut encoder = Encoder::new(Section::Metadata);
    encoder.map(metadata)?;
    Ok(encoder.out.into_writer())
}

/// The bytes of a document section.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the value holds what a document must not hold.
pub(crate) fn encode_document(document: &Value) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(Section::Document);
    encoder.value(document)?;
    Ok(encoder.out.into_writer())
}

/// Which section a value is in: they allow different kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Metadata,
    Document,
}

/// The entries of a plain map in the order of the keys' encodings: a text's length comes first in its encoding.
pub(super) fn in_order<V>(map: &BTreeMap<String, V>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| (key.len(), key.as_str()));
    entries
}

struct Encoder {
    out: minicbor::Encoder<Vec<u8>>,
    section: Section,
    depth: usize,
    /// How many shareable values have begun.
    shareables: u64,
}

/// Writing to memory cannot fail, but the encoder's types do not say so.
fn written<T>(result: Result<T, minicbor::encode::Error<Infallible>>) -> Result<()> {
    result.map(|_| ()).map_err(|error| Error::invalid(format!("cannot encode: {error}")))
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

// Each kind has a method of its own, so that the frames on the way down stay small.
impl Encoder {
    fn new(section: Section) -> Encoder {
        Encoder { out: minicbor::Encoder::new(Vec::new()), section, depth: 0, shareables: 0 }
    }

    fn enter(&mut self) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::invalid(format!("the value nests more than {MAX_DEPTH} deep")));
        }
        self.depth = self.depth.saturating_add(1);
        Ok(())
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Null => written(self.out.null()),
            Value::Bool(value) => written(self.out.bool(*value)),
            Value::Int(value) => written(self.out.i64(*value)),
            Value::BigInt(value) => self.big_int(value),
            Value::Float(value) => self.float(*value),
            Value::Complex(real, imaginary) => self.complex(*real, *imaginary),
            Value::Text(text) => written(self.out.str(text)),
            Value::Wtf8(bytes) => self.wtf8(bytes),
            Value::Bytes(bytes) => written(self.out.bytes(bytes)),
            Value::ByteArray(bytes) => self.tagged_bytes(tag::BYTEARRAY, bytes),
            Value::List(items) => self.array(items),
            Value::Tuple(items) => self.tagged_array(tag::TUPLE, items),
            Value::Set(items) => self.tagged_array(tag::SET, items),
            Value::FrozenSet(items) => self.tagged_array(tag::FROZENSET, items),
            Value::Dict(dict) => self.dict(dict),
            Value::Map(map) => self.plain_map(map),
            Value::Tensor(tensor) => self.tensor(tensor),
            Value::Global(global) => self.global(global),
            Value::Object(object) => self.object(object),
            Value::Shareable(inner) => self.shareable(inner),
            Value::SharedRef(number) => self.shared_ref(*number),
        }
    }

    fn tag(&mut self, tag: u64) -> Result<()> {
        self.enter()?;
        written(self.out.tag(Tag::new(tag)))
    }

    /// A tag that metadata must not hold.
    fn document_tag(&mut self, tag: u64) -> Result<()> {
        if self.section == Section::Metadata {
            return Err(Error::invalid(format!("metadata cannot hold a value of the kind {}", tag::name(tag))));
        }
        self.tag(tag)
    }

    fn array_head(&mut self, len: usize) -> Result<()> {
        self.enter()?;
        written(self.out.array(length(len)))
    }

    fn map_head(&mut self, len: usize) -> Result<()> {
        self.enter()?;
        written(self.out.map(length(len)))
    }

    fn array(&mut self, items: &[Value]) -> Result<()> {
        self.array_head(items.len())?;
        for item in items {
            self.value(item)?;
        }
        self.leave();
        Ok(())
    }

    /// Pairs as one array: key, value, key, value.
    fn pairs(&mut self, pairs: &[(Value, Value)]) -> Result<()> {
        self.array_head(pairs.len().saturating_mul(2))?;
        for (key, value) in pairs {
            self.value(key)?;
            self.value(value)?;
        }
        self.leave();
        Ok(())
    }

    fn map(&mut self, map: &BTreeMap<String, Value>) -> Result<()> {
        self.map_head(map.len())?;
        for (key, value) in in_order(map) {
            written(self.out.str(key))?;
            self.value(value)?;
        }
        self.leave();
        Ok(())
    }

    fn plain_map(&mut self, map: &BTreeMap<String, Value>) -> Result<()> {
        if self.section == Section::Document {
            return Err(Error::invalid("a document cannot hold a plain map; a dictionary is a Dict"));
        }
        self.map(map)
    }

    fn tagged_array(&mut self, tag: u64, items: &[Value]) -> Result<()> {
        self.tag(tag)?;
        self.array(items)?;
        self.leave();
        Ok(())
    }

    fn tagged_bytes(&mut self, tag: u64, bytes: &[u8]) -> Result<()> {
        self.tag(tag)?;
        self.leave();
        written(self.out.bytes(bytes))
    }

    fn big_int(&mut self, value: &BigInt) -> Result<()> {
        let n = value.encoded_magnitude();
        match (bigint::to_u64(&n), value.is_negative()) {
            (Some(n), false) => written(self.out.u64(n)),
            (Some(n), true) => {
                let value = (-1_i128).saturating_sub(i128::from(n));
                let value = Int::try_from(value).map_err(|error| Error::invalid(format!("cannot encode: {error}")))?;
                written(self.out.int(value))
            }
            (None, false) => self.tagged_bytes(tag::BIGNUM, &n),
            (None, true) => self.tagged_bytes(tag::NEGATIVE_BIGNUM, &n),
        }
    }

    fn float(&mut self, value: f64) -> Result<()> {
        let out = self.out.writer_mut();
        // Not the encoder's own methods: those take floats, and passing on a NaN as one of another width changes it.
        match shortest(value) {
            Shortest::Half(bits) => {
                out.push(0xF9);
                out.extend_from_slice(&bits.to_be_bytes());
            }
            Shortest::Single(bits) => {
                out.push(0xFA);
                out.extend_from_slice(&bits.to_be_bytes());
            }
            Shortest::Double(bits) => {
                out.push(0xFB);
                out.extend_from_slice(&bits.to_be_bytes());
            }
        }
        Ok(())
    }

    fn complex(&mut self, real: f64, imaginary: f64) -> Result<()> {
        self.tag(tag::COMPLEX)?;
        self.array_head(2)?;
        self.float(real)?;
        self.float(imaginary)?;
        self.leave();
        self.leave();
        Ok(())
    }

    fn wtf8(&mut self, bytes: &[u8]) -> Result<()> {
        if std::str::from_utf8(bytes).is_ok() {
            return Err(Error::invalid("text is valid UTF-8: it is a Text, not a Wtf8"));
        }
        if !wtf8::is_generalised_utf8(bytes) {
            return Err(Error::invalid("text is not generalised UTF-8"));
        }
        self.tagged_bytes(tag::WTF8, bytes)
    }

    fn dict(&mut self, dict: &Dict) -> Result<()> {
        if dict.kind != DictKind::Plain {
            return self.other_dict(dict);
        }
        if dict.factory.is_some() || dict.attributes.is_some() {
            return Err(Error::invalid("a plain dictionary has neither factory nor attributes"));
        }
        self.tag(tag::DICT)?;
        self.pairs(&dict.entries)?;
        self.leave();
        Ok(())
    }

    fn other_dict(&mut self, dict: &Dict) -> Result<()> {
        if dict.factory.is_some() && dict.kind != DictKind::Default {
            return Err(Error::invalid("only a dictionary of the kind default has a factory"));
        }
        self.tag(tag::OTHER_DICT)?;
        self.array_head(4)?;
        written(self.out.str(dict.kind.name()))?;
        self.pairs(&dict.entries)?;
        self.optional(dict.factory.as_deref())?;
        self.optional(dict.attributes.as_deref())?;
        self.leave();
        self.leave();
        Ok(())
    }

    /// A value whose absence is written as null.
    fn optional(&mut self, value: Option<&Value>) -> Result<()> {
        match value {
            None => written(self.out.null()),
            Some(Value::Null) => {
                Err(Error::invalid("the factory or the attributes of a dictionary are a Null: use None"))
            }
            Some(value) => self.value(value),
        }
    }

    fn tensor(&mut self, tensor: &TensorRef) -> Result<()> {
        self.document_tag(tag::TENSOR)?;
        if tensor.attributes.is_empty() {
            written(self.out.str(&tensor.name))?;
        } else {
            self.array_head(2)?;
            written(self.out.str(&tensor.name))?;
            self.map(&tensor.attributes)?;
            self.leave();
        }
        self.leave();
        Ok(())
    }

    fn global(&mut self, global: &Global) -> Result<()> {
        self.document_tag(tag::GLOBAL)?;
        self.array_head(2)?;
        written(self.out.str(&global.module))?;
        written(self.out.str(&global.name))?;
        self.leave();
        self.leave();
        Ok(())
    }

    fn object(&mut self, object: &Object) -> Result<()> {
        let Object { class, args, kwargs, state, items, entries, new } = object;
        let fields = [
            new.is_some(),
            args.is_some(),
            true,
            items.is_some(),
            state.is_some(),
            kwargs.is_some(),
            entries.is_some(),
        ];
        self.document_tag(tag::OBJECT)?;
        self.map_head(fields.into_iter().filter(|present| *present).count())?;
        // In the order of the keys' encodings.
        if let Some(new) = new {
            written(self.out.str("new"))?;
            written(self.out.str(new))?;
        }
        if let Some(args) = args {
            written(self.out.str("args"))?;
            self.object_args(args)?;
        }
        written(self.out.str("class"))?;
        self.value(class)?;
        if let Some(items) = items {
            written(self.out.str("items"))?;
            self.array(items)?;
        }
        if let Some(state) = state {
            written(self.out.str("state"))?;
            self.value(state)?;
        }
        if let Some(kwargs) = kwargs {
            written(self.out.str("kwargs"))?;
            self.tag(tag::DICT)?;
            self.pairs(kwargs)?;
            self.leave();
        }
        if let Some(entries) = entries {
            written(self.out.str("entries"))?;
            self.pairs(entries)?;
        }
        self.leave();
        self.leave();
        Ok(())
    }

    fn object_args(&mut self, args: &Value) -> Result<()> {
        match args {
            Value::Tuple(_) | Value::List(_) => self.value(args),
            _ => Err(Error::invalid("the arguments of an object are neither a tuple nor a list")),
        }
    }

    fn shareable(&mut self, inner: &Value) -> Result<()> {
        if matches!(inner, Value::Shareable(_) | Value::SharedRef(_)) {
            return Err(Error::invalid("what is shareable or a shared_ref is made shareable once more"));
        }
        self.document_tag(tag::SHAREABLE)?;
        self.shareables = self.shareables.saturating_add(1);
        self.value(inner)?;
        self.leave();
        Ok(())
    }

    fn shared_ref(&mut self, number: u64) -> Result<()> {
        self.document_tag(tag::SHARED_REF)?;
        self.leave();
        if number >= self.shareables {
            return Err(Error::invalid(format!(
                "a reference to the shareable value {number}, of which only {} have begun",
                self.shareables
            )));
        }
        written(self.out.u64(number))
    }
}
