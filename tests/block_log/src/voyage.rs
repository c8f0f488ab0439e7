//! The voyage: saves of every kind, one after the other, the same ones for the same seed.
//!
//! The saver takes its steps on the file system that is recorded; the checker takes them on another one first, to know what each
//! is to leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen::commit::create_directories;
use dolmen::commit::file_system::FileSystem;
use dolmen::feature::{TableWriter, TableWriterOptions};
use dolmen::lifecycle::{FailedCheckpoint, FailedLog, Pipeline, ResumeOptions, Run, Stage};
use dolmen::{Builder, DType, ErrorKind, FileOptions, SaveOptions, TensorData, Writer};

use crate::random::Random;

/// How many parts a table and a job have, each of which is a step.
const PARTS: u64 = 3;
const ROWS_PER_FILE: u64 = 40;
const STAGES: [&str; PARTS as usize] = ["CUT", "COMPUTE", "MERGE"];

/// One step: what is done, and acknowledged when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Saves over one of a few files, with a shorter or a longer content.
    Replace { slot: u64 },
    /// Saves a file of a new name.
    New,
    /// Saves a file that must not exist.
    CreateNew,
    /// Tries to, where one exists.
    Refused,
    /// Streams tensors into one of a few files.
    Stream { slot: u64 },
    /// Begins to stream into one, and gives up.
    Discarded { slot: u64 },
    /// Writes one more file of a table.
    Table { of: u64, part: u64 },
    /// Appends to the log of failures.
    Remember,
    /// Removes what it says of one path.
    Forget,
    /// Makes two directories, one in the other, and saves there.
    Directories,
    /// Completes one more stage of a pipeline.
    Job { of: u64, part: u64 },
}

impl Step {
    /// The steps of a voyage.
    fn all(seed: u64, count: u64) -> Vec<Step> {
        let mut random = Random::new(seed, 0);
        let mut steps = Vec::new();
        while (steps.len() as u64) < count {
            let of = steps.len() as u64 + 1;
            match random.below(100) {
                0..24 => steps.push(Step::Replace { slot: random.below(3) }),
                24..36 => steps.push(Step::New),
                36..44 => steps.push(Step::CreateNew),
                44..46 => steps.push(Step::Refused),
                46..62 => steps.push(Step::Stream { slot: random.below(2) }),
                62..65 => steps.push(Step::Discarded { slot: random.below(2) }),
                65..70 => steps.extend((0..PARTS).map(|part| Step::Table { of, part })),
                70..85 => steps.push(Step::Remember),
                85..88 => steps.push(Step::Forget),
                88..95 => steps.push(Step::Directories),
                _ => steps.extend((0..PARTS).map(|part| Step::Job { of, part })),
            }
        }
        steps.truncate(usize::try_from(count).expect("a number of steps in memory"));
        steps
    }
}

/// What a step has changed, relative to the directory.
#[derive(Debug, Default)]
pub struct Changes {
    pub files: Vec<PathBuf>,
    /// The directory of a pipeline, and the stages of it that are complete.
    pub job: Option<(PathBuf, &'static [&'static str])>,
}

pub struct Voyage {
    root: PathBuf,
    seed: u64,
    steps: Vec<Step>,
    file_system: Arc<dyn FileSystem>,
    table: Option<TableWriter>,
    run: Option<Run>,
    /// A file that exists.
    created: Option<PathBuf>,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Voyage {
    pub fn new(root: &Path, seed: u64, count: u64, file_system: Arc<dyn FileSystem>) -> Voyage {
        let steps = Step::all(seed, count);
        Voyage { root: root.to_owned(), seed, steps, file_system, table: None, run: None, created: None }
    }

    pub fn len(&self) -> u64 {
        self.steps.len() as u64
    }

    /// What a step does, counted from 1.
    pub fn describe(&self, number: u64) -> String {
        format!("{:?}", self.step(number))
    }

    fn step(&self, number: u64) -> Step {
        self.steps[usize::try_from(number - 1).expect("a number of a step")]
    }

    /// Takes a step; they are taken in order, each once.
    pub fn take(&mut self, number: u64) -> Outcome<Changes> {
        let random = &mut Random::new(self.seed, number);
        let mut changes = Changes::default();
        match self.step(number) {
            Step::Replace { slot } => {
                changes.files.push(self.save(&format!("model-{slot}.dolmen"), random, number, &self.options())?);
            }
            Step::New => {
                changes.files.push(self.save(&format!("new-{number}.dolmen"), random, number, &self.options())?);
            }
            Step::CreateNew => {
                let options = self.options().create_new(true);
                let path = self.save(&format!("first-{number}.dolmen"), random, number, &options)?;
                self.created = Some(path.clone());
                changes.files.push(path);
            }
            Step::Refused => self.be_refused(random, number)?,
            Step::Stream { slot } => {
                let path = PathBuf::from(format!("stream-{slot}.dolmen"));
                self.stream(&path, random)?.commit()?;
                changes.files.push(path);
            }
            Step::Discarded { slot } => self.stream(Path::new(&format!("stream-{slot}.dolmen")), random)?.discard(),
            Step::Table { of, part } => changes.files.push(self.write_table(of, part, random)?),
            Step::Remember => {
                let entries = 1 + random.below(3);
                self.log().record(&(0..entries).map(|entry| failure(random, number, entry)).collect::<Vec<_>>())?;
            }
            Step::Forget => {
                self.log().clear([format!("part-{}.dolmen", random.below(4))])?;
            }
            Step::Directories => {
                let directory = PathBuf::from(format!("directory-{number}/inner"));
                create_directories(&*self.file_system, self.root.join(&directory))?;
                let path = directory.join("model.dolmen");
                self.save(path.to_str().expect("an ASCII path"), random, number, &self.options())?;
                changes.files.push(path);
            }
            Step::Job { of, part } => changes = self.work(of, part, random, number)?,
        }
        Ok(changes)
    }

    pub fn log(&self) -> FailedLog {
        FailedLog::in_directory(&self.root).file_system(Arc::clone(&self.file_system))
    }

    fn options(&self) -> SaveOptions {
        SaveOptions::new().file_system(Arc::clone(&self.file_system))
    }

    fn save(&self, name: &str, random: &mut Random, number: u64, options: &SaveOptions) -> Outcome<PathBuf> {
        let contents: Vec<Vec<u8>> = (0..1 + random.below(4)).map(|_| content(random)).collect();
        let mut builder = Builder::new();
        builder.metadata("step", number);
        for (index, bytes) in contents.iter().enumerate() {
            let tensor = TensorData::raw(DType::U8, [bytes.len() as u64], bytes.as_slice())?;
            builder.tensor(&format!("layer.{index}"), tensor)?;
        }
        builder.save_with(self.root.join(name), options)?;
        Ok(PathBuf::from(name))
    }

    fn be_refused(&mut self, random: &mut Random, number: u64) -> Outcome<()> {
        let Some(existing) = self.created.clone() else { return Ok(()) };
        let name = existing.to_str().expect("an ASCII path");
        match self.save(name, random, number, &self.options().create_new(true)) {
            Err(e) if e.downcast_ref::<dolmen::Error>().is_some_and(|e| e.kind() == ErrorKind::InvalidInput) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err("a file that exists was replaced, which was not allowed".into()),
        }
    }

    fn stream(&self, path: &Path, random: &mut Random) -> Outcome<Writer> {
        let mut writer = Writer::create_with(self.root.join(path), FileOptions::new(), &self.options())?;
        for index in 0..1 + random.below(3) {
            let row_len = 1 + random.below(2000);
            let mut rows = writer.begin_rows(&format!("rows.{index}"), DType::U8, [row_len])?;
            // Beyond a MiB once in a while, which is what is buffered at most.
            let row_count = if random.below(60) == 0 { (1 << 20) / row_len } else { random.below(60) };
            for _ in 0..row_count {
                rows.write_bytes(&random.bytes(row_len))?;
            }
            rows.finish()?;
        }
        Ok(writer)
    }

    /// Gives a table the last row of one more file, which the writer acknowledges by returning.
    fn write_table(&mut self, of: u64, part: u64, random: &mut Random) -> Outcome<PathBuf> {
        let prefix = format!("table-{of}");
        if part == 0 {
            let options = TableWriterOptions::new(DType::F32, [25])?.rows_per_file(ROWS_PER_FILE).labels(true);
            self.table = Some(TableWriter::create(self.root.join(&prefix), &options.save(self.options()))?);
        }
        let mut table = self.table.take().ok_or("a table goes on that was not begun")?;
        // The last one is not full: finishing completes it.
        let rows = if part + 1 == PARTS { ROWS_PER_FILE / 2 } else { ROWS_PER_FILE };
        for row in 0..rows {
            let values: Vec<f32> = (0..25).map(|_| random.below(1 << 20) as f32).collect();
            table.append_labelled(&[format!("id-{part}-{row}")], &values, &[random.below(9) as i64])?;
        }
        if part + 1 == PARTS {
            table.finish()?;
        } else {
            self.table = Some(table);
        }
        Ok(PathBuf::from(format!("{prefix}-{part:05}.dolmen")))
    }

    /// Completes a stage of a pipeline.
    fn work(&mut self, of: u64, part: u64, random: &mut Random, number: u64) -> Outcome<Changes> {
        let name = format!("job-{of}");
        if part == 0 {
            let mut pipeline = Pipeline::new(self.root.join(&name)).config("of", of.to_string());
            for (index, stage) in STAGES.into_iter().enumerate() {
                let mut stage = Stage::new(stage).checkpoint(format!("{index}.dolmen"));
                if let Some(before) = index.checked_sub(1) {
                    stage = stage.input(format!("{before}.dolmen"));
                }
                pipeline = pipeline.stage(stage);
            }
            create_directories(&*self.file_system, self.root.join(&name))?;
            self.run = Some(pipeline.resume(&ResumeOptions::new().save_options(self.options()))?);
        }
        let mut run = self.run.take().ok_or("a job goes on that was not begun")?;
        let stage = run.begin_next()?.ok_or("a job is complete too early")?;
        let file = self.save(&format!("{name}/{part}.dolmen"), random, number, &self.options())?;
        run.complete(stage)?;
        self.run = (part + 1 < PARTS).then_some(run);
        let complete = STAGES.get(..=usize::try_from(part)?).ok_or("no such stage")?;
        Ok(Changes { files: vec![file], job: Some((PathBuf::from(name), complete)) })
    }
}

/// Bytes of a tensor: most are short, some are long.
fn content(random: &mut Random) -> Vec<u8> {
    let len = match random.below(100) {
        0..50 => random.below(2000),
        50..92 => random.below(20_000),
        92..99 => random.below(120_000),
        _ => (1 << 20) + random.below(200_000),
    };
    random.bytes(len)
}

fn failure(random: &mut Random, number: u64, entry: u64) -> FailedCheckpoint {
    let reason = format!("corrupted: in step {number}, {}", "x".repeat(random.below(300) as usize));
    FailedCheckpoint {
        time: format!("2026-01-23T12:00:{entry:02}.000000Z"),
        ..FailedCheckpoint::new(format!("part-{}.dolmen", random.below(4)), reason)
    }
}
