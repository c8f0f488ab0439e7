//! Colours, and where what is painted goes.
//!
//! Text is always written with its colours; the streams made here take them out again unless they lead to a terminal that
//! wants them. `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE` are honoured.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use anstyle::{AnsiColor, Style};

/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What is damaged, removed or wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What cannot be told, or needs a look.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Titles and paths.
pub const TITLE: Style = Style::new().bold();
/// Labels, and what is of less interest.
pub const FAINT: Style = Style::new().dimmed();

/// Text with a style around it.
pub fn paint(style: Style, text: impl Display) -> String {
    if style.is_plain() { text.to_string() } else { format!("{style}{text}{style:#}") }
}

/// Standard output for people: colours only where they are wanted.
pub fn text_output() -> impl Write {
    BufWriter::new(anstream::AutoStream::auto(io::stdout().lock()))
}

/// Standard output for programs: every byte as it is.
pub fn plain_output() -> impl Write {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

/// The columns that a line of standard output may have: those of `COLUMNS` or of the terminal; `None` if it is written to
/// a file or a pipe, where nothing needs to be shortened.
pub fn output_width() -> Option<usize> {
    const NARROWEST: usize = 40;
    let wished = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse::<usize>().ok());
    let width = match wished {
        Some(columns) => columns,
        None if io::stdout().is_terminal() => terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into()),
        None => return None,
    };
    Some(width.max(NARROWEST))
}

/// The error for a result that could not be written. That the reader went away is told from it by [`is_broken_pipe`].
pub fn cannot_write(e: io::Error) -> dolmen::Error {
    dolmen::Error::io("cannot write to standard output", e)
}

/// Whether an error only says that whoever read the output has had enough.
pub fn is_broken_pipe(e: &dolmen::Error) -> bool {
    e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
