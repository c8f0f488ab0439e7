//! Jobs that threads do ahead, handed out in their order.
//!
//! Nothing here knows what a job is: [`Pool`] is the only place where the threads of a loader meet, and small enough to be tried out in every
//! interleaving, which `tests/loom` does: it includes this file, with the locks of loom.

use std::collections::BTreeMap;
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};

/// Jobs numbered from `start` on, done by any number of threads, at most so many ahead of the consumer; and memory that goes round.
#[derive(Debug)]
pub(super) struct Pool<T, M> {
    state: Mutex<State<T, M>>,
    /// There may be a job to take, or no more.
    room: Condvar,
    /// A job may be done.
    done: Condvar,
}

#[derive(Debug)]
struct State<T, M> {
    /// The job that is taken next, and that which is handed out next. The first is ahead of the second by `ahead` at most.
    next: u64,
    given: u64,
    end: u64,
    ahead: u64,
    done: BTreeMap<u64, T>,
    /// Memory for coming jobs: no more than for those ahead and one that is in use, which is what goes round.
    free: Vec<M>,
    /// Threads that wait for room: where there are none, nobody need be woken, which is a call of the system.
    idle: usize,
    stopped: bool,
}

impl<T, M> Pool<T, M> {
    /// Jobs `start` to `end`, at most `ahead` of them taken and not handed out.
    pub(super) fn new(start: u64, end: u64, ahead: u64) -> Pool<T, M> {
        let (next, ahead) = (start.min(end), ahead.max(1));
        let (done, free) = (BTreeMap::new(), Vec::new());
        let state = State { next, given: next, end, ahead, done, free, idle: 0, stopped: false };
        Pool { state: Mutex::new(state), room: Condvar::new(), done: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T, M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job to do, and takes it, with memory if some is free; `None` when there are no more, or it was stopped.
    ///
    /// Whoever takes a job must [`put`](Self::put) what came of it, or the consumer waits for ever.
    pub(super) fn take(&self) -> Option<(u64, Option<M>)> {
        let mut state = self.state();
        loop {
            if state.stopped || state.next >= state.end {
                return None;
            }
            if state.next.saturating_sub(state.given) < state.ahead {
                let job = state.next;
                state.next = job.saturating_add(1);
                let (free, is_last) = (state.free.pop(), state.next >= state.end);
                drop(state);
                if is_last {
                    // There is nothing more to wait for.
                    self.room.notify_all();
                }
                return Some((job, free));
            }
            state.idle = state.idle.saturating_add(1);
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = state.idle.saturating_sub(1);
        }
    }

    /// Says what came of a job.
    pub(super) fn put(&self, job: u64, came: T) {
        let mut state = self.state();
        if !state.stopped {
            state.done.insert(job, came);
            // The consumer waits for no other.
            let is_wanted = job == state.given;
            drop(state);
            if is_wanted {
                self.done.notify_all();
            }
        }
    }

    /// Waits for the next job in order, and hands it out; `None` after the last, or when it was stopped.
    pub(super) fn next(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if state.stopped || state.given >= state.end {
                return None;
            }
            let wanted = state.given;
            if let Some(came) = state.done.remove(&wanted) {
                state.given = wanted.saturating_add(1);
                let any_idle = state.idle > 0;
                drop(state);
                if any_idle {
                    // One place became free.
                    self.room.notify_one();
                }
                return Some(came);
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many jobs are still to be handed out.
    pub(super) fn left(&self) -> u64 {
        let state = self.state();
        if state.stopped { 0 } else { state.end.saturating_sub(state.given) }
    }

    /// Gives memory back for coming jobs.
    pub(super) fn give_back(&self, memory: M) {
        let mut state = self.state();
        if !state.stopped && u64::try_from(state.free.len()).is_ok_and(|free| free <= state.ahead) {
            state.free.push(memory);
            return;
        }
        // Freed without the lock: that can take long.
        drop(state);
        drop(memory);
    }

    /// Ends it: nothing more is taken or handed out. Gives all that is free, and what was done.
    pub(super) fn stop(&self) -> (Vec<M>, Vec<T>) {
        let mut state = self.state();
        state.stopped = true;
        let free = std::mem::take(&mut state.free);
        let done = std::mem::take(&mut state.done).into_values().collect();
        drop(state);
        self.room.notify_all();
        self.done.notify_all();
        (free, done)
    }
}
