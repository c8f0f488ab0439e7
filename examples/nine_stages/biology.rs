//! Sequences: as text, in chunks, translated; and invented ones.

/// A sequence of nucleotides or amino acids.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub id: String,
    pub letters: String,
}

/// Amino acids by codon, the bases in the order T, C, A, G: the standard genetic code. `*` stops.
const CODE: &[u8; 64] = b"FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG";

impl Sequence {
    /// Pieces of `length` letters; the last ends where the sequence does, and so overlaps the one before.
    pub fn chunks(&self, length: usize) -> Vec<Sequence> {
        let end = self.letters.len();
        let starts = (0..end.div_ceil(length).max(1)).map(|n| (n * length).min(end.saturating_sub(length)));
        let piece = |(n, start): (usize, usize)| Sequence {
            id: format!("{}_chunk{n}", self.id),
            letters: self.letters[start..(start + length).min(end)].to_owned(),
        };
        starts.enumerate().map(piece).collect()
    }

    /// The longest stretch of codons in any of the six frames that no stop interrupts: as nucleotides, and translated.
    pub fn longest_open_frame(&self) -> (Sequence, Sequence) {
        let complement: String = self.letters.bytes().rev().map(|base| char::from(complement_of(base))).collect();
        let mut best = ("", String::new());
        for strand in [&self.letters, &complement] {
            for frame in (0..3).filter_map(|shift| strand.get(shift..)) {
                let protein = translate(frame);
                let mut at = 0;
                for stretch in protein.split('*') {
                    if stretch.len() > best.1.len() {
                        best = (&frame[3 * at..3 * (at + stretch.len())], stretch.to_owned());
                    }
                    at += stretch.len() + 1;
                }
            }
        }
        let (nucleotides, protein) = best;
        let named = |letters: String| Sequence { id: self.id.clone(), letters };
        (named(nucleotides.to_owned()), named(protein))
    }
}

fn translate(bases: &str) -> String {
    let place = |base: &u8| b"TCAG".iter().position(|b| b == base).unwrap_or(0);
    let codon = |codon: &[u8]| codon.iter().fold(0, |sum, base| 4 * sum + place(base));
    bases.as_bytes().chunks_exact(3).map(|bases| char::from(CODE[codon(bases)])).collect()
}

fn complement_of(base: u8) -> u8 {
    match base {
        b'A' => b'T',
        b'C' => b'G',
        b'G' => b'C',
        _ => b'A',
    }
}

/// FASTA: a line `>id`, then the letters.
pub fn fasta(sequences: &[Sequence]) -> String {
    sequences.iter().map(|sequence| format!(">{}\n{}\n", sequence.id, sequence.letters)).collect()
}

pub fn parse(text: &str) -> Vec<Sequence> {
    let entries = text.split('>').filter(|entry| !entry.trim().is_empty());
    let parse = |entry: &str| {
        let (id, letters) = entry.split_once('\n').unwrap_or((entry, ""));
        Sequence { id: id.trim().to_owned(), letters: letters.split_whitespace().collect() }
    };
    entries.map(parse).collect()
}

/// Sequences of 400 to 1,000 letters, always the same ones; every second is rich in G and C.
pub fn invented(count: u64) -> Vec<Sequence> {
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    let mut sequence = |n| {
        let alphabet = if n % 2 == 0 { "ACGT" } else { "ACGTGC" };
        let length = 400 + next(600);
        let letters = (0..length).map(|_| char::from(alphabet.as_bytes()[next(alphabet.len() as u64) as usize]));
        Sequence { letters: letters.collect(), id: format!("seq{n}") }
    };
    (0..count).map(&mut sequence).collect()
}
