//! [`Fingerprint`]: by what a file is known again.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::format::checksum::crc32;
use crate::format::header::{HEADER_LEN, MAGIC};
use crate::format::len_u64;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Bytes of the header that its checksum covers.
const COVERED: usize = HEADER_LEN - 4;

/// By what a file is known again: its length and a CRC-32, and its modification time to avoid reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) byte_len: u64,
    /// The CRC-32; nothing of a file that was completed by a program which records none.
    pub(super) crc32: Option<u32>,
    /// Whether the CRC is that of the header of a Dolmen file, which covers the CRC of the index, which covers those of all data.
    pub(super) of_header: bool,
    /// When it was modified, as text, where the system tells.
    pub(super) modified: Option<String>,
}

impl Fingerprint {
    /// What is known of a file without opening it.
    pub(super) fn unread(metadata: &Metadata) -> Fingerprint {
        let modified = metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
        Fingerprint {
            byte_len: metadata.len(),
            crc32: None,
            of_header: false,
            modified: modified.map(|time| time.to_string()),
        }
    }

    /// What is known of a file by its header at most.
    pub(super) fn glance(path: &Path) -> io::Result<Fingerprint> {
        let unread = Fingerprint::unread(&std::fs::metadata(path)?);
        let start = read_start(&mut File::open(path)?)?;
        let crc32 = header_crc32(&start);
        Ok(Fingerprint { crc32, of_header: crc32.is_some(), ..unread })
    }

    /// The fingerprint of a file: of its header, if it has one and that is wanted, or of its content. **Cost**: reads 64 bytes, or
    /// all.
    pub(super) fn take(path: &Path, by_header: bool) -> io::Result<Fingerprint> {
        let metadata = std::fs::metadata(path)?;
        // Before the content: a file that changes meanwhile then differs from its fingerprint.
        let unread = Fingerprint::unread(&metadata);
        let mut file = File::open(path)?;
        let start = read_start(&mut file)?;
        if let Some(crc) = by_header.then(|| header_crc32(&start)).flatten() {
            return Ok(Fingerprint { crc32: Some(crc), of_header: true, ..unread });
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut byte_len = len_u64(start.len());
        hasher.update(&start);
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(chunk.get(..n).unwrap_or_default());
                    byte_len = byte_len.saturating_add(len_u64(n));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Fingerprint { byte_len, crc32: Some(hasher.finalize()), ..unread })
    }

    /// Whether two fingerprints are those of the same content, as far as they tell: by their CRCs where both have one, by
    /// their modification times otherwise.
    pub(super) fn is_same_content(&self, other: &Fingerprint) -> bool {
        let same = match (self.crc32, other.crc32) {
            (Some(a), Some(b)) => a == b && self.of_header == other.of_header,
            _ => self.modified.is_some() && self.modified == other.modified,
        };
        same && self.byte_len == other.byte_len
    }

    pub(super) fn to_json(&self) -> Map<String, Json> {
        let mut map = Map::new();
        map.insert("byte_len".into(), self.byte_len.into());
        if let Some(crc) = self.crc32 {
            map.insert("crc32".into(), format!("{crc:08x}").into());
            map.insert("crc32_of".into(), if self.of_header { "header" } else { "content" }.into());
        }
        map.insert("modified".into(), json!(self.modified));
        map
    }

    /// The fingerprint that a state file holds, if it is one.
    pub(super) fn from_json(map: &Map<String, Json>) -> Option<Fingerprint> {
        let crc32 = match map.get("crc32") {
            None | Some(Json::Null) => None,
            Some(text) => Some(u32::from_str_radix(text.as_str()?, 16).ok()?),
        };
        let of_header = match map.get("crc32_of").map(Json::as_str) {
            None if crc32.is_none() => false,
            Some(Some("header")) => true,
            Some(Some("content")) => false,
            _ => return None,
        };
        let modified = match map.get("modified") {
            None | Some(Json::Null) => None,
            Some(text) => Some(text.as_str()?.to_owned()),
        };
        Some(Fingerprint { byte_len: map.get("byte_len")?.as_u64()?, crc32, of_header, modified })
    }
}

fn read_start(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(HEADER_LEN);
    file.take(len_u64(HEADER_LEN)).read_to_end(&mut start)?;
    Ok(start)
}

/// The checksum of a header, if that is what the bytes are. It is computed anew: what a header says of itself may be wrong.
fn header_crc32(start: &[u8]) -> Option<u32> {
    let (covered, stored) = start.split_at_checked(COVERED)?;
    let crc = crc32(covered);
    (start.starts_with(&MAGIC) && stored == crc.to_le_bytes()).then_some(crc)
}
