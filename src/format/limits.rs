//! Limits that the caller of a reader sets.

/// What a reader will accept at most.
///
/// The format has no arbitrary caps, and a reader never allocates more than the file's own size on the file's word. A service
/// that opens files of strangers can bound it further. Exceeding a limit is
/// [`ErrorKind::Limit`](crate::ErrorKind::Limit), and says nothing about the file's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the whole file. Opening into memory allocates this much.
    pub max_file_len: u64,
    /// Bytes of the index: its checksum is computed over all of them at opening.
    pub max_index_len: u64,
    /// Tensors in the index.
    pub max_tensors: u64,
    /// Bytes of the metadata and of the document, each. A decoded document takes up to about 50 times its encoded length; metadata made
    /// to cost most, of maps within maps, up to about 320 times.
    pub max_value_len: u64,
}

impl Limits {
    /// No limit but those of the format and of the file's own size.
    pub const NONE: Limits =
        Limits { max_file_len: u64::MAX, max_index_len: u64::MAX, max_tensors: u64::MAX, max_value_len: u64::MAX };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::NONE
    }
}
