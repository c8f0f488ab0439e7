//! Values as JSON, for programs that read what the command prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Number, Value as Json};

use super::{Dict, DictKind, Global, Object, TensorRef, Value, float};

impl Value {
    /// The value as JSON, from which nothing is left out.
    ///
    /// Null, booleans, text, lists, finite floats and integers of at most 2^53 on either side are what they are in JSON.
    /// So are maps and plain dictionaries whose keys are all text, each occurring once and none beginning with `$`. All
    /// else is an object with a key that begins with `$`:
    ///
    /// | key | what it holds |
    /// |---|---|
    /// | `$int` | a larger integer, in decimal; in hexadecimal with `0x` before it if it has more than 1024 bytes |
    /// | `$float` | the bits of an infinity or NaN, in 16 hexadecimal digits |
    /// | `$complex` | real and imaginary part |
    /// | `$wtf8`, `$bytes`, `$bytearray` | the bytes, in hexadecimal |
    /// | `$tuple`, `$set`, `$frozenset` | the elements |
    /// | `$dict`, `$map` | any other plain dictionary or map: pairs of keys and values |
    /// | `$ordered`, `$default`, `$counter` | the entries, as those of a plain dictionary would be; beside it, if there are any, `factory` and `attributes` |
    /// | `$tensor` | the name; beside it the attributes, or `$attributes` if a key of theirs begins with `$` |
    /// | `$global` | module and name, with a dot between |
    /// | `$object` | `class` (module and name with a dot between, if it is a global), and those of `new`, `args`, `items`, `state`, `kwargs` and `entries` that there are |
    /// | `$shareable` | a value that can be referred to |
    /// | `$shared_ref` | the number of the shareable value referred to |
    pub fn to_json(&self) -> Json {
        match self {
            Value::List(items) => list(items),
            Value::Tuple(items) => tagged("$tuple", list(items)),
            Value::Set(items) => tagged("$set", list(items)),
            Value::FrozenSet(items) => tagged("$frozenset", list(items)),
            Value::Dict(dict) => dictionary(dict),
            Value::Map(map) => plain_map(map),
            Value::Tensor(tensor) => tensor_ref(tensor),
            Value::Object(object) => opaque(object),
            Value::Shareable(inner) => tagged("$shareable", inner.to_json()),
            _ => childless(self),
        }
    }
}

// The functions that call each other on the way down are apart from the others, and loop instead of chaining iterators:
// so their frames stay small.

/// A value that holds no others.
fn childless(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) if value.unsigned_abs() <= float::EXACT => Json::from(*value),
        Value::Int(value) => tagged("$int", value.to_string().into()),
        Value::BigInt(value) => tagged("$int", value.to_string().into()),
        Value::Float(value) => number(*value),
        Value::Complex(real, imaginary) => tagged("$complex", vec![number(*real), number(*imaginary)].into()),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Wtf8(bytes) => tagged("$wtf8", hex(bytes)),
        Value::Bytes(bytes) => tagged("$bytes", hex(bytes)),
        Value::ByteArray(bytes) => tagged("$bytearray", hex(bytes)),
        Value::Global(global) => tagged("$global", path(global)),
        Value::SharedRef(number) => tagged("$shared_ref", (*number).into()),
        Value::List(_)
        | Value::Tuple(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Dict(_)
        | Value::Map(_)
        | Value::Tensor(_)
        | Value::Object(_)
        | Value::Shareable(_) => Json::Null,
    }
}

fn tagged(key: &str, value: Json) -> Json {
    Json::Object(Map::from_iter([(key.to_owned(), value)]))
}

fn number(value: f64) -> Json {
    match Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None => tagged("$float", format!("{:016x}", value.to_bits()).into()),
    }
}

fn hex(bytes: &[u8]) -> Json {
    let mut digits = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits.into()
}

fn path(global: &Global) -> Json {
    format!("{}.{}", global.module, global.name).into()
}

fn list(items: &[Value]) -> Json {
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        list.push(item.to_json());
    }
    Json::Array(list)
}

fn pair_list(pairs: &[(Value, Value)]) -> Json {
    let mut list = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        list.push(Json::Array(vec![key.to_json(), value.to_json()]));
    }
    Json::Array(list)
}

/// Pairs as a JSON object, if one can hold them.
fn pair_object(pairs: &[(Value, Value)]) -> Option<Json> {
    let mut keys = BTreeSet::new();
    // All keys are looked at before any value is converted: else each level of nesting could double the work.
    for (key, _) in pairs {
        match key {
            Value::Text(key) if !key.starts_with('$') && keys.insert(key) => {}
            _ => return None,
        }
    }
    let mut object = Map::new();
    for (key, value) in pairs {
        object.insert(key.as_str()?.to_owned(), value.to_json());
    }
    Some(Json::Object(object))
}

fn plain_dictionary(pairs: &[(Value, Value)]) -> Json {
    pair_object(pairs).unwrap_or_else(|| tagged("$dict", pair_list(pairs)))
}

fn dictionary(dict: &Dict) -> Json {
    let key = match dict.kind {
        DictKind::Plain => return plain_dictionary(&dict.entries),
        DictKind::Ordered => "$ordered",
        DictKind::Default => "$default",
        DictKind::Counter => "$counter",
    };
    let mut object = Map::new();
    object.insert(key.to_owned(), pair_object(&dict.entries).unwrap_or_else(|| pair_list(&dict.entries)));
    for (key, value) in [("factory", &dict.factory), ("attributes", &dict.attributes)] {
        if let Some(value) = value {
            object.insert(key.to_owned(), value.to_json());
        }
    }
    Json::Object(object)
}

fn plain_map(map: &BTreeMap<String, Value>) -> Json {
    if map.keys().any(|key| key.starts_with('$')) {
        let mut list = Vec::with_capacity(map.len());
        for (key, value) in map {
            list.push(Json::Array(vec![Json::from(key.as_str()), value.to_json()]));
        }
        return tagged("$map", Json::Array(list));
    }
    Json::Object(fields(map))
}

fn fields(map: &BTreeMap<String, Value>) -> Map<String, Json> {
    let mut object = Map::new();
    for (key, value) in map {
        object.insert(key.clone(), value.to_json());
    }
    object
}

fn tensor_ref(tensor: &TensorRef) -> Json {
    let mut object = Map::from_iter([("$tensor".to_owned(), Json::from(tensor.name.as_str()))]);
    if tensor.attributes.keys().any(|key| key.starts_with('$')) {
        object.insert("$attributes".to_owned(), Json::Object(fields(&tensor.attributes)));
    } else {
        object.extend(fields(&tensor.attributes));
    }
    Json::Object(object)
}

fn opaque(object: &Object) -> Json {
    let Object { class, args, kwargs, state, items, entries, new } = object;
    let mut fields = Map::new();
    let class = match class {
        Value::Global(global) => path(global),
        other => other.to_json(),
    };
    fields.insert("class".to_owned(), class);
    if let Some(new) = new {
        fields.insert("new".to_owned(), Json::from(new.as_str()));
    }
    if let Some(args) = args {
        fields.insert("args".to_owned(), args.to_json());
    }
    if let Some(items) = items {
        fields.insert("items".to_owned(), list(items));
    }
    if let Some(state) = state {
        fields.insert("state".to_owned(), state.to_json());
    }
    if let Some(kwargs) = kwargs {
        fields.insert("kwargs".to_owned(), plain_dictionary(kwargs));
    }
    if let Some(entries) = entries {
        fields.insert("entries".to_owned(), pair_list(entries));
    }
    tagged("$object", Json::Object(fields))
}
