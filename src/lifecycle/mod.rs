//! The life of a checkpoint: validated before it is trusted, remembered if it failed, upgraded when its version changes, resumed from.
//!
//! ```text
//! validation   Validator: levels, one by one; Schema; many side by side        failed     FailedLog: failed_checkpoints.txt
//! versions     Versions: steps from one to the next, on load or on a file     save       Save: validated before it gets its name
//! pipeline     Pipeline: stages, what is done and what is next                 shards     ShardedBatches: one by one, each durable
//! label, info  what a checkpoint says of itself                               lock       one at a time
//! ```
//! A [`Validator`] says of one checkpoint whether it can be used, and a [`CheckpointError`] why not: *corrupted* ones are made again,
//! *incompatible* ones are not what is needed, of *unreadable* ones nothing is known. A [`Pipeline`] asks it of what its stages made.
//! The files that lie around checkpoints are described in `spec/lifecycle.md`.
//!
//! Built on the public API of the crate, and on [`commit`](crate::commit) for every byte that it writes.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod error;
mod failed;
mod info;
mod label;
mod lock;
mod pipeline;
mod save;
mod shards;
mod text;
mod validation;
mod versions;

pub use error::{CHECKPOINT_EXIT_CODE, CheckpointError, CheckpointErrorKind};
pub use failed::{FailedCheckpoint, FailedEntries, FailedLog, FailedSummary, summary as failed_summary};
pub use info::CheckpointInfo;
pub use label::{STATUS_COMPLETE, STATUS_IN_PROGRESS, STATUS_KEY, VERSION_KEY};
pub use lock::LockHolder;
pub use pipeline::{
    ConfigChange, Pipeline, PipelineError, PipelineState, ResumeOptions, Run, RunningStage, STATE_FILE, Stage,
    StageRecord, StageStatus, Summary,
};
pub use save::Save;
pub use shards::{BadBatch, Shard, ShardBatch, ShardState, ShardedBatches};
pub use validation::{Batch, Candidate, Candidates, Claim, Level, Schema, Validated, Validator, spread};
pub use versions::{
    CHECKPOINT_VERSION, Content, Loaded, StepName, Steps, UpgradeError, UpgradeOptions, Upgraded, Version, Versions,
    Warning,
};
