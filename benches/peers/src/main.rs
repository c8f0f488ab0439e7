//! What Dolmen, candle and burn's `pytorch-reader` make of PyTorch's files, and how fast: see `benches/README.md`.
//!
//! ```text
//! dolmen-peers read FOLDER      what each reads of the files of a folder
//! dolmen-peers list FILE        opening a file and listing its tensors, in turns
//! dolmen-peers load FILE        every tensor's bytes, in turns
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dolmen::Checkpoint;

/// The tensors of a file by name, each as its elements' bytes in row-major order.
type Tensors = BTreeMap<String, Vec<u8>>;
type Read = fn(&Path) -> Result<Tensors, String>;
/// Reads all data, or only lists; gives the number of tensors.
type Work = fn(&Path, bool) -> Result<usize, String>;

const READERS: [(&str, Read, Work); 3] =
    [("Dolmen", dolmen, dolmen_work), ("candle", candle, candle_work), ("pytorch-reader", burn, burn_work)];

fn words(e: impl std::fmt::Display) -> String {
    e.to_string().lines().next().unwrap_or_default().chars().take(100).collect()
}

fn dolmen(path: &Path) -> Result<Tensors, String> {
    let checkpoint = Checkpoint::open(path).map_err(words)?;
    let tensors = checkpoint.tensors().map(|tensor| {
        let tensor = tensor.map_err(words)?;
        let mut bytes = Vec::new();
        let taken = tensor.stream(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        taken.map_err(words)?;
        Ok((tensor.name().to_owned(), bytes))
    });
    tensors.collect()
}

fn dolmen_work(path: &Path, data: bool) -> Result<usize, String> {
    // SAFETY: nobody changes the file meanwhile.
    let checkpoint = unsafe { Checkpoint::map(path) }.map_err(words)?;
    let mut bytes = 0;
    for tensor in checkpoint.tensors() {
        let tensor = tensor.map_err(words)?;
        bytes += tensor.name().len() + tensor.shape().len();
        if data {
            bytes += tensor.bytes().map_err(words)?.len();
        }
    }
    std::hint::black_box(bytes);
    Ok(checkpoint.len())
}

fn candle_bytes(tensor: &candle_core::Tensor) -> Result<Vec<u8>, String> {
    use candle_core::DType;
    let flat = tensor.flatten_all().map_err(words)?;
    macro_rules! bytes {
        ($type:ty) => {
            flat.to_vec1::<$type>().map_err(words)?.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match flat.dtype() {
        DType::U8 => flat.to_vec1::<u8>().map_err(words)?,
        DType::U32 => bytes!(u32),
        DType::I64 => bytes!(i64),
        DType::F32 => bytes!(f32),
        DType::F64 => bytes!(f64),
        DType::F16 | DType::BF16 => {
            // Through a wider type, which loses nothing.
            let wide = flat.to_dtype(DType::F32).and_then(|wide| wide.to_vec1::<f32>()).map_err(words)?;
            let is_half = flat.dtype() == DType::F16;
            let narrow = |value: f32| if is_half { half(value) } else { (value.to_bits() >> 16) as u16 };
            wide.into_iter().flat_map(|value| narrow(value).to_le_bytes()).collect()
        }
        other => return Err(format!("no bytes of {other:?}")),
    })
}

fn half(value: f32) -> u16 {
    dolmen::half::f16::from_f32(value).to_bits()
}

fn candle(path: &Path) -> Result<Tensors, String> {
    let tensors = candle_core::pickle::read_all(path).map_err(words)?;
    tensors.into_iter().map(|(name, tensor)| Ok((name, candle_bytes(&tensor)?))).collect()
}

fn candle_work(path: &Path, data: bool) -> Result<usize, String> {
    if data {
        return Ok(candle_core::pickle::read_all(path).map_err(words)?.len());
    }
    Ok(candle_core::pickle::PthTensors::new(path, None).map_err(words)?.tensor_infos().len())
}

fn burn(path: &Path) -> Result<Tensors, String> {
    let reader = pytorch_reader::PytorchReader::new(path).map_err(words)?;
    reader.tensors().iter().map(|(name, tensor)| Ok((name.clone(), tensor.read().map_err(words)?))).collect()
}

fn burn_work(path: &Path, data: bool) -> Result<usize, String> {
    let reader = pytorch_reader::PytorchReader::new(path).map_err(words)?;
    if data {
        for tensor in reader.tensors().values() {
            std::hint::black_box(tensor.read().map_err(words)?);
        }
    }
    Ok(reader.tensors().len())
}

/// What a reader does, and that it panicked if it did.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("PANIC".to_owned()))
}

fn read(folder: &Path) {
    std::panic::set_hook(Box::new(|_| {}));
    let files = std::fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("an entry").path());
    let is_checkpoint = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "pt" || extension == "pth");
    let mut files: Vec<PathBuf> = files.filter(is_checkpoint).collect();
    files.sort();
    println!("| file | {} |", READERS.map(|(name, ..)| name).join(" | "));
    println!("|---|---|---|---|");
    let mut totals = [[0usize; 3]; 3];
    for path in &files {
        let ours = caught(|| dolmen(path)).unwrap_or_default();
        let cells = READERS.iter().enumerate().map(|(i, (_, read, _))| match caught(|| read(path)) {
            Ok(tensors) => {
                // Names differ in how ways are written: tensors are the same if their bytes are.
                let mut rest: Vec<&Vec<u8>> = ours.values().collect();
                let mut right = 0;
                for bytes in tensors.values() {
                    if let Some(at) = rest.iter().position(|ours| *ours == bytes) {
                        rest.swap_remove(at);
                        right += 1;
                    }
                }
                let wrong = tensors.len() - right;
                totals[i][if right == ours.len() && wrong == 0 { 0 } else { 1 }] += 1;
                match wrong {
                    0 => format!("{right} of {}", ours.len()),
                    wrong => format!("{right} of {}, and {wrong} others", ours.len()),
                }
            }
            Err(e) => {
                totals[i][2] += 1;
                format!("refused: {e}")
            }
        });
        let cells: Vec<String> = cells.collect();
        println!("| {} | {} |", path.file_name().expect("a name").to_string_lossy(), cells.join(" | "));
    }
    let total = totals.map(|[all, some, none]| format!("{all} whole, {some} in part, {none} refused"));
    println!("| {} files | {} |", files.len(), total.join(" | "));
}

fn timed(path: &Path, data: bool) {
    const ROUNDS: usize = 9;
    let mut least = [None::<Duration>; 3];
    let mut outcome = [const { String::new() }; 3];
    for _ in 0..ROUNDS {
        for (i, (_, _, work)) in READERS.iter().enumerate() {
            let begin = Instant::now();
            match caught(|| work(path, data)) {
                Ok(count) => {
                    let taken = begin.elapsed();
                    least[i] = Some(least[i].map_or(taken, |least| least.min(taken)));
                    outcome[i] = format!("{count} tensors");
                }
                Err(e) => outcome[i] = format!("refused: {e}"),
            }
        }
    }
    let ours = least[0];
    for (i, (name, ..)) in READERS.iter().enumerate() {
        let ratio = least[i].zip(ours).map_or(String::new(), |(theirs, ours)| {
            format!("{:.2} ms, {:.1} times", theirs.as_secs_f64() * 1e3, theirs.as_secs_f64() / ours.as_secs_f64())
        });
        println!("{name}: {ratio} ({})", outcome[i]);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", folder] => read(Path::new(folder)),
        ["list", file] => timed(Path::new(file), false),
        ["load", file] => timed(Path::new(file), true),
        _ => eprintln!("usage: dolmen-peers read FOLDER | list FILE | load FILE"),
    }
}
