//! The commands, one file each.

pub(crate) mod capture;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod filter;
pub(crate) mod gateway;
pub(crate) mod graph;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod manual;
pub(crate) mod metrics;
pub(crate) mod on;
pub(crate) mod options;
pub(crate) mod publish;
pub(crate) mod run;
pub(crate) mod stack;
pub(crate) mod switch;
pub(crate) mod top;
pub(crate) mod up;
pub(crate) mod vpn;

use std::ffi::OsString;
use std::path::Path;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};

/// The services, by their first argument, which no command has for a name.
pub(crate) const KEEPER: &str = "serve-stacks";
pub(crate) const RUNNER: &str = "serve-programs";
pub(crate) const GATEWAY: &str = "serve-gateway";
pub(crate) const TUNNEL: &str = "serve-tunnel";

/// Runs the command the user typed.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::On(args) => on::run(args),
        Command::Ls(args) => ls::run(&args),
        Command::Stack(args) => stack::run(args),
        Command::Switch(args) => switch::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Filter(args) => filter::run(args),
        Command::Vpn(args) => vpn::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Capture(args) => capture::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Up(args) => up::up(&args),
        Command::Down(args) => up::down(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

/// Runs what this program starts of itself in the background, if the arguments ask for that: a service and what it
/// serves.
pub(crate) fn service(args: impl Iterator<Item = OsString>) -> Option<Result<Exit, Failure>> {
    // One more, by which a longer line is told from ours.
    let args: Vec<OsString> = args.skip(1).take(3).collect();
    let [service, what] = &args[..] else { return None };
    match service.to_str()? {
        KEEPER => Some(crate::keeper::run(what.to_str()?)),
        RUNNER => Some(crate::topology::runner::run(what.to_str()?)),
        GATEWAY => Some(gateway::serve(Path::new(what))),
        TUNNEL => Some(vpn::serve(Path::new(what))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_command_has_the_name_of_a_service() {
        let services = [KEEPER, RUNNER, GATEWAY, TUNNEL];
        let cli = Cli::command();
        assert!(cli.get_subcommands().all(|command| !services.contains(&command.get_name())));
        let people = ["viewnet", "vpn", "ls"].map(OsString::from);
        assert!(service(people.into_iter()).is_none());
        let longer = ["viewnet", TUNNEL, "a", "b"].map(OsString::from);
        assert!(service(longer.into_iter()).is_none());
    }
}
