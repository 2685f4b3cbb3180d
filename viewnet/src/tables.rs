//! Printing: aligned tables for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::exit::Failure;

/// A table with a line of heads; columns of numbers are aligned to the right.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let mut widths = heads.map(str::len);
    let mut numeric = [!rows.is_empty(); N];
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            widths[i] = widths[i].max(cell.chars().count());
            numeric[i] &= cell.bytes().all(|b| b.is_ascii_digit());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let mut out = String::new();
        for (i, cell) in cells.into_iter().enumerate() {
            let width = widths[i];
            let _ = if numeric[i] { write!(out, "{cell:>width$}  ") } else { write!(out, "{cell:width$}  ") };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(heads);
    for row in &rows {
        line(std::array::from_fn(|i| row[i].as_str()));
    }
    text
}

/// Writes to standard output; a reader who has seen enough is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new("cannot print", e)),
        _ => Ok(()),
    }
}

/// Writes a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new("cannot print", e))?;
    print(&(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["long", "200"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["NAME", "N"], rows.into_iter()), "NAME    N\na       1\nlong  200\n");
        assert_eq!(table(["NAME", "N"], std::iter::empty()), "NAME  N\n");
    }
}
