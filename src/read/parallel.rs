//! Work shared out over threads.

use std::num::NonZero;
use std::sync::OnceLock;

use crate::error::Result;

/// How many threads to use when the caller names none.
///
/// The machine is asked once: that takes reading some files, which would be most of what opening a small file costs.
pub(crate) fn default_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    if !cfg!(feature = "parallel") {
        return 1;
    }
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

/// Calls `work` for each item, on up to `threads` threads, and gives the first error in the order of discovery.
///
/// `work` has a state of its thread, made by `state`: a buffer, say. After an error no further items are begun.
#[cfg(feature = "parallel")]
pub(crate) fn for_each<T: Send, S>(
    threads: usize,
    items: impl Iterator<Item = T> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<()> + Sync,
) -> Result<()> {
    use std::sync::{Mutex, PoisonError};

    if threads <= 1 {
        return sequentially(items, state, work);
    }
    // `None` once an error has been seen, so that the others stop too.
    let queue = Mutex::new(Some(items));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Iterator::next);
    let run = || {
        let mut state = state();
        while let Some(item) = next() {
            if let Err(e) = work(&mut state, item) {
                *queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Err(e);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // A thread that cannot be had is done without: the rest, at least this one, do its work.
        let others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().name("dolmen".into()).spawn_scoped(scope, run).ok())
            .collect();
        let mut first = run();
        for thread in others {
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first = first.and(result);
        }
        first
    })
}

/// Calls `work` for each item.
#[cfg(not(feature = "parallel"))]
pub(crate) fn for_each<T, S>(
    _threads: usize,
    items: impl Iterator<Item = T>,
    state: impl Fn() -> S,
    work: impl Fn(&mut S, T) -> Result<()>,
) -> Result<()> {
    sequentially(items, state, work)
}

fn sequentially<T, S>(
    mut items: impl Iterator<Item = T>,
    state: impl Fn() -> S,
    work: impl Fn(&mut S, T) -> Result<()>,
) -> Result<()> {
    let mut state = state();
    items.try_for_each(|item| work(&mut state, item))
}
