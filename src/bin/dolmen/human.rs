//! Sizes, counts and names as people read them.

use std::path::Path;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A number of bytes, as in `1.5 GiB`; exact below 1 KiB.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 is shown in the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// A count with its thousands apart, as in `12,345`.
pub fn count(n: impl Into<u128>) -> String {
    let digits = n.into().to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun, as in `1 tensor` or `12 tensors`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Numbers, ascending, with runs drawn together, as in `0, 4 to 7`.
pub fn runs(numbers: &[u64]) -> String {
    let mut out = String::new();
    let mut rest = numbers;
    while let Some(&first) = rest.first() {
        let follow = rest.windows(2).take_while(|pair| pair[0].checked_add(1) == Some(pair[1])).count();
        if !out.is_empty() {
            out += ", ";
        }
        out += &count(first);
        if follow > 0 {
            out += if follow == 1 { ", " } else { " to " };
            out += &count(rest[follow]);
        }
        rest = &rest[follow + 1..];
    }
    out
}

/// Dims, strides or an index, as in `[2, 3]`.
pub fn dims(dims: &[u64]) -> String {
    format!("{dims:?}")
}

/// Text with everything escaped that could move the cursor, change colours or reorder what stands around it.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A tensor's name: as it is, or quoted and escaped if it could be taken for something else.
pub fn name(name: &str) -> String {
    let plain = |c: char| !is_unsafe(c) && !c.is_whitespace() && !matches!(c, '"' | '\\' | '…');
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    let mut out = String::from('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_unsafe(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What a checkpoint that was salvaged says of itself: nothing if all that it holds was verified then.
pub fn salvaged(marked: &[&str]) -> Option<String> {
    let hold = if marked.len() == 1 { "holds" } else { "hold" };
    let tensors = counted(marked.len() as u64, "tensor");
    (!marked.is_empty()).then(|| format!("salvaged: {tensors} {hold} bytes that nothing vouched for"))
}

/// A path, safe to show.
pub fn path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// The columns that text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Text shortened in the middle to at most so many columns: of names, both ends tell most.
pub fn shorten_middle(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(1);
    let head = take(text.chars(), room - room / 2);
    let tail: String = take(text.chars().rev(), room - width(&head)).chars().rev().collect();
    format!("{head}…{tail}")
}

/// Text shortened at its end to at most so many columns.
pub fn shorten_end(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    format!("{}…", take(text.chars(), most.saturating_sub(1)))
}

/// As many characters as fit so many columns.
fn take(chars: impl Iterator<Item = char>, most: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= most
    };
    chars.take_while(fits).collect()
}

/// JSON on one line, with everything escaped that could act on a terminal: JSON itself asks for that only in part.
pub fn json(json: &serde_json::Value) -> String {
    let text = json.to_string();
    if !text.contains(is_unsafe) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Such characters occur within strings alone, and none takes more than four digits.
        if is_unsafe(c) { out += &format!("\\u{:04x}", u32::from(c)) } else { out.push(c) }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{061C}' | '\u{FEFF}')
}

/// A number of bytes as it is given on the command line: `4096`, `64K`, `1MiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("expected a number of bytes, such as 4096, 64K or 1M".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number of bytes, such as 4096, 64K or 1M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_where_the_rounded_number_would_be_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        for (n, text) in [(0u64, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), text);
        }
        assert_eq!(counted(1, "tensor"), "1 tensor");
        assert_eq!(counted(0, "tensor"), "0 tensors");
    }

    #[test]
    fn runs_of_numbers_are_drawn_together() {
        assert_eq!(runs(&[]), "");
        assert_eq!(runs(&[3]), "3");
        assert_eq!(runs(&[0, 1, 4, 5, 6, 9]), "0, 1, 4 to 6, 9");
        assert_eq!(runs(&[u64::MAX]), count(u64::MAX));
    }

    #[test]
    fn names_that_could_mislead_are_quoted() {
        assert_eq!(name("encoder.0.weight"), "encoder.0.weight");
        assert_eq!(name("größe/重み"), "größe/重み");
        assert_eq!(name(""), "\"\"");
        assert_eq!(name("a b"), "\"a b\"");
        assert_eq!(name("\u{1b}[31m\"\u{202e}"), "\"\\u{1b}[31m\\\"\\u{202e}\"");
    }

    #[test]
    fn json_is_the_same_with_and_without_its_escapes() {
        let value = serde_json::json!({"a\u{9b}\u{7f}": ["\u{202e}x", "plain", "\u{1b}"]});
        let text = json(&value);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn shortened_text_has_the_width_asked_for() {
        assert_eq!(shorten_middle("encoder.layer.weight", 11), "encod…eight");
        assert_eq!(shorten_end("encoder.layer.weight", 8), "encoder…");
        assert_eq!(shorten_middle("short", 5), "short");
        for most in 1..12 {
            assert!(width(&shorten_middle("重重重重重重", most)) <= most);
            assert!(width(&shorten_end("重重重重重重", most)) <= most);
        }
    }

    #[test]
    fn sizes_on_the_command_line_have_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        for wrong in ["", "K", "-1", "1.5M", "1 M", "99999999999999999999", "99999999999G", "1X"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
