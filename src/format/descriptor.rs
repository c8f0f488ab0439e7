//! Descriptors: what a record begins with (`spec/format.md` section 5).

use bytemuck::{Pod, Zeroable};

use super::checksum::crc32;
use super::dtype::DType;
use super::index::STRIDED;
use super::rules::*;
use super::{layout, len_u64, len_usize};
use crate::error::{Error, Result};

/// The first eight bytes of a descriptor.
pub const DESCRIPTOR_MAGIC: [u8; 8] = *b"DOLMREC\n";
/// The length of the fixed part of a descriptor, in bytes.
pub(crate) const FIXED_LEN: usize = size_of::<RawDescriptor>();
/// No descriptor is longer than this: the fixed part, 255 dims and strides, the longest name, the checksum.
pub(crate) const MAX_DESCRIPTOR_LEN: usize = 64 + 255 * 16 + 65535 + 12;

/// The record introduces no storage.
pub(crate) const VIEW: u8 = 2;
/// Length, CRC and first dim are not known yet.
pub(crate) const UNFINISHED: u8 = 4;

/// The fixed part of a descriptor, as it lies in the file.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawDescriptor {
    pub(crate) magic: [u8; 8],
    pub(crate) descriptor_len: u32,
    pub(crate) storage: u32,
    pub(crate) data_offset: u64,
    pub(crate) data_len: u64,
    pub(crate) start: u64,
    pub(crate) data_crc32: u32,
    pub(crate) bits: u32,
    pub(crate) dtype: u16,
    pub(crate) rank: u8,
    pub(crate) flags: u8,
    pub(crate) name_len: u32,
    pub(crate) reserved: [u8; 8],
}

/// What a descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [u64],
    pub(crate) strides: Option<&'a [u64]>,
    pub(crate) storage: u32,
    pub(crate) start: u64,
    pub(crate) data_offset: u64,
    pub(crate) data_len: u64,
    pub(crate) data_crc32: u32,
    pub(crate) view: bool,
    pub(crate) unfinished: bool,
}

/// The length of a descriptor.
pub(crate) fn descriptor_len(rank: u8, strided: bool, name_len: u64) -> Option<u64> {
    let dims = u64::from(rank).checked_mul(if strided { 16 } else { 8 })?;
    len_u64(FIXED_LEN).checked_add(dims)?.checked_add(name_len)?.checked_add(4)?.checked_next_multiple_of(8)
}

impl Descriptor<'_> {
    /// The length of its encoding.
    pub(crate) fn encoded_len(&self) -> Option<u64> {
        let rank = u8::try_from(self.shape.len()).ok()?;
        descriptor_len(rank, self.strides.is_some(), len_u64(self.name.len()))
    }

    /// Appends its encoding.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if rank or name are longer than the format can hold.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let too_long = || Error::invalid("the rank or the name is too long for a descriptor").with_tensor(self.name);
        let begin = out.len();
        let len = self.encoded_len().and_then(|len| u32::try_from(len).ok()).ok_or_else(too_long)?;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let raw = RawDescriptor {
            magic: DESCRIPTOR_MAGIC,
            descriptor_len: len,
            storage: self.storage,
            data_offset: self.data_offset,
            data_len: self.data_len,
            start: self.start,
            data_crc32: self.data_crc32,
            bits: self.dtype.bits(),
            dtype: self.dtype.code(),
            rank: u8::try_from(self.shape.len()).map_err(|_| too_long())?,
            flags: flag(self.strides.is_some(), STRIDED) | flag(self.view, VIEW) | flag(self.unfinished, UNFINISHED),
            name_len: u32::try_from(self.name.len()).map_err(|_| too_long())?,
            reserved: [0; 8],
        };
        out.extend_from_slice(bytemuck::bytes_of(&raw));
        out.extend_from_slice(bytemuck::cast_slice(self.shape));
        out.extend_from_slice(bytemuck::cast_slice(self.strides.unwrap_or_default()));
        out.extend_from_slice(self.name.as_bytes());
        let end = len_usize(len.into()).and_then(|len| begin.checked_add(len)).ok_or_else(too_long)?;
        out.resize(end.saturating_sub(4), 0);
        let crc = crc32(out.get(begin..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(())
    }
}

/// Reads the fixed part at the start of `bytes`: rules REC-1 (the magic), REC-2 and the part of REC-4 that it shows.
///
/// `bytes` is what lies from the record's start to the index, or at least [`FIXED_LEN`] bytes of it; `room` is how many bytes
/// there are. `record_offset` is where the record lies in the file.
pub(crate) fn parse_fixed(bytes: &[u8], room: u64, record_offset: u64) -> Result<RawDescriptor> {
    let fixed = bytes.get(..FIXED_LEN).map(bytemuck::pod_read_unaligned::<RawDescriptor>);
    let Some(raw) = fixed.filter(|raw| raw.magic == DESCRIPTOR_MAGIC) else {
        return Err(REC_1.broken("there is no descriptor where a record must begin").with_offset(record_offset));
    };
    let expected = descriptor_len(raw.rank, raw.flags & STRIDED != 0, raw.name_len.into());
    if expected != Some(raw.descriptor_len.into()) || u64::from(raw.descriptor_len) > room {
        return Err(REC_2
            .broken(format!("a descriptor of {} bytes does not fit what it describes", raw.descriptor_len))
            .with_offset(record_offset));
    }
    if len_usize(raw.descriptor_len.into()).is_none_or(|len| len > MAX_DESCRIPTOR_LEN) {
        return Err(REC_2.broken("a descriptor is longer than any name allows").with_offset(record_offset));
    }
    Ok(raw)
}

/// Reads a whole descriptor, whose fixed part is `raw` and whose bytes, exactly, are `bytes`: rules REC-3 and REC-4, and that
/// its dtype and name are such.
///
/// `dims` is where its dims and strides are put: `bytes` may lie anywhere.
pub(crate) fn parse<'a>(
    raw: &RawDescriptor,
    bytes: &'a [u8],
    dims: &'a mut Vec<u64>,
    record_offset: u64,
) -> Result<Descriptor<'a>> {
    let broken = |rule: Rule, message: &str| Err(rule.broken(message).with_offset(record_offset));
    let Some((covered, &crc)) = bytes.split_last_chunk::<4>() else {
        return broken(REC_2, "a descriptor is cut short");
    };
    if crc32(covered) != u32::from_le_bytes(crc) {
        return broken(REC_3, "a descriptor is damaged: its checksum disagrees");
    }
    if raw.reserved != [0; 8] {
        return broken(REC_4, "reserved bytes of a descriptor are not zero");
    }
    if raw.flags & !(STRIDED | VIEW | UNFINISHED) != 0 {
        return broken(REC_4, "a descriptor has flags that are not defined");
    }
    let rank = usize::from(raw.rank);
    let strided = raw.flags & STRIDED != 0;
    let number_of_dims = if strided { rank.saturating_mul(2) } else { rank };
    let parts = (|| {
        let (dim_bytes, rest) = covered.get(FIXED_LEN..)?.split_at_checked(number_of_dims.checked_mul(8)?)?;
        let (name, padding) = rest.split_at_checked(len_usize(raw.name_len.into())?)?;
        Some((dim_bytes, name, padding))
    })();
    let Some((dim_bytes, name, padding)) = parts else {
        return broken(REC_2, "a descriptor is cut short");
    };
    if padding.iter().any(|&byte| byte != 0) {
        return broken(REC_4, "padding of a descriptor is not zero");
    }
    let Ok(name) = std::str::from_utf8(name) else {
        return broken(REC_5, "the name in a descriptor is not valid UTF-8");
    };
    let Some(dtype) = DType::from_code(raw.dtype, raw.bits) else {
        return broken(REC_5, "the dtype in a descriptor does not exist");
    };
    dims.clear();
    dims.extend(dim_bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>));
    let (shape, strides) = dims.split_at_checked(rank).unwrap_or_default();
    Ok(Descriptor {
        name,
        dtype,
        shape,
        strides: strided.then_some(strides),
        storage: raw.storage,
        start: raw.start,
        data_offset: raw.data_offset,
        data_len: raw.data_len,
        data_crc32: raw.data_crc32,
        view: raw.flags & VIEW != 0,
        unfinished: raw.flags & UNFINISHED != 0,
    })
}

/// Reads the descriptor at the start of `bytes`, which reach at least to its end: rules REC-1 to REC-4. Gives its length too.
pub(crate) fn read<'a>(bytes: &'a [u8], dims: &'a mut Vec<u64>, record_offset: u64) -> Result<(u64, Descriptor<'a>)> {
    let raw = parse_fixed(bytes, len_u64(bytes.len()), record_offset)?;
    let whole = len_usize(raw.descriptor_len.into()).and_then(|len| bytes.get(..len)).unwrap_or_default();
    Ok((raw.descriptor_len.into(), parse(&raw, whole, dims, record_offset)?))
}

/// Where the data of a record lies whose descriptor is at `record_offset` (section 3).
pub(crate) fn data_offset(record_offset: u64, descriptor_len: u64, alignment_log2: u8) -> Option<u64> {
    layout::round_up(record_offset.checked_add(descriptor_len)?, 1u64 << alignment_log2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor<'a>() -> Descriptor<'a> {
        Descriptor {
            name: "layer.weight",
            dtype: DType::F32,
            shape: &[3, 2],
            strides: Some(&[1, 3]),
            storage: 4,
            start: 8,
            data_offset: 512,
            data_len: 32,
            data_crc32: 0xDEAD_BEEF,
            view: true,
            unfinished: false,
        }
    }

    #[test]
    fn a_descriptor_reads_back() {
        let written = descriptor();
        let mut bytes = vec![0xAA; 3];
        written.encode(&mut bytes).unwrap();
        let bytes = &bytes[3..];
        assert_eq!(bytes.len() as u64, written.encoded_len().unwrap());
        assert_eq!(bytes.len() % 8, 0);
        let raw = parse_fixed(bytes, bytes.len() as u64, 64).unwrap();
        let mut dims = vec![1, 2, 3];
        assert_eq!(parse(&raw, bytes, &mut dims, 64).unwrap(), written);
    }

    #[test]
    fn every_bit_flip_of_a_descriptor_is_noticed() {
        let mut bytes = Vec::new();
        descriptor().encode(&mut bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = parse_fixed(&damaged, damaged.len() as u64, 64)
                .and_then(|raw| parse(&raw, &damaged, &mut Vec::new(), 64).map(|_| ()));
            assert!(read.is_err(), "bit {bit}");
        }
    }
}
