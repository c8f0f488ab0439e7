//! The weather: what else happens on the file system while steps are taken.
//!
//! Another program writes, renames and removes files of its own in the same directory. Where it flushes some of them in between,
//! the file system commits what a step has done so far, at any point of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::random::Random;

/// Between the steps, and without any flush.
pub fn breeze(directory: &Path, random: &mut Random) {
    // What fails here (there is no such file yet) does not matter, nor does it whether the bytes get anywhere.
    for _ in 0..random.below(3) {
        let _ = stir(directory, random, false);
    }
    let pause = match random.below(100) {
        // Longer than the interval in which the file systems that are recorded commit by themselves.
        0..2 => 1300,
        2..20 => random.below(8),
        _ => 0,
    };
    std::thread::sleep(Duration::from_millis(pause));
}

/// All the time, by a thread of its own and with flushes, until it is dropped.
pub struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    pub fn rise(directory: &Path, seed: u64) -> Storm {
        let over = Arc::new(AtomicBool::new(false));
        let (directory, told) = (directory.to_owned(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed, u64::MAX);
            while !told.load(Ordering::Relaxed) {
                let _ = stir(&directory, &mut random, true);
                std::thread::sleep(Duration::from_micros(random.below(2500)));
            }
        });
        Storm { over, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Does something to one of a few files.
fn stir(directory: &Path, random: &mut Random, flush: bool) -> std::io::Result<()> {
    let some = |random: &mut Random| -> PathBuf { directory.join(format!("noise-{}", random.below(6))) };
    let path = some(random);
    match random.below(10) {
        0..6 => {
            let len = random.below(24_000);
            let mut file = File::create(path)?;
            file.write_all(&random.bytes(len))?;
            if flush && random.below(3) == 0 {
                file.sync_all()?;
            }
        }
        6 => fs::remove_file(path)?,
        7 if flush => File::open(directory)?.sync_all()?,
        _ => fs::rename(path, some(random))?,
    }
    Ok(())
}
