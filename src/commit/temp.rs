//! The file under a name of its own that a save is written to: its name, its lock, its creation.

use super::file_system::{Directory, OutputFile, uninterrupted};
use std::ffi::{OsStr, OsString};
use std::io;

/// How the names of unfinished saves end.
const ENDING: &[u8] = b".dolmen-tmp";

/// Hexadecimal digits of chance in a name.
const RANDOM_DIGITS: usize = 16;

/// Bytes of the target's name that its temps carry. Longer names are cut and told apart by a checksum, so that a
/// temp's name fits wherever the target's does: some file systems allow no more than 143 bytes.
const STEM_MAX: usize = 96;

/// A name collides, is swept away or is interrupted by a signal once in a while; this often is something else.
const ATTEMPTS: usize = 32;

/// What all temp names of a target begin with, before the random digits.
fn stem(target: &OsStr) -> OsString {
    let bytes = target.as_encoded_bytes();
    let mut stem = OsString::from(".");
    if bytes.len() <= STEM_MAX {
        stem.push(target);
    } else {
        // Through text, because some file systems take UTF-8 only and a cut may not fall inside a character.
        let text = target.to_string_lossy();
        let cut = text.char_indices().map(|(i, c)| i.saturating_add(c.len_utf8())).take_while(|&end| end <= STEM_MAX);
        stem.push(text.get(..cut.last().unwrap_or(0)).unwrap_or_default());
        stem.push(format!("~{:08x}", crc32fast::hash(bytes)));
    }
    stem.push(".");
    stem
}

fn temp_name(target: &OsStr, random: u64) -> OsString {
    let mut name = stem(target);
    name.push(format!("{random:016x}.dolmen-tmp"));
    name
}

/// Whether a name is one that [`create`] makes, for any target.
pub(super) fn is_temp_name(name: &OsStr) -> bool {
    stem_of(name).is_some()
}

/// Whether a name is one that [`create`] makes for this target.
pub(super) fn is_temp_of(name: &OsStr, target: &OsStr) -> bool {
    stem_of(name) == Some(stem(target).as_encoded_bytes())
}

/// The part of a temp name before its random digits: `.name.`
fn stem_of(name: &OsStr) -> Option<&[u8]> {
    let rest = name.as_encoded_bytes().strip_suffix(ENDING)?;
    let (stem, random) = rest.split_at_checked(rest.len().checked_sub(RANDOM_DIGITS)?)?;
    let well_formed = random.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && stem.len() > 2
        && stem.starts_with(b".")
        && stem.ends_with(b".");
    well_formed.then_some(stem)
}

/// Creates a temp for a target, and takes its lock where there are locks.
pub(super) fn create(
    directory: &dyn Directory,
    target: &OsStr,
    mode: u32,
) -> io::Result<(Box<dyn OutputFile>, OsString)> {
    for _ in 0..ATTEMPTS {
        let random = getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?;
        let name = temp_name(target, random);
        let failure = match directory.create_new(&name, mode) {
            Ok(file) => match claim(directory, &name, &*file) {
                Ok(true) => return Ok((file, name)),
                Ok(false) => None,
                Err(e) => Some(e),
            },
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
            Err(e) => Some(e),
        };
        // Also when the creation failed: over a network it may have happened all the same.
        let _ = uninterrupted(|| directory.remove(&name));
        if let Some(e) = failure {
            return Err(e);
        }
    }
    Err(io::Error::other("no name for the temporary file is left alone"))
}

/// Locks a new temp, so that sweepers know its writer to be alive: `false` if one of them was faster.
fn claim(directory: &dyn Directory, name: &OsStr, file: &dyn OutputFile) -> io::Result<bool> {
    // Where there are no locks, no sweeper gets one either, and so none removes anything.
    if let Ok(false) = uninterrupted(|| file.try_lock()) {
        return Ok(false);
    }
    // A sweeper that locked the temp between its creation and our lock has removed its name by now: it does so
    // before it gives the lock back. Names are never used twice, so one that exists is ours.
    Ok(uninterrupted(|| directory.status(name))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temp_names_are_hidden_recognised_and_told_apart_by_target() {
        let name = temp_name("model.dolmen".as_ref(), 0xab);
        assert_eq!(name, ".model.dolmen.00000000000000ab.dolmen-tmp");
        assert!(is_temp_name(&name));
        assert!(is_temp_of(&name, "model.dolmen".as_ref()));
        for other in ["odel.dolmen", "model", "model.dolmen.0", ".model.dolmen", ""] {
            assert!(!is_temp_of(&name, other.as_ref()), "{other}");
        }
        for not_ours in [
            "model.dolmen",
            ".model.dolmen.dolmen-tmp",
            ".model.dolmen.00000000000000AB.dolmen-tmp",
            ".model.dolmen.0000000000000ab.dolmen-tmp",
            ".model.dolmen.00000000000000ab.dolmen-tmp.bak",
            "..00000000000000ab.dolmen-tmp",
            ".00000000000000ab.dolmen-tmp",
        ] {
            assert!(!is_temp_name(not_ours.as_ref()), "{not_ours}");
        }
    }

    #[test]
    fn temp_names_of_long_targets_are_short_and_still_differ() {
        let a = "ä".repeat(127);
        let b = format!("{}b", "ä".repeat(126));
        let name = temp_name(a.as_ref(), u64::MAX);
        assert!(name.len() <= 143, "{}", name.len());
        assert!(name.to_str().is_some());
        assert!(is_temp_name(&name) && is_temp_of(&name, a.as_ref()));
        assert!(!is_temp_of(&name, b.as_ref()));
        assert!(temp_name("x".repeat(255).as_ref(), 0).len() <= 143);
    }

    #[cfg(unix)]
    #[test]
    fn temp_names_of_targets_that_are_not_text_stay_within_the_limit() {
        use std::os::unix::ffi::OsStrExt;
        let target = OsStr::from_bytes(&[0xff; 255]);
        let name = temp_name(target, 1);
        assert!(name.len() <= 143, "{}", name.len());
        assert!(is_temp_of(&name, target));
    }
}
