//! Prints what is in a file as `spec/vectors/README.md` asks of a reader, so that `spec/check_vectors.py` can judge this crate by the same
//! measure as any other reader:
//!
//! ```sh
//! cargo build --example conformance_reader
//! python3 spec/check_vectors.py target/debug/examples/conformance_reader
//! python3 spec/check_vectors.py --level reader target/debug/examples/conformance_reader --reader
//! ```
//!
//! Without `--reader` it verifies as a strict reader, and then opens the file; with it, it opens the file and reads all that is in it.

#[path = "../tests/common/json.rs"]
#[allow(dead_code, reason = "the tests parse JSON, too")]
mod json;
#[path = "../tests/common/sha256.rs"]
mod sha256;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::process::ExitCode;

use dolmen::{Checkpoint, Error, ErrorKind, Result, TensorView};
use json::Json;

/// Tensors of more elements have no hash: a file of a few bytes may hold any number of them.
const MOST_ELEMENTS: u64 = 1_000_000;
const MOST_BITS: u64 = 1 << 27;

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let lenient = arguments.first().is_some_and(|first| first == "--reader");
    arguments.drain(..usize::from(lenient));
    let [path] = &arguments[..] else {
        eprintln!("usage: conformance_reader [--reader] FILE");
        return ExitCode::from(1);
    };
    // Values nest 1024 deep, and to render one takes a few calls for each level.
    let read = || report(path.as_ref(), lenient).map(|report| Text(&report).to_string());
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, read);
        thread.expect("a thread can be started").join().expect("reading does not panic")
    });
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => match e.rule() {
            Some(rule) => {
                let fields = [("verdict", "rejected"), ("rule", rule), ("class", e.kind().name())];
                let message = ("message".to_owned(), Json::Text(e.to_string()));
                let report = fields.map(|(key, value)| (key.to_owned(), Json::Text(value.to_owned())));
                println!("{}", Text(&Json::Object(report.into_iter().chain([message]).collect())));
                ExitCode::from(3)
            }
            None => {
                eprintln!("{e}");
                ExitCode::from(1)
            }
        },
    }
}

/// What is in the file.
fn report(path: &std::path::Path, lenient: bool) -> Result<Json> {
    let checkpoint = Checkpoint::open(path)?;
    if !lenient {
        checkpoint.verify()?.into_result()?;
    }
    let tensors = checkpoint.tensors().map(|tensor| describe(&tensor?)).collect::<Result<_>>()?;
    let metadata = checkpoint.metadata()?;
    let document = checkpoint.document()?;
    Ok(object([
        ("verdict", Json::Text("ok".to_owned())),
        ("format_version", Json::Text(format!("1.{}", checkpoint.header().minor()))),
        ("tensors", Json::Array(tensors)),
        ("metadata", if metadata.is_empty() { Json::Null } else { json::map(&metadata) }),
        ("has_document", Json::Bool(document.is_some())),
        ("document", document.as_ref().map_or(Json::Null, json::render)),
    ]))
}

fn describe(tensor: &TensorView<'_>) -> Result<Json> {
    let numbers = |numbers: &[u64]| Json::Array(numbers.iter().map(|&n| Json::Int(n.into())).collect());
    let crc32 = tensor.storage_crc32()?.ok_or_else(|| Error::new(ErrorKind::NotFound, "a storage has no checksum"))?;
    let bits = tensor.element_count().saturating_mul(tensor.dtype().bits().into());
    let sha256 = match tensor.element_count() {
        0..=MOST_ELEMENTS if bits <= MOST_BITS => {
            let mut elements = Vec::new();
            tensor.for_each_run(|run| {
                elements.extend_from_slice(run);
                Ok(())
            })?;
            sha256::hex(&elements)
        }
        // Read, and so checked, all the same.
        _ => tensor.bytes().map(|_| String::new())?,
    };
    Ok(object([
        ("name", Json::Text(tensor.name().to_owned())),
        ("dtype", Json::Text(tensor.dtype().to_string())),
        ("bits", Json::Int(tensor.dtype().bits().into())),
        ("shape", numbers(tensor.shape())),
        ("strides", numbers(&tensor.strides())),
        ("storage", Json::Int(tensor.storage().into())),
        ("start", Json::Int(tensor.start().into())),
        ("byte_len", Json::Int(tensor.byte_len().into())),
        ("crc32", Json::Text(format!("{crc32:08x}"))),
        ("sha256", Json::Text(sha256)),
    ]))
}

fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    Json::Object(BTreeMap::from(fields.map(|(key, value)| (key.to_owned(), value))))
}

/// JSON, written.
struct Text<'a>(&'a Json);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Int(value) => write!(f, "{value}"),
            // As Rust's debug format has it: always with a fraction or an exponent, and no digit lost.
            Json::Float(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Json::Text(text) => quoted(f, text),
            Json::Array(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { "," })?;
                    write!(f, "{}", Text(item))?;
                }
                f.write_char(']')
            }
            Json::Object(fields) => {
                f.write_char('{')?;
                for (i, (key, value)) in fields.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { "," })?;
                    quoted(f, key)?;
                    write!(f, ":{}", Text(value))?;
                }
                f.write_char('}')
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
