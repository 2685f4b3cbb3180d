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

// What each does is said beside its arguments: a line of it here would be all that its help has.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(commands::run::Args),
    On(commands::on::Args),
    Ls(commands::ls::Args),
    Stack(commands::stack::Args),
    Switch(commands::switch::Args),
    Gateway(commands::gateway::Args),
    Filter(commands::filter::Args),
    Vpn(commands::vpn::Args),
    Publish(commands::publish::Args),
    Capture(commands::capture::Args),
    Events(commands::events::Args),
    Metrics(commands::metrics::Args),
    Top(commands::top::Args),
    Up(commands::up::Up),
    Down(commands::up::Down),
    Graph(commands::graph::Args),
    Logs(commands::logs::Args),
    Doctor(commands::doctor::Args),
    Completions(commands::manual::Completions),
    Man(commands::manual::Man),
}
