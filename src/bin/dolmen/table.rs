//! Aligned tables that fit the terminal.

use std::io::{self, Write};

use anstyle::Style;

use crate::human::{shorten_end, shorten_middle, width};
use crate::style::{FAINT, paint};

/// Columns between two cells.
const GAP: usize = 2;

/// How a column is set, and what becomes of cells that are too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Text, shortened in the middle where there is no room, to no fewer columns than these.
    Middle(usize),
    /// Text, shortened at its end where there is no room, to no fewer columns than these.
    End(usize),
    /// Text that is never shortened.
    Whole,
    /// Numbers: set to the right, never shortened.
    Right,
}

/// A table being filled, row by row.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Column)>,
    rows: Vec<Vec<String>>,
    styles: Vec<Style>,
}

impl Table {
    /// An empty table with these titles.
    pub fn new(columns: &[(&'static str, Column)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new(), styles: vec![Style::new(); columns.len()] }
    }

    /// Paints a column.
    pub fn style(mut self, column: usize, style: Style) -> Table {
        if let Some(place) = self.styles.get_mut(column) {
            *place = style;
        }
        self
    }

    /// Adds a row, with a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Writes the table, each line after `indent` spaces. Columns in which all cells are empty are left out.
    pub fn write(&self, out: &mut dyn Write, indent: usize, most: Option<usize>) -> io::Result<()> {
        let shown: Vec<usize> =
            (0..self.columns.len()).filter(|&c| self.rows.iter().any(|row| !row[c].is_empty())).collect();
        let widths = self.widths(&shown, most.map(|most| most.saturating_sub(indent)));
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        if titles.iter().any(|title| !title.is_empty()) {
            self.line(out, indent, &shown, &widths, &titles, Some(FAINT))?;
        }
        for row in &self.rows {
            self.line(out, indent, &shown, &widths, row, None)?;
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut dyn Write,
        indent: usize,
        shown: &[usize],
        widths: &[usize],
        cells: &[String],
        style: Option<Style>,
    ) -> io::Result<()> {
        // Padding is written only before what follows it, so that no line ends in spaces.
        let mut pending = indent;
        for (&c, &most) in shown.iter().zip(widths) {
            let (_, column) = self.columns[c];
            let cell = match column {
                Column::End(_) => shorten_end(&cells[c], most),
                Column::Middle(_) => shorten_middle(&cells[c], most),
                Column::Whole | Column::Right => cells[c].clone(),
            };
            let room = most.saturating_sub(width(&cell));
            let (before, after) = if column == Column::Right { (room, 0) } else { (0, room) };
            if cell.is_empty() {
                pending += room + GAP;
                continue;
            }
            write!(out, "{:1$}{2}", "", pending + before, paint(style.unwrap_or(self.styles[c]), cell))?;
            pending = after + GAP;
        }
        writeln!(out)
    }

    /// What each column gets, the widest of those that can give room giving it first.
    fn widths(&self, shown: &[usize], most: Option<usize>) -> Vec<usize> {
        let natural = |&c: &usize| {
            let cells = self.rows.iter().map(|row| width(&row[c]));
            cells.chain([width(self.columns[c].0)]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = shown.iter().map(natural).collect();
        let Some(most) = most else { return widths };
        let gaps = GAP * shown.len().saturating_sub(1);
        loop {
            let total = widths.iter().sum::<usize>() + gaps;
            let Some(over) = total.checked_sub(most).filter(|&over| over > 0) else { return widths };
            let least = |i: usize| match self.columns[shown[i]].1 {
                Column::Middle(least) | Column::End(least) => least.max(width(self.columns[shown[i]].0)),
                Column::Whole | Column::Right => usize::MAX,
            };
            let mut can: Vec<usize> = (0..widths.len()).filter(|&i| widths[i] > least(i)).collect();
            can.sort_by_key(|&i| std::cmp::Reverse(widths[i]));
            let Some(&widest) = can.first() else { return widths };
            // Down to the next widest at a time, so that the widest never becomes narrower than one that gave nothing.
            let next = can.get(1).map_or(0, |&i| widths[i]);
            let step = (widths[widest] - next).clamp(1, over).min(widths[widest] - least(widest));
            widths[widest] -= step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &Table, most: Option<usize>) -> Vec<String> {
        let mut out = Vec::new();
        table.write(&mut out, 2, most).unwrap();
        let plain = anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string();
        plain.lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(&[("name", Column::Middle(8)), ("n", Column::Right), ("note", Column::End(6))]);
        table.row(vec!["a".into(), "1".into(), String::new()]);
        table.row(vec!["longer".into(), "1,000".into(), String::new()]);
        assert_eq!(lines(&table, None), ["  name        n", "  a           1", "  longer  1,000"]);
    }

    #[test]
    fn the_widest_column_gives_room_first() {
        let mut table = Table::new(&[("name", Column::Middle(8)), ("shape", Column::Middle(6)), ("n", Column::Right)]);
        table.row(vec!["x".repeat(100), "[1, 2, 3]".into(), "12345678".into()]);
        let lines = lines(&table, Some(40));
        assert!(lines[1].contains("[1, 2, 3]") && lines[1].ends_with("12345678"), "{lines:?}");
        assert!(lines.iter().all(|line| width(line) <= 40), "{lines:?}");
    }
}
