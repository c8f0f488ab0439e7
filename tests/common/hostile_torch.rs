//! PyTorch's files made by hand: ZIP archives byte by byte, pickles opcode by opcode, sound ones and such as no program would write.
#![allow(dead_code, reason = "each test file uses a part of it")]

use dolmen::format::checksum::crc32;

pub const STORED: u16 = 0;
pub const DEFLATED: u16 = 8;
/// CRC and lengths follow the data; names are UTF-8.
pub const DESCRIPTOR: u16 = 1 << 3;
pub const UTF8: u16 = 1 << 11;

/// What a header says of a record.
#[derive(Clone, Debug)]
pub struct Header {
    pub name: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub crc32: u32,
    pub stored_len: u32,
    pub len: u32,
    pub extra: Vec<u8>,
}

/// A record of an archive: two headers, which may disagree, and what lies between them.
#[derive(Clone, Debug)]
pub struct Entry {
    pub local: Header,
    pub central: Header,
    pub stored: Vec<u8>,
    /// Follows the data.
    pub descriptor: Vec<u8>,
    /// Precedes the local header.
    pub gap: Vec<u8>,
    /// What the directory says, if not the truth.
    pub header_offset: Option<u32>,
    pub disk: u16,
    pub external: u32,
    pub comment: Vec<u8>,
}

impl Entry {
    /// As Python's `zipfile` writes it: both headers say all.
    pub fn new(name: &str, content: &[u8]) -> Entry {
        Entry::with(name, content, content.to_vec(), STORED)
    }

    pub fn deflated(name: &str, content: &[u8]) -> Entry {
        Entry::with(name, content, deflate(content), DEFLATED)
    }

    pub fn with(name: &str, content: &[u8], stored: Vec<u8>, method: u16) -> Entry {
        let header = Header {
            name: name.as_bytes().to_vec(),
            flags: UTF8,
            method,
            crc32: crc32(content),
            stored_len: stored.len() as u32,
            len: content.len() as u32,
            extra: Vec::new(),
        };
        Entry {
            local: header.clone(),
            central: header,
            stored,
            descriptor: Vec::new(),
            gap: Vec::new(),
            header_offset: None,
            disk: 0,
            external: 0,
            comment: Vec::new(),
        }
    }

    /// As PyTorch writes it: numbers behind the data, and padding that makes the data begin at a multiple of 64.
    pub fn torch(name: &str, content: &[u8], at: usize) -> Entry {
        let mut entry = Entry::new(name, content);
        let unpadded = at + 30 + name.len() + 4;
        entry.local.extra = padding(unpadded.next_multiple_of(64) - unpadded);
        if !content.is_empty() {
            entry.described();
        }
        entry
    }

    /// Moves CRC and lengths behind the data.
    pub fn described(&mut self) {
        self.descriptor = descriptor(true, self.central.crc32, self.central.stored_len, self.central.len);
        for header in [&mut self.local, &mut self.central] {
            header.flags |= DESCRIPTOR;
        }
        (self.local.crc32, self.local.stored_len, self.local.len) = (0, 0, 0);
    }

    /// Changes both headers.
    pub fn both(mut self, change: impl Fn(&mut Header)) -> Entry {
        change(&mut self.local);
        change(&mut self.central);
        self
    }

    fn local_bytes(&self) -> Vec<u8> {
        let Header { name, flags, method, crc32, stored_len, len, extra } = &self.local;
        let mut out = b"PK\x03\x04\x14\0".to_vec();
        out.extend(flags.to_le_bytes());
        out.extend(method.to_le_bytes());
        out.extend([0; 4]);
        [crc32, stored_len, len].into_iter().for_each(|number| out.extend(number.to_le_bytes()));
        [name, extra].into_iter().for_each(|bytes| out.extend((bytes.len() as u16).to_le_bytes()));
        out.extend(name);
        out.extend(extra);
        out
    }

    fn central_bytes(&self, header_offset: u32) -> Vec<u8> {
        let Header { name, flags, method, crc32, stored_len, len, extra } = &self.central;
        let mut out = b"PK\x01\x02\x14\x03\x14\0".to_vec();
        out.extend(flags.to_le_bytes());
        out.extend(method.to_le_bytes());
        out.extend([0; 4]);
        [crc32, stored_len, len].into_iter().for_each(|number| out.extend(number.to_le_bytes()));
        [name, extra, &self.comment].into_iter().for_each(|bytes| out.extend((bytes.len() as u16).to_le_bytes()));
        out.extend(self.disk.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.external.to_le_bytes());
        out.extend(self.header_offset.unwrap_or(header_offset).to_le_bytes());
        [name, extra, &self.comment].into_iter().for_each(|bytes| out.extend(bytes));
        out
    }
}

pub fn deflate(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn descriptor(signature: bool, crc32: u32, stored_len: u32, len: u32) -> Vec<u8> {
    let mut out = if signature { b"PK\x07\x08".to_vec() } else { Vec::new() };
    [crc32, stored_len, len].into_iter().for_each(|number| out.extend(number.to_le_bytes()));
    out
}

/// An extra field.
pub fn extra(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(content.len() as u16).to_le_bytes(), content].concat()
}

/// PyTorch's padding of so many bytes, besides the four that say so.
pub fn padding(len: usize) -> Vec<u8> {
    extra(u16::from_le_bytes(*b"FB"), &vec![b'Z'; len])
}

/// An extra field of 64-bit numbers.
pub fn zip64(numbers: &[u64]) -> Vec<u8> {
    extra(1, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
}

/// An archive; its end is as it should be, but for what is set here.
#[derive(Clone, Debug, Default)]
pub struct Zip {
    pub entries: Vec<Entry>,
    pub comment: Vec<u8>,
    /// Between the directory and its end records.
    pub behind_directory: Vec<u8>,
    /// Whether there is a zip64 end record with a locator.
    pub zip64: bool,
}

impl Zip {
    pub fn new(entries: Vec<Entry>) -> Zip {
        Zip { entries, ..Zip::default() }
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        for entry in &self.entries {
            out.extend(&entry.gap);
            directory.extend(entry.central_bytes(out.len() as u32));
            out.extend(entry.local_bytes());
            out.extend(&entry.stored);
            out.extend(&entry.descriptor);
        }
        let (offset, count) = (out.len(), self.entries.len());
        out.extend(&directory);
        out.extend(&self.behind_directory);
        if self.zip64 || count >= 0xFFFF {
            let end64_at = out.len() as u64;
            out.extend(b"PK\x06\x06");
            out.extend(44u64.to_le_bytes());
            out.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let numbers = [count, count, directory.len(), offset];
            numbers.into_iter().for_each(|number| out.extend((number as u64).to_le_bytes()));
            out.extend(b"PK\x06\x07\0\0\0\0");
            out.extend(end64_at.to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        out.extend(end(count, directory.len(), offset, &self.comment));
        out
    }
}

/// An end record, with its comment.
pub fn end(count: usize, directory_len: usize, offset: usize, comment: &[u8]) -> Vec<u8> {
    let count = (count.min(0xFFFF) as u16).to_le_bytes();
    let [len, offset] = [directory_len, offset].map(|number| (number as u32).to_le_bytes());
    [b"PK\x05\x06\0\0\0\0", &count[..], &count, &len, &offset, &(comment.len() as u16).to_le_bytes(), comment].concat()
}

/// The records of a checkpoint, as `zipfile` would write them.
pub fn records(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<Entry> {
    let mut entries = vec![Entry::new("archive/data.pkl", pickle), Entry::new("archive/byteorder", b"little")];
    entries.extend(storages.iter().map(|(key, data)| Entry::new(&format!("archive/data/{key}"), data)));
    entries.push(Entry::new("archive/version", b"3\n"));
    entries
}

/// A checkpoint of a pickle and its storages.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    Zip::new(records(pickle, storages)).build()
}

/// A checkpoint as PyTorch lays it out.
pub fn torch_archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = Zip { zip64: true, ..Zip::default() };
    let mut at = 0;
    for entry in records(pickle, storages) {
        let name = String::from_utf8(entry.local.name).unwrap();
        let entry = Entry::torch(&name, &entry.stored, at);
        at += entry.local_bytes().len() + entry.stored.len() + entry.descriptor.len();
        zip.entries.push(entry);
    }
    zip.build()
}

/// A pickle in the making.
#[derive(Clone, Debug)]
pub struct Pickle(pub Vec<u8>);

pub const NONE: &[u8] = b"N";
pub const MARK: &[u8] = b"(";
pub const STOP: &[u8] = b".";
pub const TUPLE: &[u8] = b"t";
pub const EMPTY_TUPLE: &[u8] = b")";
pub const LIST: &[u8] = b"]";
pub const DICT: &[u8] = b"}";
pub const REDUCE: &[u8] = b"R";
pub const BUILD: &[u8] = b"b";
pub const APPENDS: &[u8] = b"e";
pub const SETITEMS: &[u8] = b"u";
pub const PERSISTENT: &[u8] = b"Q";
pub const MEMOIZE: &[u8] = b"\x94";

impl Pickle {
    pub fn new() -> Pickle {
        Pickle::of_protocol(2)
    }

    pub fn of_protocol(protocol: u8) -> Pickle {
        Pickle(vec![0x80, protocol])
    }

    /// No protocol yet: for what is put into another.
    pub fn part() -> Pickle {
        Pickle(Vec::new())
    }

    pub fn op(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend(bytes);
        self
    }

    pub fn ops(self, bytes: &[u8], times: usize) -> Pickle {
        self.op(&bytes.repeat(times))
    }

    pub fn text(self, text: &str) -> Pickle {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub fn bytes(self, bytes: &[u8]) -> Pickle {
        self.op(b"B").op(&(bytes.len() as u32).to_le_bytes()).op(bytes)
    }

    pub fn int(self, value: i64) -> Pickle {
        match i32::try_from(value) {
            Ok(value) => self.op(b"J").op(&value.to_le_bytes()),
            Err(_) => self.op(b"\x8a\x08").op(&value.to_le_bytes()),
        }
    }

    pub fn float(self, value: f64) -> Pickle {
        self.op(b"G").op(&value.to_be_bytes())
    }

    pub fn ints(self, values: &[i64]) -> Pickle {
        values.iter().fold(self.op(MARK), |pickle, &value| pickle.int(value)).op(TUPLE)
    }

    pub fn bool(self, value: bool) -> Pickle {
        self.op(if value { b"\x88" } else { b"\x89" })
    }

    pub fn global(self, module: &str, name: &str) -> Pickle {
        self.op(b"c").op(module.as_bytes()).op(b"\n").op(name.as_bytes()).op(b"\n")
    }

    pub fn put(self, number: u32) -> Pickle {
        self.op(b"r").op(&number.to_le_bytes())
    }

    pub fn get(self, number: u32) -> Pickle {
        self.op(b"j").op(&number.to_le_bytes())
    }

    /// A storage: `class` is `FloatStorage`, or `UntypedStorage`.
    pub fn storage(self, class: &str, key: &str, count: i64) -> Pickle {
        let module = if class == "UntypedStorage" { "torch.storage" } else { "torch" };
        let id = self.op(MARK).text("storage").global(module, class).text(key).text("cpu");
        id.int(count).op(TUPLE).op(PERSISTENT)
    }

    pub fn hooks(self) -> Pickle {
        self.global("collections", "OrderedDict").op(EMPTY_TUPLE).op(REDUCE)
    }

    /// A tensor of floats over a storage.
    pub fn tensor(self, key: &str, count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Pickle {
        self.global("torch._utils", "_rebuild_tensor_v2").tensor_args(
            "FloatStorage",
            key,
            count,
            offset,
            shape,
            strides,
        )
    }

    /// The arguments of such a tensor, and the call.
    pub fn tensor_args(
        self,
        class: &str,
        key: &str,
        count: i64,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Pickle {
        let args = self.op(MARK).storage(class, key, count).int(offset).ints(shape).ints(strides);
        args.bool(false).hooks().op(TUPLE).op(REDUCE)
    }

    pub fn stop(self) -> Vec<u8> {
        self.op(STOP).0
    }
}

/// A checkpoint of one vector of floats.
pub fn sound() -> (Vec<u8>, [u8; 16]) {
    let pickle = Pickle::new().op(DICT).text("w").tensor("0", 4, 0, &[2, 2], &[2, 1]).op(b"s").stop();
    (pickle, [1.0f32, -2.0, 0.5, 8.0].map(f32::to_le_bytes).concat().try_into().unwrap())
}

/// A file of the format before version 1.6: the object, the list of keys, and what follows it.
pub fn legacy(object: &[u8], keys: &[&str], storages: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    out.extend(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    out.extend(object);
    let keys = keys.iter().fold(Pickle::new().op(LIST).op(MARK), |pickle, key| pickle.text(key));
    out.extend(keys.op(APPENDS).stop());
    out.extend(storages);
    out
}

/// A storage of a legacy file: how many elements, and the elements.
pub fn legacy_storage(count: i64, data: &[u8]) -> Vec<u8> {
    [&count.to_le_bytes()[..], data].concat()
}
