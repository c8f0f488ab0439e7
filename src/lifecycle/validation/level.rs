//! The levels of validation, in their order.

use std::fmt;

/// What is checked of a checkpoint, in this order; a later level is looked at only if all before it are passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// There is something of that name.
    Exists,
    /// It can be opened and read.
    Readable,
    /// It has a byte at least.
    NotEmpty,
    /// Its content is of a format that is known.
    Recognised,
    /// It was not cut off, and says of itself that it was finished.
    Complete,
    /// Every rule of its format is kept, as far as no data need be read.
    StructurallyValid,
    /// Every checksum that it has is right. The only level that reads data.
    Checksums,
    /// It holds a dictionary.
    IsDict,
    /// The keys that are needed are there.
    RequiredKeys,
    /// Tensors have the dtypes and shapes that are expected.
    Schema,
    /// There are as many ids as rows.
    IdsMatchRows,
    /// Its version is one that can be used.
    Version,
}

impl Level {
    /// All levels, in their order.
    pub const ALL: [Level; 12] = [
        Level::Exists,
        Level::Readable,
        Level::NotEmpty,
        Level::Recognised,
        Level::Complete,
        Level::StructurallyValid,
        Level::Checksums,
        Level::IsDict,
        Level::RequiredKeys,
        Level::Schema,
        Level::IdsMatchRows,
        Level::Version,
    ];

    /// The name in messages and JSON, such as `not empty`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Exists => "exists",
            Level::Readable => "readable",
            Level::NotEmpty => "not empty",
            Level::Recognised => "recognised",
            Level::Complete => "complete",
            Level::StructurallyValid => "structurally valid",
            Level::Checksums => "checksums",
            Level::IsDict => "is a dict",
            Level::RequiredKeys => "required keys",
            Level::Schema => "schema",
            Level::IdsMatchRows => "ids match rows",
            Level::Version => "version",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
