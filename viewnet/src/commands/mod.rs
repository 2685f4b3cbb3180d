//! The commands, one file each.

pub(crate) mod doctor;
pub(crate) mod ls;
pub(crate) mod manual;
pub(crate) mod on;
pub(crate) mod options;
pub(crate) mod run;
pub(crate) mod stack;
pub(crate) mod switch;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};

/// Runs the command the user typed.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::On(args) => on::run(args),
        Command::Ls(args) => ls::run(&args),
        Command::Stack(args) => stack::run(args),
        Command::Switch(args) => switch::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Keeper { kind } => crate::keeper::run(&kind),
    }
}
