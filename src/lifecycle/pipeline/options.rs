//! [`ResumeOptions`]: how much is looked at before a pipeline goes on, and what is done about what is found.

use crate::commit::SaveOptions;

/// How to resume: quick validation, and stop at what is bad, unless told otherwise.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ResumeOptions {
    pub(super) full: bool,
    pub(super) force_resume: bool,
    pub(super) skip_checkpoint_validation: bool,
    pub(super) restart_on_config_change: bool,
    pub(super) save: SaveOptions,
}

impl ResumeOptions {
    /// The defaults.
    pub fn new() -> ResumeOptions {
        ResumeOptions::default()
    }

    /// Whether to read all data: of checkpoints every checksum is compared, and other files are read again even if length and
    /// modification time are as they were. **Cost**: reads every output of every completed stage.
    pub fn full(mut self, full: bool) -> ResumeOptions {
        self.full = full;
        self
    }

    /// Whether to go on past corrupted and incompatible outputs of completed stages, by doing those stages again, and past a
    /// state file that is corrupted, by looking at every stage anew.
    ///
    /// What cannot be read at all stops the run nevertheless: nothing is known of it.
    pub fn force_resume(mut self, force: bool) -> ResumeOptions {
        self.force_resume = force;
        self
    }

    /// Whether to trust completed stages without opening any of their outputs: they need only exist. Checkpoints that a stage
    /// makes in this run are not validated either.
    pub fn skip_checkpoint_validation(mut self, skip: bool) -> ResumeOptions {
        self.skip_checkpoint_validation = skip;
        self
    }

    /// Whether to start over if the configuration is not that of the state file, as the original does, rather than fail. The
    /// state of before is kept beside the new one.
    pub fn restart_on_config_change(mut self, restart: bool) -> ResumeOptions {
        self.restart_on_config_change = restart;
        self
    }

    /// How, and in which file system, the state is saved; a validator in them, and whether to create it anew, count for nothing. **Cost**: with less than full durability, a crash of the machine can
    /// lose completed stages.
    pub fn save_options(mut self, save: SaveOptions) -> ResumeOptions {
        self.save = save.validator(None).create_new(false);
        self
    }
}
