//! Checkpoints from before version 0.1.10: a tar archive of pickles with data between them.
//!
//! ```text
//! sys_info   about the machine that wrote it; not looked at
//! pickle     the object; tensors and storages are persistent ids, numbers as text
//! tensors    pickle: how many; for each: pickle (id, id of the storage, class), i32 rank, 4 bytes, rank × i64 shape,
//!            rank × i64 strides, i64 offset
//! storages   pickle: how many; for each: pickle (id, location, class), i64 number of elements, the elements;
//!            pickle: the list of views (id, id of the storage, first element, number of elements)
//! ```
//! The object's ids are replaced by what later versions would have written for them; then it is read as theirs are.

use std::collections::HashMap;

use super::pickle::{self, Call, Graph, How, Input, Node, Ref};
use super::rebuild::{self, Container, Found};
use super::vocabulary::{self, TorchDType};
use super::{Assembled, wrong};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::len_usize;
use crate::format::limits::Limits;
use crate::read::GuestIndex;
use crate::source::ReadAt;

const BLOCK_LEN: u64 = 512;
/// Writers fill an archive with zeros up to a multiple of this.
const RECORD_LEN: u64 = 20 * BLOCK_LEN;
/// PyTorch wrote four members, each with at most one header of extensions.
const MAX_MEMBERS: usize = 16;
const MAX_EXTENSION_LEN: u64 = 64 << 10;
/// As many axes as PyTorch has at most.
const MAX_RANK: u64 = 64;
/// The longest name of a device. Each tensor gets a copy of it.
const MAX_LOCATION_LEN: usize = 64;
/// The members that count.
const MEMBERS: [&str; 3] = ["pickle", "tensors", "storages"];

/// The index of such a checkpoint. It has no checksums.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_index(source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let members = Members::read(source)?;
    let mut input = members.input(source, "pickle")?;
    // Ids stand for what the other members say of them.
    let len = input.left().saturating_add(members.get("tensors")?.1);
    limits.check("the length of the pickle,", len, limits.max_value_len)?;
    let look: Look<'_> = &mut |_| {};
    let storages = Storages::read(&mut members.input(source, "storages")?, look)?;
    let tensors = tensors(&mut members.input(source, "tensors")?, look)?;
    let (mut graph, root) = pickle(&mut input, look)?;
    at_its_end(&input, "pickle")?;
    let root = resolve(&mut graph, root, &tensors, &storages)?;
    let rebuilt = rebuild::rebuild(&graph, root, len, &Within { source, storages })?;
    let mut assembled = Assembled::new("torch", "tar");
    assembled.add(rebuilt, true, None)?;
    assembled.finish(limits)
}

/// What is shown every pickle.
pub(super) type Look<'l> = &'l mut dyn FnMut(&Graph);

fn pickle(input: &mut Input<'_>, look: Look<'_>) -> Result<(Graph, Ref)> {
    let read = pickle::read(input, u64::MAX)?;
    look(&read.0);
    Ok(read)
}

/// Shows every pickle of such a checkpoint, in the order in which PyTorch reads them.
///
/// # Errors
/// What is wrong with one, after which no more of the same member are shown.
pub(super) fn look(source: &dyn ReadAt, look: Look<'_>) -> Result<()> {
    let members = Members::read(source)?;
    let storages = Storages::read(&mut members.input(source, "storages")?, look).map(drop);
    let tensors = tensors(&mut members.input(source, "tensors")?, look).map(drop);
    let object = pickle(&mut members.input(source, "pickle")?, look).map(drop);
    storages.and(tensors).and(object)
}

/// Whether a tar archive is such a checkpoint. What is wrong with it is not told here.
pub(crate) fn is_torch(source: &dyn ReadAt) -> bool {
    Members::read(source).is_ok_and(|members| MEMBERS.iter().all(|name| members.get(name).is_ok()))
}

fn at_its_end(input: &Input<'_>, member: &str) -> Result<()> {
    match input.left() {
        0 => Ok(()),
        left => Err(input.error(ErrorKind::Malformed, format!("{member} goes on for {left} bytes after its end"))),
    }
}

/// Where the members of an archive lie that count: name, offset, length.
struct Members(Vec<(String, u64, u64)>);

impl Members {
    fn read(source: &dyn ReadAt) -> Result<Members> {
        let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        let mut members = Members(Vec::new());
        let mut extended_len = None;
        let mut at = 0u64;
        for _ in 0..MAX_MEMBERS {
            let Some(header) = Header::read(source, at, file_len)? else {
                check_rest(source, at, file_len)?;
                return Ok(members);
            };
            let data = at.saturating_add(BLOCK_LEN);
            let len = extended_len.take().unwrap_or(header.len);
            let end = data.checked_add(len).filter(|&end| end <= file_len).ok_or_else(|| {
                let message = format!("member {} of {len} bytes goes beyond the end of the file", quoted(&header.name));
                wrong(message).with_offset(at).cut_off()
            })?;
            match header.kind {
                b'x' => extended_len = extension(source, data, len)?,
                b'g' => {}
                kind => members.add(header.name, kind, at, (data, len))?,
            }
            at = end.checked_next_multiple_of(BLOCK_LEN).ok_or_else(|| wrong("a member's end overflows"))?;
        }
        Err(wrong(format!("the archive has more than {MAX_MEMBERS} members")).with_offset(at))
    }

    fn add(&mut self, name: String, kind: u8, at: u64, (offset, len): (u64, u64)) -> Result<()> {
        if !MEMBERS.contains(&&*name) {
            return Ok(());
        }
        if !matches!(kind, b'0' | 0) {
            return Err(wrong(format!("member {} is no regular file", quoted(&name))).with_offset(at));
        }
        if self.0.iter().any(|(other, ..)| *other == name) {
            return Err(wrong(format!("member {} is there twice", quoted(&name))).with_offset(at));
        }
        self.0.push((name, offset, len));
        Ok(())
    }

    fn get(&self, name: &str) -> Result<(u64, u64)> {
        let found = self.0.iter().find(|(other, ..)| other == name);
        found.map(|&(_, offset, len)| (offset, len)).ok_or_else(|| wrong(format!("the archive has no member {name}")))
    }

    fn input<'s>(&self, source: &'s dyn ReadAt, name: &str) -> Result<Input<'s>> {
        let (offset, len) = self.get(name)?;
        Ok(Input::new(source, offset, offset.saturating_add(len)))
    }
}

/// After the last member there are only zeros, and not many.
fn check_rest(source: &dyn ReadAt, at: u64, file_len: u64) -> Result<()> {
    let rest = file_len.saturating_sub(at);
    let mut bytes = vec![0; len_usize(rest.min(RECORD_LEN)).unwrap_or_default()];
    read_exact(source, &mut bytes, at)?;
    if rest > RECORD_LEN || bytes.iter().any(|&byte| byte != 0) {
        return Err(wrong("the archive goes on after its end").with_offset(at));
    }
    Ok(())
}

fn read_exact(source: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<()> {
    source.read_exact_at(buffer, offset).map_err(|e| Error::io("cannot read", e))
}

/// What is needed of a member's header.
struct Header {
    name: String,
    len: u64,
    kind: u8,
}

impl Header {
    /// The header there; `None` at the end of the archive, which is a block of zeros or the end of the file.
    fn read(source: &dyn ReadAt, at: u64, file_len: u64) -> Result<Option<Header>> {
        if at == file_len {
            return Ok(None);
        }
        let mut block = [0; 512];
        if file_len.saturating_sub(at) < BLOCK_LEN {
            return Err(wrong("the archive is cut off").with_offset(at).cut_off());
        }
        read_exact(source, &mut block, at)?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header::parse(&block).map_err(|message| wrong(message).with_offset(at))?;
        Ok(Some(header))
    }

    fn parse(block: &[u8; 512]) -> std::result::Result<Header, &'static str> {
        let field = |from: usize, to: usize| block.get(from..to).unwrap_or_default();
        if !field(257, 512).starts_with(b"ustar") {
            return Err("a member's header does not begin as one");
        }
        // The checksum counts as spaces in itself.
        let sum = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, &byte| sum.saturating_add(byte.into()));
        let found = sum(field(0, 148)).saturating_add(sum(field(156, 512))).saturating_add(8 * 32);
        if octal(field(148, 156)) != Some(found) {
            return Err("a member's header is damaged: its checksum differs");
        }
        let len = octal(field(124, 136)).ok_or("a member's length is no octal number")?;
        let name = String::from_utf8_lossy(until_zero(field(0, 100))).into_owned();
        let folder = until_zero(field(345, 500));
        // One in a folder is none of those that count.
        let name = if folder.is_empty() { name } else { format!("{}/{name}", String::from_utf8_lossy(folder)) };
        let kind = field(156, 157).first().copied().unwrap_or_default();
        Ok(Header { name, len, kind })
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(until_zero(field)).ok()?.trim();
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()
}

/// The length that a header of extensions says of the member behind it, if it does.
fn extension(source: &dyn ReadAt, offset: u64, len: u64) -> Result<Option<u64>> {
    let broken = || wrong("a header of extensions is none").with_offset(offset);
    let mut bytes = vec![0; len_usize(len).filter(|_| len <= MAX_EXTENSION_LEN).ok_or_else(broken)?];
    read_exact(source, &mut bytes, offset)?;
    let mut rest = &*bytes;
    let mut found = None;
    while !rest.is_empty() {
        // `30 mtime=1484000000.123456\n`; the number counts all of it.
        let space = rest.iter().position(|&byte| byte == b' ').ok_or_else(broken)?;
        let len = rest.get(..space).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let (record, after) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(broken)?;
        let text = record.get(space..).and_then(|text| text.strip_prefix(b" ")?.strip_suffix(b"\n"));
        let text = text.ok_or_else(broken)?;
        if let Some(size) = text.strip_prefix(b"size=") {
            found = Some(std::str::from_utf8(size).ok().and_then(|size| size.parse().ok()).ok_or_else(broken)?);
        } else if text.starts_with(b"path=") {
            // None of the members that count needs it.
            return Err(broken());
        }
        rest = after;
    }
    Ok(found)
}

/// An id: the address of an object in a program of long ago.
type Id = i64;

fn id_of(graph: &Graph, value: Ref) -> Option<Id> {
    match value {
        Ref::Int(id) => Some(id),
        value => graph.text(value)?.trim().parse().ok(),
    }
}

/// A number of things to come.
fn count(input: &mut Input<'_>, look: Look<'_>) -> Result<u64> {
    match pickle(input, look)?.1 {
        Ref::Int(count) => u64::try_from(count).ok(),
        _ => None,
    }
    .ok_or_else(|| input.error(ErrorKind::Malformed, "what should be a count is none"))
}

fn natural(input: &mut Input<'_>) -> Result<u64> {
    let number = i64::from_le_bytes(input.array()?);
    u64::try_from(number).map_err(|_| input.error(ErrorKind::Malformed, format!("{number} is no size")))
}

/// A storage of the archive.
struct Storage {
    dtype: &'static TorchDType,
    class: String,
    location: String,
    element_count: i64,
    offset: u64,
    len: u64,
}

/// A part of a storage.
struct View {
    storage: Id,
    first: i64,
    element_count: i64,
}

struct Storages {
    whole: HashMap<Id, Storage>,
    views: HashMap<Id, View>,
}

impl Storages {
    fn read(input: &mut Input<'_>, look: Look<'_>) -> Result<Storages> {
        let mut whole = HashMap::new();
        for _ in 0..count(input, look)? {
            let (graph, root) = pickle(input, look)?;
            let parse = || {
                let &[id, location, class] = graph.tuple(root)? else { return None };
                let location = graph.text(location).filter(|location| location.len() <= MAX_LOCATION_LEN)?;
                let class = graph.global(class)?;
                Some((id_of(&graph, id)?, location.to_owned(), class.name.to_string()))
            };
            let broken = |input: &Input<'_>, what: &str| input.error(ErrorKind::Malformed, what);
            let (id, location, class) =
                parse().ok_or_else(|| broken(input, "what should describe a storage does not"))?;
            let Some(dtype) = vocabulary::dtype_of_storage(&class) else {
                return Err(broken(input, &format!("there is no class of storages named {}", quoted(&class))));
            };
            let elements = natural(input)?;
            let len = elements.checked_mul(dtype.element_len()).ok_or_else(|| wrong("a storage's length overflows"))?;
            let offset = input.skip(len)?;
            let element_count = i64::try_from(elements).unwrap_or(i64::MAX);
            if whole.insert(id, Storage { dtype, class, location, element_count, offset, len }).is_some() {
                return Err(broken(input, &format!("storage {id} is there twice")));
            }
        }
        let views = views(input, look, &whole)?;
        at_its_end(input, "storages")?;
        Ok(Storages { whole, views })
    }

    /// The persistent id that later versions have for a storage.
    fn persistent(&self, graph: &mut Graph, id: Id) -> Result<Option<Ref>> {
        let view = self.views.get(&id);
        let key = view.map_or(id, |view| view.storage);
        let Some(storage) = self.whole.get(&key) else { return Ok(None) };
        let view = match view {
            None => Ref::None,
            Some(view) => {
                let items = [Ref::Int(id), Ref::Int(view.first), Ref::Int(view.element_count)];
                graph.push(Node::Tuple(items.into()))?
            }
        };
        let items = [
            graph.push(Node::Text(b"storage"[..].into()))?,
            graph.named("torch", &storage.class)?,
            graph.push(Node::Text(key.to_string().into_bytes().into()))?,
            graph.push(Node::Text(storage.location.as_bytes().into()))?,
            Ref::Int(storage.element_count),
            view,
        ];
        let persistent = graph.push(Node::Tuple(items.into()))?;
        graph.push(Node::Persistent(persistent)).map(Some)
    }
}

/// The views behind the storages.
fn views(input: &mut Input<'_>, look: Look<'_>, whole: &HashMap<Id, Storage>) -> Result<HashMap<Id, View>> {
    let (graph, root) = pickle(input, look)?;
    let Some(Node::List(items)) = graph.get(root) else {
        return Err(input.error(ErrorKind::Malformed, "the views of storages are no list"));
    };
    let mut views = HashMap::new();
    for i in 0..items.len() {
        let parse = || {
            let &[id, storage, Ref::Int(first), Ref::Int(element_count)] = graph.tuple(items.get(i)?)? else {
                return None;
            };
            let (id, storage) = (id_of(&graph, id)?, id_of(&graph, storage)?);
            let fresh = whole.contains_key(&storage) && !whole.contains_key(&id);
            Some((id, View { storage, first, element_count })).filter(|_| fresh)
        };
        let view = parse().filter(|(id, _)| !views.contains_key(id));
        let Some((id, view)) = view else {
            return Err(input.error(ErrorKind::Malformed, "what should describe a view of a storage does not"));
        };
        views.insert(id, view);
    }
    Ok(views)
}

/// A tensor of the archive.
struct Described {
    storage: Id,
    shape: Vec<i64>,
    strides: Vec<i64>,
    offset: i64,
}

fn tensors(input: &mut Input<'_>, look: Look<'_>) -> Result<HashMap<Id, Described>> {
    let mut tensors = HashMap::new();
    for _ in 0..count(input, look)? {
        let (graph, root) = pickle(input, look)?;
        let ids = graph.tuple(root).and_then(|ids| {
            let &[id, storage, _] = ids else { return None };
            Some((id_of(&graph, id)?, id_of(&graph, storage)?))
        });
        let Some((id, storage)) = ids else {
            return Err(input.error(ErrorKind::Malformed, "what should describe a tensor does not"));
        };
        let rank = i32::from_le_bytes(input.array()?);
        // Of the eight bytes that the rank takes, readers take four.
        input.array::<4>()?;
        let Some(rank) = u64::try_from(rank).ok().filter(|&rank| rank <= MAX_RANK) else {
            return Err(input.error(ErrorKind::Malformed, format!("a tensor has {rank} axes")));
        };
        let mut numbers = |_| Ok(i64::from_le_bytes(input.array()?));
        let shape = (0..rank).map(&mut numbers).collect::<Result<_>>()?;
        let strides = (0..rank).map(&mut numbers).collect::<Result<_>>()?;
        let offset = i64::from_le_bytes(input.array()?);
        if tensors.insert(id, Described { storage, shape, strides, offset }).is_some() {
            return Err(input.error(ErrorKind::Malformed, format!("tensor {id} is there twice")));
        }
    }
    at_its_end(input, "tensors")?;
    Ok(tensors)
}

/// Puts what they mean in the place of persistent ids; gives the root.
fn resolve(graph: &mut Graph, root: Ref, tensors: &HashMap<Id, Described>, storages: &Storages) -> Result<Ref> {
    let unknown = || wrong("a persistent id means no tensor or storage of the archive");
    let mut known: HashMap<Id, u32> = HashMap::new();
    let mut instead: HashMap<u32, u32> = HashMap::new();
    for node in (0..graph.len()).filter_map(|node| u32::try_from(node).ok()) {
        let Some(&Node::Persistent(persistent)) = graph.node(node) else { continue };
        // A class with its source code.
        let class = graph.tuple(persistent).and_then(<[Ref]>::first).copied();
        let meant = if let Some(class) = class.filter(|&class| graph.global(class).is_some()) {
            class
        } else {
            let id = id_of(graph, persistent).ok_or_else(unknown)?;
            match known.get(&id) {
                Some(&meant) => Ref::Node(meant),
                None => match tensors.get(&id) {
                    Some(tensor) => rebuilding(graph, tensor, storages)?,
                    None => storages.persistent(graph, id)?,
                }
                .ok_or_else(unknown)?,
            }
        };
        let Ref::Node(meant) = meant else { return Err(unknown()) };
        if class.is_none()
            && let Some(id) = id_of(graph, persistent)
        {
            known.insert(id, meant);
        }
        instead.insert(node, meant);
    }
    let change = |value: &mut Ref| {
        if let Ref::Node(node) = value
            && let Some(&meant) = instead.get(node)
        {
            *node = meant;
        }
    };
    graph.change_references(change);
    let mut root = root;
    change(&mut root);
    Ok(root)
}

/// The call by which later versions rebuild a tensor.
fn rebuilding(graph: &mut Graph, tensor: &Described, storages: &Storages) -> Result<Option<Ref>> {
    let Some(storage) = storages.persistent(graph, tensor.storage)? else { return Ok(None) };
    let numbers = |numbers: &[i64]| Node::Tuple(numbers.iter().copied().map(Ref::Int).collect());
    let shape = graph.push(numbers(&tensor.shape))?;
    let strides = graph.push(numbers(&tensor.strides))?;
    let args = graph.push(Node::Tuple([storage, Ref::Int(tensor.offset), shape, strides].into()))?;
    let callable = graph.named("torch._utils", "_rebuild_tensor")?;
    let (items, entries) = (Vec::new(), Vec::new());
    let call = Call { callable, args, how: How::Call, state: None, items, entries };
    graph.push(Node::Call(Box::new(call))).map(Some)
}

/// The storages within the archive.
struct Within<'a> {
    source: &'a dyn ReadAt,
    storages: Storages,
}

impl Container for Within<'_> {
    fn find(&self, key: &str, byte_len: u64) -> Result<Option<Found>> {
        let storage = key.parse::<Id>().ok().and_then(|id| self.storages.whole.get(&id));
        let Some(storage) = storage else { return Ok(None) };
        if storage.len != byte_len {
            let message = format!(
                "storage {} of {} takes {byte_len} bytes, and has {}",
                quoted(key),
                storage.dtype.name,
                storage.len
            );
            return Err(wrong(message).with_offset(storage.offset));
        }
        Ok(Some(Found::InFile { offset: storage.offset, len: storage.len, crc32: None }))
    }

    fn is_big_endian(&self) -> bool {
        false
    }

    fn pickle(&self) -> &dyn ReadAt {
        self.source
    }
}

/// What the header of the first member says of an archive.
pub(crate) fn first_member(start: &[u8]) -> Option<First> {
    let header = start.first_chunk::<512>().and_then(|block| Header::parse(block).ok())?;
    Some(match (header.kind, &*header.name) {
        (b'x' | b'g', _) => First::Extensions,
        (_, "sys_info" | "pickle" | "tensors" | "storages") => First::Torch,
        _ => First::Other,
    })
}

/// What the first member of a tar archive is.
pub(crate) enum First {
    /// One that checkpoints have.
    Torch,
    /// It says more about the next one.
    Extensions,
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, len: &str, kind: u8) -> [u8; 512] {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + len.len()].copy_from_slice(len.as_bytes());
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn error(archive: &[u8]) -> String {
        Members::read(&archive.to_vec()).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn members_are_read_strictly() {
        let whole =
            [&header("pickle", "3", b'0')[..], b"abc", &[0; 509], &header("tensors", "0", 0), &[0; 1024]].concat();
        let members = Members::read(&whole).unwrap();
        assert_eq!((members.get("pickle").unwrap(), members.get("tensors").unwrap()), ((512, 3), (1536, 0)));
        let mut damaged = whole.clone();
        damaged[0] = b'q';
        assert!(error(&damaged).contains("checksum"));
        assert!(error(&whole[..600]).contains("cut off"));
        assert!(error(&whole[..513]).contains("beyond the end"));
        assert!(error(&[&whole[..], b"x"].concat()).contains("after its end"));
        assert!(error(&[&whole[..1536], &whole[..]].concat()).contains("twice"));
        assert!(error(&header("storages", "0", b'2')).contains("no regular file"));
        assert!(error(&header("storages", "7", b'0')).contains("beyond the end"));
        assert!(error(&header("storages", "777777777777", b'0')).contains("beyond the end"));
        assert!(error(&header("storages", "+7", b'0')).contains("octal"));
        assert!(error(&header("other", "0", b'0').repeat(MAX_MEMBERS + 1)).contains("more than"));
    }

    #[test]
    fn extensions_may_say_the_length() {
        let archive = |records: &str| {
            let mut body = records.as_bytes().to_vec();
            let len = format!("{:o}", body.len());
            body.resize(512, 0);
            [&header("././@PaxHeader", &len, b'x')[..], &body, &header("pickle", "0", b'0'), &[7; 512]].concat()
        };
        let found = |records: &str| Members::read(&archive(records)).and_then(|members| members.get("pickle"));
        assert_eq!(found("20 mtime=1484000.12\n12 size=512\n").unwrap(), (1536, 512));
        for wrong in ["99 size=1\n", "size", "10 path=a\n", "9 size=x\n", "0 ", "18446744073709551615 a"] {
            assert!(found(wrong).is_err(), "{wrong}");
        }
    }
}
