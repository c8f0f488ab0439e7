//! Writes features as they are computed, in bounded memory, and reads a few rows of them back.
//!
//! `cargo run --example stream_features [OUT.dolmen]`

use dolmen::{Checkpoint, DType, Value, Writer};

const COLUMNS: usize = 768;

fn main() -> dolmen::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "features.dolmen".into());

    // Nothing is visible at `path` until `commit`: a crash on the way leaves the old file, or none.
    let mut writer = Writer::create(&path)?;
    let mut rows = writer.begin_rows("embeddings", DType::F32, [COLUMNS])?;
    for batch in 0..40 {
        rows.write_elements(&computed(batch))?;
    }
    let count = rows.finish()?;
    writer.metadata("model", "toy").metadata("ids", Value::from_iter((0..count).map(|n| format!("sequence_{n}"))));
    writer.commit()?;

    // SAFETY: nobody writes to the file in place; Dolmen replaces files by renaming.
    let features = unsafe { Checkpoint::map(&path)? };
    let embeddings = features.tensor("embeddings")?;
    // Only the checksum blocks that these rows touch are verified.
    let some: &[f32] = embeddings.rows(1000..1256)?.as_slice()?;
    println!("{path}: {:?} {}, row 1000 begins with {:?}", embeddings.shape(), embeddings.dtype(), &some[..3]);
    Ok(())
}

/// Stands for a model: 250 rows at a time.
fn computed(batch: usize) -> Vec<f32> {
    (0..250 * COLUMNS).map(|i| ((batch * 250 * COLUMNS + i) as f32 * 0.001).sin()).collect()
}
