//! `dolmen convert`: from one format to another, atomically.

use std::path::PathBuf;

use clap::CommandFactory;
use dolmen::foreign::torch::ExportOptions;
use dolmen::foreign::{ConvertOptions, convert};
use dolmen::{FileOptions, Result, SaveOptions};

use crate::{Outcome, human, say, style};

/// What to convert, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The file to read, of any format that is recognised
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write; its extension says in which format
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Fail if OUT exists
    #[arg(long)]
    no_overwrite: bool,
    /// Read the finished file back before it replaces OUT
    #[arg(long)]
    validate: bool,
    /// Align the data of a .dolmen file to a multiple of this: 64 to 2M, a power of two
    #[arg(long, value_name = "BYTES", value_parser = parse_alignment)]
    alignment: Option<u64>,
    /// Bytes of a .dolmen file with a checksum of their own: 4K to 1G, a power of two
    #[arg(long, value_name = "BYTES", value_parser = parse_block)]
    block: Option<u64>,
    /// Write nothing but tensors into a .pt file, by name: what torch.load takes by default
    #[arg(long)]
    tensors_only: bool,
}

const AFTER_HELP: &str = "\
Formats: .dolmen, .pt and .pth (and .ckpt and .bin, to write), .safetensors, .npy
(of one tensor) and .npz. OUT appears whole or not at all, and may be IN itself. Nothing is lost into a .dolmen
file but the code of TorchScript; what another format cannot hold is told in
notes on standard error. Checksums that IN has are verified on the way. Nothing
that a PyTorch checkpoint asks for is ever run.

Examples:
  dolmen convert model.safetensors model.dolmen
  dolmen convert checkpoint.pt checkpoint.dolmen
  dolmen convert checkpoint.dolmen weights.pt --tensors-only
  dolmen convert arrays.npz arrays.dolmen --validate
  dolmen convert model.dolmen model.safetensors --no-overwrite
  dolmen convert model.dolmen model.dolmen --alignment 4K --block 64K";

fn parse_alignment(text: &str) -> std::result::Result<u64, String> {
    let bytes = human::parse_size(text)?;
    FileOptions::new().alignment(bytes).map(|_| bytes).map_err(|e| e.reason())
}

fn parse_block(text: &str) -> std::result::Result<u64, String> {
    let bytes = human::parse_size(text)?;
    FileOptions::new().block_len(bytes).map(|_| bytes).map_err(|e| e.reason())
}

/// Ends the program if an option says nothing about a file like OUT: who gave it expects something else of it.
fn check_usage(args: &Args) {
    let extension = args.output.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let extension = extension.as_deref().unwrap_or_default();
    let for_torch = args.tensors_only && !matches!(extension, "pt" | "pth" | "ckpt" | "bin");
    let for_dolmen = |given: Option<u64>| given.is_some() && extension != "dolmen";
    let (option, what) = if for_torch {
        ("--tensors-only", "a PyTorch checkpoint: OUT must end with .pt, .pth, .ckpt or .bin")
    } else if for_dolmen(args.alignment) {
        ("--alignment", "a Dolmen file: OUT must end with .dolmen")
    } else if for_dolmen(args.block) {
        ("--block", "a Dolmen file: OUT must end with .dolmen")
    } else {
        return;
    };
    let message = format!("{option} is about {what}, and it is {}", human::path(&args.output));
    crate::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    check_usage(args);
    let mut file = FileOptions::new();
    if let Some(bytes) = args.alignment {
        file = file.alignment(bytes)?;
    }
    if let Some(bytes) = args.block {
        file = file.block_len(bytes)?;
    }
    let save = SaveOptions::new().create_new(args.no_overwrite);
    let options = ConvertOptions::new().save(save).file(file).validate(args.validate);
    let options = options.torch(ExportOptions::new().tensors_only(args.tensors_only));
    let notes = convert(&args.input, &args.output, &options)?;
    notes.iter().for_each(|note| say(&format!("{} {note}", style::paint(style::WARN, "note:"))));
    Ok(Outcome::Well)
}
