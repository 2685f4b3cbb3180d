//! A topology as a picture: nodes and edges, as DOT for graphviz, or drawn here as SVG ([`svg()`]).
//!
//! Programs are in stacks, stacks are plugged into switches, switches have ports to the outside: four ranks from left
//! to right, and edges only between neighbours (but for a program in a stack that is not drawn).

mod svg;

use std::fmt::Write as _;

use serde::Serialize;
use stacks::config::{Link, PortVlan};

use super::schema::{Program, Stack, Switch, Topology};

pub(crate) use self::svg::svg;

/// What a node is; also where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rank {
    /// A program, or whatever uses a stack.
    Program,
    /// A stack.
    Stack,
    /// A switch, or another network.
    Switch,
    /// An interface of the machine.
    Port,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Node {
    /// Unique, such as `stack web`.
    pub(crate) id: String,
    /// What it is.
    pub(crate) rank: Rank,
    /// What stands in it; the first line is its name.
    pub(crate) lines: Vec<String>,
}

/// A line between two boxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Edge {
    /// The node on the left.
    pub(crate) from: String,
    /// The node on the right.
    pub(crate) to: String,
    /// What stands at it.
    pub(crate) label: String,
}

/// Boxes and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Graph {
    /// The boxes.
    pub(crate) nodes: Vec<Node>,
    /// The lines.
    pub(crate) edges: Vec<Edge>,
}

impl Graph {
    /// What a file describes.
    pub(crate) fn of(topology: &Topology) -> Self {
        let mut graph = Self::default();
        topology.switches.iter().for_each(|(name, switch)| graph.add_switch(name, switch));
        topology.stacks.iter().for_each(|(name, stack)| graph.add_stack(name, stack));
        topology.programs.iter().for_each(|(name, program)| graph.add_program(name, program));
        graph
    }

    /// Adds a box, unless it is there.
    pub(crate) fn node(&mut self, rank: Rank, name: &str, more: Vec<String>) -> String {
        let what = match rank {
            Rank::Program => "program",
            Rank::Stack => "stack",
            Rank::Switch => "switch",
            Rank::Port => "port",
        };
        let id = format!("{what} {name}");
        if !self.nodes.iter().any(|node| node.id == id) {
            let lines = [name.to_owned()].into_iter().chain(more).collect();
            self.nodes.push(Node { id: id.clone(), rank, lines });
        }
        id
    }

    /// Adds a line.
    pub(crate) fn edge(&mut self, from: &str, to: &str, label: impl Into<String>) {
        self.edges.push(Edge { from: from.to_owned(), to: to.to_owned(), label: label.into() });
    }

    fn add_switch(&mut self, name: &str, switch: &Switch) {
        let mut more = vec![if switch.external { "external switch".to_owned() } else { "switch".to_owned() }];
        more.extend(switch.vlan.iter().map(|(vid, name)| format!("VLAN {} {name}", vid.0)));
        let id = self.node(Rank::Switch, name, more);
        for (port_name, port) in &switch.port {
            let (what, device) = match (&port.tap, &port.nic) {
                (Some(tap), _) => ("tap", tap.as_str()),
                (None, nic) => ("nic", nic.as_deref().unwrap_or_default()),
            };
            let port_id =
                self.node(Rank::Port, &format!("{name}/{port_name}"), vec![format!("{what} {device}")]);
            self.edge(&id, &port_id, port.vlans().to_string());
        }
    }

    fn add_stack(&mut self, name: &str, stack: &Stack) {
        let kind = stack.kind.map_or_else(|| "stack".to_owned(), |kind| format!("{kind} stack"));
        let id = self.node(Rank::Stack, name, vec![kind]);
        for interface in &stack.interfaces {
            let addresses: Vec<String> = interface.ip.iter().map(ToString::to_string).collect();
            self.plug(&id, &interface.name, &interface.link, &addresses);
        }
    }

    /// Draws an interface.
    pub(crate) fn plug(&mut self, stack: &str, interface: &str, link: &Link, addresses: &[String]) {
        let (to, vlan) = match link {
            Link::None => return,
            Link::Switch { name, vlan } => {
                let vlan = match vlan {
                    PortVlan::Default => String::new(),
                    vlan => vlan.to_string(),
                };
                (self.node(Rank::Switch, name, vec!["switch".to_owned()]), vlan)
            }
            other => (self.node(Rank::Switch, &other.to_string(), vec![]), String::new()),
        };
        let words = [interface.to_owned(), addresses.join(" "), vlan];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        self.edge(stack, &to, words.join(" "));
    }

    fn add_program(&mut self, name: &str, program: &Program) {
        let id = self.node(Rank::Program, name, vec![shortened(&program.command.to_string())]);
        let stack = self.node(Rank::Stack, &program.stack, vec![]);
        self.edge(&id, &stack, "");
        for other in &program.after {
            self.edge(&format!("program {other}"), &id, "then");
        }
    }

    /// For graphviz.
    pub(crate) fn dot(&self) -> String {
        let mut text = String::from("digraph topology {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n");
        for node in &self.nodes {
            let shape = match node.rank {
                Rank::Program => "note",
                Rank::Stack => "box",
                Rank::Switch => "box3d",
                Rank::Port => "cds",
            };
            let label = node.lines.iter().map(|line| escaped(line)).collect::<Vec<_>>().join("\\n");
            let _ = writeln!(text, "  \"{}\" [shape={shape}, label=\"{label}\"];", escaped(&node.id));
        }
        for edge in &self.edges {
            // The order of starting is no plug.
            let style = if edge.label == "then" { "style=dotted" } else { "dir=none" };
            let (from, to, label) = (escaped(&edge.from), escaped(&edge.to), escaped(&edge.label));
            let _ = writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{label}\", {style}];");
        }
        text + "}\n"
    }
}

/// Characters of a command that are shown.
const SHOWN: usize = 32;

/// The start of a long text, without control characters.
pub(crate) fn shortened(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN + 1).collect();
    match plain.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &plain[..at]),
        None => plain,
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str = "
[switch.lan]
port.up0 = { nic = 'veth1', trunk = 'all' }
[stack.web]
kind = 'smol'
interface = [{ name = 'eth0', link = 'switch:lan[vlan 10]', ip = ['10.0.0.1/24'] }]
[program.a]
stack = 'web'
command = 'echo \"x\" & <b>'
[program.b]
stack = 'host'
command = ['true']
after = ['a']
";

    fn graph() -> Graph {
        Graph::of(&Topology::parse(LAB, "lab").unwrap().1)
    }

    #[test]
    fn dot_has_everything_once() {
        let dot = graph().dot();
        for line in [
            "\"switch lan\" [shape=box3d, label=\"lan\\nswitch\"];",
            "\"stack web\" -> \"switch lan\" [label=\"eth0 10.0.0.1/24 [vlan 10]\", dir=none];",
            "\"switch lan\" -> \"port lan/up0\" [label=\"trunk all\", dir=none];",
            "label=\"a\\necho \\\"x\\\" & <b>\"",
            "\"program a\" -> \"program b\" [label=\"then\", style=dotted];",
            "\"stack host\"",
        ] {
            assert!(dot.contains(line), "{line} in\n{dot}");
        }
    }

    #[test]
    fn svg_is_well_formed() {
        let svg = svg(&graph());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains("&quot;x&quot; &amp; &lt;b&gt;"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), graph().nodes.len() + 1);
    }
}
