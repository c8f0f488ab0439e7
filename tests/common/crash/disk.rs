//! [`Disk`]: a file system in memory with directories, links and hard links, that records all that is done to it.

use super::tree::{Id, Node, ROOT, Tree};
use dolmen::commit::file_system::{Directory, FileKind, FileSystem, Identity, OutputFile, Status};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// As many links in a chain as Linux follows.
const LINKS_MAX: usize = 40;

/// Something that was done, as far as a crash can undo or keep it.
#[derive(Clone, Debug)]
pub enum Effect {
    Write {
        file: Id,
        offset: usize,
        bytes: Vec<u8>,
    },
    SetLen {
        file: Id,
        len: usize,
    },
    /// The file is flushed.
    SyncFile(Id),
    /// A flush of the file failed: what was not on the device then counts as clean, and no later flush has it to do.
    FailedSync(Id),
    /// The name stands for this node from now on, or for nothing.
    Entry {
        directory: Id,
        name: OsString,
        node: Option<Id>,
    },
    /// The directory is flushed.
    SyncDirectory(Id),
    /// The workload begins a step.
    Begin(usize),
    /// The step was acknowledged.
    Done(usize),
}

/// A call that changed something, flushed something, or a mark of the workload.
#[derive(Clone, Debug)]
pub struct Event {
    /// In words, for the story of a crash.
    pub what: String,
    pub effects: Vec<Effect>,
}

/// How the file system behaves: well, unless changed.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// A write takes no more bytes than these.
    pub longest_write: usize,
    /// It can rename without replacing.
    pub no_replace: bool,
    /// Reserving space makes the file longer.
    pub preallocation_extends: bool,
    /// This flush of a file, counted from 0, fails.
    pub failing_sync: Option<usize>,
}

struct State {
    tree: Tree,
    start: Tree,
    log: Vec<Event>,
    locked: BTreeSet<Id>,
    file_syncs: usize,
    behaviour: Behaviour,
}

impl State {
    fn record(&mut self, what: String, effects: Vec<Effect>) {
        effects.iter().for_each(|effect| self.tree.apply(effect));
        self.log.push(Event { what, effects });
    }

    fn entry(&self, directory: Id, name: &OsStr) -> Option<Id> {
        self.tree.entries(directory).get(name).copied()
    }

    fn find(&self, directory: Id, name: &OsStr) -> io::Result<Id> {
        self.entry(directory, name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free(&self, directory: Id, name: &OsStr) -> io::Result<()> {
        self.entry(directory, name).map_or(Ok(()), |_| Err(io::ErrorKind::AlreadyExists.into()))
    }

    fn data(&mut self, file: Id) -> &mut Vec<u8> {
        match &mut self.tree.nodes[file] {
            Node::File { data, .. } => data,
            node => panic!("{node:?} is no file"),
        }
    }

    fn status(&self, id: Id) -> Status {
        let (kind, mode, byte_len) = match &self.tree.nodes[id] {
            Node::File { mode, data } => (FileKind::File, *mode, data.len() as u64),
            Node::Directory(_) => (FileKind::Directory, 0o755, 0),
            Node::Link(_) => (FileKind::Symlink, 0o777, 0),
        };
        Status { kind, mode, byte_len, identity: Some(Identity { device: 7, inode: id as u64 }) }
    }

    /// The directories that lead to a path, the last one being its own.
    fn walk(&self, begin: &[Id], path: &Path, links: usize) -> io::Result<Vec<Id>> {
        if links > LINKS_MAX {
            return Err(io::Error::other("too many links"));
        }
        let mut way = begin.to_vec();
        for component in path.components() {
            match component {
                Component::RootDir => way = vec![ROOT],
                Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    if way.len() > 1 {
                        way.pop();
                    }
                }
                Component::Normal(name) => {
                    let id = self.find(*way.last().unwrap(), name)?;
                    match &self.tree.nodes[id] {
                        Node::Directory(_) => way.push(id),
                        Node::Link(to) => way = self.walk(&way, to, links + 1)?,
                        Node::File { .. } => return Err(io::ErrorKind::NotADirectory.into()),
                    }
                }
            }
        }
        Ok(way)
    }
}

/// A file system in memory. A clone is the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// All that was done to a disk, and what it was done to.
pub struct Recording {
    pub start: Tree,
    pub log: Vec<Event>,
    /// Each node that there ever was, for its kind; what is in it is of no account.
    pub nodes: Vec<Node>,
}

impl Disk {
    /// A disk on which all of this has been for long.
    pub fn new(tree: Tree) -> Disk {
        let behaviour =
            Behaviour { longest_write: usize::MAX, no_replace: true, preallocation_extends: false, failing_sync: None };
        Disk(Arc::new(Mutex::new(State {
            start: tree.clone(),
            tree,
            log: Vec::new(),
            locked: BTreeSet::new(),
            file_syncs: 0,
            behaviour,
        })))
    }

    /// A disk as it is when the program that was recorded is killed after so many events: nothing is lost, nothing is flushed, and its
    /// locks are free.
    pub fn after_kill(recording: &Recording, events: usize) -> Disk {
        let disk = Disk::new(recording.start.clone());
        {
            let mut state = disk.state();
            state.tree.add_nodes(&recording.nodes);
            for event in &recording.log[..events] {
                state.record(event.what.clone(), event.effects.clone());
            }
        }
        disk
    }

    pub fn behave(self, change: impl FnOnce(&mut Behaviour)) -> Disk {
        change(&mut self.state().behaviour);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Marks that the workload begins a step.
    pub fn begin(&self, step: usize) {
        self.state().record(format!("step {step} begins"), vec![Effect::Begin(step)]);
    }

    /// Marks that a step was acknowledged: from now on it must not be lost.
    pub fn done(&self, step: usize) {
        self.state().record(format!("step {step} was acknowledged"), vec![Effect::Done(step)]);
    }

    /// What is in a file, if there is one at this path.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state().tree.read(path.as_ref()).map(<[u8]>::to_vec)
    }

    /// The names in a directory; none if there is no such directory.
    #[cfg(feature = "lifecycle")]
    pub fn names(&self, directory: impl AsRef<Path>) -> Vec<String> {
        let state = self.state();
        let Ok(way) = state.walk(&[ROOT], directory.as_ref(), 0) else { return Vec::new() };
        state.tree.entries(*way.last().unwrap()).keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    pub fn tree(&self) -> Tree {
        self.state().tree.clone()
    }

    pub fn recording(&self) -> Recording {
        let state = self.state();
        Recording { start: state.start.clone(), log: state.log.clone(), nodes: state.tree.nodes.clone() }
    }

    fn directory(&self, begin: &[Id], path: &Path) -> io::Result<Box<dyn Directory>> {
        let way = self.state().walk(begin, path, 0)?;
        Ok(Box::new(OpenDirectory { disk: self.clone(), way }))
    }

    fn file(&self, file: Id, name: &OsStr) -> Box<dyn OutputFile> {
        Box::new(OpenFile { disk: self.clone(), file, name: shown(name), holds_lock: AtomicBool::new(false) })
    }
}

fn shown(name: &OsStr) -> String {
    format!("\"{}\"", name.display())
}

impl FileSystem for Disk {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        self.directory(&[ROOT], path)
    }
}

#[derive(Debug)]
struct OpenDirectory {
    disk: Disk,
    way: Vec<Id>,
}

impl OpenDirectory {
    fn id(&self) -> Id {
        *self.way.last().unwrap()
    }

    fn add(&self, state: &mut State, name: &OsStr, node: Node, what: &str) -> Id {
        let id = state.tree.nodes.len();
        state.tree.nodes.push(node);
        state.record(format!("{what} {}", shown(name)), vec![self.entry(name, Some(id))]);
        id
    }

    fn entry(&self, name: &OsStr, node: Option<Id>) -> Effect {
        Effect::Entry { directory: self.id(), name: name.to_owned(), node }
    }
}

impl Directory for OpenDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        self.disk.directory(&self.way, path)
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        let state = self.disk.state();
        Ok(state.entry(self.id(), name).map(|id| state.status(id)))
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let state = self.disk.state();
        match &state.tree.nodes[state.find(self.id(), name)?] {
            Node::Link(to) => Ok(to.clone()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let mut state = self.disk.state();
        state.free(self.id(), name)?;
        let file = self.add(&mut state, name, Node::File { mode, data: Vec::new() }, "create");
        Ok(self.disk.file(file, name))
    }

    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let mut state = self.disk.state();
        let file = match state.entry(self.id(), name) {
            Some(file) => file,
            None => self.add(&mut state, name, Node::File { mode, data: Vec::new() }, "create"),
        };
        Ok(self.disk.file(file, name))
    }

    fn create_directory(&self, name: &OsStr, _: u32) -> io::Result<()> {
        let mut state = self.disk.state();
        state.free(self.id(), name)?;
        self.add(&mut state, name, Node::Directory(Default::default()), "create directory");
        Ok(())
    }

    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        let file = self.disk.state().find(self.id(), name)?;
        Ok(self.disk.file(file, name))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let mut state = self.disk.state();
        let id = state.find(self.id(), from)?;
        let effects = vec![self.entry(to, Some(id)), self.entry(from, None)];
        state.record(format!("rename {} to {}", shown(from), shown(to)), effects);
        Ok(())
    }

    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        if !self.disk.state().behaviour.no_replace {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.disk.state().free(self.id(), to)?;
        self.rename(from, to)
    }

    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let mut state = self.disk.state();
        state.free(self.id(), to)?;
        let id = state.find(self.id(), from)?;
        state.record(format!("link {} as {}", shown(from), shown(to)), vec![self.entry(to, Some(id))]);
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        let mut state = self.disk.state();
        state.find(self.id(), name)?;
        state.record(format!("remove {}", shown(name)), vec![self.entry(name, None)]);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(self.disk.state().tree.entries(self.id()).keys().cloned().collect())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().record("flush the directory".to_owned(), vec![Effect::SyncDirectory(self.id())]);
        Ok(())
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: Disk,
    file: Id,
    /// The name that it was opened by, for the log.
    name: String,
    holds_lock: AtomicBool,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            self.disk.state().locked.remove(&self.file);
        }
    }
}

impl OutputFile for OpenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let bytes = bytes[..bytes.len().min(state.behaviour.longest_write)].to_vec();
        let (taken, offset) = (bytes.len(), offset as usize);
        let what = format!("write bytes {offset}..{} of {}", offset + taken, self.name);
        state.record(what, vec![Effect::Write { file: self.file, offset, bytes }]);
        Ok(taken)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let data = state.data(self.file).get(offset as usize..).unwrap_or_default();
        let given = data.len().min(buffer.len());
        buffer[..given].copy_from_slice(&data[..given]);
        Ok(given)
    }

    fn status(&self) -> io::Result<Status> {
        Ok(self.disk.state().status(self.file))
    }

    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        let effect = Effect::SetLen { file: self.file, len: byte_len as usize };
        self.disk.state().record(format!("set the length of {} to {byte_len}", self.name), vec![effect]);
        Ok(())
    }

    fn preallocate(&self, byte_len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let len = state.data(self.file).len().max(byte_len as usize);
        if state.behaviour.preallocation_extends && len > state.data(self.file).len() {
            let what = format!("reserve {byte_len} bytes for {}", self.name);
            state.record(what, vec![Effect::SetLen { file: self.file, len }]);
        }
        Ok(())
    }

    fn set_mode(&self, new: u32) -> io::Result<()> {
        match &mut self.disk.state().tree.nodes[self.file] {
            Node::File { mode, .. } => *mode = new,
            node => panic!("{node:?} is no file"),
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let locked = self.disk.state().locked.insert(self.file);
        self.holds_lock.fetch_or(locked, Ordering::Relaxed);
        Ok(locked)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let number = state.file_syncs;
        state.file_syncs += 1;
        if state.behaviour.failing_sync == Some(number) {
            state.record(format!("flush {}, which FAILS", self.name), vec![Effect::FailedSync(self.file)]);
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        state.record(format!("flush {}", self.name), vec![Effect::SyncFile(self.file)]);
        Ok(())
    }
}
