//! The one error type of the crate: what went wrong, where, which rule of the specification it
//! breaks, and what to do about it, all as data.
//!
//! Every other room imports this one; it imports none.

use std::fmt;
use std::path::{Path, PathBuf};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is: who is at fault, and so what a caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused or failed: a missing file, no permission, a full disk.
    Io,
    /// The bytes are not a Dolmen file at all: empty, a git-LFS pointer, an HTML page, another format.
    NotThisFormat,
    /// The file may be good, but needs a newer reader.
    UnsupportedVersion,
    /// A rule of structure is broken.
    Malformed,
    /// A checksum, or a copy that must agree, disagrees.
    Corrupt,
    /// A limit that the caller set was exceeded.
    Limit,
    /// There is no tensor (or file to replace) of that name.
    NotFound,
    /// The caller asked for something that cannot be: a shape that does not fit its bytes, a typed view of
    /// another dtype, a name used twice.
    InvalidInput,
    /// The new file is visible under its name, but flushing the directory failed: after a crash either the
    /// old or the new file may be there.
    NotDurable,
    /// A device, such as a GPU, or its driver is not there, or failed.
    Device,
}

impl ErrorKind {
    /// The name used in the specification, in JSON and in messages, such as `Malformed`.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Io => "Io",
            ErrorKind::NotThisFormat => "NotThisFormat",
            ErrorKind::UnsupportedVersion => "UnsupportedVersion",
            ErrorKind::Malformed => "Malformed",
            ErrorKind::Corrupt => "Corrupt",
            ErrorKind::Limit => "Limit",
            ErrorKind::NotFound => "NotFound",
            ErrorKind::InvalidInput => "InvalidInput",
            ErrorKind::NotDurable => "NotDurable",
            ErrorKind::Device => "Device",
        }
    }
}

/// A failure, with all that is known about it.
///
/// It is one word in size. The message reads like
/// `model.dolmen: tensor "blk.0.w": data ends at 9000 of a storage of 8192 bytes, at byte 512 [TEN-11]`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    expected: Option<u64>,
    found: Option<u64>,
    rule: Option<&'static str>,
    advice: Option<&'static str>,
    source: Option<std::io::Error>,
    /// The bytes are a file of another format, and nothing speaks against it.
    other_format: bool,
    /// The file ends too early.
    incomplete: bool,
}

impl Error {
    /// An error of a kind with a message.
    ///
    /// Guests and other crates build on Dolmen's error with this and the `with_…` methods.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            tensor: None,
            offset: None,
            expected: None,
            found: None,
            rule: None,
            advice: None,
            source: None,
            other_format: false,
            incomplete: false,
        }))
    }

    /// An [`ErrorKind::Io`] error: `doing` says what was being done, as in `cannot open`.
    #[cold]
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Error {
        let mut error = Error::new(ErrorKind::Io, doing);
        error.0.source = Some(source);
        error
    }

    #[cold]
    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message)
    }

    /// Names the file.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Error {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Names the tensor.
    #[must_use]
    pub fn with_tensor(mut self, name: &str) -> Error {
        self.0.tensor.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Says at which byte of the file.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Error {
        self.0.offset = Some(offset);
        self
    }

    /// Says what number was expected and what was found instead: lengths, or CRCs.
    #[must_use]
    pub fn with_numbers(mut self, expected: u64, found: u64) -> Error {
        self.0.expected = Some(expected);
        self.0.found = Some(found);
        self
    }

    /// Names the rule of the specification that is broken, such as `TEN-11`.
    #[must_use]
    pub fn with_rule(mut self, rule: &'static str) -> Error {
        self.0.rule = Some(rule);
        self
    }

    /// Says what the reader of the message can do.
    #[must_use]
    pub fn with_advice(mut self, advice: &'static str) -> Error {
        self.0.advice = Some(advice);
        self
    }

    /// Puts words in front of the message.
    #[must_use]
    #[cfg(any(feature = "torch", feature = "feature"))]
    pub(crate) fn with_words_before(mut self, words: &str) -> Error {
        self.0.message.insert_str(0, words);
        self
    }

    /// Says that the file is one of another format, which may be good.
    #[must_use]
    pub(crate) fn with_other_format(mut self, other_format: bool) -> Error {
        self.0.other_format = other_format;
        self
    }

    /// Says that the file ends too early, and what to do about that.
    #[must_use]
    #[cold]
    pub(crate) fn cut_off(mut self) -> Error {
        self.0.incomplete = true;
        self.with_advice("a copy or download was cut off; fetch it again")
    }

    /// Turns an I/O error into one of another kind, keeping all else.
    #[must_use]
    #[cfg(feature = "fs")]
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file, if known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The tensor, if one is concerned.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The byte of the file at which the fault lies, if known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The number (a length, a CRC) that should have been there.
    pub fn expected(&self) -> Option<u64> {
        self.0.expected
    }

    /// The number that was there instead.
    pub fn found(&self) -> Option<u64> {
        self.0.found
    }

    /// The rule of `spec/format.md` that is broken, such as `TEN-11`.
    pub fn rule(&self) -> Option<&'static str> {
        self.0.rule
    }

    /// What can be done about it, where something can.
    pub fn advice(&self) -> Option<&'static str> {
        self.0.advice
    }

    /// The operating system's error, if this came from one.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.0.source.as_ref()
    }

    /// The message without the file's name and the advice: for reports that show those apart.
    pub fn reason(&self) -> String {
        struct Reason<'a>(&'a Inner);
        impl fmt::Display for Reason<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_reason(f)
            }
        }
        Reason(&self.0).to_string()
    }

    /// Whether the file's content is at fault (damaged, malformed or something else), rather than the
    /// machine, the caller or this reader's age.
    pub fn is_corruption(&self) -> bool {
        match self.kind() {
            ErrorKind::Corrupt | ErrorKind::Malformed => true,
            ErrorKind::NotThisFormat => !self.0.other_format,
            _ => false,
        }
    }

    /// Whether the file ends too early, or says that it was never finished: what is there may be as it was written.
    pub fn is_incomplete(&self) -> bool {
        self.0.incomplete
    }

    /// Whether the file may be good but this reader cannot take it: it needs a newer one, or is of a format that is not read.
    pub fn is_incompatible(&self) -> bool {
        match self.kind() {
            ErrorKind::UnsupportedVersion => true,
            ErrorKind::NotThisFormat => self.0.other_format,
            _ => false,
        }
    }
}

impl Inner {
    fn write_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {}: ", quoted(tensor))?;
        }
        f.write_str(&self.message)?;
        if let Some(offset) = self.offset {
            write!(f, ", at byte {offset}")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(rule) = self.rule {
            write!(f, " [{rule}]")?;
        }
        Ok(())
    }
}

/// A name from a file made safe to show: quoted, with control characters escaped, and shortened if it is
/// long, so that a hostile name cannot write on a terminal or fill a log.
pub(crate) fn quoted(name: &str) -> String {
    const SHOWN: usize = 200;
    let mut out = String::with_capacity(name.len().min(SHOWN).saturating_add(2));
    out.push('"');
    for (i, c) in name.chars().enumerate() {
        if i == SHOWN {
            out.push('…');
            break;
        }
        if c.is_control() || c == '"' || c == '\\' || is_bidi_control(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('"');
    out
}

/// Characters that reorder the text around them on a screen.
pub(crate) fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{061C}')
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        self.0.write_reason(f)?;
        if let Some(advice) = self.0.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.kind().name())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_file_tensor_offset_rule_and_advice() {
        let e = Error::new(ErrorKind::Malformed, "data ends at 9000, file has 8192")
            .with_path("m.dolmen")
            .with_tensor("blk.0.w")
            .with_offset(512)
            .with_rule("TEN-11")
            .with_advice("copy it again");
        assert_eq!(
            e.to_string(),
            "m.dolmen: tensor \"blk.0.w\": data ends at 9000, file has 8192, at byte 512 [TEN-11]; copy it again"
        );
        assert_eq!(e.reason(), "tensor \"blk.0.w\": data ends at 9000, file has 8192, at byte 512 [TEN-11]");
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn hostile_names_are_escaped_and_shortened() {
        assert_eq!(quoted("a\u{1b}[31m\n\u{202e}"), "\"a\\u{1b}[31m\\n\\u{202e}\"");
        assert!(quoted(&"x".repeat(100_000)).len() < 300);
    }
}
