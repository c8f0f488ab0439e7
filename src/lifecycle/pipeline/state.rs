//! [`PipelineState`]: what `pipeline_state.json` says, in the original's shape and with what is added to it.
//!
//! The document is kept as it was read and changed in place, so that what this version does not know survives.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::fingerprint::Fingerprint;
use super::stage::Output;
use crate::error::Error;
use crate::format::len_u64;
use crate::lifecycle::{CheckpointError, CheckpointErrorKind};

/// The name of the state file.
pub const STATE_FILE: &str = "pipeline_state.json";

/// The shape of the state file that this version writes; the original's has no number.
const STATE_VERSION: u64 = 1;

/// The longest state file that is read, in bytes.
pub(super) const STATE_LEN_MAX: u64 = 64 << 20;

/// The most commas and opening brackets that it may have: each stands for a value, which takes more memory than it has bytes in the file.
const VALUES_MAX: usize = 2_000_000;

const ADVICE: &str =
    "restore it from a copy, or resume with --force-resume: it is moved aside and every stage is looked at anew";

/// How far a stage has come, in the original's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StageStatus {
    /// It has not begun, or what it had made no longer counts.
    #[default]
    NotStarted,
    /// It has begun. If nobody is running, it was interrupted.
    InProgress,
    /// It was completed.
    Completed,
    /// It failed, or what it had made was found to be bad.
    Failed,
}

impl StageStatus {
    const ALL: [StageStatus; 4] =
        [StageStatus::NotStarted, StageStatus::InProgress, StageStatus::Completed, StageStatus::Failed];

    /// The word in the state file: `not_started`, `in_progress`, `completed` or `failed`.
    pub fn name(self) -> &'static str {
        match self {
            StageStatus::NotStarted => "not_started",
            StageStatus::InProgress => "in_progress",
            StageStatus::Completed => "completed",
            StageStatus::Failed => "failed",
        }
    }
}

impl fmt::Display for StageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a state file says of a stage. All text is as in the file: escape it before it is shown.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StageRecord {
    /// Its name.
    pub name: String,
    /// How far it has come.
    pub status: StageStatus,
    /// When it began last: UTC, ISO 8601.
    pub started_at: Option<String>,
    /// When it was completed.
    pub completed_at: Option<String>,
    /// When it failed.
    pub failed_at: Option<String>,
    /// How long it took, in seconds.
    pub duration_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// The files that it read, as far as they were recorded.
    pub inputs: Vec<String>,
    /// The files that it made.
    pub outputs: Vec<String>,
}

/// What a pipeline's state file says, read without opening anything else.
#[derive(Clone, Debug)]
pub struct PipelineState {
    path: PathBuf,
    document: Map<String, Json>,
}

impl PipelineState {
    /// A state in which nothing has begun.
    pub(super) fn initial<'a>(path: &Path, now: &str, names: impl IntoIterator<Item = &'a str>) -> PipelineState {
        let mut document = Map::new();
        document.insert("state_version".into(), STATE_VERSION.into());
        document.insert("created_at".into(), now.into());
        document.insert("pipeline_config".into(), json!({}));
        document.insert("stages".into(), json!({}));
        let mut state = PipelineState { path: path.to_path_buf(), document };
        state.order(names);
        state
    }

    /// Reads a state file, ours or the original's.
    ///
    /// # Errors
    /// [`Corrupted`](CheckpointErrorKind::Corrupted) if it is cut off, no JSON, not of the shape of a state, or longer than 64 MiB;
    /// [`Incompatible`](CheckpointErrorKind::Incompatible) if a newer version wrote it;
    /// [`Unreadable`](CheckpointErrorKind::Unreadable) if it is missing or cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<PipelineState, CheckpointError> {
        let path = path.as_ref();
        let unreadable = |e| CheckpointError::of(path, Error::io("cannot read the pipeline's state", e));
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(CheckpointError::new(path, CheckpointErrorKind::Unreadable, "is not a regular file"));
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(STATE_LEN_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        PipelineState::parse(path, &bytes)
    }

    /// The state that bytes are.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<PipelineState, CheckpointError> {
        let corrupted =
            |why: String| CheckpointError::new(path, CheckpointErrorKind::Corrupted, why).with_advice(ADVICE);
        check_len(bytes).map_err(corrupted)?;
        if bytes.is_empty() {
            return Err(corrupted("file is 0 bytes".to_owned()));
        }
        let parsed: Json = serde_json::from_slice(bytes)
            .map_err(|e| corrupted(format!("the pipeline's state is not whole JSON: {e}")))?;
        let Json::Object(document) = parsed else {
            return Err(corrupted("the pipeline's state is not a JSON object".to_owned()));
        };
        check(&document).map_err(|broken| corrupted(format!("the pipeline's state is broken: {broken}")))?;
        let state = PipelineState { path: path.to_path_buf(), document };
        match state.version() {
            Some(version) if version > STATE_VERSION => Err(CheckpointError::new(
                path,
                CheckpointErrorKind::Incompatible,
                format!("the pipeline's state is of version {version}; this program knows version {STATE_VERSION}"),
            )
            .with_advice("use a newer version of the program that runs the pipeline")),
            _ => Ok(state),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{:#}", Json::Object(self.document.clone()));
        text.push('\n');
        text.into_bytes()
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was made first: UTC, ISO 8601.
    pub fn created_at(&self) -> Option<&str> {
        text(&self.document, "created_at")
    }

    /// When it was saved last.
    pub fn updated_at(&self) -> Option<&str> {
        text(&self.document, "updated_at")
    }

    /// The SHA-256 of the configuration: of what Python's `json.dumps(config, sort_keys=True)` gives.
    pub fn config_hash(&self) -> Option<&str> {
        text(object(&self.document, "pipeline_config")?, "config_hash")
    }

    /// The stages, in order. What the file says of stages that the pipeline no longer has is left out.
    pub fn stages(&self) -> impl Iterator<Item = StageRecord> + '_ {
        let stages = object(&self.document, "stages").into_iter().flatten();
        let listed = object(&self.document, "pipeline_config").and_then(|config| config.get("stages")?.as_array());
        let counts = move |name: &str| listed.is_none_or(|listed| listed.iter().any(|known| known == name));
        stages
            .filter(move |(name, _)| counts(name))
            .filter_map(|(name, stage)| Some(StageRecord::of(name, stage.as_object()?)))
    }

    /// What it says of a stage, if anything.
    pub fn stage(&self, name: &str) -> Option<StageRecord> {
        Some(StageRecord::of(name, self.record(name)?))
    }

    /// The shape's number; the original's files have none.
    fn version(&self) -> Option<u64> {
        self.document.get("state_version").and_then(Json::as_u64)
    }

    /// Whether the original wrote it, and not this crate.
    pub(super) fn is_of_original(&self) -> bool {
        self.version().is_none()
    }

    /// The configuration, if it is kept.
    pub(super) fn config(&self) -> Option<&Map<String, Json>> {
        object(object(&self.document, "pipeline_config")?, "config")
    }

    /// What the original keeps beside the hash: some of the configuration's values.
    pub(super) fn partial_config(&self) -> Map<String, Json> {
        let mut kept = object(&self.document, "pipeline_config").cloned().unwrap_or_default();
        kept.retain(|key, _| !["config_hash", "config", "stages"].contains(&key.as_str()));
        kept
    }

    pub(super) fn set_config(&mut self, hash: &str, config: Map<String, Json>) {
        let kept = object_mut(&mut self.document, "pipeline_config");
        kept.insert("config_hash".into(), hash.into());
        kept.insert("config".into(), Json::Object(config));
    }

    /// Marks it as written by this version, at this time.
    pub(super) fn touch(&mut self, now: &str) {
        self.document.insert("state_version".into(), STATE_VERSION.into());
        self.document.insert("updated_at".into(), now.into());
    }

    /// Puts the stages in this order, before those that it knows and the pipeline does not.
    pub(super) fn order<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let stages = object_mut(&mut self.document, "stages");
        let mut old = std::mem::take(stages);
        let mut listed = Vec::new();
        for name in names {
            stages.insert(name.to_owned(), old.shift_remove(name).unwrap_or_else(unbegun));
            listed.push(Json::from(name));
        }
        // Stages of an earlier definition stay, for whoever goes back to it.
        stages.extend(old);
        object_mut(&mut self.document, "pipeline_config").insert("stages".into(), listed.into());
    }

    pub(super) fn status(&self, name: &str) -> Option<StageStatus> {
        self.record(name).map(status_of)
    }

    /// The record of a stage, to be changed.
    pub(super) fn record_mut(&mut self, name: &str) -> &mut Map<String, Json> {
        object_mut(object_mut(&mut self.document, "stages"), name)
    }

    fn record(&self, name: &str) -> Option<&Map<String, Json>> {
        object(object(&self.document, "stages")?, name)
    }

    /// The outputs that a stage is recorded with, and what each is known by.
    pub(super) fn outputs_of(&self, name: &str) -> Vec<(Output, Option<Fingerprint>)> {
        let Some(record) = self.record(name) else { return Vec::new() };
        if let Some(files) = fingerprints(record, "outputs") {
            return files
                .filter_map(|(path, file)| {
                    let is_checkpoint = file.get("checkpoint").and_then(Json::as_bool).unwrap_or(false);
                    Some((Output { path: path.into(), is_checkpoint }, Some(Fingerprint::from_json(file)?)))
                })
                .collect();
        }
        let paths = paths_in(record.get("outputs"));
        paths
            .into_iter()
            .map(|path| (Output { is_checkpoint: is_named_checkpoint(path), path: path.into() }, None))
            .collect()
    }

    /// By what the inputs that a stage ran on are known; nothing if that was not recorded.
    pub(super) fn inputs_of(&self, name: &str) -> Option<BTreeMap<PathBuf, Fingerprint>> {
        let files = fingerprints(self.record(name)?, "inputs")?;
        Some(files.filter_map(|(path, file)| Some((path.into(), Fingerprint::from_json(file)?))).collect())
    }

    /// Records what the outputs of a stage are known by, and nothing else.
    pub(super) fn set_known_outputs(&mut self, name: &str, outputs: &[(Output, Fingerprint)]) {
        let files: Map<String, Json> = outputs.iter().map(known_output).collect();
        object_mut(self.record_mut(name), "fingerprints").insert("outputs".into(), Json::Object(files));
        self.date_fingerprints(name);
    }

    /// Says to which completion of a stage the fingerprints belong: the original leaves them where they are when it completes the stage
    /// again.
    fn date_fingerprints(&mut self, name: &str) {
        let record = self.record_mut(name);
        let completed_at = record.get("completed_at").cloned().unwrap_or_default();
        object_mut(record, "fingerprints").insert("completed_at".into(), completed_at);
    }

    /// Records a stage as completed with these outputs.
    pub(super) fn complete(&mut self, name: &str, outputs: &[(Output, Fingerprint)], now: &str, seconds: Option<f64>) {
        self.set_known_outputs(name, outputs);
        let files: Vec<String> = outputs.iter().map(|(output, _)| in_text(&output.path)).collect();
        let record = self.record_mut(name);
        record.remove("failed_at");
        record.insert("status".into(), StageStatus::Completed.name().into());
        record.insert("completed_at".into(), now.into());
        record.insert("duration_seconds".into(), json!(seconds));
        record.insert("outputs".into(), if files.is_empty() { json!({}) } else { json!({ "files": files }) });
        record.insert("error".into(), Json::Null);
        self.date_fingerprints(name);
    }

    /// Records a stage as begun on these inputs.
    pub(super) fn begin(&mut self, name: &str, now: &str, named: &[PathBuf], known: &BTreeMap<PathBuf, Fingerprint>) {
        self.reset(name);
        let named: Vec<String> = named.iter().map(|path| in_text(path)).collect();
        let record = self.record_mut(name);
        record.insert("status".into(), StageStatus::InProgress.name().into());
        record.insert("started_at".into(), now.into());
        record.insert("inputs".into(), if named.is_empty() { json!({}) } else { json!({ "files": named }) });
        self.set_known_inputs(name, known);
    }

    /// Records a stage as failed; what it had made no longer counts.
    pub(super) fn fail(&mut self, name: &str, error: &str, now: &str) {
        const MOST: usize = 10_000;
        let record = self.record_mut(name);
        if let Some(fingerprints) = record.get_mut("fingerprints").and_then(Json::as_object_mut) {
            fingerprints.remove("outputs");
        }
        record.insert("status".into(), StageStatus::Failed.name().into());
        record.insert("completed_at".into(), Json::Null);
        record.insert("failed_at".into(), now.into());
        record.insert("error".into(), error.chars().take(MOST).collect::<String>().into());
    }

    /// Records what the inputs of a stage are known by.
    pub(super) fn set_known_inputs(&mut self, name: &str, known: &BTreeMap<PathBuf, Fingerprint>) {
        let known: Map<String, Json> =
            known.iter().map(|(path, fingerprint)| (in_text(path), Json::Object(fingerprint.to_json()))).collect();
        object_mut(self.record_mut(name), "fingerprints").insert("inputs".into(), Json::Object(known));
        self.date_fingerprints(name);
    }

    /// Takes back what a stage has come to. What is unknown in its record stays.
    pub(super) fn reset(&mut self, name: &str) {
        let record = self.record_mut(name);
        record.remove("failed_at");
        record.remove("fingerprints");
        if let Json::Object(fields) = unbegun() {
            record.extend(fields);
        }
    }
}

fn known_output((output, fingerprint): &(Output, Fingerprint)) -> (String, Json) {
    let mut file = fingerprint.to_json();
    file.insert("checkpoint".into(), output.is_checkpoint.into());
    (in_text(&output.path), Json::Object(file))
}

impl StageRecord {
    fn of(name: &str, record: &Map<String, Json>) -> StageRecord {
        let owned = |key| text(record, key).map(str::to_owned);
        let paths = |key| paths_in(record.get(key)).into_iter().map(str::to_owned).collect();
        StageRecord {
            name: name.to_owned(),
            status: status_of(record),
            started_at: owned("started_at"),
            completed_at: owned("completed_at"),
            failed_at: owned("failed_at"),
            duration_seconds: record.get("duration_seconds").and_then(Json::as_f64),
            error: owned("error"),
            inputs: paths("inputs"),
            outputs: paths("outputs"),
        }
    }
}

fn unbegun() -> Json {
    json!({
        "status": StageStatus::NotStarted.name(),
        "started_at": null,
        "completed_at": null,
        "duration_seconds": null,
        "inputs": {},
        "outputs": {},
        "error": null,
    })
}

fn status_of(record: &Map<String, Json>) -> StageStatus {
    let word = text(record, "status").unwrap_or_default();
    StageStatus::ALL.into_iter().find(|status| status.name() == word).unwrap_or_default()
}

/// Refuses what would take too much memory, before it is parsed.
pub(super) fn check_len(bytes: &[u8]) -> Result<(), String> {
    if len_u64(bytes.len()) > STATE_LEN_MAX {
        return Err(format!("a pipeline's state has at most {STATE_LEN_MAX} bytes, and this file has more"));
    }
    if bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > VALUES_MAX {
        return Err("a pipeline's state does not have so many values".to_owned());
    }
    Ok(())
}

/// Whether everything that is read of a document is of the type that it should be.
fn check(document: &Map<String, Json>) -> Result<(), String> {
    for key in ["created_at", "updated_at"] {
        is_text_or_null(document, key)?;
    }
    if document.get("state_version").is_some_and(|version| version.as_u64().is_none_or(|n| n == 0)) {
        return Err("`state_version` is not a number from 1 on".to_owned());
    }
    if let Some(config) = document.get("pipeline_config") {
        let config = config.as_object().ok_or("`pipeline_config` is not an object")?;
        is_text_or_null(config, "config_hash")?;
        if config.get("config").is_some_and(|config| !config.is_object()) {
            return Err("`config` is not an object".to_owned());
        }
    }
    let stages = document.get("stages").ok_or("there are no `stages`")?;
    let stages = stages.as_object().ok_or("`stages` is not an object")?;
    for (name, stage) in stages {
        let of_stage = |why: String| format!("stage {}: {why}", short(name));
        let stage = stage.as_object().ok_or_else(|| of_stage("it is not an object".to_owned()))?;
        check_stage(stage).map_err(of_stage)?;
    }
    Ok(())
}

fn check_stage(stage: &Map<String, Json>) -> Result<(), String> {
    let status = stage.get("status").and_then(Json::as_str).ok_or("`status` is not text")?;
    if !StageStatus::ALL.iter().any(|known| known.name() == status) {
        return Err(format!("`status` is {}, which is none", short(status)));
    }
    for key in ["started_at", "completed_at", "failed_at", "error"] {
        is_text_or_null(stage, key)?;
    }
    if stage.get("duration_seconds").is_some_and(|seconds| !seconds.is_null() && !seconds.is_number()) {
        return Err("`duration_seconds` is not a number".to_owned());
    }
    for key in ["inputs", "outputs"] {
        if stage.get(key).is_some_and(|files| !files.is_null() && !files.is_object() && !files.is_array()) {
            return Err(format!("`{key}` is not an object"));
        }
    }
    let Some(fingerprints) = stage.get("fingerprints") else { return Ok(()) };
    let fingerprints = fingerprints.as_object().ok_or("`fingerprints` is not an object")?;
    for key in ["inputs", "outputs"] {
        let Some(files) = fingerprints.get(key) else { continue };
        let files = files.as_object().ok_or_else(|| format!("the fingerprints of `{key}` are not an object"))?;
        for (path, file) in files {
            if file.as_object().and_then(Fingerprint::from_json).is_none() {
                return Err(format!("the fingerprint of {} is not one", short(path)));
            }
        }
    }
    Ok(())
}

fn is_text_or_null(map: &Map<String, Json>, key: &str) -> Result<(), String> {
    match map.get(key) {
        None | Some(Json::Null | Json::String(_)) => Ok(()),
        Some(_) => Err(format!("`{key}` is not text")),
    }
}

/// Text from a file in a message: quoted, escaped, and not too long.
fn short(text: &str) -> String {
    const MOST: usize = 60;
    let cut: String = text.chars().take(MOST).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "…" } else { "" })
}

fn text<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Json::as_str)
}

fn object<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a Map<String, Json>> {
    map.get(key).and_then(Json::as_object)
}

/// An object within an object, made if it is not there.
fn object_mut<'a>(map: &'a mut Map<String, Json>, key: &str) -> &'a mut Map<String, Json> {
    let value = map.entry(key).or_insert(Json::Null);
    if !value.is_object() {
        *value = Json::Object(Map::new());
    }
    match value {
        Json::Object(object) => object,
        _ => unreachable!("it was made an object"),
    }
}

fn fingerprints<'a>(
    record: &'a Map<String, Json>,
    key: &str,
) -> Option<impl Iterator<Item = (&'a str, &'a Map<String, Json>)> + use<'a>> {
    let fingerprints = object(record, "fingerprints")?;
    if status_of(record) == StageStatus::Completed && fingerprints.get("completed_at") != record.get("completed_at") {
        return None;
    }
    let files = object(fingerprints, key)?;
    Some(files.iter().filter_map(|(path, file)| Some((path.as_str(), file.as_object()?))))
}

/// The paths in what the original records: a dictionary of paths and lists of paths.
fn paths_in(files: Option<&Json>) -> Vec<&str> {
    let mut found = Vec::new();
    let mut pending: Vec<&Json> = files.into_iter().collect();
    while let Some(value) = pending.pop() {
        match value {
            Json::String(path) => found.push(path.as_str()),
            Json::Array(items) => pending.extend(items.iter().rev()),
            Json::Object(map) => pending.extend(map.iter().rev().map(|(_, value)| value)),
            _ => {}
        }
    }
    found
}

/// Whether a file that a state merely names is taken for a checkpoint.
fn is_named_checkpoint(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    ["dolmen", "pt", "pth", "ckpt", "safetensors"].contains(&extension.as_str())
}

/// A path as the state file holds it. Those that are not text were refused before.
fn in_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
