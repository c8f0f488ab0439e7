//! Marks: what the saver tells the log of block writes.
//!
//! The device is longer than the file system on it. A write to what is behind the file system appears in the log between the
//! file system's own writes, and says how far the saver was when they were made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a mark's sector begins with; `log.py` knows it too.
const MAGIC: &[u8; 8] = b"\x7fDMARK\r\n";

#[derive(Clone, Copy)]
pub enum Mark {
    Start = 1,
    Begun = 2,
    Done = 3,
    End = 4,
}

/// The end of the device, where marks are written.
pub struct Marks {
    device: File,
    offset: u64,
}

impl Marks {
    pub fn open(device: &Path, offset: u64) -> io::Result<Marks> {
        Ok(Marks { device: OpenOptions::new().write(true).open(device)?, offset })
    }

    /// Writes a mark; the log has it when this returns.
    pub fn write(&self, mark: Mark, number: u64) -> io::Result<()> {
        let mut sector = [0; 512];
        sector[..8].copy_from_slice(MAGIC);
        sector[8..16].copy_from_slice(&(mark as u64).to_le_bytes());
        sector[16..24].copy_from_slice(&number.to_le_bytes());
        self.device.write_all_at(&sector, self.offset)
    }
}
