//! The spanning tree on the command line: what is set, and `switch stp`.

use clap::ValueEnum;
use switch::client::{StpChange, StpPortChange, StpTree};
use switch::stp::config::{self, PortTree};

use super::Target;
use super::inspect::{duration, word};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Toggle {
    On,
    Off,
}

impl From<Toggle> for bool {
    fn from(toggle: Toggle) -> Self {
        toggle == Toggle::On
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Edge {
    On,
    Off,
    Auto,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Stp,
    Rstp,
}

/// `switch set`: the spanning tree.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Spanning tree")]
#[group(skip)]
pub(super) struct Set {
    /// Turn the spanning tree (RSTP, one for all VLANs) on or off
    #[arg(long, group = "any", value_name = "ON|OFF")]
    stp: Option<Toggle>,
    /// The switch's priority, 0 to 61440 in steps of 4096; the smallest becomes root
    #[arg(long, group = "any", value_name = "N")]
    priority: Option<u16>,
    /// Speak the old protocol only, or the rapid one
    #[arg(long, group = "any", value_name = "PROTOCOL")]
    stp_protocol: Option<Protocol>,
    /// Seconds between two BPDUs, 1 or 2
    #[arg(long, group = "any", value_name = "SECONDS")]
    hello: Option<u8>,
    /// The age at which a BPDU is worth nothing, 6 to 40 seconds
    #[arg(long, group = "any", value_name = "SECONDS")]
    max_age: Option<u8>,
    /// How long a port listens, and learns, without its neighbour's agreement, 4 to 30 seconds
    #[arg(long, group = "any", value_name = "SECONDS")]
    forward_delay: Option<u8>,
}

/// `switch port set`: the spanning tree.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct PortSet {
    /// Spanning tree: what the link costs, 1 to 200000000; 0: according to its speed
    #[arg(long, value_name = "N")]
    stp_cost: Option<u32>,
    /// Spanning tree: the port's priority, 0 to 240 in steps of 16
    #[arg(long, value_name = "N")]
    stp_priority: Option<u8>,
    /// Spanning tree: there is no switch behind this port (auto: if none is heard for 3 seconds)
    #[arg(long, value_name = "ON|OFF|AUTO")]
    edge: Option<Edge>,
    /// Spanning tree: a BPDU shuts the port, until this is set again
    #[arg(long, value_name = "ON|OFF")]
    bpdu_guard: Option<Toggle>,
    /// Spanning tree: the root is not to be found behind this port
    #[arg(long, value_name = "ON|OFF")]
    root_guard: Option<Toggle>,
    /// Spanning tree: the link has two ends, or is shared by more
    #[arg(long, value_name = "ON|OFF")]
    point_to_point: Option<Toggle>,
    /// Spanning tree: try the rapid protocol again where the old one was heard
    #[arg(long)]
    migrate: bool,
}

impl Set {
    /// What is to change, if anything.
    pub(super) fn change(&self) -> Option<StpChange> {
        let change = StpChange {
            enabled: self.stp.map(bool::from),
            protocol: self.stp_protocol.map(|protocol| match protocol {
                Protocol::Stp => config::Protocol::Stp,
                Protocol::Rstp => config::Protocol::Rstp,
            }),
            priority: self.priority,
            hello_s: self.hello,
            max_age_s: self.max_age,
            forward_delay_s: self.forward_delay,
            tx_hold: None,
        };
        (change != StpChange::default()).then_some(change)
    }
}

impl PortSet {
    /// What is to change, if anything.
    pub(super) fn change(self) -> Option<StpPortChange> {
        let change = StpPortChange {
            cost: self.stp_cost,
            priority: self.stp_priority,
            edge: self.edge.map(|edge| match edge {
                Edge::On => config::Edge::On,
                Edge::Off => config::Edge::Off,
                Edge::Auto => config::Edge::Auto,
            }),
            point_to_point: self.point_to_point.map(bool::from),
            bpdu_guard: self.bpdu_guard.map(bool::from),
            root_guard: self.root_guard.map(bool::from),
            migrate: self.migrate,
        };
        (change != StpPortChange::default()).then_some(change)
    }
}

/// `switch stp`
pub(super) fn show(target: &Target, runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let mut client = target.connect(runtime)?;
    let tree = client.stp().map_err(|e| call_failed("cannot ask the switch", e))?;
    if json {
        return print_json(&tree);
    }
    let changes = match tree.changed_s {
        Some(ago) => format!("{}, the last {} ago", tree.topology_changes, duration(ago)),
        None => "none".to_owned(),
    };
    print(&format!(
        "tree      {}\nbridge    {}\nroot      {}\ntimes     hello {} s, maximum age {} s, forward delay {} s\nchanges   {changes}\n\n{}",
        in_short(&tree),
        tree.bridge,
        tree.root,
        tree.hello_s,
        tree.max_age_s,
        tree.forward_delay_s,
        port_table(&tree.ports),
    ))
}

/// The tree in one line.
pub(super) fn in_short(tree: &StpTree) -> String {
    let protocol = word(tree.protocol);
    match &tree.root_port {
        _ if !tree.enabled => "off".to_owned(),
        None => format!("{protocol}, this switch is the root"),
        Some(port) => format!("{protocol}, root {} by port {port}, cost {}", tree.root, tree.root_cost),
    }
}

fn port_table(ports: &[PortTree]) -> String {
    let row = |p: &PortTree| {
        let notes = [
            (p.shut, "shut by a BPDU"),
            (!p.link, "link down"),
            (p.is_edge, "edge"),
            (!p.point_to_point, "shared"),
            (p.bpdu_guard, "bpdu-guard"),
            (p.root_guard, "root-guard"),
        ];
        let notes: Vec<&str> = notes.iter().filter(|(holds, _)| *holds).map(|(_, note)| *note).collect();
        [
            p.name.clone(),
            p.id.clone(),
            word(p.role),
            word(p.state),
            p.cost.to_string(),
            word(p.protocol),
            format!("{} {}", p.designated_bridge, p.designated_port),
            p.rx_bpdus.to_string(),
            p.tx_bpdus.to_string(),
            if notes.is_empty() { "-".to_owned() } else { notes.join(", ") },
        ]
    };
    let head = ["PORT", "ID", "ROLE", "STATE", "COST", "SPEAKS", "DESIGNATED", "RX", "TX", "NOTES"];
    table(head, ports.iter().map(row))
}
