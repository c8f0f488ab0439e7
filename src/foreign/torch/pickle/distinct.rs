//! Keys of dictionaries: which are the same to Python. Of entries with the same key the first place counts, and the last value.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hasher};

use super::{Call, Graph, How, Node, Payload, Ref};
use crate::error::{Error, Result};
use crate::format::len_usize;
use crate::source::ReadAt;

/// Texts up to this length are compared as they are; longer ones once for each node, as many entries can share one.
const SHORT: usize = 64;
/// Text that stands for bytes is decoded up to this length; beyond it, the texts are compared.
const DECODED: usize = 512;
/// Tuples are compared by their elements up to this length, and tuples within them, but none within those.
const TUPLE_LEN: usize = 16;
const TUPLE_DEPTH: usize = 2;
/// How much of a long text is read at a time.
const BUFFER_LEN: u64 = 64 << 10;

type Pair = (Ref, Ref);

/// A key: equal to another if it is to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key<'g> {
    None,
    /// Also truth values, and floats that are whole.
    Int(i64),
    /// The bits of one that is not whole.
    Float(u64),
    Text(&'g [u8]),
    /// A number among the contents.
    Content(u32),
    /// An object, which is equal to itself alone.
    Node(u32),
}

/// What is compared once.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Content<'g> {
    Text(&'g [u8]),
    Bytes(Cow<'g, [u8]>),
    /// Bytes that this text stands for.
    Encoded(Key<'g>),
    /// Two's complement, as short as it can be.
    Integer(Vec<u8>),
    Tuple(Vec<Key<'g>>),
    /// Text or bytes that stayed in the pickle: length, and two hashes with secret keys.
    Long(bool, u64, [u64; 2]),
}

/// Finds keys that are the same.
pub(in super::super) struct Keys<'g> {
    graph: &'g Graph,
    /// To compare what stayed in the pickle; without it that is equal to itself alone.
    source: Option<&'g dyn ReadAt>,
    contents: HashMap<Content<'g>, u32>,
    known: HashMap<u32, Key<'g>>,
    hashes: [RandomState; 2],
}

impl<'g> Keys<'g> {
    pub(in super::super) fn new(graph: &'g Graph, source: Option<&'g dyn ReadAt>) -> Keys<'g> {
        let hashes = [RandomState::new(), RandomState::new()];
        Keys { graph, source, contents: HashMap::new(), known: HashMap::new(), hashes }
    }

    /// The entries that Python would have; `None` if it is all of them.
    ///
    /// # Errors
    /// Those of reading long keys.
    pub(in super::super) fn distinct(&mut self, entries: &[Pair]) -> Result<Option<Vec<Pair>>> {
        let mut kept: Option<Vec<Pair>> = None;
        if entries.len() < 2 {
            return Ok(kept);
        }
        let mut places = HashMap::new();
        for (i, &(key, value)) in entries.iter().enumerate() {
            if let Some(same) = self.key(key, TUPLE_DEPTH)? {
                match places.entry(same) {
                    Entry::Occupied(place) => {
                        let kept = kept.get_or_insert_with(|| entries.get(..i).unwrap_or_default().to_vec());
                        if let Some((_, held)) = kept.get_mut(*place.get()) {
                            *held = value;
                        }
                        continue;
                    }
                    Entry::Vacant(place) => drop(place.insert(kept.as_ref().map_or(i, Vec::len))),
                }
            }
            if let Some(kept) = &mut kept {
                kept.push((key, value));
            }
        }
        Ok(kept)
    }

    /// A key, with tuples so deep compared by their elements; `None` if it is not even equal to itself.
    fn key(&mut self, value: Ref, depth: usize) -> Result<Option<Key<'g>>> {
        Ok(Some(match value {
            Ref::None => Key::None,
            Ref::Bool(value) => Key::Int(value.into()),
            Ref::Int(value) => Key::Int(value),
            Ref::Float(value) if value.is_nan() => return Ok(None),
            Ref::Float(value) => match whole(value) {
                Some(bytes) => self.integer(&bytes),
                None => Key::Float(value.to_bits()),
            },
            Ref::Node(node) => return self.node(node, depth),
        }))
    }

    fn node(&mut self, number: u32, depth: usize) -> Result<Option<Key<'g>>> {
        let graph = self.graph;
        let content = match graph.node(number) {
            Some(Node::Text(text)) if text.len() <= SHORT => return Ok(Some(Key::Text(text))),
            // What is UTF-8 is text.
            Some(Node::OldText(text)) if text.len() <= SHORT && std::str::from_utf8(text).is_ok() => {
                return Ok(Some(Key::Text(text)));
            }
            Some(Node::Tuple(items)) if items.len() <= TUPLE_LEN && depth > 0 => {
                if let Some(&known) = self.known.get(&number).filter(|_| depth == TUPLE_DEPTH) {
                    return Ok(Some(known));
                }
                let mut keys = Vec::with_capacity(items.len());
                for &item in items {
                    let Some(key) = self.key(item, depth.saturating_sub(1))? else { return Ok(None) };
                    keys.push(key);
                }
                let key = self.content(Content::Tuple(keys));
                if depth == TUPLE_DEPTH {
                    self.known.insert(number, key);
                }
                return Ok(Some(key));
            }
            Some(Node::Tuple(_)) => return Ok(Some(Key::Node(number))),
            Some(Node::Integer(bytes)) => return Ok(Some(self.integer(bytes))),
            _ if self.known.contains_key(&number) => return Ok(self.known.get(&number).copied()),
            Some(Node::Text(text)) => Content::Text(text),
            Some(Node::OldText(text)) if std::str::from_utf8(text).is_ok() => Content::Text(text),
            Some(Node::OldText(bytes) | Node::Bytes(bytes)) => Content::Bytes(Cow::Borrowed(bytes)),
            Some(Node::LongText(payload) | Node::LongOldText(payload)) => match self.hash(*payload)? {
                Some(hashes) => Content::Long(true, payload.len, hashes),
                None => return Ok(Some(Key::Node(number))),
            },
            Some(Node::LongBytes(payload)) => match self.hash(*payload)? {
                Some(hashes) => Content::Long(false, payload.len, hashes),
                None => return Ok(Some(Key::Node(number))),
            },
            Some(Node::Call(call)) => match encoded(graph, call) {
                Some(text) => match graph.get(text) {
                    Some(Node::Text(bytes)) if bytes.len() <= DECODED => match latin1(bytes) {
                        Some(bytes) => Content::Bytes(Cow::Owned(bytes)),
                        None => return Ok(Some(Key::Node(number))),
                    },
                    _ => match self.key(text, 0)? {
                        Some(key) => Content::Encoded(key),
                        None => return Ok(None),
                    },
                },
                None => return Ok(Some(Key::Node(number))),
            },
            _ => return Ok(Some(Key::Node(number))),
        };
        let key = self.content(content);
        self.known.insert(number, key);
        Ok(Some(key))
    }

    fn content(&mut self, content: Content<'g>) -> Key<'g> {
        // There are no more than nodes.
        let next = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
        Key::Content(*self.contents.entry(content).or_insert(next))
    }

    /// The integer of these bytes: two's complement, little-endian.
    fn integer(&mut self, bytes: &[u8]) -> Key<'g> {
        let fill = match bytes.last() {
            Some(&last) if last >= 0x80 => 0xFF,
            _ => 0,
        };
        let mut bytes = bytes;
        while let [rest @ .., last] = bytes
            && *last == fill
            && rest.last().map_or(fill == 0, |&top| (top >= 0x80) == (fill != 0))
        {
            bytes = rest;
        }
        if bytes.len() > 8 {
            return self.content(Content::Integer(bytes.to_vec()));
        }
        let mut word = [fill; 8];
        word.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
        Key::Int(i64::from_le_bytes(word))
    }

    fn hash(&self, payload: Payload) -> Result<Option<[u64; 2]>> {
        let Some(source) = self.source else { return Ok(None) };
        let mut hashers = self.hashes.each_ref().map(BuildHasher::build_hasher);
        let mut buffer = vec![0; len_usize(payload.len.min(BUFFER_LEN)).unwrap_or_default()];
        let mut done = 0;
        while done < payload.len {
            let len = payload.len.saturating_sub(done).min(BUFFER_LEN);
            let part = len_usize(len).and_then(|len| buffer.get_mut(..len)).unwrap_or_default();
            let at = payload.offset.saturating_add(done);
            source.read_exact_at(part, at).map_err(|e| Error::io("cannot read", e))?;
            hashers.iter_mut().for_each(|hasher| hasher.write(part));
            done = done.saturating_add(len);
        }
        Ok(Some(hashers.map(|hasher| hasher.finish())))
    }
}

/// Two's complement of a float that is whole.
fn whole(value: f64) -> Option<Vec<u8>> {
    const MANTISSA: u32 = 52;
    const BIAS: i64 = 1075;
    if value == 0.0 {
        return Some(vec![0]);
    }
    if !value.is_finite() || value.fract() != 0.0 {
        return None;
    }
    let bits = value.to_bits();
    let exponent = i64::try_from(bits.wrapping_shr(MANTISSA) & 0x7FF).ok()?.saturating_sub(BIAS);
    let mantissa = u128::from((bits & ((1 << MANTISSA) - 1)) | (1 << MANTISSA));
    let shift = u32::try_from(exponent.unsigned_abs()).ok()?;
    let mut bytes = Vec::new();
    let magnitude = if exponent < 0 {
        mantissa.checked_shr(shift)?
    } else {
        bytes.resize(len_usize(shift.div_euclid(8).into())?, 0);
        mantissa.checked_shl(shift.rem_euclid(8))?
    };
    bytes.extend_from_slice(&magnitude.to_le_bytes());
    if value < 0.0 {
        let mut carry = true;
        for byte in &mut bytes {
            (*byte, carry) = (!*byte).overflowing_add(carry.into());
        }
    }
    Some(bytes)
}

/// The text, if a call turns text into bytes, as protocol 2 has them.
fn encoded(graph: &Graph, call: &Call) -> Option<Ref> {
    if !matches!(call.how, How::Call) || call.state.is_some() || !call.items.is_empty() || !call.entries.is_empty() {
        return None;
    }
    let name = graph.global(call.callable)?;
    let &[text, codec] = graph.tuple(call.args)? else { return None };
    let is_function = matches!((&*name.module, &*name.name), ("_codecs", "encode") | ("builtins", "bytes"));
    let is_codec = matches!(graph.text(codec), Some("latin1" | "latin-1"));
    (is_function && is_codec && matches!(graph.get(text)?, Node::Text(_) | Node::LongText(_))).then_some(text)
}

fn latin1(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text).ok()?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Makes the entries of all dictionaries, and those that are stored into other objects, what Python would have.
pub(super) fn keep_last(graph: &mut Graph, source: &dyn ReadAt) -> Result<()> {
    let mut changed = Vec::new();
    let mut keys = Keys::new(graph, Some(source));
    for (number, node) in graph.nodes.iter().enumerate() {
        let entries = match node {
            Node::Dict(entries) => entries,
            Node::Call(call) => &call.entries,
            _ => continue,
        };
        if let Some(kept) = keys.distinct(entries)? {
            changed.push((number, kept));
        }
    }
    for (number, kept) in changed {
        match graph.nodes.get_mut(number) {
            Some(Node::Dict(entries)) => *entries = kept,
            Some(Node::Call(call)) => call.entries = kept,
            _ => {}
        }
    }
    Ok(())
}
