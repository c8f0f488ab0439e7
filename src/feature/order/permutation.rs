//! [`Permutation`]: a keyed bijection of `0..len` that is computed for each position on its own.
//!
//! A position is written as two digits, `left · width + right`, and in turn each digit is rotated by a hash of the other: a Feistel
//! network over residues. The digits span a little more than `len`; a position that leaves `0..len` is sent through again until it is back
//! ("cycle walking"), which keeps the map a bijection. `spec/features.md` says the same in numbers: nothing here may change.

/// The odd number nearest to 2^64 divided by the golden ratio: the step of SplitMix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Rounds of the smallest permutations, in pairs: room for the keys of all.
const MAX_ROUND_PAIRS: usize = 24;

/// Positions that are computed side by side, so that their multiplications overlap.
const LANES: usize = 8;

/// The output function of SplitMix64, itself a bijection.
const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a permutation is chosen by: numbers absorbed one after the other.
///
/// For equal numbers before it, different numbers give different keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    pub(super) const EMPTY: Key = Key(0);

    #[must_use]
    pub(super) const fn with(self, number: u64) -> Key {
        Key(mix(self.0.wrapping_add(GAMMA).wrapping_add(number)))
    }
}

/// A bijection of `0..len`.
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    len: u64,
    /// How many values the left digit has: even, so that odd permutations are reached too.
    height: u64,
    /// How many values the right digit has.
    width: u64,
    /// Of each pair of rounds, the key that rotates the left digit and the one that rotates the right.
    keys: [[u64; 2]; MAX_ROUND_PAIRS],
    round_pairs: usize,
}

impl Permutation {
    /// The most that can be permuted: 2^63 − 1, so that no sum of two numbers below it overflows.
    pub(super) const LEN_MAX: u64 = u64::MAX >> 1;

    /// The permutation of `0..len` of a key. `len` is [`LEN_MAX`](Self::LEN_MAX) at most, and taken for that if it is more.
    pub(super) fn new(len: u64, key: Key) -> Permutation {
        let len = len.min(Self::LEN_MAX);
        let root = len.isqrt();
        let root = if root.wrapping_mul(root) < len { root.wrapping_add(1) } else { root };
        let height = root.next_multiple_of(2).max(2);
        let width = len.div_ceil(height).max(1);
        // A pair of rounds parts two positions that share a digit, but for one case in `width`: small permutations need more of them, to
        // come to 1 in 2^32 for all but the smallest.
        let round_pairs = match len {
            0..=0x100 => MAX_ROUND_PAIRS,
            0x101..=0x1_0000 => 8,
            _ => 4,
        };
        let mut keys = [[0; 2]; MAX_ROUND_PAIRS];
        let mut state = key.0;
        for key in keys.iter_mut().take(round_pairs).flatten() {
            state = state.wrapping_add(GAMMA);
            *key = mix(state);
        }
        Permutation { len, height, width, keys, round_pairs }
    }

    /// Where a position goes. It must be less than `len`.
    pub(super) fn apply(&self, position: u64) -> u64 {
        debug_assert!(position < self.len);
        let mut digits = self.digits(position);
        loop {
            let [once] = self.forward([digits]);
            let number = self.number(once);
            if number < self.len {
                return number;
            }
            digits = once;
        }
    }

    /// The position that goes to `number`, which must be less than `len`.
    pub(super) fn invert(&self, number: u64) -> u64 {
        debug_assert!(number < self.len);
        let mut digits = self.digits(number);
        loop {
            digits = self.backward(digits);
            let position = self.number(digits);
            if position < self.len {
                return position;
            }
        }
    }

    /// Appends where `count` positions from `first` on go. All must be less than `len`.
    ///
    /// **Cost**: less than half of that of [`apply`](Self::apply) for each.
    pub(super) fn extend(&self, first: u64, count: usize, out: &mut Vec<u64>) {
        out.reserve(count);
        let mut next = self.digits(first);
        let mut remaining = count;
        while remaining > 0 {
            // The lanes that are not needed go on beyond `len`: what becomes of them is dropped.
            let start = std::array::from_fn::<_, LANES, _>(|_| {
                let digits = next;
                let right = digits.1.wrapping_add(1);
                next = if right == self.width { (digits.0.wrapping_add(1), 0) } else { (digits.0, right) };
                digits
            });
            let ends = self.forward(start);
            out.extend(ends.into_iter().take(remaining).map(|digits| {
                let number = self.number(digits);
                if number < self.len { number } else { self.walk(digits) }
            }));
            remaining = remaining.saturating_sub(LANES);
        }
    }

    /// Walks on from a number outside `0..len` to the first inside.
    #[cold]
    fn walk(&self, mut digits: (u64, u64)) -> u64 {
        loop {
            [digits] = self.forward([digits]);
            let number = self.number(digits);
            if number < self.len {
                return number;
            }
        }
    }

    fn digits(&self, number: u64) -> (u64, u64) {
        // `width` is at least 1.
        let left = number.checked_div(self.width).unwrap_or(0);
        (left, number.wrapping_sub(left.wrapping_mul(self.width)))
    }

    fn number(&self, (left, right): (u64, u64)) -> u64 {
        left.wrapping_mul(self.width).wrapping_add(right)
    }

    fn forward<const N: usize>(&self, mut lanes: [(u64, u64); N]) -> [(u64, u64); N] {
        for &[left_key, right_key] in self.keys.iter().take(self.round_pairs) {
            for (left, right) in &mut lanes {
                *left = rotated(*left, hash(*right, left_key, self.height), self.height);
            }
            for (left, right) in &mut lanes {
                *right = rotated(*right, hash(*left, right_key, self.width), self.width);
            }
        }
        lanes
    }

    fn backward(&self, (mut left, mut right): (u64, u64)) -> (u64, u64) {
        for &[left_key, right_key] in self.keys.iter().take(self.round_pairs).rev() {
            let back = self.width.wrapping_sub(hash(left, right_key, self.width));
            right = rotated(right, back, self.width);
            let back = self.height.wrapping_sub(hash(right, left_key, self.height));
            left = rotated(left, back, self.height);
        }
        (left, right)
    }
}

/// A number below `modulus`, which is less than 2^32, that depends on a digit and a key: output `digit` of the SplitMix64 sequence that
/// starts at `key`, scaled.
#[inline]
fn hash(digit: u64, key: u64, modulus: u64) -> u64 {
    let hash = mix(key.wrapping_add(digit.wrapping_mul(GAMMA)));
    (hash >> 32).wrapping_mul(modulus) >> 32
}

/// `(digit + by) mod modulus`, of a digit below the modulus and a `by` that is at most the modulus.
#[inline]
fn rotated(digit: u64, by: u64, modulus: u64) -> u64 {
    let sum = digit.wrapping_add(by);
    // Where the sum is below the modulus, the difference wraps to a greater number.
    sum.min(sum.wrapping_sub(modulus))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = include_str!("../../../spec/features.md");

    fn key(seed: u64) -> Key {
        Key::EMPTY.with(seed).with(0).with(0)
    }

    fn all(len: u64, key: Key) -> Vec<u64> {
        let mut rows = Vec::new();
        Permutation::new(len, key).extend(0, usize::try_from(len).unwrap(), &mut rows);
        rows
    }

    /// The cells of a marked table of the specification, without its head and the marks of code.
    fn table(name: &str) -> Vec<Vec<String>> {
        let (_, rest) = SPEC.split_once(&format!("<!-- table: {name} -->\n")).unwrap();
        let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        rest.lines().take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
    }

    #[test]
    fn the_constants_are_those_of_the_text() {
        let constants: Vec<(String, u64)> = table("order constants")
            .into_iter()
            .map(|row| (row[0].clone(), u64::from_str_radix(row[1].strip_prefix("0x").unwrap(), 16).unwrap()))
            .collect();
        assert_eq!(constants.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["GAMMA", "MIX_1", "MIX_2"]);
        assert_eq!(constants[0].1, GAMMA);
        // With the constants of the text, step by step.
        let mix_of_the_text = |z: u64| {
            let z = (z ^ (z >> 30)).wrapping_mul(constants[1].1);
            let z = (z ^ (z >> 27)).wrapping_mul(constants[2].1);
            z ^ (z >> 31)
        };
        for z in [0, 1, GAMMA, u64::MAX] {
            assert_eq!(mix(z), mix_of_the_text(z));
        }
        // The first outputs of SplitMix64 from 1234567, as other programs print them.
        let outputs = [1, 2, 3].map(|i: u64| mix(1_234_567u64.wrapping_add(GAMMA.wrapping_mul(i))));
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_numbers_of_rounds_are_those_of_the_text() {
        let mut next = 0;
        for row in table("order rounds") {
            let [from, to, rounds] = [0, 1, 2].map(|cell: usize| row[cell].parse::<u64>().unwrap());
            assert_eq!(from, next);
            for len in [from, to] {
                let permutation = Permutation::new(len, key(1));
                assert_eq!(permutation.round_pairs as u64 * 2, rounds, "{len}");
                let used = permutation.keys.iter().flatten().filter(|&&key| key != 0).count();
                assert_eq!(used as u64, rounds, "{len}");
            }
            next = to + 1;
        }
        assert_eq!(next, Permutation::LEN_MAX + 1);
    }

    #[test]
    fn the_grid_holds_the_positions_and_little_more() {
        let near = |n: u64| [n - 1, n, n + 1];
        let lens = (0..2000).chain(near(1 << 16)).chain(near(1 << 32)).chain(near(999_999 * 999_999));
        for len in lens.chain([Permutation::LEN_MAX - 1, Permutation::LEN_MAX, u64::MAX]) {
            let permutation = Permutation::new(len, key(0));
            let len = len.min(Permutation::LEN_MAX);
            assert_eq!(permutation.len, len);
            let (height, width) = (permutation.height, permutation.width);
            assert!(height % 2 == 0 && (2..1 << 32).contains(&height) && width >= 1 && width <= height, "{len}");
            assert!(height * height >= len && (height == 2 || (height - 2) * (height - 2) < len), "{len}");
            assert!(height * width >= len && (len == 0 || height * width - len < height), "{len}");
        }
    }

    #[test]
    fn every_number_comes_once_and_the_inverse_leads_back() {
        for len in (0..400).chain([1023, 1024, 1025, 65_535, 65_536, 65_537, 65_538, 100_003]) {
            for seed in 0..if len < 400 { 8 } else { 1 } {
                let permutation = Permutation::new(len, key(seed));
                let rows = all(len, key(seed));
                let mut is_seen = vec![false; rows.len()];
                for (position, &row) in rows.iter().enumerate() {
                    assert!(!std::mem::replace(&mut is_seen[row as usize], true), "{len}, seed {seed}: {row} twice");
                    assert_eq!(permutation.invert(row), position as u64, "{len}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn one_by_one_and_many_at_once_are_the_same() {
        for len in [1, 2, 7, 8, 9, 255, 1000, 65_537, 1 << 40, Permutation::LEN_MAX] {
            let permutation = Permutation::new(len, key(5));
            for first in [0, 1, len / 3, len / 2, len.saturating_sub(20)] {
                for count in [0, 1, 7, 8, 9, 20] {
                    let count = count.min(len - first.min(len));
                    let mut rows = vec![77];
                    permutation.extend(first, count as usize, &mut rows);
                    let one_by_one: Vec<u64> =
                        (first..first + count).map(|position| permutation.apply(position)).collect();
                    assert_eq!(rows[1..], one_by_one, "{len}, from {first}");
                    assert!(rows[1..].iter().zip(first..).all(|(&row, position)| permutation.invert(row) == position));
                }
            }
        }
    }

    /// How far a chi-square statistic lies from its mean, in standard deviations.
    fn deviation(counts: &[u64], expected: f64) -> f64 {
        let chi_square: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        let freedom = (counts.len() - 1) as f64;
        (chi_square - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn all_permutations_of_few_numbers_come_equally_often() {
        for len in 2..=6u64 {
            let permutations: u64 = (1..=len).product();
            let mut counts = vec![0; permutations as usize];
            let tries = permutations * 100;
            for seed in 0..tries {
                let rows = all(len, key(seed));
                // Its number in the factorial number system.
                let number = (0..rows.len()).fold(0, |number, i| {
                    let smaller = rows[i + 1..].iter().filter(|&&later| later < rows[i]).count();
                    number * (rows.len() - i) + smaller
                });
                counts[number] += 1;
            }
            let deviation = deviation(&counts, 100.0);
            assert!(deviation.abs() < 4.0, "{len}: {deviation}");
        }
    }

    #[test]
    fn every_number_comes_equally_often_at_every_position() {
        for len in [3u64, 10, 29, 64, 257] {
            let mut counts = vec![0; (len * len) as usize];
            let tries = 100 * len;
            for seed in 0..tries {
                for (position, row) in all(len, key(seed)).into_iter().enumerate() {
                    counts[position * len as usize + row as usize] += 1;
                }
            }
            // Of a doubly stochastic table (len − 1)² counts are free.
            let chi_square: f64 = counts.iter().map(|&count: &u64| (count as f64 - 100.0).powi(2) / 100.0).sum();
            let freedom = ((len - 1) * (len - 1)) as f64;
            let deviation = (chi_square - freedom) / (2.0 * freedom).sqrt();
            assert!(deviation.abs() < 4.0, "{len}: {deviation}");
        }
    }

    #[test]
    fn many_numbers_are_mixed_as_chance_would_mix_them() {
        for len in [1000u64, 10_000, 65_536, 65_537, 300_000] {
            for seed in 0..4 {
                let rows: Vec<f64> = all(len, key(seed)).into_iter().map(|row| row as f64).collect();
                let n = len as f64;
                // In standard deviations of what each is for a permutation drawn by chance.
                let pairs = || rows.windows(2).map(|pair| (pair[0], pair[1]));
                let displacement: f64 = rows.iter().enumerate().map(|(i, row)| (row - i as f64).abs()).sum();
                let displacement = (displacement / n - n / 3.0) / (2.0 * n / 45.0).sqrt();
                let mean = (n - 1.0) / 2.0;
                let product: f64 = pairs().map(|(a, b)| (a - mean) * (b - mean)).sum();
                let correlation = product / (n * n / 12.0) / n.sqrt();
                let ascents = pairs().filter(|(a, b)| a < b).count() as f64;
                let ascents = (ascents - mean) / (n / 12.0).sqrt();
                for deviation in [displacement, correlation, ascents] {
                    assert!(deviation.abs() < 4.5, "{len}, seed {seed}: {displacement} {correlation} {ascents}");
                }
                // Neighbours that stay neighbours, and numbers that stay where they are: one of each on average.
                let successions = pairs().filter(|(a, b)| a + 1.0 == *b).count();
                let fixed = rows.iter().enumerate().filter(|&(i, &row)| i as f64 == row).count();
                assert!(successions < 10 && fixed < 10, "{len}, seed {seed}: {successions} {fixed}");
            }
        }
    }

    #[test]
    fn the_first_numbers_are_uniform_and_independent_over_seeds() {
        for len in [257u64, 65_537, 6_000_000, 1 << 50] {
            let cells = 16;
            let cell = |number: u64| (u128::from(number) * u128::from(cells) / u128::from(len)) as u64;
            for apart in [1, len.isqrt(), len / 2] {
                let mut counts = vec![0; (cells * cells) as usize];
                for seed in 0..40_960 {
                    let permutation = Permutation::new(len, key(seed));
                    counts[(cell(permutation.apply(0)) * cells + cell(permutation.apply(apart))) as usize] += 1;
                }
                // 257 numbers do not fill 16 cells alike, and no number comes twice: that shifts the statistic by some deviations.
                let bound = if len < 1000 { 20.0 } else { 4.5 };
                let deviation = deviation(&counts, 160.0);
                assert!(deviation.abs() < bound, "{len}, {apart} apart: {deviation}");
            }
        }
    }

    #[test]
    fn epochs_share_no_structure() {
        let len = 65_536;
        let epoch = |epoch| all(len, Key::EMPTY.with(9).with(epoch).with(0));
        let first = epoch(0);
        for other in [1, 2, 3, u64::MAX].map(epoch) {
            let mut counts = [0; 256];
            for (a, b) in first.iter().zip(&other) {
                counts[((a + len - b) % len / 256) as usize] += 1;
            }
            let deviation = deviation(&counts, 256.0);
            assert!(deviation.abs() < 4.5, "{deviation}");
            assert!(first.iter().zip(&other).filter(|(a, b)| a == b).count() < 10);
        }
    }

    #[test]
    fn keys_differ_where_a_number_does() {
        let keys: std::collections::BTreeSet<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |epoch| Key::EMPTY.with(seed).with(epoch).0)).collect();
        assert_eq!(keys.len(), 100 * 100);
    }
}
