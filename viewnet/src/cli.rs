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
    /// Check what this machine offers and say how to fix what it lacks
    Doctor(commands::doctor::Args),
    /// Print shell completions
    Completions(commands::manual::Completions),
    /// Print the manual page, or one page per command into a folder
    Man(commands::manual::Man),
    /// Host this user's kept stacks (started by `stack up`)
    #[command(hide = true)]
    Keeper {
        /// Of stacks of this kind
        kind: String,
    },
}
