//! The names of batches and shards.

use std::ffi::{OsStr, OsString};

/// The highest number of a batch: nine digits.
pub(super) const NUMBER_MAX: u64 = 999_999_999;

/// What a name in a shard's directory stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A batch: of this crate, or of the original.
    Batch { number: u64, is_ours: bool },
    /// The empty file that says of another that it is complete.
    MarkerOf(OsString),
    /// The lock, and what is being saved.
    Working,
    /// Something that nobody here has made.
    Strange,
}

impl Name {
    pub(super) fn of(name: &OsStr) -> Name {
        let Some(text) = name.to_str() else { return Name::Strange };
        if text == super::LOCK_FILE || (text.starts_with(".batch_") && text.ends_with(".dolmen-tmp")) {
            return Name::Working;
        }
        if let Some(file) = text.strip_suffix(".done") {
            return match Name::of(file.as_ref()) {
                Name::Batch { .. } => Name::MarkerOf(file.into()),
                _ => Name::Strange,
            };
        }
        number_and_kind(text).map_or(Name::Strange, |(number, is_ours)| Name::Batch { number, is_ours })
    }
}

/// The file name of a batch, if its number has one.
pub(super) fn batch(number: u64) -> Option<String> {
    (number <= NUMBER_MAX).then(|| format!("batch_{number:05}.dolmen"))
}

/// The number in a batch's file name.
pub(super) fn number(name: &OsStr) -> Option<u64> {
    Some(number_and_kind(name.to_str()?)?.0)
}

/// The number in a shard's name.
pub(super) fn rank(name: &OsStr) -> Option<u32> {
    let digits = name.to_str()?.strip_prefix("shard_")?;
    let rank = digits.parse().ok()?;
    // No number has two names.
    (digits == u32::to_string(&rank)).then_some(rank)
}

fn number_and_kind(name: &str) -> Option<(u64, bool)> {
    let (digits, ending) = name.strip_prefix("batch_")?.split_once('.')?;
    let is_ours = match ending {
        "dolmen" => true,
        "pt" => false,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    (number <= NUMBER_MAX && digits == format!("{number:05}")).then_some((number, is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_name_and_every_other_name_is_strange() {
        for (number, name) in
            [(0, "batch_00000.dolmen"), (99_999, "batch_99999.dolmen"), (100_000, "batch_100000.dolmen")]
        {
            assert_eq!(batch(number).as_deref(), Some(name));
            assert_eq!(Name::of(name.as_ref()), Name::Batch { number, is_ours: true });
        }
        assert_eq!(Name::of("batch_00007.pt".as_ref()), Name::Batch { number: 7, is_ours: false });
        assert_eq!(Name::of("batch_00007.pt.done".as_ref()), Name::MarkerOf("batch_00007.pt".into()));
        assert_eq!(batch(NUMBER_MAX + 1), None);
        for strange in [
            "batch_7.dolmen",
            "batch_000007.dolmen",
            "batch_+0007.dolmen",
            "batch_1000000000.dolmen",
            "batch_99999999999999999999999.dolmen",
            "batch_00007.dolmen.bak",
            "batch_00007.npz",
            "batch_.dolmen",
            "notes.done",
            "00007.dolmen",
            "",
        ] {
            assert_eq!(Name::of(strange.as_ref()), Name::Strange, "{strange}");
        }
        assert_eq!(rank("shard_12".as_ref()), Some(12));
        for strange in ["shard_", "shard_01", "shard_+1", "shard_-1", "shard_99999999999", "shards_1"] {
            assert_eq!(rank(strange.as_ref()), None, "{strange}");
        }
    }
}
