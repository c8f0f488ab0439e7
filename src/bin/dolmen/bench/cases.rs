//! What is measured: batches of a table, whole files, and what they are compared with.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dolmen::feature::{
    Access, Batch, Device, Host, Layout, LoadOptions, Loaded, Loader, LoaderOptions, Order, Table, Verification,
    load_to_device,
};
use dolmen::{Checkpoint, DType, OpenOptions, Result};

use super::files::{Files, Memory, sum};
use super::measure::{Cache, Case, Sample, Yardstick, rounds, timed};

/// Bytes that the plain copy to a device copies in a round, at most.
const MOST_PINNED: u64 = 1 << 30;

/// How files are opened.
#[derive(Debug)]
pub struct Opening {
    pub access: super::Access,
    pub layout: Layout,
    pub dtype: Option<DType>,
}

impl Opening {
    /// The table over files, in the dtype that was asked for.
    pub fn table<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Table> {
        let table = match self.access {
            super::Access::Read => Table::open(paths, &self.layout),
            super::Access::Direct => Table::open_with(paths, &self.layout, Access::Direct),
            // SAFETY: the help says that nobody may change the files meanwhile, and whoever asks for this has promised it.
            super::Access::Map => unsafe { Table::map(paths, &self.layout) },
        }?;
        match self.dtype {
            Some(dtype) => table.cast(dtype),
            None => Ok(table),
        }
    }

    fn checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        match self.access {
            super::Access::Read => Checkpoint::open_on_demand(path),
            super::Access::Direct => OpenOptions::new().direct(true).open_on_demand(path),
            // SAFETY: as above.
            super::Access::Map => unsafe { Checkpoint::map(path) },
        }
    }
}

/// Which epoch of a loader it is, and whether it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    Unverified,
    First,
    Later,
}

/// What becomes of the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// They are copied, and dropped.
    Copied,
    /// They stay where they lie, and are dropped.
    Lent,
    /// They stay where they lie, and all of their bytes are added up.
    LentAndSummed,
}

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Memcpy { threads: usize },
    Read { threads: usize },
    PinnedCopy,
    Batches { epoch: Epoch, how: How },
    Load,
}

/// The cases, in the order in which they are run and shown.
pub fn planned(
    threads: usize,
    is_host: bool,
    has_table: bool,
    lends: bool,
    can_load: bool,
    is_cold: bool,
) -> Vec<(What, Cache)> {
    let mut planned = Vec::new();
    let each: &[usize] = if threads > 1 { &[1, threads] } else { &[1] };
    planned.extend(each.iter().map(|&threads| (What::Memcpy { threads }, Cache::No)));
    if !is_host {
        planned.push((What::PinnedCopy, Cache::No));
    }
    let caches: &[Cache] = if is_cold { &[Cache::Warm, Cache::Cold] } else { &[Cache::Warm] };
    for &cache in caches {
        planned.extend(each.iter().map(|&threads| (What::Read { threads }, cache)));
        if has_table {
            let hows: &[How] = if lends { &[How::Lent, How::LentAndSummed, How::Copied] } else { &[How::Copied] };
            for epoch in [Epoch::Unverified, Epoch::First, Epoch::Later] {
                planned.extend(hows.iter().map(|&how| (What::Batches { epoch, how }, cache)));
            }
        }
        if can_load {
            planned.push((What::Load, cache));
        }
    }
    // Of what was read before nothing is cold, and what is not touched is not read.
    let is_idle = |what| {
        matches!(
            what,
            What::Batches { epoch: Epoch::Later, .. } | What::Batches { epoch: Epoch::Unverified, how: How::Lent }
        )
    };
    planned.retain(|&(what, cache)| cache != Cache::Cold || !is_idle(what));
    planned
}

/// A device that cases run on.
pub trait Place: Device {
    /// Adds up what is in a batch, if the host can read it.
    fn sum(batch: &Batch<Self>) -> Option<u64>
    where
        Self: Sized;
}

impl Place for Host {
    fn sum(batch: &Batch<Host>) -> Option<u64> {
        Some(sum(batch.as_bytes()))
    }
}

#[cfg(feature = "cuda")]
impl Place for dolmen::feature::Cuda {
    fn sum(_: &Batch<Self>) -> Option<u64> {
        None
    }
}

/// What all cases need.
pub struct Bench<'a, D: Place> {
    pub device: Arc<D>,
    pub files: &'a Files,
    pub opening: &'a Opening,
    pub options: LoaderOptions,
    pub order: Order,
    pub threads: u32,
    /// Bytes of a row in the files, and of a batch on the device; 0 if there is no table.
    pub row_len: u64,
    pub batch_len: usize,
    pub most_rows: Option<u64>,
    /// How long a case runs.
    pub time: Duration,
}

impl<D: Place> Bench<'_, D> {
    /// Whether batches are lent rather than copied, unless copies are asked for.
    ///
    /// # Errors
    /// What the first batch says.
    pub fn lends(&self, table: &Table) -> Result<bool> {
        let options = self.options.verification(Verification::Off).threads(0);
        let loader: Loader<D> = Loader::new(table, Arc::clone(&self.device), options)?;
        let first = loader.epoch(self.order)?.next().transpose()?;
        Ok(first.is_some_and(|batch| batch.is_lent()))
    }

    /// Runs a case.
    ///
    /// # Errors
    /// What is wrong with the files, or with the device.
    pub fn run(&self, what: What, cache: Cache) -> Result<Case> {
        let threads = usize::try_from(self.threads.max(1)).unwrap_or(1);
        let case = |name: &str, touched, threads, yardstick, samples| Case {
            name: name.to_owned(),
            cache,
            touched,
            threads,
            yardstick,
            samples,
        };
        // The yardstick has as many threads as what is measured by it.
        let as_many = |own: usize, yardstick| (own == threads).then_some(yardstick);
        Ok(match what {
            What::Memcpy { threads } => {
                let memory = Memory::like(self.files);
                let piece = if self.batch_len == 0 { 1 << 20 } else { self.batch_len };
                let samples = rounds(self.time, |_| Ok(memory.copy(threads, piece)))?;
                case("memcpy", "copied", threads, as_many(threads, Yardstick::Memcpy), samples)
            }
            What::Read { threads } => {
                let samples = rounds(self.time, |until| {
                    self.before_round(cache)?;
                    self.files.read(threads, until)
                })?;
                case("read(2)", "copied", threads, as_many(threads, Yardstick::Read), samples)
            }
            What::PinnedCopy => {
                let samples = self.pinned_copies(threads)?;
                case("pinned copy", "copied", threads, Some(Yardstick::PinnedCopy), samples)
            }
            What::Batches { epoch, how } => {
                let name = match epoch {
                    Epoch::Unverified => "batches, unverified",
                    Epoch::First => "batches, first epoch",
                    Epoch::Later => "batches, later epoch",
                };
                let name = if how == How::Copied { name.to_owned() } else { format!("{name}, lent") };
                let touched = match (epoch, how) {
                    (Epoch::First, How::Copied) => "CRC, copied",
                    (_, How::Copied) => "copied",
                    (Epoch::First, How::Lent) => "CRC",
                    (_, How::Lent) => "nothing",
                    (Epoch::First, How::LentAndSummed) => "CRC, summed",
                    (_, How::LentAndSummed) => "summed",
                };
                case(&name, touched, threads, None, self.batches(epoch, how, cache)?)
            }
            What::Load => case("load_to_device", "CRC, copied", threads, None, self.loads(cache)?),
        })
    }

    fn before_round(&self, cache: Cache) -> Result<()> {
        if cache == Cache::Cold { self.files.forget() } else { Ok(()) }
    }

    fn batches(&self, epoch: Epoch, how: How, cache: Cache) -> Result<Vec<Sample>> {
        let verification = if epoch == Epoch::Unverified { Verification::Off } else { Verification::Once };
        let options = self.options.verification(verification).copied(how == How::Copied);
        let loader = || {
            let table = self.opening.table(&self.files.paths)?;
            Loader::new(&table, Arc::clone(&self.device), options)
        };
        if epoch == Epoch::First || cache == Cache::Cold {
            // What was verified is remembered by the table, and what is mapped is not forgotten by the page cache: so each has its own.
            return rounds(self.time, |until| {
                let loader = loader()?;
                self.before_round(cache)?;
                self.epoch(&loader, how, until, self.most_rows)
            });
        }
        let loader = loader()?;
        // So that rows are verified where this is a later epoch; and memory and maps are there.
        let until = Some(Instant::now() + self.time).filter(|_| !self.time.is_zero());
        let rows = self.epoch(&loader, how, until, self.most_rows)?.rows;
        rounds(self.time, |until| self.epoch(&loader, how, until, Some(rows)))
    }

    /// An epoch, as far as it may go.
    fn epoch(&self, loader: &Loader<D>, how: How, until: Option<Instant>, most: Option<u64>) -> Result<Sample> {
        let (mut rows, mut whole) = (0, true);
        // Dropped after the clock has stopped.
        let (mut last, mut batches) = (None, None);
        let (time, result) = timed(|| -> Result<()> {
            for batch in batches.insert(loader.epoch(self.order)?) {
                let batch = batch?;
                if how == How::LentAndSummed {
                    black_box(D::sum(&batch));
                }
                rows += batch.len() as u64;
                last = Some(batch);
                if most.is_some_and(|most| rows >= most) {
                    break;
                }
                if until.is_some_and(|until| Instant::now() >= until) {
                    whole = false;
                    break;
                }
            }
            // What was asked of the device is done when this returns.
            last.as_ref().map_or(Ok(()), |batch| self.device.synchronize(batch.memory()))
        });
        result?;
        Ok(Sample { bytes: rows * self.row_len, rows, time, whole })
    }

    /// Every tensor of every file, put into memory of the device that is allocated for it: with opening the file, and without giving the
    /// memory back.
    fn loads(&self, cache: Cache) -> Result<Vec<Sample>> {
        let options = LoadOptions::new().threads(self.threads.max(1));
        rounds(self.time, |until| {
            self.before_round(cache)?;
            let mut sample = Sample { bytes: 0, rows: 0, time: Duration::ZERO, whole: true };
            for path in &self.files.paths {
                if sample.bytes > 0 && until.is_some_and(|until| Instant::now() >= until) {
                    sample.whole = false;
                    break;
                }
                let begin = Instant::now();
                let checkpoint = self.opening.checkpoint(path)?;
                let loaded: Loaded<D> = load_to_device(&checkpoint, Arc::clone(&self.device), &options)?;
                sample.time += begin.elapsed();
                sample.bytes += loaded.byte_len() as u64;
            }
            Ok(sample)
        })
    }

    /// Copies pinned memory to the device, in parts as long as those of batches, on as many lanes as there are threads. No file is read, and
    /// nothing is written to the buffers.
    fn pinned_copies(&self, threads: usize) -> Result<Vec<Sample>> {
        let device = &*self.device;
        let most = device.max_part_len();
        let part_len = match (usize::try_from(self.row_len), self.batch_len) {
            (Ok(row_len @ 1..), 1..) => (most / row_len).max(1).saturating_mul(row_len).min(self.batch_len),
            _ => most,
        };
        let part_len = part_len.clamp(1, most);
        let bytes = self.files.byte_len.clamp(part_len as u64 * threads as u64, MOST_PINNED.max(part_len as u64));
        let parts = usize::try_from(bytes).unwrap_or(part_len) / part_len;
        let byte_lens = vec![part_len; parts];
        let mut memory = device.allocate(part_len * parts)?;
        let mut lanes = (0..threads).map(|_| device.lane()).collect::<Result<Vec<_>>>()?;
        rounds(self.time, |_| {
            let (time, result) = timed(|| copy_parts(device, &mut memory, &mut lanes, &byte_lens));
            result?;
            device.release(&mut memory)?;
            Ok(Sample { bytes: (part_len * parts) as u64, rows: 0, time, whole: true })
        })
    }
}

/// Sends what is in the lanes' buffers to all parts of memory, and waits for it.
fn copy_parts<D: Device>(device: &D, memory: &mut D::Memory, lanes: &mut [D::Lane], byte_lens: &[usize]) -> Result<()> {
    let threads = lanes.len();
    let mut work: Vec<Vec<D::Part<'_>>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, part) in device.parts(memory, byte_lens)?.into_iter().enumerate() {
        work[number % threads].push(part);
    }
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads = lanes.iter_mut().zip(work).map(|(lane, parts)| {
            scope.spawn(move || parts.into_iter().try_for_each(|part| device.fill(lane, part, &mut |_| Ok(()))))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    for lane in lanes {
        device.finish(lane, memory)?;
    }
    device.acquire(memory)?;
    device.synchronize(memory)
}
