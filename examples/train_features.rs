//! Trains a classifier on features that are streamed from files, and shows that it does not matter which: from `.dolmen` files, from the same
//! rows as PyTorch's files, and from arrays in memory the weights come out the same, bit by bit.
//!
//! `cargo run --release --example train_features`
//!
//! The model is logistic regression, by stochastic gradient descent in plain Rust. The rows of a step are the same in all three, for an
//! [`Order`] is computed from its seed, wherever rows are read from.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dolmen::DType;
use dolmen::feature::{
    BatchPlan, Host, Layout, Loader, LoaderOptions, Order, Shard, Table, TableWriter, TableWriterOptions, Tail,
};
use dolmen::foreign::{ConvertOptions, convert};

const FILES: usize = 20;
const ROWS: usize = FILES * 1000;
const WIDTH: usize = 128;
const BATCH: u64 = 32;
const EPOCHS: u64 = 5;
const SEED: u64 = 42;

fn main() -> dolmen::Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (rows, labels) = synthetic();
    let dolmen_files = write(dir.path(), &rows, &labels)?;
    let mut torch_files = Vec::new();
    for file in &dolmen_files {
        let converted = file.with_extension("pt");
        let notes = convert(file, &converted, &ConvertOptions::new())?;
        notes.iter().for_each(|note| println!("{}: {note}", converted.display()));
        torch_files.push(converted);
    }
    println!("{ROWS} rows of {WIDTH} f32 in {FILES} files, {EPOCHS} epochs of batches of {BATCH}\n");

    let (in_memory, took) = timed(|| train_on_arrays(&rows, &labels))?;
    println!("arrays in memory: {}", in_memory.described(&rows, &labels, took));
    for (what, files) in [(".dolmen, mapped ", &dolmen_files), (".pt, mapped     ", &torch_files)] {
        // SAFETY: the files are in a directory of this program's own, and nobody writes to them: Dolmen replaces files by renaming, and never
        // changes one in place.
        let table = unsafe { Table::map(files, &Layout::new())? };
        let (weights, took) = timed(|| train_on_table(&table))?;
        println!("{what}: {}", weights.described(&rows, &labels, took));
        assert_eq!(weights.bits(), in_memory.bits(), "the weights differ");
    }
    println!("\nThe weights are the same, bit by bit.");
    assert!(in_memory.accuracy(&rows, &labels) > 0.9, "it has learnt nothing");
    Ok(())
}

/// Trains on batches that threads gather, verify and hand over while the last one is used.
fn train_on_table(table: &Table) -> dolmen::Result<Weights> {
    let mut weights = Weights::new();
    let loader = Loader::new(table, Host, LoaderOptions::new().batch_len(BATCH))?;
    for epoch in 0..EPOCHS {
        for batch in loader.epoch(Order::shuffled(SEED).epoch(epoch))? {
            let batch = batch?;
            weights.step(batch.as_slice()?, batch.labels().unwrap_or_default());
        }
    }
    Ok(weights)
}

/// The same without any of this library but the order of the rows.
fn train_on_arrays(rows: &[f32], labels: &[i64]) -> dolmen::Result<Weights> {
    let mut weights = Weights::new();
    for epoch in 0..EPOCHS {
        let order = Order::shuffled(SEED).epoch(epoch);
        let plan = BatchPlan::new(ROWS as u64, BATCH, order, Shard::WHOLE, Tail::Keep)?;
        for number in 0..plan.batch_count() {
            let (mut batch, mut batch_labels) = (Vec::new(), Vec::new());
            for row in plan.batch(number)? {
                let row = row as usize;
                batch.extend_from_slice(&rows[row * WIDTH..(row + 1) * WIDTH]);
                batch_labels.push(labels[row]);
            }
            weights.step(&batch, &batch_labels);
        }
    }
    Ok(weights)
}

struct Weights {
    of_columns: [f64; WIDTH],
    bias: f64,
}

impl Weights {
    fn new() -> Weights {
        Weights { of_columns: [0.0; WIDTH], bias: 0.0 }
    }

    /// How likely a row is to be of class 1.
    fn predict(&self, row: &[f32]) -> f64 {
        let score: f64 = row.iter().zip(&self.of_columns).map(|(&x, weight)| f64::from(x) * weight).sum();
        1.0 / (1.0 + (-score - self.bias).exp())
    }

    /// One step down the gradient of the mean loss of a batch.
    fn step(&mut self, rows: &[f32], labels: &[i64]) {
        const RATE: f64 = 0.1;
        let (mut gradient, mut bias) = ([0f64; WIDTH], 0f64);
        for (row, &label) in rows.chunks_exact(WIDTH).zip(labels) {
            let error = self.predict(row) - label as f64;
            gradient.iter_mut().zip(row).for_each(|(sum, &x)| *sum += error * f64::from(x));
            bias += error;
        }
        let rate = RATE / labels.len().max(1) as f64;
        self.of_columns.iter_mut().zip(gradient).for_each(|(weight, sum)| *weight -= rate * sum);
        self.bias -= rate * bias;
    }

    fn accuracy(&self, rows: &[f32], labels: &[i64]) -> f64 {
        let right =
            rows.chunks_exact(WIDTH).zip(labels).filter(|&(row, &label)| (self.predict(row) > 0.5) == (label == 1));
        right.count() as f64 / labels.len() as f64
    }

    fn bits(&self) -> Vec<u64> {
        self.of_columns.iter().chain([&self.bias]).map(|weight| weight.to_bits()).collect()
    }

    fn described(&self, rows: &[f32], labels: &[i64], took: Duration) -> String {
        let accuracy = self.accuracy(rows, labels) * 100.0;
        let rate = (ROWS as f64 * EPOCHS as f64) / took.as_secs_f64() / 1e6;
        format!("{accuracy:.2} % right, {:.2} s, {rate:.2} million rows/s", took.as_secs_f64())
    }
}

/// Rows and labels that a plane separates but for some noise: always the same.
fn synthetic() -> (Vec<f32>, Vec<i64>) {
    let mut state = SEED;
    // SplitMix64, as a number between -1 and 1.
    let mut random = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let plane: Vec<f32> = (0..WIDTH).map(|_| random()).collect();
    let rows: Vec<f32> = (0..ROWS * WIDTH).map(|_| random()).collect();
    let label = |row: &[f32]| {
        let distance: f32 = row.iter().zip(&plane).map(|(x, w)| x * w).sum();
        i64::from(distance + random() > 0.0)
    };
    let labels = rows.chunks_exact(WIDTH).map(label).collect();
    (rows, labels)
}

/// Writes them as a pipeline would: some rows at a time, so many to a file.
fn write(dir: &std::path::Path, rows: &[f32], labels: &[i64]) -> dolmen::Result<Vec<PathBuf>> {
    let options = TableWriterOptions::new(DType::F32, [WIDTH])?.rows_per_file((ROWS / FILES) as u64).labels(true);
    let mut writer = TableWriter::create(dir.join("part"), &options)?;
    for (number, (rows, labels)) in rows.chunks(300 * WIDTH).zip(labels.chunks(300)).enumerate() {
        let ids: Vec<String> = (0..labels.len()).map(|row| format!("sequence_{}", number * 300 + row)).collect();
        writer.append_labelled(&ids, rows, labels)?;
    }
    Ok(writer.finish()?.into_iter().map(|file| file.path).collect())
}

fn timed<T>(work: impl FnOnce() -> dolmen::Result<T>) -> dolmen::Result<(T, Duration)> {
    let begin = Instant::now();
    Ok((work()?, begin.elapsed()))
}
