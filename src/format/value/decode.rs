//! Deterministic CBOR to values.
//!
//! The bytes are hostile: exactly what the encoder writes is accepted. Depth is checked before each descent, and the
//! items that open arrays and maps still owe are counted against the bytes that are left, so that no length that a file
//! declares costs memory that the file does not pay for with a byte for each item.

use std::collections::BTreeMap;

use super::encode::Section;
use super::float::{Shortest, shortest};
use super::{BigInt, Dict, DictKind, Global, MAX_DEPTH, Object, TensorRef, Value, tag, wtf8};
use crate::error::{Error, Result, quoted};
use crate::format::len_u64;
use crate::format::rules::*;

/// What the bytes of a metadata section say. Offsets in errors count from the section's start.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed), with the rule (VAL-1, 2, 3 or 5) that the bytes break.
pub(crate) fn decode_metadata(section: &[u8]) -> Result<BTreeMap<String, Value>> {
    let mut decoder = Decoder::new(section, Section::Metadata);
    let Head::Map(len) = decoder.head()? else {
        return Err(malformed(VAL_5, 0, "metadata is no map"));
    };
    if len == 0 {
        return Err(malformed(VAL_5, 0, "metadata is an empty map"));
    }
    let metadata = decoder.map(0, len)?;
    decoder.end()?;
    Ok(metadata)
}

/// What the bytes of a document section say. Offsets in errors count from the section's start.
///
/// That the tensors referred to exist (VAL-4) is left to the caller: see [`Value::tensor_names`].
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed), with the rule (VAL-1, 2, 3 or 6) that the bytes break.
pub(crate) fn decode_document(section: &[u8]) -> Result<Value> {
    let mut decoder = Decoder::new(section, Section::Document);
    let document = decoder.item()?;
    decoder.end()?;
    Ok(document)
}

/// A beginning of an item, and all of it where it has no content after that.
enum Head {
    Unsigned(u64),
    Negative(u64),
    Bytes(u64),
    Text(u64),
    Array(u64),
    Map(u64),
    Tag(u64),
    Bool(bool),
    Null,
    Float(f64),
}

struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
    section: Section,
    depth: usize,
    /// Items that have been announced and not begun. Each takes a byte at least.
    owed: usize,
    /// How many shareable values have begun.
    shareables: u64,
}

#[cold]
fn malformed(rule: Rule, at: usize, message: impl Into<String>) -> Error {
    rule.broken(message).with_offset(len_u64(at))
}

// Each kind has a method of its own, so that the frames on the way down stay small.
impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8], section: Section) -> Decoder<'a> {
        Decoder { bytes, position: 0, section, depth: 0, owed: 1, shareables: 0 }
    }

    fn end(&self) -> Result<()> {
        let extra = self.bytes.len().saturating_sub(self.position);
        if extra != 0 {
            return Err(malformed(VAL_1, self.position, format!("{extra} bytes follow the item")));
        }
        Ok(())
    }

    fn enter(&mut self, at: usize) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(malformed(VAL_3, at, format!("values nest more than {MAX_DEPTH} deep")));
        }
        self.depth = self.depth.saturating_add(1);
        Ok(())
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    #[cold]
    fn cut_off(&self) -> Error {
        malformed(VAL_1, self.bytes.len(), "the item is longer than its section")
    }

    /// How many of the bytes left are not needed for items that are owed.
    fn free(&self) -> usize {
        self.bytes.len().saturating_sub(self.position).saturating_sub(self.owed)
    }

    /// Takes note of items that follow.
    fn owe(&mut self, items: u64) -> Result<usize> {
        match usize::try_from(items) {
            Ok(items) if items <= self.free() => {
                self.owed = self.owed.saturating_add(items);
                Ok(items)
            }
            _ => Err(self.cut_off()),
        }
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match usize::try_from(len).ok().filter(|len| *len <= self.free()).and_then(|len| rest.get(..len)) {
            Some(taken) => {
                self.position = self.position.saturating_add(taken.len());
                Ok(taken)
            }
            None => Err(self.cut_off()),
        }
    }

    fn big_endian(&mut self, len: u64) -> Result<u64> {
        Ok(self.take(len)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn head(&mut self) -> Result<Head> {
        let at = self.position;
        self.owed = self.owed.saturating_sub(1);
        let first = *self.take(1)?.first().ok_or_else(|| self.cut_off())?;
        let (major, info) = (first >> 5, first & 0x1F);
        if major == 7 {
            return self.simple_or_float(at, info);
        }
        let argument = self.argument(at, info)?;
        Ok(match major {
            0 => Head::Unsigned(argument),
            1 => Head::Negative(argument),
            2 => Head::Bytes(argument),
            3 => Head::Text(argument),
            4 => Head::Array(argument),
            5 => Head::Map(argument),
            _ => Head::Tag(argument),
        })
    }

    fn argument(&mut self, at: usize, info: u8) -> Result<u64> {
        let (argument, least) = match info {
            0..24 => return Ok(u64::from(info)),
            24 => (self.big_endian(1)?, 24),
            25 => (self.big_endian(2)?, 1 << 8),
            26 => (self.big_endian(4)?, 1 << 16),
            27 => (self.big_endian(8)?, 1 << 32),
            31 => return Err(malformed(VAL_1, at, "an item of indefinite length")),
            _ => return Err(malformed(VAL_1, at, "an item of a reserved form")),
        };
        if argument < least {
            return Err(malformed(VAL_1, at, format!("the number {argument} is not in its shortest form")));
        }
        Ok(argument)
    }

    fn simple_or_float(&mut self, at: usize, info: u8) -> Result<Head> {
        let read = match info {
            20 => return Ok(Head::Bool(false)),
            21 => return Ok(Head::Bool(true)),
            22 => return Ok(Head::Null),
            25 => u16::try_from(self.big_endian(2)?).ok().map(Shortest::Half),
            26 => u32::try_from(self.big_endian(4)?).ok().map(Shortest::Single),
            27 => Some(Shortest::Double(self.big_endian(8)?)),
            28..=30 => return Err(malformed(VAL_1, at, "an item of a reserved form")),
            31 => return Err(malformed(VAL_1, at, "an end of an item of indefinite length")),
            _ => return Err(malformed(VAL_1, at, "a simple value other than false, true and null")),
        };
        match read.map(|read| (read, read.widen())) {
            Some((read, value)) if shortest(value) == read => Ok(Head::Float(value)),
            _ => Err(malformed(VAL_1, at, "a float that is not in its shortest form")),
        }
    }

    fn item(&mut self) -> Result<Value> {
        let at = self.position;
        match self.head()? {
            Head::Array(len) => self.list(at, len),
            Head::Map(len) => self.plain_map(at, len),
            Head::Tag(tag) => self.tagged(at, tag),
            head => self.childless(at, head),
        }
    }

    fn childless(&mut self, at: usize, head: Head) -> Result<Value> {
        Ok(match head {
            Head::Unsigned(n) => Value::from(n),
            Head::Negative(n) => BigInt::normalise_complement(&n.to_be_bytes()),
            Head::Bytes(len) => Value::Bytes(self.take(len)?.to_vec()),
            Head::Text(len) => Value::from(self.text(len)?),
            Head::Bool(value) => Value::Bool(value),
            Head::Float(value) => Value::Float(value),
            Head::Null => Value::Null,
            Head::Array(_) | Head::Map(_) | Head::Tag(_) => return Err(malformed(VAL_1, at, "an item with content")),
        })
    }

    fn list(&mut self, at: usize, len: u64) -> Result<Value> {
        self.array(at, len).map(Value::List)
    }

    fn text(&mut self, len: u64) -> Result<&'a str> {
        let at = self.position;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes)
            .map_err(|error| malformed(VAL_1, at.saturating_add(error.valid_up_to()), "text is not valid UTF-8"))
    }

    fn array(&mut self, at: usize, len: u64) -> Result<Vec<Value>> {
        self.enter(at)?;
        let len = self.owe(len)?;
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.item()?);
        }
        self.leave();
        Ok(items)
    }

    fn plain_map(&mut self, at: usize, len: u64) -> Result<Value> {
        match self.section {
            Section::Metadata => self.map(at, len).map(Value::Map),
            Section::Document => Err(malformed(VAL_6, at, "a plain map that is not the content of a tag")),
        }
    }

    fn enter_map(&mut self, at: usize, len: u64) -> Result<()> {
        self.enter(at)?;
        self.owe(len.checked_mul(2).ok_or_else(|| self.cut_off())?)?;
        Ok(())
    }

    fn map(&mut self, at: usize, len: u64) -> Result<BTreeMap<String, Value>> {
        self.enter_map(at, len)?;
        let mut map = BTreeMap::new();
        let mut previous = None;
        for _ in 0..len {
            let key = self.key(&mut previous)?;
            map.insert(key.to_owned(), self.item()?);
        }
        self.leave();
        Ok(map)
    }

    /// A key of a plain map, which must come after the one before it.
    fn key(&mut self, previous: &mut Option<&'a str>) -> Result<&'a str> {
        let at = self.position;
        let Head::Text(len) = self.head()? else {
            let rule = if self.section == Section::Metadata { VAL_5 } else { VAL_6 };
            return Err(malformed(rule, at, "a key of a plain map is not text"));
        };
        let key = self.text(len)?;
        // A text's length comes first in its encoding, so this is the order of the encodings.
        if let Some(before) = previous.replace(key)
            && (before.len(), before) >= (key.len(), key)
        {
            let what = if before == key { "occurs twice" } else { "is out of order" };
            return Err(malformed(VAL_1, at, format!("the key {} of a plain map {what}", quoted(key))));
        }
        Ok(key)
    }

    fn tagged(&mut self, at: usize, tag: u64) -> Result<Value> {
        if self.section == Section::Metadata
            && matches!(tag, tag::TENSOR | tag::SHAREABLE | tag::SHARED_REF | tag::GLOBAL | tag::OBJECT)
        {
            return Err(malformed(VAL_5, at, format!("metadata holds a value of the kind {}", tag::name(tag))));
        }
        self.enter(at)?;
        self.owe(1)?;
        let value = match tag {
            tag::SHAREABLE => self.shareable(),
            tag::TUPLE | tag::SET | tag::FROZENSET => self.sequence(tag),
            tag::DICT => self.plain_dict(),
            tag::OTHER_DICT => self.other_dict(),
            tag::TENSOR => self.tensor(),
            tag::OBJECT => self.object(),
            _ => self.tagged_childless(at, tag),
        };
        self.leave();
        value
    }

    fn tagged_childless(&mut self, at: usize, tag: u64) -> Result<Value> {
        match tag {
            tag::BIGNUM | tag::NEGATIVE_BIGNUM => self.bignum(tag),
            tag::SHARED_REF => self.shared_ref(),
            tag::COMPLEX => self.complex(),
            tag::BYTEARRAY => self.bytes_in(tag).map(|bytes| Value::ByteArray(bytes.to_vec())),
            tag::WTF8 => self.wtf8(),
            tag::GLOBAL => self.global().map(Value::from),
            _ => Err(malformed(VAL_2, at, format!("the tag {tag} is none of this format"))),
        }
    }

    fn sequence(&mut self, tag: u64) -> Result<Value> {
        let items = self.array_in(tag)?;
        Ok(match tag {
            tag::TUPLE => Value::Tuple(items),
            tag::SET => Value::Set(items),
            _ => Value::FrozenSet(items),
        })
    }

    #[cold]
    fn bad_content(&self, at: usize, tag: u64, expected: &str) -> Error {
        malformed(VAL_2, at, format!("a {} holds something other than {expected}", tag::name(tag)))
    }

    fn bytes_in(&mut self, tag: u64) -> Result<&'a [u8]> {
        let at = self.position;
        match self.head()? {
            Head::Bytes(len) => self.take(len),
            _ => Err(self.bad_content(at, tag, "a byte string")),
        }
    }

    fn text_in(&mut self, tag: u64) -> Result<&'a str> {
        let at = self.position;
        match self.head()? {
            Head::Text(len) => self.text(len),
            _ => Err(self.bad_content(at, tag, "text where text belongs")),
        }
    }

    fn array_in(&mut self, tag: u64) -> Result<Vec<Value>> {
        let at = self.position;
        match self.head()? {
            Head::Array(len) => self.array(at, len),
            _ => Err(self.bad_content(at, tag, "an array")),
        }
    }

    fn pairs_in(&mut self, tag: u64) -> Result<Vec<(Value, Value)>> {
        let at = self.position;
        match self.head()? {
            Head::Array(len) => self.pairs(at, len, tag),
            _ => Err(self.bad_content(at, tag, "an array of pairs")),
        }
    }

    fn pairs(&mut self, at: usize, len: u64, tag: u64) -> Result<Vec<(Value, Value)>> {
        if !len.is_multiple_of(2) {
            return Err(malformed(VAL_2, at, format!("a {} holds a key without a value", tag::name(tag))));
        }
        self.enter(at)?;
        let count = self.owe(len)? / 2;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let key = self.item()?;
            pairs.push((key, self.item()?));
        }
        self.leave();
        Ok(pairs)
    }

    /// Begins an array of exactly so many items.
    fn enter_array_of(&mut self, items: u64, tag: u64) -> Result<()> {
        let at = self.position;
        match self.head()? {
            Head::Array(len) if len == items => {
                self.enter(at)?;
                self.owe(len)?;
                Ok(())
            }
            _ => Err(self.bad_content(at, tag, &format!("an array of {items}"))),
        }
    }

    fn bignum(&mut self, tag: u64) -> Result<Value> {
        let at = self.position;
        let n = self.bytes_in(tag)?;
        if n.first() == Some(&0) {
            return Err(malformed(VAL_2, at, "a bignum begins with a zero byte"));
        }
        if n.len() <= 8 {
            return Err(malformed(VAL_2, at, "a bignum is small enough for a plain integer"));
        }
        Ok(if tag == tag::BIGNUM { BigInt::normalise(false, n) } else { BigInt::normalise_complement(n) })
    }

    fn shareable(&mut self) -> Result<Value> {
        self.shareables = self.shareables.saturating_add(1);
        let at = self.position;
        match self.item()? {
            Value::Shareable(_) | Value::SharedRef(_) => {
                Err(self.bad_content(at, tag::SHAREABLE, "an item that is not shared itself"))
            }
            item => Ok(Value::Shareable(Box::new(item))),
        }
    }

    fn shared_ref(&mut self) -> Result<Value> {
        let at = self.position;
        match self.head()? {
            Head::Unsigned(number) if number < self.shareables => Ok(Value::SharedRef(number)),
            Head::Unsigned(number) => Err(malformed(
                VAL_2,
                at,
                format!("a reference to the shareable value {number}, of which only {} have begun", self.shareables),
            )),
            _ => Err(self.bad_content(at, tag::SHARED_REF, "an unsigned integer")),
        }
    }

    fn complex(&mut self) -> Result<Value> {
        self.enter_array_of(2, tag::COMPLEX)?;
        let value = Value::Complex(self.float_part()?, self.float_part()?);
        self.leave();
        Ok(value)
    }

    fn float_part(&mut self) -> Result<f64> {
        let at = self.position;
        match self.head()? {
            Head::Float(value) => Ok(value),
            _ => Err(self.bad_content(at, tag::COMPLEX, "floats")),
        }
    }

    fn wtf8(&mut self) -> Result<Value> {
        let at = self.position;
        let bytes = self.bytes_in(tag::WTF8)?;
        if std::str::from_utf8(bytes).is_ok() {
            return Err(malformed(VAL_2, at, "a wtf8 holds valid UTF-8, which is plain text"));
        }
        if !wtf8::is_generalised_utf8(bytes) {
            return Err(malformed(VAL_2, at, "a wtf8 holds something other than generalised UTF-8"));
        }
        Ok(Value::Wtf8(bytes.to_vec()))
    }

    fn plain_dict(&mut self) -> Result<Value> {
        let entries = self.pairs_in(tag::DICT)?;
        Ok(Value::from(Dict { entries, ..Dict::default() }))
    }

    fn other_dict(&mut self) -> Result<Value> {
        self.enter_array_of(4, tag::OTHER_DICT)?;
        let mut dict = Box::new(Dict::of_kind(self.dict_kind()?));
        dict.entries = self.pairs_in(tag::OTHER_DICT)?;
        let at = self.position;
        dict.factory = self.optional()?;
        if dict.factory.is_some() && dict.kind != DictKind::Default {
            return Err(self.bad_content(at, tag::OTHER_DICT, "a factory for the kind default alone"));
        }
        dict.attributes = self.optional()?;
        self.leave();
        Ok(Value::Dict(dict))
    }

    fn dict_kind(&mut self) -> Result<DictKind> {
        let at = self.position;
        let name = self.text_in(tag::OTHER_DICT)?;
        [DictKind::Ordered, DictKind::Default, DictKind::Counter]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| malformed(VAL_2, at, format!("{} is no kind of dictionary", quoted(name))))
    }

    fn optional(&mut self) -> Result<Option<Box<Value>>> {
        match self.item()? {
            Value::Null => Ok(None),
            value => Ok(Some(Box::new(value))),
        }
    }

    fn tensor(&mut self) -> Result<Value> {
        let at = self.position;
        match self.head()? {
            Head::Text(len) => Ok(Value::tensor(self.text(len)?)),
            Head::Array(2) => self.tensor_with_attributes(at).map(Value::from),
            _ => Err(self.bad_content(at, tag::TENSOR, "a name, or a name and a map")),
        }
    }

    fn tensor_with_attributes(&mut self, at: usize) -> Result<TensorRef> {
        self.enter(at)?;
        self.owe(2)?;
        let mut tensor = TensorRef::new(self.text_in(tag::TENSOR)?);
        let at = self.position;
        match self.head()? {
            Head::Map(len) if len != 0 => tensor.attributes = self.map(at, len)?,
            _ => return Err(self.bad_content(at, tag::TENSOR, "a map with entries beside its name")),
        }
        self.leave();
        Ok(tensor)
    }

    fn global(&mut self) -> Result<Global> {
        self.enter_array_of(2, tag::GLOBAL)?;
        let global = Global::new(self.text_in(tag::GLOBAL)?, self.text_in(tag::GLOBAL)?);
        self.leave();
        Ok(global)
    }

    fn object(&mut self) -> Result<Value> {
        let at = self.position;
        let Head::Map(len) = self.head()? else {
            return Err(self.bad_content(at, tag::OBJECT, "a map"));
        };
        self.enter_map(at, len)?;
        let mut object = Box::new(Object::default());
        let (mut previous, mut has_class) = (None, false);
        for _ in 0..len {
            let key_at = self.position;
            let key = self.key(&mut previous)?;
            has_class |= key == "class";
            self.object_field(&mut object, key_at, key)?;
        }
        if !has_class {
            return Err(malformed(VAL_2, at, "an object has no class"));
        }
        self.leave();
        Ok(Value::Object(object))
    }

    fn object_field(&mut self, object: &mut Object, key_at: usize, key: &str) -> Result<()> {
        match key {
            "class" => object.class = self.item()?,
            "args" => object.args = Some(self.object_args()?),
            "kwargs" => object.kwargs = Some(self.object_kwargs()?),
            "state" => object.state = Some(self.item()?),
            "items" => object.items = Some(self.array_in(tag::OBJECT)?),
            "entries" => object.entries = Some(self.pairs_in(tag::OBJECT)?),
            "new" => object.new = Some(self.text_in(tag::OBJECT)?.to_owned()),
            _ => return Err(malformed(VAL_2, key_at, format!("{} is no key of an object", quoted(key)))),
        }
        Ok(())
    }

    /// The tag that this content must have.
    fn expect_tag(&mut self, tag: u64, expected: &str) -> Result<()> {
        let at = self.position;
        match self.head()? {
            Head::Tag(found) if found == tag => {
                self.enter(at)?;
                self.owe(1)?;
                Ok(())
            }
            _ => Err(self.bad_content(at, tag::OBJECT, expected)),
        }
    }

    fn object_kwargs(&mut self) -> Result<Vec<(Value, Value)>> {
        self.expect_tag(tag::DICT, "a dict as its kwargs")?;
        let kwargs = self.pairs_in(tag::DICT)?;
        self.leave();
        Ok(kwargs)
    }

    fn object_args(&mut self) -> Result<Value> {
        let at = self.position;
        match self.item()? {
            args @ (Value::Tuple(_) | Value::List(_)) => Ok(args),
            _ => Err(self.bad_content(at, tag::OBJECT, "a tuple or an array as its args")),
        }
    }
}
