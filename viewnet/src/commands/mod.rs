//! The commands, one file each.

pub(crate) mod doctor;
pub(crate) mod switch;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};

/// Runs the command the user typed.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Switch(args) => switch::run(args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
