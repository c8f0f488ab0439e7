//! Batches as `ndarray` views, without copying: the mean and the spread of each column of a table, by one pass over it.
//!
//! `cargo run --example ndarray_batches`

use dolmen::feature::{Batch, Host, Layout, Loader, LoaderOptions, Order, Table, TableWriter, TableWriterOptions};
use dolmen::{DType, Error, ErrorKind};
use ndarray::{Array1, ArrayView2, Axis};

const WIDTH: usize = 16;

fn main() -> dolmen::Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("features.dolmen");
    let mut writer = TableWriter::single(&path, &TableWriterOptions::new(DType::F32, [WIDTH])?)?;
    for row in 0..10_000 {
        let elements: Vec<f32> = (0..WIDTH).map(|column| column as f32 + (row % 5) as f32 - 2.0).collect();
        writer.append(&[format!("row{row}")], &elements)?;
    }
    writer.finish()?;

    // SAFETY: the file is in a directory of this program's own, and nobody writes to it.
    let table = unsafe { Table::map([&path], &Layout::new())? };
    let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(512))?;
    let (mut sum, mut squares) = (Array1::<f64>::zeros(WIDTH), Array1::<f64>::zeros(WIDTH));
    let mut lent = 0;
    for batch in loader.epoch(Order::sequential())? {
        let batch = batch?;
        // The view borrows the batch: the compiler sees to it that the memory is not filled again meanwhile.
        let features = view(&batch)?;
        assert_eq!(features.as_ptr(), batch.as_slice::<f32>()?.as_ptr(), "it was copied");
        sum += &features.mapv(f64::from).sum_axis(Axis(0));
        squares += &features.mapv(|x| f64::from(x).powi(2)).sum_axis(Axis(0));
        lent += usize::from(batch.is_lent());
    }
    let rows = table.rows() as f64;
    let mean = sum / rows;
    let spread = (squares / rows - &mean * &mean).mapv(f64::sqrt);
    println!("{lent} of {} batches were used where they lie in the mapped file", loader.batch_count());
    println!("means {mean:.2}\nspreads {spread:.2}");
    for (column, (mean, spread)) in mean.iter().zip(&spread).enumerate() {
        assert!((mean - column as f64).abs() < 1e-9 && (spread - 2f64.sqrt()).abs() < 1e-9);
    }
    Ok(())
}

/// The features of a batch as a matrix: rows and columns.
fn view(batch: &Batch<Host>) -> dolmen::Result<ArrayView2<'_, f32>> {
    let [rows, columns] = batch.shape().map(|len| usize::try_from(len).expect("a batch is in memory"));
    ArrayView2::from_shape((rows, columns), batch.as_slice()?)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, e.to_string()))
}
