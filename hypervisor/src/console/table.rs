//! Tables for a terminal.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// To which side a column's cells are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Names and words.
    Left,
    /// Figures.
    Right,
}

/// Rows of cells under headings; columns are as wide as their widest cell.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    heads: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub(super) fn new(heads: [(&'static str, Align); N]) -> Self {
        Self { heads, rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Prints headings and rows.
    pub(super) fn print(&self, out: &mut impl Write) -> fmt::Result {
        let widths: [usize; N] = core::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].len());
            cells.max().unwrap_or(0).max(self.heads[column].0.len())
        });
        self.line(out, &widths, self.heads.map(|(head, _)| head))?;
        for row in &self.rows {
            self.line(out, &widths, row.each_ref().map(String::as_str))?;
        }
        Ok(())
    }

    fn line(&self, out: &mut impl Write, widths: &[usize; N], cells: [&str; N]) -> fmt::Result {
        for (column, cell) in cells.into_iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            match self.heads[column].1 {
                // The last column is not padded: nobody needs blanks at the end of a line.
                Align::Left if column + 1 == N => write!(out, "{gap}{cell}")?,
                Align::Left => write!(out, "{gap}{cell:<width$}", width = widths[column])?,
                Align::Right => write!(out, "{gap}{cell:>width$}", width = widths[column])?,
            }
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::{Align, Table};

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["linux".into(), "128 MiB".into(), "x".into()]);
        table.row(["a".into(), "1 B".into(), String::new()]);
        let mut text = String::new();
        table.print(&mut text).unwrap();
        assert_eq!(text, "NAME      SIZE  NOTE\nlinux  128 MiB  x\na          1 B  \n");
    }
}
