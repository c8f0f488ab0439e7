//! A long job that may be killed at any moment: nine stages from sequences to a verdict on each.
//!
//! `cargo run --example nine_stages -- DIR`. Kill it, and run it again: it goes on where it stopped.
//!
//! The shape is that of a real pipeline that finds viruses in sequencing data. Sequences are cut into chunks, chunks are translated,
//! nucleotides and proteins become features, features are joined by their ids, a classifier scores them, and the scores of a
//! sequence's chunks become its verdict. The sequences are invented, and the features are hashed k-mers instead of the two
//! language models', computed on the spot. How it stores, resumes and reports is not a toy.

mod biology;
mod features;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dolmen::commit::AtomicFile;
use dolmen::format::checksum::crc32;
use dolmen::format::value::Dict;
use dolmen::lifecycle::{Pipeline, PipelineError, ResumeOptions, RunningStage, ShardedBatches, Stage, Validator};
use dolmen::{Builder, Checkpoint, DType, Error, Result, SaveOptions, Value, Writer};

use biology::Sequence;
use features::{NUCLEOTIDE_COLUMNS, PROTEIN_COLUMNS};

/// Letters of a chunk.
const CHUNK_LENGTH: usize = 300;
/// Sequences of a split file, and so of a batch of features.
const PER_FILE: usize = 24;
/// Workers that compute protein features, each with a shard of its own.
const WORKERS: u32 = 2;

/// A nine-stage toy pipeline that resumes.
#[derive(Parser)]
#[command(name = "nine_stages")]
pub struct Args {
    /// Where everything is read and written.
    directory: PathBuf,
    /// How many sequences to invent.
    #[arg(long, value_name = "N", default_value_t = 60)]
    sequences: u64,
    /// Trust the outputs of completed stages without opening them.
    #[arg(long)]
    skip_checkpoint_validation: bool,
    /// Go on past corrupted outputs of completed stages, by doing those stages again.
    #[arg(long)]
    force_resume: bool,
    /// Append a line to this file for each stage that is begun and each batch that is computed.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

fn main() -> ExitCode {
    ExitCode::from(run(&Args::parse()))
}

/// The whole program, which gives the code to exit with: 0 if all stages are complete, 3 because of a checkpoint, 1 for any other trouble.
pub fn run(args: &Args) -> u8 {
    match go_on(args) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("nine_stages: {e}");
            e.exit_code()
        }
    }
}

/// What each stage reads and makes. Files that are known only when a stage has run are named then.
fn pipeline(args: &Args) -> Pipeline {
    // Whatever holds features has as many ids as rows.
    let features = Validator::new().required_keys(["ids", "data"]).rows("ids", "data");
    Pipeline::new(&args.directory)
        .config("sequences", args.sequences)
        .config("chunk_length", CHUNK_LENGTH as u64)
        .config("per_file", PER_FILE as u64)
        .validator(features)
        .stage(Stage::new("CHUNKING").input("sequences.fa").output("chunks.fa"))
        .stage(Stage::new("TRANSLATION").input("chunks.fa").output("nucleotide.fa").output("protein.faa"))
        .stage(Stage::new("NUCLEOTIDE_SPLITTING").input("nucleotide.fa"))
        .stage(Stage::new("PROTEIN_SPLITTING").input("protein.faa"))
        .stage(Stage::new("NUCLEOTIDE_FEATURES").inputs_from("NUCLEOTIDE_SPLITTING"))
        .stage(Stage::new("PROTEIN_FEATURES").inputs_from("PROTEIN_SPLITTING"))
        .stage(
            Stage::new("FEATURE_MERGING")
                .inputs_from("NUCLEOTIDE_FEATURES")
                .inputs_from("PROTEIN_FEATURES")
                .checkpoint("merged.dolmen"),
        )
        .stage(Stage::new("PREDICTION").input("merged.dolmen").checkpoint("predictions.dolmen"))
        .stage(Stage::new("CONSENSUS").input("predictions.dolmen").output("consensus.tsv"))
}

fn go_on(args: &Args) -> Result<(), PipelineError> {
    let mut journal = Journal::open(args.journal.as_deref())?;
    invent_input(args)?;

    let options = ResumeOptions::new()
        .skip_checkpoint_validation(args.skip_checkpoint_validation)
        .force_resume(args.force_resume);
    let mut run = pipeline(args).resume(&options)?;
    println!("{}", run.summary());
    run.run_all(|stage| {
        journal.note(&format!("stage {}", stage.name()))?;
        match stage.name() {
            "CHUNKING" => chunk(stage),
            "TRANSLATION" => translate(stage),
            "NUCLEOTIDE_SPLITTING" => split(stage, "nucleotide.fa", "nucleotide_split"),
            "PROTEIN_SPLITTING" => split(stage, "protein.faa", "protein_split"),
            "NUCLEOTIDE_FEATURES" => nucleotide_features(stage, &mut journal),
            "PROTEIN_FEATURES" => protein_features(stage, &mut journal),
            "FEATURE_MERGING" => merge(stage),
            "PREDICTION" => predict(stage),
            _ => agree(stage),
        }
    })?;
    println!("{}", run.summary());
    Ok(())
}

// The stages.

/// Cuts sequences into chunks of the same length; what is left over at the end overlaps the chunk before.
fn chunk(stage: &RunningStage) -> Result<()> {
    let sequences = read_sequences(&stage.path("sequences.fa"))?;
    let chunks: Vec<Sequence> = sequences.iter().flat_map(|sequence| sequence.chunks(CHUNK_LENGTH)).collect();
    save_text(&stage.path("chunks.fa"), &biology::fasta(&chunks))
}

/// Translates each chunk in all six frames, and keeps the longest stretch that no stop codon interrupts: as nucleotides and as protein.
fn translate(stage: &RunningStage) -> Result<()> {
    let chunks = read_sequences(&stage.path("chunks.fa"))?;
    let (nucleotides, proteins): (Vec<_>, Vec<_>) = chunks.iter().map(Sequence::longest_open_frame).unzip();
    save_text(&stage.path("nucleotide.fa"), &biology::fasta(&nucleotides))?;
    save_text(&stage.path("protein.faa"), &biology::fasta(&proteins))
}

/// Splits a file into files of `PER_FILE` sequences. How many there are is known only now, so they are named to the stage here.
fn split(stage: &mut RunningStage, file: &str, directory: &str) -> Result<()> {
    let sequences = read_sequences(&stage.path(file))?;
    dolmen::commit::create_directories(&dolmen::commit::RealFileSystem, stage.path(directory))?;
    for (number, part) in sequences.chunks(PER_FILE).enumerate() {
        let output = stage.path(directory).join(format!("output_{number}.fa"));
        save_text(&output, &biology::fasta(part))?;
        stage.add_output(output);
    }
    Ok(())
}

/// A file of features for each split file. Those that a run before this one finished are kept.
fn nucleotide_features(stage: &mut RunningStage, journal: &mut Journal) -> Result<()> {
    for input in stage.inputs().collect::<Vec<_>>() {
        let text = read_text(&input)?;
        let output = input.with_file_name(format!("{}_DNABERT_S.dolmen", stem(&input)));
        if !is_made_from(&output, &text) {
            journal.note(&format!("nucleotide {}", stem(&input)))?;
            let sequences = biology::parse(&text);
            let rows = sequences.iter().flat_map(|sequence| features::of_nucleotides(&sequence.letters));
            feature_table(sequences.iter(), &rows.collect::<Vec<_>>(), NUCLEOTIDE_COLUMNS, &text)?.save(&output)?;
        }
        stage.add_checkpoint(output);
    }
    Ok(())
}

/// A batch of features for each split file, computed by several workers: worker R does files R, R + 2, R + 4 and so on, as the batches 0,
/// 1, 2 of its shard. Each does what is missing or bad in its shard, and nothing else.
fn protein_features(stage: &mut RunningStage, journal: &mut Journal) -> Result<()> {
    let inputs: Vec<PathBuf> = stage.inputs().collect();
    let batches = ShardedBatches::new(stage.path("protein_features"));
    let journal = std::sync::Mutex::new(journal);

    let work = |rank: u32| -> Result<Vec<PathBuf>> {
        let mine = inputs.iter().skip(rank as usize).step_by(WORKERS as usize);
        let texts = mine.map(|input| read_text(input)).collect::<Result<Vec<String>>>()?;
        let shard = batches.shard(rank)?;
        let mut state = shard.resume(&Validator::new().quick(true).required_keys(["ids", "data"]))?;
        state.retain(|batch| texts.get(batch.number as usize).is_some_and(|text| is_made_from(&batch.path, text)));
        for number in state.to_do(texts.len() as u64) {
            journal.lock().unwrap().note(&format!("protein {rank}/{number}"))?;
            let text = &texts[number as usize];
            let mut sequences = biology::parse(text);
            // Sorted by length, as a model's batches are, and so in another order than the nucleotides.
            sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.letters.len()));
            let rows = sequences.iter().flat_map(|sequence| features::of_protein(&sequence.letters));
            let rows: Vec<f32> = rows.collect();
            shard.save(number, &feature_table(sequences.iter(), &rows, PROTEIN_COLUMNS, text)?)?;
        }
        (0..texts.len() as u64).map(|number| shard.path(number)).collect()
    };
    let made = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|rank| scope.spawn(move || work(rank))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect::<Vec<_>>()
    });
    for paths in made {
        paths?.into_iter().for_each(|path| stage.add_checkpoint(path));
    }
    Ok(())
}

/// Joins both kinds of features by id. The rows are written one by one, and only the proteins' places are held in memory.
fn merge(stage: &RunningStage) -> Result<()> {
    let inputs: Vec<PathBuf> = stage.inputs().collect();
    let (nucleotides, proteins): (Vec<_>, Vec<_>) = inputs.iter().partition(|path| stem(path).ends_with("DNABERT_S"));
    let nucleotides = nucleotides.into_iter().map(Checkpoint::open).collect::<Result<Vec<_>>>()?;
    let proteins = proteins.into_iter().map(Checkpoint::open).collect::<Result<Vec<_>>>()?;

    let mut places = BTreeMap::new();
    for (file, checkpoint) in proteins.iter().enumerate() {
        places.extend(ids(checkpoint)?.into_iter().zip(0u64..).map(|(id, row)| (id, (file, row))));
    }
    let mut writer = Writer::create(stage.path("merged.dolmen"))?;
    let mut rows = writer.begin_rows("data", DType::F32, [(NUCLEOTIDE_COLUMNS + PROTEIN_COLUMNS) as u64])?;
    let mut merged = Vec::new();
    for checkpoint in &nucleotides {
        let data = checkpoint.tensor("data")?;
        for (id, row) in ids(checkpoint)?.into_iter().zip(0u64..) {
            let (file, protein_row) = *places
                .get(&id)
                .ok_or_else(|| Error::new(dolmen::ErrorKind::NotFound, format!("no protein features of {id}")))?;
            rows.write_elements(data.rows(row..row + 1)?.as_slice::<f32>()?)?;
            let protein = proteins[file].tensor("data")?;
            rows.write_elements(protein.rows(protein_row..protein_row + 1)?.as_slice::<f32>()?)?;
            merged.push(id);
        }
    }
    rows.finish()?;
    writer.document(table_document(merged));
    writer.commit()
}

/// Scores every row with a linear classifier of two outputs.
fn predict(stage: &RunningStage) -> Result<()> {
    let merged = Checkpoint::open(stage.path("merged.dolmen"))?;
    let data = merged.tensor("data")?;
    let ids = ids(&merged)?;
    let weights = features::classifier(NUCLEOTIDE_COLUMNS + PROTEIN_COLUMNS);
    let mut scores = Vec::with_capacity(2 * ids.len());
    for row in 0..ids.len() as u64 {
        let row: &[f32] = data.rows(row..row + 1)?.as_slice()?;
        scores.extend(weights.iter().map(|output| output.iter().zip(row).map(|(w, x)| w * x).sum::<f32>()));
    }
    let mut predictions = Builder::new();
    predictions.tensor("data", (&scores, [ids.len() as u64, 2]))?;
    predictions.document(table_document(ids));
    predictions.save(stage.path("predictions.dolmen"))
}

/// The mean over a sequence's chunks decides.
fn agree(stage: &RunningStage) -> Result<()> {
    let predictions = Checkpoint::open(stage.path("predictions.dolmen"))?;
    let scores: &[f32] = predictions.tensor("data")?.as_slice()?;
    let mut sums: BTreeMap<String, (f32, u32)> = BTreeMap::new();
    for (id, score) in ids(&predictions)?.iter().zip(scores.chunks_exact(2)) {
        let sequence = id.split("_chunk").next().unwrap_or(id);
        let (sum, count) = sums.entry(sequence.to_owned()).or_default();
        *sum += score[1] - score[0];
        *count += 1;
    }
    let mut text = String::from("sequence\tchunks\tscore\tverdict\n");
    for (sequence, (sum, count)) in sums {
        let mean = sum / count as f32;
        text += &format!("{sequence}\t{count}\t{mean:.4}\t{}\n", if mean > 0.0 { "virus" } else { "other" });
    }
    save_text(&stage.path("consensus.tsv"), &text)
}

// Files.

/// The sequences to work on, made once: they stand for what a sequencing machine wrote.
fn invent_input(args: &Args) -> Result<()> {
    let path = args.directory.join("sequences.fa");
    if path.exists() {
        return Ok(());
    }
    dolmen::commit::create_directories(&dolmen::commit::RealFileSystem, &args.directory)?;
    save_text(&path, &biology::fasta(&biology::invented(args.sequences)))
}

/// Features with their ids, and from what they were made.
fn feature_table<'a>(
    sequences: impl Iterator<Item = &'a Sequence>,
    rows: &'a Vec<f32>,
    columns: usize,
    made_from: &str,
) -> Result<Builder<'a>> {
    let mut table = Builder::new();
    table.tensor("data", (rows, [(rows.len() / columns) as u64, columns as u64]))?;
    table.document(table_document(sequences.map(|sequence| sequence.id.clone())));
    table.metadata("made_from", format!("{:08x}", crc32(made_from.as_bytes())));
    Ok(table)
}

fn table_document(ids: impl IntoIterator<Item = String>) -> Value {
    Dict::from([("ids", Value::from_iter(ids)), ("data", Value::tensor("data"))]).into()
}

/// Whether a file of features is there, passes quick validation and was made from this text: it can be kept then.
fn is_made_from(path: &Path, text: &str) -> bool {
    let made_from = || Checkpoint::open_on_demand(path).ok()?.metadata().ok()?.remove("made_from");
    let is_valid = || Validator::new().quick(true).required_keys(["ids", "data"]).validate(path).is_ok();
    path.exists() && made_from() == Some(format!("{:08x}", crc32(text.as_bytes())).into()) && is_valid()
}

fn ids(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let document = checkpoint.document()?;
    let ids = document.as_ref().and_then(|document| document.get("ids")).and_then(Value::as_slice);
    Ok(ids.unwrap_or_default().iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", e).with_path(path))
}

fn read_sequences(path: &Path) -> Result<Vec<Sequence>> {
    Ok(biology::parse(&read_text(path)?))
}

/// Text is saved as checkpoints are: all of it or nothing, and durably.
fn save_text(path: &Path, text: &str) -> Result<()> {
    let mut file = AtomicFile::create(path, &SaveOptions::new())?;
    file.append(text.as_bytes())?;
    file.commit()
}

/// Notes what is really done, for whoever wants to see that nothing is done twice.
struct Journal(Option<std::fs::File>);

impl Journal {
    fn open(path: Option<&Path>) -> Result<Journal> {
        let open = |path: &Path| {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            file.map_err(|e| Error::io("cannot open the journal", e).with_path(path))
        };
        path.map(open).transpose().map(Journal)
    }

    fn note(&mut self, line: &str) -> Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io("cannot write to the journal", e))
    }
}
