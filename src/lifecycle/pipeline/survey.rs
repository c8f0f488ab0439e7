//! Looking at what stages made: whether it is there, is what it was, and passes.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use super::fingerprint::Fingerprint;
use super::stage::Output;
use super::state::PipelineState;
use super::{Pipeline, ResumeOptions, Stage};
use crate::error::Error;
use crate::lifecycle::failed::absolute;
use crate::lifecycle::label::done_marker;
use crate::lifecycle::{CheckpointError, CheckpointErrorKind, FailedCheckpoint};

/// What was found of a stage's outputs.
#[derive(Debug)]
pub(super) enum Found {
    /// All are there and pass; what each is known by.
    Good(Vec<(Output, Fingerprint)>),
    /// One is not there.
    Missing(PathBuf),
    /// Some cannot be used.
    Bad(Vec<CheckpointError>),
}

/// Looks at outputs, as far as the options say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survey<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) options: &'a ResumeOptions,
    pub(super) state: &'a PipelineState,
    /// What is remembered as failed: only full validation can say that it has become good.
    pub(super) failed: &'a [FailedCheckpoint],
}

impl Survey<'_> {
    /// The outputs of a stage that its state calls completed.
    pub(super) fn completed(&self, stage: &Stage) -> Found {
        self.look_at(stage, self.outputs_of(stage), |_, path, known, metadata| {
            if self.options.skip_checkpoint_validation {
                return Ok(known.cloned().unwrap_or_else(|| Fingerprint::unread(metadata)));
            }
            self.is_what_it_was(path, known, metadata)
        })
    }

    /// The outputs of a stage of which no state says anything: each must have a marker of the original, or, where the word of
    /// a state was lost (`may_lack_marker`), be a checkpoint that passes. Nothing if that cannot be said of all.
    pub(super) fn unrecorded(&self, stage: &Stage, may_lack_marker: bool) -> Option<Vec<(Output, Fingerprint)>> {
        let is_vouched_for = |output: &Output| {
            has_done_marker(&self.pipeline.resolve(&output.path)) || (may_lack_marker && output.is_checkpoint)
        };
        if stage.outputs.is_empty() || !stage.outputs.iter().all(is_vouched_for) {
            return None;
        }
        let outputs = stage.outputs.iter().map(|output| (output.clone(), self.pipeline.resolve(&output.path), None));
        // Where there is no other word than a checkpoint's own, all of it is read.
        let strict = ResumeOptions { full: true, skip_checkpoint_validation: false, ..self.options.clone() };
        let survey = if may_lack_marker { Survey { options: &strict, ..*self } } else { *self };
        let known = survey.look_at(stage, outputs.collect(), |_, path, _, metadata| {
            let is_trusted = survey.options.skip_checkpoint_validation;
            if is_trusted { Ok(Fingerprint::unread(metadata)) } else { glance(path) }
        });
        match known {
            Found::Good(outputs) => Some(outputs),
            Found::Missing(_) | Found::Bad(_) => None,
        }
    }

    /// The outputs that a stage has just made.
    pub(super) fn made(&self, stage: &Stage, outputs: Vec<Output>) -> Found {
        let outputs = outputs.into_iter().map(|output| {
            let path = self.pipeline.resolve(&output.path);
            (output, path, None)
        });
        self.look_at(stage, outputs.collect(), |output, path, _, _| take(path, output.is_checkpoint))
    }

    /// What a file outside of the pipeline that a stage reads is known by; nothing of what is no regular file.
    pub(super) fn external_input(&self, path: &Path) -> io::Result<Option<Fingerprint>> {
        let resolved = self.pipeline.resolve(path);
        if !std::fs::metadata(&resolved)?.is_file() {
            return Ok(None);
        }
        Fingerprint::take(&resolved, true).map(Some)
    }

    /// By what a file outside of the pipeline is known from now on that a stage ran on which was completed by another program.
    pub(super) fn adopted_input(&self, path: &Path) -> Option<Fingerprint> {
        if !self.options.skip_checkpoint_validation {
            return self.external_input(path).ok().flatten();
        }
        let metadata = std::fs::metadata(self.pipeline.resolve(path)).ok()?;
        metadata.is_file().then(|| Fingerprint::unread(&metadata))
    }

    /// By what an input that an earlier stage made is to be recorded, if it is still what that stage made; if nothing is to be
    /// opened, what a look at it says of one that has changed.
    pub(super) fn made_input(&self, path: &Path, known: &Fingerprint) -> Result<Fingerprint, CheckpointError> {
        let path = self.pipeline.resolve(path);
        let metadata =
            std::fs::metadata(&path).map_err(|e| CheckpointError::of(&path, Error::io("cannot look at it", e)))?;
        let unread = Fingerprint::unread(&metadata);
        let is_same = unread.byte_len == known.byte_len && unread.modified == known.modified;
        if self.options.skip_checkpoint_validation {
            return Ok(if is_same { known.clone() } else { unread });
        }
        if known.crc32.is_none() {
            let why = "is not the file that the stage made: it was modified";
            let changed = || CheckpointError::new(&path, CheckpointErrorKind::Corrupted, why);
            return is_same.then(|| known.clone()).ok_or_else(changed);
        }
        // Whoever resumed in full has just read it.
        let quick = ResumeOptions { full: false, ..self.options.clone() };
        Survey { options: &quick, ..*self }.is_what_it_was(&path, Some(known), &metadata)
    }

    /// Whether a file outside of the pipeline is another one than a stage ran on. One that is gone is not: the stage needs it no more.
    pub(super) fn is_external_input_changed(&self, path: &Path, known: &Fingerprint) -> bool {
        let resolved = self.pipeline.resolve(path);
        match std::fs::metadata(&resolved) {
            Ok(metadata) if metadata.is_file() => self
                .is_what_it_was(&resolved, Some(known), &metadata)
                .is_err_and(|e| e.kind != CheckpointErrorKind::Unreadable),
            _ => false,
        }
    }

    fn look_at(
        &self,
        stage: &Stage,
        outputs: Vec<(Output, PathBuf, Option<Fingerprint>)>,
        know: impl Fn(&Output, &Path, Option<&Fingerprint>, &Metadata) -> Result<Fingerprint, CheckpointError>,
    ) -> Found {
        let mut there = Vec::with_capacity(outputs.len());
        let mut bad = Vec::new();
        for (output, path, known) in outputs {
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => there.push((output, path, known, metadata)),
                Ok(_) => bad.push(CheckpointError::new(&path, CheckpointErrorKind::Corrupted, "is not a regular file")),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Found::Missing(path);
                }
                Err(e) => bad.push(CheckpointError::of(&path, Error::io("cannot look at it", e))),
            }
        }
        let failed: BTreeSet<PathBuf> = self.failed.iter().map(|known| absolute(&known.path)).collect();
        let checkpoints = there.iter().filter(|(output, ..)| output.is_checkpoint);
        let (suspect, others): (Vec<&Path>, Vec<&Path>) =
            checkpoints.fold(Default::default(), |mut both, looked_at| {
                let (_, path, known, metadata) = looked_at;
                let is_touched =
                    known.as_ref().is_some_and(|known| known.modified != Fingerprint::unread(metadata).modified);
                let is_suspect = is_touched || failed.contains(&absolute(path));
                if is_suspect {
                    both.0.push(path.as_path())
                } else {
                    both.1.push(path.as_path())
                }
                both
            });
        bad.extend(self.validate(stage, &suspect, true));
        bad.extend(self.validate(stage, &others, self.options.full));
        let failed: BTreeSet<PathBuf> = bad.iter().map(|e| e.path.clone()).collect();
        let mut good = Vec::with_capacity(there.len());
        for (output, path, known, metadata) in there {
            if failed.contains(&path) {
                continue;
            }
            match know(&output, &path, known.as_ref(), &metadata) {
                Ok(fingerprint) => good.push((output, fingerprint)),
                Err(e) => bad.push(e),
            }
        }
        if bad.is_empty() { Found::Good(good) } else { Found::Bad(bad) }
    }

    /// The checkpoints that do not pass, of many looked at side by side.
    fn validate(&self, stage: &Stage, checkpoints: &[&Path], full: bool) -> Vec<CheckpointError> {
        if checkpoints.is_empty() || self.options.skip_checkpoint_validation {
            return Vec::new();
        }
        let validator = stage.validator.as_ref().unwrap_or(&self.pipeline.validator);
        validator.clone().quick(!full).validate_all(checkpoints).failed
    }

    /// Whether a file is the one that a stage was completed with.
    fn is_what_it_was(
        &self,
        path: &Path,
        known: Option<&Fingerprint>,
        metadata: &Metadata,
    ) -> Result<Fingerprint, CheckpointError> {
        let Some(known) = known else { return glance(path) };
        let replaced = |why: String| Err(CheckpointError::new(path, CheckpointErrorKind::Corrupted, why));
        let unread = Fingerprint::unread(metadata);
        if unread.byte_len != known.byte_len {
            return replaced(format!(
                "is not the file that the stage made: it had {} bytes and has {}",
                known.byte_len, unread.byte_len
            ));
        }
        let Some(known_crc) = known.crc32 else { return glance(path) };
        let is_unchanged = known.modified.is_some() && known.modified == unread.modified;
        if is_unchanged && !known.of_header && !self.options.full {
            return Ok(known.clone());
        }
        let found = take(path, known.of_header)?;
        if found.is_same_content(known) {
            return Ok(found);
        }
        replaced(format!(
            "is not the file that the stage made: the CRC-32 of its {} was {known_crc:08x} and is {:08x}",
            if known.of_header { "header" } else { "content" },
            found.crc32.unwrap_or_default()
        ))
    }

    /// The outputs that a stage has now and those that it was recorded with, where they are, and what each is known by.
    pub(super) fn outputs_of(&self, stage: &Stage) -> Vec<(Output, PathBuf, Option<Fingerprint>)> {
        let mut outputs: Vec<(Output, PathBuf, Option<Fingerprint>)> =
            stage.outputs.iter().map(|output| (output.clone(), self.pipeline.resolve(&output.path), None)).collect();
        for (output, fingerprint) in self.state.outputs_of(&stage.name) {
            let path =
                if fingerprint.is_some() { self.pipeline.resolve(&output.path) } else { self.find(&output.path) };
            // The original records what it likes; a directory says nothing of what a stage made in it.
            if fingerprint.is_none() && path.is_dir() {
                continue;
            }
            match outputs.iter_mut().find(|(_, known, _)| *known == path) {
                Some((_, _, place)) => *place = fingerprint,
                None => outputs.push((Output { path: self.named(&path), ..output }, path, fingerprint)),
            }
        }
        outputs
    }

    /// Where a file is that the original recorded: relative to the working directory, as it has them, or to the directories of
    /// the pipeline and of its state.
    fn find(&self, path: &Path) -> PathBuf {
        let places = [self.pipeline.resolve(path), self.pipeline.state_directory.join(path), path.to_path_buf()];
        let [first, ..] = &places;
        let first = first.clone();
        places.into_iter().find(|place| place.exists()).unwrap_or(first)
    }

    /// The name under which a file is recorded: relative to the pipeline's directory, if it is in it.
    fn named(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.pipeline.directory) {
            Ok(relative) => relative.to_path_buf(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
        }
    }
}

fn glance(path: &Path) -> Result<Fingerprint, CheckpointError> {
    Fingerprint::glance(path).map_err(|e| CheckpointError::of(path, Error::io("cannot read", e)))
}

fn take(path: &Path, by_header: bool) -> Result<Fingerprint, CheckpointError> {
    Fingerprint::take(path, by_header).map_err(|e| CheckpointError::of(path, Error::io("cannot read", e)))
}

/// Whether the original says that a file is complete: by an empty `FILE.done` beside it.
fn has_done_marker(path: &Path) -> bool {
    std::fs::metadata(done_marker(path)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}
