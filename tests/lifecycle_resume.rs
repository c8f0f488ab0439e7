//! Pipelines that resume: what counts as complete, what is done again, and what survives a crash at any point.
#![cfg(all(unix, feature = "lifecycle"))]

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dolmen::format::value::{Dict, Value};
use dolmen::lifecycle::{
    CHECKPOINT_EXIT_CODE, CheckpointError, CheckpointErrorKind, FailedLog, Pipeline, PipelineError, PipelineState,
    ResumeOptions, Run, Stage, StageStatus, Validator,
};
use dolmen::{Builder, Error, ErrorKind, SaveOptions};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use common::memory::{Call, DIRECTORY, Fault, Memory};

const STATE: &str = "pipeline_state.json";

/// A pipeline of three stages over real files: text, a checkpoint made of it, text made of that.
struct Job {
    directory: TempDir,
    /// What the first stage writes.
    text: RefCell<String>,
    /// The stages whose work was done.
    done: RefCell<Vec<String>>,
}

impl Job {
    fn new() -> Job {
        Job { directory: tempfile::tempdir().unwrap(), text: RefCell::new("ACGT".into()), done: RefCell::default() }
    }

    /// One in which every stage is complete.
    fn done() -> Job {
        let job = Job::new();
        assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["CHUNKING", "FEATURES", "PREDICTION"]);
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.directory.path())
            .config("expected_length", 500)
            .stage(Stage::new("CHUNKING").output("chunks.fa"))
            .stage(Stage::new("FEATURES").input("chunks.fa").checkpoint("features.dolmen"))
            .stage(Stage::new("PREDICTION").input("features.dolmen").output("prediction.txt"))
    }

    /// Does the work of a stage.
    fn work(&self, stage: &str) -> Result<(), dolmen::Error> {
        self.done.borrow_mut().push(stage.to_owned());
        match stage {
            "CHUNKING" => self.put("chunks.fa", &*self.text.borrow()),
            "FEATURES" => {
                save(&self.path("features.dolmen"), &fs::read(self.path("chunks.fa")).unwrap());
            }
            "PREDICTION" => {
                let features = dolmen::Checkpoint::open(self.path("features.dolmen"))?;
                let bytes = features.tensor("data")?.as_slice::<u8>()?.to_vec();
                self.put("prediction.txt", bytes);
            }
            other => panic!("no stage {other}"),
        }
        Ok(())
    }

    /// Resumes, does what is to be done, and says what that was.
    fn go_on_with(&self, pipeline: &Pipeline, options: &ResumeOptions) -> Result<Vec<String>, PipelineError> {
        self.done.borrow_mut().clear();
        let mut run = pipeline.resume(options)?;
        run.run_all(|stage| self.work(stage.name()))?;
        assert_eq!(run.next_stage(), None);
        Ok(self.done.borrow().clone())
    }

    fn go_on(&self, options: &ResumeOptions) -> Result<Vec<String>, PipelineError> {
        self.go_on_with(&self.pipeline(), options)
    }

    fn resume(&self) -> Run {
        self.pipeline().resume(&ResumeOptions::new()).unwrap()
    }

    fn state(&self) -> PipelineState {
        PipelineState::read(self.path(STATE)).unwrap()
    }

    fn status(&self, stage: &str) -> StageStatus {
        self.state().stage(stage).unwrap().status
    }

    fn state_json(&self) -> Json {
        serde_json::from_slice(&fs::read(self.path(STATE)).unwrap()).unwrap()
    }

    fn log(&self) -> FailedLog {
        FailedLog::in_directory(self.directory.path())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn save(path: &Path, bytes: &[u8]) {
    let mut builder = Builder::new();
    builder.tensor("data", (bytes, [bytes.len()])).unwrap();
    builder.save(path).unwrap();
}

/// Changes a file's content and nothing that a look at the directory shows.
fn change_unseen(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    set_modified(path, modified);
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// The checkpoints that an error carries, with kinds.
fn failed(e: &PipelineError) -> Vec<(String, CheckpointErrorKind)> {
    let name = |e: &CheckpointError| e.path.file_name().unwrap().to_str().unwrap().to_owned();
    e.checkpoint_errors().iter().map(|e| (name(e), e.kind)).collect()
}

// Stages, one after the other.

#[test]
fn stages_are_done_in_order_and_a_second_run_does_nothing() {
    let job = Job::done();
    assert_eq!(fs::read(job.path("prediction.txt")).unwrap(), b"ACGT");
    let before = fs::read(job.path(STATE)).unwrap();
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
    assert_eq!(fs::read(job.path(STATE)).unwrap(), before, "nothing to record");
    assert_eq!(job.names(), ["chunks.fa", "features.dolmen", "pipeline.lock", STATE, "prediction.txt"]);
}

#[test]
fn the_state_has_the_shape_of_the_original() {
    let job = Job::done();
    let state = job.state_json();
    let keys: Vec<&str> = state["stages"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["CHUNKING", "FEATURES", "PREDICTION"]);
    let hash = state["pipeline_config"]["config_hash"].as_str().unwrap();
    assert_eq!(hash, job.pipeline().config_hash().unwrap());
    let stage = &state["stages"]["FEATURES"];
    assert_eq!(stage["status"], "completed");
    assert_eq!(stage["outputs"], json!({"files": ["features.dolmen"]}));
    assert_eq!(stage["inputs"], json!({"files": ["chunks.fa"]}));
    assert_eq!(stage["error"], Json::Null);
    assert!(stage["duration_seconds"].as_f64().unwrap() < 60.0);
    for time in [&state["created_at"], &state["updated_at"], &stage["started_at"], &stage["completed_at"]] {
        let time = time.as_str().unwrap();
        assert!(time.len() == "2026-01-22T17:27:41.213038Z".len() && time.ends_with('Z'), "{time}");
    }
    assert!(stage["started_at"].as_str() < stage["completed_at"].as_str());

    let record = job.state().stage("FEATURES").unwrap();
    assert_eq!((record.status, record.outputs), (StageStatus::Completed, vec!["features.dolmen".to_owned()]));
}

#[test]
fn a_begun_stage_is_recorded_before_it_works_and_done_again_if_it_is_dropped() {
    let job = Job::new();
    let mut run = job.resume();
    let stage = run.begin_next().unwrap().unwrap();
    assert_eq!(stage.name(), "CHUNKING");
    assert_eq!(job.status("CHUNKING"), StageStatus::InProgress);
    job.work("CHUNKING").unwrap();
    drop(stage);
    assert_eq!(run.begin_next().unwrap().unwrap().name(), "CHUNKING");
    drop(run);
    assert_eq!(job.status("CHUNKING"), StageStatus::InProgress);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["CHUNKING", "FEATURES", "PREDICTION"]);
}

#[test]
fn a_failed_stage_is_recorded_with_its_error_and_done_again() {
    let job = Job::new();
    let mut run = job.resume();
    let e = run
        .run_all(|stage| match stage.name() {
            "FEATURES" => Err("the GPU fell off the bus".to_owned()),
            name => job.work(name).map_err(|e| e.to_string()),
        })
        .unwrap_err();
    assert_eq!(e.to_string(), "stage FEATURES failed: the GPU fell off the bus");
    assert_eq!(e.exit_code(), 1);
    assert_eq!(run.summary().to_string(), "Progress: 1/3 stages complete, resuming from: FEATURES");
    drop(run);
    let record = job.state().stage("FEATURES").unwrap();
    assert_eq!((record.status, record.error.as_deref()), (StageStatus::Failed, Some("the GPU fell off the bus")));
    assert!(record.failed_at.is_some() && record.completed_at.is_none());

    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["FEATURES", "PREDICTION"]);
    let record = job.state().stage("FEATURES").unwrap();
    assert_eq!((record.status, record.error, record.failed_at), (StageStatus::Completed, None, None));
}

#[test]
fn a_stage_that_claims_to_be_complete_without_its_output_is_an_error_that_names_it() {
    let job = Job::new();
    let mut run = job.resume();
    let stage = run.begin_next().unwrap().unwrap();
    let e = run.complete(&stage).unwrap_err();
    assert_eq!(failed(&e), [("chunks.fa".to_owned(), CheckpointErrorKind::Corrupted)]);
    assert!(e.to_string().contains("stage CHUNKING says that it is complete, but has not made this output"), "{e}");
    assert_eq!(e.exit_code(), CHECKPOINT_EXIT_CODE);
    assert_eq!(job.status("CHUNKING"), StageStatus::Failed);
    assert_eq!(run.summary().complete, 0);
    // What was forgotten can be made up for.
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    assert_eq!(job.status("CHUNKING"), StageStatus::Completed);
}

#[test]
fn a_stage_cannot_complete_with_a_checkpoint_that_does_not_pass() {
    let job = Job::new();
    let pipeline = job.pipeline().validator(Validator::new().required_keys(["data", "ids"]));
    let e = job.go_on_with(&pipeline, &ResumeOptions::new()).unwrap_err();
    assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Incompatible)]);
    assert_eq!(job.status("FEATURES"), StageStatus::Failed);
    assert_eq!(job.log().entries().unwrap().len(), 1);

    // A stage's own validator is asked instead of the pipeline's.
    let lenient = Pipeline::new(job.directory.path())
        .config("expected_length", 500)
        .validator(Validator::new().required_keys(["data", "ids"]))
        .stage(Stage::new("CHUNKING").output("chunks.fa"))
        .stage(Stage::new("FEATURES").checkpoint("features.dolmen").validator(Validator::new()));
    assert_eq!(job.go_on_with(&lenient, &ResumeOptions::new()).unwrap(), ["FEATURES"]);
    assert_eq!(job.log().entries().unwrap(), [], "it passes again");
}

#[test]
fn a_stage_that_was_begun_again_or_has_ended_cannot_be_completed() {
    let job = Job::new();
    let mut run = job.resume();
    let first = run.begin_next().unwrap().unwrap();
    let second = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    assert!(run.complete(&first).unwrap_err().to_string().contains("is not running"));
    assert!(run.fail(&first, &"no").is_err());
    run.complete(&second).unwrap();
    assert!(run.complete(&second).is_err());
    assert!(run.fail(&second, &"no").is_err());
    assert_eq!(job.status("CHUNKING"), StageStatus::Completed);
}

#[test]
fn definitions_that_cannot_be_are_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("never made");
    let stage = Stage::new;
    let wrong = [
        Pipeline::new(&place),
        Pipeline::new(&place).stage(stage("A")).stage(stage("A")),
        Pipeline::new(&place).stage(stage("A").output("x")).stage(stage("B").checkpoint("x")),
        Pipeline::new(&place).stage(stage("A").input("x")).stage(stage("B").output("x")),
        Pipeline::new(&place).stage(stage("A").input("x").output("x")),
        Pipeline::new(&place).stage(stage("A").inputs_from("B")).stage(stage("B")),
        Pipeline::new(&place).stage(stage("A")).config("weights", vec![Value::Bytes(vec![1])]),
    ];
    for pipeline in wrong {
        for result in [pipeline.resume(&ResumeOptions::new()), pipeline.restart(&ResumeOptions::new())] {
            match result {
                Err(PipelineError::Other(e)) => assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!place.exists());
}

#[test]
fn a_stage_does_not_begin_without_its_inputs() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::new(directory.path()).stage(Stage::new("A").input("input.fa"));
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    match run.begin_next() {
        Err(PipelineError::Other(e)) => {
            assert_eq!((e.kind(), e.path()), (ErrorKind::NotFound, Some(&*directory.path().join("input.fa"))));
            assert!(e.to_string().contains("stage A cannot begin"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(run.state().stage("A").unwrap().status, StageStatus::NotStarted);
    fs::write(directory.path().join("input.fa"), "x").unwrap();
    assert!(run.begin_next().unwrap().is_some());
}

#[test]
fn directories_of_the_state_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("a/b");
    let pipeline = Pipeline::new(&place).state_in(".checkpoints").stage(Stage::new("A"));
    pipeline.resume(&ResumeOptions::new()).unwrap();
    assert!(place.join(".checkpoints").join(STATE).exists());
}

#[test]
fn the_directory_is_made_also_if_the_state_is_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::new(directory.path().join("work"))
        .state_in(directory.path().join("state"))
        .stage(Stage::new("A").output("a.txt"));
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    run.run_all(|stage| fs::write(stage.path("a.txt"), "A")).unwrap();
}

#[test]
fn outputs_that_are_known_only_afterwards_count_and_are_inputs_of_later_stages() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::new(directory.path())
        .stage(Stage::new("SPLITTING"))
        .stage(Stage::new("FEATURES").inputs_from("SPLITTING").checkpoint("features.dolmen"));
    let go_on =
        |parts: &[&str]| {
            let mut done = Vec::new();
            let mut run = pipeline.resume(&ResumeOptions::new())?;
            run.run_all(|stage| {
                done.push(stage.name().to_owned());
                if stage.name() == "SPLITTING" {
                    for (i, part) in parts.iter().enumerate() {
                        fs::write(stage.path(format!("part_{i}.fa")), part)?;
                        // Named by where it is, or by its path in the pipeline.
                        if i == 0 {
                            stage.add_output(stage.path("part_0.fa"))
                        } else {
                            stage.add_output(format!("part_{i}.fa"))
                        }
                    }
                } else {
                    let read: Vec<u8> = stage.inputs().flat_map(|path| fs::read(path).unwrap()).collect();
                    assert_eq!(read, parts.concat().as_bytes());
                    save(&stage.path("features.dolmen"), &read);
                }
                Ok::<(), std::io::Error>(())
            })?;
            let outputs = run.outputs_of("SPLITTING");
            assert!(outputs.iter().eq(
                (0..parts.len()).map(|i| directory.path().join(format!("part_{i}.fa"))).collect::<Vec<_>>().iter()
            ));
            Ok::<_, PipelineError>(done)
        };
    assert_eq!(go_on(&["one", "two"]).unwrap(), ["SPLITTING", "FEATURES"]);
    assert_eq!(go_on(&["one", "two"]).unwrap(), [""; 0]);
    fs::remove_file(directory.path().join("part_1.fa")).unwrap();
    assert_eq!(go_on(&["one", "two"]).unwrap(), ["SPLITTING"], "it comes out the same");
    // One part more, or fewer, is another input.
    for parts in [&["one", "two", "three"][..], &["one"]] {
        fs::remove_file(directory.path().join("part_0.fa")).unwrap();
        assert_eq!(go_on(parts).unwrap(), ["SPLITTING", "FEATURES"]);
    }
    fs::write(directory.path().join("part_0.fa"), "bad").unwrap();
    assert_eq!(failed(&go_on(&[]).unwrap_err()), [("part_0.fa".to_owned(), CheckpointErrorKind::Corrupted)]);
}

// What counts as complete.

#[test]
fn a_file_that_is_not_the_stage_s_own_cannot_be_named_as_its_output() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    fs::write(place.join("input.fa"), "ACGT").unwrap();
    let pipeline = Pipeline::new(place)
        .stage(Stage::new("A"))
        .stage(Stage::new("B").input("input.fa"))
        .stage(Stage::new("C").output("c.txt"));
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    let mut stage = run.begin_next().unwrap().unwrap();
    fs::write(place.join("late.txt"), "A").unwrap();
    stage.add_output("late.txt");
    run.complete(stage).unwrap();
    fs::write(place.join("c.txt"), "B").unwrap();
    for taken in ["late.txt", "c.txt", "input.fa"] {
        let mut stage = run.begin_next().unwrap().unwrap();
        stage.add_output(taken);
        let e = run.complete(stage).unwrap_err().to_string();
        assert!(e.contains(taken) && e.contains("stage B"), "{e}");
    }
}

#[test]
fn a_missing_output_has_its_stage_done_again_and_only_that_if_it_comes_out_the_same() {
    for (lost, stage) in [("chunks.fa", "CHUNKING"), ("features.dolmen", "FEATURES"), ("prediction.txt", "PREDICTION")]
    {
        let job = Job::done();
        fs::remove_file(job.path(lost)).unwrap();
        let summary = job.resume().summary();
        assert_eq!((summary.complete, summary.next.as_deref()), (2, Some(stage)));
        assert!(summary.notes[0].contains("is missing") && summary.notes[0].contains(lost), "{summary}");
        assert_eq!(job.status(stage), StageStatus::NotStarted, "the state says so as well");
        assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [stage]);
        assert_eq!(job.resume().summary().to_string(), "Progress: 3/3 stages complete");
    }
}

#[test]
fn a_stage_that_comes_out_differently_has_those_that_read_from_it_done_again() {
    let job = Job::done();
    fs::remove_file(job.path("chunks.fa")).unwrap();
    job.text.replace("TTTT".into());
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["CHUNKING", "FEATURES", "PREDICTION"]);
    assert_eq!(fs::read(job.path("prediction.txt")).unwrap(), b"TTTT");
}

#[test]
fn that_a_stage_is_stale_is_not_forgotten_by_a_crash() {
    let job = Job::done();
    fs::remove_file(job.path("chunks.fa")).unwrap();
    job.text.replace("TTTT".into());
    let mut run = job.resume();
    let stage = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    assert_eq!(run.next_stage(), Some("FEATURES"));
    let summary = run.summary();
    assert!(summary.to_string().contains("its input chunks.fa is no longer the one that it ran on"), "{summary}");
    drop(run);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["FEATURES", "PREDICTION"]);
}

#[test]
fn a_file_from_outside_that_changed_has_the_stage_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input.fa");
    let pipeline = Pipeline::new(directory.path()).stage(Stage::new("A").input("input.fa"));
    let go_on = |options: &ResumeOptions| {
        let mut run = pipeline.resume(options).unwrap();
        let mut done = 0;
        run.run_all(|_| {
            done += 1;
            Ok::<(), String>(())
        })
        .unwrap();
        done
    };
    fs::write(&input, "ACGT").unwrap();
    assert_eq!((go_on(&ResumeOptions::new()), go_on(&ResumeOptions::new())), (1, 0));
    set_modified(&input, SystemTime::UNIX_EPOCH);
    assert_eq!(go_on(&ResumeOptions::new()), 0, "only touched");
    fs::write(&input, "ACGG").unwrap();
    assert_eq!(go_on(&ResumeOptions::new().skip_checkpoint_validation(true)), 0, "trusted");
    assert_eq!(go_on(&ResumeOptions::new()), 1);
    fs::remove_file(&input).unwrap();
    assert_eq!(go_on(&ResumeOptions::new()), 0, "what is complete needs it no more");
}

#[test]
fn a_corrupted_output_stops_the_run_is_remembered_and_only_its_stage_is_done_again_by_force() {
    type Damage = fn(&mut Vec<u8>);
    let cut: Damage = |bytes| bytes.truncate(bytes.len() / 2);
    let empty: Damage = |bytes| bytes.clear();
    let header: Damage = |bytes| bytes[20] ^= 1;
    let garbage: Damage = |bytes| *bytes = b"<html>not found</html>".to_vec();
    for damage in [cut, empty, header, garbage] {
        let job = Job::done();
        change_unseen(&job.path("features.dolmen"), damage);
        for _ in 0..2 {
            let e = job.go_on(&ResumeOptions::new()).unwrap_err();
            assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Corrupted)]);
            assert_eq!(e.exit_code(), CHECKPOINT_EXIT_CODE);
            assert!(e.to_string().contains("--force-resume"), "{e}");
            let entries = job.log().entries().unwrap();
            assert_eq!(entries.len(), 1, "once, however often it is found: {entries:?}");
            assert_eq!(entries[0].path, job.path("features.dolmen"));
            assert!(entries[0].reason.starts_with("corrupted: "), "{entries:?}");
        }
        assert_eq!(job.status("FEATURES"), StageStatus::Completed, "nothing was decided");

        let run = job.pipeline().resume(&ResumeOptions::new().force_resume(true)).unwrap();
        let text = run.summary().to_string();
        assert!(text.starts_with("Progress: 2/3 stages complete, resuming from: FEATURES\n"), "{text}");
        assert!(
            text.contains("Found 1 failed checkpoints from previous runs:\n  features.dolmen: corrupted:"),
            "{text}"
        );
        assert!(text.contains("Stage FEATURES is done again: "), "{text}");
        drop(run);
        // The decision is recorded: from now on no force is needed.
        assert_eq!(job.status("FEATURES"), StageStatus::Failed);
        assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["FEATURES"]);
        assert_eq!(job.log().entries().unwrap(), [], "it passes again");
        assert_eq!(fs::read(job.path("prediction.txt")).unwrap(), b"ACGT");
    }
}

#[test]
fn all_bad_outputs_are_found_at_once_and_the_first_five_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..8).map(|i| format!("output_{i}.dolmen")).collect();
    let pipeline = Pipeline::new(directory.path())
        .stage(Stage::new("FEATURES").checkpoints(&names))
        .stage(Stage::new("PREDICTION").output("prediction.txt"));
    let work = |stage: &str| match stage {
        "FEATURES" => names.iter().for_each(|name| save(&directory.path().join(name), name.as_bytes())),
        _ => fs::write(directory.path().join("prediction.txt"), "x").unwrap(),
    };
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    run.run_all(|stage| {
        work(stage.name());
        Ok::<(), String>(())
    })
    .unwrap();
    drop(run);
    names[1..7].iter().for_each(|name| fs::write(directory.path().join(name), "").unwrap());
    // Nothing that is not a file is opened.
    fs::remove_file(directory.path().join("prediction.txt")).unwrap();
    fs::create_dir(directory.path().join("prediction.txt")).unwrap();
    let e = pipeline.resume(&ResumeOptions::new()).unwrap_err();
    let found: Vec<String> = failed(&e).into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, [&names[1..7], &["prediction.txt".to_owned()]].concat());
    let text = e.to_string();
    assert!(text.starts_with("7 outputs cannot be used:\n  "), "{text}");
    assert!(text.contains("output_5.dolmen: corrupted:") && !text.contains("output_6"), "{text}");
    assert!(text.contains("\n  ... and 2 more\n") && text.contains("--force-resume"), "{text}");
    assert_eq!(FailedLog::in_directory(directory.path()).entries().unwrap().len(), 7);
}

#[test]
fn an_incompatible_output_stops_the_run_as_well() {
    let job = Job::done();
    let pipeline = job.pipeline().validator(Validator::new().required_keys(["ids"]));
    let e = job.go_on_with(&pipeline, &ResumeOptions::new()).unwrap_err();
    assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Incompatible)]);
    assert_eq!(e.exit_code(), CHECKPOINT_EXIT_CODE);
}

#[test]
fn a_replaced_output_is_found() {
    // Checkpoints by their headers, although each is good in itself.
    let job = Job::done();
    save(&job.path("features.dolmen"), b"GGGG");
    let e = job.go_on(&ResumeOptions::new()).unwrap_err();
    assert!(e.to_string().contains("is not the file that the stage made: the CRC-32 of its header was"), "{e}");
    assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap(), ["FEATURES"]);

    // Other files by their lengths and content.
    for text in ["GGGG", "GG"] {
        let job = Job::done();
        job.put("chunks.fa", text);
        // Where the clock of the file system is coarse the new file could have the old one's time.
        set_modified(&job.path("chunks.fa"), SystemTime::now() + Duration::from_secs(5));
        let e = job.go_on(&ResumeOptions::new()).unwrap_err();
        assert_eq!(failed(&e), [("chunks.fa".to_owned(), CheckpointErrorKind::Corrupted)]);
        assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap(), ["CHUNKING"]);
    }
}

#[test]
fn a_file_that_was_only_touched_is_read_again_and_counts() {
    let job = Job::done();
    set_modified(&job.path("chunks.fa"), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    set_modified(&job.path("features.dolmen"), SystemTime::UNIX_EPOCH);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
    // And is not read the next time: what a look does not show is not seen.
    change_unseen(&job.path("chunks.fa"), |bytes| bytes[0] ^= 1);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
}

#[test]
fn only_full_reads_what_looks_unchanged() {
    let job = Job::done();
    change_unseen(&job.path("chunks.fa"), |bytes| bytes[0] ^= 1);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
    let e = job.go_on(&ResumeOptions::new().full(true)).unwrap_err();
    assert_eq!(failed(&e), [("chunks.fa".to_owned(), CheckpointErrorKind::Corrupted)]);

    let job = Job::done();
    let bytes = fs::read(job.path("features.dolmen")).unwrap();
    let at = bytes.windows(4).position(|w| w == b"ACGT").unwrap();
    change_unseen(&job.path("features.dolmen"), |bytes| bytes[at] ^= 1);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
    let e = job.go_on(&ResumeOptions::new().full(true)).unwrap_err();
    assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Corrupted)]);
    let options = ResumeOptions::new().full(true).force_resume(true);
    assert_eq!(job.go_on(&options).unwrap(), ["FEATURES"]);
}

#[test]
fn skipping_validation_trusts_garbage_but_not_what_is_not_there() {
    let skip = ResumeOptions::new().skip_checkpoint_validation(true);
    let job = Job::done();
    job.put("features.dolmen", "garbage");
    job.put("chunks.fa", "something else");
    assert_eq!(job.go_on(&skip).unwrap(), [""; 0]);
    assert_eq!(job.log().entries().unwrap(), []);
    // Only for as long as it is asked for.
    assert_eq!(failed(&job.go_on(&ResumeOptions::new()).unwrap_err()).len(), 2);
    fs::remove_file(job.path("prediction.txt")).unwrap();
    save(&job.path("features.dolmen"), b"CCCC");
    assert_eq!(job.go_on(&skip).unwrap(), ["PREDICTION"]);
    assert_eq!(job.log().entries().unwrap().len(), 2, "nothing has passed");
}

#[test]
fn what_was_made_of_trusted_garbage_is_made_again_when_the_garbage_is() {
    let job = Job::done();
    job.put("chunks.fa", "garbage");
    fs::remove_file(job.path("features.dolmen")).unwrap();
    let skip = ResumeOptions::new().skip_checkpoint_validation(true);
    assert_eq!(job.go_on(&skip).unwrap(), ["FEATURES", "PREDICTION"]);
    assert_eq!(job.go_on(&skip).unwrap(), [""; 0]);
    assert!(job.go_on(&ResumeOptions::new()).is_err());
    let done = job.go_on(&ResumeOptions::new().force_resume(true)).unwrap();
    assert_eq!(done, ["CHUNKING", "FEATURES", "PREDICTION"]);
    assert_eq!(fs::read(job.path("prediction.txt")).unwrap(), b"ACGT");

    // Only touched, it is what it was.
    set_modified(&job.path("chunks.fa"), SystemTime::UNIX_EPOCH);
    fs::remove_file(job.path("features.dolmen")).unwrap();
    assert_eq!(job.go_on(&skip).unwrap(), ["FEATURES"]);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
}

#[test]
fn a_stage_does_not_begin_on_an_input_that_changed_since_it_was_made() {
    let job = Job::new();
    let mut run = job.resume();
    let stage = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    job.put("chunks.fa", "changed");
    let e = run.begin_next().unwrap_err();
    assert_eq!(failed(&e), [("chunks.fa".to_owned(), CheckpointErrorKind::Corrupted)]);
    drop(run);
    assert!(job.go_on(&ResumeOptions::new()).is_err());
    assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap().len(), 3);

    let mut run = job.resume();
    fs::remove_file(job.path("prediction.txt")).unwrap();
    drop(run);
    run = job.resume();
    set_modified(&job.path("features.dolmen"), SystemTime::UNIX_EPOCH);
    assert_eq!(run.begin_next().unwrap().unwrap().name(), "PREDICTION", "only touched");
}

#[test]
fn what_cannot_be_read_stops_the_run_also_by_force() {
    let job = Job::done();
    fs::remove_file(job.path("features.dolmen")).unwrap();
    std::os::unix::fs::symlink("features.dolmen", job.path("features.dolmen")).unwrap();
    for options in [ResumeOptions::new(), ResumeOptions::new().force_resume(true)] {
        let e = job.go_on(&options).unwrap_err();
        assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Unreadable)]);
        assert_eq!(e.exit_code(), 1);
    }
    assert_eq!(job.log().entries().unwrap(), [], "nothing is known of it");
}

#[test]
fn what_passes_again_is_forgotten_however_its_path_was_written() {
    let here = std::env::current_dir().unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let relative = directory.path().strip_prefix(&here).expect("cargo runs tests in the package");
    let pipeline = |directory: &Path| Pipeline::new(directory).stage(Stage::new("A").checkpoint("a.dolmen"));
    let a = directory.path().join("a.dolmen");
    save(&a, b"AAAA");
    pipeline(relative).resume(&ResumeOptions::new()).unwrap().run_all(|_| Ok::<(), String>(())).unwrap();
    let good = fs::read(&a).unwrap();
    fs::write(&a, "garbage").unwrap();
    assert!(pipeline(relative).resume(&ResumeOptions::new()).is_err());
    fs::write(&a, good).unwrap();
    let run = pipeline(directory.path()).resume(&ResumeOptions::new()).unwrap();
    assert_eq!(run.summary().to_string(), "Progress: 1/1 stages complete");
    assert_eq!(FailedLog::in_directory(relative).entries().unwrap(), []);
}

#[test]
fn failed_checkpoints_that_cannot_be_read_stop_nothing() {
    let job = Job::new();
    fs::create_dir(job.path("failed_checkpoints.txt")).unwrap();
    let summary = job.resume().summary().to_string();
    assert!(summary.contains("The failed checkpoints of previous runs could not be read: "), "{summary}");
}

#[test]
fn unfinished_saves_of_the_dead_are_swept_away() {
    let job = Job::done();
    let directory = job.path("shard");
    fs::create_dir(&directory).unwrap();
    let pipeline = job.pipeline().stage(Stage::new("SHARDS").checkpoint("shard/batch.dolmen"));
    let temps = [
        job.path(".pipeline_state.json.0123456789abcdef.dolmen-tmp"),
        directory.join(".x.0123456789abcdef.dolmen-tmp"),
    ];
    for temp in &temps {
        fs::write(temp, "half").unwrap();
    }
    pipeline.resume(&ResumeOptions::new()).unwrap();
    for temp in temps {
        assert!(!temp.exists(), "{temp:?}");
    }
}

// The configuration.

#[test]
fn the_hash_of_a_configuration_is_that_of_the_original() {
    let hash = |entries: Vec<(&str, Value)>| {
        let pipeline = Pipeline::new("d");
        entries.into_iter().fold(pipeline, |pipeline, (k, v)| pipeline.config(k, v)).config_hash().unwrap()
    };
    let dict = |entries: Vec<(&str, Value)>| {
        let mut dict = Dict::new();
        entries.into_iter().for_each(|(k, v)| dict.push(k, v));
        Value::from(dict)
    };
    // What python3 printed for hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest().
    assert_eq!(hash(vec![]), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    assert_eq!(
        hash(vec![("model_path", "500_model.pth".into()), ("expected_length", 500.into())]),
        "842a3bf0b619aedca1edaec732114a604a4a0d2a31bd0957ac9d1f0eb739ff0a"
    );
    let floats = [
        ("z", 1e16),
        ("y", 1e-5),
        ("x", 0.0001),
        ("w", -0.0),
        ("v", 1e15),
        ("u", 123456789012345680.0),
        ("t", 5e-324),
        ("s", f64::MAX),
        ("r", 0.1),
        ("q", 100.0),
    ];
    assert_eq!(
        hash(vec![
            ("b", Value::List(vec![1.into(), 2.5.into(), Value::Null, true.into(), "x".into()])),
            ("a", dict(floats.into_iter().map(|(k, v)| (k, v.into())).collect())),
            ("é\u{2028}😀", "\u{7f}\0\t\n\\\"/".into()),
        ]),
        "b00f87f37e56c6aaa10b9bc613e8cd614d5de9f751ab21c888e0e13edef41f0b"
    );
    // Some of these have two shortest forms that are equally near.
    let ties = [
        214316624734517.62,
        123456789012345.67,
        -0.0,
        100.0,
        1e15,
        0.001,
        1e23,
        -1.5e-7,
        f64::MAX,
        9007199254740992.0,
        11064396398592.062,
        562949953421311.9,
        562949953421311.6,
        562949953421311.4,
        281474976710655.06,
    ];
    let named = (0..).zip(ties).map(|(n, value): (u32, f64)| (format!("k{n:02}"), Value::from(value)));
    let pipeline = named.fold(Pipeline::new("x"), |pipeline, (key, value)| pipeline.config(key, value));
    let of_ties = pipeline.config_hash().unwrap();
    assert_eq!(of_ties, "72008fc462f66b76ba5bfd09c8635e28b2af267dc531f5c9bc409f331bf36ce2");
    let mut power = vec![0; 9];
    power[0] = 64;
    assert_eq!(
        hash(vec![
            ("big", Value::integer(false, &power)),
            ("neg", Value::integer(true, &[1, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("n", f64::NAN.into()),
            ("i", f64::INFINITY.into()),
            ("m", f64::NEG_INFINITY.into()),
            ("e", Value::List(vec![])),
            ("d", dict(vec![])),
            ("t", Value::Tuple(vec![Value::List(vec![])])),
        ]),
        "30e4788ea51426eb3263b053fbc4e6418bfd03fab781edd19de7e70862d32d15"
    );
}

/// The job's stages with another configuration.
fn reconfigured(job: &Job) -> Pipeline {
    job.pipeline().config("expected_length", 300).config("threads", 4)
}

#[test]
fn a_changed_configuration_is_refused_and_what_changed_is_named() {
    let job = Job::new();
    let with_old = job.pipeline().config("rate", 0.1).config("model", "500.pth");
    job.go_on_with(&with_old, &ResumeOptions::new()).unwrap();
    let before = fs::read(job.path(STATE)).unwrap();

    let e = job.go_on_with(&reconfigured(&job).config("rate", 0.1), &ResumeOptions::new()).unwrap_err();
    let PipelineError::ConfigChanged { changes, .. } = &e else { panic!("{e:?}") };
    let change = |key: &str| changes.iter().find(|change| change.key == key).unwrap();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert_eq!(
        (&change("expected_length").old, &change("expected_length").new),
        (&Some(json!(500)), &Some(json!(300)))
    );
    assert_eq!((&change("threads").old, &change("threads").new), (&None, &Some(json!(4))));
    assert_eq!((&change("model").old, &change("model").new), (&Some(json!("500.pth")), &None));
    let text = e.to_string();
    for words in ["expected_length: 500 is now 300", "threads: added, 4", "model: removed, was \"500.pth\"", "restart"]
    {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert_eq!(e.exit_code(), 1);
    assert_eq!(fs::read(job.path(STATE)).unwrap(), before);
    // Force is for checkpoints, not for this.
    assert!(reconfigured(&job).resume(&ResumeOptions::new().force_resume(true)).is_err());
    assert_eq!(job.go_on_with(&with_old, &ResumeOptions::new()).unwrap(), [""; 0]);
}

#[test]
fn a_changed_configuration_starts_over_if_that_is_asked_for_and_keeps_the_state_of_before() {
    let job = Job::done();
    let before = fs::read(job.path(STATE)).unwrap();
    let options = ResumeOptions::new().restart_on_config_change(true);
    let run = reconfigured(&job).resume(&options).unwrap();
    let text = run.summary().to_string();
    assert!(text.starts_with("Progress: 0/3 stages complete, resuming from: CHUNKING\n"), "{text}");
    for words in ["expected_length: 500 is now 300", "pipeline_state.before-config-change.json"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    drop(run);
    assert_eq!(fs::read(job.path("pipeline_state.before-config-change.json")).unwrap(), before);
    let done = job.go_on_with(&reconfigured(&job), &options).unwrap();
    assert_eq!(done, ["CHUNKING", "FEATURES", "PREDICTION"]);
    // An unchanged one does not start over.
    assert_eq!(job.go_on_with(&reconfigured(&job), &options).unwrap(), [""; 0]);
}

#[test]
fn restarting_does_everything_again_and_keeps_each_state_of_before() {
    let job = Job::done();
    for kept in ["pipeline_state.before-restart.json", "pipeline_state.before-restart.2.json"] {
        let before = fs::read(job.path(STATE)).unwrap();
        let mut run = job.pipeline().restart(&ResumeOptions::new()).unwrap();
        assert_eq!(job.status("CHUNKING"), StageStatus::NotStarted);
        job.done.borrow_mut().clear();
        run.run_all(|stage| job.work(stage.name())).unwrap();
        assert_eq!(*job.done.borrow(), ["CHUNKING", "FEATURES", "PREDICTION"]);
        assert_eq!(fs::read(job.path(kept)).unwrap(), before);
    }
}

// State files of the original, and broken ones.

/// A state as the original writes it, with the paths as they are given.
fn original_state(job: &Job, place: &str, in_progress: bool) -> Json {
    let stage = |status: &str, outputs: Json| {
        json!({
            "status": status,
            "started_at": "2026-01-22T17:27:41.213097",
            "completed_at": if status == "completed" { json!("2026-01-22T17:27:41.218575") } else { Json::Null },
            "duration_seconds": if status == "completed" { json!(1.586705) } else { Json::Null },
            "inputs": {},
            "outputs": outputs,
            "error": null,
            "of_another_tool": [1, 2],
        })
    };
    let last = if in_progress {
        stage("in_progress", json!({}))
    } else {
        stage("completed", json!({"prediction_file": format!("{place}prediction.txt")}))
    };
    json!({
        "created_at": "2026-01-22T17:27:41.213038",
        "pipeline_config": {
            "config_hash": job.pipeline().config_hash().unwrap(),
            "expected_length": 500,
            "model_path": "500_model.pth",
        },
        "stages": {
            "CHUNKING": stage("completed", json!({"files": [format!("{place}chunks.fa")]})),
            "FEATURES": stage("completed", json!({"features": [format!("{place}features.dolmen")], "count": 1})),
            "PREDICTION": last,
        },
        "updated_at": "2026-01-22T17:27:58.250002",
        "host": "of another tool",
    })
}

/// A job whose state the original wrote, beside the outputs of all three stages.
fn original(place: &str, in_progress: bool) -> Job {
    let job = Job::done();
    fs::remove_file(job.path("pipeline.lock")).unwrap();
    job.put(STATE, original_state(&job, place, in_progress).to_string());
    job
}

#[test]
fn a_state_of_the_original_is_read_as_it_is_and_what_is_unknown_is_kept() {
    let job = original("", false);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
    fs::remove_file(job.path("prediction.txt")).unwrap();
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["PREDICTION"]);
    let state = job.state_json();
    assert_eq!(state["host"], "of another tool");
    assert_eq!(state["created_at"], "2026-01-22T17:27:41.213038");
    assert_eq!(state["pipeline_config"]["model_path"], "500_model.pth");
    assert_eq!(state["stages"]["CHUNKING"]["of_another_tool"], json!([1, 2]));
    assert_eq!(state["stages"]["FEATURES"]["outputs"], json!({"features": ["features.dolmen"], "count": 1}));
    assert_eq!(state["stages"]["FEATURES"]["duration_seconds"], 1.586705);
    // From then on it is known by what its outputs are.
    save(&job.path("features.dolmen"), b"GGGG");
    assert!(job.go_on(&ResumeOptions::new()).is_err());
    assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap(), ["FEATURES"]);
}

#[test]
fn paths_of_the_original_are_found_from_the_working_directory_or_beside_the_state() {
    let here = std::env::current_dir().unwrap();
    let within = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let from_here = within.path().strip_prefix(&here).expect("cargo runs tests in the package").to_path_buf();
    let job = original("", false);
    for name in ["chunks.fa", "features.dolmen", "prediction.txt"] {
        fs::copy(job.path(name), within.path().join(name)).unwrap();
    }
    let place = format!("{}/", from_here.to_str().unwrap());
    let undeclared = |directory: &Path| {
        let pipeline = Pipeline::new(directory).config("expected_length", 500);
        ["CHUNKING", "FEATURES", "PREDICTION"]
            .into_iter()
            .fold(pipeline, |pipeline, name| pipeline.stage(Stage::new(name)))
    };
    // From the working directory, with a state that is elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join(STATE), original_state(&job, &place, false).to_string()).unwrap();
    let run = undeclared(elsewhere.path()).resume(&ResumeOptions::new()).unwrap();
    assert_eq!(run.summary().to_string(), "Progress: 3/3 stages complete");
    assert_eq!(run.outputs_of("CHUNKING"), [within.path().join("chunks.fa")]);
    drop(run);
    // Beside the state.
    let run = undeclared(job.directory.path()).resume(&ResumeOptions::new()).unwrap();
    assert_eq!(run.summary().complete, 3);
    drop(run);
    // Where they are neither, they are missing; and a bad one is bad although no stage declares it.
    fs::remove_file(within.path().join("chunks.fa")).unwrap();
    let run = undeclared(elsewhere.path()).resume(&ResumeOptions::new()).unwrap();
    assert_eq!(run.next_stage(), Some("CHUNKING"));
    drop(run);
    fs::write(within.path().join("features.dolmen"), "garbage").unwrap();
    let e = undeclared(elsewhere.path()).resume(&ResumeOptions::new()).unwrap_err();
    assert_eq!(failed(&e), [("features.dolmen".to_owned(), CheckpointErrorKind::Corrupted)]);
}

#[test]
fn what_an_original_stage_read_is_taken_to_be_what_there_is_unless_that_is_made_again() {
    let job = original("", false);
    job.resume();
    fs::remove_file(job.path("chunks.fa")).unwrap();
    job.text.replace("TTTT".into());
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["CHUNKING", "FEATURES", "PREDICTION"]);

    // Nobody can say what the second stage ran on: also if the first comes out as it was, it is done again.
    let job = original("", false);
    fs::remove_file(job.path("chunks.fa")).unwrap();
    let summary = job.resume().summary();
    assert_eq!(summary.complete, 0);
    assert!(
        summary.to_string().contains("Stage FEATURES is done again: its input chunks.fa is made again"),
        "{summary}"
    );
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap()[..2], ["CHUNKING", "FEATURES"]);
}

/// Does the first stage with other text and is killed; then resumes.
fn go_on_after_a_crash(job: &Job, options: &ResumeOptions) -> Vec<String> {
    job.text.replace("TTTT".into());
    let mut run = job.pipeline().resume(options).unwrap();
    let stage = run.begin_next().unwrap().unwrap();
    assert_eq!(stage.name(), "CHUNKING");
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    drop(run);
    job.go_on(&ResumeOptions::new()).unwrap()
}

#[test]
fn what_nobody_knows_the_inputs_of_is_done_again_also_if_a_crash_comes_between() {
    // By a state of the original.
    let job = original("", false);
    fs::remove_file(job.path("chunks.fa")).unwrap();
    assert_eq!(go_on_after_a_crash(&job, &ResumeOptions::new()), ["FEATURES", "PREDICTION"]);

    // By a checkpoint's own word, where the state is lost.
    let job = Job::done();
    job.put(STATE, "{");
    let force = ResumeOptions::new().force_resume(true);
    assert_eq!(go_on_after_a_crash(&job, &force), ["FEATURES", "PREDICTION"]);

    // By a marker.
    let job = Job::done();
    fs::remove_file(job.path(STATE)).unwrap();
    job.put("features.dolmen.done", "");
    assert_eq!(go_on_after_a_crash(&job, &ResumeOptions::new()), ["FEATURES", "PREDICTION"]);
}

#[test]
fn what_an_original_stage_made_and_no_stage_declares_is_an_input_of_those_that_name_it() {
    let job = original("", false);
    fs::remove_file(job.path("chunks.fa")).unwrap();
    let pipeline = Pipeline::new(job.directory.path())
        .config("expected_length", 500)
        .stage(Stage::new("CHUNKING"))
        .stage(Stage::new("FEATURES").input("chunks.fa").checkpoint("features.dolmen"));
    let summary = pipeline.resume(&ResumeOptions::new()).unwrap().summary();
    assert_eq!(summary.complete, 0, "{summary}");
}

#[test]
fn a_file_from_outside_that_an_original_stage_read_is_watched_from_then_on() {
    let job = original("", false);
    job.put("input.fa", "ACGT");
    let pipeline = Pipeline::new(job.directory.path())
        .config("expected_length", 500)
        .stage(Stage::new("CHUNKING").input("input.fa").output("chunks.fa"));
    assert_eq!(pipeline.resume(&ResumeOptions::new()).unwrap().next_stage(), None);
    job.put("input.fa", "TTTTTT");
    assert_eq!(pipeline.resume(&ResumeOptions::new()).unwrap().next_stage(), Some("CHUNKING"));
}

#[test]
fn a_changed_configuration_of_the_original_is_told_by_hash_and_by_what_it_keeps() {
    let job = original("", false);
    let e = job.pipeline().config("threads", 4).resume(&ResumeOptions::new()).unwrap_err();
    assert!(e.to_string().contains("its hash was "), "{e}");
    assert!(e.to_string().contains(&job.pipeline().config_hash().unwrap()), "{e}");
    let e = reconfigured(&job).resume(&ResumeOptions::new()).unwrap_err();
    assert!(e.to_string().contains("expected_length: 500 is now 300"), "{e}");
}

#[test]
fn done_markers_count_where_no_state_says_otherwise() {
    let markers = |job: &Job, names: &[&str]| names.iter().for_each(|name| job.put(&format!("{name}.done"), ""));
    // A directory of the original without a state.
    let job = Job::done();
    fs::remove_file(job.path(STATE)).unwrap();
    markers(&job, &["chunks.fa", "features.dolmen"]);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["PREDICTION"]);

    // A stage of the original that was in progress, and had made everything.
    let job = original("", true);
    assert_eq!(job.resume().next_stage(), Some("PREDICTION"));
    let job = original("", true);
    markers(&job, &["prediction.txt"]);
    assert_eq!(job.resume().next_stage(), None);

    // A marker beside something that does not pass, or with something in it, says nothing.
    let job = Job::done();
    fs::remove_file(job.path(STATE)).unwrap();
    markers(&job, &["chunks.fa", "features.dolmen", "prediction.txt"]);
    job.put("features.dolmen", "garbage");
    job.put("prediction.txt.done", "a file of somebody else");
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["FEATURES", "PREDICTION"]);
}

#[test]
fn old_markers_do_not_complete_a_stage_that_this_state_has_begun() {
    let job = Job::done();
    fs::remove_file(job.path(STATE)).unwrap();
    for name in ["chunks.fa", "features.dolmen", "prediction.txt"] {
        job.put(&format!("{name}.done"), "");
    }
    assert_eq!(job.resume().next_stage(), None);
    fs::remove_file(job.path("chunks.fa")).unwrap();
    job.text.replace("TTTT".into());
    let mut run = job.resume();
    let stage = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    let _interrupted = run.begin_next().unwrap().unwrap();
    drop(run);
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["FEATURES", "PREDICTION"]);
    // Nor after a restart.
    assert_eq!(job.pipeline().restart(&ResumeOptions::new()).unwrap().summary().complete, 0);
    assert_eq!(job.resume().summary().complete, 0);
}

/// Bytes that are no state, and a word of what is said of them.
fn broken_states(good: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
    let good: Json = serde_json::from_slice(good).unwrap();
    let with = |change: &dyn Fn(&mut Json)| {
        let mut state = good.clone();
        change(&mut state);
        state.to_string().into_bytes()
    };
    let text = good.to_string().into_bytes();
    let mut broken = vec![
        (text[..text.len() / 2].to_vec(), "not whole JSON"),
        (text[..text.len() - 1].to_vec(), "not whole JSON"),
        (vec![], "0 bytes"),
        (vec![0; 100], "not whole JSON"),
        (b"\xff\xfe".to_vec(), "not whole JSON"),
        (b"[1, 2]".to_vec(), "not a JSON object"),
        (b"{}".to_vec(), "no `stages`"),
        ("[".repeat(1 << 20).into_bytes(), "not whole JSON"),
        (with(&|s| s["stages"] = json!([])), "`stages` is not an object"),
        (with(&|s| s["stages"]["FEATURES"] = json!(null)), "\"FEATURES\": it is not an object"),
        (with(&|s| s["stages"]["FEATURES"]["status"] = json!("done\u{1b}[31m")), "\"done\\u{1b}[31m\""),
        (with(&|s| s["stages"]["FEATURES"]["started_at"] = json!(5)), "`started_at` is not text"),
        (with(&|s| s["stages"]["FEATURES"]["duration_seconds"] = json!("long")), "`duration_seconds`"),
        (with(&|s| s["stages"]["FEATURES"]["outputs"] = json!(true)), "`outputs`"),
        (with(&|s| s["stages"]["FEATURES"]["error"] = json!({})), "`error`"),
        (with(&|s| s["stages"]["FEATURES"]["fingerprints"] = json!([])), "`fingerprints`"),
        (
            with(&|s| s["stages"]["FEATURES"]["fingerprints"]["outputs"]["features.dolmen"]["crc32"] = json!("xyz")),
            "fingerprint",
        ),
        (
            with(&|s| s["stages"]["FEATURES"]["fingerprints"]["outputs"]["features.dolmen"]["byte_len"] = json!(-1)),
            "fingerprint",
        ),
        (with(&|s| s["pipeline_config"] = json!("x")), "`pipeline_config`"),
        (with(&|s| s["pipeline_config"]["config_hash"] = json!(7)), "`config_hash`"),
        (with(&|s| s["state_version"] = json!("one")), "`state_version`"),
    ];
    broken.push(([b"[0".to_vec(), b",0".repeat(3_000_000), b"]".to_vec()].concat(), "so many values"));
    broken.push(([text, vec![b' '; 64 << 20]].concat(), "at most 67108864 bytes"));
    broken
}

#[test]
fn a_broken_state_is_corrupted_and_is_moved_aside_by_force() {
    let job = Job::done();
    let good = fs::read(job.path(STATE)).unwrap();
    for (bytes, words) in broken_states(&good) {
        job.put(STATE, &bytes);
        let e = job.go_on(&ResumeOptions::new()).unwrap_err();
        assert_eq!(failed(&e), [(STATE.to_owned(), CheckpointErrorKind::Corrupted)], "{words}");
        assert_eq!(e.exit_code(), CHECKPOINT_EXIT_CODE);
        let text = e.to_string();
        assert!(text.contains(words) && text.contains("--force-resume") && text.len() < 1000, "{words:?} in {text}");
        assert!(fs::read(job.path(STATE)).unwrap() == bytes, "{words}: untouched");
        assert_eq!(PipelineState::read(job.path(STATE)).unwrap_err().kind, CheckpointErrorKind::Corrupted);

        // The checkpoint proves itself; of the other files nobody can say whether they are whole. What they are made into again
        // is the same, but nobody can say either that it was before.
        let run = job.pipeline().resume(&ResumeOptions::new().force_resume(true)).unwrap();
        assert!(run.summary().to_string().contains("pipeline_state.corrupted.json"), "{}", run.summary());
        drop(run);
        assert!(fs::read(job.path("pipeline_state.corrupted.json")).unwrap() == bytes, "{words}: kept");
        fs::remove_file(job.path("pipeline_state.corrupted.json")).unwrap();
        assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["CHUNKING", "FEATURES", "PREDICTION"], "{words}");
    }
}

#[test]
fn without_a_state_checkpoints_that_pass_count_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline::new(directory.path())
        .stage(Stage::new("A").checkpoint("a.dolmen"))
        .stage(Stage::new("B").input("a.dolmen").checkpoint("b.dolmen"));
    save(&directory.path().join("a.dolmen"), b"AAAA");
    save(&directory.path().join("b.dolmen"), b"BBBB");
    let state = directory.path().join(STATE);
    assert_eq!(pipeline.resume(&ResumeOptions::new()).unwrap().summary().complete, 0, "nobody said so");
    fs::write(&state, "{").unwrap();
    assert_eq!(pipeline.resume(&ResumeOptions::new().force_resume(true)).unwrap().summary().complete, 2);
    assert_eq!(pipeline.resume(&ResumeOptions::new()).unwrap().summary().complete, 2);
    // All of their data is read, for there is no other word.
    let b = directory.path().join("b.dolmen");
    let at = fs::read(&b).unwrap().windows(4).position(|w| w == b"BBBB").unwrap();
    change_unseen(&b, |bytes| bytes[at] ^= 1);
    fs::write(&state, "{").unwrap();
    assert_eq!(pipeline.resume(&ResumeOptions::new().force_resume(true)).unwrap().next_stage(), Some("B"));
}

#[test]
fn a_state_of_a_newer_version_is_incompatible_also_by_force() {
    let job = Job::done();
    let mut state = job.state_json();
    state["state_version"] = json!(2);
    job.put(STATE, state.to_string());
    for options in [ResumeOptions::new(), ResumeOptions::new().force_resume(true)] {
        let e = job.go_on(&options).unwrap_err();
        assert_eq!(failed(&e), [(STATE.to_owned(), CheckpointErrorKind::Incompatible)]);
        assert!(e.to_string().contains("version 2") && e.to_string().contains("newer"), "{e}");
    }
}

#[test]
fn a_state_that_is_a_link_is_refused() {
    let job = Job::done();
    fs::rename(job.path(STATE), job.path("elsewhere.json")).unwrap();
    std::os::unix::fs::symlink("elsewhere.json", job.path(STATE)).unwrap();
    let e = job.go_on(&ResumeOptions::new()).unwrap_err();
    assert!(e.to_string().contains("symbolic link"), "{e}");
    assert_eq!(e.exit_code(), 1);
}

#[test]
fn a_checkpoint_that_a_stage_finds_bad_decides_the_exit_code() {
    let exit_code = |e: Box<dyn std::error::Error + Send + Sync>| {
        let directory = tempfile::tempdir().unwrap();
        let pipeline = Pipeline::new(directory.path()).stage(Stage::new("A"));
        let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
        let mut e = Some(e);
        run.run_all(|_| Err(e.take().unwrap())).unwrap_err().exit_code()
    };
    assert_eq!(exit_code(CheckpointError::new("x", CheckpointErrorKind::Corrupted, "bad").into()), 3);
    assert_eq!(exit_code(CheckpointError::new("x", CheckpointErrorKind::Unreadable, "bad").into()), 1);
    assert_eq!(exit_code(Error::new(ErrorKind::Corrupt, "bad").into()), 3);
    assert_eq!(exit_code(Error::new(ErrorKind::InvalidInput, "bad").into()), 1);
    assert_eq!(exit_code("bad".into()), 1);
}

#[test]
fn deep_nesting_cannot_make_a_state_cost_more_than_its_values() {
    let job = Job::done();
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let list = vec![deep.as_str(); 20_000].join(",");
    job.put(STATE, format!("{{\"stages\": {{}}, \"x\": [{list}]}}"));
    let e = PipelineState::read(job.path(STATE)).unwrap_err();
    assert!(e.message.contains("so many values"), "{e}");
}

#[test]
fn a_stage_that_the_original_completed_again_is_known_by_what_it_made_then() {
    let job = Job::done();
    let mut state = job.state_json();
    let stage = &mut state["stages"]["FEATURES"];
    // As the original leaves it: what it does not know stays.
    stage["started_at"] = json!("2026-01-22T17:27:41.213097");
    stage["completed_at"] = json!("2026-01-22T17:27:42.213097");
    stage["outputs"] = json!({"features": [job.path("features.dolmen")]});
    job.put(STATE, state.to_string());
    save(&job.path("features.dolmen"), b"other");
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), ["PREDICTION"]);
    assert!(job.log().entries().unwrap().is_empty());
    assert_eq!(fs::read(job.path("prediction.txt")).unwrap(), b"other");
}

// What is remembered as failed.

fn flip(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = dolmen::Checkpoint::from_bytes(&bytes).unwrap().tensor("data").unwrap().file_offset().unwrap() as usize;
    bytes[at] ^= 1;
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn a_checkpoint_that_is_remembered_as_failed_is_validated_in_full_and_not_forgotten_by_a_glance() {
    let job = Job::done();
    let path = job.path("features.dolmen");
    flip(&path);
    // A glance cannot tell.
    assert_eq!(job.resume().summary().complete, 3);
    job.log().append(&CheckpointError::new(&path, CheckpointErrorKind::Corrupted, "damaged")).unwrap();
    for _ in 0..2 {
        assert!(matches!(job.pipeline().resume(&ResumeOptions::new()), Err(PipelineError::Checkpoints { .. })));
        assert!(!job.log().entries().unwrap().is_empty());
    }
    assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap(), ["FEATURES"]);
    assert!(job.log().entries().unwrap().is_empty());
}

#[test]
fn a_checkpoint_that_was_modified_is_validated_in_full() {
    let job = Job::done();
    let path = job.path("features.dolmen");
    flip(&path);
    let later = fs::metadata(&path).unwrap().modified().unwrap() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert!(matches!(job.pipeline().resume(&ResumeOptions::new()), Err(PipelineError::Checkpoints { .. })));
}

#[test]
fn an_input_that_a_stage_finds_damaged_is_made_again_when_forced() {
    let job = Job::done();
    flip(&job.path("features.dolmen"));
    fs::remove_file(job.path("prediction.txt")).unwrap();
    let e = job.go_on(&ResumeOptions::new()).unwrap_err();
    assert!(matches!(e, PipelineError::Stage { .. }), "{e}");
    assert_eq!(job.log().entries().unwrap().len(), 1, "what the stage found is remembered");
    // Now it is known, and said with what to do.
    let e = job.go_on(&ResumeOptions::new()).unwrap_err();
    assert!(e.to_string().contains("--force-resume"), "{e}");
    assert_eq!(job.go_on(&ResumeOptions::new().force_resume(true)).unwrap(), ["FEATURES", "PREDICTION"]);
    assert!(job.log().entries().unwrap().is_empty());
}

#[test]
fn stages_that_the_pipeline_no_longer_has_do_not_count() {
    let job = Job::done();
    let shorter = Pipeline::new(job.directory.path())
        .config("expected_length", 500)
        .stage(Stage::new("CHUNKING").output("chunks.fa"));
    assert_eq!(shorter.resume(&ResumeOptions::new()).unwrap().summary().total, 1);
    let summary = dolmen::lifecycle::Summary::of_state(&job.state());
    assert_eq!((summary.complete, summary.total, summary.next), (1, 1, None));
    // Whoever goes back to them finds them.
    assert_eq!(job.go_on(&ResumeOptions::new()).unwrap(), [""; 0]);
}

// The summary.

#[test]
fn the_summary_speaks_as_the_original_does() {
    let job = Job::new();
    let mut run = job.resume();
    assert_eq!(run.summary().to_string(), "Progress: 0/3 stages complete, resuming from: CHUNKING");
    let stage = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    run.complete(stage).unwrap();
    let heading = "=== Resuming Pipeline ===\nProgress: 1/3 stages complete\nResuming from stage: FEATURES";
    assert_eq!(run.summary().heading(), heading);
    run.run_all(|stage| job.work(stage.name())).unwrap();
    assert_eq!(run.summary().to_string(), "Progress: 3/3 stages complete");
    assert_eq!(run.summary().heading(), "=== Resuming Pipeline ===\nProgress: 3/3 stages complete");
    drop(run);

    for i in 0..7 {
        let path = job.path(&format!("output_{i}\u{1b}.pt"));
        job.log().append(&CheckpointError::new(path, CheckpointErrorKind::Corrupted, "file is 0 bytes")).unwrap();
    }
    let text = job.resume().summary().to_string();
    assert!(text.contains("Found 7 failed checkpoints from previous runs:\n  output_0"), "{text}");
    assert!(text.ends_with("\n  ... and 2 more") && !text.contains('\u{1b}'), "{text}");
}

// Crashes and faults.

/// A pipeline whose state is in memory and whose outputs are real.
fn in_memory(job: &Job) -> Pipeline {
    Pipeline::new(DIRECTORY)
        .config("expected_length", 500)
        .stage(Stage::new("CHUNKING").output(job.path("chunks.fa")))
        .stage(Stage::new("FEATURES").input(job.path("chunks.fa")).checkpoint(job.path("features.dolmen")))
        .stage(Stage::new("PREDICTION").input(job.path("features.dolmen")).output(job.path("prediction.txt")))
}

fn saving_in(memory: &Memory) -> ResumeOptions {
    ResumeOptions::new().save_options(SaveOptions::new().file_system(Arc::new(memory.clone())))
}

/// The stages that a state calls complete.
fn complete_in(state: Option<&[u8]>) -> Vec<String> {
    let Some(bytes) = state else { return Vec::new() };
    let state: Json = serde_json::from_slice(bytes).expect("a whole state");
    let stages = state["stages"].as_object().unwrap();
    stages.iter().filter(|(_, stage)| stage["status"] == "completed").map(|(name, _)| name.clone()).collect()
}

/// Runs all stages, and notes after how many calls which state was acknowledged.
fn run_noting(job: &Job, memory: &Memory) -> Vec<(usize, Option<Vec<u8>>)> {
    let mut acknowledged = vec![(0, None)];
    let mut note = || acknowledged.push((memory.calls().len(), memory.content(STATE)));
    let mut run = in_memory(job).resume(&saving_in(memory)).unwrap();
    note();
    while let Some(stage) = run.begin_next().unwrap() {
        note();
        job.work(stage.name()).unwrap();
        run.complete(stage).unwrap();
        note();
    }
    acknowledged
}

#[test]
fn a_crash_at_any_point_leaves_the_old_or_the_new_state_and_loses_no_acknowledged_completion() {
    let job = Job::new();
    let memory = Memory::new().behave(|b| b.watched = Some(STATE.into()));
    let acknowledged = run_noting(&job, &memory);
    assert_eq!(acknowledged.len(), 8);
    let moments = memory.take_moments();
    assert_eq!(moments.len(), memory.calls().len());

    let mut resumed = std::collections::BTreeSet::new();
    let mut crashes = 0;
    for (call, moment) in moments.iter().enumerate() {
        // What is acknowledged when this call begins, and what comes next.
        let last = acknowledged.iter().rposition(|(calls, _)| *calls <= call).unwrap();
        let allowed: Vec<&Option<Vec<u8>>> = acknowledged[last..].iter().take(2).map(|(_, state)| state).collect();
        assert!(allowed.contains(&&moment.visible), "after {:?}", moment.call);
        for state in &moment.after_crash {
            crashes += 1;
            assert!(allowed.contains(&state), "a crash after call {call}, {:?}, leaves {state:?}", moment.call);
            // What was acknowledged is not done again.
            let sure = complete_in(allowed[0].as_deref());
            if resumed.insert((sure.clone(), state.clone())) {
                let after = Memory::new();
                if let Some(bytes) = state {
                    after.put(STATE, 0o644, bytes);
                }
                let done = job.go_on_with(&in_memory(&job), &saving_in(&after)).unwrap();
                assert!(done.iter().all(|stage| !sure.contains(stage)), "{done:?} although {sure:?}");
                assert_eq!(complete_in(after.content(STATE).as_deref()).len(), 3);
            }
        }
    }
    assert!(crashes > 100 && resumed.len() > 8, "{crashes} {}", resumed.len());
}

#[test]
fn a_state_that_is_not_flushed_is_caught_by_the_crash_test() {
    for (file, directory) in [(true, false), (false, true)] {
        let job = Job::new();
        let memory = Memory::new().behave(|b| {
            b.watched = Some(STATE.into());
            b.ignores_file_sync = file;
            b.ignores_directory_sync = directory;
        });
        let mut run = in_memory(&job).resume(&saving_in(&memory)).unwrap();
        let stage = run.begin_next().unwrap().unwrap();
        job.work("CHUNKING").unwrap();
        run.complete(stage).unwrap();
        let good = memory.content(STATE);
        let lost = memory.after_crash(STATE).into_iter().any(|state| state != good);
        assert!(lost, "{file} {directory}");
    }
}

#[test]
fn any_call_that_fails_leaves_a_state_from_which_the_pipeline_goes_on() {
    let mut faults = 0;
    for after_effect in [false, true] {
        for call in 0.. {
            let job = Job::new();
            let fault = Fault { call, errno: rustix::io::Errno::IO.raw_os_error(), after_effect, forever: false };
            let memory = Memory::new().behave(|b| b.fault = Some(fault));
            let mut acknowledged: Vec<String> = Vec::new();
            let result = in_memory(&job).resume(&saving_in(&memory)).and_then(|mut run| {
                while let Some(stage) = run.begin_next()? {
                    job.work(stage.name()).unwrap();
                    run.complete(&stage)?;
                    acknowledged.push(stage.name().to_owned());
                    assert_eq!(run.summary().complete, acknowledged.len());
                }
                Ok(())
            });
            if memory.failed().is_empty() {
                result.unwrap();
                break;
            }
            faults += 1;
            let memory = memory.behave(|b| b.fault = None);
            let story = format!("{fault:?}, {result:?}");
            if memory.content(STATE).is_some() {
                assert!(complete_in(memory.content(STATE).as_deref()).len() >= acknowledged.len(), "{story}");
            }
            let done = job.go_on_with(&in_memory(&job), &saving_in(&memory)).unwrap();
            assert!(done.iter().all(|stage| !acknowledged.contains(stage)), "{story}: {done:?}");
            assert_eq!(complete_in(memory.content(STATE).as_deref()).len(), 3, "{story}");
        }
    }
    assert!(faults > 100, "{faults}");
}

#[test]
fn completing_can_be_tried_again_when_only_the_state_could_not_be_saved() {
    let job = Job::new();
    let memory = Memory::new();
    let mut run = in_memory(&job).resume(&saving_in(&memory)).unwrap();
    let stage = run.begin_next().unwrap().unwrap();
    job.work("CHUNKING").unwrap();
    let full = rustix::io::Errno::NOSPC.raw_os_error();
    let fault = Fault { call: memory.calls().len(), errno: full, after_effect: false, forever: true };
    let memory = memory.behave(|b| b.fault = Some(fault));
    assert!(run.complete(&stage).is_err());
    assert_eq!(run.summary().complete, 0);
    let _memory = memory.behave(|b| b.fault = None);
    run.complete(&stage).unwrap();
    assert_eq!(run.next_stage(), Some("FEATURES"));
}

// Several processes.

/// What the test binary does when another test runs it: resumes the pipeline of a directory and holds it, or says why it cannot.
#[test]
fn as_another_process() {
    let Some(directory) = std::env::var_os("DOLMEN_TEST_RESUME_IN") else { return };
    let pipeline = Pipeline::new(&directory).stage(Stage::new("A").output("a.txt"));
    match pipeline.resume(&ResumeOptions::new()) {
        Ok(mut run) => {
            let _stage = run.begin_next().unwrap();
            fs::write(Path::new(&directory).join("running"), std::process::id().to_string()).unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        Err(e) => fs::write(Path::new(&directory).join("refused"), e.to_string()).unwrap(),
    }
}

fn another_process(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_another_process"])
        .env("DOLMEN_TEST_RESUME_IN", directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_for(path: &Path) -> String {
    let begun = Instant::now();
    loop {
        match fs::read_to_string(path) {
            Ok(text) if !text.is_empty() => return text,
            _ if begun.elapsed() > Duration::from_secs(30) => panic!("{path:?} does not come"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn two_processes_do_not_run_in_one_directory_and_a_killed_one_keeps_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let mut first = another_process(place);
    let pid = wait_for(&place.join("running"));

    let mut second = another_process(place);
    let refused = wait_for(&place.join("refused"));
    assert!(refused.contains("another process runs this pipeline"), "{refused}");
    assert!(refused.contains(&format!("process {pid} on ")) && refused.contains(", since 20"), "{refused}");
    second.wait().unwrap();

    let pipeline = Pipeline::new(place).stage(Stage::new("A").output("a.txt"));
    let begun = Instant::now();
    for e in [pipeline.resume(&ResumeOptions::new()), pipeline.restart(&ResumeOptions::new())] {
        match e {
            Err(e @ PipelineError::Locked { .. }) => assert_eq!(e.exit_code(), 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait");
    // The state can be read meanwhile.
    assert_eq!(PipelineState::read(place.join(STATE)).unwrap().stage("A").unwrap().status, StageStatus::InProgress);

    first.kill().unwrap();
    first.wait().unwrap();
    let mut run = pipeline.resume(&ResumeOptions::new()).unwrap();
    assert_eq!(run.begin_next().unwrap().unwrap().name(), "A");
}

#[test]
fn two_runs_of_one_process_exclude_each_other_too() {
    let job = Job::new();
    let run = job.resume();
    match job.pipeline().resume(&ResumeOptions::new()) {
        Err(PipelineError::Locked { holder: Some(holder), .. }) => assert_eq!(holder.pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(run);
    job.resume();
}

#[test]
fn a_run_whose_lock_was_taken_away_records_nothing_more() {
    let job = Job::new();
    let mut first = job.resume();
    let stage = first.begin_next().unwrap().unwrap();
    fs::remove_file(job.path("pipeline.lock")).unwrap();
    let second = job.resume();
    let before = fs::read(job.path(STATE)).unwrap();
    job.put("chunks.fa", "ACGT");
    let e = first.complete(stage).unwrap_err();
    assert!(e.to_string().contains("the lock was taken away"), "{e}");
    assert_eq!(fs::read(job.path(STATE)).unwrap(), before);
    drop(second);
}

#[test]
fn what_stands_in_a_lock_file_cannot_mislead() {
    let job = Job::new();
    let _run = job.resume();
    for note in ["", "{", "\u{1b}[31m", "{\"pid\": 1, \"host\": \"\u{1b}[31m\", \"since\": \"now\"}", "{\"pid\": -1}"] {
        job.put("pipeline.lock", note);
        match job.pipeline().resume(&ResumeOptions::new()) {
            Err(e @ PipelineError::Locked { holder: None, .. }) => assert!(!e.to_string().contains('\u{1b}')),
            other => panic!("{note:?}: {other:?}"),
        }
    }
}

#[test]
fn a_file_system_without_locks_is_used_and_named() {
    let job = Job::new();
    let memory = Memory::new().behave(|b| b.locks = false);
    let run = in_memory(&job).resume(&saving_in(&memory)).unwrap();
    assert!(run.summary().to_string().contains("no locks"), "{}", run.summary());
    drop(run);

    // As a network file system without its lock daemon says it.
    let call = memory.calls().iter().position(|call| matches!(call, Call::TryLock(_))).unwrap();
    let errno = rustix::io::Errno::NOLCK.raw_os_error();
    let fault = Fault { call, errno, after_effect: false, forever: false };
    let memory = Memory::new().behave(|b| b.fault = Some(fault));
    let run = in_memory(&job).resume(&saving_in(&memory)).unwrap();
    assert!(run.summary().to_string().contains("no locks"), "{}", run.summary());
}
