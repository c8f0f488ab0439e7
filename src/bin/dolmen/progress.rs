//! A progress bar for long work: on standard error, if that is a terminal, once the work has taken half a second.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long work is short.
const PATIENCE: Duration = Duration::from_millis(500);

/// Counts bytes, and shows it if it takes long. Cleared when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    shown: OnceLock<()>,
}

impl Progress {
    /// Work on so many bytes.
    pub fn of_bytes(total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        Progress { bar, began: Instant::now(), shown: OnceLock::new() }
    }

    /// Work in so many steps.
    pub fn of_steps(total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len}: {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        Progress { bar, began: Instant::now(), shown: OnceLock::new() }
    }

    /// The next step begins.
    pub fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.add(1);
    }

    /// So many bytes more are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.shown.get().is_none() && self.began.elapsed() > PATIENCE {
            // It stays hidden where standard error is no terminal.
            self.shown.get_or_init(|| self.bar.set_draw_target(ProgressDrawTarget::stderr()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
