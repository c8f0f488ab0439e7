//! JSON as the conformance vectors use it: numbers with a fraction are floats, all others integers; nesting has no limit;
//! values of the format as `spec/vectors/README.md` renders them.

use std::collections::BTreeMap;

use dolmen::format::value::{BigInt, Dict, DictKind, Global, Object, TensorRef, Value};

/// A JSON value. Floats are kept by their bits, so that -0.0 is not 0.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Int(i128),
    Float(u64),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// The field of an object; panics if there is none.
    pub fn field(&self, key: &str) -> &Json {
        self.get(key).unwrap_or_else(|| panic!("no field {key}"))
    }

    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(fields) => fields.get(key),
            _ => panic!("not an object"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Json::Text(text) => text,
            other => panic!("not text: {other:?}"),
        }
    }

    pub fn number(&self) -> u64 {
        match self {
            Json::Int(n) => u64::try_from(*n).unwrap(),
            other => panic!("not a number: {other:?}"),
        }
    }

    pub fn array(&self) -> &[Json] {
        match self {
            Json::Array(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }
}

/// Parses a whole text. Recurses as deep as it nests.
pub fn parse(text: &str) -> Json {
    let mut parser = Parser { bytes: text.as_bytes(), at: 0 };
    let value = parser.value();
    parser.space();
    assert_eq!(parser.at, text.len(), "something follows the JSON value");
    value
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> u8 {
        self.at += 1;
        self.bytes[self.at - 1]
    }

    fn peek(&mut self) -> u8 {
        self.space();
        self.bytes[self.at]
    }

    fn word<T>(&mut self, word: &str, value: T) -> T {
        assert!(self.bytes[self.at..].starts_with(word.as_bytes()), "no JSON at byte {}", self.at);
        self.at += word.len();
        value
    }

    fn value(&mut self) -> Json {
        match self.peek() {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => Json::Text(self.text()),
            b'[' => {
                let mut items = Vec::new();
                self.sequence(b']', |parser| items.push(parser.value()));
                Json::Array(items)
            }
            b'{' => {
                let mut fields = BTreeMap::new();
                self.sequence(b'}', |parser| {
                    assert_eq!(parser.peek(), b'"');
                    let key = parser.text();
                    assert_eq!(parser.peek(), b':');
                    parser.at += 1;
                    let value = parser.value();
                    assert!(fields.insert(key, value).is_none(), "a key occurs twice");
                });
                Json::Object(fields)
            }
            _ => self.number(),
        }
    }

    fn sequence(&mut self, end: u8, mut item: impl FnMut(&mut Self)) {
        self.at += 1;
        if self.peek() == end {
            self.at += 1;
            return;
        }
        loop {
            item(self);
            let separator = self.peek();
            self.at += 1;
            if separator == end {
                return;
            }
            assert_eq!(separator, b',', "no separator at byte {}", self.at);
        }
    }

    fn number(&mut self) -> Json {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(|b| b"+-.eE0123456789".contains(b)) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap();
        match text.contains(['.', 'e', 'E']) {
            true => Json::Float(text.parse::<f64>().unwrap().to_bits()),
            false => Json::Int(text.parse().unwrap_or_else(|_| panic!("no JSON at byte {start}"))),
        }
    }

    fn hex4(&mut self) -> u16 {
        let digits = std::str::from_utf8(&self.bytes[self.at..self.at + 4]).unwrap();
        self.at += 4;
        u16::from_str_radix(digits, 16).unwrap()
    }

    fn text(&mut self) -> String {
        self.at += 1;
        let mut bytes = Vec::new();
        let mut units = Vec::new();
        loop {
            let byte = self.next();
            if byte == b'\\' && self.bytes[self.at] == b'u' {
                self.at += 1;
                units.push(self.hex4());
                continue;
            }
            bytes.extend(String::from_utf16(&std::mem::take(&mut units)).unwrap().bytes());
            match byte {
                b'"' => return String::from_utf8(bytes).unwrap(),
                b'\\' => bytes.push(match self.next() {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    b'f' => 12,
                    other => other,
                }),
                other => bytes.push(other),
            }
        }
    }
}

fn tagged(name: &str, content: Json) -> Json {
    Json::Object(BTreeMap::from([(format!("${name}"), content)]))
}

fn hex(bytes: &[u8]) -> Json {
    tagged("bytes", Json::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn float(value: f64) -> Json {
    match value.is_finite() {
        true => Json::Float(value.to_bits()),
        false => tagged("float", Json::Text(format!("{:016x}", value.to_bits()))),
    }
}

fn big(value: &BigInt) -> Json {
    let magnitude = value.magnitude();
    let digits: String = magnitude.iter().map(|byte| format!("{byte:02x}")).collect();
    let digits = digits.trim_start_matches('0');
    let bits =
        digits.len() * 4 - digits.chars().next().map_or(0, |c| c.to_digit(16).unwrap().leading_zeros() as usize - 28);
    tagged(
        "int",
        Json::Text(match bits > 4096 {
            true => format!("{}0x{digits}", if value.is_negative() { "-" } else { "" }),
            false => value.to_string(),
        }),
    )
}

fn list(items: &[Value]) -> Json {
    Json::Array(items.iter().map(render).collect())
}

fn pairs(pairs: &[(Value, Value)]) -> Json {
    Json::Array(pairs.iter().flat_map(|(key, value)| [render(key), render(value)]).collect())
}

/// A plain map.
pub fn map(map: &BTreeMap<String, Value>) -> Json {
    let key = |key: &String| if key.starts_with('$') { format!("${key}") } else { key.clone() };
    Json::Object(map.iter().map(|(k, value)| (key(k), render(value))).collect())
}

fn global(global: &Global) -> Json {
    tagged("global", Json::Array(vec![Json::Text(global.module.clone()), Json::Text(global.name.clone())]))
}

fn dict(dict: &Dict) -> Json {
    let optional = |value: &Option<Box<Value>>| value.as_deref().map_or(Json::Null, render);
    match dict.kind {
        DictKind::Plain => tagged("dict", pairs(&dict.entries)),
        kind => tagged(
            "other_dict",
            Json::Array(vec![
                Json::Text(kind.name().to_owned()),
                pairs(&dict.entries),
                optional(&dict.factory),
                optional(&dict.attributes),
            ]),
        ),
    }
}

fn object(object: &Object) -> Json {
    let mut fields = BTreeMap::from([("class".to_owned(), render(&object.class))]);
    let mut add = |key: &str, value: Option<Json>| drop(value.map(|value| fields.insert(key.to_owned(), value)));
    add("args", object.args.as_ref().map(render));
    add("kwargs", object.kwargs.as_deref().map(|kwargs| tagged("dict", pairs(kwargs))));
    add("state", object.state.as_ref().map(render));
    add("items", object.items.as_deref().map(list));
    add("entries", object.entries.as_deref().map(pairs));
    add("new", object.new.clone().map(Json::Text));
    tagged("object", Json::Object(fields))
}

/// A value as the manifest has it.
pub fn render(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) if value.unsigned_abs() <= 1 << 53 => Json::Int((*value).into()),
        Value::Int(value) => tagged("int", Json::Text(value.to_string())),
        Value::BigInt(value) => big(value),
        Value::Float(value) => float(*value),
        Value::Complex(real, imaginary) => tagged("complex", Json::Array(vec![float(*real), float(*imaginary)])),
        Value::Text(text) => Json::Text(text.clone()),
        Value::Wtf8(bytes) => tagged("wtf8", hex(bytes)),
        Value::Bytes(bytes) => hex(bytes),
        Value::ByteArray(bytes) => tagged("bytearray", hex(bytes)),
        Value::List(items) => list(items),
        Value::Tuple(items) => tagged("tuple", list(items)),
        Value::Set(items) => tagged("set", list(items)),
        Value::FrozenSet(items) => tagged("frozenset", list(items)),
        Value::Dict(inner) => dict(inner),
        Value::Map(inner) => map(inner),
        Value::Tensor(tensor) => {
            let TensorRef { name, attributes, .. } = &**tensor;
            let name = Json::Text(name.clone());
            tagged("tensor", if attributes.is_empty() { name } else { Json::Array(vec![name, map(attributes)]) })
        }
        Value::Global(inner) => global(inner),
        Value::Object(inner) => object(inner),
        Value::Shareable(inner) => tagged("shareable", render(inner)),
        Value::SharedRef(number) => tagged("shared_ref", Json::Int((*number).into())),
        other => panic!("the vectors have no rendering of {other:?}"),
    }
}
