//! The saver and the checker of the block-log harness; `run.py` starts both. See README.md.
//!
//! ```text
//! dolmen-block-log save DIRECTORY SEED STEPS MARKS OFFSET none|file-sync|directory-sync breeze|storm
//! dolmen-block-log check SCRATCH SEED STEPS          one question a line on stdin: DIRECTORY DONE BEGUN LIVE
//! ```

mod broken;
mod check;
mod marks;
mod random;
mod voyage;
mod weather;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use broken::{Broken, Omitted};
use check::Checker;
use dolmen::commit::RealFileSystem;
use dolmen::commit::file_system::FileSystem;
use marks::{Mark, Marks};
use random::Random;
use voyage::Voyage;
use weather::{Storm, breeze};

const USAGE: &str = "usage: save DIRECTORY SEED STEPS MARKS OFFSET OMITTED WEATHER | check SCRATCH SEED STEPS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["save", directory, seed, steps, marks, offset, omitted, weather] => open_marks(marks, offset)
            .and_then(|marks| save(Path::new(directory), seed, steps, &marks, omitted, weather)),
        ["check", scratch, seed, steps] => answer(Path::new(scratch), seed, steps),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn open_marks(device: &str, offset: &str) -> Result<Marks, Box<dyn Error>> {
    Ok(Marks::open(Path::new(device), offset.parse()?)?)
}

/// Takes every step, and tells before and after each on stdout and in the log of block writes.
fn save(
    directory: &Path,
    seed: &str,
    steps: &str,
    marks: &Marks,
    omitted: &str,
    weather: &str,
) -> Result<(), Box<dyn Error>> {
    let file_system: Arc<dyn FileSystem> = match omitted {
        "none" => Arc::new(RealFileSystem),
        "file-sync" => Arc::new(Broken::new(Omitted::FileSync)),
        "directory-sync" => Arc::new(Broken::new(Omitted::DirectorySync)),
        _ => return Err(USAGE.into()),
    };
    let seed = seed.parse()?;
    let mut voyage = Voyage::new(directory, seed, steps.parse()?, file_system);
    let mut between = Random::new(seed, u64::MAX - 1);
    marks.write(Mark::Start, 0)?;
    let storm = (weather == "storm").then(|| Storm::rise(directory, seed));
    for number in 1..=voyage.len() {
        breeze(directory, &mut between);
        marks.write(Mark::Begun, number)?;
        println!("begun {number} {}", voyage.describe(number));
        voyage.take(number)?;
        marks.write(Mark::Done, number)?;
        println!("done {number}");
    }
    drop(storm);
    marks.write(Mark::End, 0)?;
    Ok(())
}

/// Answers, for each question, with `ok` or with what is wrong, in one line.
fn answer(scratch: &Path, seed: &str, steps: &str) -> Result<(), Box<dyn Error>> {
    let checker = Checker::rehearse(scratch, seed.parse()?, steps.parse()?)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        let [directory, done, begun, live] = words.as_slice() else {
            return Err(format!("not a question: {line:?}").into());
        };
        let mut found = checker.check(Path::new(directory), done.parse()?, begun.parse()?);
        if *live == "live" {
            checker.live_on(Path::new(directory), &mut found);
        }
        println!("{}", found.line());
    }
    Ok(())
}
