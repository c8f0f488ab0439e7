//! [`Content`]: what a step from one version to the next sees of a checkpoint, and changes.

use std::collections::{BTreeMap, BTreeSet};

use super::sharing;
use super::version::Version;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::value::{Dict, Value};
use crate::lifecycle::label::{self, Label, VERSION_KEY};
use crate::read::{Checkpoint, TensorView};
use crate::write::{Builder, FileOptions, IntoTensor, View};

/// The content of a checkpoint, to be changed: tensors by name, metadata and document.
///
/// It begins as what a checkpoint holds, of which no data is copied, and ends as a [`Builder`]. Tensors of the file that are not replaced keep
/// their strides, and share storages as they did.
///
/// A *key* is one of the document's dictionary, with the tensors beneath it; in a checkpoint without a document it is the name of a tensor, of
/// tensors beneath it (`model` of `model.weight`), or of an entry of the metadata.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # use dolmen::{Builder, lifecycle::Content};
/// let mut b = Builder::new();
/// b.tensor("data", &[1.0f32, 2.0])?;
/// let old = b.to_checkpoint()?;
///
/// let mut content = Content::of(&old)?;
/// content.rename("data", "embeddings")?;
/// let doubled: Vec<f32> = content.tensor("embeddings")?.to_vec::<f32>()?.iter().map(|x| 2.0 * x).collect();
/// content.set_tensor("doubled", &doubled)?;
/// content.set("pooling", "mean")?;
/// let new = content.builder()?.to_checkpoint()?;
/// assert_eq!(new.tensor("doubled")?.as_slice::<f32>()?, [2.0, 4.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Content<'a> {
    file: &'a Checkpoint,
    tensors: BTreeMap<String, Held<'a>>,
    metadata: BTreeMap<String, Value>,
    document: Option<Value>,
}

/// Where a tensor is.
#[derive(Debug)]
enum Held<'a> {
    File(TensorView<'a>),
    /// In a checkpoint of its own.
    Made(Box<Checkpoint>),
}

impl Held<'_> {
    fn view(&self) -> Result<TensorView<'_>> {
        match self {
            Held::File(view) => Ok(*view),
            Held::Made(made) => made.nth(0),
        }
    }
}

impl<'a> Content<'a> {
    /// What a checkpoint holds.
    ///
    /// **Cost**: decodes metadata and document, and goes over the index; no data is read.
    ///
    /// # Errors
    /// What is broken in its index.
    pub fn of(file: &'a Checkpoint) -> Result<Content<'a>> {
        let mut tensors = BTreeMap::new();
        for view in file.tensors() {
            let view = view?;
            tensors.insert(view.name().to_owned(), Held::File(view));
        }
        Ok(Content { file, tensors, metadata: file.metadata()?, document: file.document()? })
    }

    /// The metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The metadata, to be changed.
    pub fn metadata_mut(&mut self) -> &mut BTreeMap<String, Value> {
        &mut self.metadata
    }

    /// The document, if there is one.
    pub fn document(&self) -> Option<&Value> {
        self.document.as_ref()
    }

    /// The document, to be changed in ways that [`set`](Self::set), [`rename`](Self::rename) and [`remove`](Self::remove) do not know.
    ///
    /// Nothing follows what is changed here: tensors that it no longer refers to stay, and references to shareable values
    /// ([`Value::SharedRef`]) are the caller's to keep right.
    pub fn document_mut(&mut self) -> &mut Option<Value> {
        &mut self.document
    }

    /// The names of all tensors, ascending.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name, to be read. One that was renamed says of itself the name that the file has for it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let held = self.tensors.get(name);
        held.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no tensor of this name").with_tensor(name))?.view()
    }

    /// Adds a tensor, or replaces the one of that name. The document refers to it only if it did before, or is made to.
    ///
    /// **Cost**: copies its data, so that it may be something that was computed just now.
    ///
    /// # Errors
    /// As [`Builder::tensor`].
    pub fn set_tensor<'t>(&mut self, name: &str, tensor: impl IntoTensor<'t>) -> Result<()> {
        let mut made = Builder::new();
        made.tensor(name, tensor)?;
        self.tensors.insert(name.to_owned(), Held::Made(Box::new(made.to_checkpoint()?)));
        Ok(())
    }

    /// Gives a tensor another name; what the document says of it follows.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none of the old name; [`InvalidInput`](ErrorKind::InvalidInput) if there is one of the new.
    pub fn rename_tensor(&mut self, old: &str, new: &str) -> Result<()> {
        self.tensor(old)?;
        self.rename_tensors(&BTreeMap::from([(old.to_owned(), new.to_owned())]))
    }

    /// Removes a tensor; gives whether there was one.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the document refers to it: then it is the key in the document that must go.
    pub fn remove_tensor(&mut self, name: &str) -> Result<bool> {
        if self.mentioned().contains(name) {
            let e = Error::invalid("it cannot be removed, for the document refers to it").with_tensor(name);
            return Err(e.with_advice("remove the key that leads to it"));
        }
        Ok(self.tensors.remove(name).is_some())
    }

    /// What there is under a key, other than tensors of a checkpoint without a document.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match &self.document {
            Some(document) => label::in_document(document, key),
            None => self.metadata.get(key),
        }
    }

    /// Sets what there is under a key: in the document's dictionary or, if there is no document, in the metadata. What was there is replaced, with
    /// the tensors that nothing else in the document refers to.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the document is no dictionary, or the value is, or refers to, a shareable one.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let value = value.into();
        if sharing::is_entangled(&value) {
            return Err(Error::invalid(format!("what is set as {} may not be shared", quoted(key))));
        }
        if self.document.is_none() {
            self.metadata.insert(key.to_owned(), value);
            return Ok(());
        }
        if self.positions(key)?.is_empty() {
            return self.edit(false, |dict| dict.push(key, value));
        }
        self.replace(key, Some(value))
    }

    /// Removes a key, with the tensors beneath it that nothing else refers to; gives whether there was such a key.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the document is no dictionary.
    pub fn remove(&mut self, key: &str) -> Result<bool> {
        if self.document.is_none() {
            let beneath: Vec<String> =
                self.tensor_names().filter(|name| is_beneath(name, key)).map(str::to_owned).collect();
            beneath.iter().for_each(|name| drop(self.tensors.remove(name)));
            return Ok(self.metadata.remove(key).is_some() || !beneath.is_empty());
        }
        let is_there = !self.positions(key)?.is_empty();
        if is_there {
            self.replace(key, None)?;
        }
        Ok(is_there)
    }

    /// Gives a key another name, in its place; the tensors beneath it that are named after it are named after the new one.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is no such key; [`InvalidInput`](ErrorKind::InvalidInput) if there is one of the new name, or
    /// the document is no dictionary. Nothing has changed then.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no key {} to rename", quoted(old)));
        let taken = || Error::invalid(format!("{} cannot be renamed to {}: that is there", quoted(old), quoted(new)));
        if self.document.is_none() {
            let beneath: Vec<&str> = self.tensor_names().filter(|name| is_beneath(name, old)).collect();
            if beneath.is_empty() && !self.metadata.contains_key(old) {
                return Err(missing());
            }
            if self.metadata.contains_key(new) || self.tensor_names().any(|name| is_beneath(name, new)) {
                return Err(taken());
            }
            let names = renamed(beneath, old, new);
            self.rename_tensors(&names)?;
            if let Some(value) = self.metadata.remove(old) {
                self.metadata.insert(new.to_owned(), value);
            }
            return Ok(());
        }
        let positions = self.positions(old)?;
        if positions.is_empty() {
            return Err(missing());
        }
        if !self.positions(new)?.is_empty() {
            return Err(taken());
        }
        let dict = self.document.as_ref().and_then(Value::as_dict);
        let entries = positions.iter().filter_map(|&at| dict?.entries.get(at));
        let is_shared = entries.clone().any(|(key, _)| sharing::has_shareables(key));
        let mut mentioned: BTreeSet<&str> = entries.flat_map(|(_, value)| value.tensor_names()).collect();
        mentioned.extend(self.further_names(old));
        let names = renamed(mentioned.into_iter().filter(|name| is_beneath_key(name, old)), old, new);
        self.rename_tensors(&names)?;
        self.edit(is_shared, |dict| {
            for at in positions {
                if let Some((key, _)) = dict.entries.get_mut(at) {
                    *key = Value::from(new);
                }
            }
        })
    }

    /// The version that the content says, 0.x if none.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if what it says is no version.
    pub fn version(&self) -> Result<Version> {
        Label::in_values(&self.metadata, self.document.as_ref()).version()
    }

    /// Says the version wherever one is said: in the document, in the metadata or, if in neither, in the metadata; `in_document` asks for it in
    /// the document at any rate.
    pub(super) fn set_version(&mut self, version: &Version, in_document: bool) -> Result<()> {
        let document = self.document.as_ref();
        let said_there = document.is_some_and(|document| label::in_document(document, VERSION_KEY).is_some());
        let said_here = self.metadata.contains_key(VERSION_KEY);
        if said_there || in_document {
            if self.document.is_none() {
                self.document = Some(Value::from(Dict::new()));
            }
            self.set(VERSION_KEY, version)?;
        }
        if said_here || !(said_there || in_document) {
            self.metadata.insert(VERSION_KEY.to_owned(), version.into());
        }
        Ok(())
    }

    /// What would be written of it.
    ///
    /// It looks as the file does: a Dolmen file keeps alignment and block length, its order of storages, and the sections that this version does not
    /// know; a file of another format becomes a usual one.
    ///
    /// # Errors
    /// As [`Builder::view`]; that the document refers to tensors that are there, is checked when it is written.
    pub fn builder(&self) -> Result<Builder<'_>> {
        let mut options = FileOptions::new();
        if self.file.format() == "dolmen" {
            let header = self.file.header();
            options = options.alignment(header.alignment())?.block_len(header.block_len())?;
        }
        let mut builder = Builder::with_options(options);
        let mut by_storage: BTreeMap<u32, Vec<(&str, TensorView<'_>)>> = BTreeMap::new();
        for (name, held) in &self.tensors {
            if let Held::File(view) = held {
                by_storage.entry(view.storage()).or_default().push((name, *view));
            }
        }
        for views in by_storage.into_values() {
            let Some((_, first)) = views.first() else { continue };
            let storage = builder.storage_beneath(first)?;
            for (name, tensor) in views {
                let mut view = View::new(tensor.dtype(), tensor.shape())?.start(tensor.start());
                if let Some(strides) = tensor.explicit_strides() {
                    view = view.strides(strides)?;
                }
                builder.view(name, storage, view)?;
            }
        }
        for (name, held) in &self.tensors {
            if let Held::Made(_) = held {
                builder.tensor(name, held.view()?)?;
            }
        }
        for (key, value) in &self.metadata {
            builder.metadata(key, value.clone());
        }
        if let Some(document) = &self.document {
            builder.document(document.clone());
        }
        builder.sections_of(self.file)?;
        Ok(builder)
    }

    /// The tensors that the document does not refer to.
    pub(super) fn unmentioned(&self) -> BTreeSet<&str> {
        let mentioned = self.mentioned();
        self.tensor_names().filter(|name| !mentioned.contains(name)).collect()
    }

    /// The further names, beneath a key, of tensors that the document holds in several places and mentions in another.
    fn further_names(&self, key: &str) -> Vec<&str> {
        self.unmentioned().into_iter().filter(|name| is_beneath_key(name, key)).collect()
    }

    fn mentioned(&self) -> BTreeSet<&str> {
        self.document.iter().flat_map(Value::tensor_names).collect()
    }

    /// Where a key is in the document's dictionary; more than once if the file has it so.
    fn positions(&self, key: &str) -> Result<Vec<usize>> {
        let dict = self.document.as_ref().and_then(Value::as_dict);
        let no_dict = || Error::invalid("the document is no dictionary, and has no keys");
        let (dict, document) = dict.zip(self.document.as_ref()).ok_or_else(no_dict)?;
        Ok(label::positions_of(&dict.entries, key, document))
    }

    /// Replaces what is under a key, or removes it; the tensors go that nothing refers to any more.
    fn replace(&mut self, key: &str, value: Option<Value>) -> Result<()> {
        let positions = self.positions(key)?;
        let dict = self.document.as_ref().and_then(Value::as_dict);
        let entries = || positions.iter().filter_map(|&at| dict?.entries.get(at));
        let is_shared = entries().any(|(key, value)| sharing::has_shareables(key) || sharing::has_shareables(value));
        let under_key = entries().flat_map(|(_, value)| value.tensor_names()).chain(self.further_names(key));
        let before: BTreeSet<String> = under_key.map(str::to_owned).collect();
        self.edit(is_shared, |dict| {
            let mut gone = positions.into_iter();
            if let Some(value) = value
                && let Some(first) = gone.next()
                && let Some((_, old)) = dict.entries.get_mut(first)
            {
                *old = value;
            }
            let (mut next, mut at) = (gone.next(), 0usize);
            dict.entries.retain(|_| {
                let is_gone = next == Some(at);
                if is_gone {
                    next = gone.next();
                }
                at = at.saturating_add(1);
                !is_gone
            });
        })?;
        let mentioned = self.mentioned();
        let gone: Vec<String> = before.into_iter().filter(|name| !mentioned.contains(name.as_str())).collect();
        gone.iter().for_each(|name| drop(self.tensors.remove(name)));
        Ok(())
    }

    /// Changes the document's dictionary. `shared`: shareable values may come away.
    fn edit(&mut self, shared: bool, change: impl FnOnce(&mut Dict)) -> Result<()> {
        let no_dict = || Error::invalid("the document is no dictionary, and has no keys");
        let document = self.document.as_mut().ok_or_else(no_dict)?;
        if shared {
            // On a copy: it may turn out that it cannot be done.
            let mut changed = document.clone();
            sharing::edit(&mut changed, change)?;
            *document = changed;
            return Ok(());
        }
        let mut value = document;
        while let Value::Shareable(inner) = value {
            value = inner;
        }
        match value {
            Value::Dict(dict) => change(dict),
            _ => return Err(no_dict()),
        }
        Ok(())
    }

    /// Gives tensors other names, all at once.
    fn rename_tensors(&mut self, names: &BTreeMap<String, String>) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut new = BTreeSet::new();
        for (old, name) in names {
            if (self.tensors.contains_key(name) && !names.contains_key(name)) || !new.insert(name) {
                let message = format!("it cannot be renamed to {}: there is a tensor of that name", quoted(name));
                return Err(Error::invalid(message).with_tensor(old));
            }
        }
        let moved: Vec<_> = names.iter().filter_map(|(old, new)| Some((new, self.tensors.remove(old)?))).collect();
        self.tensors.extend(moved.into_iter().map(|(new, held)| (new.clone(), held)));
        if let Some(document) = &mut self.document {
            document.visit_mut(|value| {
                if let Value::Tensor(reference) = value
                    && let Some(new) = names.get(&reference.name)
                {
                    reference.name.clone_from(new);
                }
            });
        }
        Ok(())
    }
}

/// Whether a tensor is named after a key: as it, or as what is beneath it.
fn is_beneath(name: &str, key: &str) -> bool {
    name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a tensor is named after a key of a document, where a number after `#` tells apart what would have the same name.
fn is_beneath_key(name: &str, key: &str) -> bool {
    is_beneath(name, key) || name.strip_prefix(key).is_some_and(|rest| rest.starts_with('#'))
}

/// The names that tensors get, which are named after a key.
fn renamed<'n>(names: impl IntoIterator<Item = &'n str>, old: &str, new: &str) -> BTreeMap<String, String> {
    let after = |name: &'n str| Some((name.to_owned(), format!("{new}{}", name.strip_prefix(old)?)));
    names.into_iter().filter_map(after).collect()
}
