//! Where in a checkpoint the ids, the matrices and the labels of a table are.

/// Which parts of a checkpoint make a table: the keys of its ids, matrices and labels.
///
/// A key is one of the outermost dictionary, or with dots one within it, or the name of a tensor. With `*` for the positions of a list it
/// names one row each: `data.*.mean_representation`. A matrix is a tensor, whose first axis is rows, or a list of tensors, which are a row
/// each. Several matrices lie side by side in a row, in the order given.
///
/// What is not named is looked for: the only matrix, the only list of texts as ids, and the numbers at `labels`. So most files need no
/// layout at all, and what cannot be told apart is an error that lists what there is.
///
/// ```
/// use dolmen::feature::Layout;
///
/// let merged = Layout::new();
/// let batch = Layout::new().matrix("embeddings").ids("sequence_ids");
/// let dnabert = Layout::new().matrix("data.*.mean_representation").ids("nucleotide").no_labels();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Layout {
    pub(super) matrices: Vec<String>,
    pub(super) ids: Wanted,
    pub(super) labels: Wanted,
}

/// Whether something is looked for, named, or not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    #[default]
    IfThere,
    At(String),
    No,
}

impl Layout {
    /// Everything is looked for.
    pub fn new() -> Layout {
        Layout::default()
    }

    /// Adds the matrix at a key.
    pub fn matrix(mut self, key: impl Into<String>) -> Layout {
        self.matrices.push(key.into());
        self
    }

    /// The ids are at this key: a list of texts or integers, or a tensor of integers. There may be more of them than rows; the surplus names no
    /// row.
    pub fn ids(mut self, key: impl Into<String>) -> Layout {
        self.ids = Wanted::At(key.into());
        self
    }

    /// No ids are read: they take memory, and are of no use if rows are never looked up.
    pub fn no_ids(mut self) -> Layout {
        self.ids = Wanted::No;
        self
    }

    /// The labels are at this key: integers or truth values, one for each row.
    pub fn labels(mut self, key: impl Into<String>) -> Layout {
        self.labels = Wanted::At(key.into());
        self
    }

    /// No labels are read.
    pub fn no_labels(mut self) -> Layout {
        self.labels = Wanted::No;
        self
    }
}
