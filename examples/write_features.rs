//! Writes a table of features as they are computed, in bounded memory, and reads a few rows of it back. Stop it and start it again: it goes on
//! after the last file that is there.
//!
//! `cargo run --example write_features [DIR]`

use std::path::PathBuf;

use dolmen::feature::{TableWriter, TableWriterOptions};
use dolmen::{Checkpoint, DType};

const COLUMNS: usize = 768;
const BATCH: usize = 250;
const BATCHES: usize = 40;

fn main() -> dolmen::Result<()> {
    let directory = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);

    // A file is visible when it is whole and on the disk. A crash loses what came after the last of them, and nothing else.
    let options = TableWriterOptions::new(DType::F32, [COLUMNS])?.rows_per_file(4_000).metadata("model", "toy");
    let mut table = TableWriter::resume(directory.join("features"), &options)?;
    let there = usize::try_from(table.rows_written()).unwrap_or(usize::MAX);
    println!("{there} rows are there");
    for batch in there / BATCH..BATCHES {
        let ids: Vec<String> = (batch * BATCH..(batch + 1) * BATCH).map(|n| format!("sequence_{n}")).collect();
        table.append(&ids, &computed(batch))?;
    }
    let files = table.finish()?;

    for file in &files {
        // SAFETY: nobody writes to the file in place; Dolmen replaces files by renaming.
        let part = unsafe { Checkpoint::map(&file.path)? };
        // Only the checksum blocks that these rows touch are verified.
        let some: &[f32] = part.tensor("data")?.rows(1000..1256)?.as_slice()?;
        println!("{}: {} rows, row 1000 begins with {:?}", file.path.display(), file.rows, &some[..3]);
    }
    Ok(())
}

/// Stands for a model: so many rows at a time.
fn computed(batch: usize) -> Vec<f32> {
    (0..BATCH * COLUMNS).map(|i| ((batch * BATCH * COLUMNS + i) as f32 * 0.001).sin()).collect()
}
