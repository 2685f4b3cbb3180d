//! `viewnet doctor`: the verdicts as a table, then what to do; or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::doctor::{Readings, State, Verdict, check, smol_only, usable};
use crate::exit::{Exit, Failure};

/// Widest line of the report, in columns, where the terminal does not say.
const WIDTH: usize = 100;

/// Check what this machine offers and say how to fix what it lacks
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON: {"usable": bool, "checks": [{"check", "state", "finding", "fix"?}]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    usable: bool,
    checks: &'a [Verdict],
}

/// Prints the report; ends with 0 when `viewnet run` can work, on a kernel stack or on a smol one.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let verdicts = check(&Readings::collect());
    let usable = usable(&verdicts);
    let text = if args.json {
        let report = Report { usable, checks: &verdicts };
        serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new("cannot print the report", error))?
            + "\n"
    } else {
        table(&verdicts, width())
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read the report has seen enough of it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot print the report", error))
        }
        _ => Ok(if usable { Exit::Done } else { Exit::Failed }),
    }
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .map_or(WIDTH, |size| usize::from(size.ws_col).clamp(60, 2 * WIDTH))
}

/// One line per check, then the fixes in words.
fn table(verdicts: &[Verdict], width: usize) -> String {
    let name_width = verdicts.iter().map(|verdict| verdict.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for verdict in verdicts {
        let state = match verdict.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let line = format!("{:name_width$}  {state:4}  {}", verdict.check, verdict.finding);
        wrap(&mut text, &line, width, name_width + 8);
    }
    let conclusion = if !usable(verdicts) {
        "`viewnet run` cannot work here."
    } else if smol_only(verdicts) {
        "`viewnet run` works here, on smol stacks only."
    } else if verdicts.iter().any(|verdict| verdict.state == State::Warn) {
        "`viewnet run` works here, with the restrictions above."
    } else {
        "`viewnet run` works here."
    };
    let _ = writeln!(text, "\n{conclusion}");
    for (verdict, fix) in verdicts.iter().filter_map(|verdict| Some((verdict, verdict.fix.as_ref()?))) {
        wrap(&mut text, &format!("  {}: {fix}", verdict.check), width, 4);
    }
    text
}

/// Writes `line`, broken between words; further lines start at column `indent`. Code between backquotes
/// is never broken, so that it can be copied.
fn wrap(text: &mut String, line: &str, width: usize, indent: usize) {
    let start = line.len() - line.trim_start().len();
    text.push_str(&line[..start]);
    let mut column = start;
    let mut first = true;
    for word in words(line[start..].trim_end()) {
        let gap = word.len() - word.trim_start().len();
        if !first && column + word.len() > width {
            let _ = write!(text, "\n{:indent$}", "");
            text.push_str(word.trim_start());
            column = indent + word.len() - gap;
        } else {
            text.push_str(word);
            column += word.len();
        }
        first = false;
    }
    text.push('\n');
}

/// Splits before each run of blanks, except between backquotes.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let mut inside = false;
        let end = rest.char_indices().find_map(|(at, c)| {
            quoted ^= c == '`';
            if c == ' ' && inside && !quoted {
                return Some(at);
            }
            inside |= c != ' ';
            None
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(check: &'static str, state: State, finding: &str, fix: Option<&str>) -> Verdict {
        Verdict { check, state, finding: finding.to_owned(), fix: fix.map(str::to_owned) }
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_the_fixes() {
        let verdicts = [
            verdict("kernel", State::Ok, "6.1", None),
            verdict("user-namespaces", State::Fail, "forbidden", Some("run `sudo sysctl x=1`")),
        ];
        let expected = "kernel           ok    6.1\n\
                        user-namespaces  FAIL  forbidden\n\
                        \n\
                        `viewnet run` cannot work here.\n\
                        \x20 user-namespaces: run `sudo sysctl x=1`\n";
        assert_eq!(table(&verdicts, 80), expected);
    }

    #[test]
    fn long_lines_break_between_words_but_not_in_code() {
        let mut text = String::new();
        wrap(&mut text, "  tap: do `one two three four` and then more of it", 20, 4);
        assert_eq!(text, "  tap: do\n    `one two three four`\n    and then more of\n    it\n");
    }

    #[test]
    fn json_names_states_in_lower_case() {
        let checks = [verdict("yama", State::Warn, "scope 1", None)];
        let text = serde_json::to_string(&Report { usable: true, checks: &checks }).unwrap();
        assert_eq!(text, r#"{"usable":true,"checks":[{"check":"yama","state":"warn","finding":"scope 1"}]}"#);
    }
}
