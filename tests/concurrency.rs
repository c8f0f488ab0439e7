//! Many processes at one file: writers, readers, mappers, sweepers and creators, none of whom sees anything but whole contents.
//!
//! `DOLMEN_CONCURRENCY_SECONDS=60 cargo test --test concurrency -- --nocapture` goes on for a minute in each test, instead of about a second, and says how
//! much was done.
#![cfg(all(unix, feature = "fs", feature = "mmap"))]

mod common;

use common::one_thread;
use dolmen::commit::{AtomicFile, sweep};
use dolmen::{
    Builder, Checkpoint, DType, Durability, ErrorKind, FileOptions, SaveOptions, TensorData, TensorView, View, Writer,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const NAME: &str = "m.dolmen";

// --- Contents ------------------------------------------------------------------------------------------------------------------

/// How many elements a content has: from none to many blocks.
fn element_count(content: u32) -> u32 {
    content.wrapping_mul(0x9E37_79B1) % 40_000
}

fn elements(content: u32) -> Vec<u32> {
    (0..element_count(content)).map(|n| content ^ n.wrapping_mul(0x0101)).collect()
}

fn small() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap()
}

fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

fn build(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    let elements = elements(content);
    let mut b = Builder::with_options(small());
    b.tensor("content", std::slice::from_ref(&content))?;
    b.tensor("elements", &elements)?;
    b.alias("tied", "elements")?;
    b.save_with(path, options)
}

/// The same, streamed.
fn stream(path: &Path, content: u32, options: &SaveOptions) -> dolmen::Result<()> {
    stream_then(path, content, options, || ())
}

/// The same, with something to do before it is put in place.
fn stream_then(path: &Path, content: u32, options: &SaveOptions, before: impl FnOnce()) -> dolmen::Result<()> {
    let mut w = Writer::create_with(path, small(), options)?;
    w.tensor("content", &[content])?;
    let mut out = w.begin_rows("elements", DType::U32, ())?;
    for piece in elements(content).chunks(3000) {
        out.write_elements(piece)?;
    }
    out.finish()?;
    w.alias("tied", "elements")?;
    before();
    w.commit()
}

/// What a view of the elements must be.
fn assert_is(tensor: &TensorView<'_>, content: u32) {
    assert!(tensor.as_slice::<u32>().unwrap() == elements(content), "other elements than those of content {content}");
}

/// Verifies strictly, and gives which content it is.
fn content_of(checkpoint: &Checkpoint) -> u32 {
    checkpoint.verify_with(&one_thread()).unwrap().into_result().unwrap();
    let content = checkpoint.tensor("content").unwrap().as_slice::<u32>().unwrap()[0];
    assert_is(&checkpoint.tensor("elements").unwrap(), content);
    assert_is(&checkpoint.tensor("tied").unwrap(), content);
    content
}

fn map(path: &Path) -> Checkpoint {
    // SAFETY: in these tests files are replaced by renaming others over them, and in no other way.
    unsafe { Checkpoint::map(path) }.unwrap()
}

// --- Processes -----------------------------------------------------------------------------------------------------------------

/// How long a test goes on, at least.
fn duration() -> Duration {
    let seconds = std::env::var("DOLMEN_CONCURRENCY_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs_f64(seconds.unwrap_or(0.8))
}

/// Starts this test program once more, to do only what [`errand`](child_process_runs_its_errand) says, until some time from now.
fn send(errand: &str, directory: &Path, who: u32) -> Child {
    let until = SystemTime::now() + duration();
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_runs_its_errand", "--nocapture"])
        .env("DOLMEN_TEST_ERRAND", errand)
        .env("DOLMEN_TEST_PATH", directory)
        .env("DOLMEN_TEST_WHO", who.to_string())
        .env("DOLMEN_TEST_UNTIL", until.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until it ends, well; gives what it told, by name.
fn told(child: Child) -> BTreeMap<String, u64> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let told = text.lines().filter_map(|line| line.strip_prefix("told ")?.split_once('='));
    told.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn all_told(children: Vec<Child>) -> Vec<BTreeMap<String, u64>> {
    children.into_iter().map(told).collect()
}

fn sum(told: &[BTreeMap<String, u64>], name: &str) -> u64 {
    told.iter().filter_map(|told| told.get(name)).sum()
}

/// A process on its errand.
struct Errand {
    directory: PathBuf,
    who: u32,
    until: SystemTime,
}

impl Errand {
    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Goes round until it is time, and so often at least, for a machine may be slow.
    fn rounds(&self, least: u32) -> impl Iterator<Item = u32> {
        let until = self.until;
        (0..).take_while(move |round| *round < least || SystemTime::now() < until)
    }

    fn tell(name: &str, value: impl std::fmt::Display) {
        println!("\ntold {name}={value}");
    }

    /// A content that nobody else writes.
    fn content(&self, round: u32) -> u32 {
        (self.who << 24) + round
    }

    fn write(&self) {
        let mut written = 0;
        for round in self.rounds(25) {
            let durability = if round % 16 == 0 { Durability::Full } else { Durability::None };
            let options = SaveOptions::new().durability(durability).validate(round % 4 == 1);
            let save = if round % 2 == 0 { build } else { stream };
            save(&self.path(), self.content(round), &options).unwrap();
            written += 1;
        }
        Errand::tell("written", written);
    }

    fn read(&self) {
        let mut seen = BTreeSet::new();
        let mut reads = 0;
        for round in self.rounds(25) {
            let opened = match round % 3 {
                0 => Checkpoint::open(self.path()).unwrap(),
                1 => map(&self.path()),
                _ => Checkpoint::open_on_demand(self.path()).unwrap(),
            };
            seen.insert(content_of(&opened));
            reads += 1;
        }
        Errand::tell("reads", reads);
        Errand::tell("seen", seen.len());
    }

    /// Saves over the file that it has mapped, a copy of what is in it.
    fn copy_over_its_own_map(&self) {
        let mut held: VecDeque<(Checkpoint, u32)> = VecDeque::new();
        let mut copies = 0;
        for round in self.rounds(15) {
            let mapped = map(&self.path());
            let content = mapped.tensor("content").unwrap().as_slice::<u32>().unwrap()[0];
            let view = mapped.tensor("elements").unwrap();
            let mut b = Builder::with_options(small());
            b.checkpoint(&mapped).unwrap();
            b.metadata("copied by", u64::from(self.who)).metadata("round", u64::from(round));
            b.save_with(self.path(), &quickly().validate(round % 2 == 0)).unwrap();
            assert_is(&view, content);
            held.push_back((mapped, content));
            // Maps of files that have long been replaced.
            if held.len() > 12 {
                let (old, content) = held.pop_front().unwrap();
                assert_eq!(content_of(&old), content);
            }
            copies += 1;
        }
        for (old, content) in held {
            assert_eq!(content_of(&old), content);
        }
        Errand::tell("copies", copies);
    }

    /// Waits until all creators have come as far as this one.
    fn meet(&self, n: u32) {
        let mark = |who: u32| self.directory.join("met").join(format!("{n}.{who}"));
        fs::write(mark(self.who), "").unwrap();
        let begun = Instant::now();
        while !(1..=CREATORS).all(|who| mark(who).exists()) {
            assert!(begun.elapsed() < Duration::from_secs(120), "the others do not come");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Tries to create each of many files, as others do at the same moment.
    fn create(&self) {
        let options = quickly().create_new(true);
        let (mut won, mut lost) = (0, 0);
        for n in 0..CREATED {
            let path = self.directory.join(format!("{n}.dolmen"));
            let saved = if n % 2 == 0 {
                // All look for the file at once.
                self.meet(n);
                build(&path, self.content(n), &options)
            } else {
                // None has found it, and all put theirs in place at once.
                stream_then(&path, self.content(n), &options, || self.meet(n))
            };
            match saved {
                Ok(()) => {
                    won += 1;
                    println!("\ntold {n}={}", self.content(n));
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
                    // Who was faster has put in place a whole file.
                    assert_ne!(content_of(&Checkpoint::open(&path).unwrap()), self.content(n));
                    lost += 1;
                }
            }
        }
        Errand::tell("won", won);
        Errand::tell("lost", lost);
    }

    fn sweep(&self) {
        let (mut removed, mut live) = (0, 0);
        for _ in self.rounds(25) {
            let swept = sweep(&self.directory).unwrap();
            assert!(swept.failed.is_empty(), "{swept:?}");
            removed += swept.removed.len();
            live += swept.live.len();
        }
        Errand::tell("removed", removed);
        Errand::tell("live", live);
    }

    /// Writes a file of its own, slowly, so that sweepers meet its temporary file often.
    fn write_slowly(&self) {
        let path = self.directory.join(format!("{}.dolmen", self.who));
        let mut written = 0;
        for round in self.rounds(10) {
            let mut file = AtomicFile::create(&path, &quickly()).unwrap();
            for n in 0..20_u8 {
                file.append(&[n; 100]).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
            match round % 5 {
                0 => file.discard(),
                _ => file.commit().unwrap(),
            }
            written += 1;
        }
        Errand::tell("written", written);
    }

    /// Begins a save and is killed before it ends.
    fn begin(&self) {
        let mut file = AtomicFile::create(self.directory.join(NAME), &quickly()).unwrap();
        file.append(b"never finished").unwrap();
        println!("\ntold begun=1");
        std::thread::sleep(Duration::from_secs(600));
    }

    #[cfg(feature = "lifecycle")]
    fn append_failures(&self) {
        let log = dolmen::lifecycle::FailedLog::in_directory(&self.directory);
        let mut appended = 0;
        for round in self.rounds(20) {
            log.append_many(&failures(self.who, round)).unwrap();
            appended += 1;
        }
        Errand::tell("appended", appended);
    }

    #[cfg(feature = "lifecycle")]
    fn read_failures(&self) {
        let log = dolmen::lifecycle::FailedLog::in_directory(&self.directory);
        let (mut before, mut reads) = (BTreeMap::new(), 0);
        for _ in self.rounds(20) {
            let found = log.read().unwrap();
            assert!(found.malformed <= 1, "more than one line that is being appended: {found:?}");
            let now = rounds_told(&found.entries);
            // Nothing that was there is gone.
            assert!(before.iter().all(|(who, rounds)| now.get(who) >= Some(rounds)), "{before:?}, and then {now:?}");
            (before, reads) = (now, reads + 1);
        }
        Errand::tell("reads", reads);
    }
}

#[test]
fn child_process_runs_its_errand() {
    let Ok(errand) = std::env::var("DOLMEN_TEST_ERRAND") else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let child = Errand {
        directory: std::env::var_os("DOLMEN_TEST_PATH").unwrap().into(),
        who: number("DOLMEN_TEST_WHO") as u32,
        until: SystemTime::UNIX_EPOCH + Duration::from_millis(number("DOLMEN_TEST_UNTIL")),
    };
    match errand.as_str() {
        "write" => child.write(),
        "read" => child.read(),
        "copy over its own map" => child.copy_over_its_own_map(),
        "create" => child.create(),
        "sweep" => child.sweep(),
        "write slowly" => child.write_slowly(),
        "begin" => child.begin(),
        #[cfg(feature = "lifecycle")]
        "append failures" => child.append_failures(),
        #[cfg(feature = "lifecycle")]
        "read failures" => child.read_failures(),
        _ => panic!("unknown errand {errand}"),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// --- What they must not do to each other ---------------------------------------------------------------------------------------

#[test]
fn readers_in_many_processes_see_whole_contents_while_others_write_and_sweep() {
    let directory = tempfile::tempdir().unwrap();
    build(&directory.path().join(NAME), 7, &quickly()).unwrap();
    let who = [("write", 1), ("write", 2), ("write", 3), ("read", 4), ("read", 5), ("read", 6), ("sweep", 7)];
    let children = who.map(|(errand, who)| send(errand, directory.path(), who)).into_iter().collect();
    let told = all_told(children);
    println!("3 writers, 3 readers, 1 sweeper: {told:?}");
    assert!(sum(&told, "written") >= 75 && sum(&told, "reads") >= 75);
    assert!(told[3..6].iter().any(|told| told["seen"] > 1), "readers met no writer: {told:?}");
    assert_eq!(names(directory.path()), [NAME], "a temporary file is left");
    let last = content_of(&Checkpoint::open(directory.path().join(NAME)).unwrap());
    assert!((1..=3).contains(&(last >> 24)), "{last:#x}");
}

#[test]
fn maps_stay_as_they_were_while_their_file_is_replaced_hundreds_of_times() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    build(&path, 7, &quickly()).unwrap();
    let writers: Vec<Child> = (1..=2).map(|who| send("write", directory.path(), who)).collect();
    let begun = Instant::now();
    // Of each a map that was touched when it was taken, and maps and files that are touched only at the end.
    let mut touched: Vec<(Checkpoint, u32, Vec<u8>)> = Vec::new();
    let mut untouched: Vec<Checkpoint> = Vec::new();
    while begun.elapsed() < duration() {
        let mapped = map(&path);
        let content = content_of(&mapped);
        let elements = mapped.tensor("elements").unwrap().bytes().unwrap().to_vec();
        touched.push((mapped, content, elements));
        untouched.extend([map(&path), Checkpoint::open_on_demand(&path).unwrap()]);
        std::thread::sleep(duration() / 60);
        // Those in the middle go on being right, too.
        let (mapped, content, elements) = &touched[touched.len() / 2];
        assert_eq!(content_of(mapped), *content);
        assert!(mapped.tensor("elements").unwrap().bytes().unwrap() == elements);
    }
    let told = all_told(writers);
    // As often again, in this process, so that even the maps taken last are of files long gone.
    for round in 0..200 {
        build(&path, (9 << 24) + round, &quickly()).unwrap();
    }
    let maps = touched.len() + untouched.len();
    for (mapped, content, elements) in &touched {
        assert_eq!(content_of(mapped), *content);
        assert!(mapped.tensor("elements").unwrap().bytes().unwrap() == elements);
    }
    let seen: BTreeSet<u32> = untouched.iter().map(content_of).collect();
    assert!(seen.iter().all(|content| content >> 24 <= 2), "{seen:x?}");
    println!("{maps} maps held over {} replacements: {told:?}", sum(&told, "written") + 200);
    assert!(maps >= 3 && sum(&told, "written") >= 50);
    assert_eq!(content_of(&Checkpoint::open(&path).unwrap()), (9 << 24) + 199);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn processes_save_over_their_own_maps_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    build(&path, 7, &quickly()).unwrap();
    let mut children: Vec<Child> = (1..=3).map(|who| send("copy over its own map", directory.path(), who)).collect();
    children.push(send("read", directory.path(), 4));
    let told = all_told(children);
    println!("3 that save over their own maps: {told:?}");
    assert!(sum(&told, "copies") >= 45);
    // However often it was copied, it is the content that it was.
    let last = Checkpoint::open(&path).unwrap();
    assert_eq!(content_of(&last), 7);
    assert!(last.metadata().unwrap().contains_key("copied by"));
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn views_of_a_map_survive_that_their_own_file_is_saved_over_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    build(&path, 11, &quickly()).unwrap();
    let all = elements(11);
    for round in 0..100u64 {
        let mapped = map(&path);
        let whole = mapped.tensor("elements").unwrap();
        let rows = whole.rows(100..1100).unwrap();
        let mut b = Builder::with_options(small());
        // The data goes straight from the map into the file that replaces it; a part of it as well, under its own name.
        b.tensor("content", mapped.tensor("content").unwrap().as_slice::<u32>().unwrap()).unwrap();
        b.tensor("elements", whole.as_slice::<u32>().unwrap()).unwrap();
        b.alias("tied", "elements").unwrap();
        let part = rows.as_slice::<u32>().unwrap();
        b.tensor("part", TensorData::raw(DType::U32, [1000], bytemuck_of(part)).unwrap()).unwrap();
        let storage = b.storage_of("elements").unwrap();
        b.view("every second", storage, View::new(DType::U32, [50]).unwrap().strides([2]).unwrap()).unwrap();
        b.metadata("round", round);
        b.save_with(&path, &quickly()).unwrap();
        assert!(whole.as_slice::<u32>().unwrap() == all && part == &all[100..1100], "round {round}");
        let new = map(&path);
        assert_eq!((content_of(&new), content_of(&mapped)), (11, 11), "round {round}");
        assert_eq!(new.tensor("part").unwrap().as_slice::<u32>().unwrap(), &all[100..1100]);
        assert_eq!(new.metadata().unwrap()["round"], dolmen::format::value::Value::from(round));
    }
    assert_eq!(names(directory.path()), [NAME]);
}

fn bytemuck_of(elements: &[u32]) -> Vec<u8> {
    elements.iter().flat_map(|element| element.to_le_bytes()).collect()
}

/// Files that processes race to create, and the processes.
const CREATED: u32 = 60;
const CREATORS: u32 = 5;

#[test]
fn of_many_processes_that_create_one_file_exactly_one_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("met")).unwrap();
    let told = all_told((1..=CREATORS).map(|who| send("create", directory.path(), who)).collect());
    println!("{CREATORS} creators of {CREATED} files: {:?}", told.iter().map(|told| told["won"]).collect::<Vec<_>>());
    assert_eq!(sum(&told, "won"), u64::from(CREATED));
    assert_eq!(sum(&told, "lost"), u64::from((CREATORS - 1) * CREATED));
    for n in 0..CREATED {
        let winners: Vec<u64> = told.iter().filter_map(|told| told.get(&n.to_string()).copied()).collect();
        let content = content_of(&Checkpoint::open(directory.path().join(format!("{n}.dolmen"))).unwrap());
        assert_eq!(winners, [u64::from(content)], "file {n}");
    }
    fs::remove_dir_all(directory.path().join("met")).unwrap();
    assert_eq!(names(directory.path()).len(), CREATED as usize, "a temporary file is left");
}

#[test]
fn sweepers_remove_the_files_of_killed_writers_and_of_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (1..=3).map(|who| send("write slowly", directory.path(), who)).collect();
    children.extend((4..=5).map(|who| send("sweep", directory.path(), who)));
    let begun = Instant::now();
    let mut killed = 0;
    while killed < 3 || begun.elapsed() < duration() {
        let mut child = send("begin", directory.path(), 6);
        // Its save has begun as soon as it says so.
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("begun") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0, "it ended before it had begun");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    let told = all_told(children);
    let removed = sum(&told, "removed") + sweep(directory.path()).unwrap().removed.len() as u64;
    println!("3 writers, 2 sweepers, {killed} killed: {told:?}");
    // One each, and those that a sweeper locked before the writer that had just created them, who then creates another.
    assert!(removed >= killed, "{removed} of {killed}");
    assert!(sum(&told, "written") >= 30);
    assert_eq!(names(directory.path()), ["1.dolmen", "2.dolmen", "3.dolmen"]);
    let expected: Vec<u8> = (0..20).flat_map(|n| [n; 100]).collect();
    assert!(names(directory.path()).iter().all(|name| fs::read(directory.path().join(name)).unwrap() == expected));
}

// --- The log of failures ---------------------------------------------------------------------------------------------------------

#[cfg(feature = "lifecycle")]
fn failures(who: u32, round: u32) -> Vec<dolmen::lifecycle::CheckpointError> {
    use dolmen::lifecycle::{CheckpointError, CheckpointErrorKind::Corrupted};
    let reason = "a|long ".repeat(round as usize % 200);
    (0..3).map(|n| CheckpointError::new(format!("{who}|{round}|{n}"), Corrupted, &reason)).collect()
}

/// How many rounds of each appender a log tells of; they must be there in order, each entry whole.
#[cfg(feature = "lifecycle")]
fn rounds_told(entries: &[dolmen::lifecycle::FailedCheckpoint]) -> BTreeMap<u32, u32> {
    let mut next: BTreeMap<u32, u32> = BTreeMap::new();
    for entry in entries {
        let path = entry.path.to_str().unwrap();
        let numbers: Vec<u32> = path.split('|').map(|part| part.parse().unwrap()).collect();
        let [who, round, n] = numbers[..] else { panic!("{path}") };
        let expected = next.entry(who).or_default();
        assert_eq!((round, n), (*expected / 3, *expected % 3), "of {who}");
        assert_eq!(entry.reason, failures(who, round)[n as usize].reason(), "{path}");
        *expected += 1;
    }
    next
}

#[cfg(feature = "lifecycle")]
#[test]
fn readers_of_the_log_of_failures_never_see_less_than_before_nor_half_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (1..=3).map(|who| send("append failures", directory.path(), who)).collect();
    children.extend((4..=5).map(|who| send("read failures", directory.path(), who)));
    let told = all_told(children);
    println!("3 appenders, 2 readers: {told:?}");
    let log = dolmen::lifecycle::FailedLog::in_directory(directory.path());
    let rounds = rounds_told(&log.entries().unwrap());
    let expected: Vec<u32> = told[..3].iter().map(|told| told["appended"] as u32 * 3).collect();
    assert_eq!(rounds.into_values().collect::<Vec<_>>(), expected);
    assert!(sum(&told, "appended") >= 60 && sum(&told, "reads") >= 40);
}
