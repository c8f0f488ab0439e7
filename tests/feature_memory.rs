//! What loaders take of the machine: memory that is bounded and does not grow, and threads that end.
#![cfg(all(feature = "feature", feature = "torch", unix))]

mod common;

use std::alloc::{GlobalAlloc, Layout as Size, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::Random;
use common::feature::{Kind, Made, Model, Trial, flip, place, write};
use dolmen::DType;
use dolmen::feature::{Access, Host, Layout, Loader, LoaderOptions, OnDamage, Order, Table, Verification};

/// Counts what is allocated, and the most there has been at any time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn allocated(len: usize) {
    let now = NOW.fetch_add(len, Ordering::Relaxed) + len;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it came; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Size) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Size) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Size, new_size: usize) -> *mut u8 {
        allocated(new_size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Size) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The tests count for the whole process, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads of loaders there are.
#[cfg(target_os = "linux")]
fn fillers() -> usize {
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(name).filter(|name| name.starts_with("dolmen-fill")).count()
}

/// Waits until there are so many threads of loaders: that a thread has ended shows a moment later.
#[cfg(target_os = "linux")]
fn wait_for_fillers(count: usize) {
    let begin = Instant::now();
    while fillers() != count {
        assert!(begin.elapsed() < Duration::from_secs(20), "there are {} threads, not {count}", fillers());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_thread_is_left_whenever_batches_are_dropped() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path =
        write(dir.path(), "f", &Model::random(&mut Random::new(1), DType::F32, 16, 500), Made::new(Kind::Dolmen));
    let table = Table::open([&path], &Layout::new()).unwrap();
    for threads in [1, 3] {
        let device = Trial { delay: 100, ..Trial::new(1 << 12) };
        let loader =
            Loader::new(&table, device, LoaderOptions::new().batch_len(10).threads(threads).prefetch(4)).unwrap();
        wait_for_fillers(0);
        for taken in [0, 1, 3, 49, 50] {
            let mut batches = loader.epoch(Order::shuffled(1)).unwrap();
            let held: Vec<_> = batches.by_ref().take(taken).map(Result::unwrap).collect();
            if taken < 40 {
                wait_for_fillers(threads as usize);
            }
            if taken == 50 {
                // There is nothing more to do, and nobody waits for something that will not come.
                wait_for_fillers(0);
            }
            drop(batches);
            wait_for_fillers(0);
            drop(held);
        }
        // Also when it is dropped while a device is slow, and on another thread.
        let batches = loader.epoch(Order::shuffled(1)).unwrap();
        std::thread::spawn(move || drop(batches)).join().unwrap();
        wait_for_fillers(0);
    }
}

#[test]
fn memory_does_not_grow_from_epoch_to_epoch() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(1), DType::F32, 64, 300);
    let path = write(dir.path(), "f", &model, Made::new(Kind::Dolmen));
    flip(&path, place(&path, "data").start + 9000);
    let table = Table::open([&path], &Layout::new()).unwrap().cast(DType::F16).unwrap();
    for (threads, verification, on_damage) in [
        (2, Verification::EveryEpoch, OnDamage::SkipRows),
        (2, Verification::Once, OnDamage::Fail),
        (0, Verification::EveryEpoch, OnDamage::Fail),
    ] {
        let options = LoaderOptions::new().batch_len(16).threads(threads).prefetch(3);
        let loader = Loader::new(&table, Host, options.verification(verification).on_damage(on_damage)).unwrap();
        let run = |epochs: std::ops::Range<u64>| {
            for epoch in epochs {
                let batches = loader.epoch(Order::shuffled(2).epoch(epoch)).unwrap();
                // Some end early, with a batch in hand.
                let count = if epoch % 3 == 0 { 5 } else { usize::MAX };
                let _last = batches.take(count).last();
            }
        };
        run(0..20);
        let before = NOW.load(Ordering::Relaxed);
        run(20..220);
        let after = NOW.load(Ordering::Relaxed);
        assert!(after < before + (32 << 10), "{before} bytes became {after} in 200 epochs");
    }
}

#[test]
fn memory_is_bounded_by_batches_whatever_the_length_of_the_files() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(1), DType::F32, 256, 8000);
    let file_len = model.bytes().len();
    let paths = [Kind::Dolmen, Kind::Torch].map(|kind| write(dir.path(), "f", &model, Made::new(kind)));
    drop(model);
    for path in paths {
        for access in [Access::Read, Access::Direct] {
            let table = Table::open_with([&path], &Layout::new().no_ids().no_labels(), access).unwrap();
            let options = LoaderOptions::new().batch_len(64).threads(2).prefetch(3);
            let loader = Loader::new(&table, Host, options).unwrap();
            let batch = loader.batch_byte_len();
            assert_eq!((batch, loader.pinned_byte_len()), (64 << 10, 0));
            for order in [Order::sequential(), Order::shuffled(1)] {
                let before = NOW.load(Ordering::Relaxed);
                PEAK.store(before, Ordering::Relaxed);
                for batch in loader.epoch(order).unwrap() {
                    assert!(!batch.unwrap().is_empty());
                }
                let taken = PEAK.load(Ordering::Relaxed) - before;
                // Those ahead and the one in use, a page more each; what two threads read into, and lists of rows.
                let direct = if access == Access::Direct { 2 << 20 } else { 0 };
                let allowed = 4 * (batch + (8 << 10)) + 2 * (300 << 10) + 2 * direct;
                assert!(taken <= allowed, "{} KiB of {} for {access:?} {order:?}", taken >> 10, file_len >> 10);
            }
        }
    }
}

#[test]
fn tables_share_what_they_are_made_of() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(1), DType::F32, 64, 5000);
    let path = write(dir.path(), "f", &model, Made::new(Kind::Dolmen));
    let table = Arc::new(Table::open([&path], &Layout::new()).unwrap());
    let before = NOW.load(Ordering::Relaxed);
    let views: Vec<Table> = (0..100).map(|n| table.columns(n % 64..64).unwrap()).collect();
    let taken = NOW.load(Ordering::Relaxed) - before;
    assert!(taken < 100 << 10, "{taken} bytes for {} views", views.len());
}

/// How many of a file's MiB are in the page cache: their first bytes can be had without waiting.
#[cfg(target_os = "linux")]
fn cached_share(path: &std::path::Path) -> f64 {
    use rustix::io::{ReadWriteFlags, preadv2};

    let file = std::fs::File::open(path).unwrap();
    // Nothing around what is asked for is to be read.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let len = file.metadata().unwrap().len();
    let is_cached = |offset: &u64| {
        let mut byte = [0];
        let buffers = &mut [std::io::IoSliceMut::new(&mut byte)];
        preadv2(&file, buffers, *offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == 1)
    };
    let all: Vec<u64> = (0..len).step_by(1 << 20).collect();
    all.iter().filter(|offset| is_cached(offset)).count() as f64 / all.len() as f64
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_read_in_order_is_given_up_where_the_page_cache_is_to_be_spared() {
    use dolmen::feature::PageCache;

    let _alone = alone();
    // Directories for short-lived files are often in memory, which nothing can be given up from.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("features.dolmen");
    let rows = vec![0.5f32; 4 << 20];
    let mut builder = dolmen::Builder::new();
    builder.tensor("data", (&rows, [1024, 4096])).unwrap();
    builder.save(&path).unwrap();
    let share_after = |page_cache| {
        let table = Table::open_with([&path], &Layout::new(), Access::Read).unwrap();
        let options = LoaderOptions::new().batch_len(100).page_cache(page_cache);
        let loader = Loader::new(&table, Host, options).unwrap();
        assert!(loader.epoch(Order::sequential()).unwrap().all(|batch| batch.is_ok()));
        cached_share(&path)
    };
    let kept = share_after(PageCache::Keep);
    if kept < 0.9 {
        eprintln!("SKIPPED: this file system does not say what it has in memory ({kept})");
        return;
    }
    let spared = share_after(PageCache::Spare);
    assert!(spared < 0.3, "{spared} of the file is still in memory");
}
