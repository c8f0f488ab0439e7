//! Pickles, read by a machine that builds what they describe and runs none of it.
//!
//! A pickle is a program for a stack machine. Here the machine has the same stack, marks and memo as Python's, but where Python imports a
//! class or calls a function, it notes that it would have. What comes out is a [`Graph`]: nodes that refer to each other by number, so
//! that what is shared in the pickle, or refers to itself, is so here, and a reference costs the same whatever it refers to.
//! `rebuild` then gives the nodes their meaning.
//!
//! **Cost**: linear in the length of the pickle. A float of a long list costs 8 bytes, what real pickles hold 5 to 16 for each byte of the
//! pickle, and a call, which may be two bytes, up to 100. Texts and bytes from [`INLINE_LEN`] on stay in the file.

mod distinct;
mod input;
mod machine;
mod memo;
mod python2;
mod text;

pub(super) use distinct::Keys;
pub(super) use input::Input;
pub(super) use machine::read;
pub(super) use python2::renamed;

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::format::len_usize;

/// Texts and bytes as long as this, or longer, are not read into the graph.
pub(super) const INLINE_LEN: u64 = 4 << 10;

/// A value of the graph: small ones are here, others are nodes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ref {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Node(u32),
}

/// A text or bytes that stayed in the pickle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    /// Where in the pickle's source it begins.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Something that other things can refer to.
#[derive(Debug)]
pub(super) enum Node {
    /// An integer that an `i64` does not hold, or may not: two's complement, little-endian.
    Integer(Box<[u8]>),
    /// Text in generalised UTF-8.
    Text(Box<[u8]>),
    LongText(Payload),
    /// What was a `str` in Python 2: text or bytes.
    OldText(Box<[u8]>),
    LongOldText(Payload),
    Bytes(Box<[u8]>),
    LongBytes(Payload),
    ByteArray(Box<[u8]>),
    LongByteArray(Payload),
    List(Items),
    Tuple(Box<[Ref]>),
    Set(Vec<Ref>),
    FrozenSet(Box<[Ref]>),
    Dict(Vec<(Ref, Ref)>),
    /// A number among [`Graph::globals`].
    Global(u32),
    Call(Box<Call>),
    /// A persistent id: what the container has under it.
    Persistent(Ref),
    /// A code of the extension registry.
    Extension(i64),
}

/// The elements of a list.
#[derive(Debug)]
pub(super) enum Items {
    Refs(Vec<Ref>),
    /// Nothing but floats: half the memory.
    Floats(Vec<f64>),
}

impl Items {
    pub(super) fn len(&self) -> usize {
        match self {
            Items::Refs(items) => items.len(),
            Items::Floats(items) => items.len(),
        }
    }

    pub(super) fn get(&self, i: usize) -> Option<Ref> {
        match self {
            Items::Refs(items) => items.get(i).copied(),
            Items::Floats(items) => items.get(i).copied().map(Ref::Float),
        }
    }

    fn extend(&mut self, more: &[Ref]) {
        let float = |item: &Ref| match item {
            Ref::Float(value) => Some(*value),
            _ => None,
        };
        match self {
            Items::Refs(items) => items.extend_from_slice(more),
            Items::Floats(floats) if more.iter().all(|item| float(item).is_some()) => {
                floats.extend(more.iter().filter_map(float));
            }
            Items::Floats(floats) => {
                let held = floats.iter().copied().map(Ref::Float);
                *self = Items::Refs(held.chain(more.iter().copied()).collect());
            }
        }
    }
}

/// A call that the pickle asks for, and what is done to its result.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) callable: Ref,
    /// A tuple.
    pub(super) args: Ref,
    pub(super) how: How,
    pub(super) state: Option<Ref>,
    pub(super) items: Vec<Ref>,
    pub(super) entries: Vec<(Ref, Ref)>,
}

/// How something is called.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// `callable(*args)`
    Call,
    /// `callable.__new__(callable, *args)`
    New,
    /// `callable.__new__(callable, *args, **kwargs)`
    NewWith(Ref),
}

/// A class or function that the pickle names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) module: Box<str>,
    pub(super) name: Box<str>,
}

/// All that a pickle describes.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    pub(super) globals: Vec<NamedGlobal>,
    by_name: HashMap<Name, u32>,
    pub(super) protocol: u8,
}

/// A global of a pickle.
#[derive(Debug)]
pub(super) struct NamedGlobal {
    pub(super) name: Name,
    node: u32,
    /// Whether the pickle calls it.
    pub(super) called: bool,
}

/// Calls `change` for both parts of each pair.
fn pairs(entries: &mut [(Ref, Ref)], change: &impl Fn(&mut Ref)) {
    for (key, value) in entries {
        change(key);
        change(value);
    }
}

impl Graph {
    pub(super) fn node(&self, node: u32) -> Option<&Node> {
        len_usize(node.into()).and_then(|node| self.nodes.get(node))
    }

    fn node_mut(&mut self, node: u32) -> Option<&mut Node> {
        len_usize(node.into()).and_then(|node| self.nodes.get_mut(node))
    }

    pub(super) fn get(&self, value: Ref) -> Option<&Node> {
        match value {
            Ref::Node(node) => self.node(node),
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a node.
    pub(super) fn push(&mut self, node: Node) -> Result<Ref> {
        let number = u32::try_from(self.nodes.len());
        let number = number.map_err(|_| Error::new(ErrorKind::Limit, "the pickle has 2^32 objects or more"))?;
        self.nodes.push(node);
        Ok(Ref::Node(number))
    }

    /// The class or function of a name.
    pub(super) fn named(&mut self, module: &str, name: &str) -> Result<Ref> {
        let name = Name { module: module.into(), name: name.into() };
        let known = self.by_name.get(&name).and_then(|&number| self.globals.get(len_usize(number.into())?));
        if let Some(known) = known {
            return Ok(Ref::Node(known.node));
        }
        let number = u32::try_from(self.globals.len());
        let number = number.map_err(|_| Error::new(ErrorKind::Limit, "the pickle has too many classes"))?;
        let value = self.push(Node::Global(number))?;
        if let Ref::Node(node) = value {
            self.by_name.insert(name.clone(), number);
            self.globals.push(NamedGlobal { name, node, called: false });
        }
        Ok(value)
    }

    /// Calls `change` for every reference from one node to another.
    pub(super) fn change_references(&mut self, change: impl Fn(&mut Ref)) {
        for node in &mut self.nodes {
            match node {
                Node::List(Items::Refs(items)) | Node::Set(items) => items.iter_mut().for_each(&change),
                Node::Tuple(items) | Node::FrozenSet(items) => items.iter_mut().for_each(&change),
                Node::Dict(entries) => pairs(entries, &change),
                Node::Call(call) => {
                    change(&mut call.callable);
                    change(&mut call.args);
                    if let How::NewWith(kwargs) = &mut call.how {
                        change(kwargs);
                    }
                    call.state.iter_mut().for_each(&change);
                    call.items.iter_mut().for_each(&change);
                    pairs(&mut call.entries, &change);
                }
                Node::Persistent(id) => change(id),
                Node::Integer(_)
                | Node::Text(_)
                | Node::LongText(_)
                | Node::OldText(_)
                | Node::LongOldText(_)
                | Node::Bytes(_)
                | Node::LongBytes(_)
                | Node::ByteArray(_)
                | Node::LongByteArray(_)
                | Node::List(Items::Floats(_))
                | Node::Global(_)
                | Node::Extension(_) => {}
            }
        }
    }

    /// The name of a global.
    pub(super) fn global(&self, value: Ref) -> Option<&Name> {
        match self.get(value)? {
            Node::Global(number) => self.name(*number),
            _ => None,
        }
    }

    pub(super) fn name(&self, number: u32) -> Option<&Name> {
        Some(&self.globals.get(len_usize(number.into())?)?.name)
    }

    /// The elements of a tuple.
    pub(super) fn tuple(&self, value: Ref) -> Option<&[Ref]> {
        match self.get(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn call(&self, value: Ref) -> Option<&Call> {
        match self.get(value)? {
            Node::Call(call) => Some(call),
            _ => None,
        }
    }

    /// A short text, as far as it is UTF-8.
    pub(super) fn text(&self, value: Ref) -> Option<&str> {
        match self.get(value)? {
            Node::Text(bytes) | Node::OldText(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}
