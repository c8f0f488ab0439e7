//! A stream: a queue, and a thread that does what is in it, late.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::world::{Settings, lock, world};

/// Something that is done once.
#[derive(Debug, Default)]
pub struct Marker {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Marker {
    pub fn wait(&self) {
        let mut done = lock(&self.done);
        while !*done {
            done = self.changed.wait(done).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    pub fn is_done(&self) -> bool {
        *lock(&self.done)
    }

    fn set(&self) {
        *lock(&self.done) = true;
        self.changed.notify_all();
    }
}

#[derive(Debug)]
pub enum Op {
    Nothing,
    CopyIn {
        to: u64,
        from: usize,
        len: usize,
        sum: u64,
    },
    CopyOut {
        from: u64,
        to: usize,
        len: usize,
    },
    CopyWithin {
        from: u64,
        to: u64,
        len: usize,
    },
    Set {
        to: u64,
        byte: u8,
        len: usize,
    },
    Free {
        address: u64,
    },
    Record(Arc<Marker>),
    Wait(Arc<Marker>),
    /// The last one.
    End(Arc<Marker>),
}

#[derive(Debug, Default)]
pub struct Queue {
    ops: Mutex<VecDeque<Op>>,
    more: Condvar,
}

impl Queue {
    pub fn start(index: usize, settings: &Settings) -> Arc<Queue> {
        let queue = Arc::<Queue>::default();
        let (mine, delay_us) = (queue.clone(), settings.delay_us);
        let mut random = Random(settings.seed ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        std::thread::Builder::new()
            .name(format!("simulated stream {index}"))
            .spawn(move || {
                loop {
                    let op = mine.take();
                    // Mostly short, sometimes long, often none.
                    let delay = match random.next() % 16 {
                        0..8 => 0,
                        8..15 => random.next() % (delay_us + 1),
                        _ => delay_us * 10,
                    };
                    if delay > 0 {
                        std::thread::sleep(Duration::from_micros(delay));
                    }
                    match op {
                        Op::Record(marker) => marker.set(),
                        Op::Wait(marker) => marker.wait(),
                        Op::End(marker) => return marker.set(),
                        op => world().perform(op),
                    }
                }
            })
            .expect("a thread for a stream");
        queue
    }

    pub fn push(&self, op: Op) {
        lock(&self.ops).push_back(op);
        self.more.notify_one();
    }

    fn take(&self) -> Op {
        let mut ops = lock(&self.ops);
        loop {
            match ops.pop_front() {
                Some(op) => return op,
                None => ops = self.more.wait(ops).unwrap_or_else(|poisoned| poisoned.into_inner()),
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
