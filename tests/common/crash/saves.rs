//! Workloads that save checkpoints: new ones, over longer and shorter ones, through links, streamed, validated.

use super::{Disk, Tree, Workload};
use crate::common::{IntoReader, one_thread};
use dolmen::commit::create_directories;
use dolmen::commit::file_system::FileSystem;
use dolmen::{
    Builder, Checkpoint, DType, ErrorKind, FileOptions, SaveOptions, TensorData, View, Writer, verify_source,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A way to save a content under a path.
type Save = fn(&Path, u32, &SaveOptions) -> dolmen::Result<()>;

/// One save.
struct Step {
    /// As it is given to the saver.
    path: &'static str,
    /// The file that is replaced.
    real: &'static str,
    content: u32,
    bytes: Vec<u8>,
}

/// Saves, one after the other.
pub struct Saves {
    name: String,
    /// What was there before.
    old: BTreeMap<&'static str, Vec<u8>>,
    tree: Tree,
    steps: Vec<Step>,
    save: Save,
    create_new: bool,
    longest_write: usize,
    no_replace: bool,
    preallocation_extends: bool,
    /// This flush of a file fails, counted from 0. What could not be flushed is then saved once more.
    failing_sync: Option<usize>,
}

const FILE: &str = "d/m.dolmen";
const OTHER: &str = "d/other.dolmen";

impl Saves {
    fn new(name: &str, save: Save) -> Saves {
        let other = bytes_of(build, 99);
        let leftover = b"DOLMEN, but a killed writer wrote no more of it".as_slice();
        Saves {
            name: name.to_owned(),
            tree: Tree::new().with(OTHER, &other).with("d/.m.dolmen.00112233445566aa.dolmen-tmp", leftover),
            old: BTreeMap::from([(OTHER, other)]),
            steps: Vec::new(),
            save,
            create_new: false,
            longest_write: usize::MAX,
            no_replace: true,
            preallocation_extends: false,
            failing_sync: None,
        }
    }

    /// The file is there already.
    fn over(mut self, path: &'static str, content: u32) -> Saves {
        let bytes = bytes_of(self.save, content);
        self.tree = self.tree.with(path, &bytes);
        self.old.insert(path, bytes);
        self
    }

    fn through(mut self, link: &str, to: &str) -> Saves {
        self.tree = self.tree.with_link(link, to);
        self
    }

    fn then(mut self, path: &'static str, real: &'static str, content: u32) -> Saves {
        self.steps.push(Step { path, real, content, bytes: bytes_of(self.save, content) });
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Saves)) -> Saves {
        change(&mut self);
        self
    }

    /// What a file holds after so many steps.
    fn content(&self, path: &str, steps: usize) -> Option<&[u8]> {
        let saved = self.steps[..steps].iter().rev().find(|step| step.real == path);
        saved.map(|step| &step.bytes).or_else(|| self.old.get(path)).map(Vec::as_slice)
    }
}

impl Workload for Saves {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn disk(&self) -> Disk {
        Disk::new(self.tree.clone()).behave(|b| {
            b.longest_write = self.longest_write;
            b.no_replace = self.no_replace;
            b.preallocation_extends = self.preallocation_extends;
            b.failing_sync = self.failing_sync;
        })
    }

    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, done: usize) -> Result<(), String> {
        let options = SaveOptions::new().file_system(saving_in.clone()).create_new(self.create_new);
        for (n, step) in self.steps.iter().enumerate().skip(done) {
            disk.begin(n + 1);
            let save = || (self.save)(step.path.as_ref(), step.content, &options);
            match save() {
                Err(e) if self.failing_sync.is_some() && e.kind() != ErrorKind::InvalidInput => {
                    save().map_err(|e| e.to_string())?
                }
                // It was put in place just before the crash.
                Err(e) if n == done && self.create_new && e.kind() == ErrorKind::InvalidInput => {
                    if disk.read(step.real).as_ref() != Some(&step.bytes) {
                        return Err(e.to_string());
                    }
                    // Who finds it so knows that it may yet be lost, and flushes the name.
                    let directory = Path::new(step.real).parent().unwrap();
                    saving_in.open_directory(directory).and_then(|d| d.sync()).map_err(|e| e.to_string())?;
                    dolmen::commit::sweep_in(&**saving_in, directory).map_err(|e| e.to_string())?;
                }
                result => result.map_err(|e| e.to_string())?,
            }
            disk.done(n + 1);
        }
        Ok(())
    }

    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String> {
        let paths = self.steps.iter().map(|step| step.real).chain(self.old.keys().copied());
        for path in paths.collect::<std::collections::BTreeSet<_>>() {
            let found = after.read(path);
            if !(done..=begun).any(|steps| self.content(path, steps) == found.as_deref()) {
                let before = if self.content(path, done).is_some() {
                    "an acknowledged save of it is lost"
                } else {
                    "there was none"
                };
                return Err(match found {
                    None => format!("{path} is gone: {before}"),
                    Some(bytes) => format!("{path}: {before}, and it is now {}", told(&bytes, self)),
                });
            }
            if let Some(bytes) = found {
                read(&bytes).map_err(|e| format!("{path}: {e}"))?;
            }
        }
        Ok(())
    }
}

/// What a file is that should not be.
fn told(bytes: &[u8], saves: &Saves) -> String {
    match read(bytes) {
        Err(e) => format!("damaged: {e}"),
        Ok(content) => match saves.steps.iter().any(|step| step.bytes == bytes) {
            true => format!("the content {content} of another step"),
            false => format!("something else that can be read, content {content}"),
        },
    }
}

/// Reads a file as users do, strictly; gives which content it is.
pub fn read(bytes: &[u8]) -> Result<u32, String> {
    let report = verify_source(&bytes.into_reader(), &one_thread()).map_err(|e| e.to_string())?;
    report.into_result().map_err(|e| e.to_string())?;
    let opened = Checkpoint::from_bytes(bytes).map_err(|e| e.to_string())?;
    for tensor in opened.tensors() {
        tensor.and_then(|tensor| tensor.bytes().map(drop)).map_err(|e| e.to_string())?;
    }
    let content = opened.tensor("content").and_then(|tensor| tensor.to_vec::<u32>()).map_err(|e| e.to_string())?;
    let weights = opened.tensor("weights").map_err(|e| e.to_string())?;
    match weights.bytes().map_err(|e| e.to_string())?.iter().all(|byte| *byte == content[0] as u8) {
        true => Ok(content[0]),
        false => Err("weights of another content".to_owned()),
    }
}

/// The file that a way of saving makes, where nothing goes wrong.
fn bytes_of(save: Save, content: u32) -> Vec<u8> {
    let disk = Disk::new(Tree::new().with_directory("d"));
    save(FILE.as_ref(), content, &SaveOptions::new().file_system(Arc::new(disk.clone()))).unwrap();
    let bytes = disk.read(FILE).unwrap();
    assert_eq!(read(&bytes), Ok(content));
    bytes
}

fn small() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap()
}

/// As many elements as tell contents apart by their length.
fn element_count(content: u32) -> usize {
    2000 + content as usize % 7 * 3000
}

fn builder(content: u32) -> Builder<'static> {
    let len = element_count(content);
    let mut b = Builder::with_options(small());
    b.tensor("content", TensorData::raw(DType::U32, [1], content.to_le_bytes().to_vec()).unwrap()).unwrap();
    b.tensor("weights", TensorData::raw(DType::U8, [len as u64], vec![content as u8; len]).unwrap()).unwrap();
    b.alias("tied", "weights").unwrap();
    b.metadata("step", u64::from(content));
    b
}

fn build(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    builder(content).save_with(path, options)
}

fn build_validated(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    builder(content).save_with(path, &options.clone().validate(true))
}

fn build_in_new_directory(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    create_directories(&**options.saves_in(), path.parent().unwrap())?;
    builder(content).save_with(path, options)
}

#[cfg(feature = "lifecycle")]
fn save_labelled(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    dolmen::lifecycle::Save::new().options(options.clone()).save(&builder(content), path)
}

/// Several tensors, rows whose number is not known, a view and an alias.
fn stream(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    stream_rows(path, content, options, element_count(content) / 100)
}

/// More than a writer gathers before it writes.
fn stream_much(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    stream_rows(path, content, options, 11_000 + content as usize % 7 * 300)
}

fn stream_rows(path: &Path, content: u32, options: &SaveOptions, rows: usize) -> dolmen::Result<()> {
    let mut w = Writer::create_with(path, small(), options)?;
    w.tensor("content", &[content])?;
    let mut out = w.begin_rows("weights", DType::U8, [100])?;
    for _ in 0..rows {
        out.write_bytes(&[content as u8; 100])?;
    }
    out.finish()?;
    let mut out = w.begin("halves", DType::F16, [20, 30])?;
    for n in 0..20 {
        out.write_bytes(&[n; 60])?;
    }
    out.finish()?;
    let storage = w.storage_of("weights")?;
    w.view("columns", storage, View::new(DType::U8, [10, 4])?.strides([100, 2])?)?;
    w.alias("tied", "weights")?;
    w.metadata("step", u64::from(content));
    w.commit()
}

/// All of them.
pub fn workloads() -> Vec<Saves> {
    let over = |name: &str, save: Save| {
        // Longer, shorter, and as long as before.
        Saves::new(name, save).over(FILE, 2).then(FILE, FILE, 5).then(FILE, FILE, 1).then(FILE, FILE, 8)
    };
    let new = |name: &str, save: Save| Saves::new(name, save).then(FILE, FILE, 3).then("d/n.dolmen", "d/n.dolmen", 4);
    vec![
        // The one that takes longest first, so that all threads end at about the same time.
        Saves::new("long streamed saves over a file", stream_much)
            .over(FILE, 2)
            .then(FILE, FILE, 3)
            .then(FILE, FILE, 1),
        over("saves over a file", build),
        over("saves over a file, in short writes", build).change(|s| s.longest_write = 3000),
        over("saves over a file, with space reserved beyond its end", build).change(|s| s.preallocation_extends = true),
        over("saves over a file, of which one cannot be flushed", build).change(|s| s.failing_sync = Some(1)),
        over("validated saves over a file", build_validated),
        new("saves of new files", build),
        new("saves of new files only", build).change(|s| s.create_new = true),
        new("saves of new files only, by links", build).change(|s| (s.create_new, s.no_replace) = (true, false)),
        Saves::new("saves through links", build)
            .over("real/deep/m", 2)
            .through("real/step", "deep/m")
            .through("links/m", "../real/step")
            .through("links/new", "/real/new")
            .then("links/m", "real/deep/m", 5)
            .then("links/new", "real/new", 3)
            .then("links/m", "real/deep/m", 1),
        Saves::new("saves in new directories", build_in_new_directory)
            .then("a/b/c/m", "a/b/c/m", 1)
            .then("a/b/n", "a/b/n", 2)
            .then("a/b/c/m", "a/b/c/m", 3),
        over("streamed saves over a file", stream),
        over("streamed saves over a file, in short writes", stream).change(|s| s.longest_write = 2500),
        new("streamed saves of new files", stream).change(|s| s.longest_write = 4000),
        #[cfg(feature = "lifecycle")]
        over("saves that are labelled and validated", save_labelled),
    ]
}
