//! The life of a checkpoint: validated before it is trusted, remembered if it failed, upgraded when its version changes, resumed from.
//!
//! Built on the public API of the crate alone.

mod content;
mod error;
mod failed;
mod info;
mod label;
mod level;
mod pipeline;
mod root;
mod save;
mod schema;
mod search;
mod shards;
mod sharing;
mod steps;
mod upgrade;
mod validator;
mod version;
mod versions;

pub use content::Content;
pub use error::{CHECKPOINT_EXIT_CODE, CheckpointError, CheckpointErrorKind};
pub use failed::{FailedCheckpoint, FailedEntries, FailedLog, FailedSummary, summary as failed_summary};
pub use info::CheckpointInfo;
pub use label::{STATUS_COMPLETE, STATUS_IN_PROGRESS, STATUS_KEY, VERSION_KEY};
pub use level::Level;
pub use pipeline::{
    ConfigChange, LockHolder, Pipeline, PipelineError, PipelineState, ResumeOptions, Run, RunningStage, STATE_FILE,
    Stage, StageRecord, StageStatus, Summary,
};
pub use save::Save;
pub use schema::Schema;
pub use search::{Candidate, Candidates, Claim, spread};
pub use shards::{BadBatch, Shard, ShardBatch, ShardState, ShardedBatches};
pub use steps::Steps;
pub use upgrade::{UpgradeError, UpgradeOptions, Upgraded};
pub use validator::{Batch, Validated, Validator};
pub use version::{CHECKPOINT_VERSION, Version};
pub use versions::{Loaded, StepName, Versions, Warning};
