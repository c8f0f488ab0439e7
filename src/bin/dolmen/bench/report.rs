//! What was measured, as a table and as JSON.

use std::io::{self, Write};
use std::time::Duration;

use dolmen::DType;
use serde_json::{Value as Json, json};

use super::Access;
use super::measure::{Cache, Case, Yardstick};
use crate::human;
use crate::style::{self, FAINT, paint};
use crate::table::{Column, Table};

/// What was measured, and how.
#[derive(Debug)]
pub struct Facts {
    pub device: String,
    pub access: Access,
    pub order: &'static str,
    pub batch: u64,
    pub threads: u32,
    pub prefetch: u32,
    pub files: usize,
    pub file_bytes: u64,
    pub table: Option<TableFacts>,
}

/// The table that was streamed.
#[derive(Debug)]
pub struct TableFacts {
    pub rows: u64,
    pub width: u64,
    pub dtype: DType,
    /// Bytes of a row in the files.
    pub row_len: u64,
    pub opened: Duration,
}

/// All that is told.
#[derive(Debug)]
pub struct Report {
    pub facts: Facts,
    pub cases: Vec<Case>,
    pub notes: Vec<String>,
}

impl Report {
    /// The share that a case has of what it is compared with.
    fn share(&self, case: &Case, of: Yardstick) -> Option<f64> {
        // It says nothing of what does not look at the bytes.
        if case.yardstick == Some(of) || case.touched == "nothing" {
            return None;
        }
        let fits = |other: &&Case| {
            other.yardstick == Some(of)
                && other.threads == case.threads
                && (other.cache == Cache::No || other.cache == case.cache)
        };
        let other = self.cases.iter().find(fits)?.median();
        (other > 0.0).then(|| case.median() / other)
    }

    fn to_json(&self, case: &Case) -> Json {
        json!({
            "case": case.name,
            "cache": case.cache.name(),
            "touched": case.touched,
            "threads": case.threads,
            "rounds": case.samples.len(),
            "gb_per_s": case.median() / 1e9,
            "best_gb_per_s": case.best() / 1e9,
            "rows_per_s": case.rows_per_second(),
            "of_memcpy": self.share(case, Yardstick::Memcpy),
            "of_read": self.share(case, Yardstick::Read),
            "of_pinned": self.share(case, Yardstick::PinnedCopy),
        })
    }

    /// Writes it for programs.
    pub fn print_json(&self) -> io::Result<()> {
        let facts = &self.facts;
        let table = facts.table.as_ref().map(|table| {
            json!({
                "rows": table.rows,
                "width": table.width,
                "dtype": table.dtype.to_string(),
                "row_bytes": table.row_len,
                "open_seconds": table.opened.as_secs_f64(),
            })
        });
        let json = json!({
            "device": facts.device,
            "access": facts.access.name(),
            "order": facts.order,
            "batch": facts.batch,
            "threads": facts.threads,
            "prefetch": facts.prefetch,
            "files": facts.files,
            "file_bytes": facts.file_bytes,
            "table": table,
            "cases": self.cases.iter().map(|case| self.to_json(case)).collect::<Vec<Json>>(),
            "notes": self.notes,
        });
        let mut out = style::plain_output();
        writeln!(out, "{}", human::json(&json))?;
        out.flush()
    }

    /// Writes it for people.
    pub fn print_text(&self) -> io::Result<()> {
        let mut out = style::text_output();
        let facts = &self.facts;
        write!(out, "{}, {}", human::counted(facts.files as u64, "file"), human::size(facts.file_bytes))?;
        match &facts.table {
            Some(table) => writeln!(
                out,
                ": {} of {} × {}, {} in the files; opened in {:.1} ms",
                human::counted(table.rows, "row"),
                human::count(table.width),
                table.dtype,
                human::size(table.row_len),
                table.opened.as_secs_f64() * 1e3,
            )?,
            None => writeln!(out)?,
        }
        writeln!(
            out,
            "to {}, access {}, {} batches of {}, {}, {} ahead\n",
            facts.device,
            facts.access.name(),
            facts.order,
            human::counted(facts.batch, "row"),
            human::counted(facts.threads.into(), "thread"),
            facts.prefetch,
        )?;
        let mut table = Table::new(&[
            ("case", Column::Whole),
            ("threads", Column::Right),
            ("cache", Column::Whole),
            ("touched", Column::Whole),
            ("GB/s", Column::Right),
            ("best", Column::Right),
            ("rows/s", Column::Right),
            ("of memcpy", Column::Right),
            ("of read", Column::Right),
            ("of pinned", Column::Right),
        ])
        .style(3, FAINT);
        for case in &self.cases {
            let share = |of| self.share(case, of).map_or(String::new(), |share| format!("{share:.2}"));
            table.row(vec![
                case.name.clone(),
                case.threads.to_string(),
                case.cache.name().unwrap_or("–").to_owned(),
                case.touched.to_owned(),
                format!("{:.2}", case.median() / 1e9),
                format!("{:.2}", case.best() / 1e9),
                case.rows_per_second().map_or(String::new(), |rows| human::count(rows as u64)),
                share(Yardstick::Memcpy),
                share(Yardstick::Read),
                share(Yardstick::PinnedCopy),
            ]);
        }
        table.write(&mut out, 0, style::output_width())?;
        for note in &self.notes {
            writeln!(out, "{} {}", paint(style::WARN, "note:"), human::printable(note))?;
        }
        out.flush()
    }
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Access::Map => "map",
            Access::Read => "read",
            Access::Direct => "direct",
        }
    }
}
