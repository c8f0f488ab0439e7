//! Tables of features over any checkpoint: found or refused, and then the same whichever way rows are read.

use std::sync::Arc;

use dolmen::feature::{Host, JoinOptions, Layout, Loader, LoaderOptions, OnDamage, Order, Table, Which};
use dolmen::{Checkpoint, DType, Error, ErrorKind, Result};

use super::heap;
use super::open::Outcome;

/// Bytes that are copied for one input: rows may overlap, so that there can be far more of them than of the file.
const COPIED: usize = 1 << 20;

/// Bytes as they come, as a table that is found in them.
pub fn feature_table(data: &[u8]) -> Outcome {
    let Ok(checkpoint) = Checkpoint::from_bytes(data) else { return Outcome::Refused("no checkpoint") };
    let checkpoint = Arc::new(checkpoint);
    // The document as values, and ids as text. What is compressed may become a thousand times as long.
    let (table, peak) = heap::peak(|| Table::of_checkpoints([Arc::clone(&checkpoint)], &Layout::new()));
    if checkpoint.tensors().flatten().all(|tensor| tensor.is_in_place()) {
        let allowed = (1 << 20) + 1000 * data.len() as u64;
        assert!(peak <= allowed, "{peak} bytes were in use for a file of {}; {allowed} are allowed", data.len());
    }
    let table = match table {
        Ok(table) => table,
        Err(e) => return Outcome::Refused(expected(&e)),
    };
    match check(&table) {
        Ok(()) => Outcome::Valid,
        Err(e) => Outcome::Opened(expected(&e)),
    }
}

/// The kind of an error that a file may be the reason of.
fn expected(e: &Error) -> &'static str {
    let kind = e.kind();
    let of_the_file = e.is_corruption()
        || e.is_incompatible()
        || matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Limit);
    assert!(of_the_file, "not an error of a file: {e:?}");
    kind.name()
}

fn check(table: &Table) -> Result<()> {
    let row_len = table.row_byte_len();
    let rows = table.rows();
    if rows == 0 || row_len.saturating_mul(8) > COPIED {
        return Ok(());
    }
    let some = [rows - 1, 0, rows / 2, rows / 3];
    let mut together = vec![0; some.len() * row_len];
    table.read_rows_into(&some, &mut together)?;
    for (&row, expected) in some.iter().zip(together.chunks(row_len.max(1))) {
        let mut one = vec![1; row_len];
        table.read_rows_into(&[row], &mut one)?;
        assert_eq!(one, expected, "row {row}");
    }
    // Columns side by side are the rows.
    let middle = table.width() / 2;
    let (left, right) = (table.columns(0..middle)?, table.columns(middle..table.width())?);
    let mut halves = [vec![0; left.row_byte_len()], vec![0; right.row_byte_len()]];
    left.read_rows_into(&[rows / 2], &mut halves[0])?;
    right.read_rows_into(&[rows / 2], &mut halves[1])?;
    assert_eq!(halves.concat(), together[2 * row_len..3 * row_len]);
    for dtype in [DType::F32, DType::F16] {
        if let Ok(cast) = table.cast(dtype) {
            let mut out = vec![0; cast.row_byte_len()];
            cast.read_rows_into(&[rows - 1], &mut out)?;
        }
    }
    if let Some(id) = table.id(rows / 2) {
        assert!(table.row_of(id)? <= rows / 2, "the first row of an id is not after another one");
        let joined = table.join(table, &JoinOptions::new().on_duplicates(Which::First))?.table;
        assert_eq!((joined.rows(), joined.width()), (rows, 2 * table.width()));
    }
    let all = usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(row_len.max(1)));
    if all.is_some_and(|all| all <= COPIED) {
        let options = LoaderOptions::new().threads(0).batch_len(7).on_damage(OnDamage::SkipRows);
        let loader = Loader::new(table, Host, options)?;
        let mut seen = 0;
        for batch in loader.epoch(Order::shuffled(rows))? {
            let batch = batch?;
            seen += batch.len() as u64 + batch.skipped().len() as u64;
        }
        assert_eq!(seen, rows);
    }
    Ok(())
}
