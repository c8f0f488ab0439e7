//! The ZIP archive as PyTorch lays it out, to the byte: its readers may compute where records lie instead of looking.
//!
//! ```text
//! local header │ name │ zip64 field │ padding field │ data, at a multiple of 64 │ data descriptor
//! ```
//! The local header knows neither lengths nor CRC-32: they follow the data, and are in the directory at the end. So an archive is
//! written in one pass, though the length of a record must be known before its data.

use std::io::Write;

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::format::len_u64;

/// The folder of all records: what PyTorch calls it when it writes to no path. Always the same, so that the same content gives the same bytes.
const ROOT: &str = "archive";
/// Data begins at multiples of this.
pub(super) const ALIGNMENT: u64 = 64;
/// From this number on, lengths and offsets are in zip64 fields.
const ZIP64: u64 = 0xFFFF_FFFF;
/// The same of the number of records.
const ZIP64_COUNT: u64 = 0xFFFF;

const LOCAL_LEN: u64 = 30;
/// Lengths and CRC-32 follow the data; the name is UTF-8.
const FLAGS: u16 = 0x0808;
/// The same of an empty record, after which nothing follows.
const FLAGS_EMPTY: u16 = 0x0800;
/// The kind of an extra field that is padding; its content is of this letter.
const PADDING_KIND: &[u8; 2] = b"FB";
const PADDING: u8 = b'Z';
const ZIP64_KIND: u16 = 1;

/// A record that was written.
struct Entry {
    name: String,
    header_offset: u64,
    len: u64,
    crc32: u32,
}

/// Writes an archive, record by record.
pub(super) struct ArchiveWriter<W: Write> {
    out: W,
    at: u64,
    entries: Vec<Entry>,
}

#[cold]
fn cannot(e: std::io::Error) -> Error {
    Error::io("cannot write", e)
}

#[cold]
fn overflows() -> Error {
    Error::invalid("the length of the archive overflows")
}

/// Numbers and bytes one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Fields {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    fn zeros(&mut self, len: usize) -> &mut Fields {
        self.0.resize(self.0.len().saturating_add(len), 0);
        self
    }
}

/// A number where there is room for 32 bits: a marker, if it is in a zip64 field.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn len_u16(len: usize) -> Result<u16> {
    u16::try_from(len).map_err(|_| Error::invalid("the name of a record is too long"))
}

/// A zip64 field of numbers; nothing, if there are none.
fn zip64_field(numbers: &[u64]) -> Result<Vec<u8>> {
    let mut field = Fields::default();
    if !numbers.is_empty() {
        field.u16(ZIP64_KIND).u16(len_u16(numbers.len().saturating_mul(8))?);
        for &number in numbers {
            field.u64(number);
        }
    }
    Ok(field.0)
}

/// How long what follows the data is.
fn descriptor_len(header_offset: u64, len: u64) -> u64 {
    match len {
        0 => 0,
        len if len >= ZIP64 || header_offset >= ZIP64 => 24,
        _ => 16,
    }
}

/// What stands in front of the data of a record.
fn local_header(name: &str, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut long = Vec::new();
    if len >= ZIP64 {
        // The length as it is stored is not known yet, says PyTorch.
        long.extend([len, 0]);
    }
    if at >= ZIP64 {
        long.push(at);
    }
    let long = zip64_field(&long)?;
    let before = LOCAL_LEN.checked_add(len_u64(name.len())).and_then(|n| n.checked_add(len_u64(long.len())));
    // Kind and length of the padding field itself.
    let start = before.and_then(|n| n.checked_add(4)).and_then(|n| n.checked_add(at)).ok_or_else(overflows)?;
    let padding = start.checked_next_multiple_of(ALIGNMENT).ok_or_else(overflows)?.saturating_sub(start);
    let padding = u16::try_from(padding).map_err(|_| overflows())?;
    let extra_len = len_u16(long.len())?.saturating_add(padding).saturating_add(4);
    let mut header = Fields::default();
    header.bytes(b"PK\x03\x04").u16(0).u16(if len == 0 { FLAGS_EMPTY } else { FLAGS }).u16(0).u32(0);
    header.u32(0).u32(0).u32(0).u16(len_u16(name.len())?).u16(extra_len);
    header.bytes(name.as_bytes()).bytes(&long).bytes(PADDING_KIND).u16(padding);
    header.0.resize(header.0.len().saturating_add(padding.into()), PADDING);
    Ok(header.0)
}

/// How long an archive of records with these names and lengths is.
#[cfg(any(feature = "fs", test))]
pub(super) fn archive_len<'r>(records: impl IntoIterator<Item = (&'r str, u64)>) -> Result<u64> {
    let (mut at, mut directory, mut count) = (0u64, 0u64, 0u64);
    for (name, len) in records {
        let name = format!("{ROOT}/{name}");
        let header_len = len_u64(local_header(&name, at, len)?.len());
        let entry_len = len_u64(central_entry(&Entry { name, header_offset: at, len, crc32: 0 })?.len());
        let end = at.checked_add(header_len).and_then(|end| end.checked_add(len));
        at = end.and_then(|end| end.checked_add(descriptor_len(at, len))).ok_or_else(overflows)?;
        directory = directory.checked_add(entry_len).ok_or_else(overflows)?;
        count = count.saturating_add(1);
    }
    let end = end_records(count, directory, at)?;
    at.checked_add(directory).and_then(|len| len.checked_add(len_u64(end.len()))).ok_or_else(overflows)
}

fn central_entry(entry: &Entry) -> Result<Vec<u8>> {
    let Entry { name, header_offset, len, crc32 } = entry;
    let mut long = Vec::new();
    if *len >= ZIP64 {
        long.extend([*len, *len]);
    }
    if *header_offset >= ZIP64 {
        long.push(*header_offset);
    }
    let long = zip64_field(&long)?;
    let mut central = Fields::default();
    central.bytes(b"PK\x01\x02").u16(0).u16(0).u16(if *len == 0 { FLAGS_EMPTY } else { FLAGS }).u16(0).u32(0);
    central.u32(*crc32).u32(narrow(*len)).u32(narrow(*len));
    central.u16(len_u16(name.len())?).u16(len_u16(long.len())?);
    // Comment, part of the archive, attributes: nothing of them.
    central.zeros(10).u32(narrow(*header_offset)).bytes(name.as_bytes()).bytes(&long);
    Ok(central.0)
}

/// The three records that end an archive.
fn end_records(count: u64, len: u64, offset: u64) -> Result<Vec<u8>> {
    const END64_REST: u64 = 44;
    let end64_at = offset.checked_add(len).ok_or_else(overflows)?;
    let mut end = Fields::default();
    // Written by version 3.0 on Unix, to be read by 4.5.
    end.bytes(b"PK\x06\x06")
        .u64(END64_REST)
        .u16(0x031E)
        .u16(0x2D)
        .u32(0)
        .u32(0)
        .u64(count)
        .u64(count)
        .u64(len)
        .u64(offset);
    end.bytes(b"PK\x06\x07").u32(0).u64(end64_at).u32(1);
    let short_count = u16::try_from(count.min(ZIP64_COUNT)).unwrap_or(u16::MAX);
    end.bytes(b"PK\x05\x06")
        .u16(0)
        .u16(0)
        .u16(short_count)
        .u16(short_count)
        .u32(narrow(len))
        .u32(narrow(offset))
        .u16(0);
    Ok(end.0)
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn new(out: W) -> ArchiveWriter<W> {
        ArchiveWriter { out, at: 0, entries: Vec::new() }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(cannot)?;
        self.at = self.at.checked_add(len_u64(bytes.len())).ok_or_else(overflows)?;
        Ok(())
    }

    /// Writes a record, whose data `write` gives: exactly `len` bytes.
    ///
    /// # Errors
    /// What `write` says; [`InvalidInput`](crate::ErrorKind::InvalidInput) if it gives another number of bytes.
    pub(super) fn record(
        &mut self,
        name: &str,
        len: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let name = format!("{ROOT}/{name}");
        let header_offset = self.at;
        let header = local_header(&name, header_offset, len)?;
        self.put(&header)?;
        let mut data = Data { out: &mut self.out, len: 0, hasher: Hasher::new() };
        write(&mut data)?;
        let (found, crc32) = (data.len, data.hasher.finalize());
        if found != len {
            let message = format!("the record {name} was to have {len} bytes, and got {found}");
            return Err(Error::invalid(message).with_numbers(len, found));
        }
        self.at = self.at.checked_add(len).ok_or_else(overflows)?;
        let mut descriptor = Fields::default();
        match descriptor_len(header_offset, len) {
            0 => {}
            24 => {
                descriptor.bytes(b"PK\x07\x08").u32(crc32).u64(len).u64(len);
            }
            _ => {
                descriptor.bytes(b"PK\x07\x08").u32(crc32).u32(narrow(len)).u32(narrow(len));
            }
        }
        self.put(&descriptor.0)?;
        self.entries.push(Entry { name, header_offset, len, crc32 });
        Ok(())
    }

    /// A record whose data is at hand.
    pub(super) fn word(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.record(name, len_u64(data.len()), |out| out.write_all(data).map_err(cannot))
    }

    /// A number of the records so far, their names and content: 40 digits.
    pub(super) fn serialization_id(&self) -> String {
        let (mut names, mut content) = (Hasher::new(), Hasher::new());
        for entry in &self.entries {
            names.update(entry.name.as_bytes());
            content.update(&entry.crc32.to_le_bytes());
        }
        format!("{:020}{:020}", names.finalize(), content.finalize())
    }

    /// Writes the directory.
    pub(super) fn finish(mut self) -> Result<W> {
        let offset = self.at;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.put(&central_entry(entry)?)?;
        }
        let len = self.at.saturating_sub(offset);
        self.put(&end_records(len_u64(entries.len()), len, offset)?)?;
        self.out.flush().map_err(cannot)?;
        Ok(self.out)
    }
}

/// The data of a record on its way.
struct Data<'w> {
    out: &'w mut dyn Write,
    len: u64,
    hasher: Hasher,
}

impl Write for Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        self.len = self.len.saturating_add(len_u64(written));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_archive_is_what_pytorch_writes() {
        let mut archive = ArchiveWriter::new(Vec::new());
        archive.word("data.pkl", b"\x80\x02}.").unwrap();
        archive.word("data/0", b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(len_u64(bytes.len()), archive_len([("data.pkl", 4), ("data/0", 0)]).unwrap());
        // The first record's data, and the padding in front of it.
        assert_eq!(&bytes[..4], b"PK\x03\x04");
        assert_eq!(&bytes[30..46], b"archive/data.pkl");
        assert_eq!(&bytes[46..50], b"FB\x0e\0");
        assert_eq!(&bytes[64..68], b"\x80\x02}.");
        assert_eq!(&bytes[68..72], b"PK\x07\x08");
        // The empty one has no descriptor: the directory follows its padding.
        assert_eq!(&bytes[84..88], b"PK\x03\x04");
        assert_eq!(&bytes[90..92], &[0, 8]);
        assert_eq!(&bytes[192..196], b"PK\x01\x02");
    }

    #[test]
    fn records_beyond_4_gib_have_the_fields_that_pytorch_gives_them() {
        let far = (1 << 32) + 0x4BC;
        let header = local_header("archive/data/2", far, 36).unwrap();
        assert_eq!(&header[44..56], &[1, 0, 8, 0, 0xBC, 4, 0, 0, 1, 0, 0, 0]);
        assert_eq!((far + header.len() as u64) % ALIGNMENT, 0);
        let header = local_header("archive/data/1", 0x3F8, (1 << 32) + 100).unwrap();
        assert_eq!(&header[44..64], &[1, 0, 16, 0, 100, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((0x3F8 + header.len() as u64) % ALIGNMENT, 0);
        assert_eq!((descriptor_len(0, ZIP64), descriptor_len(ZIP64, 1), descriptor_len(0, 1)), (24, 24, 16));
        let entry = Entry { name: "n".into(), header_offset: far, len: 1 << 32, crc32: 7 };
        let central = central_entry(&entry).unwrap();
        assert_eq!(&central[20..28], &[0xFF; 8]);
        assert_eq!(&central[42..46], &[0xFF; 4]);
        assert_eq!(central[47..51], [1, 0, 24, 0]);
    }

    #[test]
    fn many_records_are_counted_in_the_zip64_record() {
        let end = end_records(70_000, 10, 20).unwrap();
        assert_eq!(end[24..32], 70_000u64.to_le_bytes());
        assert_eq!(&end[end.len() - 14..end.len() - 10], &[0xFF; 4]);
    }

    #[test]
    fn a_record_of_another_length_than_promised_is_an_error() {
        let mut archive = ArchiveWriter::new(Vec::new());
        assert!(archive.record("data/0", 3, |out| out.write_all(b"ab").map_err(cannot)).is_err());
    }
}
