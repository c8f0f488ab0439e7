//! The layout of a file as `spec/format.md` has it, written down a second time: a tolerant decoder, an encoder, a re-sealer that
//! makes every checksum right again, and mutations that know what they change. It shares no code with the crate.

use super::dice::Random;

pub const MAGIC: &[u8; 8] = b"\x89DOLMEN\n";
const RECORD_MAGIC: &[u8; 8] = b"DOLMREC\n";
/// Dtype codes and their bits.
#[rustfmt::skip]
pub const DTYPES: [(u16, u32); 29] = [
    (0x01, 8), (0x10, 8), (0x11, 16), (0x12, 32), (0x13, 64), (0x20, 8), (0x21, 16), (0x22, 32), (0x23, 64), (0x30, 16),
    (0x31, 16), (0x32, 32), (0x33, 64), (0x40, 32), (0x41, 64), (0x42, 128), (0x50, 8), (0x51, 8), (0x52, 8), (0x53, 8),
    (0x54, 8), (0x60, 8), (0x61, 4), (0x62, 6), (0x63, 6), (0x70, 1), (0x71, 2), (0x72, 4), (0x79, 4),
];

fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// What a file holds, before it is laid out.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub minor: u16,
    pub alignment_log2: u8,
    pub block_log2: u8,
    pub storages: Vec<Vec<u8>>,
    /// In the order of their records.
    pub tensors: Vec<Tensor>,
    /// Kind, flags, bytes: what the index has besides the five required sections.
    pub sections: Vec<(u32, u32, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub dtype: u16,
    pub bits: u32,
    pub flags: u8,
    pub shape: Vec<u64>,
    pub strides: Option<Vec<u64>>,
    pub storage: u32,
    pub start: u64,
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    get(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    get(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    get(bytes, at).map(u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(old) = at.checked_add(new.len()).and_then(|end| bytes.get_mut(at..end)) {
        old.copy_from_slice(new);
    }
}

fn part(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(usize::try_from(len).ok()?)?)
}

/// Where things lie in a file, as far as that can be told: offsets from its start.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub index: std::ops::Range<usize>,
    /// Kind, flags, and place of each section.
    pub sections: Vec<(u32, u32, std::ops::Range<usize>)>,
    /// Where descriptors begin, and their lengths.
    pub descriptors: Vec<std::ops::Range<usize>>,
}

impl Places {
    pub fn section(&self, kind: u32) -> std::ops::Range<usize> {
        self.sections.iter().find(|section| section.0 == kind).map_or(0..0, |section| section.2.clone())
    }
}

fn round_up(x: usize, to: usize) -> Option<usize> {
    x.checked_next_multiple_of(to)
}

/// Finds the parts of a file. Nonsense ends the search and is no error.
pub fn places(bytes: &[u8]) -> Places {
    let mut places = Places::default();
    let _ = find_index(bytes, &mut places);
    let _ = find_descriptors(bytes, &mut places);
    places
}

fn find_index(bytes: &[u8], places: &mut Places) -> Option<()> {
    let offset = usize::try_from(u64_at(bytes, 24)?).ok()?;
    let end = offset.checked_add(usize::try_from(u64_at(bytes, 32)?).ok()?)?;
    bytes.get(offset..end)?;
    places.index = offset..end;
    let count = u32_at(bytes, offset)? as usize;
    let mut at = offset.checked_add(count.checked_mul(16)?.checked_add(8)?)?;
    for i in 0..count.min(64) {
        let entry = offset + 8 + 16 * i;
        let len = usize::try_from(u64_at(bytes, entry + 8)?).ok()?;
        let stop = at.checked_add(len).filter(|&stop| stop <= end)?;
        places.sections.push((u32_at(bytes, entry)?, u32_at(bytes, entry + 4)?, at..stop));
        at = offset + round_up(stop - offset, 8)?;
    }
    Some(())
}

fn find_descriptors(bytes: &[u8], places: &mut Places) -> Option<()> {
    let alignment = 1usize << bytes.get(44)?.min(&21);
    let mut at = 64;
    while places.descriptors.len() < 4096 {
        if bytes.get(at..at + 8)? != RECORD_MAGIC {
            return None;
        }
        let len = u32_at(bytes, at + 8)? as usize;
        let end = at.checked_add(len.max(68)).filter(|&end| end <= bytes.len())?;
        places.descriptors.push(at..end);
        let mut next = end;
        if bytes.get(at + 51)? & 2 == 0 {
            let data_len = usize::try_from(u64_at(bytes, at + 24)?).ok()?;
            next = round_up(end, alignment)?.checked_add(data_len)?;
        }
        at = round_up(next, 64)?;
    }
    None
}

/// Makes checksums right, as far as the parts that they cover can be found; nothing else is changed.
///
/// The bits of `leave` say what is left as it is: 1 blocks and storages, 2 descriptors, 4 the index's CRC, 8 the file's length, 16
/// the header's CRC, 32 the trailer.
pub fn reseal(bytes: &mut [u8], leave: u8) {
    let places = places(bytes);
    let [storages, blocks] = [4, 5].map(|kind| places.section(kind));
    if leave & 1 == 0 {
        let block_len = 1usize << bytes.get(45).copied().unwrap_or(12).clamp(12, 30);
        for at in storages.clone().step_by(32) {
            let place = u64_at(bytes, at).zip(u64_at(bytes, at + 8)).zip(u64_at(bytes, at + 16));
            let Some(((offset, len), first)) = place else { continue };
            let Some(data) = part(bytes, offset, len) else { continue };
            let crcs: Vec<u32> = data.chunks(block_len).map(crc32).collect();
            let whole = crc32(data);
            put(bytes, at + 24, &whole.to_le_bytes());
            for (i, crc) in crcs.into_iter().enumerate() {
                let to = usize::try_from(first).ok().and_then(|first| first.checked_add(i)?.checked_mul(4));
                if let Some(to) = to.and_then(|to| to.checked_add(blocks.start)).filter(|&to| to + 4 <= blocks.end) {
                    put(bytes, to, &crc.to_le_bytes());
                }
            }
        }
    }
    if leave & 2 == 0 {
        for descriptor in &places.descriptors {
            let number = u32_at(bytes, descriptor.start + 12).unwrap_or(0) as usize;
            let record = number.checked_mul(32).and_then(|at| at.checked_add(storages.start));
            if let Some(record) = record.filter(|&record| record + 32 <= storages.end) {
                let crc: [u8; 4] = get(bytes, record + 24).unwrap_or_default();
                put(bytes, descriptor.start + 40, &crc);
            }
            let crc = crc32(&bytes[descriptor.start..descriptor.end - 4]);
            put(bytes, descriptor.end - 4, &crc.to_le_bytes());
        }
    }
    if leave & 4 == 0 {
        let crc = crc32(&bytes[places.index.clone()]);
        put(bytes, 40, &crc.to_le_bytes());
    }
    if leave & 8 == 0 {
        let len = bytes.len() as u64;
        put(bytes, 16, &len.to_le_bytes());
    }
    if leave & 16 == 0 && bytes.len() >= 64 {
        let crc = crc32(&bytes[..60]);
        put(bytes, 60, &crc.to_le_bytes());
    }
    if leave & 32 == 0 && bytes.len() >= 128 {
        let len = bytes.len();
        bytes.copy_within(..64, len - 64);
    }
}

/// What a file holds, as far as it can be told; `None` if it has no index at all.
pub fn decode(bytes: &[u8]) -> Option<Image> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let places = places(bytes);
    if places.index.is_empty() {
        return None;
    }
    let mut image = Image {
        minor: u16_at(bytes, 10)?,
        alignment_log2: *bytes.get(44)?,
        block_log2: *bytes.get(45)?,
        ..Image::default()
    };
    let [names, dims, tensors, storages] = [1, 2, 3, 4].map(|kind| &bytes[places.section(kind)]);
    for record in storages.chunks_exact(32).take(256) {
        let data = u64_at(record, 0).zip(u64_at(record, 8)).and_then(|(at, len)| part(bytes, at, len));
        image.storages.push(data.unwrap_or_default().to_vec());
    }
    for record in tensors.chunks_exact(40).take(256) {
        let rank = u64::from(record[34]);
        let first = u64_at(record, 8)?.saturating_mul(8);
        let numbers = |at: u64| -> Vec<u64> {
            let bytes = part(dims, at, rank * 8).unwrap_or_default();
            bytes.chunks_exact(8).filter_map(|bytes| u64_at(bytes, 0)).collect()
        };
        image.tensors.push(Tensor {
            name: part(names, u64_at(record, 0)?, u32_at(record, 24)?.into()).unwrap_or_default().to_vec(),
            dtype: u16_at(record, 32)?,
            bits: u32_at(record, 36)?,
            flags: record[35] & !1,
            shape: numbers(first),
            strides: (record[35] & 1 != 0).then(|| numbers(first.saturating_add(rank * 8))),
            storage: u32_at(record, 28)?,
            start: u64_at(record, 16)?,
        });
    }
    // The order of the records, where there are records.
    let order: Vec<&[u8]> = places.descriptors.iter().filter_map(|place| name_of(bytes, place.start)).collect();
    image.tensors.sort_by_key(|tensor| order.iter().position(|name| *name == tensor.name));
    let others = places.sections.iter().filter(|section| !(1..=5).contains(&section.0));
    image.sections = others.map(|(kind, flags, place)| (*kind, *flags, bytes[place.clone()].to_vec())).collect();
    Some(image)
}

fn name_of(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rank = u64::from(*bytes.get(at + 50)?);
    let sides = if bytes.get(at + 51)? & 1 == 0 { 1 } else { 2 };
    part(bytes, at as u64 + 64 + 8 * rank * sides, u32_at(bytes, at + 52)?.into())
}

/// Lays out a file and seals it; `None` if it would be longer than `max_len`.
///
/// Storages without tensors are left out, and storages are numbered in the order in which tensors name them; everything else is written
/// as it is, right or wrong.
pub fn encode(image: &Image, max_len: usize) -> Option<Vec<u8>> {
    let alignment = 1usize << image.alignment_log2.min(21);
    let block_len = 1usize << image.block_log2.clamp(12, 30);
    let mut out = vec![0; 64];
    let mut numbers: Vec<Option<u32>> = vec![None; image.storages.len()];
    let (mut storages, mut blocks) = (Vec::new(), Vec::new());
    // Offset, length and CRC of each storage written.
    let mut written: Vec<(u64, u64, u32)> = Vec::new();
    let mut records: Vec<(&Tensor, u32)> = Vec::new();
    for tensor in &image.tensors {
        let source = tensor.storage as usize;
        let known = numbers.get(source).copied().flatten();
        let number = known.unwrap_or(if source < numbers.len() { written.len() as u32 } else { tensor.storage });
        let introduces = known.is_none() && source < numbers.len();
        let strided = tensor.strides.is_some();
        let fields = 64 + 8 * (tensor.shape.len() + tensor.strides.as_ref().map_or(0, Vec::len)) + tensor.name.len();
        let len = round_up(fields + 4, 8)?;
        let at = out.len();
        if introduces {
            let data = &image.storages[source];
            let offset = round_up(at + len, alignment)?;
            if offset.checked_add(data.len())? > max_len {
                return None;
            }
            numbers[source] = Some(number);
            let crc = crc32(data);
            storages.extend_from_slice(&(offset as u64).to_le_bytes());
            storages.extend_from_slice(&(data.len() as u64).to_le_bytes());
            storages.extend_from_slice(&(blocks.len() as u64 / 4).to_le_bytes());
            storages.extend_from_slice(&crc.to_le_bytes());
            storages.extend_from_slice(&[0; 4]);
            data.chunks(block_len).for_each(|block| blocks.extend_from_slice(&crc32(block).to_le_bytes()));
            written.push((offset as u64, data.len() as u64, crc));
        }
        let (offset, data_len, crc) = written.get(number as usize).copied().unwrap_or_default();
        out.extend_from_slice(RECORD_MAGIC);
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&data_len.to_le_bytes());
        out.extend_from_slice(&tensor.start.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&tensor.bits.to_le_bytes());
        out.extend_from_slice(&tensor.dtype.to_le_bytes());
        out.push(tensor.shape.len() as u8);
        out.push(tensor.flags & !3 | u8::from(strided) | if introduces { 0 } else { 2 });
        out.extend_from_slice(&(tensor.name.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        tensor
            .shape
            .iter()
            .chain(tensor.strides.iter().flatten())
            .for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        out.extend_from_slice(&tensor.name);
        out.resize(at + len - 4, 0);
        let crc = crc32(&out[at..]);
        out.extend_from_slice(&crc.to_le_bytes());
        if introduces {
            out.resize(offset as usize, 0);
            out.extend_from_slice(&image.storages[source]);
        }
        out.resize(round_up(out.len(), 64)?, 0);
        records.push((tensor, number));
        if out.len() > max_len {
            return None;
        }
    }
    records.sort_by_key(|(tensor, _)| &tensor.name);
    let (mut names, mut dims, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for (tensor, number) in records {
        tensors.extend_from_slice(&(names.len() as u64).to_le_bytes());
        tensors.extend_from_slice(&(dims.len() as u64 / 8).to_le_bytes());
        tensors.extend_from_slice(&tensor.start.to_le_bytes());
        tensors.extend_from_slice(&(tensor.name.len() as u32).to_le_bytes());
        tensors.extend_from_slice(&number.to_le_bytes());
        tensors.extend_from_slice(&tensor.dtype.to_le_bytes());
        tensors.push(tensor.shape.len() as u8);
        tensors.push(tensor.flags & !1 | u8::from(tensor.strides.is_some()));
        tensors.extend_from_slice(&tensor.bits.to_le_bytes());
        names.extend_from_slice(&tensor.name);
        tensor
            .shape
            .iter()
            .chain(tensor.strides.iter().flatten())
            .for_each(|n| dims.extend_from_slice(&n.to_le_bytes()));
    }
    let mut sections = vec![(1, 0, names), (2, 0, dims), (3, 0, tensors), (4, 0, storages), (5, 0, blocks)];
    sections.extend(image.sections.iter().cloned());
    sections.sort_by_key(|section| section.0);
    let index_offset = out.len();
    out.extend_from_slice(&(sections.len() as u64).to_le_bytes());
    for (kind, flags, bytes) in &sections {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    }
    for (_, _, bytes) in &sections {
        out.extend_from_slice(bytes);
        out.resize(round_up(out.len(), 8)?, 0);
    }
    let index_len = out.len() - index_offset;
    let crc = crc32(&out[index_offset..]);
    let mut header = [0; 64];
    put(&mut header, 0, MAGIC);
    put(&mut header, 8, &1u16.to_le_bytes());
    put(&mut header, 10, &image.minor.to_le_bytes());
    put(&mut header, 16, &(out.len() as u64 + 64).to_le_bytes());
    put(&mut header, 24, &(index_offset as u64).to_le_bytes());
    put(&mut header, 32, &(index_len as u64).to_le_bytes());
    put(&mut header, 40, &crc.to_le_bytes());
    put(&mut header, 44, &[image.alignment_log2, image.block_log2]);
    let crc = crc32(&header[..60]);
    put(&mut header, 60, &crc.to_le_bytes());
    out[..64].copy_from_slice(&header);
    out.extend_from_slice(&header);
    (out.len() <= max_len).then_some(out)
}

/// libFuzzer's own mutation: changes `size` bytes of a buffer, and gives the new size.
pub type Mutate<'m> = dyn FnMut(&mut [u8], usize, usize) -> usize + 'm;

/// Changes bytes that stand alone, letting them grow by a little.
fn mutate_bytes(bytes: &mut Vec<u8>, mutate: &mut Mutate<'_>) {
    let size = bytes.len();
    bytes.resize(size + 32, 0);
    let new = mutate(bytes, size, size + 32);
    bytes.truncate(new);
}

/// The mutation of the target `open_resealed`: what is changed is one part of the file, or what the file holds; the checksums
/// are right again afterwards, but for one input in eight, of which one checksum is left wrong.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(u64::from(seed));
    let max_size = max_size.min(data.len());
    let mut bytes = data[..size].to_vec();
    let image = if random.one_in(8) { None } else { decode(&bytes) };
    if let Some(mut image) = image.filter(|_| random.one_in(2)) {
        for _ in 0..1 + random.below(3) {
            change_content(&mut image, &mut random, mutate);
        }
        if let Some(new) = encode(&image, max_size) {
            bytes = new;
        }
    } else if bytes.len() < 128 || !bytes.starts_with(MAGIC) {
        let image = Image { alignment_log2: 6, block_log2: 12, ..Image::default() };
        bytes = encode(&image, max_size).unwrap_or_default();
    }
    if random.one_in(2) {
        for _ in 0..1 + random.below(2) {
            change_bytes(&mut bytes, &mut random, mutate);
        }
        let leave = if random.one_in(8) { 1 << random.below(6) } else { 0 };
        reseal(&mut bytes, leave);
    }
    if bytes.len() > max_size {
        return size;
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Changes a number, or some bytes, in one part of a file; its length stays.
fn change_bytes(bytes: &mut [u8], random: &mut Random, mutate: &mut Mutate<'_>) {
    let places = places(bytes);
    let mut parts = vec![0..64.min(bytes.len()), places.index.start..(places.index.start + 8).min(places.index.end)];
    let first = places.sections.iter().map(|section| section.2.start).min().unwrap_or(places.index.start);
    parts.push(places.index.start..first.max(places.index.start));
    parts.extend(places.sections.iter().map(|section| section.2.clone()));
    parts.push(places.section(3));
    parts.push(places.section(4));
    if !places.descriptors.is_empty() {
        parts.push(places.descriptors[random.below(places.descriptors.len())].clone());
        parts.push(64..places.index.start.max(64));
    }
    parts.retain(|part| !part.is_empty() && part.end <= bytes.len());
    if parts.is_empty() {
        return;
    }
    let part = parts[random.below(parts.len())].clone();
    if random.one_in(4) {
        // Anywhere within the part, with libFuzzer's own mutations.
        let start = part.start + random.below(part.len());
        let len = (part.end - start).min(1 + random.below(64));
        let piece = &mut bytes[start..start + len];
        let kept = mutate(piece, len, len);
        piece[kept..].fill(0);
        return;
    }
    let width = random.pick(&[1usize, 1, 2, 4, 8, 8]).min(part.len());
    let at = part.start + random.below(part.len() / width) * width;
    let mut old = [0; 8];
    old[..width].copy_from_slice(&bytes[at..at + width]);
    let old = u64::from_le_bytes(old);
    let new = match random.below(5) {
        0 => old.wrapping_add(1 + random.below(8) as u64),
        1 => old.wrapping_sub(1 + random.below(8) as u64),
        2 => old ^ 1 << random.below(width * 8),
        3 => old.wrapping_mul(2).wrapping_add(random.below(2) as u64 * 64),
        _ => random.interesting(),
    };
    bytes[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
}

/// Changes what a file holds.
fn change_content(image: &mut Image, random: &mut Random, mutate: &mut Mutate<'_>) {
    let which = random.below(14);
    if image.tensors.is_empty() || which == 0 {
        // A new tensor with a storage of its own.
        let (dtype, bits) = random.pick(&DTYPES);
        let shape: Vec<u64> = (0..random.below(4)).map(|_| random.below(5) as u64).collect();
        let len = (shape.iter().product::<u64>() * u64::from(bits)).div_ceil(8);
        let data = (0..len).map(|_| random.below(2) as u8).collect();
        let storage = image.storages.len() as u32;
        image.storages.push(data);
        let name = format!("t{}", random.below(50)).into_bytes();
        image.tensors.push(Tensor { name, dtype, bits, shape, storage, ..Tensor::default() });
        return;
    }
    if which == 1 {
        match random.below(4) {
            0 => image.minor = random.interesting() as u16,
            1 => image.alignment_log2 = 6 + random.below(4) as u8,
            2 => image.block_log2 = 12 + random.below(3) as u8,
            _ => image.alignment_log2 = random.below(24) as u8,
        }
        return;
    }
    if which == 2 || which == 3 {
        change_sections(image, random, mutate);
        return;
    }
    let number = random.below(image.tensors.len());
    if which == 4 {
        let mut copy = image.tensors[number].clone();
        copy.name.extend_from_slice(random.pick(&["'", ".x", "\u{e9}"]).as_bytes());
        let at = random.below(image.tensors.len() + 1);
        image.tensors.insert(at, copy);
        return;
    }
    if which == 5 {
        image.tensors.remove(number);
        return;
    }
    let others = image.storages.len();
    let tensor = &mut image.tensors[number];
    let rank = tensor.shape.len();
    match which {
        6 => {
            (tensor.dtype, tensor.bits) = random.pick(&DTYPES);
            match random.below(6) {
                0 => (tensor.dtype, tensor.bits) = (0xFF, 1 + random.below(130) as u32),
                1 => (tensor.dtype, tensor.bits) = (random.u64() as u16, random.interesting() as u32),
                _ => {}
            }
        }
        7 if rank > 0 => {
            let dim = random.below(rank);
            tensor.shape[dim] = match random.below(4) {
                0 => tensor.shape[dim].wrapping_add(1),
                1 => tensor.shape[dim].wrapping_sub(1),
                2 => random.below(4) as u64,
                _ => random.interesting(),
            };
        }
        7 | 8 if random.one_in(2) => {
            tensor.shape.insert(random.below(rank + 1), random.below(3) as u64);
            if let Some(strides) = &mut tensor.strides {
                strides.insert(random.below(strides.len() + 1), random.below(5) as u64);
            }
        }
        8 if rank > 0 => {
            tensor.shape.truncate(rank - 1);
            if let Some(strides) = &mut tensor.strides {
                strides.truncate(rank - 1);
            }
        }
        9 => {
            tensor.strides = match random.below(4) {
                0 => None,
                1 => Some((0..rank).map(|_| random.below(4) as u64).collect()),
                2 => Some((0..rank).map(|_| random.interesting()).collect()),
                _ => {
                    // Those of column-major order.
                    let after = |next: &mut u64, &dim: &u64| {
                        Some({
                            let now = *next;
                            *next = now.wrapping_mul(dim.max(1));
                            now
                        })
                    };
                    Some(tensor.shape.iter().scan(1u64, after).collect())
                }
            };
        }
        10 => tensor.start = if random.one_in(2) { random.below(40) as u64 } else { random.interesting() },
        11 => mutate_bytes(&mut tensor.name, mutate),
        12 => {
            let beyond = usize::from(random.one_in(8));
            tensor.storage = random.below(others + beyond) as u32;
        }
        _ => {
            let Some(data) = image.storages.get_mut(tensor.storage as usize) else { return };
            match random.below(4) {
                0 => data.resize(data.len() + random.below(5000), 1),
                1 => data.truncate(random.below(data.len() + 1)),
                _ => mutate_bytes(data, mutate),
            }
        }
    }
}

fn change_sections(image: &mut Image, random: &mut Random, mutate: &mut Mutate<'_>) {
    let at = random.below(image.sections.len().max(1));
    match random.below(6) {
        0 => {
            let kind = random.pick(&[6, 7, 8, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF]);
            image.sections.retain(|section| section.0 != kind);
            image.sections.push((kind, 1, vec![0xA1, 0x60, 0xF6]));
            image.sections.sort_by_key(|section| section.0);
        }
        1 | 2 => {
            // A new document, or new metadata.
            let document = random.one_in(2);
            let mut names: Vec<Vec<u8>> = image.tensors.iter().map(|tensor| tensor.name.clone()).collect();
            names.push(b"missing".to_vec());
            let mut bytes = Vec::new();
            if document {
                value(&mut bytes, random, &names, 0, true);
            } else {
                map(&mut bytes, random, &names, 0, false);
            }
            let kind = if document { 7 } else { 6 };
            image.sections.retain(|section| section.0 != kind);
            image.sections.push((kind, 1, bytes));
            image.sections.sort_by_key(|section| section.0);
        }
        3 if !image.sections.is_empty() => {
            image.sections.remove(at);
        }
        _ => {
            if let Some((_, _, bytes)) = image.sections.get_mut(at) {
                mutate_bytes(bytes, mutate);
            }
        }
    }
}

fn head(out: &mut Vec<u8>, major: u8, n: u64) {
    let major = major << 5;
    match n {
        0..24 => out.push(major | n as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, n as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    head(out, 3, text.len() as u64);
    out.extend_from_slice(text);
}

fn map(out: &mut Vec<u8>, random: &mut Random, names: &[Vec<u8>], depth: usize, document: bool) {
    let keys = ["", "a", "as", "b", "key", "list"];
    let chosen: Vec<&str> = keys.into_iter().filter(|_| random.one_in(3)).collect();
    let chosen = if chosen.is_empty() { vec!["a"] } else { chosen };
    let mut chosen = chosen;
    chosen.sort_by_key(|key| (key.len(), *key));
    head(out, 5, chosen.len() as u64);
    for key in chosen {
        text(out, key.as_bytes());
        value(out, random, names, depth + 1, document);
    }
}

/// What a document says of a tensor (`spec/torch.md`), right or wrong.
fn attributes(out: &mut Vec<u8>, random: &mut Random, names: &[Vec<u8>], depth: usize) {
    // In the order of an encoded map.
    #[rustfmt::skip]
    let keys = [
        "as", "neg", "conj", "type", "dtype", "hooks", "state", "module", "location", "metadata", "quantizer", "byte_order",
        "requires_grad",
    ];
    let chosen: Vec<&str> = keys.into_iter().filter(|_| random.one_in(4)).collect();
    let chosen = if chosen.is_empty() { vec![random.pick(&["as", "neg", "conj"])] } else { chosen };
    head(out, 5, chosen.len() as u64);
    for key in chosen {
        text(out, key.as_bytes());
        let words: &[&str] = match key {
            "as" => &["list", "list", "parameter", "storage", "untyped_storage", "array", "scalar"],
            "location" => &["cpu", "cuda:0", "meta"],
            "dtype" => &["qint8", "quint8", "qint32", "quint4x2", "bits8", "float32"],
            "byte_order" => &["big", "little"],
            "module" => &["numpy.core", "numpy._core"],
            _ => &[],
        };
        match key {
            _ if random.one_in(8) => value(out, random, names, depth, true),
            "neg" | "conj" | "requires_grad" => out.push(0xF4 + random.below(2) as u8),
            "quantizer" => {
                // A tuple of a scheme, a scale and a zero point.
                head(out, 6, 0x444F_4C02);
                head(out, 4, 3);
                head(out, 6, 0x444F_4C09);
                head(out, 4, 2);
                text(out, b"torch");
                text(out, b"per_tensor_affine");
                out.extend_from_slice(&[0xF9, 0x38, 0x00]);
                head(out, 0, 3);
            }
            "type" => {
                head(out, 6, 0x444F_4C09);
                head(out, 4, 2);
                text(out, b"m");
                text(out, b"Tensor");
            }
            _ if !words.is_empty() => text(out, random.pick(words).as_bytes()),
            _ => value(out, random, names, depth, true),
        }
    }
}

/// A value of a document or of metadata, most often one that the format has.
pub fn made_value(random: &mut Random, names: &[&str], document: bool) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut out = Vec::new();
    value(&mut out, random, &names, 0, document);
    out
}

/// Appends a value, most often one that the format has; half of the tags hold what they should.
fn value(out: &mut Vec<u8>, random: &mut Random, names: &[Vec<u8>], depth: usize, document: bool) {
    let most = match (depth > 4, document) {
        (true, _) => 8,
        (false, true) => 22,
        (false, false) => 14,
    };
    let array = |out: &mut Vec<u8>, random: &mut Random, len: usize| {
        head(out, 4, len as u64);
        (0..len).for_each(|_| value(out, random, names, depth + 1, document));
    };
    let dol = |n: u64| 0x444F_4C00 + n;
    match random.below(most) {
        0 => out.push(random.pick(&[0xF4, 0xF5, 0xF6])),
        1 => head(out, 0, random.interesting()),
        2 => head(out, 1, random.interesting()),
        3 => out.extend_from_slice(&[0xF9, random.u64() as u8, random.u64() as u8]),
        4 => {
            let length = random.below(30);
            head(out, 2, length as u64);
            (0..length).for_each(|_| out.push(random.u64() as u8));
        }
        5 => text(out, random.pick(&["", "x", "h\u{e9}", "list", "0123456789012345678901234"]).as_bytes()),
        6 => {
            out.push(0xFB);
            out.extend_from_slice(&random.u64().to_be_bytes());
        }
        7 => {
            head(out, 6, 2 + random.below(2) as u64);
            head(out, 2, 9);
            (0..9).for_each(|_| out.push(random.u64() as u8 | 1));
        }
        8 => {
            let length = random.below(5);
            array(out, random, length);
        }
        9 => {
            head(out, 6, dol(2 + random.below(3) as u64));
            let length = random.below(4);
            array(out, random, length);
        }
        10 => {
            head(out, 6, dol(5));
            let length = random.below(3) * 2;
            array(out, random, length);
        }
        11 => {
            head(out, 6, dol(6));
            head(out, 4, 4);
            text(out, random.pick(&["ordered", "default", "counter"]).as_bytes());
            let length = random.below(3) * 2;
            array(out, random, length);
            value(out, random, names, depth + 1, document);
            value(out, random, names, depth + 1, document);
        }
        12 => {
            head(out, 6, dol(7));
            head(out, 2, 2);
            out.extend_from_slice(&[random.u64() as u8, random.u64() as u8]);
        }
        13 if !document => map(out, random, names, depth, document),
        13 => {
            head(out, 6, 43000);
            out.extend_from_slice(&[0x82, 0xF9, 0x3C, 0x00, 0xF9, 0x80, 0x00]);
        }
        14 | 15 => {
            head(out, 6, dol(1));
            let name = &names[random.below(names.len())];
            if random.one_in(3) {
                head(out, 4, 2);
                text(out, name);
                attributes(out, random, names, depth + 1);
            } else {
                text(out, name);
            }
        }
        16 => {
            head(out, 6, dol(9));
            head(out, 4, 2);
            text(out, b"torch");
            text(out, b"float32");
        }
        17 => {
            head(out, 6, 28);
            value(out, random, names, depth + 1, document);
        }
        18 => {
            head(out, 6, 29);
            head(out, 0, random.below(3) as u64);
        }
        19 => {
            head(out, 6, dol(10));
            head(out, 5, 2);
            text(out, b"class");
            value(out, random, names, depth + 1, document);
            text(out, b"state");
            value(out, random, names, depth + 1, document);
        }
        20 => {
            head(out, 6, dol(8));
            out.extend_from_slice(&[0x43, 0xED, 0xA0 + random.below(32) as u8, 0x80]);
        }
        _ => {
            head(out, 6, random.interesting());
            value(out, random, names, depth + 1, document);
        }
    }
}
