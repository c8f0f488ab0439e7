//! What the fuzz targets check. `tests/corpus.rs` of the crate includes this file and replays seeds and finds through the same
//! functions, so nothing here needs nightly, libFuzzer, or a dependency that the crate's own tests lack.

pub mod dice;
#[cfg(all(feature = "npy", feature = "torch"))]
pub mod exports;
pub mod guest;
pub mod heap;
pub mod json;
#[cfg(feature = "lifecycle")]
pub mod lifecycle;
pub mod model;
#[cfg(all(feature = "npy", feature = "torch"))]
pub mod npy;
pub mod open;
#[cfg(feature = "torch")]
pub mod pickles;
pub mod salvage;
pub mod seal;
#[cfg(all(feature = "feature", feature = "torch"))]
pub mod table;
#[cfg(feature = "torch")]
pub mod torch;
pub mod values;
pub mod work;

#[cfg(all(feature = "npy", feature = "torch"))]
pub use exports::exports;
pub use guest::safetensors;
#[cfg(feature = "lifecycle")]
pub use lifecycle::{failed_log, pipeline_state};
pub use model::write_model;
#[cfg(all(feature = "npy", feature = "torch"))]
pub use npy::npy;
pub use open::{Outcome, open_bytes, open_resealed};
pub use salvage::salvage;
#[cfg(all(feature = "feature", feature = "torch"))]
pub use table::feature_table;
#[cfg(feature = "torch")]
pub use torch::{torch_pickle, torch_zip};
pub use values::values;
