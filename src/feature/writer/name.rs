//! The names of a table's files.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::commit::split;
use crate::error::{Error, Result};

/// How many files a table has at most: five digits number them, so that their names sort as their numbers do.
pub const MAX_FILES: u64 = 100_000;

/// What comes before and after the number.
const BEFORE: &str = "-";
const ENDING: &str = ".dolmen";

/// What the names of a table's files begin with, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    path: PathBuf,
    /// The name without the number: `part` of `features/part`.
    name: OsString,
}

impl Prefix {
    pub(super) fn new(path: &Path) -> Result<Prefix> {
        let name = split(path).map(|(_, name)| name.to_owned()).map_err(|_| {
            Error::invalid("names a directory, and not what the names of a table's files begin with")
                .with_path(path)
                .with_advice("add the beginning of a file name, such as `part`")
        })?;
        Ok(Prefix { path: path.to_owned(), name })
    }

    /// The directory that the files are in.
    pub(super) fn directory(&self) -> &Path {
        split(&self.path).map_or(Path::new("."), |(directory, _)| directory)
    }

    /// The file of that number.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(numbered(number));
        path.into()
    }

    /// Its name in the directory.
    pub(super) fn name(&self, number: u64) -> OsString {
        let mut name = self.name.clone();
        name.push(numbered(number));
        name
    }

    /// The number of the file of that name, if it is one of this table's.
    pub(super) fn number(&self, name: &OsStr) -> Option<u64> {
        let rest = name.as_encoded_bytes().strip_prefix(self.name.as_encoded_bytes())?;
        let digits = rest.strip_prefix(BEFORE.as_bytes())?.strip_suffix(ENDING.as_bytes())?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        // No number has two names.
        (number < MAX_FILES && name == self.name(number)).then_some(number)
    }
}

fn numbered(number: u64) -> String {
    format!("{BEFORE}{number:05}{ENDING}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_name_and_names_sort_as_numbers() {
        let prefix = Prefix::new("features/part".as_ref()).unwrap();
        assert_eq!(prefix.directory(), Path::new("features"));
        for (number, name) in [(0, "part-00000.dolmen"), (79, "part-00079.dolmen"), (99_999, "part-99999.dolmen")] {
            assert_eq!(prefix.name(number), name);
            assert_eq!(prefix.path(number), Path::new("features").join(name));
            assert_eq!(prefix.number(name.as_ref()), Some(number));
        }
        let names: Vec<OsString> = (0..MAX_FILES).step_by(4999).map(|number| prefix.name(number)).collect();
        assert!(names.is_sorted());
        for other in [
            "part-0.dolmen",
            "part-000000.dolmen",
            "part-100000.dolmen",
            "part-+0001.dolmen",
            "part-00000.pt",
            "part-00000.dolmen.bak",
            ".part-00000.dolmen",
            "part00000.dolmen",
            "part-.dolmen",
            "apart-00000.dolmen",
            "part-99999999999999999999.dolmen",
            "",
        ] {
            assert_eq!(prefix.number(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn a_directory_is_no_prefix() {
        assert_eq!(Prefix::new("part".as_ref()).unwrap().directory(), Path::new("."));
        for path in ["", "features/", "features/..", "/", "."] {
            assert!(Prefix::new(path.as_ref()).is_err(), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;
        let prefix = Prefix::new(Path::new(OsStr::from_bytes(b"d/\xFF"))).unwrap();
        assert_eq!(prefix.number(OsStr::from_bytes(b"\xFF-00012.dolmen")), Some(12));
    }
}
