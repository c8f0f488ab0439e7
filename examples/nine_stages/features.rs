//! Features: counts of k-mers, hashed into as many columns as the real models give, and a classifier over them.

/// As many as DNABERT-S gives.
pub const NUCLEOTIDE_COLUMNS: usize = 768;
/// As many as ESM-2 gives.
pub const PROTEIN_COLUMNS: usize = 2560;

pub fn of_nucleotides(letters: &str) -> Vec<f32> {
    hashed_counts(letters, 6, NUCLEOTIDE_COLUMNS)
}

pub fn of_protein(letters: &str) -> Vec<f32> {
    hashed_counts(letters, 3, PROTEIN_COLUMNS)
}

/// Two rows of weights that look random and are always the same.
pub fn classifier(columns: usize) -> [Vec<f32>; 2] {
    let weights = |output: u8| {
        let weight =
            |column: usize| (hash(&[&column.to_le_bytes()[..], &[output]].concat()) % 2001) as f32 / 1000.0 - 1.0;
        (0..columns).map(weight).collect()
    };
    [weights(0), weights(1)]
}

/// Each k-mer adds 1 to a column or takes it away; then the row gets the length 1.
fn hashed_counts(letters: &str, k: usize, columns: usize) -> Vec<f32> {
    let mut row = vec![0f32; columns];
    for kmer in letters.as_bytes().windows(k) {
        let hash = hash(kmer);
        row[(hash >> 1) as usize % columns] += if hash & 1 == 0 { 1.0 } else { -1.0 };
    }
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|x| *x /= norm);
    }
    row
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}
