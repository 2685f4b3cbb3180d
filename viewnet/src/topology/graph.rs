//! A topology as a picture: nodes and edges, as DOT for graphviz, or drawn here as SVG ([`svg()`]).
//!
//! Programs are in stacks, stacks are plugged into switches, switches have ports to the outside: four ranks from left
//! to right, and edges only between neighbours (but for a program in a stack that is not drawn).

mod svg;

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use stacks::config::Link;
use stacks::gateway::publish::Publish;
use switch::link::Link as PortLink;

use super::schema::{Gateway, Port, PortSettings, Program, Stack, Switch, Topology};

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
        // Ports lead from switch to switch, so those are there by now.
        for (name, switch) in &topology.switches {
            switch.port.iter().for_each(|(port_name, port)| graph.add_port(name, port_name, port));
        }
        topology.gateways.iter().for_each(|(name, gateway)| graph.add_gateway(name, gateway));
        topology.stacks.iter().for_each(|(name, stack)| graph.add_stack(name, stack, topology));
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
        more.extend(switch.vlan.iter().map(|(vid, vlan)| format!("VLAN {} {}", vid.0, vlan.name)));
        let tree = switch.tree();
        more.extend(switch.hub.then(|| "hub".to_owned()));
        if tree.enabled == Some(true) {
            more.push(
                tree.priority
                    .map_or_else(|| "spanning tree".into(), |n| format!("spanning tree, priority {n}")),
            );
        }
        self.node(Rank::Switch, name, more);
    }

    /// Draws what a port leads to; that of a stack is drawn with the stack.
    fn add_port(&mut self, switch: &str, name: &str, port: &Port) {
        let switch_id = &self.node(Rank::Switch, switch, vec![]);
        let words = words(&port.settings());
        let Some(link) = port.leads_to() else { return };
        let label = [port.vlans().to_string()].into_iter().chain(words).collect::<Vec<_>>().join(", ");
        match link {
            PortLink::Switch { name: other, .. } => {
                let other = self.node(Rank::Switch, &other, vec!["switch".to_owned()]);
                self.edge(switch_id, &other, format!("{name}, {label}"));
            }
            link => {
                let id =
                    self.node(Rank::Port, &format!("{switch}/{name}"), vec![shortened(&link.to_string())]);
                self.edge(switch_id, &id, label);
            }
        }
    }

    fn add_gateway(&mut self, switch: &str, gateway: &Gateway) {
        let id = self.node(Rank::Switch, switch, vec!["switch".to_owned()]);
        let addresses: Vec<String> = gateway.ip.iter().map(ToString::to_string).collect();
        let said = [
            (gateway.via.as_ref().map(|via| shortened(&format!("by {via}")))),
            (gateway.isolate || !gateway.deny.is_empty()).then(|| "rules".to_owned()),
            (!gateway.filter.is_empty()).then(|| "filter".to_owned()),
            gateway.host_loopback.then(|| "the host's loopback".to_owned()),
        ];
        let lines = addresses.into_iter().chain(said.into_iter().flatten()).collect();
        let gateway_id = self.node(Rank::Port, &format!("{switch}/gateway"), lines);
        self.edge(&id, &gateway_id, gateway.vlan.map_or_else(String::new, |vid| format!("access {vid}")));
    }

    fn add_stack(&mut self, name: &str, stack: &Stack, topology: &Topology) {
        let kind = stack.kind.map_or_else(|| "stack".to_owned(), |kind| format!("{kind} stack"));
        let filter = (!stack.filter.is_empty()).then(|| "filter".to_owned());
        let lines = [kind].into_iter().chain(filter).chain(published(&stack.publish)).collect();
        let id = self.node(Rank::Stack, name, lines);
        if let Some(file) = &stack.vpn {
            self.plug(&id, "wg0", &tunnel(file), &[]);
        }
        for interface in &stack.interfaces {
            let addresses = interface.ip.iter().map(ToString::to_string);
            let switch = interface.link.plug().and_then(|plug| topology.switches.get(plug.switch));
            let port = switch.and_then(|switch| switch.port.get(&format!("{name}.{}", interface.name)));
            let settings = port.map(|port| words(&port.settings())).unwrap_or_default();
            let more: Vec<String> = addresses.chain(settings).collect();
            self.plug(&id, &interface.name, &interface.link, &more);
        }
    }

    /// Draws an interface.
    pub(crate) fn plug(&mut self, stack: &str, interface: &str, link: &Link, more: &[String]) {
        let (to, vlan, impaired) = match (link, link.plug()) {
            (Link::None, _) => return,
            (_, Some(plug)) => {
                let vlans = plug.vlans.map_or_else(String::new, switch::link::rules);
                let to = self.node(Rank::Switch, plug.switch, vec!["switch".to_owned()]);
                (to, vlans, plug.impaired.map_or("", |_| "impaired"))
            }
            (other, None) => {
                (self.node(Rank::Switch, &shortened(&other.to_string()), vec![]), String::new(), "")
            }
        };
        let words = [interface.to_owned(), more.join(" "), vlan, impaired.to_owned()];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        self.edge(stack, &to, words.join(" "));
    }

    fn add_program(&mut self, name: &str, program: &Program) {
        let command = shortened(&program.command.to_string());
        let lines = [command].into_iter().chain(published(&program.publish)).collect();
        let id = self.node(Rank::Program, name, lines);
        match (&program.stack, &program.vpn) {
            (Some(stack), _) => {
                let stack = self.node(Rank::Stack, stack, vec![]);
                self.edge(&id, &stack, "");
            }
            (None, Some(file)) => {
                let stack = self.node(Rank::Stack, name, vec!["its own".to_owned()]);
                self.edge(&id, &stack, "");
                self.plug(&stack, "wg0", &tunnel(file), &[]);
            }
            (None, None) => {}
        }
        for rule in &program.rules {
            let Some((_, stack)) = rule.rsplit_once(" via ") else { continue };
            let stack = self.node(Rank::Stack, stack.trim(), vec![]);
            self.edge(&id, &stack, shortened(rule));
        }
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

/// What a port was told, in a word for each thing, as the picture has little room.
fn words(settings: &PortSettings) -> Vec<String> {
    let PortSettings { shut, pin, qos, reserve, guard, stp, impair, mirror } = settings;
    let said = [
        (*shut, "shut"),
        (!pin.is_empty(), "pinned"),
        (*qos != Default::default(), "qos"),
        (!reserve.is_empty(), "reserved"),
        (*guard != Default::default(), "guarded"),
        (*stp != Default::default(), "stp"),
        (*impair != Default::default(), "impaired"),
        (mirror.is_some(), "mirror"),
    ];
    said.into_iter().filter(|(is_said, _)| *is_said).map(|(_, word)| word.to_owned()).collect()
}

/// What leads to a stack from the host.
fn published(ports: &[Publish]) -> Option<String> {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    (!ports.is_empty()).then(|| format!("published {}", ports.join(" ")))
}

fn tunnel(file: &Path) -> Link {
    Link::Wg { path: file.to_string_lossy().into_owned() }
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
