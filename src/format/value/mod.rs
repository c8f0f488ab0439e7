//! Values: what metadata and documents are made of (section 9 of the specification).
//!
//! A [`Value`] holds what a Python program could have saved besides its tensors, so that nothing is lost on the way in
//! or out. `encode` and `decode` turn it into deterministic CBOR and back: each value has one encoding, and each
//! sequence of bytes that is accepted encodes to itself again. Readers and writers of checkpoints call those; users
//! build values with `From` and look into them with [`Value::get`] and the `as_…` methods.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::as_conversions
)]

mod bigint;
mod decode;
mod encode;
mod float;
#[cfg(any(feature = "cli", feature = "lifecycle", feature = "safetensors"))]
mod json;
mod tag;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod wtf8;

use std::collections::BTreeMap;

use crate::error::{Error, Result};

pub use bigint::BigInt;
pub(crate) use decode::{decode_document, decode_metadata};
pub(crate) use encode::{encode_document, encode_metadata};
pub use tree::{Tree, TreeOptions};
pub use walk::Descendants;

/// How deep arrays, maps and tags may nest, counted together (VAL-3).
///
/// Most kinds of values take two levels, a tag and its content: tuples, sets, dicts, objects. Lists, plain maps and
/// shareable marks take one.
pub const MAX_DEPTH: usize = 1024;

/// Lists of numbers of one kind are stored as tensors from this length on, and remembered as lists: see [`TensorRef::list`].
pub const LIST_LEN: usize = 64;

/// One value of metadata or of a document.
///
/// Floats are compared by their bits: a NaN equals itself, and 0.0 is not -0.0. So two values are equal exactly if
/// their encodings are.
///
/// A value that comes from a file nests at most [`MAX_DEPTH`] deep. One that is built deeper cannot be encoded; cloning,
/// comparing or dropping it takes stack in proportion to its depth.
///
/// ```
/// use dolmen::format::value::{Dict, Value};
///
/// let mut run = Dict::new();
/// run.push("epoch", 12);
/// run.push("best", 0.25);
/// let run = Value::from(run);
/// assert_eq!(run.get("epoch").and_then(Value::as_i64), Some(12));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Value {
    /// `None`.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer that an `i64` holds.
    Int(i64),
    /// An integer that an `i64` does not hold.
    BigInt(BigInt),
    /// A float, with all its bits: the payload of a NaN survives.
    Float(f64),
    /// A complex number: real and imaginary part.
    Complex(f64, f64),
    /// Text.
    Text(String),
    /// Text with lone surrogates, in generalised UTF-8; never valid UTF-8. [`Value::from_wtf8`] makes it.
    Wtf8(Vec<u8>),
    /// An immutable byte string.
    Bytes(Vec<u8>),
    /// A mutable byte string.
    ByteArray(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// An immutable sequence.
    Tuple(Vec<Value>),
    /// A set; its elements in the order in which they were held.
    Set(Vec<Value>),
    /// An immutable set.
    FrozenSet(Vec<Value>),
    /// A dictionary of any kind.
    Dict(Box<Dict>),
    /// A plain map. It occurs in metadata only; in a document, a dictionary is a [`Dict`].
    Map(BTreeMap<String, Value>),
    /// A reference to a tensor. It occurs in documents only, as do the kinds below.
    Tensor(Box<TensorRef>),
    /// Something known by module and name.
    Global(Box<Global>),
    /// An object of a class that this format does not know: data, never executed.
    Object(Box<Object>),
    /// A value that a [`SharedRef`](Value::SharedRef) can refer to. Those of a document are numbered from 0 in the order
    /// in which they begin, as [`Value::descendants`] meets them.
    Shareable(Box<Value>),
    /// The shareable value of that number, which has begun before; it may be one that encloses this reference.
    SharedRef(u64),
}

/// A dictionary: pairs in the order in which they were held, with keys of any kind.
///
/// The format does not compare keys: what was read may hold a key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dict {
    /// What kind of dictionary it is.
    pub kind: DictKind,
    /// The pairs of keys and values.
    pub entries: Vec<(Value, Value)>,
    /// What makes the values of missing keys (of a `defaultdict`). Never [`Value::Null`], and `None` in a plain
    /// dictionary.
    pub factory: Option<Box<Value>>,
    /// Attributes set on the dictionary itself. Never [`Value::Null`], and `None` in a plain dictionary.
    pub attributes: Option<Box<Value>>,
}

/// The kind of a [`Dict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DictKind {
    /// A `dict`.
    #[default]
    Plain,
    /// A `collections.OrderedDict`.
    Ordered,
    /// A `collections.defaultdict`.
    Default,
    /// A `collections.Counter`.
    Counter,
}

/// A reference from a document to a tensor of the same file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorRef {
    /// The tensor's name.
    pub name: String,
    /// How the tensor was held. `as` = `list` means that the value was a list of numbers, and the tensor only holds it.
    pub attributes: BTreeMap<String, Value>,
}

/// Something known by module and name: a class, a function, a dtype. It is data; nothing imports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Global {
    /// The module, such as `collections`.
    pub module: String,
    /// The name within the module, such as `OrderedDict`.
    pub name: String,
}

/// An object of a class that this format does not know, as what would rebuild it. It is data; nothing executes it.
///
/// Shareable values within it begin in the order of the encoding: `args`, `class`, `items`, `state`, `kwargs`, `entries`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Object {
    /// The class, or function, that made it: a [`Value::Global`], or an object that can be called; null for a code of the
    /// extension registry.
    pub class: Value,
    /// Positional arguments: a [`Value::Tuple`] or a [`Value::List`].
    pub args: Option<Value>,
    /// Named arguments: a plain dictionary.
    pub kwargs: Option<Vec<(Value, Value)>>,
    /// The state it was given.
    pub state: Option<Value>,
    /// The elements appended to it.
    pub items: Option<Vec<Value>>,
    /// The pairs stored into it.
    pub entries: Option<Vec<(Value, Value)>>,
    /// How it was made. `None`: the class was called with the arguments. `newobj`: by `class.__new__(class, *args)`. `newobj_ex`: the
    /// same with named arguments. `extension`: `args` holds a code of the extension registry.
    pub new: Option<String>,
}

impl Value {
    /// A reference to the tensor of that name.
    pub fn tensor(name: impl Into<String>) -> Value {
        Value::from(TensorRef::new(name))
    }

    /// Something known by module and name.
    pub fn global(module: impl Into<String>, name: impl Into<String>) -> Value {
        Value::from(Global::new(module, name))
    }

    /// The integer of any size with this sign and magnitude; the bytes of the magnitude are big-endian.
    pub fn integer(negative: bool, magnitude: &[u8]) -> Value {
        BigInt::normalise(negative, magnitude)
    }

    /// The integer of any size whose two's complement, little-endian, these bytes are. No bytes are 0.
    pub fn integer_from_le_bytes(bytes: &[u8]) -> Value {
        BigInt::normalise_le(bytes)
    }

    /// Text in generalised UTF-8, which may encode lone surrogates: [`Value::Text`] if it is valid UTF-8, and
    /// [`Value::Wtf8`] if not.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the bytes are not even generalised UTF-8.
    pub fn from_wtf8(bytes: Vec<u8>) -> Result<Value> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text)),
            Err(other) if wtf8::is_generalised_utf8(other.as_bytes()) => Ok(Value::Wtf8(other.into_bytes())),
            Err(_) => Err(Error::invalid("text is not generalised UTF-8")),
        }
    }

    /// This value without the marks that make it shareable. The other accessors look through such marks themselves.
    pub fn unmarked(&self) -> &Value {
        let mut value = self;
        while let Value::Shareable(inner) = value {
            value = inner;
        }
        value
    }

    /// Whether this is [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self.unmarked(), Value::Null)
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.unmarked() {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if this is one and an `i64` holds it.
    pub fn as_i64(&self) -> Option<i64> {
        match self.unmarked() {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if this is one and a `u64` holds it.
    pub fn as_u64(&self) -> Option<u64> {
        match self.unmarked() {
            Value::Int(value) => u64::try_from(*value).ok(),
            Value::BigInt(value) => value.to_u64(),
            _ => None,
        }
    }

    /// The number, if this is a float, or an integer of at most 2^53 on either side, which a float holds exactly.
    pub fn as_f64(&self) -> Option<f64> {
        match self.unmarked() {
            Value::Float(value) => Some(*value),
            Value::Int(value) => float::exact(*value),
            _ => None,
        }
    }

    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self.unmarked() {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if this is a byte string, mutable or not.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self.unmarked() {
            Value::Bytes(bytes) | Value::ByteArray(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements, if this is a list, tuple, set or frozen set.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self.unmarked() {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => Some(items),
            _ => None,
        }
    }

    /// The dictionary, if this is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self.unmarked() {
            Value::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The reference to a tensor, if this is one.
    pub fn as_tensor(&self) -> Option<&TensorRef> {
        match self.unmarked() {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// What a dictionary or plain map holds for a key.
    ///
    /// **Cost:** a dictionary is searched from its beginning.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self.unmarked() {
            Value::Dict(dict) => dict.get(key),
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// This value and all within it, each before what it holds, in the order of the encoding.
    pub fn descendants(&self) -> Descendants<'_> {
        Descendants::new(self)
    }

    /// The names of all tensors that this value refers to, in the order of the encoding; one that is referred to twice
    /// comes twice.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.descendants().filter_map(|value| match value {
            Value::Tensor(tensor) => Some(tensor.name.as_str()),
            _ => None,
        })
    }

    /// Shows the value as a tree, for people to read: one line for each value, long lists and texts shortened.
    pub fn tree(&self, options: TreeOptions) -> Tree<'_> {
        Tree::new(self, options)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        // Exhaustive over the left side, so that a new variant cannot be forgotten.
        match self {
            Value::Null => matches!(other, Value::Null),
            Value::Bool(a) => matches!(other, Value::Bool(b) if a == b),
            Value::Int(a) => matches!(other, Value::Int(b) if a == b),
            Value::BigInt(a) => matches!(other, Value::BigInt(b) if a == b),
            Value::Float(a) => matches!(other, Value::Float(b) if a.to_bits() == b.to_bits()),
            Value::Complex(a, c) => {
                matches!(other, Value::Complex(b, d) if a.to_bits() == b.to_bits() && c.to_bits() == d.to_bits())
            }
            Value::Text(a) => matches!(other, Value::Text(b) if a == b),
            Value::Wtf8(a) => matches!(other, Value::Wtf8(b) if a == b),
            Value::Bytes(a) => matches!(other, Value::Bytes(b) if a == b),
            Value::ByteArray(a) => matches!(other, Value::ByteArray(b) if a == b),
            Value::List(a) => matches!(other, Value::List(b) if a == b),
            Value::Tuple(a) => matches!(other, Value::Tuple(b) if a == b),
            Value::Set(a) => matches!(other, Value::Set(b) if a == b),
            Value::FrozenSet(a) => matches!(other, Value::FrozenSet(b) if a == b),
            Value::Dict(a) => matches!(other, Value::Dict(b) if a == b),
            Value::Map(a) => matches!(other, Value::Map(b) if a == b),
            Value::Tensor(a) => matches!(other, Value::Tensor(b) if a == b),
            Value::Global(a) => matches!(other, Value::Global(b) if a == b),
            Value::Object(a) => matches!(other, Value::Object(b) if a == b),
            Value::Shareable(a) => matches!(other, Value::Shareable(b) if a == b),
            Value::SharedRef(a) => matches!(other, Value::SharedRef(b) if a == b),
        }
    }
}

impl Eq for Value {}

impl Dict {
    /// An empty plain dictionary.
    pub fn new() -> Dict {
        Dict::default()
    }

    /// An empty dictionary of a kind.
    pub fn of_kind(kind: DictKind) -> Dict {
        Dict { kind, ..Dict::default() }
    }

    /// What the dictionary holds for a key that is text. If the key occurs twice, the last one counts.
    ///
    /// **Cost:** linear in the number of entries.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().rev().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Adds a pair at the end. It does not look whether the key is there already.
    pub fn push(&mut self, key: impl Into<Value>, value: impl Into<Value>) {
        self.entries.push((key.into(), value.into()));
    }
}

impl DictKind {
    /// The name in the specification: `dict`, `ordered`, `default` or `counter`.
    pub fn name(self) -> &'static str {
        match self {
            DictKind::Plain => "dict",
            DictKind::Ordered => "ordered",
            DictKind::Default => "default",
            DictKind::Counter => "counter",
        }
    }
}

impl TensorRef {
    /// A reference to the tensor of that name, without attributes.
    pub fn new(name: impl Into<String>) -> TensorRef {
        TensorRef { name: name.into(), attributes: BTreeMap::new() }
    }

    /// A reference to the tensor of that name, which only holds what was a list of numbers.
    pub fn list(name: impl Into<String>) -> TensorRef {
        TensorRef { name: name.into(), attributes: BTreeMap::from([("as".to_owned(), Value::from("list"))]) }
    }

    /// Whether the value was a list of numbers (nested as deep as the tensor's rank), which the tensor only holds.
    pub fn is_list(&self) -> bool {
        matches!(self.attributes.get("as"), Some(Value::Text(text)) if text == "list")
    }
}

impl Global {
    /// What has that name in that module.
    pub fn new(module: impl Into<String>, name: impl Into<String>) -> Global {
        Global { module: module.into(), name: name.into() }
    }
}

impl Object {
    /// An object of a class, with nothing else.
    pub fn new(class: impl Into<Value>) -> Object {
        Object { class: class.into(), ..Object::default() }
    }
}

macro_rules! from_small_integers {
    ($($type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::Int(i64::from(value))
            }
        }
    )*};
}
from_small_integers!(i8, i16, i32, i64, u8, u16, u32);

macro_rules! from_large_integers {
    ($($unsigned:ty, $signed:ty);*) => {$(
        impl From<$unsigned> for Value {
            fn from(value: $unsigned) -> Value {
                Value::integer(false, &value.to_be_bytes())
            }
        }

        impl From<$signed> for Value {
            fn from(value: $signed) -> Value {
                Value::integer(value < 0, &value.unsigned_abs().to_be_bytes())
            }
        }
    )*};
}
from_large_integers!(usize, isize; u128, i128);

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::integer(false, &value.to_be_bytes())
    }
}

macro_rules! from_variants {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(value.into())
            }
        }
    )*};
}
from_variants!(
    bool => Bool,
    f32 => Float,
    f64 => Float,
    &str => Text,
    String => Text,
    Vec<Value> => List,
    BTreeMap<String, Value> => Map,
    Dict => Dict,
    TensorRef => Tensor,
    Global => Global,
    Object => Object
);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    /// A list.
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    /// A plain dictionary.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Dict {
        Dict { entries: entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), ..Dict::default() }
    }
}

impl<K: Into<Value>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Dict {
    fn from(entries: [(K, V); N]) -> Dict {
        entries.into_iter().collect()
    }
}
