//! The machine goes down, in every state that it can leave: after each call of each workload, and whatever part of what was not flushed had reached the
//! disk, readers find what was there before or what was being saved, and nothing that was acknowledged is lost.
//!
//! `cargo test --test crash_states -- --nocapture` tells how many states were read. `DOLMEN_CRASH_STATES=5000000` reads about so many;
//! `DOLMEN_CRASH_SEED=7` draws others.
#![cfg(all(unix, feature = "fs"))]

mod common;
#[path = "common/crash/mod.rs"]
mod crash;

use common::in_parallel;
use crash::broken::Broken;
use crash::{Disk, Report, Tree, Workload, explore, left_under, saves};
use dolmen::commit::file_system::FileSystem;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// States that a run goes through, at least; and what is wanted unless told otherwise, for some workloads have no more than a few.
const STATES: usize = 100_000;
const WANTED: usize = 300_000;

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn seed() -> u64 {
    setting("DOLMEN_CRASH_SEED").unwrap_or(0) as u64
}

fn workloads() -> Vec<Box<dyn Workload>> {
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    all.extend(saves::workloads().into_iter().map(|workload| Box::new(workload) as _));
    #[cfg(feature = "lifecycle")]
    {
        use crash::lifecycle::{Failures, Stages, Upgrade};
        all.push(Box::new(Failures::new(usize::MAX)));
        all.push(Box::new(Failures::new(7)));
        all.push(Box::new(Failures::short()));
        all.push(Box::new(Stages::new(false)));
        all.push(Box::new(Stages::new(true)));
        all.push(Box::new(Upgrade::new()));
    }
    #[cfg(feature = "feature")]
    {
        all.push(Box::new(crash::table::Table { longest_write: usize::MAX }));
        all.push(Box::new(crash::table::Table { longest_write: 1000 }));
    }
    all
}

fn as_it_is(disk: Disk) -> Arc<dyn FileSystem> {
    Arc::new(disk)
}

#[test]
fn after_any_crash_there_is_what_was_acknowledged_or_what_came_next() {
    let workloads = workloads();
    let wanted = setting("DOLMEN_CRASH_STATES").unwrap_or(WANTED);
    let reports = Mutex::new(Vec::new());
    in_parallel(&workloads, |workload| {
        let begun = std::time::Instant::now();
        match explore(&**workload, &as_it_is, wanted.div_ceil(workloads.len()), seed()) {
            Ok(report) => reports.lock().unwrap().push((workload.name(), report, begun.elapsed())),
            Err(story) => panic!("{story}"),
        }
    });
    let mut all = Report::default();
    for (name, report, took) in reports.into_inner().unwrap() {
        println!("{name}: {report:?}, {took:.1?}");
        all += report;
    }
    println!("in all: {all:?}, seed {}", seed());
    assert!(all.states >= wanted.min(STATES), "only {} states", all.states);
    assert!(all.read > 2000 && all.gone_on >= workloads.len() * 5 && all.killed >= workloads.len() * 8, "{all:?}");
}

/// Reads the workload's states with this broken saver until one is found that should not be; gives its story.
fn caught(workload: &dyn Workload, broken: Broken) -> Option<String> {
    explore(workload, &|disk| broken.on(disk), 3000, seed()).err()
}

/// Workloads that this broken saver does not harm: what is only appended to is never written anew, and those that never replace a file do not
/// remove one either.
fn is_harmless(broken: Broken, workload: &str) -> bool {
    let only_appends = workload.starts_with("a short log of failures");
    match broken {
        Broken::InPlace => only_appends,
        Broken::RemoveBeforeRename => {
            only_appends || workload.contains("saves of new files") || workload.starts_with("a table")
        }
        _ => false,
    }
}

#[test]
fn every_broken_saver_is_caught_in_every_workload_that_it_harms() {
    let cases: Vec<(Broken, Box<dyn Workload>)> = Broken::ALL
        .into_iter()
        .flat_map(|broken| workloads().into_iter().map(move |workload| (broken, workload)))
        // A table finds the file that it is about to put in place, and refuses to.
        .filter(|(broken, workload)| *broken != Broken::InPlace || !workload.name().starts_with("a table"))
        .collect();
    let stories = Mutex::new(Vec::new());
    in_parallel(&cases, |(broken, workload)| {
        let story = caught(&**workload, *broken);
        stories.lock().unwrap().push((*broken, workload.name(), story));
    });
    let mut stories = stories.into_inner().unwrap();
    // The shortest story first.
    stories.sort_by_key(|(_, _, story)| story.as_ref().map_or(0, String::len));
    for broken in Broken::ALL {
        let of_this: Vec<_> = stories.iter().filter(|(of, _, story)| *of == broken && story.is_some()).collect();
        println!("{broken:?} is caught in {} workloads, such as in\n{}", of_this.len(), of_this[0].2.as_ref().unwrap());
    }
    let wrong: Vec<String> = stories
        .iter()
        .filter(|(broken, name, story)| story.is_some() == is_harmless(*broken, name))
        .map(|(broken, name, story)| format!("{broken:?} in {name}: {story:?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// --- What is taken for possible --------------------------------------------------------------------------------------------------

const PATH: &str = "d/f";

/// What the calls do to a directory with a file of two sectors, `aa`; and then what a crash may leave of the file: for each state
/// the letters of its sectors, `0` for zeros.
fn left_of(calls: impl FnOnce(&dyn dolmen::commit::file_system::Directory)) -> BTreeSet<String> {
    let disk = Disk::new(Tree::new().with(PATH, &[b'a'; 1024]));
    calls(&*disk.open_directory("d".as_ref()).unwrap());
    let shown = |content: Option<Vec<u8>>| {
        let Some(bytes) = content else { return "none".to_owned() };
        assert!(
            bytes.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])),
            "sectors are whole or not there"
        );
        bytes.chunks(512).map(|sector| if sector[0] == 0 { '0' } else { sector[0] as char }).collect()
    };
    left_under(&disk, PATH).into_iter().map(shown).collect()
}

fn set(states: &[&str]) -> BTreeSet<String> {
    states.iter().map(|state| state.to_string()).collect()
}

#[test]
fn what_is_not_flushed_reaches_the_disk_in_any_part_and_order() {
    let open = |d: &dyn dolmen::commit::file_system::Directory| d.open_existing("f".as_ref()).unwrap();
    // Sectors each for itself; a later write without an earlier one.
    let two_writes = left_of(|d| {
        open(d).write_at(&[b'b'; 512], 0).unwrap();
        open(d).write_at(&[b'c'; 512], 512).unwrap();
    });
    assert_eq!(two_writes, set(&["aa", "ba", "ac", "bc"]));
    // What lay between is as possible as the last.
    let twice = left_of(|d| "bc".bytes().for_each(|byte| assert_eq!(open(d).write_at(&[byte; 512], 0).unwrap(), 512)));
    assert_eq!(twice, set(&["aa", "ba", "ca"]));
    // A length without its data, data without its length.
    let longer = left_of(|d| assert_eq!(open(d).write_at(&[b'b'; 1024], 1024).unwrap(), 1024));
    assert_eq!(longer, set(&["aa", "aa0", "aab", "aa00", "aab0", "aa0b", "aabb"]));
    // What was cut off may be zeros when the file is longer again, or what it was.
    let cut = left_of(|d| {
        open(d).set_len(512).unwrap();
        open(d).set_len(1024).unwrap();
    });
    assert_eq!(cut, set(&["a", "aa", "a0"]));
}

#[test]
fn a_flush_makes_sure_of_what_it_flushes_and_of_nothing_else() {
    let new = |d: &dyn dolmen::commit::file_system::Directory| {
        let file = d.create_new("g".as_ref(), 0o600).unwrap();
        file.write_at(&[b'b'; 512], 0).unwrap();
        file
    };
    let rename = |d: &dyn dolmen::commit::file_system::Directory| d.rename("g".as_ref(), "f".as_ref()).unwrap();
    let nothing = left_of(|d| {
        new(d);
        rename(d);
    });
    assert_eq!(nothing, set(&["aa", "", "0", "b"]));
    let file_alone = left_of(|d| {
        new(d).sync().unwrap();
        rename(d);
    });
    assert_eq!(file_alone, set(&["aa", "b"]));
    let directory_alone = left_of(|d| {
        new(d);
        rename(d);
        d.sync().unwrap();
    });
    assert_eq!(directory_alone, set(&["", "0", "b"]));
    let both = left_of(|d| {
        new(d).sync().unwrap();
        rename(d);
        d.sync().unwrap();
    });
    assert_eq!(both, set(&["b"]));
    // A name that was removed and given again may be missing.
    let removed = left_of(|d| {
        new(d).sync().unwrap();
        d.remove("f".as_ref()).unwrap();
        rename(d);
    });
    assert_eq!(removed, set(&["aa", "b", "none"]));
}

#[test]
fn what_a_failed_flush_has_not_written_no_later_flush_writes() {
    let disk = Disk::new(Tree::new().with(PATH, &[b'a'; 512])).behave(|b| b.failing_sync = Some(0));
    let directory = disk.open_directory("d".as_ref()).unwrap();
    let file = directory.open_existing("f".as_ref()).unwrap();
    file.write_at(&[b'b'; 512], 0).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(left_under(&disk, PATH).len(), 2, "the old bytes are there, although the second flush succeeded");
    file.write_at(&[b'b'; 512], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(left_under(&disk, PATH).len(), 1, "written again, they are flushed");
}

#[test]
fn the_same_seed_gives_the_same_states() {
    let workload = &saves::workloads()[2];
    let [a, b, other] = [3, 3, 4].map(|seed| explore(workload, &as_it_is, 3000, seed).unwrap());
    assert_eq!((a.states, a.read), (b.states, b.read));
    assert!(a.states >= 3000 && other.states >= 3000);
}
