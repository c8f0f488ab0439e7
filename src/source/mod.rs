//! Where bytes come from: memory, a mapped file, a file read on demand.
//!
//! `read` asks this room for ranges of bytes and never knows which kind it has. This is the only room
//! with `unsafe` code.

/// Something of a known length that can be read at any position.
///
/// Files, byte slices and the files that are being written implement it, so that verification can run
/// over each with bounded memory.
pub trait ReadAt: Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn byte_len(&self) -> std::io::Result<u64>;

    /// Fills `buffer` from the bytes that begin at `offset`.
    ///
    /// # Errors
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the source ends before the buffer is full; otherwise
    /// what the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl ReadAt for [u8] {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buffer.len())?))
            .and_then(|range| self.get(range))
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}
