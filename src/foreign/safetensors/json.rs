//! A strict parser of the JSON that a header may hold: objects, arrays, strings and unsigned integers.
//!
//! The reader asks for what must come next, so nothing nests by the file's will, and nothing is built that was not asked for.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::format::len_u64;

/// A place in JSON text.
pub(super) struct Json<'a> {
    text: &'a [u8],
    at: usize,
    /// Where in the file the text begins.
    file_offset: u64,
}

impl<'a> Json<'a> {
    pub(super) fn new(text: &'a [u8], file_offset: u64) -> Json<'a> {
        Json { text, at: 0, file_offset }
    }

    /// Where in the file the next byte lies.
    pub(super) fn offset(&self) -> u64 {
        self.file_offset.saturating_add(len_u64(self.at))
    }

    /// An error here.
    #[cold]
    pub(super) fn broken(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Malformed, message).with_offset(self.offset())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.step();
        }
    }

    fn expected(&self, what: &str) -> Error {
        match self.peek() {
            None => self.broken(format!("the header ends where {what} should be")),
            Some(byte) => self.broken(format!("{:?} in the header where {what} should be", char::from(byte))),
        }
    }

    /// Takes a byte, and the space before it.
    fn take(&mut self, byte: u8, what: &str) -> Result<()> {
        self.skip_space();
        if self.peek() != Some(byte) {
            return Err(self.expected(what));
        }
        self.step();
        Ok(())
    }

    /// Whether the next byte is this one; takes it if it is.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        if found {
            self.step();
        }
        found
    }

    /// An object: `member` is called after each key, and takes the value.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, Cow<'a, str>, u64) -> Result<()>) -> Result<()> {
        self.take(b'{', "an object")?;
        if self.takes(b'}') {
            return Ok(());
        }
        loop {
            self.skip_space();
            let at = self.offset();
            let key = self.string("a key")?;
            self.take(b':', "a colon")?;
            member(self, key, at)?;
            if !self.takes(b',') {
                return self.take(b'}', "a comma or the end of an object");
            }
        }
    }

    /// An array: `item` is called before each item, and takes it.
    pub(super) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.take(b'[', "an array")?;
        if self.takes(b']') {
            return Ok(());
        }
        loop {
            item(self)?;
            if !self.takes(b',') {
                return self.take(b']', "a comma or the end of an array");
            }
        }
    }

    /// An integer from 0 to 2^64 − 1.
    pub(super) fn integer(&mut self) -> Result<u64> {
        self.skip_space();
        let digits = self.text.get(self.at..).unwrap_or_default();
        let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = digits.get(..len).unwrap_or_default();
        if digits.is_empty() {
            return Err(self.expected("a whole number"));
        }
        if digits.len() > 1 && digits.starts_with(b"0") {
            return Err(self.broken("a number in the header begins with 0"));
        }
        let number = digits
            .iter()
            .try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0')?)))
            .ok_or_else(|| self.broken("a number in the header is greater than 2^64 - 1"))?;
        self.at = self.at.saturating_add(len);
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(self.broken("a number in the header is not whole"));
        }
        Ok(number)
    }

    /// A string.
    pub(super) fn string(&mut self, what: &str) -> Result<Cow<'a, str>> {
        self.take(b'"', what)?;
        let mut built = String::new();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let len = rest.iter().take_while(|&&byte| byte != b'"' && byte != b'\\' && byte >= 0x20).count();
            let Ok(plain) = std::str::from_utf8(rest.get(..len).unwrap_or_default()) else {
                return Err(self.broken("text in the header is not UTF-8"));
            };
            self.at = self.at.saturating_add(len);
            match self.peek() {
                Some(b'"') => {
                    self.step();
                    if built.is_empty() {
                        return Ok(Cow::Borrowed(plain));
                    }
                    built.push_str(plain);
                    return Ok(Cow::Owned(built));
                }
                Some(b'\\') => {
                    built.push_str(plain);
                    self.step();
                    built.push(self.escape()?);
                }
                Some(_) => return Err(self.broken("a control character in text of the header")),
                None => return Err(self.expected("the end of text")),
            }
        }
    }

    /// The character that follows a backslash.
    fn escape(&mut self) -> Result<char> {
        let byte = self.peek();
        self.step();
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex()?;
                let second = match first {
                    0xD800..=0xDBFF if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u")) => {
                        self.at = self.at.saturating_add(2);
                        Some(self.hex()?)
                    }
                    _ => None,
                };
                let mut units = char::decode_utf16([first].into_iter().chain(second));
                match (units.next(), units.next()) {
                    (Some(Ok(character)), None) => character,
                    _ => return Err(self.broken("half of a surrogate pair in text of the header")),
                }
            }
            _ => return Err(self.broken("an escape that JSON does not have in text of the header")),
        })
    }

    /// Four hexadecimal digits.
    fn hex(&mut self) -> Result<u16> {
        let digits = self.text.get(self.at..).and_then(|rest| rest.first_chunk::<4>());
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let unit = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u16::from_str_radix(d, 16).ok());
        let unit = unit.ok_or_else(|| self.broken("an escape that JSON does not have in text of the header"))?;
        self.at = self.at.saturating_add(4);
        Ok(unit)
    }

    /// Takes the spaces that pad the header.
    pub(super) fn end(&self) -> Result<()> {
        let mut rest = Json { at: self.at, ..*self };
        while rest.peek() == Some(b' ') {
            rest.step();
        }
        match rest.peek() {
            None => Ok(()),
            Some(_) => Err(rest.expected("its end, or a space,")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_what_json_says() {
        let parsed = |text: &str| Json::new(text.as_bytes(), 0).string("text").map(Cow::into_owned);
        assert_eq!(parsed(r#""""#).unwrap(), "");
        assert_eq!(parsed(r#" "blk.0" "#).unwrap(), "blk.0");
        assert_eq!(parsed(r#""\"\\\/\b\f\n\r\té\u00e9\ud83d\ude00x""#).unwrap(), "\"\\/\u{8}\u{c}\n\r\téé😀x");
        for bad in [
            "\"a",
            "\"a\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u+123""#,
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
            "a",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(Json::new(b"\"\xff\"", 0).string("text").is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn every_escape_is_what_another_parser_makes_of_it() {
        for unit in (0..=0xFFFFu32).step_by(7) {
            let text = format!("\"\\u{unit:04x}\"");
            let ours = Json::new(text.as_bytes(), 0).string("text").map(Cow::into_owned).ok();
            assert_eq!(ours, serde_json::from_str::<String>(&text).ok(), "{text}");
        }
    }

    #[test]
    fn numbers_are_whole_and_have_one_spelling() {
        let parsed = |text: &str| Json::new(text.as_bytes(), 0).integer();
        assert_eq!(parsed("0").unwrap(), 0);
        assert_eq!(parsed("18446744073709551615").unwrap(), u64::MAX);
        for bad in ["", "-1", "01", "00", "1.0", "1e3", "1E3", "18446744073709551616", "x", "+1"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
