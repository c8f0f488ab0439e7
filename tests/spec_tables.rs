//! The tables of `spec/format.md` against the code: rules, dtypes, the fields of each structure as files have them, section kinds,
//! flags, tags and limits; those of `spec/torch.md`, `spec/lifecycle.md` and `spec/features.md`; and `spec/hexdump.md` against the file that it explains.

mod common;

use std::collections::BTreeMap;

use common::{hexdump_builder, is_valid, reseal, reseal_header, section, spec, u32_at, u64_at, with_large_stack};
use dolmen::format::checksum::crc32;
use dolmen::format::header;
use dolmen::format::rules::RULES;
use dolmen::format::value::{Dict, DictKind, Global, MAX_DEPTH, Object, Value};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, FileOptions, TensorData, View};

fn text() -> String {
    std::fs::read_to_string(spec().join("format.md")).unwrap()
}

/// The cells of the rows of a Markdown table that begins within `text`, without its head.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

/// A marked table of `spec/format.md`, and the size that its mark gives.
fn table(name: &str) -> (Vec<Vec<String>>, Option<usize>) {
    table_of(&text(), name)
}

fn table_of(text: &str, name: &str) -> (Vec<Vec<String>>, Option<usize>) {
    let mark = format!("<!-- table: {name}");
    let marks = text.match_indices(&mark).map(|(at, _)| &text[at + mark.len()..]);
    let found: Vec<&str> = marks.filter(|rest| rest.starts_with(" -->") || rest.starts_with(" size=")).collect();
    let [rest] = found[..] else { panic!("the text has {} tables {name}", found.len()) };
    let (attributes, rest) = rest.split_once("-->").unwrap();
    let rows = rows(rest);
    assert!(!rows.is_empty(), "table {name} is empty");
    (rows, attributes.trim().strip_prefix("size=").map(|size| size.parse().unwrap()))
}

fn number(cell: &str) -> u64 {
    match cell.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => cell.parse().unwrap_or_else(|_| panic!("{cell} is no number")),
    }
}

/// The bytes that the first `…` of a cell spells in hexadecimal.
fn spelt(cell: &str) -> Vec<u8> {
    let digits = cell.split('`').nth(1).unwrap();
    digits.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// A structure of the specification, over bytes.
struct Fields {
    table: Vec<Vec<String>>,
    bytes: Vec<u8>,
}

impl Fields {
    fn new(name: &str, bytes: &[u8]) -> Fields {
        let (table, size) = table(name);
        let size = size.unwrap();
        Fields { table, bytes: bytes[..size].to_vec() }
    }

    fn bytes(&self, field: &str) -> &[u8] {
        let row = self.table.iter().find(|row| row[2] == field).unwrap_or_else(|| panic!("there is no field {field}"));
        let (offset, size) = (number(&row[0]) as usize, number(&row[1]) as usize);
        &self.bytes[offset..offset + size]
    }

    fn get(&self, field: &str) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.bytes(field).len()].copy_from_slice(self.bytes(field));
        u64::from_le_bytes(bytes)
    }

    /// Asserts that the structure has these fields with these values, and no others but `other` ones.
    fn assert(&self, expected: &[(&str, u64)], other: &[&str]) {
        for &(field, value) in expected {
            assert_eq!(self.get(field), value, "{field}");
        }
        let mut named: Vec<&str> = expected.iter().map(|(field, _)| *field).chain(other.iter().copied()).collect();
        let mut fields: Vec<&str> = self.table.iter().map(|row| row[2].as_str()).collect();
        named.sort();
        fields.sort();
        assert_eq!(named, fields);
    }
}

const STRUCTURES: [&str; 6] =
    ["header", "descriptor", "section_table", "section_entry", "tensor_record", "storage_record"];

#[test]
fn fields_follow_each_other_without_gaps_and_fill_their_structure() {
    for name in STRUCTURES {
        let (rows, size) = table(name);
        let mut end = 0;
        for row in &rows {
            assert_eq!(number(&row[0]), end, "{name}: offset of {}", row[2]);
            let size = number(&row[1]);
            match row[3].as_str() {
                "bytes" => assert!(size > 0),
                integer => {
                    assert_eq!(integer, format!("u{}", size * 8), "{name}: type of {}", row[2]);
                    assert_eq!(end % size, 0, "{name}: {} is not aligned", row[2]);
                }
            }
            end += size;
        }
        assert_eq!(Some(end as usize), size, "{name}: size");
        assert_eq!(end % 8, 0, "{name}: structures follow each other at multiples of 8");
    }
}

#[test]
fn the_rules_of_the_text_are_those_of_the_code() {
    let text = text();
    let parts = text.split("<!-- rules -->").skip(1);
    let written: Vec<(String, String)> = parts.flat_map(rows).map(|row| (row[0].clone(), row[2].clone())).collect();
    let known: Vec<(String, String)> =
        RULES.iter().map(|rule| (rule.id.to_owned(), rule.class.name().to_owned())).collect();
    assert_eq!(written, known);
}

#[test]
fn every_rule_that_the_text_mentions_exists() {
    for word in text().split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        let Some((group, digits)) = word.split_once('-') else { continue };
        let is_rule = RULES.iter().any(|rule| rule.id.split_once('-').unwrap().0 == group);
        if is_rule && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            assert!(RULES.iter().any(|rule| rule.id == word), "{word}");
        }
    }
}

#[test]
fn the_dtypes_of_the_text_are_those_of_the_code() {
    let (rows, _) = table("dtypes");
    let mut written: Vec<(u16, String, u32)> = Vec::new();
    for row in rows {
        let code = number(&row[0]) as u16;
        if row[2] == "any" {
            for bits in [1, 7, 8, 4096, u32::MAX] {
                assert_eq!(DType::from_code(code, bits), Some(DType::Opaque { bits }));
            }
            assert_eq!((DType::Opaque { bits: 8 }).name(), row[1]);
            continue;
        }
        written.push((code, row[1].clone(), number(&row[2]) as u32));
    }
    let known: Vec<(u16, String, u32)> =
        DType::ALL.iter().map(|dtype| (dtype.code(), dtype.to_string(), dtype.bits())).collect();
    assert_eq!(written, known);
    for code in 1..=u16::MAX {
        let listed = written.iter().find(|(listed, _, _)| *listed == code);
        match DType::from_code(code, 8) {
            Some(dtype @ DType::Unknown { .. }) => {
                assert_eq!(dtype.to_string(), format!("unknown(0x{code:04X})"));
                assert!(listed.is_none() && code != 0xFF, "{code:#x}");
            }
            Some(DType::Opaque { .. }) => assert_eq!(code, 0xFF),
            Some(dtype) => assert_eq!(Some(&(code, dtype.to_string(), 8)), listed),
            None => assert_ne!(listed.unwrap().2, 8),
        }
    }
}

/// A file with every kind of record: contiguous, strided, a view in the middle, none of the fields 0 by chance.
fn rich() -> Builder<'static> {
    let mut b = Builder::with_options(FileOptions::new().alignment(512).unwrap().block_len(8192).unwrap());
    b.tensor("first", (&[1u16, 2, 3], [3])).unwrap();
    let storage = b.storage((0..20_000u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let view = View::new(DType::F32, [100, 3, 20]).unwrap().strides([120, 20, 1]).unwrap().start(256);
    b.view("middle", storage, view).unwrap();
    b.view("aview", storage, View::new(DType::I64, [7, 5]).unwrap().start(72)).unwrap();
    b.metadata("k", 1);
    b.document(Value::tensor("first"));
    b.section(0x8000_0001, vec![9; 3]).unwrap();
    b
}

#[test]
fn the_header_of_a_file_has_its_fields_where_the_text_puts_them() {
    let file = rich().to_vec().unwrap();
    let header = Fields::new("header", &file);
    let opened = Checkpoint::from_bytes(&file).unwrap();
    let index = &file[header.get("index_offset") as usize..][..header.get("index_len") as usize];
    header.assert(
        &[
            ("major", header::MAJOR.into()),
            ("minor", header::MINOR.into()),
            ("required_features", 0),
            ("file_len", file.len() as u64),
            ("index_offset", opened.header().index_offset()),
            ("index_len", opened.header().index_len()),
            ("index_crc32", crc32(index).into()),
            ("alignment_log2", 9),
            ("block_log2", 13),
            ("header_crc32", crc32(&file[..60]).into()),
        ],
        &["magic", "reserved"],
    );
    assert_eq!((opened.header().alignment(), opened.header().block_len()), (1 << 9, 1 << 13));
    assert_eq!(opened.header().file_len(), file.len() as u64);
    let magic = &header.table.iter().find(|row| row[2] == "magic").unwrap()[4];
    assert_eq!((header.bytes("magic"), &header::MAGIC[..]), (&spelt(magic)[..], &spelt(magic)[..]));
    assert_eq!(header.bytes("reserved"), [0; 14]);
    assert_eq!(table("header").1, Some(header::HEADER_LEN));
    assert_eq!(file[file.len() - 64..], file[..64], "the trailer");
}

#[test]
fn the_descriptors_of_a_file_have_their_fields_where_the_text_puts_them() {
    let file = rich().to_vec().unwrap();
    let opened = Checkpoint::from_bytes(&file).unwrap();
    let (flags, _) = table("descriptor_flags");
    let flag = |name: &str| 1u64 << number(&flags.iter().find(|row| row[1] == name).unwrap()[0]);
    let mut at = 64;
    for (name, is_view) in [("first", false), ("middle", false), ("aview", true)] {
        let tensor = opened.tensor(name).unwrap();
        let descriptor = Fields::new("descriptor", &file[at..]);
        let strided = if tensor.explicit_strides().is_some() { flag("STRIDED") } else { 0 };
        let data = tensor.storage_bytes().unwrap();
        let len = descriptor.get("descriptor_len") as usize;
        descriptor.assert(
            &[
                ("storage", tensor.storage().into()),
                ("data_offset", tensor.file_offset().unwrap() - tensor.start()),
                ("data_len", data.len() as u64),
                ("start", tensor.start()),
                ("data_crc32", crc32(data).into()),
                ("bits", tensor.dtype().bits().into()),
                ("dtype", tensor.dtype().code().into()),
                ("rank", tensor.shape().len() as u64),
                ("flags", strided | if is_view { flag("VIEW") } else { 0 }),
                ("name_len", name.len() as u64),
            ],
            &["magic", "descriptor_len", "reserved"],
        );
        assert_eq!(crc32(data), tensor.storage_crc32().unwrap().unwrap());
        let magic = &descriptor.table.iter().find(|row| row[2] == "magic").unwrap()[4];
        assert_eq!(descriptor.bytes("magic"), spelt(magic));
        // What follows the fixed part: dims, strides, name, padding, CRC.
        let mut rest: Vec<u8> = tensor.shape().iter().flat_map(|dim| dim.to_le_bytes()).collect();
        rest.extend(tensor.explicit_strides().unwrap_or_default().iter().flat_map(|stride| stride.to_le_bytes()));
        rest.extend(name.as_bytes());
        let k = if strided != 0 { 2 } else { 1 };
        assert_eq!(len, (64 + 8 * tensor.shape().len() * k + name.len() + 4).next_multiple_of(8));
        rest.resize(len - 64 - 4, 0);
        rest.extend(crc32(&file[at..at + len - 4]).to_le_bytes());
        assert_eq!(file[at + 64..at + len], rest);
        let end = if is_view {
            at + len
        } else {
            let data_offset = (at + len).next_multiple_of(512);
            assert_eq!(descriptor.get("data_offset"), data_offset as u64, "{name}");
            data_offset + data.len()
        };
        at = end.next_multiple_of(64);
    }
    assert_eq!(at as u64, opened.header().index_offset(), "the index follows the last record");
}

#[cfg(feature = "fs")]
#[test]
fn a_file_that_is_still_being_written_has_a_provisional_header_and_an_unfinished_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileOptions::new().alignment(64).unwrap();
    let save = dolmen::SaveOptions::new().durability(dolmen::Durability::None);
    let mut w = dolmen::Writer::create_with(dir.path().join("f.dolmen"), options, &save).unwrap();
    let temp = w.temp_path().to_owned();
    let mut rows = w.begin_rows("r", DType::U8, [4]).unwrap();
    rows.write_bytes(&vec![1; 3 << 20]).unwrap();
    let file = std::fs::read(&temp).unwrap();
    let header = Fields::new("header", &file);
    for field in ["file_len", "index_offset", "index_len", "index_crc32"] {
        assert_eq!(header.get(field), 0, "{field}");
    }
    assert_eq!(header.get("header_crc32"), u64::from(crc32(&file[..60])));
    assert_eq!(Checkpoint::from_bytes(&file).unwrap_err().rule(), Some("HDR-6"));
    let (flags, _) = table("descriptor_flags");
    assert_eq!(flags.iter().map(|row| row[1].as_str()).collect::<Vec<_>>(), ["STRIDED", "VIEW", "UNFINISHED"]);
    let descriptor = Fields::new("descriptor", &file[64..]);
    assert_eq!(descriptor.get("flags"), 1 << number(&flags[2][0]));
    assert_eq!((descriptor.get("data_len"), descriptor.get("data_crc32"), u64_at(&file, 128)), (0, 0, 0));
    assert_eq!(rows.finish().unwrap(), 3 << 18);
    w.commit().unwrap();
    let file = std::fs::read(dir.path().join("f.dolmen")).unwrap();
    let descriptor = Fields::new("descriptor", &file[64..]);
    assert_eq!((descriptor.get("flags"), descriptor.get("data_len"), u64_at(&file, 128)), (0, 3 << 20, 3 << 18));
}

#[test]
fn the_section_table_of_a_file_lists_the_kinds_of_the_text() {
    let file = rich().to_vec().unwrap();
    let index_offset = u64_at(&file, 24) as usize;
    let (kinds, _) = table("sections");
    let head = Fields::new("section_table", &file[index_offset..]);
    head.assert(&[("section_count", kinds.len() as u64 + 1), ("reserved", 0)], &[]);
    let size = head.bytes.len();
    let mut place = index_offset + size + (kinds.len() + 1) * 16;
    for (i, row) in kinds.iter().enumerate() {
        let entry = Fields::new("section_entry", &file[index_offset + size + i * 16..]);
        entry.assert(&[("kind", number(&row[0])), ("flags", number(&row[2]))], &["section_len"]);
        let found = section(&file, number(&row[0]) as u32).unwrap();
        assert_eq!(found, place..place + entry.get("section_len") as usize, "{}", row[1]);
        place = found.end.next_multiple_of(8);
    }
    let private = Fields::new("section_entry", &file[index_offset + size + kinds.len() * 16..]);
    private.assert(&[("kind", 0x8000_0001), ("flags", 1), ("section_len", 3)], &[]);
    assert_eq!(file[place..place + 8], [9, 9, 9, 0, 0, 0, 0, 0]);
    assert_eq!(place + 8, file.len() - 64, "the sections fill the index");
}

#[test]
fn sections_are_required_and_ancillary_as_the_text_says() {
    let empty = Builder::new().to_vec().unwrap();
    for row in table("sections").0 {
        let kind = number(&row[0]) as u32;
        let required = row[3] == "yes";
        assert_eq!(section(&empty, kind).is_some(), required, "{}: in an empty file", row[1]);
        assert_eq!(number(&row[2]) == 0, required, "{}: what is not required is ancillary", row[1]);
        // With the other flag than its own, it is refused.
        let mut file = rich().to_vec().unwrap();
        let entry = u64_at(&file, 24) as usize + 8 + (kind as usize - 1) * 16;
        assert_eq!(u32_at(&file, entry), kind);
        file[entry + 4] ^= 1;
        reseal(&mut file);
        assert_eq!(Checkpoint::from_bytes(&file).unwrap_err().rule(), Some("IDX-4"), "{}", row[1]);
    }
    // Under kinds that nobody knows, 5 to 7 are skipped, and 5 is missed.
    let mut file = rich().to_vec().unwrap();
    let entries = u64_at(&file, 24) as usize + 8;
    for kind in 5..8 {
        let entry = entries + (kind - 1) * 16;
        file[entry] = kind as u8 + 3;
        file[entry + 4] = 1;
    }
    reseal(&mut file);
    let e = Checkpoint::from_bytes(&file).unwrap_err();
    assert_eq!(e.rule(), Some("IDX-6"), "{e}");
    assert!(e.to_string().contains("blocks"), "{e}");
}

#[test]
fn the_records_of_the_index_have_their_fields_where_the_text_puts_them() {
    let file = rich().to_vec().unwrap();
    let opened = Checkpoint::from_bytes(&file).unwrap();
    let part = |kind| &file[section(&file, kind).unwrap()];
    let (names, dims, tensors, storages, blocks) = (part(1), part(2), part(3), part(4), part(5));
    assert_eq!((tensors.len(), storages.len()), (3 * table("tensor_record").1.unwrap(), 2 * 32));
    let (mut first_name_byte, mut first_dim) = (0, 0);
    for (record, tensor) in tensors.chunks(table("tensor_record").1.unwrap()).zip(opened.tensors()) {
        let tensor = tensor.unwrap();
        let strides = tensor.explicit_strides();
        let fields = Fields::new("tensor_record", record);
        fields.assert(
            &[
                ("first_name_byte", first_name_byte),
                ("first_dim", first_dim),
                ("start", tensor.start()),
                ("name_len", tensor.name().len() as u64),
                ("storage", tensor.storage().into()),
                ("dtype", tensor.dtype().code().into()),
                ("rank", tensor.shape().len() as u64),
                ("flags", strides.is_some().into()),
                ("bits", tensor.dtype().bits().into()),
            ],
            &[],
        );
        assert!(names[first_name_byte as usize..].starts_with(tensor.name().as_bytes()));
        for &dim in tensor.shape().iter().chain(strides.unwrap_or_default()) {
            assert_eq!(u64_at(dims, first_dim as usize * 8), dim);
            first_dim += 1;
        }
        first_name_byte += tensor.name().len() as u64;
    }
    assert_eq!((first_name_byte as usize, first_dim as usize * 8), (names.len(), dims.len()));
    let mut first_block = 0;
    for (number, name) in ["first", "middle"].into_iter().enumerate() {
        let tensor = opened.tensor(name).unwrap();
        let data = tensor.storage_bytes().unwrap();
        let fields = Fields::new("storage_record", &storages[number * 32..]);
        fields.assert(
            &[
                ("data_offset", tensor.file_offset().unwrap() - tensor.start()),
                ("data_len", data.len() as u64),
                ("first_block", first_block),
                ("crc32", crc32(data).into()),
                ("reserved", 0),
            ],
            &[],
        );
        for block in data.chunks(8192) {
            assert_eq!(u32_at(blocks, first_block as usize * 4), crc32(block));
            first_block += 1;
        }
    }
    assert_eq!(first_block as usize * 4, blocks.len());
}

/// The head of a CBOR item: major type and argument, in the shortest form.
fn head(major: u8, argument: u64) -> Vec<u8> {
    let major = major << 5;
    match argument {
        0..24 => vec![major | argument as u8],
        24..0x100 => vec![major | 24, argument as u8],
        0x100..0x1_0000 => [vec![major | 25], (argument as u16).to_be_bytes().to_vec()].concat(),
        0x1_0000..0x1_0000_0000 => [vec![major | 26], (argument as u32).to_be_bytes().to_vec()].concat(),
        _ => [vec![major | 27], argument.to_be_bytes().to_vec()].concat(),
    }
}

#[test]
fn each_kind_of_value_is_written_with_the_tag_of_the_text() {
    let other = {
        let mut dict = Dict::of_kind(DictKind::Counter);
        dict.push("a", 1);
        dict
    };
    let values: BTreeMap<&str, Value> = BTreeMap::from([
        ("bignum", Value::from(1u128 << 64)),
        ("negative_bignum", Value::from(-1i128 - (1i128 << 64))),
        ("shareable", Value::Shareable(Box::new(Value::List(Vec::new())))),
        ("shared_ref", Value::SharedRef(0)),
        ("complex", Value::Complex(1.0, 2.0)),
        ("tensor", Value::tensor("t")),
        ("tuple", Value::Tuple(Vec::new())),
        ("set", Value::Set(Vec::new())),
        ("frozenset", Value::FrozenSet(Vec::new())),
        ("dict", Value::from(Dict::new())),
        ("other_dict", Value::from(other)),
        ("bytearray", Value::ByteArray(vec![1])),
        ("wtf8", Value::from_wtf8(vec![0xED, 0xA0, 0x80]).unwrap()),
        ("global", Value::global("m", "n")),
        ("object", Value::from(Object::new(Global::new("m", "n")))),
    ]);
    let (rows, _) = table("tags");
    let written: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(written.len(), values.len());
    for row in &rows {
        let value = values.get(row[1].as_str()).unwrap_or_else(|| panic!("{} is not tested", row[1])).clone();
        // A reference needs something before it that it refers to.
        let before = Value::Shareable(Box::new(Value::Tuple(Vec::new())));
        let mut b = Builder::new();
        b.tensor("t", &[1u8]).unwrap();
        b.document(Value::List(vec![before, value.clone()]));
        let file = b.to_vec().unwrap();
        assert!(is_valid(&file), "{}", row[1]);
        let prefix = [
            head(4, 2),
            head(6, number(&rows.iter().find(|row| row[1] == "shareable").unwrap()[0])),
            head(6, number(&rows.iter().find(|row| row[1] == "tuple").unwrap()[0])),
            head(4, 0),
        ]
        .concat();
        let document = &file[section(&file, 7).unwrap()];
        let rest = document.strip_prefix(&prefix[..]).unwrap();
        assert!(rest.starts_with(&head(6, number(&row[0]))), "{}: {rest:02x?}", row[1]);
        let read = Checkpoint::from_bytes(&file).unwrap().document().unwrap().unwrap();
        assert_eq!(read.as_slice().unwrap()[1], value);
    }
    // A tag that is not in the table is refused, with everything else as it should be.
    let mut b = Builder::new();
    b.document(Value::Complex(1.0, 2.0));
    let mut file = b.to_vec().unwrap();
    let at = section(&file, 7).unwrap().start;
    file[at + 2] ^= 1;
    reseal(&mut file);
    assert_eq!(Checkpoint::from_bytes(&file).unwrap().document().unwrap_err().rule(), Some("VAL-2"));
}

/// The number at the beginning of a cell of the table of limits.
fn limit(what: &str) -> u64 {
    let text = text();
    let rows = rows(
        text.split_once("| what | limit | from |").map(|_| &text[text.find("| what | limit |").unwrap()..]).unwrap(),
    );
    let row = rows.iter().find(|row| row[0] == what).unwrap_or_else(|| panic!("there is no limit of {what}"));
    row[1].split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn rank_and_name_are_allowed_up_to_their_limit_and_not_beyond() {
    let (rank, name) = (limit("rank") as usize, limit("name") as usize);
    assert_eq!((rank, name), (255, dolmen::format::index::MAX_NAME_LEN));
    let file = |rank: usize, name_len: usize| {
        let mut b = Builder::new();
        let shape = vec![1u64; rank];
        b.tensor(&"n".repeat(name_len), TensorData::raw(DType::U8, shape, vec![7]).unwrap())?;
        b.to_vec()
    };
    let bytes = file(rank, name).unwrap();
    assert!(is_valid(&bytes));
    let opened = Checkpoint::from_bytes(&bytes).unwrap();
    let tensor = opened.tensor(&"n".repeat(name)).unwrap();
    assert_eq!((tensor.shape().len(), tensor.as_slice::<u8>().unwrap()), (rank, &[7u8][..]));
    assert_eq!(file(rank + 1, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file(1, name + 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    // The reader refuses it as well: the record of a file is changed to say one byte more, which the section has.
    let mut b = Builder::new();
    b.tensor(&"a".repeat(name), &[1u8]).unwrap();
    b.tensor("b", &[1u8]).unwrap();
    let mut bytes = b.to_vec().unwrap();
    let record = section(&bytes, 3).unwrap().start;
    assert_eq!(u32_at(&bytes, record + 24) as usize, name);
    bytes[record + 24..record + 28].copy_from_slice(&(name as u32 + 1).to_le_bytes());
    reseal(&mut bytes);
    assert_eq!(Checkpoint::from_bytes(&bytes).unwrap().nth(0).unwrap_err().rule(), Some("TEN-3"));
}

#[test]
fn values_nest_up_to_their_limit_and_not_beyond() {
    let depth = limit("depth of values") as usize;
    assert_eq!(depth, MAX_DEPTH);
    // Lists within a list, `depth` in all; metadata has one level more, its own map.
    let nested = |depth: usize| (1..depth).fold(Value::List(Vec::new()), |inner, _| Value::List(vec![inner]));
    with_large_stack(|| {
        let file = |document: usize, metadata: usize| {
            let mut b = Builder::new();
            b.document(nested(document));
            b.metadata("k", nested(metadata));
            b.to_vec()
        };
        let mut bytes = file(depth, depth - 1).unwrap();
        assert!(is_valid(&bytes));
        assert_eq!(file(depth + 1, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(file(1, depth).unwrap_err().kind(), ErrorKind::InvalidInput);
        // The reader refuses it as well: the innermost list gets an element, which is another list.
        let document = section(&bytes, 7).unwrap();
        assert_eq!((document.len(), bytes[document.end - 1]), (depth, 0x80));
        let padding = bytes[document.end..].iter().take_while(|byte| **byte == 0).count();
        assert_eq!(padding, 0, "the limit is a multiple of 8, so nothing pads the section");
        let mut b = Builder::new();
        b.document(Value::List(vec![nested(depth - 1), Value::Null]));
        bytes = b.to_vec().unwrap();
        let document = section(&bytes, 7).unwrap();
        assert_eq!((document.len(), bytes[document.end - 1]), (depth + 1, 0xF6));
        // Instead of [[…], null]: [[…[]]], one deeper.
        bytes[document.start] = 0x81;
        bytes[document.end - 2] = 0x81;
        bytes[document.end - 1] = 0x80;
        reseal(&mut bytes);
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap().document().unwrap_err().rule(), Some("VAL-3"));
    });
}

/// The range `a to b` that the constraint of a header's field gives.
fn range(field: &str) -> std::ops::RangeInclusive<u32> {
    let (rows, _) = table("header");
    let row = rows.iter().find(|row| row[2] == field).unwrap();
    let (from, to) = row[4].split_once(" to ").unwrap();
    from.parse().unwrap()..=to.parse().unwrap()
}

#[test]
fn alignment_and_block_length_are_allowed_within_their_ranges_and_not_beyond() {
    type Set = fn(FileOptions, u64) -> dolmen::Result<FileOptions>;
    let fields: [(&str, usize, &str, Set); 2] =
        [("alignment_log2", 44, "HDR-9", FileOptions::alignment), ("block_log2", 45, "HDR-10", FileOptions::block_len)];
    for (field, at, rule, set) in fields {
        let range = range(field);
        for log2 in 0..64 {
            let options = set(FileOptions::new(), 1 << log2);
            let mut file = Builder::new().to_vec().unwrap();
            file[at] = log2 as u8;
            reseal_header(&mut file);
            if range.contains(&log2) {
                let options = options.unwrap();
                assert!(is_valid(&file), "{field} {log2}");
                let made = Builder::with_options(options).to_vec().unwrap();
                assert_eq!(made[at], log2 as u8, "{field} {log2}");
            } else {
                assert_eq!(options.unwrap_err().kind(), ErrorKind::InvalidInput, "{field} {log2}");
                assert_eq!(Checkpoint::from_bytes(&file).unwrap_err().rule(), Some(rule), "{field} {log2}");
            }
        }
        for not_a_power in [0, 3, 65, 4095, 4097, u64::MAX] {
            assert_eq!(set(FileOptions::new(), not_a_power).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
    // Data lies where the alignment says.
    for log2 in range("alignment_log2") {
        let mut b = Builder::with_options(FileOptions::new().alignment(1 << log2).unwrap());
        b.tensor("a", &[1u8]).unwrap();
        b.tensor("b", &[1u8]).unwrap();
        let plan = b.plan().unwrap();
        let places = ["a", "b"].map(|name| plan.place(name).unwrap().start);
        assert!(places.iter().all(|place| place % (1 << log2) == 0), "{places:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_text() {
    let text = text();
    let file = Builder::new().to_vec().unwrap();
    for (field, at) in [("alignment_log2", 44), ("block_log2", 45)] {
        let mark = format!("(`{field}` ");
        let rest = &text[text.find(&mark).unwrap() + mark.len()..];
        assert_eq!(file[at], rest.split(')').next().unwrap().parse::<u8>().unwrap(), "{field}");
    }
    assert!(text.contains("The CRC-32 of the nine bytes `123456789` is `CBF43926`"));
    assert_eq!((crc32(b"123456789"), crc32(b"")), (0xCBF4_3926, 0));
}

/// The bytes that the lines `OFFSET  HEX BYTES  | note` of a text show, which must follow each other.
fn shown_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if offset.len() != 8 || !is_hex(offset) {
            continue;
        }
        let pairs = rest.split('|').next().unwrap().trim_end();
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len(), "the offset of {line:?}");
        for pair in pairs.split_ascii_whitespace() {
            assert!(pair.len() == 2 && is_hex(pair), "{pair:?} in {line:?} is no byte");
            bytes.push(u8::from_str_radix(pair, 16).unwrap());
        }
    }
    bytes
}

#[test]
fn the_annotated_hexdump_shows_the_file_that_its_program_writes() {
    let path = spec().join("hexdump.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let shown = shown_bytes(&text);
    let file = hexdump_builder().to_vec().unwrap();
    assert!(is_valid(&file));
    if let Some(at) = (0..file.len().max(shown.len())).find(|&at| file.get(at) != shown.get(at)) {
        panic!("byte {at:#x} is {:02x?} in the file and {:02x?} in the page", file.get(at), shown.get(at));
    }
}

#[test]
fn a_hexdump_is_read_back_from_its_lines() {
    let text = "```text\n00000000  89 44 | magic\nprose  in between | 00\n00000002  4f\n```\n";
    assert_eq!(shown_bytes(text), [0x89, 0x44, 0x4f]);
}

/// Prints the lines for `spec/hexdump.md`: `cargo test --test spec_tables -- --ignored --nocapture`.
#[test]
#[ignore = "prints the bytes for whoever writes spec/hexdump.md"]
fn print_the_bytes_for_the_annotated_hexdump() {
    for (line, bytes) in hexdump_builder().to_vec().unwrap().chunks(16).enumerate() {
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{:08x}  {:<47}  |", line * 16, pairs.join(" "));
    }
}

#[cfg(feature = "torch")]
mod torch {
    use super::table_of;
    use dolmen::foreign::torch::{LIST_LEN, vocabulary};

    fn text() -> String {
        std::fs::read_to_string(super::spec().join("torch.md")).unwrap()
    }

    /// The first columns of a table, without the marks of code.
    fn columns<const N: usize>(name: &str) -> Vec<[String; N]> {
        let cells = |row: Vec<String>| std::array::from_fn(|i| row[i].trim_matches('`').to_owned());
        table_of(&text(), name).0.into_iter().map(cells).collect()
    }

    #[test]
    fn the_words_for_pytorchs_tensors_are_those_of_the_code() {
        let kinds: Vec<String> = columns::<1>("as").into_iter().map(|[kind]| kind).collect();
        assert_eq!(kinds[0], "(none)");
        assert_eq!(kinds[1..], vocabulary::KINDS);
        let keys: Vec<String> = columns::<1>("attributes").into_iter().map(|[key]| key).collect();
        assert_eq!(keys, vocabulary::ATTRIBUTES);
        assert!(text().contains(&format!("A list of {LIST_LEN} or more Python numbers")));
    }

    #[test]
    fn the_dtypes_of_pytorch_and_numpy_are_those_of_the_code() {
        let known: Vec<[String; 4]> = vocabulary::DTYPES
            .iter()
            .map(|dtype| {
                let attribute = if dtype.needs_attribute { "yes" } else { "" };
                [dtype.name, &dtype.dtype.name(), dtype.storage.unwrap_or(""), attribute].map(str::to_owned)
            })
            .collect();
        assert_eq!(columns::<4>("dtypes"), known);
        let known: Vec<[String; 2]> = vocabulary::NUMPY_DTYPES
            .iter()
            .map(|(name, dtype)| [(*name).to_owned(), dtype.name().into_owned()])
            .collect();
        assert_eq!(columns::<2>("numpy"), known);
    }
}

/// `spec/lifecycle.md` against what is written and said.
#[cfg(feature = "lifecycle")]
mod lifecycle {
    use super::{spec, table_of};
    use dolmen::lifecycle::{
        CheckpointError, CheckpointErrorKind, CheckpointInfo, Level, Pipeline, ResumeOptions, Save, Stage, StageStatus,
    };
    use dolmen::{Builder, Checkpoint};
    use serde_json::Value as Json;

    fn rows(name: &str) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(spec().join("lifecycle.md")).unwrap();
        table_of(&text, name).0
    }

    fn first_cells(name: &str) -> Vec<String> {
        rows(name).into_iter().map(|mut row| row.remove(0)).collect()
    }

    #[test]
    fn levels_and_kinds_are_those_of_the_text() {
        let levels = Level::ALL;
        assert!(levels.is_sorted());
        assert_eq!(first_cells("levels"), levels.map(Level::name));
        use CheckpointErrorKind::{Corrupted, Incompatible, Unreadable};
        let kinds = [Corrupted, Incompatible, Unreadable].map(|kind| {
            let code = CheckpointError::new("x", kind, "").exit_code();
            (kind.name().to_owned(), code.to_string())
        });
        let told: Vec<(String, String)> =
            rows("kinds").into_iter().map(|row| (row[0].clone(), row[2].clone())).collect();
        assert_eq!(told, kinds);
    }

    #[test]
    fn a_save_says_the_keys_of_the_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.dolmen");
        Save::new().save(&Builder::new(), &path).unwrap();
        let metadata = Checkpoint::open(&path).unwrap().metadata().unwrap();
        let mut told = first_cells("content keys");
        told.sort();
        assert_eq!(metadata.keys().cloned().collect::<Vec<_>>(), told);
        assert_eq!(metadata["version"].as_str(), Some("1.0"));
        assert_eq!(metadata["status"].as_str(), Some("complete"));
        let absent = rows("content keys").into_iter().find(|row| row[0] == "version").unwrap();
        let mut b = Builder::new();
        b.tensor("t", &[1u8]).unwrap();
        b.save(&path).unwrap();
        assert_eq!(absent[2], format!("`{}`", CheckpointInfo::of(&path).version));
    }

    /// The state of a pipeline of which one stage is complete, one failed and one has not begun.
    fn state() -> Json {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("in"), "x").unwrap();
        let pipeline = Pipeline::new(directory.path())
            .config("length", 500)
            .stage(Stage::new("A").input("in").checkpoint("a.dolmen").output("a.txt"))
            .stage(Stage::new("B").input("a.txt"))
            .stage(Stage::new("C"));
        let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
        let stage = run.begin_next().unwrap().unwrap();
        Save::new().save(&Builder::new(), stage.path("a.dolmen")).unwrap();
        std::fs::write(stage.path("a.txt"), "y").unwrap();
        run.complete(stage).unwrap();
        let stage = run.begin_next().unwrap().unwrap();
        run.fail(stage, &"no reason").unwrap();
        drop(run);
        serde_json::from_slice(&std::fs::read(directory.path().join("pipeline_state.json")).unwrap()).unwrap()
    }

    fn keys(json: &Json) -> Vec<String> {
        json.as_object().unwrap().keys().cloned().collect()
    }

    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn a_state_file_has_the_keys_of_the_text() {
        let state = state();
        let config = keys(&state["pipeline_config"]).into_iter().map(|key| format!("pipeline_config.{key}"));
        let found = keys(&state).into_iter().filter(|key| key != "pipeline_config").chain(config);
        assert_eq!(sorted(found.collect()), sorted(first_cells("state")));
        let stages = ["A", "B", "C"].map(|name| &state["stages"][name]);
        let found = stages.iter().flat_map(|stage| keys(stage));
        assert_eq!(sorted(found.collect()), sorted(first_cells("stage")));
        let fingerprints = &stages[0]["fingerprints"];
        assert_eq!(sorted(keys(fingerprints)), ["completed_at", "inputs", "outputs"]);
        assert_eq!(fingerprints["completed_at"], stages[0]["completed_at"]);
        let outputs = fingerprints["outputs"].as_object().unwrap();
        let found = outputs.values().flat_map(keys);
        assert_eq!(sorted(found.collect()), sorted(first_cells("fingerprint")));
        let of: Vec<&Json> = outputs.values().map(|file| &file["crc32_of"]).collect();
        assert_eq!(of, ["header", "content"]);
        let statuses = [StageStatus::NotStarted, StageStatus::InProgress, StageStatus::Completed, StageStatus::Failed];
        assert_eq!(first_cells("statuses"), statuses.map(StageStatus::name));
    }
}

/// `spec/features.md` against what is written.
#[cfg(feature = "feature")]
mod features {
    use super::{spec, table_of};
    use dolmen::feature::{MAX_FILES, TableFile, TableWriter, TableWriterOptions};
    use dolmen::format::value::{LIST_LEN, TensorRef, Value};
    use dolmen::{Checkpoint, DType, Durability, SaveOptions};

    fn text() -> String {
        std::fs::read_to_string(spec().join("features.md")).unwrap()
    }

    fn rows(name: &str) -> Vec<Vec<String>> {
        table_of(&text(), name).0
    }

    /// A table of so many rows in files of 64.
    fn table(directory: &std::path::Path, prefix: &str, rows: usize, labels: bool) -> Vec<TableFile> {
        let save = SaveOptions::new().durability(Durability::None);
        let options = TableWriterOptions::new(DType::F32, [3]).unwrap().rows_per_file(64).labels(labels).save(save);
        let mut w = TableWriter::create(directory.join(prefix), &options).unwrap();
        let (ids, data) = (vec!["a"; rows], vec![0u8; rows * 12]);
        match labels {
            true => w.append_bytes_labelled(&ids, &data, &vec![1; rows]).unwrap(),
            false => w.append_bytes(&ids, &data).unwrap(),
        }
        w.finish().unwrap()
    }

    #[test]
    fn a_table_has_the_keys_of_the_text_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let keys = rows("feature keys");
        for labels in [false, true] {
            let written = table(directory.path(), &format!("labels_{labels}"), 65, labels);
            let told = keys.iter().filter(|row| labels || row[2] == "yes").map(|row| row[0].as_str());
            for file in &written {
                let opened = Checkpoint::open(&file.path).unwrap();
                let Some(Value::Dict(document)) = opened.document().unwrap() else { panic!("no dictionary") };
                let found: Vec<&str> = document.entries.iter().map(|(key, _)| key.as_str().unwrap()).collect();
                assert_eq!(found, told.clone().collect::<Vec<_>>());
                assert_eq!(opened.tensor("data").unwrap().shape(), [file.rows, 3]);
                assert_eq!(document.get("data"), Some(&TensorRef::new("data").into()));
                assert_eq!(document.get("ids").unwrap().as_slice().unwrap().len() as u64, file.rows);
                let found = document.get("labels").cloned();
                let told = match file.rows {
                    1 => Value::from_iter([1]),
                    _ => TensorRef::list("labels").into(),
                };
                assert_eq!(found, labels.then_some(told));
            }
        }
        assert!(text().contains(&format!("A list of {LIST_LEN} or more labels is a tensor `i64`")));
    }

    #[test]
    fn the_files_of_a_table_have_the_names_of_the_text() {
        let directory = tempfile::tempdir().unwrap();
        let rows = rows("feature files");
        let [row] = &rows[..] else { panic!("{rows:?}") };
        let (pattern, numbers) = (&row[0], &row[1]);
        let (before, after) = pattern.trim_matches('`').split_once("NNNNN").unwrap();
        let prefix = before.strip_prefix("PREFIX").unwrap();
        let written = table(directory.path(), "part", 200, false);
        for (number, file) in written.iter().enumerate() {
            assert_eq!(file.path.file_name().unwrap(), format!("part{prefix}{number:05}{after}").as_str());
        }
        assert_eq!(written.len(), 4);
        let (least, rest) = numbers.split_once(" to ").unwrap();
        assert_eq!((least, &rest[..5]), ("00000", format!("{:05}", MAX_FILES - 1).as_str()));
    }
}
