//! What the user typed. Each command keeps its own arguments beside its code.

use clap::{Parser, Subcommand};

use crate::commands;

/// Every process gets its own view of the network: addresses, routes, names, without root.
#[derive(Debug, Parser)]
#[command(name = "viewnet", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program on a network stack of its own
    Run(commands::run::Args),
    /// Run a program whose sockets are made on another stack, per address family
    On(commands::on::Args),
    /// List the running views
    Ls(commands::ls::Args),
    /// Make, list and end stacks that outlive a program
    Stack(commands::stack::Args),
    /// Start, list and change user-space Ethernet switches
    Switch(commands::switch::Args),
    /// Let a switch's network out over sockets of the host
    Gateway(commands::gateway::Args),
    /// Show and change the packet filter of a stack, a view or a gateway
    Filter(commands::filter::Args),
    /// Keep WireGuard tunnels that programs can use beside each other
    Vpn(commands::vpn::Args),
    /// Let ports of the host lead to ports of a view
    Publish(commands::publish::Args),
    /// Show or record the frames of a switch, a port or a stack
    Capture(commands::capture::Args),
    /// Print what happens in switches, as it happens
    Events(commands::events::Args),
    /// Print the counters of switches and stacks for Prometheus
    Metrics(commands::metrics::Args),
    /// Show switches, ports with their rates, stacks and the processes of views, live
    Top(commands::top::Args),
    /// Make what a topology file describes: switches, stacks, programs
    Up(commands::up::Up),
    /// Take away what a topology made
    Down(commands::up::Down),
    /// Draw a topology: a file, or what runs
    Graph(commands::graph::Args),
    /// Show the output of a topology's programs
    Logs(commands::logs::Args),
    /// Check what this machine offers and say how to fix what it lacks
    Doctor(commands::doctor::Args),
    /// Print shell completions
    Completions(commands::manual::Completions),
    /// Print the manual page, or one page per command into a folder
    Man(commands::manual::Man),
}
