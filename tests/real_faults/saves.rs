//! What is saved in these tests, and what may be left of it when something happens.

use crate::errand::{Ended, Mark};
use dolmen::commit::{SaveOptions, sweep};
use dolmen::format::checksum::crc32;
use dolmen::lifecycle::{FailedCheckpoint, FailedLog, Save as ValidatedSave, Validator};
use dolmen::{Builder, Checkpoint, DType, Durability, Result, TensorData, VerifyOptions, Writer};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub const FILE: &str = "m.dolmen";
const LOG: &str = "failed_checkpoints.txt";
const MODE: u32 = 0o640;

/// What an earlier save of the same file left when it was killed.
const LEFTOVER: &str = ".m.dolmen.00112233445566aa.dolmen-tmp";
/// The same of another file, which no save of this one may touch.
const OF_ANOTHER: &str = ".n.dolmen.00112233445566bb.dolmen-tmp";

/// Bytes of the tensor of the content saved in most tests: more than one piece of what a save writes at once.
const NEW_LEN: usize = 1_200_000;
const OLD_LEN: usize = 70_000;

/// Bytes that are different for each version and position.
pub fn pattern(version: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ version.wrapping_mul(0x9E37_79B9)) as u8).collect()
}

/// A checkpoint that says which version it is, and is full of it.
pub fn builder(version: u64, len: usize) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("version", TensorData::raw(DType::U64, [1], version.to_le_bytes().to_vec()).unwrap()).unwrap();
    b.tensor("small", &[0.5f32, -1.0]).unwrap();
    b.tensor("pattern", TensorData::raw(DType::U8, [len as u64], pattern(version, len)).unwrap()).unwrap();
    b.metadata("version", version.to_string());
    b
}

/// The same content, written as it is produced.
pub fn stream(path: &Path, version: u64, bytes: &[u8], options: &SaveOptions) -> Result<()> {
    let mut w = Writer::create_with(path, dolmen::FileOptions::new(), options)?;
    w.metadata("version", version.to_string());
    w.tensor("version", &[version])?;
    w.tensor("small", &[0.5f32, -1.0])?;
    let mut rows = w.begin_rows("pattern", DType::U8, ())?;
    for piece in bytes.chunks(17_000) {
        rows.write_bytes(piece)?;
    }
    rows.finish()?;
    w.commit()
}

/// The version of a whole file, verified strictly; what is wrong if it is none.
pub fn version_of(path: &Path, len: impl Fn(u64) -> usize) -> Result<u64, String> {
    let say = |e: dolmen::Error| e.to_string();
    let file = Checkpoint::open(path).map_err(say)?;
    let mut options = VerifyOptions::default();
    options.threads = 1;
    let report = file.verify_with(&options).map_err(say)?;
    if !report.is_valid() || report.file_len != fs::metadata(path).map_err(|e| e.to_string())?.len() {
        return Err(format!("{report:?}"));
    }
    let version = file.tensor("version").and_then(|t| t.to_vec::<u64>()).map_err(say)?[0];
    let bytes = file.tensor("pattern").and_then(|t| t.bytes()).map_err(say)?;
    match bytes == pattern(version, len(version)) && file.len() == 3 {
        true => Ok(version),
        false => Err(format!("version {version} with other content, of {} bytes", bytes.len())),
    }
}

fn failure(number: u64) -> FailedCheckpoint {
    FailedCheckpoint {
        path: PathBuf::from(format!("output_{number}.dolmen")),
        reason: "corrupted: file is 0 bytes".into(),
        time: format!("2026-01-23T12:00:{number:02}.000000Z"),
    }
}

/// A way of saving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// A builder's content over an old file, beside what killed savers left.
    Over,
    /// A builder's content under a name that must be new.
    New,
    /// A streaming writer over an old file.
    Streaming,
    /// With version and status, validated before it is put in place.
    Validated,
    /// Without any flush.
    Unflushed,
    /// Through a symbolic link into another directory.
    ThroughALink,
    /// The first failure that a log remembers.
    LogBegin,
    /// A further failure.
    LogAppend,
    /// One of two failures is forgotten.
    LogClear,
    /// The last failure is forgotten, and the file goes.
    LogRemove,
    /// What dead savers left is removed.
    Sweep,
}

impl Save {
    pub const ALL: [Save; 11] = [
        Save::Over,
        Save::New,
        Save::Streaming,
        Save::Validated,
        Save::Unflushed,
        Save::ThroughALink,
        Save::LogBegin,
        Save::LogAppend,
        Save::LogClear,
        Save::LogRemove,
        Save::Sweep,
    ];

    pub fn named(name: &str) -> Save {
        Save::ALL.into_iter().find(|save| format!("{save:?}") == name).unwrap_or_else(|| panic!("no save {name}"))
    }

    pub fn is_log(self) -> bool {
        matches!(self, Save::LogBegin | Save::LogAppend | Save::LogClear | Save::LogRemove)
    }

    fn is_append(self) -> bool {
        matches!(self, Save::LogBegin | Save::LogAppend)
    }

    /// How often it flushes.
    pub fn flushes(self) -> usize {
        match self {
            Save::Unflushed | Save::Sweep => 0,
            Save::LogRemove => 1,
            _ => 2,
        }
    }

    fn file_name(self) -> &'static str {
        if self.is_log() { LOG } else { FILE }
    }

    /// The directory in which the file is.
    pub fn directory(self, room: &Path) -> PathBuf {
        if self == Save::ThroughALink { room.join("far") } else { room.to_owned() }
    }

    /// The file itself, which is where links lead.
    pub fn target(self, room: &Path) -> PathBuf {
        self.directory(room).join(self.file_name())
    }

    /// Makes the room, and puts into it what is there before the save.
    pub fn prepare(self, room: &Path, expected: &Expected) {
        fs::create_dir_all(self.directory(room)).unwrap();
        let target = self.target(room);
        if let Some(old) = &expected.old {
            fs::write(&target, old).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(MODE)).unwrap();
        }
        if matches!(self, Save::Over | Save::Sweep) {
            fs::write(room.join(LEFTOVER), "half a file").unwrap();
            fs::write(room.join(OF_ANOTHER), "half a file").unwrap();
        }
        if self == Save::ThroughALink {
            symlink(format!("far/{FILE}"), room.join(FILE)).unwrap();
        }
    }

    /// Saves. The marks are around what may fail: what is saved is gathered before.
    pub fn perform(self, room: &Path, mark: &dyn Fn(Mark)) -> Result<()> {
        let options = SaveOptions::new();
        let path = room.join(self.file_name());
        let log = FailedLog::in_directory(room);
        let content = builder(2, NEW_LEN);
        let bytes = pattern(2, NEW_LEN);
        let (second, third) = ([failure(2)], [failure(3)]);
        let between = |work: &dyn Fn() -> Result<()>| {
            mark(Mark::Begin);
            let result = work();
            mark(Mark::End);
            result
        };
        match self {
            Save::Over | Save::ThroughALink => between(&|| content.save(&path)),
            Save::New => between(&|| content.save_with(&path, &options.clone().create_new(true))),
            Save::Streaming => between(&|| stream(&path, 2, &bytes, &options)),
            Save::Validated => {
                let save = ValidatedSave::new().validator(Validator::new().required_keys(["pattern"]).threads(1));
                between(&|| save.save(&content, &path))
            }
            Save::Unflushed => between(&|| content.save_with(&path, &options.clone().durability(Durability::None))),
            Save::LogBegin => between(&|| log.record(&second)),
            Save::LogAppend => between(&|| log.record(&third)),
            Save::LogClear | Save::LogRemove => between(&|| log.clear([&failure(1).path]).map(drop)),
            Save::Sweep => between(&|| sweep(room).map(drop)),
        }
    }

    fn old(self) -> Option<Vec<u8>> {
        let log = |numbers: &[u64]| {
            let room = tempfile::tempdir().unwrap();
            let log = FailedLog::in_directory(room.path());
            log.record(&numbers.iter().map(|&n| failure(n)).collect::<Vec<_>>()).unwrap();
            Some(fs::read(log.path()).unwrap())
        };
        match self {
            Save::New | Save::LogBegin => None,
            Save::LogAppend | Save::LogClear => log(&[1, 2]),
            Save::LogRemove => log(&[1]),
            _ => Some(builder(1, OLD_LEN).to_vec().unwrap()),
        }
    }
}

/// What is there before a save and after it.
#[derive(Debug)]
pub struct Expected {
    pub save: Save,
    pub old: Option<Vec<u8>>,
    pub new: Option<Vec<u8>>,
}

/// What happens to a process, as far as it says what may be left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happening {
    /// The process is killed.
    pub kills: bool,
    /// Names of files cannot be removed.
    pub no_unlink: bool,
    /// What is done when the save has been made durable may be hit: the removing of what killed savers left.
    pub sweep_may_fail: bool,
    /// The directory is said not to exist.
    pub says_that_there_is_none: bool,
    /// Something else is said to have the name already.
    pub name_is_taken: bool,
}

/// How it came out. There is no other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    SuccessNew,
    /// What is not there need not be removed.
    NothingToDo,
    ErrorOld,
    NotDurableNew,
    /// A log's own exception: what was there is untouched, and of the new line some bytes may be there.
    ErrorPartOfALine,
    KilledOld,
    KilledNew,
    KilledPartOfALine,
    /// The allocator had no memory for a small thing, which ends a program in Rust.
    Aborted,
}

impl Expected {
    /// Saves once, with nothing happening.
    pub fn of(save: Save) -> Expected {
        let room = tempfile::tempdir().unwrap();
        let mut expected = Expected { save, old: save.old(), new: None };
        save.prepare(room.path(), &expected);
        save.perform(room.path(), &|_| {}).unwrap();
        expected.new = fs::read(save.target(room.path())).ok();
        if !save.is_log() && save != Save::Sweep {
            assert_eq!(version_of(&save.target(room.path()), |_| NEW_LEN), Ok(2));
        }
        expected
    }

    /// Whether what is left is allowed, and what it is.
    pub fn judge(&self, room: &Path, ended: &Ended, happening: Happening) -> Result<Outcome, String> {
        let save = self.save;
        let target = save.target(room);
        let found = match fs::read(&target) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(format!("cannot look at what is left: {e}")),
        };
        let outcome = self.outcome(&found, ended, happening)?;
        let is_new = matches!(outcome, Outcome::SuccessNew | Outcome::NotDurableNew);
        if is_new && !save.is_log() && self.old.is_some() {
            let mode = fs::metadata(&target).unwrap().mode() & 0o777;
            (mode == MODE).then_some(()).ok_or(format!("the new file has mode {mode:o}"))?;
        }
        let died = matches!(ended, Ended::Signal(..));
        self.check_names(room, outcome, happening, died)?;
        self.check_afterwards(room, &found, outcome)?;
        Ok(outcome)
    }

    fn outcome(&self, found: &Option<Vec<u8>>, ended: &Ended, happening: Happening) -> Result<Outcome, String> {
        let describe = |found: &Option<Vec<u8>>| match found {
            None => "nothing".to_owned(),
            Some(bytes) => format!("{} bytes, CRC {:08x}", bytes.len(), crc32(bytes)),
        };
        let bad = |what: &str| {
            let (old, new) = (describe(&self.old), describe(&self.new));
            Err(format!("{what}; {ended:?}; there is {}; old was {old}, new would be {new}", describe(found)))
        };
        let is_part = self.save.is_append() && {
            let (old, new) = (self.old.as_deref().unwrap_or_default(), self.new.as_deref().unwrap_or_default());
            let found = found.as_deref().unwrap_or_default();
            found.starts_with(old) && new.starts_with(found)
        };
        let (is_old, is_new) = (*found == self.old, *found == self.new);
        match ended {
            Ended::Ok(_) if is_new => Ok(Outcome::SuccessNew),
            Ended::Ok(_) if is_old && happening.says_that_there_is_none => Ok(Outcome::NothingToDo),
            Ended::Ok(_) => bad("acknowledged, and not there"),
            Ended::Error { kind, message } => {
                if !message.contains(self.save.file_name()) && self.save != Save::Sweep {
                    return bad("the message does not name the file");
                }
                match kind.as_str() {
                    "NotDurable" if is_new => Ok(Outcome::NotDurableNew),
                    "NotDurable" => bad("said to be there, and is not"),
                    "InvalidInput" if !happening.name_is_taken => bad("an error of another kind"),
                    "Io" | "InvalidInput" if is_old => Ok(Outcome::ErrorOld),
                    "Io" if is_part => Ok(Outcome::ErrorPartOfALine),
                    "Io" => bad("said to have failed, and the old file is not there"),
                    _ => bad("an error of another kind"),
                }
            }
            Ended::Signal(..) if ended.is_out_of_memory() && (is_old || is_new || is_part) => Ok(Outcome::Aborted),
            Ended::Signal(..) if happening.kills && is_new => Ok(Outcome::KilledNew),
            Ended::Signal(..) if happening.kills && is_old => Ok(Outcome::KilledOld),
            Ended::Signal(..) if happening.kills && is_part => Ok(Outcome::KilledPartOfALine),
            _ => bad("ended in a way that is not allowed"),
        }
    }

    /// What else is in the directory.
    fn check_names(&self, room: &Path, outcome: Outcome, happening: Happening, died: bool) -> Result<(), String> {
        let save = self.save;
        let mut temps = temps(&save.directory(room));
        let mut take = |name: &str| {
            let before = temps.len();
            temps.retain(|temp| temp != name);
            temps.len() < before
        };
        if matches!(save, Save::Over | Save::Sweep) {
            let (left, of_another) = (take(LEFTOVER), take(OF_ANOTHER));
            if save == Save::Over && !of_another {
                return Err("removed what the killed save of another file had left".into());
            }
            if save == Save::Over && outcome == Outcome::ErrorOld && !left {
                return Err("removed what there may be to salvage, and saved nothing".into());
            }
            let swept = save == Save::Over && outcome == Outcome::SuccessNew;
            if swept && left && !happening.sweep_may_fail && !happening.no_unlink {
                return Err("left what a killed save had left, and succeeded".into());
            }
        }
        match temps.is_empty() || died || happening.no_unlink {
            true => Ok(()),
            false => Err(format!("left {temps:?} behind, which could have been removed")),
        }
    }

    /// What those find who come later: nothing is in their way, and orphans go.
    fn check_afterwards(&self, room: &Path, found: &Option<Vec<u8>>, outcome: Outcome) -> Result<(), String> {
        let directory = self.save.directory(room);
        let swept = sweep(&directory).map_err(|e| format!("cannot be swept: {e}"))?;
        let left = temps(&directory);
        if !left.is_empty() || !swept.live.is_empty() || !swept.failed.is_empty() {
            return Err(format!("not swept: {left:?}, {swept:?}"));
        }
        if fs::read(self.save.target(room)).ok() != *found {
            return Err("the sweep changed the file".into());
        }
        if self.save.is_append() {
            let log = FailedLog::in_directory(room);
            log.record(&[failure(9)]).map_err(|e| format!("the log takes no more: {e}"))?;
            let read = log.read().map_err(|e| e.to_string())?;
            // A line that was cut within its time still says what failed.
            let is_part = matches!(outcome, Outcome::ErrorPartOfALine | Outcome::KilledPartOfALine);
            let says = |entry: &FailedCheckpoint, n| {
                let whole = failure(n);
                let (path, reason) = (entry.path == whole.path, entry.reason == whole.reason);
                path && reason && (entry.time == whole.time || (is_part && whole.time.starts_with(&entry.time)))
            };
            let numbers: Vec<_> = (1..10).filter(|&n| read.entries.iter().any(|entry| says(entry, n))).collect();
            let old: &[u64] = if self.old.is_some() { &[1, 2, 9] } else { &[9] };
            let new: &[u64] = if self.old.is_some() { &[1, 2, 3, 9] } else { &[2, 9] };
            let all_known = numbers.len() == read.entries.len() && read.malformed <= usize::from(is_part);
            if !all_known || !(numbers == old || numbers == new) {
                return Err(format!("the log says {read:?}"));
            }
        }
        Ok(())
    }
}

/// The names of unfinished saves.
pub fn temps(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    names.filter(|name| name.ends_with(".dolmen-tmp")).collect()
}
