//! Saving when something fails: every call with every error, every crash, and the habits of real file systems.
#![cfg(all(unix, feature = "fs"))]

use dolmen::commit::file_system::{Directory, FileSystem, OutputFile};
use dolmen::commit::{AtomicFile, Durability, RealFileSystem, SaveOptions, sweep, sweep_in};
use dolmen::source::ReadAt;
use dolmen::{Error, ErrorKind, Result};
use memory::{Call, Fault, Memory, Preallocation};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// A file system in memory that keeps apart what is visible and what would survive a crash.
mod memory {
    use dolmen::commit::file_system::{Directory, FileKind, FileSystem, Identity, OutputFile, Status};
    use std::collections::{BTreeMap, BTreeSet};
    use std::ffi::{OsStr, OsString};
    use std::fmt;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard};

    /// The only directory there is.
    pub const DIRECTORY: &str = "d";

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Call {
        OpenDirectory,
        Status(OsString),
        Create(OsString, u32),
        OpenExisting(OsString),
        Rename(OsString, OsString),
        RenameNoReplace(OsString, OsString),
        HardLink(OsString, OsString),
        Remove(OsString),
        Names,
        SyncDirectory,
        Write(usize),
        Read(usize),
        FileStatus(usize),
        SetLen(usize),
        Preallocate(usize),
        SetMode(usize, u32),
        TryLock(usize),
        SyncFile(usize),
    }

    /// Which call fails.
    #[derive(Clone, Copy, Debug)]
    pub struct Fault {
        pub call: usize,
        pub errno: i32,
        /// The call does its work and fails nevertheless.
        pub after_effect: bool,
        /// All later calls fail as well.
        pub forever: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Preallocation {
        KeepsLength,
        Extends,
        Unsupported,
    }

    /// How this file system behaves: well, unless changed.
    #[derive(Clone, Debug)]
    pub struct Behaviour {
        pub fault: Option<Fault>,
        pub longest_write: usize,
        pub preallocation: Preallocation,
        pub no_replace: bool,
        pub hard_links: bool,
        pub locks: bool,
        /// Tells which file a file is.
        pub identities: bool,
        /// Acknowledges flushes of files without doing them.
        pub ignores_file_sync: bool,
        /// Acknowledges flushes of the directory without doing them.
        pub ignores_directory_sync: bool,
        /// So many new files are locked by a sweeper before their creator can.
        pub sweeper_locks: usize,
        /// So many new files are removed by a sweeper before their creator can lock them.
        pub sweeper_removes: usize,
        /// Collects what a crash after each call could leave under this name.
        pub watched: Option<OsString>,
    }

    #[derive(Debug)]
    enum Change {
        Write(usize, Vec<u8>),
        SetLen(usize),
    }

    impl Change {
        fn apply(&self, data: &mut Vec<u8>) {
            match self {
                Change::Write(offset, bytes) => {
                    let end = offset + bytes.len();
                    if data.len() < end {
                        data.resize(end, 0);
                    }
                    data[*offset..end].copy_from_slice(bytes);
                }
                Change::SetLen(len) => data.resize(*len, 0),
            }
        }
    }

    #[derive(Debug, Default)]
    struct Inode {
        mode: u32,
        data: Vec<u8>,
        durable: Vec<u8>,
        /// What was done to `durable` since the last flush to make `data` of it.
        pending: Vec<Change>,
        locked: bool,
    }

    impl Inode {
        fn change(&mut self, change: Change) {
            change.apply(&mut self.data);
            self.pending.push(change);
        }

        /// Everything a crash can leave of the content: any subset of few changes, the notable ones of many; the last
        /// write cut in half; the length set but nothing of the bytes.
        fn after_crash(&self) -> BTreeSet<Vec<u8>> {
            let count = self.pending.len();
            let mut choices: Vec<Box<dyn Fn(usize) -> bool>> = Vec::new();
            if count <= 8 {
                choices.extend((0..1_usize << count).map(|set| Box::new(move |i: usize| set >> i & 1 == 1) as Box<_>));
            } else {
                choices.extend((0..=count).map(|end| Box::new(move |i: usize| i < end) as Box<_>));
                choices.extend((0..count).map(|one| Box::new(move |i: usize| i != one) as Box<_>));
                choices.extend((0..count).map(|one| Box::new(move |i: usize| i == one) as Box<_>));
            }
            let mut states = BTreeSet::new();
            for chosen in choices {
                let mut data = self.durable.clone();
                for change in self.pending.iter().enumerate().filter(|(i, _)| chosen(*i)).map(|(_, c)| c) {
                    if let Change::Write(offset, bytes) = change {
                        let mut torn = data.clone();
                        Change::Write(*offset, bytes[..bytes.len() / 2].to_vec()).apply(&mut torn);
                        states.insert(torn);
                    }
                    change.apply(&mut data);
                }
                states.insert(data);
            }
            if count > 0 {
                let mut zeros = self.durable.clone();
                zeros.resize(self.data.len(), 0);
                states.insert(zeros);
            }
            states
        }
    }

    type Names = BTreeMap<OsString, usize>;

    /// One atomic change of the directory.
    #[derive(Debug)]
    struct NameChange {
        remove: Option<OsString>,
        insert: Option<(OsString, usize)>,
    }

    impl NameChange {
        fn apply(&self, names: &mut Names) {
            if let Some(name) = &self.remove {
                names.remove(name);
            }
            if let Some((name, inode)) = &self.insert {
                names.insert(name.clone(), *inode);
            }
        }
    }

    /// What can be under the watched name: its content, or nothing.
    pub type Content = Option<Vec<u8>>;

    /// What was true right after a call.
    #[derive(Debug)]
    pub struct Moment {
        pub call: Call,
        pub visible: Content,
        pub after_crash: BTreeSet<Content>,
    }

    #[derive(Debug)]
    struct State {
        inodes: Vec<Inode>,
        names: Names,
        durable_names: Names,
        pending: Vec<NameChange>,
        calls: Vec<Call>,
        moments: Vec<Moment>,
        failed: Vec<Call>,
        behaviour: Behaviour,
    }

    impl State {
        fn change(&mut self, remove: Option<&OsStr>, insert: Option<(&OsStr, usize)>) {
            let change = NameChange {
                remove: remove.map(OsStr::to_owned),
                insert: insert.map(|(name, inode)| (name.to_owned(), inode)),
            };
            change.apply(&mut self.names);
            self.pending.push(change);
        }

        fn find(&self, name: &OsStr) -> io::Result<usize> {
            self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn status(&self, inode: usize) -> Status {
            Status {
                kind: FileKind::File,
                mode: self.inodes[inode].mode,
                byte_len: self.inodes[inode].data.len() as u64,
                identity: self.behaviour.identities.then_some(Identity { device: 1, inode: inode as u64 }),
            }
        }

        fn sync_file(&mut self, inode: usize, succeeds: bool) {
            let inode = &mut self.inodes[inode];
            if succeeds {
                inode.durable = inode.data.clone();
            }
            // Also when it fails: the pages count as clean from now on, so that a second flush has nothing to do.
            inode.pending.clear();
        }

        fn sync_directory(&mut self) {
            self.durable_names = self.names.clone();
            self.pending.clear();
        }

        fn after_crash(&self, name: &OsStr) -> BTreeSet<Content> {
            assert!(self.pending.len() <= 12, "too many directory changes to enumerate");
            let mut states = BTreeSet::new();
            for set in 0..1_usize << self.pending.len() {
                let mut names = self.durable_names.clone();
                self.pending
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| set >> i & 1 == 1)
                    .for_each(|(_, c)| c.apply(&mut names));
                match names.get(name) {
                    Some(&inode) => states.extend(self.inodes[inode].after_crash().into_iter().map(Some)),
                    None => {
                        states.insert(None);
                    }
                }
            }
            states
        }

        fn content(&self, name: &OsStr) -> Content {
            self.names.get(name).map(|&inode| self.inodes[inode].data.clone())
        }
    }

    #[derive(Clone)]
    pub struct Memory(Arc<Mutex<State>>);

    impl fmt::Debug for Memory {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Memory")
        }
    }

    impl Memory {
        pub fn new() -> Memory {
            Memory(Arc::new(Mutex::new(State {
                inodes: Vec::new(),
                names: Names::new(),
                durable_names: Names::new(),
                pending: Vec::new(),
                calls: Vec::new(),
                moments: Vec::new(),
                failed: Vec::new(),
                behaviour: Behaviour {
                    fault: None,
                    longest_write: usize::MAX,
                    preallocation: Preallocation::KeepsLength,
                    no_replace: true,
                    hard_links: true,
                    locks: true,
                    identities: true,
                    ignores_file_sync: false,
                    ignores_directory_sync: false,
                    sweeper_locks: 0,
                    sweeper_removes: 0,
                    watched: None,
                },
            })))
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }

        pub fn behave(self, change: impl FnOnce(&mut Behaviour)) -> Memory {
            change(&mut self.state().behaviour);
            self
        }

        /// A file that has been there for long.
        pub fn put(&self, name: impl AsRef<OsStr>, mode: u32, data: &[u8]) {
            let mut state = self.state();
            let inode = state.inodes.len();
            state.inodes.push(Inode { mode, data: data.to_vec(), durable: data.to_vec(), ..Inode::default() });
            state.names.insert(name.as_ref().to_owned(), inode);
            state.durable_names.insert(name.as_ref().to_owned(), inode);
        }

        pub fn lock_as_another_process(&self, name: impl AsRef<OsStr>) {
            let mut state = self.state();
            let inode = state.find(name.as_ref()).unwrap();
            state.inodes[inode].locked = true;
        }

        pub fn content(&self, name: impl AsRef<OsStr>) -> Content {
            self.state().content(name.as_ref())
        }

        pub fn mode(&self, name: impl AsRef<OsStr>) -> u32 {
            let state = self.state();
            state.inodes[state.find(name.as_ref()).unwrap()].mode
        }

        pub fn names(&self) -> Vec<OsString> {
            self.state().names.keys().cloned().collect()
        }

        pub fn calls(&self) -> Vec<Call> {
            self.state().calls.clone()
        }

        /// The calls that failed because they were made to.
        pub fn failed(&self) -> Vec<Call> {
            self.state().failed.clone()
        }

        /// What a crash now could leave under a name.
        pub fn after_crash(&self, name: impl AsRef<OsStr>) -> BTreeSet<Content> {
            self.state().after_crash(name.as_ref())
        }

        pub fn take_moments(&self) -> Vec<Moment> {
            std::mem::take(&mut self.state().moments)
        }

        fn call<T>(&self, call: Call, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
            let mut state = self.state();
            let n = state.calls.len();
            state.calls.push(call.clone());
            let fault = state.behaviour.fault.filter(|f| n == f.call || (f.forever && n > f.call));
            let result = match fault {
                None => work(&mut state),
                Some(fault) => {
                    state.failed.push(call.clone());
                    match &call {
                        _ if fault.after_effect => drop(work(&mut state)),
                        Call::SyncFile(inode) => state.sync_file(*inode, false),
                        _ => {}
                    }
                    Err(io::Error::from_raw_os_error(fault.errno))
                }
            };
            if let Some(watched) = state.behaviour.watched.clone() {
                let moment =
                    Moment { call, visible: state.content(&watched), after_crash: state.after_crash(&watched) };
                state.moments.push(moment);
            }
            result
        }

        fn file(&self, inode: usize) -> Box<dyn OutputFile> {
            Box::new(MemoryFile { memory: self.clone(), inode, holds_lock: AtomicBool::new(false) })
        }
    }

    impl FileSystem for Memory {
        fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
            self.call(Call::OpenDirectory, |_| match path.to_str() {
                Some(DIRECTORY) => Ok(()),
                _ => Err(io::ErrorKind::NotFound.into()),
            })?;
            Ok(Box::new(MemoryDirectory(self.clone())))
        }
    }

    #[derive(Debug)]
    struct MemoryDirectory(Memory);

    impl Directory for MemoryDirectory {
        fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
            FileSystem::open_directory(&self.0, path)
        }

        fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
            self.0.call(Call::Status(name.into()), |s| Ok(s.find(name).ok().map(|inode| s.status(inode))))
        }

        fn read_link(&self, _: &OsStr) -> io::Result<PathBuf> {
            Err(io::ErrorKind::InvalidInput.into())
        }

        fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
            let inode = self.0.call(Call::Create(name.into(), mode), |s| {
                if s.names.contains_key(name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = s.inodes.len();
                s.inodes.push(Inode { mode: mode & !0o022, ..Inode::default() });
                s.change(None, Some((name, inode)));
                if s.behaviour.sweeper_locks > 0 {
                    s.behaviour.sweeper_locks -= 1;
                    s.inodes[inode].locked = true;
                } else if s.behaviour.sweeper_removes > 0 {
                    s.behaviour.sweeper_removes -= 1;
                    s.change(Some(name), None);
                }
                Ok(inode)
            })?;
            Ok(self.0.file(inode))
        }

        fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
            let inode = self.0.call(Call::OpenExisting(name.into()), |s| s.find(name))?;
            Ok(self.0.file(inode))
        }

        fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
            self.0.call(Call::Rename(from.into(), to.into()), |s| {
                let inode = s.find(from)?;
                s.change(Some(from), Some((to, inode)));
                Ok(())
            })
        }

        fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
            self.0.call(Call::RenameNoReplace(from.into(), to.into()), |s| {
                if !s.behaviour.no_replace {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                if s.names.contains_key(to) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = s.find(from)?;
                s.change(Some(from), Some((to, inode)));
                Ok(())
            })
        }

        fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
            self.0.call(Call::HardLink(from.into(), to.into()), |s| {
                if !s.behaviour.hard_links {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                if s.names.contains_key(to) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = s.find(from)?;
                s.change(None, Some((to, inode)));
                Ok(())
            })
        }

        fn remove(&self, name: &OsStr) -> io::Result<()> {
            self.0.call(Call::Remove(name.into()), |s| {
                s.find(name)?;
                s.change(Some(name), None);
                Ok(())
            })
        }

        fn names(&self) -> io::Result<Vec<OsString>> {
            self.0.call(Call::Names, |s| Ok(s.names.keys().cloned().collect()))
        }

        fn sync(&self) -> io::Result<()> {
            self.0.call(Call::SyncDirectory, |s| {
                if !s.behaviour.ignores_directory_sync {
                    s.sync_directory();
                }
                Ok(())
            })
        }
    }

    #[derive(Debug)]
    struct MemoryFile {
        memory: Memory,
        inode: usize,
        holds_lock: AtomicBool,
    }

    impl Drop for MemoryFile {
        fn drop(&mut self) {
            if *self.holds_lock.get_mut() {
                self.memory.state().inodes[self.inode].locked = false;
            }
        }
    }

    impl OutputFile for MemoryFile {
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            self.memory.call(Call::Write(self.inode), |s| {
                let taken = bytes.len().min(s.behaviour.longest_write);
                s.inodes[self.inode].change(Change::Write(offset as usize, bytes[..taken].to_vec()));
                Ok(taken)
            })
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.memory.call(Call::Read(self.inode), |s| {
                let data = s.inodes[self.inode].data.get(offset as usize..).unwrap_or_default();
                let given = data.len().min(buffer.len()).min(s.behaviour.longest_write);
                buffer[..given].copy_from_slice(&data[..given]);
                Ok(given)
            })
        }

        fn status(&self) -> io::Result<Status> {
            self.memory.call(Call::FileStatus(self.inode), |s| Ok(s.status(self.inode)))
        }

        fn set_len(&self, byte_len: u64) -> io::Result<()> {
            self.memory.call(Call::SetLen(self.inode), |s| {
                s.inodes[self.inode].change(Change::SetLen(byte_len as usize));
                Ok(())
            })
        }

        fn preallocate(&self, byte_len: u64) -> io::Result<()> {
            self.memory.call(Call::Preallocate(self.inode), |s| {
                match s.behaviour.preallocation {
                    Preallocation::KeepsLength => {}
                    Preallocation::Extends => {
                        let len = s.inodes[self.inode].data.len().max(byte_len as usize);
                        s.inodes[self.inode].change(Change::SetLen(len));
                    }
                    Preallocation::Unsupported => return Err(io::ErrorKind::Unsupported.into()),
                }
                Ok(())
            })
        }

        fn set_mode(&self, mode: u32) -> io::Result<()> {
            self.memory.call(Call::SetMode(self.inode, mode), |s| {
                s.inodes[self.inode].mode = mode;
                Ok(())
            })
        }

        fn try_lock(&self) -> io::Result<bool> {
            let locked = self.memory.call(Call::TryLock(self.inode), |s| {
                if !s.behaviour.locks {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                Ok(!std::mem::replace(&mut s.inodes[self.inode].locked, true))
            })?;
            self.holds_lock.fetch_or(locked, Ordering::Relaxed);
            Ok(locked)
        }

        fn sync(&self) -> io::Result<()> {
            self.memory.call(Call::SyncFile(self.inode), |s| {
                if !s.behaviour.ignores_file_sync {
                    s.sync_file(self.inode, true);
                }
                Ok(())
            })
        }
    }
}

const NAME: &str = "m.dolmen";
const TARGET: &str = "d/m.dolmen";
const OLD: &[u8] = b"the old content, which is longer than the new one will ever be";
const NEW: &[u8] = b"the new content, written in pieces";

const ERRNOS: [Errno; 14] = [
    Errno::IO,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::ACCESS,
    Errno::MFILE,
    Errno::INTR,
    Errno::ROFS,
    Errno::NOENT,
    Errno::EXIST,
    Errno::INVAL,
    Errno::NOTSUP,
    Errno::STALE,
    Errno::NOMEM,
    Errno::FBIG,
];

/// A way of saving, and the file system it happens on.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    old: Option<&'static [u8]>,
    create_new: bool,
    durability: Durability,
    validated: bool,
    /// Goes on writing after an error and commits all the same.
    stubborn: bool,
    longest_write: usize,
    preallocation: Preallocation,
    no_replace: bool,
    locks: bool,
    identities: bool,
    /// An earlier save of the same target was killed.
    leftover: bool,
}

const PLAIN: Scenario = Scenario {
    old: Some(OLD),
    create_new: false,
    durability: Durability::Full,
    validated: false,
    stubborn: false,
    longest_write: usize::MAX,
    preallocation: Preallocation::KeepsLength,
    no_replace: true,
    locks: true,
    identities: true,
    leftover: false,
};

const SCENARIOS: [Scenario; 10] = [
    PLAIN,
    Scenario { old: None, ..PLAIN },
    Scenario { old: None, create_new: true, ..PLAIN },
    Scenario { old: None, create_new: true, no_replace: false, ..PLAIN },
    Scenario { validated: true, longest_write: 5, ..PLAIN },
    Scenario { stubborn: true, longest_write: 5, preallocation: Preallocation::Extends, ..PLAIN },
    Scenario { stubborn: true, leftover: true, ..PLAIN },
    Scenario { durability: Durability::None, preallocation: Preallocation::Unsupported, ..PLAIN },
    Scenario { locks: false, leftover: true, ..PLAIN },
    Scenario { identities: false, ..PLAIN },
];

const LEFTOVER: &str = ".m.dolmen.00112233445566aa.dolmen-tmp";

impl Scenario {
    fn memory(&self) -> Memory {
        let memory = Memory::new().behave(|b| {
            b.longest_write = self.longest_write;
            b.preallocation = self.preallocation;
            b.no_replace = self.no_replace;
            b.locks = self.locks;
            b.identities = self.identities;
            b.watched = Some(NAME.into());
        });
        if let Some(old) = self.old {
            memory.put(NAME, 0o640, old);
        }
        if self.leftover {
            memory.put(LEFTOVER, 0o600, b"half a check");
        }
        memory
    }

    fn options(&self, memory: &Memory) -> SaveOptions {
        SaveOptions::new()
            .file_system(Arc::new(memory.clone()))
            .create_new(self.create_new)
            .durability(self.durability)
            .validator(self.validated.then_some(begins_like_new as _))
    }

    fn save(&self, memory: &Memory) -> Result<()> {
        let or_go_on = |result: Result<()>| if self.stubborn { Ok(()) } else { result };
        let mut file = AtomicFile::create(TARGET, &self.options(memory))?;
        or_go_on(file.preallocate(NEW.len() as u64 + 30))?;
        or_go_on(file.append(&[0; 8]))?;
        or_go_on(file.append(&NEW[8..]))?;
        or_go_on(file.patch(0, &NEW[..8]))?;
        file.commit()
    }

    /// Whether the outcome is one of the three that there may be, at every moment and after every crash.
    fn check(&self, memory: &Memory, result: &Result<()>) -> Result<usize, String> {
        let old = self.old.map(<[u8]>::to_vec);
        let new = Some(NEW.to_vec());
        let in_place = match result {
            Ok(()) => true,
            Err(e) => e.kind() == ErrorKind::NotDurable,
        };
        if memory.content(NAME) != *if in_place { &new } else { &old } {
            return Err(format!("{result:?}, but the file holds {:?}", memory.content(NAME)));
        }
        let mut states = 0;
        for moment in memory.take_moments() {
            if moment.visible != old && moment.visible != new {
                return Err(format!("after {:?} readers see {:?}", moment.call, moment.visible));
            }
            if self.durability == Durability::Full {
                states += moment.after_crash.len();
                if let Some(bad) = moment.after_crash.iter().find(|&c| *c != old && *c != new) {
                    return Err(format!("a crash after {:?} can leave {bad:?}", moment.call));
                }
            }
        }
        if self.durability == Durability::Full {
            for content in memory.after_crash(NAME) {
                states += 1;
                match result {
                    Ok(()) if content != new => return Err(format!("acknowledged, yet a crash leaves {content:?}")),
                    Err(_) if !in_place && content != old => {
                        return Err(format!("failed, yet a crash leaves {content:?}"));
                    }
                    _ => {}
                }
            }
        }
        for name in memory.names() {
            let known = name == NAME || (self.leftover && name == LEFTOVER);
            if !known && !memory.failed().contains(&Call::Remove(name.clone())) {
                return Err(format!("left {name:?} behind, which could have been removed"));
            }
        }
        Ok(states)
    }
}

fn begins_like_new(file: &dyn ReadAt) -> Result<()> {
    let mut found = vec![0; file.byte_len().map_err(|e| Error::io("cannot read", e))? as usize];
    file.read_exact_at(&mut found, 0).map_err(|e| Error::io("cannot read", e))?;
    match found == NEW {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, "not the new content")),
    }
}

fn is_cleaning_or_looking(call: &Call) -> bool {
    match call {
        Call::Remove(name) => name != NAME,
        Call::Status(_) | Call::FileStatus(_) => true,
        _ => false,
    }
}

#[test]
fn every_call_failing_with_every_error_leaves_old_or_new_and_says_which() {
    let (mut runs, mut not_durable, mut states) = (0, 0, 0);
    for scenario in SCENARIOS {
        for errno in ERRNOS {
            for (after_effect, forever) in [(false, false), (true, false), (false, true)] {
                if after_effect && !matches!(errno, Errno::IO | Errno::INTR | Errno::STALE) {
                    continue;
                }
                if forever && errno == Errno::INTR {
                    continue;
                }
                for call in 0.. {
                    let fault = Fault { call, errno: errno.raw_os_error(), after_effect, forever };
                    let memory = scenario.memory().behave(|b| b.fault = Some(fault));
                    let result = scenario.save(&memory);
                    let Some(failed) = memory.failed().first().cloned() else {
                        result.unwrap();
                        break;
                    };
                    runs += 1;
                    let story = format!("{scenario:?}, {fault:?} in {failed:?}: {result:?}");
                    states += scenario.check(&memory, &result).unwrap_or_else(|e| panic!("{story}: {e}"));

                    let after = memory.calls().split_off(call + 1);
                    let flushes_again =
                        |c: &Call| matches!((c, &failed), (Call::SyncFile(a), Call::SyncFile(b)) if a == b);
                    assert!(!after.iter().any(flushes_again), "{story}: flushed again");
                    if let Err(error) = &result {
                        not_durable += usize::from(error.kind() == ErrorKind::NotDurable);
                        assert_eq!(error.path(), Some(Path::new(TARGET)), "{story}");
                        let begun_anew = matches!(failed, Call::Create(..) | Call::TryLock(_));
                        // Reserving space is the one thing that may fail without harm.
                        let harmless = matches!(failed, Call::Preallocate(_));
                        if !begun_anew && !harmless {
                            let worse = after.iter().find(|call| !is_cleaning_or_looking(call));
                            assert!(worse.is_none() || forever, "{story}: went on with {worse:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(runs > 3_000 && not_durable > 100 && states > 50_000, "{runs} {not_durable} {states}");
}

#[test]
fn crash_at_any_point_leaves_old_or_new_and_never_loses_an_acknowledged_save() {
    for scenario in SCENARIOS {
        let memory = scenario.memory();
        let result = scenario.save(&memory);
        assert!(result.is_ok());
        let states = scenario.check(&memory, &result).unwrap();
        assert!(scenario.durability == Durability::None || states > 10, "{states}");
    }
}

#[test]
fn crash_check_catches_savers_whose_flushes_do_nothing() {
    let memory = PLAIN.memory().behave(|b| b.ignores_file_sync = true);
    let result = PLAIN.save(&memory);
    assert!(result.is_ok());
    let caught = PLAIN.check(&memory, &result).unwrap_err();
    assert!(caught.contains("a crash after Rename"), "{caught}");

    let memory = PLAIN.memory().behave(|b| b.ignores_directory_sync = true);
    let result = PLAIN.save(&memory);
    assert!(result.is_ok());
    let caught = PLAIN.check(&memory, &result).unwrap_err();
    assert!(caught.contains("acknowledged, yet"), "{caught}");

    // A saver that asks for no flush is the same to a crash.
    let lazy = Scenario { durability: Durability::None, ..PLAIN };
    let memory = lazy.memory();
    let result = lazy.save(&memory);
    assert!(lazy.check(&memory, &result).is_ok());
    assert!(PLAIN.check(&memory, &result).is_err());
}

#[test]
fn calls_come_in_the_order_that_the_rules_ask_for() {
    let memory = PLAIN.memory();
    PLAIN.save(&memory).unwrap();
    let calls = memory.calls();
    let at = |wanted: &dyn Fn(&Call) -> bool| calls.iter().position(wanted).unwrap();
    let order = [
        at(&|c| *c == Call::OpenDirectory),
        at(&|c| matches!(c, Call::Create(..))),
        at(&|c| matches!(c, Call::TryLock(_))),
        at(&|c| matches!(c, Call::Write(_))),
        calls.iter().rposition(|c| matches!(c, Call::Write(_))).unwrap(),
        at(&|c| matches!(c, Call::SetLen(_))),
        at(&|c| matches!(c, Call::SyncFile(_))),
        at(&|c| matches!(c, Call::Rename(..))),
        at(&|c| *c == Call::SyncDirectory),
        at(&|c| *c == Call::Names),
    ];
    assert!(order.is_sorted(), "{calls:?}");
    assert_eq!(calls.iter().filter(|c| **c == Call::OpenDirectory).count(), 1, "{calls:?}");
    assert_eq!(calls.iter().filter(|c| matches!(c, Call::SyncFile(_))).count(), 1, "{calls:?}");
}

#[test]
fn durability_none_flushes_nothing() {
    let lazy = Scenario { durability: Durability::None, ..PLAIN };
    let memory = lazy.memory();
    lazy.save(&memory).unwrap();
    assert!(!memory.calls().iter().any(|c| matches!(c, Call::SyncFile(_) | Call::SyncDirectory)));
}

#[test]
fn failed_write_poisons_the_file_for_good() {
    let memory = PLAIN.memory();
    let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
    file.append(b"good").unwrap();
    let fault =
        Fault { call: memory.calls().len(), errno: Errno::NOSPC.raw_os_error(), after_effect: false, forever: false };
    let memory = memory.behave(|b| b.fault = Some(fault));
    let error = file.append(b"no room").unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, Some(4)));
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::StorageFull);

    let calls = memory.calls().len();
    assert!(file.append(b"more").is_err());
    assert!(file.patch(0, b"bad").is_err());
    assert!(file.write(b"more").is_err());
    assert_eq!(memory.calls().len(), calls, "nothing is written after a failed write");
    let error = file.commit().unwrap_err();
    assert!(error.to_string().contains("an earlier write failed"), "{error}");
    assert!(error.to_string().contains("the file that was there before is unchanged"), "{error}");
    assert_eq!(memory.names(), [NAME]);
    assert_eq!(memory.content(NAME).unwrap(), OLD);
}

#[test]
fn interrupted_calls_are_repeated_but_not_those_that_flush_or_rename() {
    for scenario in SCENARIOS {
        for call in 0.. {
            let errno = Errno::INTR.raw_os_error();
            let fault = Fault { call, errno, after_effect: false, forever: false };
            let memory = scenario.memory().behave(|b| b.fault = Some(fault));
            let result = scenario.save(&memory);
            match memory.failed().first() {
                None => break,
                Some(Call::SyncFile(_) | Call::SyncDirectory) => assert!(result.is_err()),
                Some(Call::Rename(..) | Call::RenameNoReplace(..) | Call::HardLink(..)) => assert!(result.is_err()),
                Some(failed) => assert!(result.is_ok(), "{scenario:?}, {failed:?}: {result:?}"),
            }
        }
    }
}

#[test]
fn reserved_space_beyond_the_end_cannot_be_read() {
    let scenario = Scenario { preallocation: Preallocation::Extends, longest_write: 3, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.preallocate(100).unwrap();
    file.append(NEW).unwrap();
    let mut all = vec![0; NEW.len()];
    file.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, NEW);
    assert_eq!(file.read_exact_at(&mut all, 1).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(ReadAt::byte_len(&file).unwrap(), NEW.len() as u64);
}

#[test]
fn file_of_another_length_than_written_is_not_put_in_place() {
    let memory = PLAIN.memory();
    let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
    file.append(NEW).unwrap();
    let temp = file.temp_path().file_name().unwrap().to_owned();
    Directory::open_existing(&*memory.open_directory(memory::DIRECTORY.as_ref()).unwrap(), &temp)
        .unwrap()
        .set_len(3)
        .unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!((error.expected(), error.found()), (Some(NEW.len() as u64), Some(3)));
    assert_eq!(memory.content(NAME).unwrap(), OLD);
    assert_eq!(memory.names(), [NAME]);
}

#[test]
fn space_reserved_beyond_the_end_is_given_back() {
    for preallocation in [Preallocation::Extends, Preallocation::KeepsLength, Preallocation::Unsupported] {
        let scenario = Scenario { preallocation, ..PLAIN };
        let memory = scenario.memory();
        scenario.save(&memory).unwrap();
        assert_eq!(memory.content(NAME).unwrap(), NEW);
    }
}

#[test]
fn space_that_cannot_be_reserved_is_told_and_can_be_ignored() {
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        let memory = PLAIN.memory();
        let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
        let call = memory.calls().len();
        let fault = Fault { call, errno: errno.raw_os_error(), after_effect: false, forever: false };
        let memory = memory.behave(|b| b.fault = Some(fault));
        let error = file.preallocate(1 << 40).unwrap_err();
        assert!(error.to_string().contains("cannot reserve space"), "{error}");
        file.append(NEW).unwrap();
        file.commit().unwrap();
        assert_eq!(memory.content(NAME).unwrap(), NEW);
    }
}

#[test]
fn rejected_file_is_removed_and_the_old_one_stays() {
    let scenario = Scenario { validated: true, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.append(b"something else").unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.path(), Some(Path::new(TARGET)));
    assert_eq!(memory.content(NAME).unwrap(), OLD);
    assert_eq!(memory.names(), [NAME]);
    let calls = memory.calls();
    let flushed = calls.iter().position(|c| matches!(c, Call::SyncFile(_))).unwrap();
    assert!(flushed < calls.iter().position(|c| matches!(c, Call::Read(_))).unwrap(), "validated before the flush");
}

#[test]
fn create_new_without_rename_flags_links_and_never_replaces() {
    let scenario = Scenario { old: None, create_new: true, no_replace: false, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.append(NEW).unwrap();
    memory.put(NAME, 0o644, b"faster");
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(memory.content(NAME).unwrap(), b"faster");
    assert_eq!(memory.names(), [NAME]);

    let memory = scenario.memory().behave(|b| b.hard_links = false);
    assert_eq!(scenario.save(&memory).unwrap_err().kind(), ErrorKind::Io);
    assert!(memory.names().is_empty());
}

#[test]
fn writer_survives_sweepers_that_are_faster_than_its_lock() {
    for (locks, removes) in [(2, 0), (0, 2), (1, 1)] {
        let memory = PLAIN.memory().behave(|b| (b.sweeper_locks, b.sweeper_removes) = (locks, removes));
        let result = PLAIN.save(&memory);
        assert!(result.is_ok(), "{result:?}");
        PLAIN.check(&memory, &result).unwrap();
        assert_eq!(memory.calls().iter().filter(|c| matches!(c, Call::Create(..))).count(), 3);
    }
}

#[test]
fn mode_of_the_file_replaced_is_there_before_the_first_byte_and_never_wider() {
    for old in [0o640, 0o666, 0o600, 0o400, 0o777] {
        let memory = Memory::new();
        memory.put(NAME, old, OLD);
        PLAIN.save(&memory).unwrap();
        assert_eq!(memory.mode(NAME), old);
        let calls = memory.calls();
        let asked = calls.iter().find_map(|c| if let Call::Create(_, mode) = c { Some(*mode) } else { None });
        assert_eq!(asked, Some(old));
        let first_write = calls.iter().position(|c| matches!(c, Call::Write(_))).unwrap();
        assert!(calls.iter().rposition(|c| matches!(c, Call::SetMode(..))).is_none_or(|at| at < first_write));
    }
}

#[test]
fn leftovers_of_the_target_are_removed_after_success_only() {
    let others = ".n.dolmen.00112233445566aa.dolmen-tmp";
    let live = ".m.dolmen.00112233445566ff.dolmen-tmp";
    let scenario = Scenario { leftover: true, ..PLAIN };
    let memory = scenario.memory();
    memory.put(others, 0o600, b"of another target");
    memory.put(live, 0o600, b"of a living writer");
    memory.lock_as_another_process(live);

    AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap().discard();
    assert!(memory.content(LEFTOVER).is_some(), "salvage may want it until a save succeeds");
    scenario.save(&memory).unwrap();
    assert_eq!(memory.content(LEFTOVER), None);
    assert!(memory.content(others).is_some());
    assert!(memory.content(live).is_some());

    let swept = sweep_in(&memory, memory::DIRECTORY.as_ref()).unwrap();
    assert_eq!(swept.removed, [Path::new("d").join(others)]);
    assert_eq!(swept.live, [Path::new("d").join(live)]);
    assert!(swept.failed.is_empty());
}

#[test]
fn sweeping_removes_nothing_where_there_are_no_locks() {
    let memory = Scenario { locks: false, leftover: true, ..PLAIN }.memory();
    let swept = sweep_in(&memory, memory::DIRECTORY.as_ref()).unwrap();
    assert!(swept.removed.is_empty() && swept.live.is_empty());
    assert_eq!(swept.failed.len(), 1);
    assert!(memory.content(LEFTOVER).is_some());
}

#[test]
fn sweep_with_any_call_failing_removes_no_more_than_the_dead() {
    let scenario = Scenario { leftover: true, ..PLAIN };
    let live = ".m.dolmen.00112233445566ff.dolmen-tmp";
    for errno in ERRNOS {
        for call in 0.. {
            let fault = Fault { call, errno: errno.raw_os_error(), after_effect: false, forever: false };
            let memory = scenario.memory().behave(|b| b.fault = Some(fault));
            memory.put(live, 0o600, b"of a living writer");
            memory.lock_as_another_process(live);
            let swept = sweep_in(&memory, memory::DIRECTORY.as_ref());
            assert!(memory.content(live).is_some() && memory.content(NAME).is_some());
            if memory.failed().is_empty() {
                assert_eq!(swept.unwrap().removed.len(), 1);
                break;
            }
        }
    }
}

// From here on: real file systems.

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn save(path: &Path, content: &[u8], options: &SaveOptions) -> Result<()> {
    let mut file = AtomicFile::create(path, options)?;
    file.append(content)?;
    file.commit()
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Starts this test program once more, to do only what [`errand`] says. `shell` runs before it in the same process.
fn send(errand: &str, path: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell}; exec \"$0\" --exact child_process_runs_its_errand --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env("DOLMEN_TEST_ERRAND", errand)
        .env("DOLMEN_TEST_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn wait_until_ready(child: &mut Child) {
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        if line.unwrap().ends_with("ready") {
            return;
        }
    }
    panic!("the child ended before it was ready");
}

#[test]
fn child_process_runs_its_errand() {
    let Ok(errand) = std::env::var("DOLMEN_TEST_ERRAND") else { return };
    let path = PathBuf::from(std::env::var_os("DOLMEN_TEST_PATH").unwrap());
    match errand.as_str() {
        "save" => save(&path, NEW, &SaveOptions::new()).unwrap(),
        "fail to save a megabyte" => {
            let error = save(&path, &[7; 1 << 20], &SaveOptions::new()).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::FileTooLarge, "{error}");
        }
        "fail to save in a read-only directory" => {
            let error = save(&path, NEW, &SaveOptions::new()).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        }
        "hold a save open" => {
            let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
            file.append(NEW).unwrap();
            println!("\nready");
            std::io::stdout().flush().unwrap();
            let _ = std::io::stdin().read(&mut [0]);
            panic!("the parent kills this process while it waits");
        }
        _ => panic!("unknown errand {errand}"),
    }
}

#[test]
fn saving_over_a_file_keeps_its_mode_and_nothing_else_of_it() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let other_name = directory.path().join("hard link");
    for bits in [0o600, 0o640, 0o666, 0o444, 0o755] {
        fs::write(&path, OLD).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        fs::hard_link(&path, &other_name).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        save(&path, NEW, &SaveOptions::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), NEW);
        assert_eq!(mode(&path), bits);
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(fs::read(&other_name).unwrap(), OLD, "another name of the old file keeps the old content");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&other_name).unwrap();
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn set_user_id_is_not_inherited() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn new_file_has_the_mode_that_the_umask_leaves() {
    for (umask, expected) in [("022", 0o644), ("077", 0o600), ("000", 0o666), ("027", 0o640)] {
        let directory = directory();
        let path = directory.path().join(NAME);
        assert!(send("save", &path, &format!("umask {umask}")).output().unwrap().status.success());
        assert_eq!(mode(&path), expected);
        assert_eq!(fs::read(&path).unwrap(), NEW);
    }
    // A file that is replaced overrules the umask.
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(send("save", &path, "umask 077").output().unwrap().status.success());
    assert_eq!(mode(&path), 0o664);
}

#[test]
fn file_size_limit_leaves_the_old_file_whether_the_signal_kills_or_not() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();

    let ignored = send("fail to save a megabyte", &path, "trap '' XFSZ; ulimit -f 64").output().unwrap();
    assert!(ignored.status.success(), "{ignored:?}");
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(names(directory.path()), [NAME]);

    let killed = send("fail to save a megabyte", &path, "ulimit -c 0; ulimit -f 64").output().unwrap();
    assert!(!killed.status.success());
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(sweep(directory.path()).unwrap().removed.len(), 1);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn create_new_refuses_what_exists_and_what_appears_meanwhile() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().create_new(true);

    let mut file = AtomicFile::create(&path, &options).unwrap();
    file.append(NEW).unwrap();
    fs::write(&path, OLD).unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), OLD);

    assert!(AtomicFile::create(&path, &options).unwrap_err().to_string().contains("already exists"));
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert!(AtomicFile::create(&path, &options).unwrap_err().to_string().contains("already exists"));
    fs::remove_file(&path).unwrap();
    save(&path, NEW, &options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), NEW);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn of_many_creators_of_one_file_exactly_one_succeeds() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().create_new(true).durability(Durability::None);
    let won = std::thread::scope(|scope| {
        let save_mine = |i: u8| (i, save(&path, &[i; 1000], &options));
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || save_mine(i))).collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        results.iter().filter(|(_, r)| r.is_ok()).map(|(i, _)| *i).collect::<Vec<_>>()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(fs::read(&path).unwrap(), [won[0]; 1000]);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn writers_of_one_file_do_not_disturb_each_other_or_readers() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().durability(Durability::None);
    save(&path, &[0; 4096], &options).unwrap();
    std::thread::scope(|scope| {
        for writer in 1..4_u8 {
            let (path, options) = (&path, &options);
            scope.spawn(move || (0..50).for_each(|_| save(path, &[writer; 4096], options).unwrap()));
        }
        scope.spawn(|| {
            for _ in 0..500 {
                let seen = fs::read(&path).unwrap();
                assert!(seen.len() == 4096 && seen.iter().all(|b| *b == seen[0]));
            }
        });
        scope.spawn(|| {
            for _ in 0..50 {
                sweep(directory.path()).unwrap();
            }
        });
    });
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn file_can_be_saved_over_while_it_is_open() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    let mut reader = fs::File::open(&path).unwrap();
    let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    std::io::copy(&mut reader, &mut file).unwrap();
    file.append(NEW).unwrap();
    assert_eq!(file.byte_len(), (OLD.len() + NEW.len()) as u64);
    file.commit().unwrap();
    assert_eq!(reader.metadata().unwrap().len(), OLD.len() as u64);
    assert_eq!(fs::read(&path).unwrap(), [OLD, NEW].concat());
}

#[test]
fn patching_reaches_what_was_written_and_no_further() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    file.preallocate(1 << 20).unwrap();
    file.append(b"0123456789").unwrap();
    file.patch(4, b"abc").unwrap();
    file.patch(10, b"").unwrap();
    for (offset, bytes) in [(10, &b"x"[..]), (9, b"xy"), (u64::MAX, b"x")] {
        assert_eq!(file.patch(offset, bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let mut seen = [0; 5];
    file.read_exact_at(&mut seen, 3).unwrap();
    assert_eq!(&seen, b"3abc7");
    assert_eq!(file.read_exact_at(&mut seen, 6).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(file.read_exact_at(&mut seen, u64::MAX).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    file.append(b"!").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123abc789!");
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 < 1 << 19, "reserved space was kept: {} blocks", metadata.blocks());
}

#[test]
fn dropping_discarding_and_panicking_remove_the_temporary_file() {
    fn panics(_: &dyn ReadAt) -> Result<()> {
        panic!("a validator with a defect");
    }
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    for end in [drop::<AtomicFile>, AtomicFile::discard] {
        let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
        file.append(NEW).unwrap();
        assert!(file.temp_path().exists());
        assert_eq!(names(directory.path()).len(), 2);
        end(file);
        assert_eq!(names(directory.path()), [NAME]);
    }
    let options = SaveOptions::new().validator(Some(panics));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| save(&path, NEW, &options))).is_err());
    assert_eq!(names(directory.path()), [NAME]);
    assert_eq!(fs::read(&path).unwrap(), OLD);
}

#[test]
fn sweep_removes_the_dead_and_keeps_the_living() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::write(directory.path().join(".m.dolmen.dolmen-tmp"), b"not ours").unwrap();
    // Names like ours of things that are not: removing them is not ours to do.
    fs::create_dir(directory.path().join(".x.0000000000000000.dolmen-tmp")).unwrap();
    symlink(NAME, directory.path().join(".x.0000000000000001.dolmen-tmp")).unwrap();
    let fifo = directory.path().join(".x.0000000000000002.dolmen-tmp");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mine = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    let mut child = send("hold a save open", &path, ":").spawn().unwrap();
    wait_until_ready(&mut child);

    let swept = sweep(directory.path()).unwrap();
    assert_eq!((swept.removed.len(), swept.live.len(), swept.failed.len()), (0, 2, 3), "{swept:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(&path).unwrap(), OLD);
    let swept = sweep(directory.path()).unwrap();
    assert_eq!((swept.removed.len(), swept.live.len(), swept.failed.len()), (1, 1, 3), "{swept:?}");
    assert_eq!(swept.live, [mine.temp_path()]);
    mine.commit().unwrap();
    assert_eq!(names(directory.path()).len(), 5);
}

#[test]
fn next_save_of_the_target_removes_what_a_killed_one_left() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let mut child = send("hold a save open", &path, ":").spawn().unwrap();
    wait_until_ready(&mut child);
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()).len(), 2, "a living writer's file is left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    save(&directory.path().join("other"), NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()).len(), 3, "a save of another target leaves it");
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()), [NAME, "other"]);
}

#[test]
fn symbolic_links_are_followed_and_stay() {
    let directory = directory();
    let root = directory.path();
    fs::create_dir_all(root.join("real/deep")).unwrap();
    fs::create_dir(root.join("links")).unwrap();
    fs::write(root.join("real/deep/m"), OLD).unwrap();
    symlink("../real/step", root.join("links/m")).unwrap();
    symlink(root.join("real/deep/m"), root.join("real/step")).unwrap();

    let mut file = AtomicFile::create(root.join("links/m"), &SaveOptions::new()).unwrap();
    file.append(NEW).unwrap();
    assert_eq!(names(&root.join("links")), ["m"], "the temporary file is beside the file that is replaced");
    assert_eq!(names(&root.join("real/deep")).len(), 2);
    assert!(file.temp_path().exists());
    file.commit().unwrap();
    assert!(fs::symlink_metadata(root.join("links/m")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(root.join("real/step")).unwrap().is_symlink());
    assert_eq!(fs::read(root.join("real/deep/m")).unwrap(), NEW);

    symlink("real/deep/fresh", root.join("dangling")).unwrap();
    save(&root.join("dangling"), NEW, &SaveOptions::new()).unwrap();
    assert_eq!(fs::read(root.join("real/deep/fresh")).unwrap(), NEW);

    symlink("loop", root.join("loop")).unwrap();
    assert!(save(&root.join("loop"), NEW, &SaveOptions::new()).is_err());
    symlink("real/deep", root.join("to a directory")).unwrap();
    let error = save(&root.join("to a directory"), NEW, &SaveOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn links_that_the_system_does_not_follow_are_not_followed() {
    let directory = directory();
    let protected = fs::read_to_string("/proc/sys/fs/protected_symlinks").is_ok_and(|s| s.trim() == "1");
    if !protected || fs::metadata(directory.path()).unwrap().uid() != 0 {
        eprintln!("SKIPPED: needs root, to plant the link of a stranger, and fs.protected_symlinks");
        return;
    }
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let precious = directory.path().join("precious");
    fs::write(&precious, OLD).unwrap();
    let trap = shared.join(NAME);
    symlink(&precious, &trap).unwrap();
    std::os::unix::fs::lchown(&trap, Some(65534), Some(65534)).unwrap();
    let error = save(&trap, NEW, &SaveOptions::new()).unwrap_err();
    assert!(error.to_string().contains("cannot follow the symbolic link"), "{error}");
    assert_eq!(fs::read(&precious).unwrap(), OLD);
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let directory = directory();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let inside = directory.path().join("x/");
    for path in [directory.path(), &fifo, Path::new("/dev/null"), Path::new(""), Path::new("/"), &inside] {
        let error = save(path, NEW, &SaveOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
        assert_eq!(error.path(), Some(path));
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    let temp = directory.path().join(LEFTOVER);
    assert_eq!(save(&temp, NEW, &SaveOptions::new()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(names(directory.path()), ["fifo"]);
}

#[test]
fn missing_directory_is_named_and_the_remedy_told() {
    let directory = directory();
    let path = directory.path().join("missing/m.dolmen");
    let error = save(&path, NEW, &SaveOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::NotFound);
    let message = error.to_string();
    assert!(message.contains("missing/m.dolmen") && message.ends_with("create the directory first"), "{message}");
}

#[test]
fn read_only_directory_keeps_the_old_file() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    let mut command = send("fail to save in a read-only directory", &path, ":");
    if fs::metadata(directory.path()).unwrap().uid() == 0 {
        // Root may write anywhere, so somebody else has to try.
        command.uid(65534);
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let output = command.output().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if output.status.code() == Some(126) || output.status.code() == Some(127) {
        eprintln!("SKIPPED: another user cannot run this test program: {output:?}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn directory_may_be_renamed_during_a_save() {
    let directory = directory();
    fs::create_dir(directory.path().join("a")).unwrap();
    let mut file = AtomicFile::create(directory.path().join("a/m"), &SaveOptions::new()).unwrap();
    file.append(NEW).unwrap();
    fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
    fs::create_dir(directory.path().join("a")).unwrap();
    file.commit().unwrap();
    assert_eq!(names(&directory.path().join("b")), ["m"]);
    assert!(names(&directory.path().join("a")).is_empty());
}

#[test]
fn names_as_long_as_the_file_system_takes_can_be_saved() {
    let directory = directory();
    for name in ["x".repeat(255), "ß".repeat(127)] {
        let path = directory.path().join(name);
        save(&path, OLD, &SaveOptions::new()).unwrap();
        save(&path, NEW, &SaveOptions::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), NEW);
    }
    assert_eq!(names(directory.path()).len(), 2);
    let too_long = directory.path().join("x".repeat(256));
    assert_eq!(AtomicFile::create(too_long, &SaveOptions::new()).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn real_rename_that_never_replaces_says_that_the_name_is_taken() {
    let directory = directory();
    fs::write(directory.path().join("a"), NEW).unwrap();
    fs::write(directory.path().join("b"), OLD).unwrap();
    let open = RealFileSystem.open_directory(directory.path()).unwrap();
    match open.rename_no_replace("a".as_ref(), "b".as_ref()).unwrap_err().kind() {
        std::io::ErrorKind::AlreadyExists => open.rename_no_replace("a".as_ref(), "c".as_ref()).unwrap(),
        std::io::ErrorKind::Unsupported => {
            open.hard_link("a".as_ref(), "c".as_ref()).unwrap();
            open.remove("a".as_ref()).unwrap();
        }
        other => panic!("{other}"),
    }
    assert_eq!(open.hard_link("c".as_ref(), "b".as_ref()).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(names(directory.path()), ["b", "c"]);
    open.sync().unwrap();
}

#[test]
fn atomic_file_can_move_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<AtomicFile>();
    check::<SaveOptions>();
    check::<Box<dyn OutputFile>>();
}
