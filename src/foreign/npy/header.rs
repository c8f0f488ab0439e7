//! The header: a Python dict literal, read by a parser that knows nothing but such headers.

use std::io::Read;

use super::dtype::Element;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::foreign::NPY_MAGIC;
use crate::format::{layout, len_u64};

/// No header of an array of numbers, at most 255 axes, is nearly as long. It bounds what is read before anything is known.
const MAX_HEADER_LEN: u32 = 1 << 20;
/// What is looked at first: magic and version.
const PRELUDE_LEN: u64 = 8;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    version: (u8, u8),
    pub(crate) element: Element,
    pub(crate) fortran_order: bool,
    pub(crate) shape: Vec<u64>,
    /// Where the data begins.
    pub(crate) data_at: u64,
    /// How long it is.
    pub(crate) data_len: u64,
}

#[cold]
fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message).with_advice("save the array again with numpy.save")
}

/// Reads exactly; an early end is the file's fault.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    from.read_exact(buffer).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Malformed, "the file ends within the header of its array").cut_off()
        }
        _ => Error::io("cannot read", e),
    })
}

impl Header {
    /// Reads the header, and no byte of what follows it.
    ///
    /// **Cost**: memory for the header, 1 MiB at most.
    pub(crate) fn read(from: &mut impl Read) -> Result<Header> {
        let mut prelude = [0; 8];
        fill(from, &mut prelude)?;
        let Some(&[major, minor]) = prelude.strip_prefix(NPY_MAGIC) else {
            return Err(Error::new(ErrorKind::NotThisFormat, "it does not begin as a NumPy array does").with_offset(0));
        };
        let (len, len_len) = match (major, minor) {
            (1, 0) => {
                let mut len = [0; 2];
                fill(from, &mut len)?;
                (u32::from(u16::from_le_bytes(len)), 2)
            }
            (2 | 3, 0) => {
                let mut len = [0; 4];
                fill(from, &mut len)?;
                (u32::from_le_bytes(len), 4)
            }
            _ => {
                let message = format!("version {major}.{minor} of the .npy format is not known");
                return Err(Error::new(ErrorKind::UnsupportedVersion, message).with_offset(6));
            }
        };
        if len > MAX_HEADER_LEN {
            let message = format!("a header of {len} bytes is longer than that of any array of numbers");
            return Err(broken(message).with_offset(PRELUDE_LEN));
        }
        let mut text = vec![0; usize::try_from(len).unwrap_or_default()];
        fill(from, &mut text)?;
        let text_at = PRELUDE_LEN.saturating_add(len_len);
        let data_at = text_at.saturating_add(u64::from(len));
        Header::parse(&text, text_at, (major, minor), data_at)
    }

    fn parse(text: &[u8], text_at: u64, version: (u8, u8), data_at: u64) -> Result<Header> {
        let mut literal = Literal { text, at: 0, file_offset: text_at };
        let (mut element, mut fortran_order, mut shape) = (None, None, None);
        literal.take(b'{', "the header's dict")?;
        while !literal.takes(b'}') {
            let key = literal.string("a key")?;
            literal.take(b':', "a colon")?;
            let again = match key {
                "descr" => element.replace(literal.element()?).is_some(),
                "fortran_order" => fortran_order.replace(literal.truth()?).is_some(),
                "shape" => shape.replace(literal.shape()?).is_some(),
                _ => return Err(literal.broken(format!("there is no key {} in such headers", quoted(key)))),
            };
            if again {
                return Err(literal.broken(format!("{} is there twice", quoted(key))));
            }
            if !literal.takes(b',') {
                literal.take(b'}', "a comma or the end of the header's dict")?;
                break;
            }
        }
        literal.end()?;
        let (Some(element), Some(fortran_order), Some(shape)) = (element, fortran_order, shape) else {
            return Err(broken("of descr, fortran_order and shape, one is missing").with_offset(text_at));
        };
        let bits = element.dtype.bits();
        let data_len = layout::element_count(&shape, bits).and_then(|count| layout::contiguous_len(count, bits));
        let Some(data_len) = data_len.filter(|len| len.checked_add(data_at).is_some()) else {
            return Err(
                broken(format!("the number of its elements, of shape {shape:?}, overflows")).with_offset(text_at)
            );
        };
        Ok(Header { version, element, fortran_order, shape, data_at, data_len })
    }

    /// The version, such as `1.0`.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The strides in elements, if they are those of Fortran order: along the first axis 1.
    pub(crate) fn strides(&self) -> Option<Vec<u64>> {
        (self.fortran_order && self.data_len > 0).then(|| fortran_strides(&self.shape))
    }
}

/// The strides of Fortran order, in elements.
pub(super) fn fortran_strides(shape: &[u64]) -> Vec<u64> {
    let reversed: Vec<u64> = shape.iter().rev().copied().collect();
    layout::contiguous_strides_reversed(&reversed).collect()
}

/// A place in a Python literal.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
    /// Where in the file the text begins.
    file_offset: u64,
}

impl<'a> Literal<'a> {
    #[cold]
    fn broken(&self, message: impl Into<String>) -> Error {
        broken(message).with_offset(self.file_offset.saturating_add(len_u64(self.at)))
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, what: &str) -> Error {
        match self.rest().first() {
            None => self.broken(format!("the header ends where {what} should be")),
            Some(&byte) => self.broken(format!("{:?} in the header where {what} should be", char::from(byte))),
        }
    }

    fn advance(&mut self, by: usize) {
        self.at = self.at.saturating_add(by);
    }

    fn skip_space(&mut self) {
        let len = self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.advance(len);
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest().first() == Some(&byte);
        if found {
            self.advance(1);
        }
        found
    }

    fn take(&mut self, byte: u8, what: &str) -> Result<()> {
        match self.takes(byte) {
            true => Ok(()),
            false => Err(self.expected(what)),
        }
    }

    /// A string without escapes: no header of an array of numbers has any.
    fn string(&mut self, what: &str) -> Result<&'a str> {
        self.skip_space();
        let Some((quote @ (b'\'' | b'"'), text)) = self.rest().split_first() else {
            return Err(self.expected(what));
        };
        let len = text.iter().take_while(|byte| *byte != quote && **byte != b'\\' && **byte >= b' ').count();
        if text.get(len) != Some(quote) {
            return Err(self.broken("a string in the header does not end, or has an escape"));
        }
        let text = std::str::from_utf8(text.get(..len).unwrap_or_default());
        let text = text.map_err(|_| self.broken("a string in the header is not UTF-8"))?;
        self.advance(len.saturating_add(2));
        Ok(text)
    }

    fn element(&mut self) -> Result<Element> {
        self.skip_space();
        if matches!(self.rest().first(), Some(b'[' | b'(' | b'{')) {
            let e = Error::new(ErrorKind::UnsupportedVersion, "it is a structured array, which is not supported");
            return Err(e.with_advice("save each of its fields as an array of its own"));
        }
        let descr = self.string("a dtype")?;
        Element::parse(descr)
    }

    fn truth(&mut self) -> Result<bool> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            let after = self.rest().strip_prefix(word);
            if after.is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_alphanumeric)) {
                self.advance(word.len());
                return Ok(value);
            }
        }
        Err(self.expected("True or False"))
    }

    /// A tuple of whole numbers; one alone needs its comma.
    fn shape(&mut self) -> Result<Vec<u64>> {
        self.take(b'(', "a tuple")?;
        let mut dims = Vec::new();
        while !self.takes(b')') {
            if dims.len() == usize::from(u8::MAX) {
                return Err(self.broken("its rank is more than 255"));
            }
            dims.push(self.integer()?);
            let comma = self.takes(b',');
            if !comma {
                if dims.len() == 1 {
                    return Err(self.expected("a comma"));
                }
                self.take(b')', "a comma or the end of a tuple")?;
                break;
            }
        }
        Ok(dims)
    }

    fn integer(&mut self) -> Result<u64> {
        self.skip_space();
        let rest = self.rest();
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = rest.get(..len).unwrap_or_default();
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with(b"0")) {
            return Err(self.expected("a whole number"));
        }
        let number = digits
            .iter()
            .try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?)))
            .ok_or_else(|| self.broken("a number in the header is greater than 2^64 - 1"))?;
        self.advance(len);
        // Python 2 on Windows wrote long integers this way.
        if self.rest().first() == Some(&b'L') {
            self.advance(1);
        }
        Ok(number)
    }

    /// Takes the spaces that pad the header, and the end of its line.
    fn end(&mut self) -> Result<()> {
        self.skip_space();
        match self.rest() {
            [] => Ok(()),
            _ => Err(self.expected("its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn parsed(text: &str) -> Result<Header> {
        Header::parse(text.as_bytes(), 10, (1, 0), 128)
    }

    #[test]
    fn headers_of_all_writers_are_understood() {
        let header = parsed("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }    \n").unwrap();
        assert_eq!((header.element.dtype, &header.shape[..], header.data_len), (DType::F32, &[2, 3][..], 24));
        assert_eq!(header.strides(), None);
        let header = parsed("{\"shape\":(2,3),\"fortran_order\":True,\"descr\":\"|u1\"}").unwrap();
        assert_eq!((header.element.dtype, header.strides()), (DType::U8, Some(vec![1, 2])));
        assert_eq!(parsed("{'descr':'<i8','fortran_order':False,'shape':()}").unwrap().data_len, 8);
        assert_eq!(parsed("{'descr':'<i8','fortran_order':False,'shape':(3L,)}").unwrap().shape, [3]);
        assert_eq!(parsed("{'descr':'<i8','fortran_order':True,'shape':(0, 4)}").unwrap().strides(), None);
    }

    #[test]
    fn what_is_not_such_a_header_is_refused() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': Falsey, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1e2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x",
            "{'descr': '<f\\x34', 'fortran_order': False, 'shape': (2, 3)}",
            "{'descr': '<f4",
            "{'descr': f(), 'fortran_order': False, 'shape': (2, 3)}",
        ] {
            assert_eq!(parsed(text).unwrap_err().kind(), ErrorKind::Malformed, "{text}");
        }
        let many = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({})}}", "1,".repeat(256));
        assert!(parsed(&many).unwrap_err().to_string().contains("255"));
    }
}
