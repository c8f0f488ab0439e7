//! Timing in turns, and the table of ratios.

use std::fmt;
use std::time::{Duration, Instant};

/// What one run of a case took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// By the clock on the wall.
    wall: Duration,
    /// Of the processors, by all threads together.
    processor: Duration,
}

/// What the runs of one case took.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Taken>);

impl Samples {
    /// The shortest time by the clock.
    pub fn min(&self) -> Duration {
        self.0.iter().map(|taken| taken.wall).min().unwrap_or_default()
    }

    /// The median time by the clock.
    pub fn median(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.0.iter().map(|taken| taken.wall).collect();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The shortest time of the processors: it leaves out the time in which others had them.
    pub fn processor(&self) -> Duration {
        self.0.iter().map(|taken| taken.processor).min().unwrap_or_default()
    }
}

/// Something to be timed. It times itself, so that preparing and cleaning up are not counted.
pub type Case<'a> = Box<dyn FnMut() -> Taken + 'a>;

/// The time that this process has had of the processors.
fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// How long `f` takes. What it gives is dropped after the clocks have stopped.
pub fn time<T>(f: impl FnOnce() -> T) -> Taken {
    let processor = processor_time();
    let begin = Instant::now();
    let result = std::hint::black_box(f());
    let taken = Taken { wall: begin.elapsed(), processor: processor_time().saturating_sub(processor) };
    drop(result);
    taken
}

/// Runs the cases in turns, so that what disturbs one disturbs its neighbours too: all of them once, then again, in the other
/// direction, for `rounds` rounds; fewer, but at least three (or `rounds`), once `at_most` has passed.
pub fn in_turns<const N: usize>(rounds: usize, at_most: Duration, mut cases: [Case<'_>; N]) -> [Samples; N] {
    let mut samples = [const { Samples(Vec::new()) }; N];
    let begin = Instant::now();
    for round in 0..rounds {
        if round >= 3 && begin.elapsed() > at_most {
            break;
        }
        for turn in 0..N {
            let which = if round % 2 == 0 { turn } else { N - 1 - turn };
            samples[which].0.push(cases[which]());
        }
    }
    samples
}

/// Whether the files' bytes were in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    Warm,
    Cold,
    /// Nothing is read.
    NotRead,
}

/// One line of the table.
pub struct Row {
    pub case: String,
    /// What Dolmen does.
    pub what: &'static str,
    pub dolmen: Samples,
    pub peer_name: &'static str,
    pub peer: Samples,
    pub cache: Cache,
    /// Which of the data's bytes are looked at: by Dolmen, by the peer.
    pub touched: &'static str,
    /// Bytes that pass, for GB/s.
    pub bytes: Option<u64>,
    /// The least ratio that is asked for.
    pub asked: Option<f64>,
}

/// The lines, and notes about what is not a time.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

fn shown(samples: &Samples, bytes: Option<u64>) -> String {
    let one = |d: Duration| match d.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    };
    let rate = bytes.map_or(String::new(), |bytes| {
        let rate = bytes as f64 / samples.min().as_secs_f64() / 1e9;
        if rate >= 1.0 { format!(" ({rate:.1} GB/s)") } else { format!(" ({rate:.2} GB/s)") }
    });
    format!("{} / {}{rate}", one(samples.min()), one(samples.median()))
}

fn ratio(row: &Row, of: impl Fn(&Samples) -> Duration) -> f64 {
    of(&row.peer).as_secs_f64() / of(&row.dolmen).as_secs_f64()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nTimes are `least / median`. A ratio is the peer's time divided by Dolmen's: above 1, Dolmen is faster; the\n             third one is of the processors' least time, all threads together.\n"
        )?;
        writeln!(
            f,
            "| case | Dolmen | peer | ratio of least | of medians | of processor time | cache | touched | asked |"
        )?;
        writeln!(f, "|---|---|---|---:|---:|---:|---|---|---|")?;
        for row in &self.rows {
            let least = ratio(row, Samples::min);
            let asked = row
                .asked
                .map_or(String::new(), |asked| format!("≥ {asked}: {}", if least >= asked { "met" } else { "short" }));
            let digits = if least >= 10.0 { 0 } else { 2 };
            writeln!(
                f,
                "| {}: {} | {} | {}: {} | {least:.digits$} | {:.digits$} | {:.digits$} | {} | {} | {asked} |",
                row.case,
                row.what,
                shown(&row.dolmen, row.bytes),
                row.peer_name,
                shown(&row.peer, row.bytes),
                ratio(row, Samples::median),
                ratio(row, Samples::processor),
                match row.cache {
                    Cache::Warm => "warm",
                    Cache::Cold => "cold",
                    Cache::NotRead => "–",
                },
                row.touched,
            )?;
        }
        for note in &self.notes {
            writeln!(f, "\n- {note}")?;
        }
        Ok(())
    }
}
