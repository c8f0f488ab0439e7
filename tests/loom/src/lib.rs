//! The loader's pool in every interleaving of its threads: `src/feature/loader/pool.rs` itself, with the locks of loom, which finds what waits
//! for ever.
#![cfg(test)]

#[path = "../../../src/feature/loader/pool.rs"]
mod pool;

use std::collections::BTreeSet;

use loom::model::Builder;
use loom::sync::{Arc, Mutex};
use loom::thread::{self, JoinHandle};

use pool::Pool;

/// A piece of memory: its number. Each is one filler's, the pool's, or the consumer's.
#[derive(Debug)]
struct Memory(u64);

/// What came of a job: the job, and the memory that it went into.
type Came = (u64, Memory);
type Jobs = Pool<Came, Memory>;

/// Every interleaving in which threads are interrupted so many times.
fn model(interruptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(run);
}

/// Does jobs until there are no more: in memory that was used before, or in new memory, whose number is that of the job.
fn filler(pool: &Arc<Jobs>, made: &Arc<Mutex<u64>>) -> JoinHandle<()> {
    let (pool, made) = (Arc::clone(pool), Arc::clone(made));
    thread::spawn(move || {
        while let Some((job, memory)) = pool.take() {
            let memory = memory.unwrap_or_else(|| {
                *made.lock().unwrap() += 1;
                Memory(job)
            });
            pool.put(job, (job, memory));
        }
    })
}

fn all_jobs_come_once_in_order(fillers: usize, jobs: u64, ahead: u64, interruptions: usize) {
    model(interruptions, move || {
        let (pool, made) = (Arc::new(Jobs::new(3, 3 + jobs, ahead)), Arc::new(Mutex::new(0)));
        let fillers: Vec<_> = (0..fillers).map(|_| filler(&pool, &made)).collect();
        for job in 3..3 + jobs {
            assert_eq!(pool.left(), 3 + jobs - job);
            let (came, memory) = pool.next().unwrap();
            assert_eq!(came, job);
            pool.give_back(memory);
        }
        assert!(pool.next().is_none());
        // They end by themselves: nobody waits for a job that will never be.
        fillers.into_iter().for_each(|filler| filler.join().unwrap());
        let (free, done) = pool.stop();
        assert!(done.is_empty());
        let numbers: BTreeSet<u64> = free.iter().map(|memory| memory.0).collect();
        assert_eq!(numbers.len(), free.len(), "memory was given twice");
        // As much as was ahead, and one that the consumer had meanwhile.
        let made = *made.lock().unwrap();
        assert!(made <= ahead + 1, "{made} pieces of memory for {ahead} jobs ahead");
    });
}

#[test]
fn jobs_of_two_fillers_come_once_in_order_and_nobody_is_left_waiting() {
    all_jobs_come_once_in_order(2, 3, 1, 2);
    all_jobs_come_once_in_order(2, 3, 2, 2);
}

#[test]
fn of_more_fillers_than_jobs_none_is_left_waiting() {
    all_jobs_come_once_in_order(3, 2, 1, 2);
    all_jobs_come_once_in_order(3, 1, 2, 2);
    all_jobs_come_once_in_order(2, 0, 1, 3);
}

/// What is taken before it is stopped, at whatever moment that is.
fn stopped_after(taken: u64, ahead: u64) {
    model(3, move || {
        let (pool, made) = (Arc::new(Jobs::new(0, 4, ahead)), Arc::new(Mutex::new(0)));
        let fillers = [filler(&pool, &made), filler(&pool, &made)];
        let mut held = Vec::new();
        for job in 0..taken {
            let (came, memory) = pool.next().unwrap();
            assert_eq!(came, job);
            held.push(memory);
        }
        let (free, done) = pool.stop();
        for filler in fillers {
            filler.join().unwrap();
        }
        assert!(pool.next().is_none() && pool.take().is_none() && pool.left() == 0);
        // What was done and not handed out is the consumer's now, in order, and no more than was ahead.
        let jobs: Vec<u64> = done.iter().map(|(job, _)| *job).collect();
        assert!(jobs.is_sorted() && jobs.iter().all(|job| (taken..taken + ahead).contains(job)), "{jobs:?}");
        held.into_iter().for_each(|memory| pool.give_back(memory));
        let (kept, late) = pool.stop();
        assert!(free.is_empty() && kept.is_empty() && late.is_empty(), "nothing is kept after the end");
    });
}

#[test]
fn stopped_in_the_middle_all_threads_end() {
    for ahead in [1, 2] {
        for taken in [0, 1, 2] {
            stopped_after(taken, ahead);
        }
    }
}

#[test]
fn a_consumer_on_another_thread_than_the_one_that_stops_does_not_wait_for_ever() {
    model(3, || {
        let (pool, made) = (Arc::new(Jobs::new(0, 3, 1)), Arc::new(Mutex::new(0)));
        let filler = filler(&pool, &made);
        let consumer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let mut jobs = Vec::new();
                while let Some((job, memory)) = pool.next() {
                    jobs.push(job);
                    pool.give_back(memory);
                }
                jobs
            })
        };
        pool.stop();
        filler.join().unwrap();
        let jobs = consumer.join().unwrap();
        assert!(jobs.iter().copied().eq(0..jobs.len() as u64), "{jobs:?}");
    });
}
