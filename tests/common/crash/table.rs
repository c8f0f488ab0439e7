//! The workload that writes a table of features in several files.

use super::{Disk, Tree, Workload};
use crate::common::{IntoReader, one_thread};
use dolmen::commit::file_system::FileSystem;
use dolmen::feature::{TableWriter, TableWriterOptions};
use dolmen::{Checkpoint, DType, SaveOptions, verify_source};
use std::sync::Arc;

const PREFIX: &str = "features/part";
const ROWS: usize = 170;
const PER_FILE: usize = 50;
const WIDTH: usize = 20;
const FILES: usize = ROWS.div_ceil(PER_FILE);

/// Rows are appended, and a file is acknowledged when it is full.
pub struct Table {
    pub longest_write: usize,
}

fn options(saving_in: &Arc<dyn FileSystem>) -> TableWriterOptions {
    let options = TableWriterOptions::new(DType::F32, [WIDTH as u64]).unwrap().rows_per_file(PER_FILE as u64);
    options.verify(true).save(SaveOptions::new().file_system(saving_in.clone()))
}

fn row(n: usize) -> impl Iterator<Item = f32> {
    (0..WIDTH).map(move |column| (n * WIDTH + column) as f32 / 4.0)
}

impl Workload for Table {
    fn name(&self) -> String {
        match self.longest_write {
            usize::MAX => "a table in several files".to_owned(),
            len => format!("a table in several files, in writes of {len} bytes"),
        }
    }

    fn going_on(&self) -> usize {
        // It is made for being interrupted, by whatever it is.
        40
    }

    fn disk(&self) -> Disk {
        Disk::new(Tree::new().with_directory("features")).behave(|b| b.longest_write = self.longest_write)
    }

    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, _: usize) -> Result<(), String> {
        let told = |e: dolmen::Error| e.to_string();
        let mut w = TableWriter::resume(PREFIX, &options(saving_in)).map_err(told)?;
        disk.done(w.files().len());
        while (w.rows_written() as usize) < ROWS {
            let at = w.rows_written() as usize;
            let rows = at..(at + 30).min(ROWS);
            let ids: Vec<String> = rows.clone().map(|n| format!("row {n}")).collect();
            disk.begin(w.files().len() + 1);
            w.append(&ids, &rows.flat_map(row).collect::<Vec<_>>()).map_err(told)?;
            disk.done(w.files().len());
        }
        // The table was finished before the crash.
        disk.begin(FILES);
        let files = w.finish().map_err(told)?;
        disk.done(files.len());
        match files.len() == FILES {
            true => Ok(()),
            false => Err(format!("{} files", files.len())),
        }
    }

    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String> {
        for number in 0..FILES {
            let path = format!("{PREFIX}-{number:05}.dolmen");
            match after.read(&path) {
                None if number < done => return Err(format!("{path} was acknowledged, and is gone")),
                Some(_) if number >= begun => return Err(format!("{path} is there, and was not begun")),
                None => {}
                Some(bytes) => check_file(&bytes, number).map_err(|e| format!("{path}: {e}"))?,
            }
        }
        let saving_in: Arc<dyn FileSystem> = Arc::new(after.clone());
        let w = TableWriter::resume(PREFIX, &options(&saving_in)).map_err(|e| format!("it cannot be resumed: {e}"))?;
        match (done..=begun).contains(&w.files().len()) {
            true => Ok(()),
            false => Err(format!("resumed, it has {} files", w.files().len())),
        }
    }
}

fn check_file(bytes: &[u8], number: usize) -> Result<(), String> {
    let report = verify_source(&bytes.into_reader(), &one_thread()).and_then(|report| report.into_result());
    report.map_err(|e| e.to_string())?;
    let opened = Checkpoint::from_bytes(bytes).map_err(|e| e.to_string())?;
    let rows = opened.tensor("data").and_then(|tensor| tensor.to_vec::<f32>()).map_err(|e| e.to_string())?;
    let expected = number * PER_FILE..((number + 1) * PER_FILE).min(ROWS);
    match expected.flat_map(row).eq(rows) {
        true => Ok(()),
        false => Err("other rows".to_owned()),
    }
}
