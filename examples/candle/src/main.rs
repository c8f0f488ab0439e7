//! Batches as candle's tensors on the host, and a classifier trained on them.
//!
//! `cargo run --manifest-path examples/candle/Cargo.toml`
//!
//! candle's tensors own what they lie in, so each batch is copied once more, by `Tensor::from_slice`: a few microseconds for a batch of some
//! hundred rows, while the next batches are made by other threads.

use candle_core::{Device, Result, Tensor, Var};
use dolmen::DType;
use dolmen::feature::{Batch, Host, Layout, Loader, LoaderOptions, Order, Table, TableWriter, TableWriterOptions};

const ROWS: usize = 4000;
const WIDTH: usize = 64;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let table = write_table(dir.path()).map_err(candle_core::Error::wrap)?;
    let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(100)).map_err(candle_core::Error::wrap)?;

    let weights = Var::zeros((WIDTH, 1), candle_core::DType::F32, &Device::Cpu)?;
    let mut last = f32::INFINITY;
    for epoch in 0..10 {
        let (mut total, mut count) = (0f32, 0f32);
        for batch in loader.epoch(Order::shuffled(1).epoch(epoch)).map_err(candle_core::Error::wrap)? {
            let batch = batch.map_err(candle_core::Error::wrap)?;
            let (features, labels) = tensors(&batch)?;
            drop(batch); // Its memory is filled again from here on: the tensors are copies.
            let score = features.matmul(&weights)?.squeeze(1)?;
            // The squared error of a label of -1 or 1.
            let loss = score.sub(&labels)?.sqr()?.mean_all()?;
            let gradients = loss.backward()?;
            let gradient = gradients.get(&weights).expect("the loss hangs on the weights");
            weights.set(&weights.sub(&gradient.affine(0.05, 0.0)?)?)?;
            total += loss.to_scalar::<f32>()?;
            count += 1.0;
        }
        println!("epoch {epoch}: mean loss {:.4}", total / count);
        last = total / count;
    }
    assert!(last < 0.5, "it has learnt nothing");
    Ok(())
}

/// A batch's features and labels.
fn tensors(batch: &Batch<Host>) -> Result<(Tensor, Tensor)> {
    let features: &[f32] = batch.as_slice().map_err(candle_core::Error::wrap)?;
    let features = Tensor::from_slice(features, (batch.len(), features.len() / batch.len().max(1)), &Device::Cpu)?;
    let labels = batch.labels().unwrap_or_default();
    let labels = Tensor::from_slice(labels, labels.len(), &Device::Cpu)?.to_dtype(candle_core::DType::F32)?;
    Ok((features, labels))
}

/// Rows of which the sign of the sum of some columns is the label.
fn write_table(dir: &std::path::Path) -> dolmen::Result<Table> {
    let options = TableWriterOptions::new(DType::F32, [WIDTH])?.rows_per_file(1000).labels(true);
    let mut writer = TableWriter::create(dir.join("part"), &options)?;
    for row in 0..ROWS {
        let element = |column: usize| ((row * 31 + column * 17) as f32 * 0.618).sin();
        let elements: Vec<f32> = (0..WIDTH).map(element).collect();
        let label = if elements[..8].iter().sum::<f32>() > 0.0 { 1 } else { -1 };
        writer.append_labelled(&[format!("row{row}")], &elements, &[label])?;
    }
    let files = writer.finish()?;
    Table::open(files.iter().map(|file| &file.path), &Layout::new())
}
