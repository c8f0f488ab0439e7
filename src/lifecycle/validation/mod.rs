//! Validation: whether a checkpoint can be trusted, and what it lacks.
//!
//! [`Validator`] goes through the [levels](Level), one checkpoint or many side by side; [`Schema`] says what tensors should look like, and
//! [`Candidates`] finds the files. Saves, upgrades, shards and pipelines ask a validator; the command asks it for people.

mod level;
mod root;
mod schema;
mod search;
mod validator;

pub use level::Level;
pub use schema::Schema;
pub use search::{Candidate, Candidates, Claim, spread};
pub use validator::{Batch, Validated, Validator};
