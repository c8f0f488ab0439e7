//! PyTorch's checkpoints: whatever the bytes, no panic, bounded memory; and what opens can be converted, and is then the same.

use dolmen::foreign::torch::{ExportOptions, scan, write};
use dolmen::{Builder, Checkpoint, Error, ErrorKind, Limits};

use super::dice::Random;
use super::heap;
use super::open::{self, FIXED, GUEST, Outcome};
use super::seal::Mutate;
use super::{pickles, work};

#[path = "../../tests/common/hostile_torch.rs"]
pub mod build;

use build::{Entry, Pickle, Zip};

/// Peak memory per byte of a file while it is opened; see `tests/torch_hostile.rs`.
pub const PER_BYTE: u64 = 256;
/// The same if its pickle may be compressed.
pub const PER_COMPRESSED_BYTE: u64 = 8 * PER_BYTE;
/// Bytes that are converted for one input: compressed ones may become a thousand times as many as they are.
const CONVERTED: u64 = 8 << 20;

/// What must hold of every checkpoint whose data is as it should be.
const CHECKS: [fn(&Checkpoint); 2] = [check_conversion, check_export];

/// Bytes as they come.
pub fn torch_zip(data: &[u8]) -> Outcome {
    check(data)
}

/// A pickle: the first byte says what it is put into, the rest is its bytes.
pub fn torch_pickle(data: &[u8]) -> Outcome {
    let Some((&which, pickle)) = data.split_first() else { return Outcome::Refused("empty") };
    check(&around(which, pickle))
}

/// Storages of 64, 16 and no bytes.
fn storages() -> [(&'static str, Vec<u8>); 3] {
    [("0", (0..16u32).flat_map(|n| (n as f32).to_le_bytes()).collect()), ("1", vec![1; 16]), ("2", Vec::new())]
}

/// A sound file around a pickle.
pub fn around(which: u8, pickle: &[u8]) -> Vec<u8> {
    let storages = storages();
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, data)| (*key, &data[..])).collect();
    if which % 16 == 8 {
        return tar_around(pickle);
    }
    let mut entries = build::records(pickle, &storages);
    match which % 8 {
        1 => entries[1] = Entry::new("archive/byteorder", b"big"),
        2 => entries[0] = Entry::deflated("archive/data.pkl", pickle),
        3 => {
            entries[0] = Entry::new("archive/data.pkl", b"\x80\x02N.");
            entries.push(Entry::new("archive/constants.pkl", pickle));
            entries.extend(storages.iter().map(|(key, data)| Entry::new(&format!("archive/constants/{key}"), data)));
        }
        4 => return build::torch_archive(pickle, &storages),
        5 => return build::legacy(pickle, &["0"], &build::legacy_storage(16, storages[0].1)),
        6 => return build::legacy(pickle, &[], b""),
        7 => {
            for entry in &mut entries[2..5] {
                let name = String::from_utf8(entry.local.name.clone()).expect("it was text");
                *entry = Entry::deflated(&name, &entry.stored);
            }
        }
        _ => {}
    }
    Zip::new(entries).build()
}

/// An archive of before version 0.1.10 around a pickle: tensors 10 and 11 over the storages 20, 21 and 22, the last of which is a view.
fn tar_around(pickle: &[u8]) -> Vec<u8> {
    let described = |id: i64, storage: i64, shape: &[i64], strides: &[i64], offset: i64| {
        let mut out = Pickle::new().op(b"(").int(id).int(storage).global("torch", "FloatTensor").op(b"t").stop();
        out.extend((shape.len() as i32).to_le_bytes());
        out.extend([0; 4]);
        shape.iter().chain(strides).chain(&[offset]).for_each(|number| out.extend(number.to_le_bytes()));
        out
    };
    let tensors =
        [Pickle::new().int(2).stop(), described(10, 20, &[2, 3], &[3, 1], 1), described(11, 22, &[4], &[1], 0)];
    let stored = |id: i64, class: &str, data: &[u8], count: i64| {
        let head = Pickle::new().op(b"(").int(id).text("cpu").global("torch", class).op(b"t").stop();
        [head, build::legacy_storage(count, data)].concat()
    };
    let [floats, bytes, _] = storages();
    let storages = [
        Pickle::new().int(2).stop(),
        stored(20, "FloatStorage", &floats.1, 16),
        stored(21, "ByteStorage", &bytes.1, 16),
        Pickle::new().op(b"]((").int(22).int(20).int(2).int(4).op(b"te").stop(),
    ];
    let members = [("sys_info", vec![b'N', b'.']), ("pickle", pickle.to_vec()), ("tensors", tensors.concat())];
    let members = members.into_iter().chain([("storages", storages.concat())]);
    tar(&members.map(|(name, content)| Member { name: name.into(), kind: b'0', content }).collect::<Vec<_>>())
}

/// A member of a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: Vec<u8>,
    pub kind: u8,
    pub content: Vec<u8>,
}

/// A tar archive, in which every checksum is right.
pub fn tar(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let mut header = [0; 512];
        let name_len = member.name.len().min(100);
        header[..name_len].copy_from_slice(&member.name[..name_len]);
        header[124..135].copy_from_slice(format!("{:011o}", member.content.len()).as_bytes());
        header[156] = member.kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&member.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A tar archive taken apart, as far as it is one.
pub fn untar(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut rest = bytes;
    while let Some((header, after)) =
        rest.split_at_checked(512).filter(|(header, _)| header[257..].starts_with(b"ustar"))
    {
        let digits = std::str::from_utf8(&header[124..135]).ok()?.trim_matches(['\0', ' ']);
        let content = after.get(..usize::from_str_radix(digits, 8).ok()?)?;
        let name = header[..100].split(|&byte| byte == 0).next()?.to_vec();
        members.push(Member { name, kind: header[156], content: content.to_vec() });
        rest = after.get(content.len().next_multiple_of(512)..)?;
    }
    (!members.is_empty()).then_some(members)
}

/// What the files of before version 1.6 begin with.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";

/// What its pickles name is told of any file, and of one that opens it is what its document names and more.
fn check_scan(data: &[u8], opened: Option<&Checkpoint>) {
    let scan = work::bounded("scanning", GUEST, data.len() as u64, || scan(&data.to_vec(), &Limits::NONE));
    match scan {
        Ok(scan) => {
            assert!(scan.globals.iter().all(|global| !global.path().is_empty() && !global.verdict.name().is_empty()));
            assert!(scan.dangerous().count() <= scan.globals.len());
        }
        Err(e) => {
            check_error(&e);
            assert!(opened.is_none_or(|opened| opened.format() != "torch"), "it opens, and cannot be scanned: {e}");
        }
    }
}

fn check(data: &[u8]) -> Outcome {
    if open::is_chosen(data, 4) {
        check_scan(data, Checkpoint::from_bytes(data).ok().as_ref());
    }
    let (opened, peak) = heap::peak(|| open::opened(data));
    let per_byte = if has_compressed(data) { PER_COMPRESSED_BYTE } else { PER_BYTE };
    let allowed = FIXED + per_byte * data.len() as u64;
    assert!(peak <= allowed, "{peak} bytes were in use at a time for a file of {}; {allowed} are allowed", data.len());
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) => {
            check_error(&e);
            let outcome = Outcome::Refused(e.rule().unwrap_or(e.kind().name()));
            if open::is_chosen(data, 64) {
                open::other_ways(data, outcome);
            }
            return outcome;
        }
    };
    if opened.format() != "torch" {
        return Outcome::Opened("another format");
    }
    let report = open::verified(&opened, data);
    let outcome = open::check_report(&report);
    let fault = open::touch(&opened);
    if let (Outcome::Valid, Some(fault)) = (outcome, &fault) {
        panic!("nothing is wrong with it, and it cannot be read: {fault}");
    }
    let len: u64 = opened.tensors().filter_map(|tensor| tensor.ok()?.storage_len().ok()).fold(0, u64::saturating_add);
    if len <= CONVERTED {
        if outcome == Outcome::Valid {
            CHECKS.iter().for_each(|check| check(&opened));
            #[cfg(feature = "npy")]
            if open::is_chosen(data, 16) {
                super::exports(&opened, data);
            }
        } else {
            // Damage in what no tensor lies in, such as a program of TorchScript, is told and does no harm; that of a storage whose tensors
            // have no elements is in nobody's bytes, and in the way of a copy nevertheless.
            let mut builder = Builder::new();
            let copied = builder.checkpoint(&opened).and_then(|builder| builder.to_vec());
            assert!(copied.is_err() || report.damaged.is_empty(), "what is damaged was copied");
            if let Err(e) = copied {
                assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Malformed), "{e}");
            }
        }
        if open::is_chosen(data, 64) {
            open::other_ways(data, outcome);
        }
    }
    outcome
}

/// Whether some entry of a directory, wherever it is, says that it is compressed.
fn has_compressed(data: &[u8]) -> bool {
    data.windows(12).any(|entry| entry.starts_with(b"PK\x01\x02") && entry[10..] == [8, 0])
}

/// An error that a file may cause, whatever is in it.
fn check_error(e: &Error) {
    let of_the_file = e.is_corruption() || e.is_incompatible() || e.kind() == ErrorKind::Limit;
    assert!(of_the_file, "not an error of a file: {e:?}");
    assert!(e.to_string().len() < 20_000, "a message of {} bytes", e.to_string().len());
}

/// A Dolmen file of it is valid, and holds the same.
fn check_conversion(checkpoint: &Checkpoint) {
    let mut builder = Builder::new();
    builder.checkpoint(checkpoint).expect("it is valid");
    let copy = builder.to_vec().unwrap_or_else(|e| panic!("it cannot be converted: {e}"));
    let copy = Checkpoint::from_bytes(&copy).expect("a writer writes valid files");
    assert!(copy.verify_with(&open::options()).expect("memory can be read").is_valid());
    assert_eq!((checkpoint.len(), checkpoint.storage_count()), (copy.len(), copy.storage_count()));
    for (one, other) in checkpoint.tensors().zip(copy.tensors()) {
        let (one, other) = (one.expect("valid"), other.expect("valid"));
        assert_eq!((one.name(), one.dtype(), one.shape()), (other.name(), other.dtype(), other.shape()));
        assert_eq!((one.explicit_strides(), one.start()), (other.explicit_strides(), other.start()));
        assert_eq!(one.bytes().expect("valid"), other.bytes().expect("valid"));
    }
    assert_eq!(checkpoint.document().expect("valid"), copy.document().expect("valid"));
}

/// Written for PyTorch and read again it is the same, and so is the Dolmen file made of it; or it cannot be written, which is told.
fn check_export(checkpoint: &Checkpoint) {
    let mut bytes = Vec::new();
    let notes = match write(checkpoint, &mut bytes, ExportOptions::new()) {
        Ok(notes) => notes.to_string(),
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Limit), "not for want of words: {e:?}");
            return;
        }
    };
    let back = Checkpoint::from_bytes(&bytes).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    // Constants of a script, and parts of storages, are not held by such files.
    if notes.contains("left out") || notes.contains("one of its own") {
        return;
    }
    assert_eq!(checkpoint.document().expect("valid"), back.document().expect("valid"));
    let dolmen = |checkpoint: &Checkpoint| {
        let mut builder = Builder::new();
        builder.checkpoint(checkpoint).expect("it is valid").to_vec().expect("it can be converted")
    };
    assert!(dolmen(checkpoint) == dolmen(&back), "the second Dolmen file is not the first");
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// An archive taken apart, as far as it is one: what the mutator changes.
pub fn parse(bytes: &[u8]) -> Option<Zip> {
    let end = bytes.windows(22).rposition(|end| end.starts_with(b"PK\x05\x06"))?;
    let mut zip = Zip { comment: bytes[end + 22..].to_vec(), ..Zip::default() };
    zip.zip64 = end.checked_sub(20).is_some_and(|at| bytes[at..].starts_with(b"PK\x06\x07"));
    let mut at = u32_at(bytes, end + 16)?;
    while bytes.get(at..)?.starts_with(b"PK\x01\x02") {
        let lens = [28, 30, 32].map(|field| u16_at(bytes, at + field));
        let [Some(name_len), Some(extra_len), Some(comment_len)] = lens else { return None };
        let name = bytes.get(at + 46..at + 46 + name_len)?;
        let local = u32_at(bytes, at + 42)?;
        let data = local + 30 + u16_at(bytes, local + 26)? + u16_at(bytes, local + 28)?;
        let stored = bytes.get(data..data.checked_add(u32_at(bytes, at + 20)?)?)?;
        let method = u16_at(bytes, at + 10)? as u16;
        let content = if method == build::DEFLATED { inflate(stored)? } else { stored.to_vec() };
        let mut entry = Entry::with(std::str::from_utf8(name).ok()?, &content, stored.to_vec(), method);
        entry.central.extra = bytes.get(at + 46 + name_len..at + 46 + name_len + extra_len)?.to_vec();
        entry.local.extra = bytes.get(data - u16_at(bytes, local + 28)?..data)?.to_vec();
        if u16_at(bytes, at + 8)? as u16 & build::DESCRIPTOR != 0 {
            entry.described();
        }
        zip.entries.push(entry);
        at += 46 + name_len + extra_len + comment_len;
    }
    Some(zip)
}

fn inflate(stored: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    flate2::read::DeflateDecoder::new(stored).take(1 << 16).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Gives a record another content, and everything that says how long and what it is.
pub fn set_content(entry: &mut Entry, content: &[u8], method: u16) {
    let name = String::from_utf8_lossy(&entry.central.name).into_owned();
    let stored = if method == build::DEFLATED { build::deflate(content) } else { content.to_vec() };
    let mut new = Entry::with(&name, content, stored, method);
    (new.local.extra, new.central.extra) = (entry.local.extra.clone(), entry.central.extra.clone());
    if entry.central.flags & build::DESCRIPTOR != 0 {
        new.described();
    }
    *entry = new;
}

pub fn content_of(entry: &Entry) -> Vec<u8> {
    if entry.central.method == build::DEFLATED {
        inflate(&entry.stored).unwrap_or_default()
    } else {
        entry.stored.clone()
    }
}

/// Pieces of pickles, for the mutator: what is worth putting anywhere.
const PIECES: [&[u8]; 40] = [
    b"]",
    b"}",
    b")",
    b"(",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"\x81",
    b"\x92",
    b"\x93",
    b"Q",
    b"0",
    b"1",
    b"2",
    b"N",
    b"\x88",
    b"K\x00",
    b"K\x01",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"X\x01\0\0\0a",
    b"C\x02ab",
    b"\x8a\x01\xFF",
    b"G\x3F\xF0\0\0\0\0\0\0",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ",
];

/// Changes an archive in one part, and makes everything around it right again; one in sixteen is left wrong.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    let zip = if random.one_in(16) { None } else { parse(&data[..size]) };
    let Some(mut zip) = zip.filter(|zip| !zip.entries.is_empty()) else {
        return mutate_older(data, size, max_size, &mut random, mutate);
    };
    let at = if random.one_in(2) { 0 } else { random.below(zip.entries.len()) };
    let count = zip.entries.len();
    match random.below(16) {
        0..6 => change_content(&mut zip.entries[at], &mut random, mutate),
        6 => {
            let mut copy = zip.entries[at].clone();
            let name =
                random.pick(&["archive/data/0", "archive/data/1", "archive/constants.pkl", "archive/constants/0", "x"]);
            (copy.local.name, copy.central.name) = (name.into(), name.into());
            zip.entries.insert(random.below(count + 1), copy);
        }
        7 => drop(zip.entries.remove(at)),
        8 => zip.entries.swap(at, random.below(count)),
        9 => {
            let content = content_of(&zip.entries[at]);
            let method = if zip.entries[at].central.method == 0 { build::DEFLATED } else { build::STORED };
            set_content(&mut zip.entries[at], &content, method);
        }
        10 => zip.entries[at].described(),
        11 => {
            let extras = [
                build::padding(random.below(70)),
                build::zip64(&[random.interesting(), 16]),
                vec![1, 2, 3],
                Vec::new(),
            ];
            let extra = extras[random.below(4)].clone();
            if random.one_in(2) {
                zip.entries[at].local.extra = extra;
            } else {
                zip.entries[at].central.extra = extra;
            }
        }
        12 => zip.zip64 = !zip.zip64,
        13 => zip.comment = (0..random.below(30)).map(|_| random.u64() as u8).collect(),
        14 => {
            let word = random.pick(&[&b"big"[..], b"little", b"3\n", b"11", b""]);
            let method = zip.entries[at].central.method;
            set_content(&mut zip.entries[at], word, method);
        }
        _ => zip.entries[at].gap = vec![b'P'; random.below(5)],
    }
    let wrong = random.one_in(16);
    if wrong && !zip.entries.is_empty() {
        let at = random.below(zip.entries.len());
        spoil(&mut zip.entries[at], &mut random);
    }
    let mut out = zip.build();
    if wrong && random.one_in(2) {
        // The end records, and the directory.
        let from = out.len() - random.below(out.len().min(200)) - 1;
        out[from] ^= 1 << random.below(8);
    }
    if out.len() > max_size {
        return mutate(data, size, max_size);
    }
    data[..out.len()].copy_from_slice(&out);
    out.len()
}

/// Changes what is no ZIP archive: a tar archive in one member, a file of before version 1.6 in its pickles.
fn mutate_older(data: &mut [u8], size: usize, max_size: usize, random: &mut Random, mutate: &mut Mutate<'_>) -> usize {
    let bytes = &data[..size];
    let out = if random.one_in(16) {
        None
    } else if let Some(mut members) = untar(bytes) {
        let at = random.below(members.len());
        match random.below(16) {
            0 => drop(members.remove(at)),
            1 => members.swap(0, at),
            2 => {
                let copy = members[at].clone();
                members.insert(at, copy);
            }
            3 => members[at].kind = random.pick(b"0\0xg257"),
            4 => mutate_vec(&mut members[at].name, mutate),
            5 => {
                let content =
                    random.pick(&[&b"11 size=12\n"[..], b"20 mtime=1484000.12\n", b"9 path=a\n", b"x"]).to_vec();
                members.insert(at, Member { name: b"././@PaxHeader".to_vec(), kind: b'x', content });
            }
            _ => pickles::change(&mut members[at].content, random, mutate),
        }
        Some(tar(&members))
    } else if bytes.starts_with(LEGACY_MAGIC) {
        // The magic number is the first of its pickles.
        let keep = if random.one_in(16) { 0 } else { LEGACY_MAGIC.len() };
        let mut rest = bytes[keep..].to_vec();
        pickles::change(&mut rest, random, mutate);
        Some([&bytes[..keep], &rest].concat())
    } else {
        None
    };
    match out.filter(|out| out.len() <= max_size) {
        Some(out) => {
            data[..out.len()].copy_from_slice(&out);
            out.len()
        }
        None => mutate(data, size, max_size),
    }
}

/// The mutation of the target `torch_pickle`.
pub fn mutate_pickle(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    if size < 3 || random.one_in(16) {
        return mutate(data, size, max_size);
    }
    let mut pickle = data[1..size].to_vec();
    if random.one_in(16) {
        data[0] = random.below(16) as u8;
    }
    pickles::change(&mut pickle, &mut random, mutate);
    if pickle.len() >= max_size {
        return mutate(data, size, max_size);
    }
    data[1..1 + pickle.len()].copy_from_slice(&pickle);
    1 + pickle.len()
}

fn mutate_vec(bytes: &mut Vec<u8>, mutate: &mut Mutate<'_>) {
    let len = bytes.len();
    bytes.resize(len + 64, 0);
    let new = mutate(bytes, len, len + 64);
    bytes.truncate(new);
}

fn change_content(entry: &mut Entry, random: &mut Random, mutate: &mut Mutate<'_>) {
    let mut content = content_of(entry);
    let len = content.len();
    let is_pickle = content.first() == Some(&0x80) || entry.central.name.ends_with(b".pkl");
    match random.below(4) {
        _ if is_pickle && !random.one_in(6) => pickles::change(&mut content, random, mutate),
        0 => {
            let piece = PIECES[random.below(PIECES.len())];
            let at = random.below(len + 1);
            content.splice(at..at, piece.iter().copied());
        }
        1 if len > 0 => {
            let (from, to) = (random.below(len), random.below(len));
            let piece: Vec<u8> = content[from.min(to)..from.max(to)].iter().copied().take(200).collect();
            let at = random.below(len + 1);
            content.splice(at..at, piece);
        }
        _ => mutate_vec(&mut content, mutate),
    }
    let method = entry.central.method;
    set_content(entry, &content, method);
}

/// Makes one thing that a record says of itself wrong.
fn spoil(entry: &mut Entry, random: &mut Random) {
    let number = random.interesting() as u32;
    let header = if random.one_in(2) { &mut entry.local } else { &mut entry.central };
    match random.below(9) {
        0 => header.crc32 = number,
        1 => header.len = number,
        2 => header.stored_len = number,
        3 => header.flags ^= 1 << random.below(16),
        4 => header.method = random.below(16) as u16,
        5 => header.name.push(b'x'),
        6 => entry.header_offset = Some(number),
        7 => entry.descriptor = build::descriptor(random.one_in(2), number, number, number),
        _ => entry.disk = number as u16,
    }
}

/// Small files that reach far: what the seeds are made of.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let new = Pickle::new;
    let float = |p: Pickle| p.tensor("0", 16, 2, &[2, 3], &[3, 1]);
    let array = new().global("numpy.core.multiarray", "_reconstruct").op(b"(").global("numpy", "ndarray").ints(&[0]);
    let array =
        array.op(b"C\x01btR(K\x01").ints(&[2]).global("numpy", "dtype").op(b"(").text("f4").op(b"\x89\x88tR(K\x03");
    let array =
        array.text(">").op(b"NNNJ\xFF\xFF\xFF\xFFJ\xFF\xFF\xFF\xFFK\x00tb\x89C\x08\0\0\x80\x3F\0\0\0\x40tb").stop();
    let encoded = new().global("_codecs", "encode").op(b"(").text("a\u{e9}").text("latin1").op(b"tR").stop();
    let module = new().global("m", "Model").op(b")\x81}(").text("_parameters").op(b"}").text("w");
    let module = float(module).op(b"s").text("_buffers").op(b"}").text("_modules").op(b"}ub").stop();
    let cyclic = new().op(b"]q\x00(h\x00h\x00K\x01e").stop();
    let parameter =
        float(new().global("torch._utils", "_rebuild_parameter").op(b"(")).bool(true).hooks().op(b"tR").stop();
    let v3 = new().global("torch._utils", "_rebuild_tensor_v3").op(b"(").storage("UntypedStorage", "1", 16).int(0);
    let v3 = v3
        .ints(&[8])
        .ints(&[1])
        .bool(false)
        .hooks()
        .global("torch", "uint16")
        .op(b"}")
        .text("conj")
        .op(b"\x88stR")
        .stop();
    let text = b"(lp0\nI01\naL123L\naF1.5\naS'a\\x41'\naVb\\u20ac\naccollections\nOrderedDict\na(im\nC\na.".to_vec();
    let counters = new().global("collections", "Counter").op(b"}K\x01K\x02s\x85R").stop();
    let sets = Pickle::of_protocol(4).op(b"\x8f(K\x01\x90(K\x01K\x02\x91\x86cbuiltins\nset\n](K\x01e\x85R\x86").stop();
    let list = new().op(b"](").ops(b"G\x3F\xF0\0\0\0\0\0\0", 70).op(b"e").stop();
    let view = new().op(b"(").text("storage").global("torch", "FloatStorage").text("0").text("cuda:0").int(16);
    let view = view.op(b"(").text("v").op(b"K\x04K\x08ttQ").stop();
    let script = new().op(b"\x82\x01").stop();
    let tar = new().op(b"}(").text("w").op(b"U\x0210Q").text("v").int(11).op(b"Q").text("s").op(b"P22\nu").stop();
    let state_dict = float(new().hooks().op(b"(").text("w")).op(b"u}").text("_metadata").op(b"}sb").stop();
    let pickles = [
        ("tensor", 0, float(new()).stop()),
        ("state-dict", 4, state_dict),
        ("parameter", 0, parameter),
        ("untyped", 1, v3),
        ("array", 0, array),
        ("bytes", 2, encoded),
        ("module", 7, module),
        ("cyclic", 0, cyclic),
        ("protocol-0", 6, text),
        ("counter", 0, counters),
        ("sets", 0, sets),
        ("list", 3, list),
        ("view", 5, view),
        ("extension", 2, script),
        ("legacy-tensor", 5, float(new()).stop()),
        ("tar", 8, tar),
    ];
    let mut seeds = Vec::new();
    for (name, which, pickle) in pickles {
        seeds.push(("torch_zip", name, around(which, &pickle)));
        seeds.push(("torch_pickle", name, [&[which][..], &pickle].concat()));
    }
    seeds
}
