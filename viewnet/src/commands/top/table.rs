//! Tables of what was seen, with rates.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Map, Value, json};
use stacks::serve::Description;
use stacks::stack::InterfaceCounters;
use switch::client::PortInfo;

use super::sample::Sample;
use super::state::Tab;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    /// As people read it.
    pub(super) head: &'static str,
    /// As programs read it.
    pub(super) name: &'static str,
    /// Characters it takes; 0 is what is left.
    pub(super) width: u16,
}

/// A table's field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    /// A whole number.
    Count(u64),
    /// A rate: shown with a unit's letter.
    Rate(f64),
    /// Parts of a hundred, of one CPU.
    Percent(f64),
    /// Seconds.
    Duration(u64),
}

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
}

const fn column(head: &'static str, name: &'static str, width: u16) -> Column {
    Column { head, name, width }
}

const PORTS: [Column; 8] = [
    column("PORT", "name", 0),
    column("KIND", "kind", 6),
    column("VLANS", "vlans", 10),
    column("RX bit/s", "rx_bits_per_s", 8),
    column("TX bit/s", "tx_bits_per_s", 8),
    column("RX fr/s", "rx_frames_per_s", 7),
    column("TX fr/s", "tx_frames_per_s", 7),
    column("DROP/s", "drops_per_s", 6),
];
const SWITCHES: [Column; 8] = [
    column("SWITCH", "name", 0),
    column("PID", "pid", 7),
    column("UP", "uptime_s", 7),
    column("PORTS", "ports", 6),
    column("STATIONS", "stations", 8),
    column("bit/s", "bits_per_s", 8),
    column("fr/s", "frames_per_s", 7),
    column("MOVE/s", "moves_per_s", 6),
];
const STACKS: [Column; 8] = [
    column("STACK", "name", 16),
    column("KIND", "kind", 6),
    column("KEPT", "kept", 4),
    column("STATE", "state", 6),
    column("VIEWS", "views", 5),
    column("RX bit/s", "rx_bits_per_s", 8),
    column("TX bit/s", "tx_bits_per_s", 8),
    column("ADDRESSES", "addresses", 0),
];
const VIEWS: [Column; 6] = [
    column("VIEW", "name", 0),
    column("STACK", "stack", 16),
    column("PID", "pid", 7),
    column("PROCS", "processes", 5),
    column("CPU%", "cpu_percent", 6),
    column("COMMAND", "command", 16),
];

impl Table {
    /// The table of one tab, with rates since `before`.
    pub(super) fn of(tab: Tab, sample: &Sample, before: Option<&Sample>) -> Self {
        let rates = Rates::new(sample, before);
        match tab {
            Tab::Ports => Self { columns: &PORTS, rows: ports(sample, &rates) },
            Tab::Switches => Self { columns: &SWITCHES, rows: switches(sample, &rates) },
            Tab::Stacks => Self { columns: &STACKS, rows: stacks(sample, &rates) },
            Tab::Views => Self { columns: &VIEWS, rows: views(sample, &rates) },
        }
    }

    /// Only the rows that have `text` in one of their texts.
    pub(super) fn filter(&mut self, text: &str) {
        let text = text.to_lowercase();
        let has = |cell: &Cell| matches!(cell, Cell::Text(cell) if cell.to_lowercase().contains(&text));
        self.rows.retain(|row| row.iter().any(has));
    }

    /// By one column: texts from A to Z, numbers from the largest down, or the other way round.
    pub(super) fn sort(&mut self, column: usize, is_reversed: bool) {
        self.rows.sort_by(|a, b| {
            let order = a[column].compare(&b[column]);
            if is_reversed { order.reverse() } else { order }
        });
    }

    /// For people, without a screen.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
        let width = |at: usize| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([self.columns[at].head.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let heads: Vec<String> = self.columns.iter().map(|column| column.head.to_owned()).collect();
        let mut text = String::new();
        for (line, row) in std::iter::once(&heads).chain(&rows).enumerate() {
            let mut out = String::new();
            for (at, cell) in row.iter().enumerate() {
                let width = widths[at];
                let model = self.rows.get(line.saturating_sub(1)).map(|row| &row[at]);
                let is_number = model.is_some_and(Cell::is_number);
                out += &if is_number { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") };
            }
            text += out.trim_end();
            text.push('\n');
        }
        text
    }

    /// For programs: a list of objects.
    pub(super) fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row);
            Value::Object(
                fields.map(|(column, cell)| (column.name.to_owned(), cell.json())).collect::<Map<_, _>>(),
            )
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

impl Cell {
    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    fn value(&self) -> f64 {
        match self {
            Self::Text(_) => 0.0,
            Self::Count(n) | Self::Duration(n) => *n as f64,
            Self::Rate(n) | Self::Percent(n) => *n,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (a, b) => b.value().total_cmp(&a.value()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(n) => n.to_string(),
            Self::Rate(rate) => short(*rate),
            Self::Percent(percent) => format!("{percent:.1}"),
            Self::Duration(seconds) => crate::commands::switch::duration(*seconds),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(n) | Self::Duration(n) => json!(n),
            Self::Rate(n) | Self::Percent(n) => json!((n * 10.0).round() / 10.0),
        }
    }
}

/// A rate in at most six characters: `0`, `950`, `12.3k`, `1.25M`.
fn short(rate: f64) -> String {
    let mut rate = rate.max(0.0);
    if rate < 999.5 {
        return format!("{rate:.0}");
    }
    for unit in ["k", "M", "G", "T"] {
        rate /= 1000.0;
        if rate < 999.5 {
            let digits = if rate < 9.995 { 2 } else { usize::from(rate < 99.95) };
            return format!("{rate:.digits$}{unit}");
        }
    }
    ">999T".to_owned()
}

/// What was counted before, and how long ago.
struct Rates<'a> {
    seconds: f64,
    ports: HashMap<(&'a str, &'a str), &'a PortInfo>,
    moves: HashMap<&'a str, u64>,
    interfaces: HashMap<(&'a std::path::Path, &'a str), InterfaceCounters>,
    ticks: HashMap<i32, u64>,
    ticks_per_s: f64,
}

impl<'a> Rates<'a> {
    fn new(sample: &Sample, before: Option<&'a Sample>) -> Self {
        let switches = before.map_or(&[][..], |before| &before.switches);
        let name = |s: &'a switch::metrics::Snapshot| s.show.name.as_str();
        let ports =
            switches.iter().flat_map(|s| s.ports.iter().map(move |p| ((name(s), p.name.as_str()), p)));
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        Self {
            seconds: before.map_or(0.0, |before| sample.seconds_since(before)),
            ports: ports.collect(),
            interfaces: before.into_iter().flat_map(|before| &before.stacks).flat_map(interfaces).collect(),
            moves: switches.iter().map(|s| (name(s), s.show.stations_moved)).collect(),
            ticks: before
                .into_iter()
                .flat_map(|b| b.views.iter().map(|view| (view.pid, view.ticks)))
                .collect(),
            ticks_per_s: hertz.unwrap_or(100) as f64,
        }
    }

    /// Per second; none for what was not there before, or began anew.
    fn per_second(&self, now: u64, before: Option<u64>) -> f64 {
        let grown = before.and_then(|before| now.checked_sub(before)).unwrap_or(0);
        if self.seconds > 0.0 { grown as f64 / self.seconds } else { 0.0 }
    }
}

fn ports(sample: &Sample, rates: &Rates<'_>) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for switch in &sample.switches {
        for port in &switch.ports {
            let before = rates.ports.get(&(switch.show.name.as_str(), port.name.as_str()));
            let rate = |count: fn(&PortInfo) -> u64| {
                rates.per_second(count(port), before.map(|before| count(before)))
            };
            rows.push(vec![
                Cell::Text(format!("{}:{}", switch.show.name, port.name)),
                Cell::Text(format!("{:?}", port.kind).to_lowercase()),
                Cell::Text(port.vlans.to_string()),
                Cell::Rate(8.0 * rate(|p| p.rx_bytes)),
                Cell::Rate(8.0 * rate(|p| p.tx_bytes)),
                Cell::Rate(rate(|p| p.rx_frames)),
                Cell::Rate(rate(|p| p.tx_frames)),
                Cell::Rate(rate(|p| p.drops.values().sum())),
            ]);
        }
    }
    rows
}

fn switches(sample: &Sample, rates: &Rates<'_>) -> Vec<Vec<Cell>> {
    let row = |switch: &switch::metrics::Snapshot| {
        let show = &switch.show;
        let total = |count: fn(&PortInfo) -> u64| -> f64 {
            let rate = |port: &PortInfo| {
                let before = rates.ports.get(&(show.name.as_str(), port.name.as_str()));
                rates.per_second(count(port), before.map(|before| count(before)))
            };
            switch.ports.iter().map(rate).sum()
        };
        let moves = rates.moves.get(show.name.as_str()).copied();
        vec![
            Cell::Text(show.name.clone()),
            Cell::Count(u64::from(show.pid)),
            Cell::Duration(show.uptime_s),
            Cell::Count(show.ports as u64),
            Cell::Count(show.stations as u64),
            Cell::Rate(8.0 * total(|p| p.rx_bytes)),
            Cell::Rate(total(|p| p.rx_frames)),
            Cell::Rate(rates.per_second(show.stations_moved, moves)),
        ]
    };
    sample.switches.iter().map(row).collect()
}

/// What the interfaces of a stack counted, but for the loopback.
fn interfaces(stack: &Description) -> impl Iterator<Item = ((&std::path::Path, &str), InterfaceCounters)> {
    let wired = stack.interfaces.iter().filter(|interface| interface.name != "lo");
    wired.map(|interface| ((stack.path.as_path(), interface.name.as_str()), interface.counters))
}

fn stacks(sample: &Sample, rates: &Rates<'_>) -> Vec<Vec<Cell>> {
    let row = |stack: &Description| {
        let rate = |count: fn(&InterfaceCounters) -> u64| -> f64 {
            let rate = |(key, now)| rates.per_second(count(&now), rates.interfaces.get(&key).map(count));
            interfaces(stack).map(rate).sum()
        };
        let interfaces = stack.interfaces.iter().filter(|interface| interface.name != "lo");
        let addresses: Vec<String> = interfaces.flat_map(|interface| interface.addresses.clone()).collect();
        vec![
            Cell::Text(stack.name.clone()),
            Cell::Text(stack.kind.name().to_owned()),
            Cell::Text(if stack.kept { "yes" } else { "no" }.to_owned()),
            Cell::Text(if stack.failure.is_some() { "failed" } else { "up" }.to_owned()),
            Cell::Count(stack.users.len() as u64),
            Cell::Rate(8.0 * rate(|c| c.rx_bytes)),
            Cell::Rate(8.0 * rate(|c| c.tx_bytes)),
            Cell::Text(addresses.join(" ")),
        ]
    };
    sample.stacks.iter().map(row).collect()
}

fn views(sample: &Sample, rates: &Rates<'_>) -> Vec<Vec<Cell>> {
    let row = |view: &super::sample::View| {
        let ticks = rates.per_second(view.ticks, rates.ticks.get(&view.pid).copied());
        vec![
            Cell::Text(view.name.clone()),
            Cell::Text(view.stack.clone()),
            Cell::Count(view.pid as u64),
            Cell::Count(view.processes as u64),
            Cell::Percent(100.0 * ticks / rates.ticks_per_s),
            Cell::Text(view.command.clone().unwrap_or_else(|| "-".to_owned())),
        ]
    };
    sample.views.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        let table = [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (9_994.0, "9.99k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (1_000_000.0, "1.00M"),
            (2.5e12, "2.50T"),
            (1e18, ">999T"),
            (-1.0, "0"),
        ];
        for (rate, text) in table {
            assert_eq!(short(rate), text);
            assert!(short(rate).len() <= 6);
        }
    }
}
