//! A line of the log, to and from text.

use std::ffi::OsString;
use std::path::PathBuf;

use super::FailedCheckpoint;
use crate::error::{Error, Result};
use crate::lifecycle::error::CheckpointErrorKind;

/// Bytes of a path, and of a reason, that are written at most.
const PATH_MAX: usize = 32 << 10;
const REASON_MAX: usize = 16 << 10;

/// Longer than any line that is written here, in which each byte may become three.
pub(super) const LINE_MAX: usize = 256 << 10;

/// Characters of a time that are read at most.
const TIME_MAX: usize = 40;

/// The line that says of a failure, with its newline.
pub(super) fn written(failed: &FailedCheckpoint) -> Result<String> {
    let path = failed.path.as_os_str().as_encoded_bytes();
    if path.is_empty() || path.len() > PATH_MAX {
        return Err(Error::invalid(format!(
            "the path of a failed checkpoint has {} bytes; 1 to {PATH_MAX} can be remembered",
            path.len()
        )));
    }
    if !is_our_time(&failed.time) {
        return Err(Error::invalid("the time of a failure must be UTC and read like 2026-01-23T12:00:00Z"));
    }
    let reason = shortened(&failed.reason);
    Ok(format!("{}|{}|{}\n", escaped(path), escaped(reason.as_bytes()), failed.time))
}

/// The failure that a line tells of, without its newline; `None` if it tells of none.
pub(super) fn parsed(line: &[u8]) -> Option<FailedCheckpoint> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > LINE_MAX || line.contains(&0) {
        return None;
    }
    parsed_as_ours(line).or_else(|| parsed_as_raw(line))
}

/// The failure that a line tells of whose newline is missing: none, if more may be missing, and path or reason could be another's then.
pub(super) fn parsed_unfinished(line: &[u8]) -> Option<FailedCheckpoint> {
    parsed(line).filter(|failed| is_our_time(&failed.time))
}

/// A line of ours: two bars, a time that ends in `Z`, and nothing that escaping would have written differently.
fn parsed_as_ours(line: &[u8]) -> Option<FailedCheckpoint> {
    let mut parts = std::str::from_utf8(line).ok()?.split('|');
    let (path, reason, time) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_our_time(time) || path.is_empty() {
        return None;
    }
    let (path, reason) = (unescaped(path)?, unescaped(reason)?);
    Some(FailedCheckpoint { path: path_of(path), reason: text_of(reason), time: time.to_owned() })
}

/// A line in which nothing is escaped, as the original wrote it.
fn parsed_as_raw(line: &[u8]) -> Option<FailedCheckpoint> {
    let last_bar = line.iter().rposition(|&b| b == b'|')?;
    let (rest, time) = (line.get(..last_bar)?, line.get(last_bar.checked_add(1)?..)?);
    if !is_like_time(time) {
        return None;
    }
    let bar = reason_begins(rest).or_else(|| rest.iter().position(|&b| b == b'|'))?;
    let (path, reason) = (rest.get(..bar)?, rest.get(bar.checked_add(1)?..)?);
    (!path.is_empty() && !time.is_empty()).then(|| FailedCheckpoint {
        path: path_of(path.to_vec()),
        reason: text_of(reason.to_vec()),
        time: text_of(time.to_vec()),
    })
}

/// The first bar that a kind of trouble follows.
fn reason_begins(rest: &[u8]) -> Option<usize> {
    use CheckpointErrorKind::{Corrupted, Incompatible, Unreadable};
    let begins = |after: &[u8]| {
        [Corrupted, Incompatible, Unreadable]
            .iter()
            .any(|kind| after.strip_prefix(kind.name().as_bytes()).is_some_and(|rest| rest.starts_with(b":")))
    };
    let mut bars = rest.iter().enumerate().filter(|(_, b)| **b == b'|').map(|(at, _)| at);
    bars.find(|at| rest.get(at.saturating_add(1)..).is_some_and(begins))
}

fn is_our_time(time: &str) -> bool {
    time.len() <= TIME_MAX && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok()
}

/// What a time is made of, also one that was cut off.
fn is_like_time(time: &[u8]) -> bool {
    time.len() <= TIME_MAX && time.iter().all(|b| b.is_ascii_digit() || b"TZ:.+-".contains(b))
}

fn shortened(reason: &str) -> std::borrow::Cow<'_, str> {
    if reason.len() <= REASON_MAX {
        return reason.into();
    }
    let begin = (0..=REASON_MAX).rev().find_map(|end| reason.get(..end)).unwrap_or_default();
    format!("{begin}…").into()
}

/// `|`, `%`, control characters and bytes that are no UTF-8 as `%XX`, the rest as it is.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let escape = |out: &mut String, bytes: &[u8]| {
        for b in bytes {
            out.push_str(&format!("%{b:02X}"));
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() || matches!(c, '|' | '%') {
                true => escape(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                false => out.push(c),
            }
        }
        escape(&mut out, chunk.invalid());
    }
    out
}

/// The bytes whose [`escaped`] form is exactly this text, if there are any.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                after
            }
            _ => {
                bytes.push(first);
                after
            }
        };
    }
    (escaped(&bytes) == text).then_some(bytes)
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes).into()
}

// Names that are not Unicode come back with replacement characters here.
#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from(text_of(bytes)).into()
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}
