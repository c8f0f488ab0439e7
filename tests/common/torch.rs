//! Small PyTorch checkpoints, made by hand: pickles from their parts, and archives with as much or as little order as a test wants.

use std::io::Write;

use dolmen::format::checksum::crc32;

/// A piece of a pickle that pushes one value.
pub type Part = Vec<u8>;

pub fn none() -> Part {
    b"N".to_vec()
}

pub fn boolean(value: bool) -> Part {
    vec![if value { 0x88 } else { 0x89 }]
}

pub fn int(value: i32) -> Part {
    [b"J", &value.to_le_bytes()[..]].concat()
}

pub fn text(text: &str) -> Part {
    [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
}

/// `path` is the module and, after the last dot, the name.
pub fn global(path: &str) -> Part {
    let (module, name) = path.rsplit_once('.').unwrap();
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple<const N: usize>(items: [Part; N]) -> Part {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub fn list(items: &[Part]) -> Part {
    [b"](", &items.concat()[..], b"e"].concat()
}

pub fn dict<const N: usize>(entries: [(&str, Part); N]) -> Part {
    let entries = entries.into_iter().map(|(key, value)| [text(key), value].concat());
    [b"}(", &entries.collect::<Vec<_>>().concat()[..], b"u"].concat()
}

/// Calls something, given as a part, with a tuple.
pub fn call<const N: usize>(callable: Part, args: [Part; N]) -> Part {
    [callable, tuple(args), b"R".to_vec()].concat()
}

/// An object of a class with a state.
pub fn object(class: &str, state: Part) -> Part {
    [global(class), b")\x81".to_vec(), state, b"b".to_vec()].concat()
}

pub fn set(items: &[Part]) -> Part {
    call(global("builtins.set"), [list(items)])
}

/// Puts what a part pushes into the memo.
pub fn put(number: u8, part: Part) -> Part {
    [part, vec![b'q', number]].concat()
}

pub fn get(number: u8) -> Part {
    vec![b'h', number]
}

/// A contiguous tensor over all of a storage of so many elements.
pub fn tensor(class: &str, key: &str, shape: &[i32]) -> Part {
    let count = shape.iter().product();
    let mut strides: Vec<i32> =
        shape.iter().rev().scan(1, |step, dim| Some(std::mem::replace(step, *step * dim))).collect();
    strides.reverse();
    let ints = |ints: &[i32]| [b"(", &ints.iter().map(|&i| int(i)).collect::<Vec<_>>().concat()[..], b"t"].concat();
    let id = tuple([text("storage"), global(&format!("torch.{class}")), text(key), text("cpu"), int(count)]);
    let storage = [id, b"Q".to_vec()].concat();
    let hooks = call(global("collections.OrderedDict"), []);
    let rebuild = global("torch._utils._rebuild_tensor_v2");
    call(rebuild, [storage, int(0), ints(shape), ints(&strides), boolean(false), hooks])
}

pub fn parameter(data: Part) -> Part {
    let hooks = call(global("collections.OrderedDict"), []);
    call(global("torch._utils._rebuild_parameter"), [data, boolean(true), hooks])
}

/// A module as PyTorch pickles it, with what belongs to it.
pub fn module(class: &str, parameters: Part, buffers: Part, transient: Part, modules: Part) -> Part {
    let state = dict([
        ("training", boolean(true)),
        ("_parameters", parameters),
        ("_buffers", buffers),
        ("_non_persistent_buffers_set", transient),
        ("_forward_hooks", call(global("collections.OrderedDict"), [])),
        ("_modules", modules),
    ]);
    object(class, state)
}

/// A whole pickle of protocol 2.
pub fn pickle(root: Part) -> Vec<u8> {
    [b"\x80\x02", &root[..], b"."].concat()
}

/// Floats as a storage has them.
pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A record of an archive.
pub struct Record {
    pub name: String,
    pub bytes: Vec<u8>,
    /// What the archive says of its CRC-32, if that is not right.
    pub crc32: Option<u32>,
    pub deflated: bool,
    /// Whether its data begins at a multiple of 64.
    pub aligned: bool,
}

impl Record {
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Record {
        Record { name: name.into(), bytes: bytes.into(), crc32: None, deflated: false, aligned: true }
    }
}

/// The records of a checkpoint with this pickle and these storages, as PyTorch writes them.
pub fn records(pickle: Vec<u8>, storages: &[(&str, Vec<u8>)]) -> Vec<Record> {
    let mut records = vec![Record::new("m/data.pkl", pickle), Record::new("m/byteorder", "little")];
    records.extend(storages.iter().map(|(key, bytes)| Record::new(format!("m/data/{key}"), bytes.clone())));
    records.push(Record::new("m/version", "3\n"));
    records
}

/// A checkpoint.
pub fn checkpoint(root: Part, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    archive(&records(pickle(root), storages))
}

/// An archive of records.
pub fn archive(records: &[Record]) -> Vec<u8> {
    let u16 = |n: usize| u16::try_from(n).unwrap().to_le_bytes();
    let u32 = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for record in records {
        let stored = match record.deflated {
            false => record.bytes.clone(),
            true => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
                encoder.write_all(&record.bytes).unwrap();
                encoder.finish().unwrap()
            }
        };
        let crc = record.crc32.unwrap_or_else(|| crc32(&record.bytes));
        let at = out.len();
        // Flags, method, time, date, CRC, lengths, length of the name: the same in both places.
        let common = [
            &u16(0)[..],
            &u16(if record.deflated { 8 } else { 0 }),
            &[0; 4],
            &crc.to_le_bytes(),
            &u32(stored.len()),
            &u32(record.bytes.len()),
            &u16(record.name.len()),
        ]
        .concat();
        let begin = at + 30 + record.name.len() + 4;
        let padding = begin.next_multiple_of(64) - begin + usize::from(!record.aligned);
        out.extend([b"PK\x03\x04\x00\x00", &common[..], &u16(padding + 4), record.name.as_bytes()].concat());
        out.extend([b"FB", &u16(padding)[..], &vec![b'Z'; padding]].concat());
        out.extend(stored);
        directory
            .extend([b"PK\x01\x02\x00\x00\x00\x00", &common[..], &[0; 12], &u32(at), record.name.as_bytes()].concat());
    }
    let count = u16(records.len());
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &u32(directory.len()), &u32(out.len()), &[0; 2]].concat();
    [out, directory, end].concat()
}
