//! Two outputs of one probe, line by line.
//!
//! A line is `observation: value`; one that occurs again is told from the first by its number. A difference is either in the table of
//! [`known`](crate::known) ones or a failure, and so is an entry of the table that no longer occurs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::known::{Difference, When};

/// What became of one observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same in both.
    Same,
    /// Different, and it is known why.
    Known(&'static str),
    /// Different, and it should not be.
    Different,
}

/// One observation in both outputs.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was observed.
    pub key: String,
    /// Its value in the native run; empty if it did not occur.
    pub native: String,
    /// Its value in the other run.
    pub view: String,
    /// The judgement.
    pub verdict: Verdict,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One row per observation, in the order of the native run.
    pub rows: Vec<Row>,
    /// Entries of the table that did not occur though they should have.
    pub complaints: Vec<String>,
}

/// Compares what `probe` printed natively and in a view.
pub fn compare(probe: &str, native: &str, view: &str, known: &[Difference]) -> Report {
    let known: Vec<_> = known.iter().filter(|d| d.probe == probe).collect();
    let mut report = Report::default();
    let (native, view) = (parse(native), parse(view));
    let mut seen = vec![false; known.len()];
    let extra = view.iter().filter(|(key, _)| value_of(&native, key).is_none());
    for (key, _) in native.iter().chain(extra) {
        let of = |lines| value_of(lines, key).unwrap_or("(no such line)").to_owned();
        let (native, view) = (of(&native), of(&view));
        let entry = known
            .iter()
            .position(|d| matches(d.key, key) && matches(d.native, &native) && matches(d.view, &view));
        let verdict = match entry {
            _ if native == view => Verdict::Same,
            Some(i) => {
                seen[i] = true;
                Verdict::Known(known[i].reason)
            }
            None => Verdict::Different,
        };
        report.rows.push(Row { key: key.clone(), native, view, verdict });
    }
    for (entry, _) in known.iter().zip(seen).filter(|(entry, seen)| !seen && entry.when != When::Maybe) {
        let Difference { key, native, view, .. } = entry;
        report
            .complaints
            .push(format!("known difference no longer occurs: {probe} {key}: {native} -> {view}"));
    }
    report
}

impl Report {
    /// No difference but the known ones.
    pub fn is_clean(&self) -> bool {
        self.complaints.is_empty() && self.rows.iter().all(|row| row.verdict != Verdict::Different)
    }

    /// What is wrong, one line each.
    pub fn failures(&self) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| row.verdict == Verdict::Different) {
            let _ = writeln!(text, "  {}: native {} | view {}", row.key, row.native, row.view);
        }
        for complaint in &self.complaints {
            let _ = writeln!(text, "  {complaint}");
        }
        text
    }

    /// A row of the manual's table: observations, differences, reasons.
    pub fn summary(&self, probe: &str) -> String {
        let same = self.rows.iter().filter(|row| row.verdict == Verdict::Same).count();
        let reasons: BTreeSet<_> = self
            .rows
            .iter()
            .filter_map(|row| match row.verdict {
                Verdict::Known(reason) => Some(reason),
                _ => None,
            })
            .collect();
        let known = self.rows.iter().filter(|row| matches!(row.verdict, Verdict::Known(_))).count();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
        format!("| {probe} | {} | {same} | {known} | {reasons} |", self.rows.len())
    }
}

fn parse(output: &str) -> Vec<(String, String)> {
    let mut times = BTreeMap::new();
    let mut lines = Vec::new();
    for line in output.lines() {
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        let time = times.entry(key).or_insert(0);
        *time += 1;
        let key = if *time == 1 { key.to_owned() } else { format!("{key} #{time}") };
        lines.push((key, value.to_owned()));
    }
    lines
}

fn value_of<'a>(lines: &'a [(String, String)], key: &str) -> Option<&'a str> {
    lines.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

fn matches(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Difference] = &[Difference {
        probe: "p",
        key: "b*",
        native: "*",
        view: "EPERM",
        when: When::Always,
        reason: "policy",
    }];

    #[test]
    fn verdicts() {
        let report = compare("p", "a: 1\nb1: ok\n", "a: 1\nb1: EPERM\n", KNOWN);
        assert!(report.is_clean(), "{}", report.failures());
        assert_eq!(report.rows[1].verdict, Verdict::Known("policy"));
        assert_eq!(compare("p", "a: 1\n", "a: 2\n", &[]).rows[0].verdict, Verdict::Different);
        assert!(!compare("p", "a: 1\n", "", &[]).is_clean());
        assert!(!compare("p", "", "a: 1\n", &[]).is_clean());
    }

    #[test]
    fn a_stale_entry_is_a_failure() {
        let report = compare("p", "b1: EPERM\n", "b1: EPERM\n", KNOWN);
        assert_eq!(report.complaints.len(), 1);
    }
}
