//! The host as a device: aligned memory, filled where it is used.

use std::ops::{Deref, Range};

use super::{Device, Lent};
use crate::error::{Error, Result};
use crate::source::AlignedBytes;

/// Memory of the host. Parts are filled where they lie, and what is in memory already is used there: nothing is copied twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host;

/// Memory of the host: of its own, which begins at a page, or bytes of a checkpoint where they lie. It derefs to its bytes.
#[derive(Debug)]
pub struct HostMemory(Kind);

#[derive(Debug)]
enum Kind {
    Own(AlignedBytes),
    Lent(Lent),
}

impl HostMemory {
    /// Its own bytes; `None` if they are a checkpoint's, to which nobody may write.
    pub(crate) fn own_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.0 {
            Kind::Own(bytes) => Some(bytes),
            Kind::Lent(_) => None,
        }
    }
}

impl Deref for HostMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Own(bytes) => bytes,
            Kind::Lent(bytes) => bytes,
        }
    }
}

impl Device for Host {
    type Memory = HostMemory;
    type Lane = ();
    type Part<'m> = &'m mut [u8];

    fn name(&self) -> String {
        "host".to_owned()
    }

    fn allocate(&self, byte_len: usize) -> Result<HostMemory> {
        let bytes = AlignedBytes::zeroed(byte_len).map_err(|e| Error::io("cannot hold a batch in memory", e))?;
        Ok(HostMemory(Kind::Own(bytes)))
    }

    fn lend(&self, bytes: Lent) -> Option<HostMemory> {
        Some(HostMemory(Kind::Lent(bytes)))
    }

    fn lane(&self) -> Result<()> {
        Ok(())
    }

    fn max_part_len(&self) -> usize {
        usize::MAX
    }

    fn lane_byte_len(&self) -> usize {
        0
    }

    fn parts<'m>(&self, memory: &'m mut HostMemory, byte_lens: &[usize]) -> Result<Vec<&'m mut [u8]>> {
        let lent = || Error::invalid("bytes of a checkpoint cannot be filled");
        let mut rest: &mut [u8] = memory.own_mut().ok_or_else(lent)?;
        let cut = |&len: &usize| rest.split_off_mut(..len).ok_or_else(|| Error::invalid("the memory is not as long"));
        byte_lens.iter().map(cut).collect()
    }

    fn fill(&self, (): &mut (), part: &mut [u8], write: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        write(part)
    }

    fn finish(&self, (): &mut (), _: &mut HostMemory) -> Result<()> {
        Ok(())
    }

    fn acquire(&self, _: &mut HostMemory) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: &mut HostMemory) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _: &HostMemory) -> Result<()> {
        Ok(())
    }

    fn read_back(&self, memory: &HostMemory, bytes: Range<usize>) -> Result<Vec<u8>> {
        let bytes = memory.get(bytes).ok_or_else(|| Error::invalid("there are no such bytes in this memory"))?;
        Ok(bytes.to_vec())
    }
}
