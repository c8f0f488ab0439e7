//! What the fuzz targets check. `tests/corpus.rs` of the crate includes this file and replays seeds and finds through the same
//! functions, so nothing here needs nightly, libFuzzer, or a dependency that the crate's own tests lack.

pub mod dice;
pub mod guest;
pub mod heap;
pub mod model;
pub mod open;
pub mod seal;
pub mod values;

pub use guest::safetensors;
pub use model::write_model;
pub use open::{Outcome, open_bytes, open_resealed};
pub use values::values;
