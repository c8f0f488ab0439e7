//! The CBOR tags that values use, as the specification assigns them.

pub(super) const BIGNUM: u64 = 2;
pub(super) const NEGATIVE_BIGNUM: u64 = 3;
pub(super) const SHAREABLE: u64 = 28;
pub(super) const SHARED_REF: u64 = 29;
pub(super) const COMPLEX: u64 = 43000;
pub(super) const TENSOR: u64 = 0x444F_4C01;
pub(super) const TUPLE: u64 = 0x444F_4C02;
pub(super) const SET: u64 = 0x444F_4C03;
pub(super) const FROZENSET: u64 = 0x444F_4C04;
pub(super) const DICT: u64 = 0x444F_4C05;
pub(super) const OTHER_DICT: u64 = 0x444F_4C06;
pub(super) const BYTEARRAY: u64 = 0x444F_4C07;
pub(super) const WTF8: u64 = 0x444F_4C08;
pub(super) const GLOBAL: u64 = 0x444F_4C09;
pub(super) const OBJECT: u64 = 0x444F_4C0A;

/// Every tag with its name in the specification.
pub(super) const ALL: [(u64, &str); 15] = [
    (BIGNUM, "bignum"),
    (NEGATIVE_BIGNUM, "negative_bignum"),
    (SHAREABLE, "shareable"),
    (SHARED_REF, "shared_ref"),
    (COMPLEX, "complex"),
    (TENSOR, "tensor"),
    (TUPLE, "tuple"),
    (SET, "set"),
    (FROZENSET, "frozenset"),
    (DICT, "dict"),
    (OTHER_DICT, "other_dict"),
    (BYTEARRAY, "bytearray"),
    (WTF8, "wtf8"),
    (GLOBAL, "global"),
    (OBJECT, "object"),
];

/// The name of a tag, for messages.
pub(super) fn name(tag: u64) -> &'static str {
    ALL.iter().find(|(number, _)| *number == tag).map_or("unknown", |(_, name)| name)
}
