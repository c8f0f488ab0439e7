//! [`Model`]: what a crash may leave of all that was done to a disk.
//!
//! The model is weaker than any file system that is known to be used, so that who survives it leans on nothing but what POSIX
//! promises. A disk is made of cells:
//!
//! - each **sector** of a file: 512 or 4096 bytes, as the model is told;
//! - each file's **length**;
//! - each **name** in a directory, which stands for a file, a directory or a link, or for nothing.
//!
//! A cell has had a series of values since it was last flushed. After a crash it holds *one of these*, the one that was flushed
//! or any later one, whatever any other cell holds: writes, lengths and names reach the device each for itself, in any order,
//! within a file and across files.
//!
//! - `fsync` of a **file** makes its sectors and its length what they are now. It says nothing of the file's name (ext4 and xfs do
//!   more, and promise nothing).
//! - `fsync` of a **directory** makes the names in it what they are now. It says nothing of what is in the files, nor of the
//!   directory's own name in the one above it.
//! - A `fsync` that **fails** leaves the cells as they are, and takes them for clean: a later one that succeeds does nothing for
//!   those that were not written again.
//!
//! What follows from it: data without length, length without data (zeros), writes that are missing, reordered and torn between
//! sectors, truncations that happened or not, a new name for a file whose data is not there, a rename of which only one half
//! happened (the new name is there and the old one as well; or neither, with what the new name stood for before). A length may
//! also stop on the way at a multiple of 512. In some states one sector is torn within: it begins with one of its values and ends
//! with another.
//!
//! What is assumed: a name changes from what it stood for to what it stands for in one step, so that a rename over a file is
//! never seen half done *at that name*; what was flushed stays; no cell changes that nobody wrote; sectors that nobody wrote are
//! zeros. Permission bits are not modelled.

use super::disk::{Effect, Event};
use super::tree::{Id, Node, ROOT, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

/// The cell is no choice: it has one value.
const CLOSED: usize = usize::MAX;

/// A length that grows stops at so many places on the way, at most.
const STOPS: usize = 8;

/// How the names of unfinished saves end.
const TEMP: &str = ".dolmen-tmp";

struct Value<T> {
    is: T,
    /// Since which event.
    since: usize,
}

struct Cell<T> {
    /// Since it was last flushed, oldest first; never empty.
    values: Vec<Value<T>>,
    /// A flush of it failed, and nothing was written to it since.
    is_stuck: bool,
    /// Its place among the open cells.
    open: usize,
}

impl<T> Cell<T> {
    fn new(is: T, since: usize) -> Cell<T> {
        Cell { values: vec![Value { is, since }], is_stuck: false, open: CLOSED }
    }

    fn last(&self) -> &T {
        &self.values[self.values.len() - 1].is
    }

    fn change(&mut self, is: T, since: usize) {
        self.values.push(Value { is, since });
        self.is_stuck = false;
    }

    fn flush(&mut self) {
        if !self.is_stuck {
            self.values.drain(..self.values.len() - 1);
        }
    }

    fn flush_fails(&mut self) {
        self.is_stuck = self.values.len() > 1;
    }

    fn chosen(&self, choice: &Choice) -> &T {
        let n = if self.open == CLOSED { self.values.len() - 1 } else { usize::from(choice.values[self.open]) };
        &self.values[n].is
    }
}

#[derive(Clone, PartialEq)]
struct Sector {
    bytes: Arc<[u8]>,
    hash: u64,
}

impl Sector {
    fn new(bytes: &[u8]) -> Sector {
        Sector { bytes: bytes.into(), hash: hash(bytes) }
    }
}

struct File {
    live: Vec<u8>,
    sectors: Vec<Cell<Sector>>,
    length: Cell<usize>,
}

/// What an open cell is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Data,
    Length,
    Name,
}

/// A cell of which a crash may leave one of several values.
#[derive(Clone, Debug)]
pub struct Open {
    pub kind: Kind,
    /// Since which event it has had each value.
    pub since: Vec<usize>,
}

/// One of the states that a crash may leave: for each open cell which value.
#[derive(Clone, Debug)]
pub struct Choice {
    pub values: Vec<u16>,
    pub torn: Option<Torn>,
}

/// A sector that begins with another of its values than the one chosen.
#[derive(Clone, Copy, Debug)]
pub struct Torn {
    pub cell: usize,
    pub begins_with: u16,
    pub cut: usize,
}

/// A state, in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Of all that is on the disk.
    pub whole: u64,
    /// Without what is in unfinished saves, which no reader looks into.
    pub visible: u64,
}

pub struct Model {
    sector_len: usize,
    zeros: Sector,
    files: BTreeMap<Id, File>,
    directories: BTreeMap<Id, BTreeMap<OsString, Cell<Option<Id>>>>,
    links: BTreeMap<Id, PathBuf>,
}

impl Model {
    /// A disk that was as in `start` for long; `nodes` are all that there will ever be.
    pub fn new(start: &Tree, nodes: &[Node], sector_len: usize) -> Model {
        let zeros = Sector::new(&vec![0; sector_len]);
        let (mut files, mut directories, mut links) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (id, node) in nodes.iter().enumerate() {
            let old = start.nodes.get(id);
            match (node, old) {
                (Node::File { .. }, old) => {
                    let live = if let Some(Node::File { data, .. }) = old { data.clone() } else { Vec::new() };
                    let sectors = (0..live.len().div_ceil(sector_len))
                        .map(|n| Cell::new(Sector::new(&padded(&live, n, sector_len)), 0))
                        .collect();
                    files.insert(id, File { length: Cell::new(live.len(), 0), live, sectors });
                }
                (Node::Directory(_), Some(Node::Directory(entries))) => {
                    let cells = entries.iter().map(|(name, id)| (name.clone(), Cell::new(Some(*id), 0)));
                    directories.insert(id, cells.collect());
                }
                (Node::Directory(_), _) => drop(directories.insert(id, BTreeMap::new())),
                (Node::Link(to), _) => drop(links.insert(id, to.clone())),
            }
        }
        Model { sector_len, zeros, files, directories, links }
    }

    pub fn sector_len(&self) -> usize {
        self.sector_len
    }

    /// Takes what a call did.
    pub fn apply(&mut self, event: &Event, number: usize) {
        for effect in &event.effects {
            match effect {
                Effect::Write { file, offset, bytes } => {
                    let file = self.files.get_mut(file).unwrap();
                    let end = offset + bytes.len();
                    file.grow(end, number);
                    file.live[*offset..end].copy_from_slice(bytes);
                    file.take(*offset..end, self.sector_len, &self.zeros, number);
                }
                Effect::SetLen { file, len } => {
                    let file = self.files.get_mut(file).unwrap();
                    file.grow(*len, number);
                    if *len < file.live.len() {
                        let old = file.live.len();
                        file.live.truncate(*len);
                        file.length.change(*len, number);
                        file.take(*len..old, self.sector_len, &self.zeros, number);
                    }
                }
                Effect::SyncFile(file) => {
                    let file = self.files.get_mut(file).unwrap();
                    file.sectors.iter_mut().for_each(Cell::flush);
                    file.length.flush();
                }
                Effect::FailedSync(file) => {
                    let file = self.files.get_mut(file).unwrap();
                    file.sectors.iter_mut().for_each(Cell::flush_fails);
                    file.length.flush_fails();
                }
                Effect::Entry { directory, name, node } => {
                    let names = self.directories.get_mut(directory).unwrap();
                    names.entry(name.clone()).or_insert_with(|| Cell::new(None, 0)).change(*node, number);
                }
                Effect::SyncDirectory(directory) => {
                    let names = self.directories.get_mut(directory).unwrap();
                    names.values_mut().for_each(Cell::flush);
                    names.retain(|_, cell| cell.values.len() > 1 || cell.last().is_some());
                }
                Effect::Begin(_) | Effect::Done(_) => {}
            }
        }
    }

    /// What a crash now may leave in several ways, and matters to anyone: files that have lost all their names do not.
    pub fn open_cells(&mut self) -> Vec<Open> {
        let reachable = self.reachable();
        let mut open = Vec::new();
        for (&id, names) in &mut self.directories {
            // In the order of events, for the names of temps are random, and a seed should give the same states.
            let mut cells: Vec<_> = names.iter_mut().collect();
            cells.sort_by_key(|(name, cell)| (cell.values.get(1).map(|value| value.since), is_temp(name)));
            for (_, cell) in cells {
                close_or_open(cell, reachable.contains(&id), Kind::Name, &mut open);
            }
        }
        for (&id, file) in &mut self.files {
            let is_reachable = reachable.contains(&id);
            close_or_open(&mut file.length, is_reachable, Kind::Length, &mut open);
            for sector in &mut file.sectors {
                close_or_open(sector, is_reachable, Kind::Data, &mut open);
            }
        }
        open
    }

    fn reachable(&self) -> BTreeSet<Id> {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(directory) = todo.pop() {
            let values = self.directories[&directory].values().flat_map(|cell| &cell.values);
            for id in values.filter_map(|value| value.is) {
                if reachable.insert(id) && self.directories.contains_key(&id) {
                    todo.push(id);
                }
            }
        }
        reachable
    }

    pub fn digest(&self, choice: &Choice) -> Digest {
        let mut digest = Digest { whole: 1, visible: 1 };
        self.digest_directory(ROOT, choice, &mut digest);
        digest
    }

    fn digest_directory(&self, directory: Id, choice: &Choice, digest: &mut Digest) {
        let mut temps = Digest { whole: 0, visible: 0 };
        for (name, cell) in &self.directories[&directory] {
            let Some(id) = *cell.chosen(choice) else { continue };
            if is_temp(name) {
                // Their names are random, and so is their order.
                let content = self.files.get(&id).map_or(0, |file| self.digest_file(file, choice));
                temps.whole = temps.whole.wrapping_add(mix(5, content));
                temps.visible += 1;
                continue;
            }
            digest.both(hash(name.as_encoded_bytes()));
            if let Some(file) = self.files.get(&id) {
                digest.both(self.digest_file(file, choice));
            } else if self.directories.contains_key(&id) {
                digest.both(2);
                self.digest_directory(id, choice, digest);
                digest.both(3);
            }
        }
        digest.whole = mix(digest.whole, temps.whole);
        digest.visible = mix(digest.visible, temps.visible);
    }

    fn digest_file(&self, file: &File, choice: &Choice) -> u64 {
        let len = *file.length.chosen(choice);
        let (whole, rest) = (len / self.sector_len, len % self.sector_len);
        let mut found = mix(4, len as u64);
        for n in 0..whole {
            found = mix(found, self.sector(file, n, choice).hash);
        }
        if rest > 0 {
            found = mix(found, hash(&self.sector(file, whole, choice).bytes[..rest]));
        }
        found
    }

    fn sector(&self, file: &File, n: usize, choice: &Choice) -> Sector {
        let Some(cell) = file.sectors.get(n) else { return self.zeros.clone() };
        let chosen = cell.chosen(choice);
        match choice.torn {
            Some(torn) if torn.cell == cell.open => {
                let begins = &cell.values[usize::from(torn.begins_with)].is.bytes[..torn.cut];
                Sector::new(&[begins, &chosen.bytes[torn.cut..]].concat())
            }
            _ => chosen.clone(),
        }
    }

    /// What is on the disk then.
    pub fn tree(&self, choice: &Choice) -> Tree {
        let mut made = Made { tree: Tree::new(), ids: BTreeMap::new() };
        self.make_directory(ROOT, ROOT, choice, &mut made);
        made.tree
    }

    fn make_directory(&self, from: Id, to: Id, choice: &Choice, made: &mut Made) {
        for (name, cell) in &self.directories[&from] {
            let Some(id) = *cell.chosen(choice) else { continue };
            let new = match made.ids.get(&id) {
                Some(new) => *new,
                None => {
                    let new = made.tree.nodes.len();
                    made.ids.insert(id, new);
                    made.tree.nodes.push(self.node(id, choice));
                    if self.directories.contains_key(&id) {
                        self.make_directory(id, new, choice, made);
                    }
                    new
                }
            };
            made.tree.apply(&Effect::Entry { directory: to, name: name.clone(), node: Some(new) });
        }
    }

    fn node(&self, id: Id, choice: &Choice) -> Node {
        if let Some(file) = self.files.get(&id) {
            let len = *file.length.chosen(choice);
            let mut data = Vec::with_capacity(len + self.sector_len);
            for n in 0..len.div_ceil(self.sector_len) {
                data.extend_from_slice(&self.sector(file, n, choice).bytes);
            }
            data.truncate(len);
            return Node::File { mode: 0o644, data };
        }
        match self.links.get(&id) {
            Some(to) => Node::Link(to.clone()),
            None => Node::Directory(BTreeMap::new()),
        }
    }
}

struct Made {
    tree: Tree,
    ids: BTreeMap<Id, Id>,
}

fn close_or_open<T>(cell: &mut Cell<T>, matters: bool, kind: Kind, open: &mut Vec<Open>) {
    if matters && cell.values.len() > 1 {
        cell.open = open.len();
        open.push(Open { kind, since: cell.values.iter().map(|value| value.since).collect() });
    } else {
        cell.open = CLOSED;
    }
}

impl File {
    fn grow(&mut self, len: usize, number: usize) {
        let old = self.live.len();
        if len <= old {
            return;
        }
        self.live.resize(len, 0);
        let step = (len - old).div_ceil(STOPS).next_multiple_of(512);
        for stop in ((old + 1).next_multiple_of(512)..len).step_by(step) {
            self.length.change(stop, number);
        }
        self.length.change(len, number);
    }

    /// Takes the live bytes of a range into the sectors that it touches.
    fn take(&mut self, range: std::ops::Range<usize>, sector_len: usize, zeros: &Sector, number: usize) {
        for n in range.start / sector_len..range.end.div_ceil(sector_len) {
            while self.sectors.len() <= n {
                self.sectors.push(Cell::new(zeros.clone(), 0));
            }
            let new = Sector::new(&padded(&self.live, n, sector_len));
            if new != *self.sectors[n].last() || self.sectors[n].is_stuck {
                self.sectors[n].change(new, number);
            }
        }
    }
}

impl Digest {
    fn both(&mut self, value: u64) {
        self.whole = mix(self.whole, value);
        self.visible = mix(self.visible, value);
    }
}

fn is_temp(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(TEMP.as_bytes())
}

/// A sector of a file's bytes, with zeros behind its end.
fn padded(bytes: &[u8], n: usize, sector_len: usize) -> Vec<u8> {
    let begin = (n * sector_len).min(bytes.len());
    let mut sector = Vec::with_capacity(sector_len);
    sector.extend_from_slice(&bytes[begin..bytes.len().min(begin + sector_len)]);
    sector.resize(sector_len, 0);
    sector
}

pub fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b ^ 0xD6E8_FEB8_6659_FD93 ^ a.rotate_left(29));
    (product as u64) ^ (product >> 64) as u64 ^ a.rotate_left(17)
}

pub fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let whole = words.iter().fold(bytes.len() as u64, |h, word| mix(h, u64::from_le_bytes(*word)));
    mix(whole, u64::from_le_bytes(last))
}
