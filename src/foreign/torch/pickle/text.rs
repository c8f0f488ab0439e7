//! The text forms of protocol 0.

use crate::error::{Error, ErrorKind, Result};

/// As many digits as Python itself converts.
const MAX_DIGITS: usize = 4300;

#[cold]
fn wrong(what: &str, text: &[u8]) -> Error {
    let shown = text.get(..text.len().min(40)).unwrap_or_default();
    Error::new(ErrorKind::Malformed, format!("`{}` is not {what}", shown.escape_ascii()))
}

/// A float as Python writes it.
pub(super) fn float(line: &[u8]) -> Result<f64> {
    let text = std::str::from_utf8(line).ok().map(str::trim);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a float", line))
}

/// A number of the memo, or a persistent one.
pub(super) fn index(line: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(line).ok().map(str::trim);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a number of the memo", line))
}

/// An integer of any size in decimal, perhaps with an `L` at its end: two's complement, little-endian.
pub(super) fn integer(line: &[u8]) -> Result<Vec<u8>> {
    let text = line.trim_ascii();
    let text = text.strip_suffix(b"L").unwrap_or(text);
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix(b"+").unwrap_or(text)),
    };
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong("an integer", line));
    }
    // As many digits at a time as a power of ten fits into a word: one by one takes a hundred times as long.
    const GROUP: usize = 18;
    let mut words: Vec<u64> = Vec::new();
    let (first, rest) = digits.split_at(digits.len().checked_rem(GROUP).unwrap_or(0));
    for group in std::iter::once(first).chain(rest.chunks(GROUP)) {
        let (mut carry, mut factor) = (0u128, 1u128);
        for &digit in group {
            carry = carry.saturating_mul(10).saturating_add(digit.wrapping_sub(b'0').into());
            factor = factor.saturating_mul(10);
        }
        for word in &mut words {
            // Below 2^64 * 10^18.
            let sum = u128::from(*word).saturating_mul(factor).saturating_add(carry);
            carry = sum >> 64;
            *word = u64::try_from(sum & u128::from(u64::MAX)).unwrap_or_default();
        }
        if carry > 0 {
            words.push(u64::try_from(carry).unwrap_or_default());
        }
    }
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    while bytes.pop_if(|byte| *byte == 0).is_some() {}
    // Room for the sign.
    bytes.push(0);
    if negative {
        let mut carry = true;
        for byte in &mut bytes {
            (*byte, carry) = (!*byte).overflowing_add(carry.into());
        }
    }
    Ok(bytes)
}

/// A string between quotes with escapes, as Python 2 wrote it.
pub(super) fn quoted(line: &[u8]) -> Result<Vec<u8>> {
    let line = line.trim_ascii();
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err(wrong("a string between quotes", line)),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(escape) = rest.next() else { return Err(wrong("a string with an escape at its end", line)) };
        let plain = match escape {
            b'\\' | b'\'' | b'"' => escape,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\n' => continue,
            b'x' => {
                let digits = [rest.next(), rest.next()].map(|digit| hex(digit?));
                let [Some(high), Some(low)] = digits else { return Err(wrong("a string with a whole \\x", line)) };
                // Two digits of four bits.
                (high << 4) | low
            }
            b'0'..=b'7' => {
                let mut value = u16::from(escape.wrapping_sub(b'0'));
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|digit| matches!(digit, b'0'..=b'7')) else { break };
                    value = (value << 3) | u16::from(digit.wrapping_sub(b'0'));
                }
                value.to_le_bytes()[0]
            }
            other => {
                // As Python: what is no escape stays as it is.
                out.push(b'\\');
                other
            }
        };
        out.push(plain);
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Text with `\u` and `\U`, and otherwise Latin-1: in generalised UTF-8.
pub(super) fn raw_unicode(line: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => after.get(1..5),
            (b'\\', Some(b'U')) => after.get(1..9),
            _ => {
                push_code_point(&mut out, byte.into());
                continue;
            }
        };
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let value = value.and_then(|digits| u32::from_str_radix(digits, 16).ok()).filter(|&value| value <= 0x10_FFFF);
        let (Some(digits), Some(value)) = (digits, value) else { return Err(wrong("a text with whole \\u", line)) };
        push_code_point(&mut out, value);
        rest = after.get(digits.len().saturating_add(1)..).unwrap_or_default();
    }
    Ok(out)
}

/// Adds a code point, which may be a surrogate, in generalised UTF-8.
pub(super) fn push_code_point(out: &mut Vec<u8>, value: u32) {
    match char::from_u32(value) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => {
            // A surrogate: three bytes, as any other code point of 16 bits.
            let [low, ..] = value.to_le_bytes();
            let [middle, ..] = (value >> 6).to_le_bytes();
            let [high, ..] = (value >> 12).to_le_bytes();
            out.extend_from_slice(&[0xE0 | (high & 0x0F), 0x80 | (middle & 0x3F), 0x80 | (low & 0x3F)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn integers_of_any_size_and_sign() {
        for (text, expected) in [
            ("0", Value::from(0)),
            ("-1", Value::from(-1)),
            ("255L", Value::from(255)),
            ("-256", Value::from(-256)),
            ("9223372036854775808", Value::from(1u64 << 63)),
            ("-9223372036854775808", Value::from(i64::MIN)),
            ("-170141183460469231731687303715884105728L", Value::from(i128::MIN)),
        ] {
            assert_eq!(Value::integer_from_le_bytes(&integer(text.as_bytes()).unwrap()), expected, "{text}");
        }
        for text in ["", "-", "1_0", "0x1", "1.0", &"9".repeat(4301)] {
            assert!(integer(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_with_escapes() {
        assert_eq!(quoted(br#"'a\x41\101\n\\\'\q'"#).unwrap(), b"aAA\n\\'\\q");
        assert_eq!(quoted(br#""\377""#).unwrap(), b"\xFF");
        for text in [&b"'a"[..], b"a", b"'\\'", br"'\x4'"] {
            assert!(quoted(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn raw_unicode_keeps_latin_1_and_surrogates() {
        assert_eq!(raw_unicode(b"a\xE9\\u20ac\\U0001F600").unwrap(), "aé€😀".as_bytes());
        assert_eq!(raw_unicode(b"\\ud800").unwrap(), [0xED, 0xA0, 0x80]);
        assert_eq!(raw_unicode(b"\\n").unwrap(), b"\\n");
        assert!(raw_unicode(b"\\u12").is_err());
        assert!(raw_unicode(b"\\U00110000").is_err());
    }
}
