//! `dolmen salvage`: what is intact of a damaged checkpoint, saved, and a report of what is not.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use dolmen::foreign::ConvertOptions;
use dolmen::salvage::{Doubt, ExtraOutcome, Loss, Outcome as Fate, Rescue, RowsHit, Salvaged, SalvagedTensor};
use dolmen::{Fill, Result, SalvageOptions, SalvageReport, SaveOptions};
use serde_json::{Value as Json, json};

use crate::progress::Progress;
use crate::style::{self, BAD, FAINT, GOOD, WARN, cannot_write, paint};
use crate::{Outcome, human, say};

/// What to salvage, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The damaged checkpoint, or the temporary file of a writer that died; it is only read
    #[arg(value_name = "DAMAGED")]
    damaged: PathBuf,
    /// The file to write; its extension says in which format. Without it there is only the report
    #[arg(value_name = "OUT")]
    output: Option<PathBuf>,
    /// Save tensors too of which some bytes are damaged, with those bytes replaced
    #[arg(long)]
    partial: bool,
    /// What to replace damaged bytes by: zeros, ones, nan, or a byte such as 0xff
    #[arg(long, value_name = "F", requires = "partial", value_parser = parse_fill)]
    fill: Option<Fill>,
    /// Save bytes too that no checksum vouches for
    #[arg(long)]
    unverified: bool,
    /// Save the storages of a PyTorch checkpoint whose pickle is lost, as bytes
    #[arg(long)]
    raw: bool,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
    /// Write no file, and report what would be saved
    #[arg(long)]
    dry_run: bool,
    /// Fail if OUT exists
    #[arg(long)]
    no_overwrite: bool,
}

const AFTER_HELP: &str = "\
For .dolmen files and PyTorch's .pt: damaged, cut off, with something put before
or behind them, or never finished. Nothing is made up: a tensor is saved if a
checksum vouches for every byte of it. What else could be had, the report says,
and which option to ask with. What is then saved in doubt is listed in the
report, and marked in the metadata of a .dolmen file (\"dolmen.salvage\"). Where
the document referred to a tensor that is lost, it says so. OUT appears whole or
not at all, and must not be DAMAGED.

JSON: {\"path\", \"output\", \"format\", \"file_bytes\", \"reason\", \"complete\",
  \"undamaged\", \"unfinished\", \"being_written\", \"may_have_more\", \"guide\",
  \"begins_at\", \"original_bytes\", \"saved\", \"intact\", \"lost\",
  \"tensors\": [{\"name\", \"dtype\", \"shape\", \"outcome\", ...}],
  \"metadata\": {\"outcome\", ...}, \"document\": {\"outcome\", ...},
  \"damages\": [{\"part\", \"what\", \"at\"}], \"damage_count\",
  \"unknown\": [[from, to], ...], \"unknown_bytes\", \"marked_before\": [...],
  \"notes\": [...]}
\"outcome\" is intact, partial, unverified or lost; of metadata and document also
absent or unknown. With \"partial\" and \"unverified\" there are \"why\", \"replaced\"
and \"unverified\" (ranges of the tensor's bytes, ends excluded), and \"rows\":
{\"count\", \"hit\": [[from, to], ...]} or null. With \"lost\" there are \"why\",
\"reason\" (data_damaged, unverified, cut_off, description_damaged,
storage_missing, overlap, name_twice or limit), \"at\" (bytes of DAMAGED, or null),
and \"rescue\": {\"partial\", \"unverified\", \"rows\": [whole, all]} with what to ask
for, or null; in it \"raw\": true if --raw must be asked for. \"further_rows\" is there if --unverified would add rows. \"output\"
is null if nothing was written, \"reason\" if the file is some checkpoint at all.

Exit codes: 0 if all that the file held is saved (or would be), and verified; 3 if
something is lost, in doubt, or was never written (OUT is written all the same, if
there is anything to save); 1 if it could not be done.

Examples:
  dolmen salvage damaged.dolmen
  dolmen salvage damaged.dolmen rescued.dolmen
  dolmen salvage damaged.dolmen rescued.dolmen --partial --fill nan
  dolmen salvage .features.dolmen.0123456789abcdef.dolmen-tmp features.dolmen
  dolmen salvage cut-off.pt rescued.pt --json | jq '.tensors[].outcome'";

/// What is listed of a kind on a terminal; JSON has it all.
const SHOWN: usize = 20;

fn parse_fill(text: &str) -> std::result::Result<Fill, String> {
    match text {
        "zeros" => Ok(Fill::Zeros),
        "ones" => Ok(Fill::Ones),
        "nan" => Ok(Fill::Nan),
        _ => {
            let byte = text.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
            byte.map(Fill::Byte).ok_or_else(|| "expected zeros, ones, nan, or a byte such as 0xff".to_owned())
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let progress = Arc::new(Progress::of_bytes(std::fs::metadata(&args.damaged).map_or(0, |metadata| metadata.len())));
    let add = Arc::clone(&progress);
    let options = SalvageOptions::new().unverified(args.unverified).raw(args.raw);
    let mut options = options.progress(move |bytes| add.add(bytes));
    if args.partial {
        options = options.partial(args.fill.unwrap_or(Fill::Zeros));
    }
    let salvaged = options.salvage(&args.damaged)?;
    drop((options, progress));
    let report = salvaged.report();
    if !args.json
        && let Some(e) = &report.impostor
    {
        let told = dolmen::Error::new(e.kind(), e.reason()).with_path(&args.damaged);
        return Err(e.advice().into_iter().fold(told, dolmen::Error::with_advice));
    }
    let (output, notes) = match args.output.as_ref().filter(|_| !args.dry_run && report.has_something()) {
        None => (None, Vec::new()),
        Some(output) => {
            let save = SaveOptions::new().create_new(args.no_overwrite);
            let options = ConvertOptions::new().save(save).file(salvaged.file_options()).validate(true);
            let notes = salvaged.save_with(output, &options)?;
            (Some(output), notes.iter().map(str::to_owned).collect())
        }
    };
    let shown = Shown { args, salvaged: &salvaged, output, notes };
    let written = if args.json { shown.print_json() } else { shown.print_text() };
    match written {
        // What was saved is saved, whether or not somebody reads all of the report.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(e)),
        _ if report.is_complete() => Ok(Outcome::Well),
        _ => Ok(Outcome::Unsound),
    }
}

/// A report, as it is shown.
struct Shown<'a> {
    args: &'a Args,
    salvaged: &'a Salvaged,
    output: Option<&'a PathBuf>,
    notes: Vec<String>,
}

impl Shown<'_> {
    fn report(&self) -> &SalvageReport {
        self.salvaged.report()
    }

    fn print_json(&self) -> io::Result<()> {
        let report = self.report();
        let damage = |damage: &dolmen::salvage::Damage| json!({"part": damage.part.name(), "what": damage.what, "at": damage.at.as_ref().map(range)});
        let json = json!({
            "path": self.args.damaged.to_string_lossy(),
            "output": self.output.map(|output| output.to_string_lossy()),
            "format": Some(report.format).filter(|format| !format.is_empty()),
            "file_bytes": report.file_len,
            "reason": report.impostor.as_ref().map(dolmen::Error::reason),
            "complete": report.is_complete(),
            "undamaged": report.is_undamaged(),
            "unfinished": report.unfinished,
            "being_written": report.being_written,
            "may_have_more": report.may_have_more,
            "guide": report.guide.name(),
            "begins_at": report.begins_at,
            "original_bytes": report.original_len,
            "saved": report.saved_count(),
            "intact": report.intact_count(),
            "lost": report.tensors.len() - report.saved_count(),
            "tensors": report.tensors.iter().map(tensor_json).collect::<Vec<_>>(),
            "metadata": extra_json(&report.metadata),
            "document": extra_json(&report.document),
            "damages": report.damages.iter().map(damage).collect::<Vec<_>>(),
            "damage_count": report.damage_count,
            "unknown": report.unknown.iter().map(range).collect::<Vec<_>>(),
            "unknown_bytes": report.unknown_len,
            "marked_before": report.marked_before,
            "notes": self.notes,
        });
        let mut out = style::plain_output();
        writeln!(out, "{}", human::json(&json))?;
        out.flush()
    }

    fn print_text(&self) -> io::Result<()> {
        let report = self.report();
        let mut out = style::text_output();
        writeln!(out, "{}", self.headline())?;
        if report.being_written {
            writeln!(
                out,
                "  {}",
                paint(WARN, "its writer is alive and still at it: what it goes on to write is not here")
            )?;
        } else if report.unfinished {
            writeln!(out, "  {}", paint(WARN, "it was never finished: its writer stopped before it was committed"))?;
        }
        let damages = report.damages.iter().map(|damage| {
            let at = damage.at.as_ref().filter(|at| !at.is_empty());
            let at = at.map(|at| format!(" (bytes {} to {})", human::count(at.start), human::count(at.end)));
            format!("{}: {}{}", damage.part.name(), human::printable(&damage.what), at.unwrap_or_default())
        });
        let damages = damages.collect::<Vec<_>>();
        list("damage", WARN, &damages, report.damage_count, &mut out)?;
        let lost: Vec<String> = report.tensors.iter().filter_map(lost_line).collect();
        list("lost", BAD, &lost, lost.len() as u64, &mut out)?;
        let doubtful: Vec<String> = report.tensors.iter().filter_map(doubt_line).collect();
        list("in doubt", WARN, &doubtful, doubtful.len() as u64, &mut out)?;
        let further = report.tensors.iter().filter(|tensor| tensor.further_rows > 0);
        let mut further: Vec<String> = further
            .map(|tensor| {
                let rows = human::counted(tensor.further_rows, "row");
                format!("--unverified would add {rows} of {}", human::name(&tensor.name))
            })
            .collect();
        for (what, extra) in [("the metadata", &report.metadata), ("the document", &report.document)] {
            match extra {
                ExtraOutcome::Absent | ExtraOutcome::Intact => {}
                ExtraOutcome::Unverified => further.push(format!("{what}: nothing vouches for it")),
                ExtraOutcome::Lost(loss) => further.push(format!("{what} is lost: {}", loss_text(loss))),
                ExtraOutcome::Unknown => further.push(format!("{what}: whether there was one is not known")),
                _ => {}
            }
        }
        if report.unknown_len > 0 {
            let bytes = human::counted(report.unknown_len, "byte");
            further.push(format!("{bytes} of the file belong to nothing that is known"));
        }
        if let Some(text) = human::salvaged(&report.marked_before.iter().map(String::as_str).collect::<Vec<_>>()) {
            further.push(format!("before this, {text}; it still says so"));
        }
        list("also", FAINT, &further, further.len() as u64, &mut out)?;
        out.flush()?;
        self.notes.iter().for_each(|note| say(&format!("{} {note}", style::paint(style::WARN, "note:"))));
        Ok(())
    }

    /// How much was saved.
    fn headline(&self) -> String {
        let report = self.report();
        let path = human::path(&self.args.damaged);
        let verb = match (self.output, report.has_something()) {
            (_, false) => return format!("{path}: {}", paint(BAD, "nothing could be saved")),
            (Some(_), true) => "saved",
            (None, true) => "would save",
        };
        let (saved, all) = (report.saved_count() as u64, report.tensors.len() as u64);
        let doubtful = saved - report.intact_count() as u64;
        let doubt = match doubtful {
            0 => "all verified".to_owned(),
            n => format!("{} with bytes that nothing vouches for", human::count(n)),
        };
        let whole = if report.is_undamaged() { "it is not damaged; " } else { "" };
        let more = if report.may_have_more { "; there may have been more" } else { "" };
        let to = self.output.map(|output| format!(" to {}", human::path(output))).unwrap_or_default();
        let style = match (report.is_complete(), saved) {
            (true, _) => GOOD,
            (false, _) => WARN,
        };
        let counts = paint(style, format!("{verb} {} of {}", human::count(saved), human::counted(all, "tensor")));
        format!("{path}: {whole}{counts}{to}, {doubt}{more}")
    }
}

/// A title, some lines, and how many more there are.
fn list(title: &str, style: anstyle::Style, lines: &[String], all: u64, out: &mut dyn Write) -> io::Result<()> {
    for (i, line) in lines.iter().take(SHOWN).enumerate() {
        let title = if i == 0 { title } else { "" };
        writeln!(out, "  {} {line}", paint(style, format!("{title:<8}")))?;
    }
    match all - lines.len().min(SHOWN) as u64 {
        0 => Ok(()),
        more => writeln!(out, "  {:<8} … and {} more; --json has all", "", human::count(more)),
    }
}

fn range(range: &std::ops::Range<u64>) -> Json {
    json!([range.start, range.end])
}

fn lost_line(tensor: &SalvagedTensor) -> Option<String> {
    let Fate::Lost(loss) = &tensor.outcome else { return None };
    Some(format!("{}: {}", human::name(&tensor.name), loss_text(loss)))
}

fn loss_text(loss: &Loss) -> String {
    let why = human::printable(&loss.why);
    match &loss.rescue {
        None => why,
        Some(rescue) => format!("{why}; {}", rescue_text(rescue)),
    }
}

/// What to ask for, and what it would give.
fn rescue_text(rescue: &Rescue) -> String {
    if rescue.raw {
        let options = if rescue.unverified { "--raw --unverified" } else { "--raw" };
        return format!("{options} would save it as mere bytes");
    }
    let options = match (rescue.partial, rescue.unverified) {
        (true, true) => "--partial --unverified",
        (true, false) => "--partial",
        _ => "--unverified",
    };
    match rescue.rows {
        Some((whole, all)) if whole < all => {
            format!("{options} would save {} of {} rows", human::count(whole), human::count(all))
        }
        Some(_) | None if rescue.partial => format!("{options} would save some of it"),
        _ => format!("{options} would save it"),
    }
}

fn doubt_line(tensor: &SalvagedTensor) -> Option<String> {
    let doubt = tensor.outcome.doubt()?;
    let bytes = |ranges: &[std::ops::Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    let mut parts = Vec::new();
    if !doubt.replaced.is_empty() {
        parts.push(format!("{} replaced", human::counted(bytes(&doubt.replaced), "byte")));
    }
    if !doubt.unverified.is_empty() {
        parts.push(format!("{} unverified", human::counted(bytes(&doubt.unverified), "byte")));
    }
    if let Some(rows) = &doubt.rows {
        parts.push(rows_text(rows));
    }
    Some(format!("{}: {}", human::name(&tensor.name), parts.join(", ")))
}

/// Which rows are hit: the first stretches of them.
fn rows_text(rows: &RowsHit) -> String {
    const STRETCHES: usize = 4;
    let stretch = |rows: &std::ops::Range<u64>| match rows.end - rows.start {
        1 => human::count(rows.start),
        _ => format!("{} to {}", human::count(rows.start), human::count(rows.end - 1)),
    };
    let shown: Vec<String> = rows.hit.iter().take(STRETCHES).map(stretch).collect();
    let more = if rows.hit.len() > STRETCHES { ", …" } else { "" };
    let (hit, all) = (human::count(rows.hit_count()), human::counted(rows.count, "row"));
    format!("in {hit} of {all} ({}{more})", shown.join(", "))
}

fn tensor_json(tensor: &SalvagedTensor) -> Json {
    let mut json = json!({
        "name": tensor.name,
        "dtype": tensor.dtype.map(|dtype| dtype.name().into_owned()),
        "shape": tensor.shape,
        "outcome": tensor.outcome.name(),
    });
    match &tensor.outcome {
        Fate::Partial(doubt) | Fate::Unverified(doubt) => {
            let Doubt { why, replaced, unverified, rows, .. } = doubt;
            json["why"] = json!(why);
            json["replaced"] = replaced.iter().map(range).collect();
            json["unverified"] = unverified.iter().map(range).collect();
            let hit = |rows: &RowsHit| rows.hit.iter().map(range).collect::<Vec<_>>();
            json["rows"] = json!(rows.as_ref().map(|rows| json!({"count": rows.count, "hit": hit(rows)})));
        }
        Fate::Lost(loss) => lost_json(loss, &mut json),
        _ => {}
    }
    if tensor.further_rows > 0 {
        json["further_rows"] = tensor.further_rows.into();
    }
    json
}

fn extra_json(extra: &ExtraOutcome) -> Json {
    let mut json = json!({"outcome": extra.name()});
    if let ExtraOutcome::Lost(loss) = extra {
        lost_json(loss, &mut json);
    }
    json
}

fn lost_json(loss: &Loss, json: &mut Json) {
    json["why"] = json!(loss.why);
    json["reason"] = json!(loss.reason.name());
    json["at"] = json!(loss.at.as_ref().map(range));
    let rows = |rescue: &Rescue| rescue.rows.map(|(whole, all)| json!([whole, all]));
    json["rescue"] = json!(loss.rescue.as_ref().map(|rescue| {
        let mut json = json!({"partial": rescue.partial, "unverified": rescue.unverified, "rows": rows(rescue)});
        if rescue.raw {
            json["raw"] = json!(true);
        }
        json
    }));
}
