//! What a crash of the machine can leave of any program that saves through the commit room.
//!
//! [`disk`] is a file system in memory that records all that is done to it; [`model`] says what a crash may leave of a record, and
//! [`explore`] goes through it: after each call, a family of the states that there could be, each read again as a program would
//! that starts after the crash. [`broken`] are savers that must be caught.
//! Calls that fail, and habits of file systems, are the business of [`memory`](crate::common::memory).
//! The workloads are in [`saves`], `lifecycle` and `table`.

pub mod broken;
pub mod disk;
pub mod explore;
#[cfg(feature = "lifecycle")]
pub mod lifecycle;
pub mod model;
pub mod saves;
#[cfg(feature = "feature")]
pub mod table;
pub mod tree;

pub use disk::Disk;
pub use explore::{Report, Workload, explore, left_under};
pub use tree::Tree;
