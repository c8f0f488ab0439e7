//! A file system in memory that keeps apart what is visible and what would survive a crash.

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
    OpenOrCreate(OsString, u32),
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
    /// Changes a bit of what is written at this place of any file.
    pub damages: Option<u64>,
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
            self.pending.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).for_each(|(_, c)| c.apply(&mut names));
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
                damages: None,
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
            let moment = Moment { call, visible: state.content(&watched), after_crash: state.after_crash(&watched) };
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

    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let inode = self.0.call(Call::OpenOrCreate(name.into(), mode), |s| {
            if let Ok(inode) = s.find(name) {
                return Ok(inode);
            }
            let inode = s.inodes.len();
            s.inodes.push(Inode { mode: mode & !0o022, ..Inode::default() });
            s.change(None, Some((name, inode)));
            Ok(inode)
        })?;
        Ok(self.0.file(inode))
    }

    fn create_directory(&self, _: &OsStr, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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
            let mut bytes = bytes[..taken].to_vec();
            if let Some(byte) = s.behaviour.damages.and_then(|at| bytes.get_mut(at.checked_sub(offset)? as usize)) {
                *byte ^= 1;
            }
            s.inodes[self.inode].change(Change::Write(offset as usize, bytes));
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
        self.memory.call(Call::TryLock(self.inode), |s| {
            if !s.behaviour.locks {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let locked = !std::mem::replace(&mut s.inodes[self.inode].locked, true);
            self.holds_lock.fetch_or(locked, Ordering::Relaxed);
            Ok(locked)
        })
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
