//! The crate against `spec/reader.py`, which shares nothing with it: the same verdict on each file, and the same content of each valid one.
//! Part of `tests/corpus.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dolmen::{Checkpoint, VerifyOptions, verify_source};

use crate::common::json::{self, Json};
use crate::common::{IntoReader, is_valid, logical_bytes, sha256, with_large_stack};
use crate::fuzz::dice::Random;
use crate::fuzz::seal;
use crate::{files, root};

/// Files that are compared, unless DOLMEN_DIFFERENTIAL says how many.
const COUNT: usize = 1500;

/// The independent reader, running.
struct Server {
    process: Child,
    files: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it; `None` where there is no Python.
    fn start() -> Option<Server> {
        let python = if cfg!(windows) { "python" } else { "python3" };
        let process = Command::new(python)
            .arg(root().join("fuzz/differential.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        Some(Server::of(process))
    }

    fn of(mut process: Child) -> Server {
        let files = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Server { process, files, answers }
    }

    fn ask(&mut self, file: &[u8]) -> String {
        let input = self.files.as_mut().expect("it is piped");
        input.write_all(&(file.len() as u32).to_le_bytes()).unwrap();
        input.write_all(file).unwrap();
        input.flush().unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "spec/reader.py gave up on a file of {} bytes: {file:02x?}", file.len());
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.files.take());
        let _ = self.process.wait();
    }
}

/// What the crate says of a file: the rule that it breaks and the class of that, or what is in it.
fn ours(file: &[u8]) -> Result<Json, (String, String)> {
    let mut options = VerifyOptions::default();
    options.threads = 1;
    let report = verify_source(&file.into_reader(), &options).unwrap();
    if let Some(e) = report.problems.first() {
        return Err((e.rule().unwrap_or("none").to_owned(), e.kind().name().to_owned()));
    }
    let checkpoint = Checkpoint::from_bytes(file).expect("it is valid");
    let number = |n: u64| Json::Int(n.into());
    let numbers = |numbers: &[u64]| Json::Array(numbers.iter().map(|&n| number(n)).collect());
    let text = |text: String| Json::Text(text);
    let object = |fields: Vec<(&str, Json)>| {
        Json::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let tensor = |tensor: dolmen::TensorView<'_>| {
        let bits = u64::from(tensor.dtype().bits());
        let count = tensor.element_count();
        let few = count <= 1_000_000 && count.saturating_mul(bits) <= 1 << 27;
        let elements = if few { logical_bytes(&tensor, usize::MAX).unwrap() } else { None };
        object(vec![
            ("name", text(tensor.name().to_owned())),
            ("dtype", text(tensor.dtype().to_string())),
            ("bits", number(bits)),
            ("shape", numbers(tensor.shape())),
            ("strides", numbers(&tensor.strides())),
            ("storage", number(tensor.storage().into())),
            ("start", number(tensor.start())),
            ("byte_len", number(tensor.byte_len())),
            ("crc32", text(format!("{:08x}", tensor.storage_crc32().unwrap().expect("Dolmen's have one")))),
            ("sha256", text(elements.map(|bytes| sha256::hex(&bytes)).unwrap_or_default())),
        ])
    };
    let metadata = checkpoint.metadata().unwrap();
    let document = checkpoint.document().unwrap();
    Ok(object(vec![
        ("format_version", text(checkpoint.format_version())),
        ("metadata", if metadata.is_empty() { Json::Null } else { json::map(&metadata) }),
        ("has_document", Json::Bool(document.is_some())),
        ("document", document.as_ref().map_or(Json::Null, json::render)),
        ("tensors", Json::Array(checkpoint.tensors().map(|found| tensor(found.unwrap())).collect())),
    ]))
}

/// What was found of many files.
#[derive(Debug, Default)]
struct Tally {
    valid: usize,
    rejected: usize,
    /// Files that break several rules, of which each reader names another: ours, theirs, and how many.
    other_rule: BTreeMap<(String, String), usize>,
}

impl Tally {
    /// Compares what both say of a file; what differs.
    fn compare(&mut self, file: &[u8], answer: &str) -> Option<String> {
        let theirs = json::parse(answer);
        let verdict = theirs.field("verdict").text();
        match ours(file) {
            Err((rule, class)) => {
                if verdict != "rejected" {
                    return Some(format!("the crate says {rule}, spec/reader.py that it is valid"));
                }
                self.rejected += 1;
                let their_rule = theirs.field("rule").text();
                if rule != their_rule {
                    *self.other_rule.entry((rule, their_rule.to_owned())).or_default() += 1;
                } else if class != theirs.field("class").text() {
                    return Some(format!("both say {rule}, the crate that it is {class}, spec/reader.py {answer}"));
                }
                None
            }
            Ok(_) if verdict != "ok" => Some(format!("the crate says that it is valid, spec/reader.py {answer}")),
            Ok(Json::Object(fields)) => {
                self.valid += 1;
                let differs = fields.iter().find(|(key, ours)| theirs.get(key) != Some(ours));
                differs.map(|(key, ours)| format!("{key}: the crate says {ours:?}, spec/reader.py {answer}"))
            }
            Ok(_) => unreachable!("it is an object"),
        }
    }

    /// How many files of those that both reject they reject for another reason.
    fn other_rules(&self) -> usize {
        self.other_rule.values().sum()
    }
}

/// Files that the mutator makes of the vectors, all checksums right; half of them of the last one that was valid.
fn mutated(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let vectors = ["accept", "reject"].map(|folder| files(&root().join("spec/vectors").join(folder)));
    let seeds: Vec<Vec<u8>> = vectors
        .concat()
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .filter(|file| file.len() < 8192)
        .collect();
    let mut random = Random(11);
    let mut buffer = vec![0; 16384];
    let mut previous: Vec<u8> = Vec::new();
    (0..count).map(move |number| {
        let from = if number % 4 < 2 { &seeds[random.below(seeds.len())] } else { &previous };
        let mut len = from.len();
        buffer[..len].copy_from_slice(from);
        let seed = random.u64() as u32;
        let mut change = |bytes: &mut [u8], size: usize, most: usize| {
            // In the place of libFuzzer's own mutations.
            let size = if size < most && random.one_in(4) { size + 1 } else { size };
            if size > 0 {
                bytes[random.below(size)] = random.u64() as u8;
            }
            size
        };
        len = seal::mutate(&mut buffer, len, 16384, seed, &mut change);
        let new = buffer[..len].to_vec();
        if is_valid(&new) {
            previous.clone_from(&new);
        }
        new
    })
}

fn compare_all(what: &str, inputs: impl Iterator<Item = Vec<u8>> + Send) -> Option<Tally> {
    let Some(mut server) = Server::start() else {
        eprintln!("SKIPPED: {what}: there is no python3 to run spec/reader.py");
        return None;
    };
    let tally = with_large_stack(move || {
        let mut tally = Tally::default();
        let mut wrong = Vec::new();
        for file in inputs {
            let answer = server.ask(&file);
            if let Some(differs) = tally.compare(&file, &answer) {
                let kept = std::env::temp_dir().join(format!("dolmen-differs-{:08x}", crc32fast::hash(&file)));
                std::fs::write(&kept, &file).unwrap();
                wrong.push(format!("{}: {differs}", kept.display()));
            }
        }
        assert!(wrong.is_empty(), "{} files differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
        tally
    });
    println!("{what}: {tally:#?}, {} for another rule", tally.other_rules());
    Some(tally)
}

#[test]
fn mutated_files_are_the_same_to_the_independent_reader() {
    let count = std::env::var("DOLMEN_DIFFERENTIAL").map_or(COUNT, |count| count.parse().expect("a number"));
    let Some(tally) = compare_all("mutated files", mutated(count)) else { return };
    assert!(tally.valid * 10 > count, "only {} of {count} are valid", tally.valid);
    assert!(tally.rejected * 10 > count, "only {} of {count} are rejected", tally.rejected);
}

/// Those of a folder: `DOLMEN_CORPUS=fuzz/corpus/open_resealed`.
#[test]
#[ignore = "for people"]
fn files_of_a_corpus_are_the_same_to_the_independent_reader() {
    let folder = std::env::var("DOLMEN_CORPUS").expect("DOLMEN_CORPUS is set");
    let inputs = files(&root().join(folder)).into_iter().map(|path| std::fs::read(path).unwrap());
    compare_all("files of a corpus", inputs.filter(|file| !file.is_empty()));
}

/// A server that says the opposite is found out.
#[test]
fn a_reader_that_differs_is_told() {
    let vector = std::fs::read(files(&root().join("spec/vectors/accept")).remove(0)).unwrap();
    with_large_stack(move || {
        let mut tally = Tally::default();
        assert!(tally.compare(&vector, r#"{"verdict": "rejected", "rule": "TEN-4", "class": "Malformed"}"#).is_some());
        assert!(tally.compare(&vector[1..], r#"{"verdict": "ok"}"#).is_some());
        let wrong_class = r#"{"verdict": "rejected", "rule": "HDR-2", "class": "Corrupt"}"#;
        assert!(tally.compare(&vector[1..], wrong_class).is_some());
        let Some(mut server) = Server::start() else { return eprintln!("SKIPPED: there is no python3") };
        let answer = server.ask(&vector);
        assert_eq!(tally.compare(&vector, &answer), None);
        for (key, other) in
            [("\"document\": ", "7, \"x\": "), ("\"metadata\": ", "{}, \"y\": "), ("\"tensors\": [", "[1, ")]
        {
            let wrong = answer.replacen(key, &format!("{key}{other}"), 1);
            if wrong != answer {
                assert!(
                    tally.compare(&vector, &wrong.replace("\"tensors\": [[1, ", "\"tensors\": [1, ")).is_some(),
                    "{wrong}"
                );
            }
        }
    });
}
