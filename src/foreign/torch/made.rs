//! Bytes that a file has in another form than they are used in: copied, swapped, decoded.

use std::io::{self, Write};

use crc32fast::Hasher;

use crate::error::{Error, ErrorKind, Result};
use crate::format::header::DAMAGED_ADVICE;
use crate::format::len_usize;
use crate::source::ReadAt;

/// How much is read at a time; a multiple of every element's size.
const PIECE_LEN: u64 = 1 << 20;

/// What is done to bytes on their way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// They are code points up to 255 in UTF-8.
    pub(super) latin1: bool,
    /// Numbers of so many bytes have their bytes in the other order.
    pub(super) swap: Option<u8>,
}

/// Writes a range of a source in another form; and checks its CRC-32 as it is in the source, if there is one.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) if the CRC differs; [`Malformed`](ErrorKind::Malformed) for what is not of the form;
/// [`Io`](ErrorKind::Io).
pub(super) fn transfer(
    source: &dyn ReadAt,
    (offset, len): (u64, u64),
    crc32: Option<u32>,
    form: Form,
    out: &mut dyn Write,
) -> Result<()> {
    let mut changer = Changer::new(form, out);
    let mut hasher = Hasher::new();
    let end = offset.saturating_add(len);
    let mut at = offset;
    let mut buffer = Vec::new();
    while at < end {
        let piece = end.saturating_sub(at).min(PIECE_LEN);
        buffer.resize(len_usize(piece).ok_or_else(|| Error::io("cannot read", io::ErrorKind::OutOfMemory.into()))?, 0);
        source.read_exact_at(&mut buffer, at).map_err(|e| Error::io("cannot read", e))?;
        if crc32.is_some() {
            hasher.update(&buffer);
        }
        changer.take(&buffer).map_err(|e| e.with_offset(at))?;
        at = at.saturating_add(piece);
    }
    if let Some(expected) = crc32 {
        let found = hasher.finalize();
        if found != expected {
            return Err(damaged(offset, expected, found));
        }
    }
    changer.finish()
}

/// Writes so many bytes of a pattern that is repeated, from its byte `from` on.
pub(super) fn fill(pattern: &[u8], from: u64, len: u64, out: &mut dyn Write) -> Result<()> {
    const AT_ONCE: usize = 64 << 10;
    let whole = pattern.repeat(AT_ONCE.checked_div(pattern.len()).unwrap_or(0).max(1));
    let mut skip = len_usize(from.checked_rem(crate::format::len_u64(whole.len())).unwrap_or(0)).unwrap_or_default();
    let mut left = len;
    while left > 0 {
        let rest = whole.get(skip..).unwrap_or_default();
        let piece = rest.get(..len_usize(left).unwrap_or(usize::MAX)).unwrap_or(rest);
        out.write_all(piece).map_err(|e| Error::io("cannot write", e))?;
        left = left.saturating_sub(crate::format::len_u64(piece.len()));
        skip = 0;
    }
    Ok(())
}

/// The error for bytes whose CRC-32 differs from what the archive says of them.
#[cold]
pub(super) fn damaged(offset: u64, expected: u32, found: u32) -> Error {
    let message = format!("the record is damaged: its CRC-32 should be {expected:08x} and is {found:08x}");
    let e = Error::new(ErrorKind::Corrupt, message).with_offset(offset).with_numbers(expected.into(), found.into());
    e.with_advice(DAMAGED_ADVICE)
}

/// Gives bytes on in another form, whatever pieces they come in.
pub(super) struct Changer<'o> {
    form: Form,
    out: &'o mut dyn Write,
    /// The first byte of a code point of two.
    lead: Option<u8>,
    /// The beginning of a number.
    rest: Vec<u8>,
}

impl<'o> Changer<'o> {
    pub(super) fn new(form: Form, out: &'o mut dyn Write) -> Changer<'o> {
        Changer { form, out, lead: None, rest: Vec::new() }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if self.form == Form::default() {
            return self.give(bytes);
        }
        let decoded = if self.form.latin1 { Some(self.decode(bytes)?) } else { None };
        let bytes = decoded.as_deref().unwrap_or(bytes);
        let Some(size) = self.form.swap.map(usize::from).filter(|&size| size > 1) else { return self.give(bytes) };
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let whole = all.len().saturating_sub(all.len().checked_rem(size).unwrap_or(0));
        self.rest = all.split_off(whole);
        all.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        self.give(&all)
    }

    fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len());
        for &byte in text {
            match (self.lead.take(), byte) {
                (None, 0..=0x7F) => out.push(byte),
                (None, 0xC2 | 0xC3) => self.lead = Some(byte),
                // The lower two bits of the first byte are the upper two of eight.
                (Some(lead), 0x80..=0xBF) => out.push((lead << 6) | (byte & 0x3F)),
                _ => return Err(Error::new(ErrorKind::Malformed, "text that stands for bytes has other characters")),
            }
        }
        Ok(out)
    }

    fn give(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("cannot write", e))
    }

    pub(super) fn finish(self) -> Result<()> {
        if self.lead.is_some() || !self.rest.is_empty() {
            return Err(Error::new(ErrorKind::Malformed, "the data ends in the middle of a number or character"));
        }
        Ok(())
    }
}

/// A [`Changer`] for those who write.
pub(super) struct Changing<'c, 'o> {
    pub(super) changer: &'c mut Changer<'o>,
    /// What went wrong, which an `io::Error` cannot say.
    pub(super) error: Option<Error>,
}

impl Write for Changing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.changer.take(bytes).map(|()| bytes.len()).map_err(|e| {
            let told = io::Error::other(e.reason());
            self.error.get_or_insert(e);
            told
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts bytes and computes their CRC-32.
#[derive(Default)]
pub(super) struct Measure {
    pub(super) len: u64,
    pub(super) hasher: Hasher,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len = self.len.saturating_add(crate::format::len_u64(bytes.len()));
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(form: Form, pieces: &[&[u8]]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut changer = Changer::new(form, &mut out);
        for piece in pieces {
            changer.take(piece)?;
        }
        changer.finish()?;
        Ok(out)
    }

    #[test]
    fn what_is_filled_goes_on_with_the_pattern() {
        let mut out = Vec::new();
        fill(&[1, 2, 3], 4, 7, &mut out).unwrap();
        assert_eq!(out, [2, 3, 1, 2, 3, 1, 2]);
        let mut out = Vec::new();
        fill(&[1, 2, 3], 0, 200_000, &mut out).unwrap();
        assert_eq!((out.len(), out.iter().zip([1, 2, 3].iter().cycle()).all(|(a, b)| a == b)), (200_000, true));
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn forms_do_not_depend_on_how_bytes_are_cut() {
        let text: String = (0..=255u8).map(char::from).collect();
        let form = Form { latin1: true, swap: Some(4) };
        let mut expected: Vec<u8> = (0..=255).collect();
        expected.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        for cut in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(changed(form, &[a, b]).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        let latin1 = Form { latin1: true, swap: None };
        for text in ["\u{100}".as_bytes(), b"\xC3", b"\x80", b"\xC1\x80", b"\xC3a"] {
            assert!(changed(latin1, &[text]).is_err(), "{text:?}");
        }
        assert!(changed(Form { latin1: false, swap: Some(4) }, &[b"12345"]).is_err());
    }

    #[test]
    fn a_range_is_checked_on_its_way() {
        let source = b"..abcdefgh..".to_vec();
        let mut out = Vec::new();
        let crc32 = crc32fast::hash(b"abcdefgh");
        let form = Form { latin1: false, swap: Some(2) };
        transfer(&source, (2, 8), Some(crc32), form, &mut out).unwrap();
        assert_eq!(out, b"badcfehg");
        let e = transfer(&source, (2, 8), Some(crc32 ^ 1), form, &mut io::sink()).unwrap_err();
        assert_eq!((e.kind(), e.offset()), (ErrorKind::Corrupt, Some(2)));
    }
}
