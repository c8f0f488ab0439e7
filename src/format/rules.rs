//! The rules of the specification, by identifier, each with the class of failure that breaking it is.
//!
//! An error for a broken rule is made from the rule, so that its class cannot differ from the specification's; a test
//! compares this table with the tables of `spec/format.md`.

use crate::error::{Error, ErrorKind};

/// A rule of `spec/format.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The identifier, such as `TEN-11`.
    pub id: &'static str,
    /// The kind of error that breaking it is.
    pub class: ErrorKind,
}

impl Rule {
    /// The error that says the rule is broken, with advice for its class; who knows better replaces that.
    #[cold]
    pub(crate) fn broken(self, message: impl Into<String>) -> Error {
        let advice = match self.class {
            ErrorKind::UnsupportedVersion => "use a newer release of Dolmen",
            ErrorKind::NotThisFormat => "check that this is the file you meant",
            ErrorKind::Corrupt => "restore it from another copy",
            _ => "the file was damaged, or written by something faulty; restore it from another copy, or make it again",
        };
        Error::new(self.class, message).with_rule(self.id).with_advice(advice)
    }
}

macro_rules! rules {
    ($($name:ident $id:literal $class:ident)*) => {
        $(pub(crate) const $name: Rule = Rule { id: $id, class: ErrorKind::$class };)*
        /// Every rule, in the order of the specification.
        pub const RULES: &[Rule] = &[$($name),*];
    };
}

rules! {
    HDR_1 "HDR-1" Malformed
    HDR_2 "HDR-2" NotThisFormat
    HDR_3 "HDR-3" Corrupt
    HDR_4 "HDR-4" UnsupportedVersion
    HDR_5 "HDR-5" UnsupportedVersion
    HDR_6 "HDR-6" Malformed
    HDR_7 "HDR-7" Malformed
    HDR_8 "HDR-8" Malformed
    HDR_9 "HDR-9" Malformed
    HDR_10 "HDR-10" Malformed
    HDR_11 "HDR-11" Malformed
    HDR_12 "HDR-12" Corrupt
    REC_1 "REC-1" Malformed
    REC_2 "REC-2" Malformed
    REC_3 "REC-3" Corrupt
    REC_4 "REC-4" Malformed
    REC_5 "REC-5" Malformed
    REC_6 "REC-6" Malformed
    REC_7 "REC-7" Malformed
    REC_8 "REC-8" Malformed
    IDX_1 "IDX-1" Corrupt
    IDX_2 "IDX-2" Malformed
    IDX_3 "IDX-3" Malformed
    IDX_4 "IDX-4" Malformed
    IDX_5 "IDX-5" UnsupportedVersion
    IDX_6 "IDX-6" Malformed
    IDX_7 "IDX-7" Malformed
    IDX_8 "IDX-8" Malformed
    TEN_1 "TEN-1" Malformed
    TEN_2 "TEN-2" Malformed
    TEN_3 "TEN-3" Malformed
    TEN_4 "TEN-4" Malformed
    TEN_5 "TEN-5" Malformed
    TEN_6 "TEN-6" Malformed
    TEN_7 "TEN-7" Malformed
    TEN_8 "TEN-8" Malformed
    TEN_9 "TEN-9" Malformed
    TEN_10 "TEN-10" Malformed
    TEN_11 "TEN-11" Malformed
    TEN_12 "TEN-12" Malformed
    STO_1 "STO-1" Malformed
    STO_2 "STO-2" Malformed
    STO_3 "STO-3" Malformed
    STO_4 "STO-4" Corrupt
    STO_5 "STO-5" Malformed
    BLK_1 "BLK-1" Corrupt
    VAL_1 "VAL-1" Malformed
    VAL_2 "VAL-2" Malformed
    VAL_3 "VAL-3" Malformed
    VAL_4 "VAL-4" Malformed
    VAL_5 "VAL-5" Malformed
    VAL_6 "VAL-6" Malformed
}
