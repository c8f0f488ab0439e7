//! The worked example, killed at random moments and started again until it is done.
//!
//! `DOLMEN_KILLS=1000 cargo test --test lifecycle_kills -- --nocapture` kills a thousand times and says where; `DOLMEN_SEED` gives other
//! moments.
#![cfg(all(unix, feature = "cli"))]

use clap::Parser;
use common::Random;
use dolmen::lifecycle::{Pipeline, PipelineState, ResumeOptions, STATE_FILE, Stage, StageStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

mod common;
#[allow(dead_code, reason = "its own main is not called here")]
#[path = "../examples/nine_stages/main.rs"]
mod nine_stages;

const STAGES: [&str; 9] = [
    "CHUNKING",
    "TRANSLATION",
    "NUCLEOTIDE_SPLITTING",
    "PROTEIN_SPLITTING",
    "NUCLEOTIDE_FEATURES",
    "PROTEIN_FEATURES",
    "FEATURE_MERGING",
    "PREDICTION",
    "CONSENSUS",
];
const RESULTS: [&str; 3] = ["merged.dolmen", "predictions.dolmen", "consensus.tsv"];
const SEQUENCES: &str = "24";

/// Where the example works, with its journal beside it.
struct Job {
    directory: tempfile::TempDir,
}

impl Job {
    fn new() -> Job {
        Job { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("work").join(name)
    }

    /// This test program once more, as the example.
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child_process_runs_the_example", "--nocapture"])
            .env("DOLMEN_TEST_PATH", self.path(""))
            .env("DOLMEN_TEST_JOURNAL", self.directory.path().join("journal"))
            .env("DOLMEN_TEST_FLAGS", flags.join(" "))
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self) -> Child {
        self.command(&[]).stdout(Stdio::null()).spawn().unwrap()
    }

    fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().unwrap()
    }

    /// Runs to the end.
    fn finish(&self, flags: &[&str]) {
        let output = self.run(flags);
        assert!(output.status.success(), "{output:?}");
    }

    /// The lines of the journal from the Nth on.
    fn journal(&self, from: usize) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("journal")).unwrap_or_default();
        text.lines().skip(from).map(str::to_owned).collect()
    }

    fn state(&self) -> Option<PipelineState> {
        let path = self.path(STATE_FILE);
        path.exists().then(|| PipelineState::read(&path).unwrap())
    }

    fn stages_with(&self, status: StageStatus) -> BTreeSet<String> {
        let state = self.state();
        let stages = state.iter().flat_map(PipelineState::stages);
        stages.filter(|stage| stage.status == status).map(|stage| stage.name).collect()
    }

    /// The lines that the journal would have for what is durable already.
    fn done(&self) -> BTreeSet<String> {
        let mut done: BTreeSet<String> =
            self.stages_with(StageStatus::Completed).iter().map(|name| format!("stage {name}")).collect();
        for path in files(&self.path("")) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let directory = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
            if let Some(stem) = name.strip_suffix("_DNABERT_S.dolmen").filter(|name| !name.starts_with('.')) {
                done.insert(format!("nucleotide {stem}"));
            }
            if let Some(number) = name.strip_prefix("batch_").and_then(|name| name.strip_suffix(".dolmen")) {
                let rank = directory.strip_prefix("shard_").unwrap();
                done.insert(format!("protein {rank}/{}", number.parse::<u64>().unwrap()));
            }
        }
        done
    }

    fn results(&self) -> [Vec<u8>; 3] {
        RESULTS.map(|name| fs::read(self.path(name)).unwrap())
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn child_process_runs_the_example() {
    let Some(directory) = std::env::var_os("DOLMEN_TEST_PATH") else { return };
    let journal = std::env::var_os("DOLMEN_TEST_JOURNAL").unwrap();
    let flags = std::env::var("DOLMEN_TEST_FLAGS").unwrap();
    let mut args = vec!["nine_stages".into(), directory, "--journal".into(), journal];
    args.extend(["--sequences", SEQUENCES].map(Into::into));
    args.extend(flags.split_whitespace().map(Into::into));
    std::process::exit(nine_stages::run(&nine_stages::Args::parse_from(args)).into());
}

/// What became of many kills.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    starts: usize,
    jobs: usize,
    /// The stage that was in progress when the process died.
    died_in: BTreeMap<String, usize>,
    /// Kills that left a temporary file.
    left_a_temp: usize,
}

/// Runs a job to its end, killing it again and again.
fn run_with_kills(job: &Job, random: &mut Random, usual: Duration, tally: &mut Tally) {
    tally.jobs += 1;
    loop {
        let done = job.done();
        let lines = job.journal(0).len();
        // Short, so that a job is killed several times on its way, and long enough for a stage to end once in a while.
        let patience = usual.mul_f64(random.below(1000) as f64 / 2000.0);
        let mut child = job.spawn();
        tally.starts += 1;
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_micros(500));
        }
        // Does nothing to one that has ended.
        child.kill().unwrap();
        let status = child.wait().unwrap();

        for line in job.journal(lines) {
            assert!(!done.contains(&line), "{line}: done before, and done again");
        }
        if status.success() {
            return;
        }
        assert_eq!(status.code(), None, "it ended by itself, with {status}");
        tally.kills += 1;
        assert!(job.done().is_superset(&done), "something that was done is gone");
        let running = job.stages_with(StageStatus::InProgress);
        assert!(running.len() <= 1, "{running:?}");
        let place = running.into_iter().next().unwrap_or("none".into());
        *tally.died_in.entry(place).or_default() += 1;
        tally.left_a_temp += usize::from(files(&job.path("")).iter().any(|path| is_temp(path)));
    }
}

fn is_temp(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".dolmen-tmp")
}

#[test]
fn killed_at_random_and_restarted_the_result_is_that_of_an_undisturbed_run() {
    let undisturbed = Job::new();
    undisturbed.finish(&[]);
    let expected = undisturbed.results();
    // The least of several: what else the machine does must not make the kills come too late.
    let measured = (0..3).map(|_| {
        let begun = Instant::now();
        Job::new().finish(&[]);
        begun.elapsed()
    });
    let usual = measured.min().unwrap();

    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let wanted = number("DOLMEN_KILLS", 60) as usize;
    let mut random = Random::new(number("DOLMEN_SEED", 9));
    let mut tally = Tally::default();
    let begun = Instant::now();
    while tally.kills < wanted {
        let job = Job::new();
        run_with_kills(&job, &mut random, usual, &mut tally);
        assert!(job.results() == expected, "{tally:?}: another result than without kills");
        let left: Vec<_> = files(&job.path("")).into_iter().filter(|path| is_temp(path)).collect();
        assert!(left.is_empty(), "{left:?} left behind");
        assert_eq!(job.stages_with(StageStatus::Completed), STAGES.map(str::to_owned).into());
        assert!(!job.path("failed_checkpoints.txt").exists());

        // Nothing is left to do, and no lock is left to wait for.
        let lines = job.journal(0);
        let output = job.run(&[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Progress: 9/9 stages complete\n"), "{text}");
        assert_eq!(job.journal(0), lines);
        for stage in STAGES {
            assert!(lines.contains(&format!("stage {stage}")), "{stage} was never done");
        }
    }
    println!("undisturbed {usual:?}; {tally:?} in {:?}", begun.elapsed());
}

/// Two kills of the same save, the second after its rename: its first temporary file is left beside a good output, in a directory that is
/// known only when the stage has run. The thousand kills found it.
#[test]
fn temporary_file_that_two_kills_left_is_gone_when_the_stage_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::new(directory.path()).stage(Stage::new("FEATURES"));
    let leftover = directory.path().join("late/.output_2.dolmen.0123456789abcdef.dolmen-tmp");
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    run.run_all(|stage| {
        fs::create_dir(stage.path("late")).unwrap();
        fs::write(&leftover, "half").unwrap();
        fs::write(stage.path("late/output_2.txt"), "whole").unwrap();
        stage.add_output("late/output_2.txt");
        Ok::<(), dolmen::Error>(())
    })
    .unwrap();
    assert!(!leftover.exists());
}

#[test]
fn corrupted_output_stops_the_example_unless_it_is_forced_or_told_to_trust() {
    let job = Job::new();
    job.finish(&[]);
    let expected = job.results();
    let lines = job.journal(0).len();
    let merged = job.path("merged.dolmen");
    let mut bytes = expected[0].clone();
    bytes.truncate(5000);
    fs::write(&merged, &bytes).unwrap();

    job.finish(&["--skip-checkpoint-validation"]);
    assert_eq!(fs::read(&merged).unwrap(), bytes, "trusted, unread");
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("merged.dolmen: corrupted: ") && text.contains("--force-resume"), "{text}");
    assert!(job.path("failed_checkpoints.txt").exists());
    assert!(job.journal(lines).is_empty());

    job.finish(&["--force-resume"]);
    assert_eq!(job.journal(lines), ["stage FEATURE_MERGING"], "the others are still those of this result");
    assert!(job.results() == expected);
    assert!(!job.path("failed_checkpoints.txt").exists());
}

#[test]
fn features_of_another_input_are_not_kept() {
    let job = Job::new();
    job.finish(&[]);
    let before = job.results();
    let input = fs::read_to_string(job.path("sequences.fa")).unwrap();
    // The last sequence goes: most split files stay as they were, and so do their features.
    let (input, _) = input.rsplit_once('>').unwrap();
    fs::write(job.path("sequences.fa"), input).unwrap();
    let lines = job.journal(0).len();
    job.finish(&[]);

    let fresh = Job::new();
    fs::create_dir_all(fresh.path("")).unwrap();
    fs::write(fresh.path("sequences.fa"), input).unwrap();
    fresh.finish(&[]);
    assert!(job.results() == fresh.results());
    assert!(job.results() != before);
    let redone = job.journal(lines);
    assert!(redone.contains(&"stage CHUNKING".into()), "{redone:?}");
    let batches = |lines: &[String]| lines.iter().filter(|line| line.starts_with("protein ")).count();
    assert!(batches(&redone) == 1 && batches(&fresh.journal(0)) > 2, "{redone:?}");
}
