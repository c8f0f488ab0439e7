//! Generalised UTF-8: UTF-8 that may encode surrogates as well, in pairs or alone.

/// Whether bytes are generalised UTF-8. Valid UTF-8 is too.
pub(super) fn is_generalised_utf8(mut bytes: &[u8]) -> bool {
    while let Err(error) = std::str::from_utf8(bytes) {
        let rest = bytes.get(error.valid_up_to()..);
        let Some([0xED, 0xA0..=0xBF, 0x80..=0xBF, after @ ..]) = rest else { return false };
        bytes = after;
    }
    true
}
