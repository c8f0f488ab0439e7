//! Batches of a table, made ahead by threads, in a device's memory.
//!
//! ```text
//!            ┌ thread ─ gather rows, verify ─▶ lane ─▶ memory ┐
//! plan ─▶ pool ┼ thread ─ …                                   ┼─▶ pool ─▶ Batches::next ─▶ Batch ─▶ dropped: memory goes round
//!            └ thread ─ …                                     ┘
//! ```
//! A thread takes the next batch only while fewer than `prefetch` wait for the consumer: that is all the back-pressure there is.

mod batch;
mod fill;
mod options;
mod pool;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use batch::Batch;
pub use options::{LoaderOptions, OnDamage, PageCache, Verification};

use super::device::Device;
use super::order::{BatchPlan, Order};
use super::table::{Checking, Gather, Table};
use crate::error::{Error, Result};
use crate::format::len_u64;
use crate::source::Pattern;
use fill::{Filled, Filler, Shape};
use pool::Pool;

/// What came of a batch.
type Came<D> = Result<Filled<<D as Device>::Memory>>;

/// What a loader and its epochs share.
struct Shared<D: Device> {
    table: Table,
    device: Arc<D>,
    options: LoaderOptions,
    shape: Shape,
    spare: bool,
    /// Lanes that no thread has, and memory that no batch has: for the next epoch.
    lanes: Mutex<Vec<D::Lane>>,
    memory: Mutex<Vec<D::Memory>>,
}

/// Streams a table to a device, batch by batch, epoch after epoch.
///
/// Its threads gather the rows of batches ahead, verify them, convert them, and send them to the device, while the last batch is used. What it
/// takes of memory is bounded by its options, however long the files are: [`pinned_byte_len`](Self::pinned_byte_len) of pinned memory of the
/// host, taken once, and [`batch_byte_len`](Self::batch_byte_len) on the device for each batch that is ahead or in use.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("features.dolmen");
/// # let mut b = dolmen::Builder::new();
/// # let rows = vec![0.5f32; 700 * 4];
/// # b.tensor("data", (&rows, [700, 4]))?;
/// # b.save(&path)?;
/// use dolmen::feature::{Host, Layout, Loader, LoaderOptions, Order, Table};
///
/// let table = Table::open([&path], &Layout::new())?;
/// let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(256))?;
/// for epoch in 0..2 {
///     for batch in loader.epoch(Order::shuffled(7).epoch(epoch))? {
///         let batch = batch?;
///         let features: &[f32] = batch.as_slice()?; // batch.len() rows of 4
///         assert_eq!(features.len(), batch.len() * 4);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Loader<D: Device>(Arc<Shared<D>>);

impl<D: Device> fmt::Debug for Loader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("table", &self.0.table)
            .field("device", &self.0.device.name())
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Loader<D> {
    /// A loader of a table to a device.
    ///
    /// **Cost**: the buffers of its threads; memory for batches comes with the first ones.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for batches of no rows, or rows that are longer than the device's buffers;
    /// [`Device`](crate::ErrorKind::Device) or [`Io`](crate::ErrorKind::Io) if the device cannot give the buffers.
    pub fn new(table: &Table, device: impl Into<Arc<D>>, options: LoaderOptions) -> Result<Loader<D>> {
        let device = device.into();
        let shape = Shape::of(table, options.batch_len, device.max_part_len())?;
        // Says what is wrong with the options.
        BatchPlan::new(table.rows(), options.batch_len, Order::sequential(), options.shard, options.tail)?;
        let lanes = (0..options.threads.max(1)).map(|_| device.lane()).collect::<Result<Vec<_>>>()?;
        let spare = match options.page_cache {
            PageCache::Keep => false,
            PageCache::Spare => true,
            PageCache::Auto => memory_of_the_machine().is_some_and(|memory| fill::bytes_of(table) > memory / 2),
        };
        let (lanes, memory) = (Mutex::new(lanes), Mutex::new(Vec::new()));
        Ok(Loader(Arc::new(Shared { table: table.clone(), device, options, shape, spare, lanes, memory })))
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.0.table
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.0.device
    }

    /// Bytes of the device's memory that a batch takes.
    pub fn batch_byte_len(&self) -> usize {
        self.0.shape.byte_len
    }

    /// Bytes of pinned memory of the host that the loader holds, in all.
    pub fn pinned_byte_len(&self) -> usize {
        let threads = usize::try_from(self.0.options.threads.max(1)).unwrap_or(usize::MAX);
        self.0.device.lane_byte_len().saturating_mul(threads)
    }

    /// How many batches an epoch has.
    pub fn batch_count(&self) -> u64 {
        self.plan(Order::sequential()).map_or(0, |plan| plan.batch_count())
    }

    fn plan(&self, order: Order) -> Result<BatchPlan> {
        let LoaderOptions { batch_len, shard, tail, .. } = self.0.options;
        BatchPlan::new(self.0.table.rows(), batch_len, order, shard, tail)
    }

    /// All batches of an epoch, in an order.
    ///
    /// Several epochs may run at the same time; each takes threads and buffers of its own then.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an order that cannot be; [`Io`](crate::ErrorKind::Io) if there is no thread to be had.
    pub fn epoch(&self, order: Order) -> Result<Batches<D>> {
        self.epoch_from(order, 0)
    }

    /// The batches of an epoch from this one on: those that [`epoch`](Self::epoch) would give after skipping the first ones, without reading
    /// them.
    ///
    /// # Errors
    /// As [`epoch`](Self::epoch).
    pub fn epoch_from(&self, order: Order, batch: u64) -> Result<Batches<D>> {
        let shared = &self.0;
        let options = &shared.options;
        let plan = Arc::new(self.plan(order)?);
        let pattern = match (plan.is_sequential(), shared.spare) {
            (true, _) => Pattern::Sequential,
            (false, true) => Pattern::Random,
            (false, false) => Pattern::Normal,
        };
        shared.table.checkpoints().for_each(|checkpoint| checkpoint.advise(pattern));
        let checking = match options.verification {
            Verification::Off => Checking::Off,
            Verification::Once => Checking::Remembered,
            Verification::EveryEpoch => Checking::fresh(&shared.table)?,
        };
        let pool = Arc::new(Pool::new(batch, plan.batch_count(), options.prefetch.into()));
        for memory in std::mem::take(&mut *shared.memory.lock().unwrap_or_else(PoisonError::into_inner)) {
            pool.give_back(memory);
        }
        let mut batches = Batches {
            next: batch,
            pool,
            shared: Arc::clone(shared),
            threads: Vec::new(),
            own: None,
            report: EpochReport::default(),
        };
        let filler = || {
            let kept = shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
            Ok::<_, Error>(Filler {
                device: Arc::clone(&shared.device),
                lane: kept.map_or_else(|| shared.device.lane(), Ok)?,
                gather: Gather::new(&shared.table, checking.clone()),
                table: shared.table.clone(),
                plan: Arc::clone(&plan),
                shape: shared.shape,
                on_damage: options.on_damage,
                spare: shared.spare,
                copied: options.copied,
            })
        };
        if options.threads == 0 {
            batches.own = Some(Box::new(filler()?));
            return Ok(batches);
        }
        for number in 0..options.threads {
            let (filler, pool) = (filler()?, Arc::clone(&batches.pool));
            let name = format!("dolmen-fill-{number}");
            // What was begun is ended when `batches` is dropped.
            let thread = std::thread::Builder::new().name(name).spawn(move || fill_batches(filler, &pool));
            batches.threads.push(thread.map_err(|e| Error::io("cannot start a thread", e))?);
        }
        Ok(batches)
    }
}

/// What a thread does: batch after batch, until there are no more.
fn fill_batches<D: Device>(mut filler: Filler<D>, pool: &Pool<Came<D>, D::Memory>) -> D::Lane {
    while let Some((batch, memory)) = pool.take() {
        fill_batch(&mut filler, pool, batch, memory);
    }
    filler.lane
}

/// Fills a batch that was taken, and puts what comes of it.
fn fill_batch<D: Device>(
    filler: &mut Filler<D>,
    pool: &Pool<Came<D>, D::Memory>,
    batch: u64,
    mut memory: Option<D::Memory>,
) {
    // Somebody waits for what comes of it, also if a device's implementation panics.
    let filled = catch_unwind(AssertUnwindSafe(|| filler.fill(batch, &mut memory)));
    let panicked = |_| Err(Error::new(crate::ErrorKind::Device, format!("batch {batch}: what fills it panicked")));
    pool.put(batch, filled.unwrap_or_else(panicked));
    if let Some(unused) = memory {
        pool.give_back(unused);
    }
}

/// How an epoch went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EpochReport {
    /// Batches that were handed out.
    pub batches: u64,
    /// Rows of those.
    pub rows: u64,
    /// Bytes of those rows, as they are on the device.
    pub bytes: u64,
    /// Rows that were skipped because they are damaged.
    pub skipped_rows: u64,
    /// Batches that were errors.
    pub failed_batches: u64,
    /// How long [`next`](Iterator::next) waited for batches, in all: the time in which the device may have been idle.
    pub waited: Duration,
}

/// The batches of an epoch, in order, made ahead.
///
/// A batch that cannot be made is an error in its place, which names file, tensor and rows; those after it come all the same. Dropping it at any
/// time ends its threads; batches that you hold stay good.
pub struct Batches<D: Device> {
    next: u64,
    pool: Arc<Pool<Came<D>, D::Memory>>,
    shared: Arc<Shared<D>>,
    threads: Vec<JoinHandle<D::Lane>>,
    /// Fills batches when they are asked for, if no threads do.
    own: Option<Box<Filler<D>>>,
    report: EpochReport,
}

impl<D: Device> Batches<D> {
    /// How the epoch went so far.
    pub fn report(&self) -> EpochReport {
        self.report
    }

    /// The number of the batch that comes next: where to [resume](Loader::epoch_from), if all before it have been used.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    fn take(&mut self) -> Option<Came<D>> {
        let Some(own) = &mut self.own else { return self.pool.next() };
        let (batch, memory) = self.pool.take()?;
        fill_batch(own, &self.pool, batch, memory);
        self.pool.next()
    }
}

impl<D: Device> Iterator for Batches<D> {
    type Item = Result<Batch<D>>;

    fn next(&mut self) -> Option<Result<Batch<D>>> {
        let begin = Instant::now();
        let came = self.take();
        self.report.waited = self.report.waited.saturating_add(begin.elapsed());
        let came = came?;
        let number = self.next;
        self.next = number.saturating_add(1);
        let batch = came.and_then(|mut filled| {
            let acquired = self.shared.device.acquire(&mut filled.memory);
            acquired.map_err(|e| e.with_words_before(&format!("batch {number}: ")))?;
            Ok(Batch::new(number, filled, &self.pool, &self.shared))
        });
        let report = &mut self.report;
        match &batch {
            Ok(batch) => {
                report.batches = report.batches.saturating_add(1);
                report.rows = report.rows.saturating_add(len_u64(batch.len()));
                report.bytes = report.bytes.saturating_add(len_u64(batch.features_in_memory().len()));
                report.skipped_rows = report.skipped_rows.saturating_add(len_u64(batch.skipped().len()));
            }
            Err(_) => report.failed_batches = report.failed_batches.saturating_add(1),
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.pool.left());
        (left.unwrap_or(usize::MAX), left.ok())
    }
}

impl<D: Device> Drop for Batches<D> {
    fn drop(&mut self) {
        let (mut free, done) = self.pool.stop();
        let joined = std::mem::take(&mut self.threads).into_iter().filter_map(|thread| thread.join().ok());
        let lanes: Vec<D::Lane> = joined.chain(self.own.take().map(|own| own.lane)).collect();
        // What was made and not handed out is handed out and taken back here, so that the device is done with it before it is filled again.
        for mut filled in done.into_iter().flatten().filter(|filled| !filled.lent) {
            let device = &self.shared.device;
            if device.acquire(&mut filled.memory).and_then(|()| device.release(&mut filled.memory)).is_ok() {
                free.push(filled.memory);
            }
        }
        // Kept for the next epoch: as much as one holds, not what several at a time did.
        let keep = |most: u32| usize::try_from(most.max(1)).unwrap_or(usize::MAX);
        let options = &self.shared.options;
        let mut kept = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = keep(options.threads).saturating_sub(kept.len());
        let surplus: Vec<_> = lanes
            .into_iter()
            .enumerate()
            .filter_map(|(i, lane)| {
                if i < room {
                    kept.push(lane);
                    None
                } else {
                    Some(lane)
                }
            })
            .collect();
        drop(kept);
        let mut memory = self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let at_once = options.prefetch.max(options.threads).saturating_add(1);
        let room = keep(at_once).saturating_sub(memory.len());
        let rest = free.split_off(room.min(free.len()));
        memory.append(&mut free);
        drop(memory);
        // Freed without the locks: that can take long.
        drop((surplus, rest));
    }
}

impl<D: Device> fmt::Debug for Batches<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("next", &self.next).field("report", &self.report).finish_non_exhaustive()
    }
}

/// Bytes of memory that the machine has, if the system says.
fn memory_of_the_machine() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        #[allow(clippy::useless_conversion, reason = "how wide the number is depends on the machine")]
        u64::try_from(info.totalram).ok()?.checked_mul(info.mem_unit.into())
    }
    #[cfg(not(target_os = "linux"))]
    None
}
