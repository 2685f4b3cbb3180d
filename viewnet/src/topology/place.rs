//! Where in a TOML file something stands, and what its writer may have meant.
//!
//! Errors of the TOML parser and of serde come with a span. What is checked later (names that must fit together)
//! is found again by its path: keys of tables, and numbers of list elements.

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::exit::Failure;

/// Something wrong in a file, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// What is wrong.
    pub(crate) why: String,
    /// What would be right.
    pub(crate) hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}; {}", self.line, self.column, self.why, self.hint)
    }
}

impl Problem {
    /// As the user reads it, `what` having failed.
    pub(crate) fn failure(self, what: impl Into<String>) -> Failure {
        let why = format!("line {}, column {}: {}", self.line, self.column, self.why);
        Failure::new(what, why).hint(self.hint)
    }

    /// At the byte `at` of `text`.
    pub(crate) fn at(text: &str, at: usize, why: impl Into<String>, hint: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// At the value, or the table, that has this path.
    pub(crate) fn of(text: &str, path: &[&str], why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::at(text, locate(text, path).unwrap_or(0), why, hint)
    }

    /// What the parser says, with the nearest word if one is unknown.
    pub(crate) fn parse(text: &str, error: &toml::de::Error) -> Self {
        let message = error.message().replace('\n', ", ");
        let hint = hint_for(&message);
        Self::at(text, error.span().map_or(0, |span| span.start), message, hint)
    }
}

/// Where the value with this path begins, in bytes; of a table, where its key stands.
fn locate(text: &str, path: &[&str]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (first, rest) = path.split_first()?;
    let (key, mut value) = root.get_ref().get_key_value(*first)?;
    let mut at = key.span().start;
    for step in rest {
        match value.get_ref() {
            DeValue::Table(table) => {
                let (key, next) = table.get_key_value(*step)?;
                at = key.span().start;
                value = next;
            }
            DeValue::Array(list) => {
                value = list.get(step.parse::<usize>().ok()?)?;
                at = value.span().start;
            }
            _ => break,
        }
    }
    Some(if value.get_ref().is_table() || value.get_ref().is_array() { at } else { value.span().start })
}

/// What to do about a message of serde: its words for an unknown field are "unknown field `x`, expected one of `a`,
/// `b`"; one of the latter may be near.
fn hint_for(message: &str) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let given = words.next().unwrap_or_default();
    let known: Vec<&str> = words.collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if unknown && !known.is_empty() {
        return did_you_mean(given, &known);
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("add {field}");
    }
    "`viewnet up --help` shows how a topology is written".to_owned()
}

/// The word of `known` that `given` is nearest to, or all of them.
pub(crate) fn did_you_mean<S: AsRef<str>>(given: &str, known: &[S]) -> String {
    let near = known.iter().map(|word| (strsim::osa_distance(given, word.as_ref()), word.as_ref()));
    match near.min() {
        // A third of the letters may be wrong; that is what still looks like a slip.
        Some((distance, word)) if distance <= (given.len() / 3).max(1) => format!("did you mean `{word}`?"),
        Some(_) => {
            let list: Vec<String> = known.iter().map(|word| format!("`{}`", word.as_ref())).collect();
            format!("known are {}", list.join(", "))
        }
        None => "there is none yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "[stack.web]\nkind = \"smol\"\n\n[[stack.web.interface]]\nname = \"eth0\"\nlink = 'x'\n";
        let place = |path: &[&str]| {
            let problem = Problem::of(text, path, "", "");
            (problem.line, problem.column)
        };
        assert_eq!(place(&["stack", "web"]), (1, 8));
        assert_eq!(place(&["stack", "web", "kind"]), (2, 8));
        assert_eq!(place(&["stack", "web", "interface", "0", "link"]), (6, 8));
        assert_eq!(place(&["nowhere"]), (1, 1));
    }

    #[test]
    fn near_words() {
        assert_eq!(did_you_mean("swich", &["switch", "stack"]), "did you mean `switch`?");
        assert_eq!(did_you_mean("x", &["switch", "stack"]), "known are `switch`, `stack`");
        assert_eq!(hint_for("missing field `stack`"), "add `stack`");
    }
}
