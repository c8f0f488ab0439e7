//! CRC-32 over storages and their blocks (`spec/format.md` section 8).

use super::len_u64;

/// The CRC-32 of bytes, as in ZIP, PNG and zlib.
///
/// **Cost**: about 15 GB/s from memory on a processor of today, 25 from its cache.
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The CRC-32 of two stretches of bytes one after the other, from their CRCs and the length of the second.
///
/// **Cost**: about 40 ns, whatever the lengths.
pub fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial_len(first, 0);
    hasher.combine(&crc32fast::Hasher::new_with_initial_len(second, second_len));
    hasher.finalize()
}

/// How many checksum blocks a storage of `data_len` bytes has.
pub fn block_count(data_len: u64, block_log2: u8) -> u64 {
    // A shift of up to 30 bits and an increment of a number below 2^52: neither can overflow.
    let full = data_len >> block_log2;
    if full << block_log2 == data_len { full } else { full.saturating_add(1) }
}

/// The length of block number `block` of a storage, which is shorter than a whole block only for the last.
pub fn block_len(data_len: u64, block: u64, block_log2: u8) -> u64 {
    let size = 1u64 << block_log2;
    block.checked_shl(u32::from(block_log2)).map_or(0, |start| data_len.saturating_sub(start).min(size))
}

/// The CRC of a whole storage from those of its blocks.
pub(crate) fn combine_blocks(blocks: &[u32], data_len: u64, block_log2: u8) -> u32 {
    // Most storages are one block, and then there is nothing to compute.
    let mut whole = blocks.first().copied().unwrap_or(0);
    for (block, &crc) in (0u64..).zip(blocks).skip(1) {
        whole = combine(whole, crc, block_len(data_len, block, block_log2));
    }
    whole
}

/// Computes the CRCs of a storage's blocks, and with them its own, from bytes as they pass.
#[derive(Debug)]
pub(crate) struct BlockHasher {
    block_log2: u8,
    hasher: crc32fast::Hasher,
    in_block: u64,
    data_len: u64,
    whole: u32,
    blocks: Vec<u32>,
}

impl BlockHasher {
    /// Begins a storage; the CRCs of its blocks are appended to `blocks`.
    pub(crate) fn new(block_log2: u8, blocks: Vec<u32>) -> BlockHasher {
        BlockHasher { block_log2, hasher: crc32fast::Hasher::new(), in_block: 0, data_len: 0, whole: 0, blocks }
    }

    /// Takes the next bytes of the storage.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        let block_len = 1u64 << self.block_log2;
        while !bytes.is_empty() {
            let room = usize::try_from(block_len.saturating_sub(self.in_block)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.in_block = self.in_block.saturating_add(len_u64(now.len()));
            self.data_len = self.data_len.saturating_add(len_u64(now.len()));
            if self.in_block == block_len {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        let crc = std::mem::take(&mut self.hasher).finalize();
        self.whole = combine(self.whole, crc, self.in_block);
        self.blocks.push(crc);
        self.in_block = 0;
    }

    /// The CRC of all bytes taken so far.
    pub(crate) fn so_far(&self) -> u32 {
        if self.in_block == 0 {
            return self.whole;
        }
        combine(self.whole, self.hasher.clone().finalize(), self.in_block)
    }

    /// Ends the storage: its length, its CRC, and the blocks given to [`new`](Self::new) with its own appended.
    pub(crate) fn finish(mut self) -> (u64, u32, Vec<u32>) {
        if self.in_block > 0 {
            self.end_block();
        }
        (self.data_len, self.whole, self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_the_one_of_zip_and_png() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn blocks_combine_to_the_whole_however_the_bytes_arrive() {
        let data: Vec<u8> = (0..20_000u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in [0, 1, 4095, 4096, 4097, 8192, 20_000] {
            for piece in [1, 7, 4096, 30_000] {
                let mut hasher = BlockHasher::new(12, vec![7]);
                let mut taken = 0;
                for bytes in data[..len].chunks(piece) {
                    hasher.update(bytes);
                    taken += bytes.len();
                    if piece > 7 {
                        assert_eq!(hasher.so_far(), crc32(&data[..taken]));
                    }
                }
                assert_eq!(hasher.so_far(), crc32(&data[..len]));
                let (data_len, whole, blocks) = hasher.finish();
                assert_eq!((data_len, whole), (len as u64, crc32(&data[..len])));
                assert_eq!(blocks[0], 7);
                assert_eq!(blocks.len() as u64 - 1, block_count(data_len, 12));
                let expected: Vec<u32> = data[..len].chunks(4096).map(crc32).collect();
                assert_eq!(blocks[1..], expected);
                assert_eq!(combine_blocks(&blocks[1..], data_len, 12), whole);
            }
        }
    }

    #[test]
    fn block_lengths_add_up() {
        assert_eq!(block_count(u64::MAX, 12), 1 << 52);
        assert_eq!(block_len(u64::MAX, (1 << 52) - 1, 12), 4095);
        assert_eq!(block_len(10_000, 2, 12), 10_000 - 8192);
        assert_eq!(block_len(10_000, 3, 12), 0);
    }
}
