//! The life of a checkpoint: validated before it is trusted, remembered if it failed, upgraded when its version changes, resumed from.
//!
//! Built on the public API of the crate alone.

mod error;
mod failed;
mod level;
mod pipeline;
mod root;
mod schema;
mod search;
mod shards;
mod validator;

pub use error::{CHECKPOINT_EXIT_CODE, CheckpointError, CheckpointErrorKind};
pub use failed::{FailedCheckpoint, FailedEntries, FailedLog, FailedSummary, summary as failed_summary};
pub use level::Level;
pub use pipeline::{
    ConfigChange, LockHolder, Pipeline, PipelineError, PipelineState, ResumeOptions, Run, RunningStage, STATE_FILE,
    Stage, StageRecord, StageStatus, Summary,
};
pub use schema::Schema;
pub use search::{Candidate, Candidates, Claim, spread};
pub use shards::{BadBatch, Shard, ShardBatch, ShardState, ShardedBatches};
pub use validator::{Batch, Validated, Validator};
