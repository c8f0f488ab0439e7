//! [`Version`]: the version of a checkpoint's content, which is the program's affair and not the format's.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use crate::error::{Error, Result, quoted};
use crate::format::value::Value;

/// The version that saves embed unless told otherwise.
pub const CHECKPOINT_VERSION: &str = "1.0";

/// The version of a checkpoint's content: numbers with dots between, or `0.x`, which a checkpoint has that says none.
///
/// Versions are compared number by number, and numbers that are missing are 0: `10.0` is newer than `2.0`, and `1` is `1.0`. `0.x` is older
/// than all others. Each is shown as it was written.
///
/// ```
/// # use dolmen::lifecycle::Version;
/// let version: Version = "10.0".parse()?;
/// assert!(version > "2.0".parse()?);
/// assert_eq!(version.major(), 10);
/// assert!("two".parse::<Version>().is_err());
/// # Ok::<(), dolmen::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    /// Without zeros at the end; `None` for `0.x`.
    numbers: Option<Vec<u64>>,
}

/// What a version is shown as that no checkpoint says.
const UNVERSIONED: &str = "0.x";
/// No version is longer.
const MAX_LEN: usize = 64;
const EXPECTED: &str = "expected numbers with dots between, such as \"1.0\"";

impl Version {
    /// `0.x`: the version of what was saved before there were versions.
    pub fn unversioned() -> Version {
        Version { text: UNVERSIONED.to_owned(), numbers: None }
    }

    /// 1.0, the first that was written into checkpoints.
    pub(in crate::lifecycle) fn first() -> Version {
        Version { text: CHECKPOINT_VERSION.to_owned(), numbers: Some(vec![1]) }
    }

    /// Whether it is `0.x`.
    pub fn is_unversioned(&self) -> bool {
        self.numbers.is_none()
    }

    /// The first number: programs of one major version read each other's checkpoints.
    pub fn major(&self) -> u64 {
        self.numbers.as_ref().and_then(|numbers| numbers.first()).copied().unwrap_or(0)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The version that a value says.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is not text, or not that of a version. The message shows what it is.
    pub fn of_value(value: &Value) -> Result<Version> {
        match value.unmarked() {
            Value::Text(text) => text.parse(),
            other => Err(Error::invalid(format!("the version is {}: {EXPECTED}, as text", in_words(other)))),
        }
    }
}

/// What a value is that should have been text, in a few words.
pub(in crate::lifecycle) fn in_words(value: &Value) -> String {
    match value.unmarked() {
        Value::Null => "None".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Int(value) => format!("the integer {value}"),
        Value::BigInt(_) => "a large integer".to_owned(),
        Value::Float(value) => format!("the number {value:?}"),
        Value::Complex(..) => "a complex number".to_owned(),
        Value::Text(text) => quoted(text),
        Value::Wtf8(_) => "text with lone surrogates".to_owned(),
        Value::Bytes(_) | Value::ByteArray(_) => "bytes".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Tuple(_) => "a tuple".to_owned(),
        Value::Set(_) | Value::FrozenSet(_) => "a set".to_owned(),
        Value::Dict(_) | Value::Map(_) => "a dictionary".to_owned(),
        Value::Tensor(_) => "a tensor".to_owned(),
        Value::Global(_) => "a class or function".to_owned(),
        _ => "an object".to_owned(),
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version> {
        if text == UNVERSIONED {
            return Ok(Version::unversioned());
        }
        let wrong = || Error::invalid(format!("the version is {}: {EXPECTED}", quoted(text)));
        if text.len() > MAX_LEN {
            return Err(wrong());
        }
        // `u64::from_str` would take a sign.
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let mut numbers: Vec<u64> = text.split('.').map(number).collect::<Result<_>>()?;
        numbers.truncate(numbers.iter().rposition(|&number| number != 0).map_or(0, |last| last.saturating_add(1)));
        Ok(Version { text: text.to_owned(), numbers: Some(numbers) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl From<&Version> for Value {
    fn from(version: &Version) -> Value {
        Value::from(version.as_str())
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers.hash(state);
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        // Without zeros at their ends, a list that begins like another and goes on is the greater one, as it should be; and `None` is the least.
        self.numbers.cmp(&other.numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let ascending = ["0.x", "0", "0.1", "0.9", "0.10", "1", "1.0.1", "1.2", "1.10", "2.0", "10.0"];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(version(a).cmp(&version(b)), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(version("1"), version("1.0.0"));
        assert_eq!(version("01.00"), version("1"));
    }

    #[test]
    fn versions_are_shown_as_they_were_written() {
        for text in ["0.x", "1", "1.0", "1.2.3", "18446744073709551615.0"] {
            assert_eq!(version(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_version_is_shown_bounded_and_escaped() {
        let long = "1.".repeat(100_000);
        let wrong =
            ["", ".", "1.", ".1", "1..0", "v1.0", "1.x", "0.X", " 1.0", "1.0\n", "+1", "-1", "1e3", "²", "٣", &long];
        for text in wrong {
            let e = text.parse::<Version>().expect_err(text);
            assert!(e.reason().len() < 400, "{e}");
        }
        let e = "\u{1b}[31m".parse::<Version>().unwrap_err();
        assert!(e.reason().contains("\\u{1b}[31m"), "{e}");
        assert!("18446744073709551616".parse::<Version>().is_err());
    }
}
