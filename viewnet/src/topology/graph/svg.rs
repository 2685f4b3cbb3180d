//! The picture itself: ranks as columns, boxes in them, curves between them.
//!
//! Boxes of a column stand in the order of what they are joined to on the left (the mean of those places), which
//! keeps most lines from crossing. A box is as wide as its longest line, measured as if every letter were as wide as
//! a wide one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Graph, Node, Rank};

/// Pixels: of a letter of the font, a line, around the text in a box, and between boxes.
const LETTER: f32 = 7.2;
const LINE: f32 = 16.0;
const PAD: f32 = 10.0;
const GAP: f32 = 24.0;
/// Least and most room between two columns, where the labels of the lines stand.
const ALLEY: std::ops::RangeInclusive<f32> = 60.0..=320.0;

struct Place {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

/// Draws it.
pub(crate) fn svg(graph: &Graph) -> String {
    let (places, width, height) = place(graph);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for edge in &graph.edges {
        let (Some(from), Some(to)) = (places.get(edge.from.as_str()), places.get(edge.to.as_str())) else {
            continue;
        };
        draw_edge(&mut text, from, to, &edge.label);
    }
    for node in &graph.nodes {
        draw_node(&mut text, node, &places[node.id.as_str()]);
    }
    text + "</svg>\n"
}

fn draw_edge(text: &mut String, from: &Place, to: &Place, label: &str) {
    let (y1, y2) = (from.y + from.height / 2.0, to.y + to.height / 2.0);
    if from.x == to.x {
        // Within a column: around the left side.
        let (x, out) = (from.x, from.x - GAP);
        // The order of starting is no plug.
        let stroke = if label == "then" { "#999\" stroke-dasharray=\"3 3" } else { "#555" };
        let _ = writeln!(
            text,
            "<path d=\"M{x:.0} {y1:.0} C{out:.0} {y1:.0} {out:.0} {y2:.0} {x:.0} {y2:.0}\" fill=\"none\" \
             stroke=\"{stroke}\"/>"
        );
        if label != "then" {
            draw_label(text, x + PAD / 2.0, f32::midpoint(y1, y2), label);
        }
        return;
    }
    let (x1, x2) = (from.x + from.width, to.x);
    let middle = f32::midpoint(x1, x2);
    let _ = writeln!(
        text,
        "<path d=\"M{x1:.0} {y1:.0} C{middle:.0} {y1:.0} {middle:.0} {y2:.0} {x2:.0} {y2:.0}\" fill=\"none\" \
         stroke=\"#555\"/>"
    );
    if !label.is_empty() {
        // Near the left end, where lines have not met yet.
        draw_label(text, x1 + PAD / 2.0, y1 - 4.0, label);
    }
}

fn draw_label(text: &mut String, x: f32, y: f32, label: &str) {
    let label = escaped(label);
    let _ = writeln!(text, "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"11\" fill=\"#555\">{label}</text>");
}

fn draw_node(text: &mut String, node: &Node, place: &Place) {
    let (fill, round) = match node.rank {
        Rank::Program => ("#fdf3d1", 2),
        Rank::Stack => ("#dbe9fb", 6),
        Rank::Switch => ("#dff2dd", 0),
        Rank::Port => ("#eee", 10),
    };
    let Place { x, y, width, height } = place;
    let _ = writeln!(
        text,
        "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"{round}\" fill=\"{fill}\" \
         stroke=\"#333\"/>"
    );
    for (at, line) in node.lines.iter().enumerate() {
        let weight = if at == 0 { " font-weight=\"bold\"" } else { "" };
        let (x, y) = (x + PAD, y + PAD + LINE * (at as f32 + 0.7));
        let _ = writeln!(text, "<text x=\"{x:.0}\" y=\"{y:.0}\"{weight}>{}</text>", escaped(line));
    }
}

/// Where each box stands, and how large the whole is.
fn place(graph: &Graph) -> (BTreeMap<&str, Place>, f32, f32) {
    let mut places: BTreeMap<&str, Place> = BTreeMap::new();
    let (mut x, mut height) = (2.0 * GAP, 0.0f32);
    for rank in [Rank::Program, Rank::Stack, Rank::Switch, Rank::Port] {
        let mut column: Vec<&Node> = graph.nodes.iter().filter(|node| node.rank == rank).collect();
        if column.is_empty() {
            continue;
        }
        column.sort_by(|a, b| mean(graph, &places, a).total_cmp(&mean(graph, &places, b)));
        let longest = |node: &&Node| node.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let width = column.iter().map(longest).max().unwrap_or(0) as f32 * LETTER + 2.0 * PAD;
        let mut y = GAP;
        for node in &column {
            let own = node.lines.len() as f32 * LINE + 2.0 * PAD;
            places.insert(&node.id, Place { x, y, width, height: own });
            y += own + GAP;
        }
        height = height.max(y);
        let is_from = |id: &str| column.iter().any(|node| node.id == id);
        let labels = graph.edges.iter().filter(|edge| is_from(&edge.from));
        let label = labels.map(|edge| edge.label.chars().count()).max().unwrap_or(0) as f32 * LETTER;
        x += width + (label + GAP).clamp(*ALLEY.start(), *ALLEY.end());
    }
    (places, x, height)
}

/// The mean height of what a box is joined to among those that have their places; those joined to nothing come last.
fn mean(graph: &Graph, places: &BTreeMap<&str, Place>, node: &Node) -> f32 {
    let edges = graph.edges.iter().filter(|edge| edge.to == node.id || edge.from == node.id);
    let others = edges.map(|edge| if edge.to == node.id { &edge.from } else { &edge.to });
    let heights: Vec<f32> = others.filter_map(|id| places.get(id.as_str())).map(|place| place.y).collect();
    if heights.is_empty() { f32::MAX } else { heights.iter().sum::<f32>() / heights.len() as f32 }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
