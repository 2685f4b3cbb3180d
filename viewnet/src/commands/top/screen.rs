//! The screen: a line of totals, the tabs, one table, the keys. Made for 80 columns, and for whatever there is.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table as Widget};

use super::sample::Sample;
use super::state::{State, Tab};
use super::table::{Cell, Table};

const KEYS: &str = " q quit  ? help  1-4 tab  s sort  r reverse  / filter  p pause";
const HELP: [&str; 12] = [
    "1 2 3 4, Tab   ports, switches, stacks, views",
    "s, S           sort by the next column, the one before",
    "r              the other way round",
    "/              only rows that have a text; Enter keeps it, Esc forgets it",
    "p, space       pause",
    "arrows, PgUp, PgDn, Home, End   scroll",
    "q, Esc, ^C     end",
    "",
    "Rates are of the last interval; k, M, G are thousands. A super-segment",
    "is one frame. PROCS and CPU% are of the view's first process and all",
    "that descend from it; 100% is one CPU.",
    "A port's name is what `viewnet capture` takes.",
];

/// Draws it; keeps `state`'s place within the table.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, sample: &Sample, mut table: Table) {
    let [head, tabs, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(totals(sample), head);
    frame.render_widget(tab_line(state), tabs);
    if !state.filter().is_empty() {
        table.filter(state.filter());
    }
    let (column, is_reversed) = state.sort();
    table.sort(column, is_reversed);
    state.height = usize::from(body.height).saturating_sub(1);
    state.top = state.top.min(table.rows.len().saturating_sub(state.height));
    rows(frame, body, state, &table);
    let last = match state.is_typing() {
        true => Line::from(format!(" filter: {}_", state.filter())).bold(),
        false => Line::from(KEYS).dim(),
    };
    frame.render_widget(last, keys);
    if state.has_help() {
        help(frame);
    }
}

fn totals(sample: &Sample) -> Line<'static> {
    let ports: usize = sample.switches.iter().map(|switch| switch.ports.len()).sum();
    let count = |n: usize, what: &str| match n {
        1 => format!("  1 {what}"),
        n if what == "switch" => format!("  {n} switches"),
        n => format!("  {n} {what}s"),
    };
    let text = [
        count(sample.switches.len(), "switch"),
        count(ports, "port"),
        count(sample.stacks.len(), "stack"),
        count(sample.views.len(), "view"),
    ];
    Line::from(vec![Span::from(" viewnet top").bold(), Span::from(text.concat())])
}

fn tab_line(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == state.tab() { Style::new().reversed() } else { Style::new() };
        spans.push(Span::from(" "));
        spans.push(Span::styled(format!(" {} {} ", at + 1, tab.title()), style));
    }
    if state.is_paused() {
        spans.push(Span::from("  paused").bold());
    }
    if !state.filter().is_empty() && !state.is_typing() {
        spans.push(Span::from(format!("  filter: {}", state.filter())));
    }
    Line::from(spans)
}

fn rows(frame: &mut Frame<'_>, area: Rect, state: &State, table: &Table) {
    let (column, is_reversed) = state.sort();
    let is_number = |at: usize| table.rows.first().map(|row| row[at].is_number());
    let head = |(at, c): (usize, &super::table::Column)| {
        let (style, mark) = match at == column {
            true => (Style::new().add_modifier(Modifier::REVERSED), if is_reversed { "^" } else { "" }),
            false => (Style::new(), ""),
        };
        let text = format!("{}{mark}", c.head);
        let side = if is_number(at).unwrap_or(false) { Alignment::Right } else { Alignment::Left };
        ratatui::widgets::Cell::from(Line::styled(text, style).alignment(side))
    };
    let heads = Row::new(table.columns.iter().enumerate().map(head)).bold();
    let cell = |cell: &Cell| {
        let side = if cell.is_number() { Alignment::Right } else { Alignment::Left };
        ratatui::widgets::Cell::from(Line::from(cell.text()).alignment(side))
    };
    let shown = table.rows.iter().skip(state.top).take(state.height);
    let widths = table.columns.iter().map(|c| match c.width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(width),
    });
    let empty = table.rows.is_empty();
    frame.render_widget(
        Widget::new(shown.map(|row| Row::new(row.iter().map(cell))), widths).header(heads),
        area,
    );
    if empty && area.height > 1 {
        let why = match state.filter().is_empty() {
            true => format!(" no {}", state.tab().title().to_lowercase()),
            false => " nothing has the filter's text".to_owned(),
        };
        frame.render_widget(Line::from(why).dim(), Rect { y: area.y + 1, height: 1, ..area });
    }
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (area.width.min(76), area.height.min(HELP.len() as u16 + 2));
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let lines: Vec<Line<'_>> = HELP.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), place);
}

#[cfg(test)]
mod tests;
