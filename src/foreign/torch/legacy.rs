//! Checkpoints from before version 1.6: pickles one after the other, and the storages behind them.
//!
//! ```text
//! pickle   the magic number
//! pickle   protocol version: 1001
//! pickle   a dict about the machine that wrote it
//! pickle   the object; storages are persistent ids
//! pickle   the list of the storages' keys
//! storage  i64 number of elements, and the elements, little-endian        for each key of the list
//! ```

use std::collections::HashMap;

use super::pickle::{self, Graph, Input, Node, Ref};
use super::rebuild::{self, Container, Found, StorageId};
use super::{Assembled, wrong};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::limits::Limits;
use crate::read::GuestIndex;
use crate::source::ReadAt;

/// What the second pickle says.
const PROTOCOL_VERSION: i64 = 1001;

/// The index of such a checkpoint. It has no checksums.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_index(source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    let mut input = Input::new(source, 0, len);
    // The magic number was seen already.
    pickle::read(&mut input, u64::MAX)?;
    match pickle::read(&mut input, u64::MAX)?.1 {
        Ref::Int(PROTOCOL_VERSION) => {}
        other => {
            let message = format!("the protocol version is {other:?}, and only {PROTOCOL_VERSION} is known");
            return Err(input.error(ErrorKind::UnsupportedVersion, message));
        }
    }
    pickle::read(&mut input, u64::MAX)?;
    let start = input.offset();
    let (graph, root) = pickle::read(&mut input, u64::MAX)?;
    let pickle_len = input.offset().saturating_sub(start);
    limits.check("the length of the pickle,", pickle_len, limits.max_value_len)?;
    let storages = storages(&graph, &mut input)?;
    if input.left() > 0 {
        let message = format!("the file goes on for {} bytes after its last storage", input.left());
        let e = input.error(ErrorKind::UnsupportedVersion, message);
        return Err(e.with_advice("several objects saved into one file are not read"));
    }
    let rebuilt = rebuild::rebuild(&graph, root, pickle_len, &Behind { source, storages })?;
    let mut assembled = Assembled::new("torch", "legacy");
    assembled.add(rebuilt, None, None)?;
    assembled.finish(limits)
}

/// Where the storages lie whose keys the last pickle lists.
fn storages(graph: &Graph, input: &mut Input<'_>) -> Result<HashMap<String, (u64, u64)>> {
    // How long elements are, only the persistent ids know.
    let mut element_lens: HashMap<&str, (u64, u64)> = HashMap::new();
    for node in (0..graph.len()).filter_map(|node| u32::try_from(node).ok()) {
        if let Some(Node::Persistent(id)) = graph.node(node)
            && let Some(id) = StorageId::parse(graph, *id)
        {
            let element_len = id.dtype.map_or(1, super::vocabulary::TorchDType::element_len);
            element_lens.entry(id.key).or_insert((element_len, id.element_count));
        }
    }
    let (keys, root) = pickle::read(input, u64::MAX)?;
    let Some(Node::List(items)) = keys.get(root) else { return Err(wrong("the storages' keys are no list")) };
    let mut storages = HashMap::new();
    for i in 0..items.len() {
        let Some(key) = items.get(i).and_then(|key| keys.text(key)) else {
            return Err(wrong("the key of a storage is no text").with_offset(input.offset()));
        };
        let at = input.offset();
        let cut = |e: Error| match e.kind() {
            ErrorKind::Malformed => {
                let message = format!("the file ends within storage {}", quoted(key));
                Error::new(ErrorKind::Malformed, message).with_offset(at).cut_off()
            }
            _ => e,
        };
        let found = i64::from_le_bytes(input.array().map_err(cut)?);
        let Some(&(element_len, count)) = element_lens.get(key) else {
            return Err(wrong(format!("nothing refers to storage {}", quoted(key))).with_offset(at));
        };
        if u64::try_from(found) != Ok(count) {
            let message = format!("storage {} has {found} elements, and should have {count}", quoted(key));
            return Err(wrong(message).with_offset(at));
        }
        let len = count.checked_mul(element_len).ok_or_else(|| wrong("a storage's length overflows"))?;
        let offset = input.skip(len).map_err(cut)?;
        if storages.insert(key.to_owned(), (offset, len)).is_some() {
            return Err(wrong(format!("storage {} is there twice", quoted(key))).with_offset(at));
        }
    }
    Ok(storages)
}

/// The storages behind the pickles.
struct Behind<'a> {
    source: &'a dyn ReadAt,
    storages: HashMap<String, (u64, u64)>,
}

impl Container for Behind<'_> {
    fn find(&self, key: &str, byte_len: u64) -> Result<Option<Found>> {
        let Some(&(offset, len)) = self.storages.get(key) else { return Ok(None) };
        if len != byte_len {
            return Err(
                wrong(format!("storage {} takes {byte_len} bytes, and has {len}", quoted(key))).with_offset(offset)
            );
        }
        Ok(Some(Found::InFile { offset, len, crc32: None }))
    }

    fn is_big_endian(&self) -> bool {
        false
    }

    fn pickle(&self) -> &dyn ReadAt {
        self.source
    }
}
