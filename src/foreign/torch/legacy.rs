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
use super::rebuild::{self, Container, Found, Rebuilt, StorageId};
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
    let legacy = Legacy::read(source, limits)?;
    if let Some(e) = legacy.broken {
        return Err(e);
    }
    if legacy.left > 0 {
        let message = format!("the file goes on for {} bytes after its last storage", legacy.left);
        let e = Error::new(ErrorKind::UnsupportedVersion, message).with_offset(legacy.end);
        return Err(e.with_advice("several objects saved into one file are not read"));
    }
    let rebuilt = legacy.rebuild(&Behind { source, storages: &legacy.storages })?;
    let mut assembled = Assembled::new("torch", "legacy");
    assembled.add(rebuilt, true, None)?;
    assembled.finish(limits)
}

/// Such a checkpoint, as far as it goes.
pub(super) struct Legacy {
    graph: Graph,
    root: Ref,
    pickle_len: u64,
    /// Where the storages of the keys lie, and how long they are; they may go beyond the end of the file, if it is cut off.
    pub(super) storages: HashMap<String, (u64, u64)>,
    /// Why there are no more of them, though there should be.
    pub(super) broken: Option<Error>,
    /// Where the last of them ends, and how many bytes follow.
    pub(super) end: u64,
    pub(super) left: u64,
}

impl Legacy {
    /// Reads the pickles, and finds the storages behind them.
    ///
    /// # Errors
    /// What is wrong with the pickles.
    pub(super) fn read(source: &dyn ReadAt, limits: &Limits) -> Result<Legacy> {
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
        let mut storages = HashMap::new();
        let broken = match find_storages(&graph, &mut input, &mut storages) {
            Ok(()) => None,
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => Some(e),
        };
        let (end, left) = (input.offset(), input.left());
        Ok(Legacy { graph, root, pickle_len, storages, broken, end, left })
    }

    /// What the object's pickle means, with storages of a container.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn rebuild(&self, container: &dyn Container) -> Result<Rebuilt> {
        rebuild::rebuild(&self.graph, self.root, self.pickle_len, container)
    }
}

/// Finds where the storages lie whose keys the last pickle lists. One that the file ends within is among them.
///
/// # Errors
/// Why there are no more.
fn find_storages(graph: &Graph, input: &mut Input<'_>, storages: &mut HashMap<String, (u64, u64)>) -> Result<()> {
    // How long elements are, only the persistent ids know.
    let mut element_lens: HashMap<&str, (u64, u64)> = HashMap::new();
    for id in StorageId::all(graph) {
        let element_len = id.dtype.map_or(1, super::vocabulary::TorchDType::element_len);
        element_lens.entry(id.key).or_insert((element_len, id.element_count));
    }
    let (keys, root) = pickle::read(input, u64::MAX)?;
    let Some(Node::List(items)) = keys.get(root) else { return Err(wrong("the storages' keys are no list")) };
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
        let offset = input.offset();
        if storages.insert(key.to_owned(), (offset, len)).is_some() {
            return Err(wrong(format!("storage {} is there twice", quoted(key))).with_offset(at));
        }
        input.skip(len).map_err(cut)?;
    }
    Ok(())
}

/// The storages behind the pickles.
struct Behind<'a> {
    source: &'a dyn ReadAt,
    storages: &'a HashMap<String, (u64, u64)>,
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
