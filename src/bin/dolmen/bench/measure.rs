//! Rounds of a case, and what they came to.

use std::time::{Duration, Instant};

use dolmen::Result;

/// Rounds of a case, at most: enough for a median.
const MOST_ROUNDS: usize = 1000;

/// One round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Bytes and rows that passed.
    pub bytes: u64,
    pub rows: u64,
    pub time: Duration,
    /// Whether it was not cut short by the clock.
    pub whole: bool,
}

impl Sample {
    fn per_second(&self, what: u64) -> f64 {
        what as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// How long work takes, and what comes of it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let came = work();
    (begin.elapsed(), came)
}

/// Whether the files were in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    Warm,
    Cold,
    /// No file is read.
    No,
}

impl Cache {
    pub fn name(self) -> Option<&'static str> {
        match self {
            Cache::Warm => Some("warm"),
            Cache::Cold => Some("cold"),
            Cache::No => None,
        }
    }
}

/// What others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yardstick {
    Memcpy,
    Read,
    PinnedCopy,
}

/// A case that was measured.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub cache: Cache,
    /// What was done with the bytes.
    pub touched: &'static str,
    pub threads: usize,
    /// What it is the yardstick for, if it is one.
    pub yardstick: Option<Yardstick>,
    pub samples: Vec<Sample>,
}

impl Case {
    fn sorted(&self, what: impl Fn(&Sample) -> u64) -> Vec<f64> {
        let mut rates: Vec<f64> = self.samples.iter().map(|sample| sample.per_second(what(sample))).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }

    /// Bytes a second, in the median round.
    pub fn median(&self) -> f64 {
        median(&self.sorted(|sample| sample.bytes))
    }

    /// Bytes a second, in the best round.
    pub fn best(&self) -> f64 {
        self.sorted(|sample| sample.bytes).last().copied().unwrap_or(0.0)
    }

    /// Rows a second, in the median round, if rows were counted.
    pub fn rows_per_second(&self) -> Option<f64> {
        let rows = self.sorted(|sample| sample.rows);
        rows.iter().any(|&rate| rate > 0.0).then(|| median(&rows))
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Runs rounds for about so long, at least one; with no time at all, one that is not cut short.
///
/// A last round that the clock cut short is left out, unless it is the only one.
pub fn rounds(time: Duration, mut round: impl FnMut(Option<Instant>) -> Result<Sample>) -> Result<Vec<Sample>> {
    if time.is_zero() {
        return Ok(vec![round(None)?]);
    }
    let until = Instant::now() + time;
    let mut samples: Vec<Sample> = Vec::new();
    while samples.len() < MOST_ROUNDS && (samples.is_empty() || Instant::now() < until) {
        let sample = round(Some(until))?;
        if sample.whole || samples.is_empty() {
            samples.push(sample);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(millis: u64, whole: bool) -> Sample {
        Sample { bytes: 1_000_000, rows: 10, time: Duration::from_millis(millis), whole }
    }

    #[test]
    fn median_and_best_are_of_rates_and_not_of_times_alone() {
        let samples = vec![sample(4, true), sample(1, true), sample(2, true)];
        let case =
            |samples| Case { name: String::new(), cache: Cache::No, touched: "", threads: 1, yardstick: None, samples };
        let measured = case(samples);
        assert!((measured.median() - 5e8).abs() < 1.0, "{}", measured.median());
        assert!((measured.best() - 1e9).abs() < 1.0, "{}", measured.best());
        assert!(measured.rows_per_second().is_some_and(|rows| (rows - 5000.0).abs() < 1.0));
        assert_eq!(case(vec![Sample { rows: 0, ..sample(1, true) }]).rows_per_second(), None);
    }

    #[test]
    fn no_time_is_one_whole_round_and_a_round_that_was_cut_counts_only_alone() {
        let mut asked = Vec::new();
        let samples = rounds(Duration::ZERO, |until| {
            asked.push(until);
            Ok(sample(1, true))
        });
        assert_eq!((samples.unwrap().len(), asked), (1, vec![None]));
        let mut number = 0;
        let samples = rounds(Duration::from_millis(20), |until| {
            number += 1;
            std::thread::sleep(Duration::from_millis(8));
            Ok(sample(8, until.is_some_and(|until| Instant::now() < until)))
        });
        let samples = samples.unwrap();
        assert!(!samples.is_empty() && samples.iter().all(|sample| sample.whole), "{samples:?}");
        let cut = rounds(Duration::from_millis(5), |_| {
            std::thread::sleep(Duration::from_millis(6));
            Ok(sample(6, false))
        });
        assert_eq!(cut.unwrap().len(), 1);
        assert!(number >= samples.len());
    }
}
