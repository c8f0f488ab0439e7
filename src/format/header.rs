//! The header, and the trailer that repeats it (`spec/format.md` section 4).

use bytemuck::{Pod, Zeroable};

use super::checksum::crc32;
use super::limits::Limits;
use super::rules::*;
use crate::error::{ErrorKind, Result};

/// The first eight bytes of every Dolmen file of every version.
pub const MAGIC: [u8; 8] = *b"\x89DOLMEN\n";
/// The major version that this crate reads and writes.
pub const MAJOR: u16 = 1;
/// The minor version that this crate writes.
pub const MINOR: u16 = 0;
/// The length of the header, and of the trailer, in bytes.
pub const HEADER_LEN: usize = 64;
/// [`HEADER_LEN`], as a length in a file.
pub(crate) const HEADER_LEN_U64: u64 = 64;
/// The shortest file: a header and a trailer.
const MIN_FILE_LEN: u64 = 128;
/// The feature bits that this crate understands.
const KNOWN_FEATURES: u32 = 0;

/// The header as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) major: u16,
    pub(crate) minor: u16,
    pub(crate) required_features: u32,
    pub(crate) file_len: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_len: u64,
    pub(crate) index_crc32: u32,
    pub(crate) alignment_log2: u8,
    pub(crate) block_log2: u8,
    pub(crate) reserved: [u8; 14],
    pub(crate) header_crc32: u32,
}

/// A header all of whose rules hold: from here on, the index lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub(crate) minor: u16,
    pub(crate) file_len: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_len: u64,
    pub(crate) index_crc32: u32,
    pub(crate) alignment_log2: u8,
    pub(crate) block_log2: u8,
}

impl Header {
    /// Checks the first bytes of a file of `file_len` bytes: rules HDR-1 to HDR-11, steps 1 to 4 of reading.
    ///
    /// `start` is the first [`HEADER_LEN`] bytes of the file, or all of it if it is shorter.
    ///
    /// # Errors
    /// The rule that is broken, with words for what the file is instead if it is not a Dolmen file.
    pub(crate) fn parse(start: &[u8], file_len: u64, limits: &Limits) -> Result<Header> {
        if !start.starts_with(&MAGIC) && (start.is_empty() || !MAGIC.starts_with(start)) {
            return Err(super::diagnosis::not_dolmen(start));
        }
        if file_len < MIN_FILE_LEN {
            return Err(HDR_1
                .broken(format!("the file ends after {file_len} bytes; the shortest Dolmen file has {MIN_FILE_LEN}"))
                .with_numbers(MIN_FILE_LEN, file_len)
                .cut_off());
        }
        let Some((&bytes, _)) = start.split_first_chunk::<HEADER_LEN>() else {
            return Err(HDR_1.broken("the header is incomplete").cut_off());
        };
        let raw: RawHeader = bytemuck::cast(bytes);
        let crc = bytes.split_last_chunk::<4>().map(|(covered, _)| crc32(covered));
        if crc != Some(raw.header_crc32) {
            return Err(HDR_3
                .broken(
                    format!("the header is damaged: its checksum is {:08x}, but", raw.header_crc32)
                        + &format!(" its bytes give {:08x}", crc.unwrap_or_default()),
                )
                .with_numbers(raw.header_crc32.into(), crc.unwrap_or_default().into())
                .with_offset(0)
                .with_advice(DAMAGED_ADVICE));
        }
        if raw.major != MAJOR {
            return Err(HDR_4
                .broken(format!(
                    "the file is of format version {}.{}; this reader knows version {MAJOR}",
                    raw.major, raw.minor
                ))
                .with_numbers(MAJOR.into(), raw.major.into())
                .with_offset(8));
        }
        let unknown = raw.required_features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(HDR_5
                .broken(format!(
                    "the file needs feature bit {} (of {unknown:#010x}), which this reader does not know",
                    unknown.trailing_zeros()
                ))
                .with_offset(12));
        }
        if raw.file_len == 0 {
            return Err(HDR_6
                .broken("the file was never finished: the program that wrote it stopped before it was committed")
                .with_offset(16)
                .cut_off()
                .with_advice("run that program again"));
        }
        if raw.file_len != file_len {
            let error = if file_len < raw.file_len {
                HDR_7
                    .broken(format!(
                        "the file is short by {} bytes: it should have {} and has {file_len}",
                        raw.file_len.saturating_sub(file_len),
                        raw.file_len
                    ))
                    .cut_off()
            } else {
                HDR_7
                    .broken(format!(
                        "the file has {} bytes too many: it should have {} and has {file_len}",
                        file_len.saturating_sub(raw.file_len),
                        raw.file_len
                    ))
                    .with_advice("something was appended to it; fetch it again from where it came")
            };
            return Err(error.with_numbers(raw.file_len, file_len).with_offset(16));
        }
        if raw.reserved != [0; 14] {
            return Err(HDR_8.broken("reserved bytes of the header are not zero").with_offset(46));
        }
        if !(6..=21).contains(&raw.alignment_log2) {
            return Err(HDR_9
                .broken(format!("alignment 2^{} is outside 2^6 to 2^21", raw.alignment_log2))
                .with_offset(44));
        }
        if !(12..=30).contains(&raw.block_log2) {
            return Err(HDR_10
                .broken(format!("block size 2^{} is outside 2^12 to 2^30", raw.block_log2))
                .with_offset(45));
        }
        let end = raw.index_offset.checked_add(raw.index_len).and_then(|end| end.checked_add(HEADER_LEN_U64));
        if raw.index_offset < HEADER_LEN_U64
            || !raw.index_offset.is_multiple_of(super::layout::RECORD_ALIGNMENT)
            || !raw.index_len.is_multiple_of(8)
            || end != Some(file_len)
        {
            return Err(HDR_11
                .broken(format!(
                    "an index of {} bytes at byte {} does not fit a file of {file_len} bytes",
                    raw.index_len, raw.index_offset
                ))
                .with_offset(24));
        }
        limits.check("file length", raw.file_len, limits.max_file_len)?;
        limits.check("index length", raw.index_len, limits.max_index_len)?;
        Ok(Header {
            minor: raw.minor,
            file_len: raw.file_len,
            index_offset: raw.index_offset,
            index_len: raw.index_len,
            index_crc32: raw.index_crc32,
            alignment_log2: raw.alignment_log2,
            block_log2: raw.block_log2,
        })
    }

    /// Checks that the last 64 bytes of the file are those of the header (HDR-12).
    pub(crate) fn check_trailer(&self, trailer: &[u8]) -> Result<()> {
        // The header's rules hold, so it is the one encoding of these fields; compare with that.
        if trailer == self.to_bytes() {
            return Ok(());
        }
        Err(HDR_12
            .broken("the trailer differs from the header")
            .with_offset(self.file_len.saturating_sub(HEADER_LEN_U64))
            .with_advice(DAMAGED_ADVICE))
    }

    /// Checks the bytes of the index against the header's CRC (IDX-1).
    pub(crate) fn check_index_crc(&self, index: &[u8]) -> Result<()> {
        let crc = crc32(index);
        if crc == self.index_crc32 {
            return Ok(());
        }
        Err(IDX_1
            .broken(format!("the index is damaged: its checksum should be {:08x} and is {crc:08x}", self.index_crc32))
            .with_numbers(self.index_crc32.into(), crc.into())
            .with_offset(self.index_offset)
            .with_advice(DAMAGED_ADVICE))
    }

    /// The 64 bytes of the header, checksum included.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let raw = RawHeader {
            magic: MAGIC,
            major: MAJOR,
            minor: self.minor,
            required_features: 0,
            file_len: self.file_len,
            index_offset: self.index_offset,
            index_len: self.index_len,
            index_crc32: self.index_crc32,
            alignment_log2: self.alignment_log2,
            block_log2: self.block_log2,
            reserved: [0; 14],
            header_crc32: 0,
        };
        let mut bytes: [u8; HEADER_LEN] = bytemuck::cast(raw);
        if let Some((covered, crc)) = bytes.split_last_chunk_mut::<4>() {
            *crc = crc32(covered).to_le_bytes();
        }
        bytes
    }

    /// The header of a file that is still being written (HDR-6).
    pub(crate) fn provisional(alignment_log2: u8, block_log2: u8) -> Header {
        Header { minor: MINOR, file_len: 0, index_offset: 0, index_len: 0, index_crc32: 0, alignment_log2, block_log2 }
    }

    /// The first byte that data may have: after the header, or anywhere in a file of another format, whose alignment is 1.
    pub(crate) fn data_begin(&self) -> u64 {
        if self.alignment_log2 == 0 { 0 } else { HEADER_LEN_U64 }
    }

    /// The minor version of the format.
    pub fn minor(&self) -> u16 {
        self.minor
    }

    /// The length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where the index begins, in bytes from the start of the file.
    pub fn index_offset(&self) -> u64 {
        self.index_offset
    }

    /// The length of the index in bytes.
    pub fn index_len(&self) -> u64 {
        self.index_len
    }

    /// What the data of each storage is aligned to, in bytes.
    pub fn alignment(&self) -> u64 {
        1u64 << self.alignment_log2
    }

    /// The length of a checksum block in bytes.
    pub fn block_len(&self) -> u64 {
        1u64 << self.block_log2
    }
}

impl Limits {
    /// An error of kind Limit if a number from the file is above the caller's.
    pub(crate) fn check(&self, what: &str, found: u64, allowed: u64) -> Result<()> {
        if found <= allowed {
            return Ok(());
        }
        Err(crate::Error::new(ErrorKind::Limit, format!("{what} {found} exceeds the limit of {allowed} that was set"))
            .with_numbers(allowed, found)
            .with_advice("raise the limit if the file is trusted"))
    }
}

/// What to do about a file whose bytes have changed.
pub(crate) const DAMAGED_ADVICE: &str = "restore it from another copy; the tensors that are intact can still be read";

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            minor: 0,
            file_len: 64 + 128 + 64,
            index_offset: 64,
            index_len: 128,
            index_crc32: 7,
            alignment_log2: 8,
            block_log2: 20,
        }
    }

    fn reseal(mut bytes: [u8; 64]) -> [u8; 64] {
        let crc = crc32(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn rule_of(bytes: &[u8], file_len: u64) -> &'static str {
        Header::parse(bytes, file_len, &Limits::NONE).unwrap_err().rule().unwrap_or("none")
    }

    #[test]
    fn magic_major_and_checksum_have_their_place_for_ever() {
        let bytes = header().to_bytes();
        assert_eq!(bytes[..8], [0x89, 0x44, 0x4F, 0x4C, 0x4D, 0x45, 0x4E, 0x0A]);
        assert_eq!(bytes[8..10], [1, 0]);
        assert_eq!(bytes[60..], crc32(&bytes[..60]).to_le_bytes());
    }

    #[test]
    fn a_header_reads_back() {
        let h = header();
        assert_eq!(Header::parse(&h.to_bytes(), h.file_len, &Limits::NONE).unwrap(), h);
        h.check_trailer(&h.to_bytes()).unwrap();
    }

    #[test]
    fn each_rule_of_the_header_is_named() {
        let h = header();
        let good = h.to_bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            reseal(bytes)
        };
        assert_eq!(rule_of(b"", 0), "HDR-2");
        assert_eq!(rule_of(b"\x89DOL", 4), "HDR-1");
        assert_eq!(rule_of(&good, 127), "HDR-1");
        assert_eq!(rule_of(b"PK\x03\x04aaaaaaa", 500), "HDR-2");
        let mut flipped = good;
        flipped[30] ^= 1;
        assert_eq!(rule_of(&flipped, 256), "HDR-3");
        assert_eq!(rule_of(&with(8, 2), 256), "HDR-4");
        assert_eq!(rule_of(&with(13, 1), 256), "HDR-5");
        assert_eq!(rule_of(&Header { file_len: 0, ..h }.to_bytes(), 256), "HDR-6");
        assert_eq!(rule_of(&good, 255), "HDR-7");
        assert_eq!(rule_of(&good, 257), "HDR-7");
        assert_eq!(rule_of(&with(50, 1), 256), "HDR-8");
        assert_eq!(rule_of(&with(44, 5), 256), "HDR-9");
        assert_eq!(rule_of(&with(44, 22), 256), "HDR-9");
        assert_eq!(rule_of(&with(45, 11), 256), "HDR-10");
        assert_eq!(rule_of(&with(45, 31), 256), "HDR-10");
        assert_eq!(rule_of(&with(24, 65), 256), "HDR-11");
        assert_eq!(rule_of(&with(32, 127), 256), "HDR-11");
        assert_eq!(rule_of(&Header { index_len: u64::MAX - 7, ..h }.to_bytes(), 256), "HDR-11");
        let mut trailer = good;
        trailer[10] ^= 4;
        assert_eq!(h.check_trailer(&trailer).unwrap_err().rule(), Some("HDR-12"));
    }

    #[test]
    fn a_short_file_says_by_how_many_bytes() {
        let h = header();
        let e = Header::parse(&h.to_bytes(), 200, &Limits::NONE).unwrap_err();
        assert!(e.to_string().contains("short by 56 bytes"), "{e}");
        assert_eq!((e.expected(), e.found()), (Some(256), Some(200)));
    }

    #[test]
    fn limits_of_the_caller_are_their_own_kind() {
        let h = header();
        let limits = Limits { max_file_len: 100, ..Limits::NONE };
        assert_eq!(Header::parse(&h.to_bytes(), 256, &limits).unwrap_err().kind(), ErrorKind::Limit);
    }
}
