//! What a node of the graph is: the globals that are understood.

use std::borrow::Cow;

use super::super::pickle::{Call, Graph, How, Items, Keys, Node, Payload, Ref};
use super::{numpy, tensor};
use crate::format::value::DictKind;

/// What a value of the graph means. What it refers to is looked into as far as that takes, and no further.
pub(super) enum Meaning<'g> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Integer(&'g [u8]),
    Complex(f64, f64),
    Text(Blob<'g>),
    /// A `str` of Python 2.
    OldText(Blob<'g>),
    Bytes(Blob<'g>),
    ByteArray(Blob<'g>),
    List(&'g Items),
    Tuple(&'g [Ref]),
    Set(Elements<'g>),
    FrozenSet(Elements<'g>),
    Dict(Dictionary<'g>),
    Global(&'g str, String),
    Tensor(Box<tensor::Tensor<'g>>),
    Object(&'g Call),
    Extension(i64),
    /// A persistent id that means nothing.
    UnknownId,
}

/// The elements of a set: they came as such, or as a list.
#[derive(Clone, Copy)]
pub(super) enum Elements<'g> {
    Refs(&'g [Ref]),
    List(&'g Items),
}

impl<'g> Elements<'g> {
    pub(super) fn iter(self) -> impl Iterator<Item = Ref> + 'g {
        let len = match self {
            Elements::Refs(refs) => refs.len(),
            Elements::List(items) => items.len(),
        };
        (0..len).filter_map(move |i| match self {
            Elements::Refs(refs) => refs.get(i).copied(),
            Elements::List(items) => items.get(i),
        })
    }
}

/// A dictionary of any kind.
pub(super) struct Dictionary<'g> {
    pub(super) kind: DictKind,
    pub(super) entries: Cow<'g, [(Ref, Ref)]>,
    pub(super) factory: Option<Ref>,
    pub(super) attributes: Option<Ref>,
    /// How many pairs were looked through for the entries.
    pub(super) looked_through: usize,
}

/// Bytes of the pickle, and how they are written there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob<'g> {
    pub(super) place: Place<'g>,
    /// Whether they are code points up to 255 in UTF-8, as protocol 2 has bytes.
    pub(super) latin1: bool,
}

/// Where bytes of a pickle are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'g> {
    Here(&'g [u8]),
    InFile(Payload),
}

impl<'g> Blob<'g> {
    pub(super) fn here(bytes: &'g [u8]) -> Blob<'g> {
        Blob { place: Place::Here(bytes), latin1: false }
    }

    fn in_file(payload: Payload) -> Blob<'g> {
        Blob { place: Place::InFile(payload), latin1: false }
    }

    /// Whether they are at most so many bytes, whatever they are written as.
    pub(super) fn is_within(&self, most: u64) -> bool {
        match self.place {
            // A code point begins with any byte but those that go on.
            Place::Here(bytes) if self.latin1 && self.written_len() <= most.saturating_mul(2) => {
                let len = bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
                crate::format::len_u64(len) <= most
            }
            Place::Here(_) => self.written_len() <= most,
            // None is as short as what is asked for here.
            Place::InFile(_) => false,
        }
    }

    /// How many bytes they are in the pickle.
    pub(super) fn written_len(&self) -> u64 {
        match self.place {
            Place::Here(bytes) => crate::format::len_u64(bytes.len()),
            Place::InFile(payload) => payload.len,
        }
    }
}

/// The bytes, if that is what a value is: as such, as text with an encoding, or as a `str` of Python 2.
pub(super) fn bytes<'g>(graph: &'g Graph, value: Ref) -> Option<Blob<'g>> {
    match graph.get(value)? {
        Node::Bytes(bytes) | Node::ByteArray(bytes) | Node::OldText(bytes) => Some(Blob::here(bytes)),
        Node::LongBytes(payload) | Node::LongByteArray(payload) | Node::LongOldText(payload) => {
            Some(Blob::in_file(*payload))
        }
        Node::Call(call) => called_bytes(graph, call),
        _ => None,
    }
}

/// Text whose code points are bytes.
fn latin1<'g>(graph: &'g Graph, value: Ref) -> Option<Blob<'g>> {
    let place = match graph.get(value)? {
        Node::Text(bytes) if decode_latin1(bytes).is_some() => Place::Here(bytes),
        Node::LongText(payload) => Place::InFile(*payload),
        _ => return None,
    };
    Some(Blob { place, latin1: true })
}

/// What `bytes` and `_codecs.encode` give.
fn called_bytes<'g>(graph: &'g Graph, call: &'g Call) -> Option<Blob<'g>> {
    if !is_plain(call) {
        return None;
    }
    let name = graph.global(call.callable)?;
    let encoding = |value| matches!(graph.text(value), Some("latin1" | "latin-1"));
    match (&*name.module, &*name.name, graph.tuple(call.args)?) {
        ("_codecs", "encode", &[text, codec]) if encoding(codec) => latin1(graph, text),
        ("builtins", "bytes", []) => Some(Blob::here(&[])),
        ("builtins", "bytes", &[text, codec]) if encoding(codec) => latin1(graph, text),
        _ => None,
    }
}

/// Decodes UTF-8 of code points up to 255.
pub(super) fn decode_latin1(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Whether nothing but a call happens.
pub(super) fn is_plain(call: &Call) -> bool {
    matches!(call.how, How::Call) && call.state.is_none() && call.items.is_empty() && call.entries.is_empty()
}

/// What a value means.
pub(super) fn of<'g>(graph: &'g Graph, value: Ref) -> Meaning<'g> {
    let node = match value {
        Ref::None => return Meaning::Null,
        Ref::Bool(value) => return Meaning::Bool(value),
        Ref::Int(value) => return Meaning::Int(value),
        Ref::Float(value) => return Meaning::Float(value),
        Ref::Node(node) => graph.node(node),
    };
    match node {
        // A reference to a node that does not exist is never made.
        None => Meaning::Null,
        Some(Node::Integer(bytes)) => Meaning::Integer(bytes),
        Some(Node::Text(bytes)) => Meaning::Text(Blob::here(bytes)),
        Some(Node::LongText(payload)) => Meaning::Text(Blob::in_file(*payload)),
        Some(Node::OldText(bytes)) => Meaning::OldText(Blob::here(bytes)),
        Some(Node::LongOldText(payload)) => Meaning::OldText(Blob::in_file(*payload)),
        Some(Node::Bytes(bytes)) => Meaning::Bytes(Blob::here(bytes)),
        Some(Node::LongBytes(payload)) => Meaning::Bytes(Blob::in_file(*payload)),
        Some(Node::ByteArray(bytes)) => Meaning::ByteArray(Blob::here(bytes)),
        Some(Node::LongByteArray(payload)) => Meaning::ByteArray(Blob::in_file(*payload)),
        Some(Node::List(items)) => Meaning::List(items),
        Some(Node::Tuple(items)) => Meaning::Tuple(items),
        Some(Node::Set(items)) => Meaning::Set(Elements::Refs(items)),
        Some(Node::FrozenSet(items)) => Meaning::FrozenSet(Elements::Refs(items)),
        Some(Node::Dict(entries)) => {
            let (kind, entries) = (DictKind::Plain, Cow::Borrowed(&**entries));
            Meaning::Dict(Dictionary { kind, entries, factory: None, attributes: None, looked_through: 0 })
        }
        Some(Node::Global(number)) => match graph.name(*number) {
            Some(name) => Meaning::Global(&name.module, name.name.to_string()),
            None => Meaning::Null,
        },
        Some(Node::Call(call)) => called(graph, call),
        Some(Node::Persistent(id)) => persistent(graph, *id),
        Some(Node::Extension(code)) => Meaning::Extension(*code),
    }
}

/// What a persistent id means: a storage, or a class with its source code, as older files have modules.
fn persistent<'g>(graph: &'g Graph, id: Ref) -> Meaning<'g> {
    if let Some(storage) = tensor::of_storage(graph, id) {
        return Meaning::Tensor(Box::new(storage));
    }
    if let Some(&[tag, class, ..]) = graph.tuple(id)
        && graph.text(tag) == Some("module")
        && let Some(class) = graph.global(class)
    {
        return Meaning::Global(&class.module, class.name.to_string());
    }
    Meaning::UnknownId
}

/// What a call gives, if the function is one that is understood and gets what it should.
fn called<'g>(graph: &'g Graph, call: &'g Call) -> Meaning<'g> {
    container(graph, call)
        .or_else(|| called_bytes(graph, call).map(Meaning::Bytes))
        .or_else(|| attribute(graph, call))
        .or_else(|| tensor::of_call(graph, call).map(|tensor| Meaning::Tensor(Box::new(tensor))))
        .or_else(|| numpy::of_call(graph, call).map(|tensor| Meaning::Tensor(Box::new(tensor))))
        .unwrap_or(Meaning::Object(call))
}

/// The built-in containers and numbers that pickles make by calling their classes.
fn container<'g>(graph: &'g Graph, call: &'g Call) -> Option<Meaning<'g>> {
    if !matches!(call.how, How::Call) || !call.items.is_empty() {
        return None;
    }
    let name = graph.global(call.callable)?;
    let args = graph.tuple(call.args)?;
    let own = Cow::Borrowed(&*call.entries);
    let dict = |kind, entries, factory| {
        let attributes = call.state.filter(|state| !matches!(state, Ref::None));
        Some(Meaning::Dict(Dictionary { kind, entries, factory, attributes, looked_through: 0 }))
    };
    match (&*name.module, &*name.name, args) {
        ("collections", "OrderedDict", []) => return dict(DictKind::Ordered, own, None),
        // So Python 2 has them.
        ("collections", "OrderedDict", &[items]) if call.entries.is_empty() => {
            let pairs = pairs(graph, items)?;
            let looked_through = pairs.len();
            // Without the source, nothing is read that could fail.
            let distinct = Keys::new(graph, None).distinct(&pairs).ok().flatten();
            let mut meaning = dict(DictKind::Ordered, Cow::Owned(distinct.unwrap_or(pairs)), None);
            if let Some(Meaning::Dict(dict)) = &mut meaning {
                dict.looked_through = looked_through;
            }
            return meaning;
        }
        ("collections", "defaultdict", []) => return dict(DictKind::Default, own, None),
        ("collections", "defaultdict", &[factory]) => {
            let factory = Some(factory).filter(|factory| !matches!(factory, Ref::None));
            return dict(DictKind::Default, own, factory);
        }
        ("collections", "Counter", []) => return dict(DictKind::Counter, own, None),
        ("collections", "Counter", &[counts]) if call.entries.is_empty() => {
            let Some(Node::Dict(entries)) = graph.get(counts) else { return None };
            return dict(DictKind::Counter, Cow::Borrowed(entries), None);
        }
        _ => {}
    }
    if !is_plain(call) {
        return None;
    }
    let elements = |value| match graph.get(value)? {
        Node::List(items) => Some(Elements::List(items)),
        Node::Tuple(items) => Some(Elements::Refs(items)),
        _ => None,
    };
    let float = |value| match value {
        Ref::Float(value) => Some(value),
        _ => None,
    };
    match (&*name.module, &*name.name, args) {
        ("builtins", "set", []) => Some(Meaning::Set(Elements::Refs(&[]))),
        ("builtins", "set", &[items]) => elements(items).map(Meaning::Set),
        ("builtins", "frozenset", []) => Some(Meaning::FrozenSet(Elements::Refs(&[]))),
        ("builtins", "frozenset", &[items]) => elements(items).map(Meaning::FrozenSet),
        ("builtins", "complex", &[real, imaginary]) => Some(Meaning::Complex(float(real)?, float(imaginary)?)),
        ("builtins", "bytearray", []) => Some(Meaning::ByteArray(Blob::here(&[]))),
        ("builtins", "bytearray", &[content]) => bytes(graph, content).map(Meaning::ByteArray),
        ("builtins", "bytearray", &[content, codec]) if matches!(graph.text(codec), Some("latin-1" | "latin1")) => {
            latin1(graph, content).map(Meaning::ByteArray)
        }
        _ => None,
    }
}

/// The keys and values of a list of pairs.
fn pairs(graph: &Graph, items: Ref) -> Option<Vec<(Ref, Ref)>> {
    let Node::List(Items::Refs(items)) = graph.get(items)? else { return None };
    let pair = |&item: &Ref| match graph.get(item)? {
        Node::List(Items::Refs(pair)) => pair.first_chunk::<2>().filter(|_| pair.len() == 2).copied(),
        Node::Tuple(pair) => pair.first_chunk::<2>().filter(|_| pair.len() == 2).copied(),
        _ => None,
    };
    items.iter().map(|item| pair(item).map(|[key, value]| (key, value))).collect()
}

/// Classes within classes within classes.
const MAX_ATTRIBUTES: usize = 8;
/// The longest name of a class within another.
const MAX_ATTRIBUTE_LEN: usize = 128;

/// Whether this can be the name of a class within a class.
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && name.len() <= MAX_ATTRIBUTE_LEN
}

/// Whether calls of `getattr` for the parts of a name with dots mean that name.
pub(in super::super) fn is_nested_class(module: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    let outermost = parts.next().unwrap_or_default();
    let is_function = module == "builtins" && outermost == "getattr";
    !outermost.is_empty() && !is_function && parts.clone().count() <= MAX_ATTRIBUTES && parts.all(is_attribute)
}

/// `getattr(class, "Inner")`: how protocol 2 names what is within a class.
fn attribute<'g>(graph: &'g Graph, call: &'g Call) -> Option<Meaning<'g>> {
    let mut parts = Vec::new();
    let mut call = call;
    loop {
        let getattr = graph.global(call.callable)?;
        let is_getattr = (&*getattr.module, &*getattr.name) == ("builtins", "getattr");
        if !is_plain(call) || !is_getattr || parts.len() >= MAX_ATTRIBUTES {
            return None;
        }
        let &[of, name] = graph.tuple(call.args)? else { return None };
        parts.push(graph.text(name).filter(|name| is_attribute(name))?);
        if let Some(class) = graph.global(of) {
            // Of `builtins.getattr` and the like nothing is a class within a class: it would be a function to run.
            if (&*class.module, &*class.name) == ("builtins", "getattr") {
                return None;
            }
            parts.push(&class.name);
            parts.reverse();
            return Some(Meaning::Global(&class.module, parts.join(".")));
        }
        call = graph.call(of)?;
    }
}
