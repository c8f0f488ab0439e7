//! [`Tree`]: what is on a disk at one moment.

use super::disk::Effect;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Which file, directory or link it is: what is called an inode elsewhere.
pub type Id = usize;

/// The root, where relative paths begin as well.
pub const ROOT: Id = 0;

#[derive(Clone, Debug)]
pub enum Node {
    File {
        mode: u32,
        data: Vec<u8>,
    },
    Directory(BTreeMap<OsString, Id>),
    /// A symbolic link.
    Link(PathBuf),
}

/// Directories, files and links, by number.
#[derive(Clone, Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

impl Tree {
    /// One with nothing in its root.
    pub fn new() -> Tree {
        Tree { nodes: vec![Node::Directory(BTreeMap::new())] }
    }

    /// Adds a file, and the directories above it that are missing.
    pub fn with(mut self, path: impl AsRef<Path>, data: &[u8]) -> Tree {
        self.put(path.as_ref(), Node::File { mode: 0o644, data: data.to_vec() });
        self
    }

    pub fn with_directory(mut self, path: impl AsRef<Path>) -> Tree {
        self.put(path.as_ref(), Node::Directory(BTreeMap::new()));
        self
    }

    pub fn with_link(mut self, path: impl AsRef<Path>, to: impl Into<PathBuf>) -> Tree {
        self.put(path.as_ref(), Node::Link(to.into()));
        self
    }

    fn put(&mut self, path: &Path, node: Node) {
        let parent = match path.parent() {
            Some(parent) if parent.components().any(|c| matches!(c, Component::Normal(_))) => {
                if self.find(parent).is_none() {
                    self.put(parent, Node::Directory(BTreeMap::new()));
                }
                self.find(parent).unwrap()
            }
            _ => ROOT,
        };
        let id = self.nodes.len();
        self.nodes.push(node);
        self.entries_mut(parent).insert(path.file_name().unwrap().to_owned(), id);
    }

    /// Adds those of these nodes that it does not have, with nothing in them.
    pub fn add_nodes(&mut self, nodes: &[Node]) {
        let missing = nodes.iter().skip(self.nodes.len()).map(|node| match node {
            Node::File { mode, .. } => Node::File { mode: *mode, data: Vec::new() },
            Node::Directory(_) => Node::Directory(BTreeMap::new()),
            Node::Link(to) => Node::Link(to.clone()),
        });
        self.nodes.extend(missing);
    }

    /// What a path without links stands for.
    fn find(&self, path: &Path) -> Option<Id> {
        path.components().try_fold(ROOT, |at, component| match (component, &self.nodes[at]) {
            (Component::Normal(name), Node::Directory(entries)) => entries.get(name).copied(),
            (Component::Normal(_), _) => None,
            _ => Some(at),
        })
    }

    pub fn read(&self, path: &Path) -> Option<&[u8]> {
        match &self.nodes[self.find(path)?] {
            Node::File { data, .. } => Some(data),
            _ => None,
        }
    }

    pub fn entries(&self, directory: Id) -> &BTreeMap<OsString, Id> {
        match &self.nodes[directory] {
            Node::Directory(entries) => entries,
            node => panic!("{node:?} is no directory"),
        }
    }

    fn entries_mut(&mut self, directory: Id) -> &mut BTreeMap<OsString, Id> {
        match &mut self.nodes[directory] {
            Node::Directory(entries) => entries,
            node => panic!("{node:?} is no directory"),
        }
    }

    /// Does what a call does, as a program sees it that goes on.
    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Write { file, offset, bytes } => {
                let Node::File { data, .. } = &mut self.nodes[*file] else { panic!("no file") };
                let end = offset + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*offset..end].copy_from_slice(bytes);
            }
            Effect::SetLen { file, len } => {
                let Node::File { data, .. } = &mut self.nodes[*file] else { panic!("no file") };
                data.resize(*len, 0);
            }
            Effect::Entry { directory, name, node } => match node {
                Some(id) => drop(self.entries_mut(*directory).insert(name.clone(), *id)),
                None => drop(self.entries_mut(*directory).remove(name)),
            },
            _ => {}
        }
    }

    /// All names, with what they stand for, as lines of text.
    pub fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.list(ROOT, "", &mut lines);
        lines
    }

    fn list(&self, directory: Id, path: &str, lines: &mut Vec<String>) {
        for (name, id) in self.entries(directory) {
            let path = format!("{path}{}", name.display());
            match &self.nodes[*id] {
                Node::File { data, .. } => {
                    let zeros = data.iter().rev().take_while(|b| **b == 0).count();
                    let tail = if zeros > 64 { format!(", the last {zeros} zeros") } else { String::new() };
                    lines.push(format!("{path}: {} bytes{tail}", data.len()));
                }
                Node::Link(to) => lines.push(format!("{path} -> {}", to.display())),
                Node::Directory(_) => {
                    lines.push(format!("{path}/"));
                    self.list(*id, &format!("{path}/"), lines);
                }
            }
        }
    }
}
