//! `viewnet vpn`: WireGuard tunnels, each with a stack that programs share.
//!
//! # Theory of operation
//! A tunnel is a process ([`stacks::wg`]) whose socket is a file in the runtime folder; [`launch`] starts it. It is
//! there for one stack, and ends with it. `vpn up` makes both under one name; `run --vpn` makes a tunnel for the view's
//! own stack. What a stack has to know of a tunnel (addresses, MTU, routes) [`hold`] takes from the file.

mod launch;
mod print;
mod settle;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use stacks::config::StackConfig;
use stacks::remote;
use stacks::stack::Kind;
use stacks::wg::serve::{Description, Request};

use crate::commands::options::{KindName, hold_switches};
use crate::exit::{Exit, Failure};
use crate::keeper::{self, Restart, Up};
use crate::runtime::{Runtime, check_name};
use crate::served::{self, sockets};
use crate::tables::print_json;

pub(crate) use launch::serve;
pub(crate) use settle::{hold, hold_as};

/// Keep WireGuard tunnels that programs can use beside each other.
///
/// Without root, several at once. A program in a tunnel's stack has no other way out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet vpn up ~/office.conf
  viewnet vpn run office -- firefox
  viewnet run --vpn ~/office.conf -- curl https://intranet/
  viewnet run --stack host --rule 'to 10.8.0.0/16 via office' -- ssh build.office")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a tunnel, and a stack that goes through it, and keep both until `down`
    Up(UpArgs),
    /// List this user's tunnels, those of running views too
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a tunnel as `wg show` does: peers, handshakes, bytes
    Show {
        /// Its name; all without one
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a tunnel that was made with `up`, and its stack
    Down {
        /// Its name
        name: String,
        /// Even if programs use it: their network goes down
        #[arg(long)]
        force: bool,
    },
    /// Run a program on a tunnel's stack: the same as `viewnet run --stack NAME`
    Run {
        /// Its name
        name: String,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// A file as wg-quick(8) reads it
    file: PathBuf,
    /// The name of the tunnel and its stack; without it the file's name without `.conf`
    #[arg(long)]
    name: Option<String>,
    /// Kind of the stack, as `viewnet stack up` takes it
    #[arg(long, value_name = "KIND")]
    kind: Option<KindName>,
    /// A further interface of the stack, as `viewnet run` takes it: with one on a switch it can be a router
    #[arg(long, value_name = "LINK")]
    link: Vec<String>,
    /// Make the stack a router between its interfaces
    #[arg(long)]
    forward: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    match args.command {
        Command::Run { name, command } => {
            let mut line: Vec<OsString> = ["viewnet", "run", "--stack"].map(Into::into).to_vec();
            line.extend([name.into(), "--".into()]);
            line.extend(command);
            let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(line)
                .map_err(|e| Failure::new("cannot run the program", e))?;
            return crate::commands::dispatch(cli);
        }
        Command::Up(args) => up(&Runtime::locate()?, args)?,
        Command::Ls { json } => {
            let tunnels = all(&Runtime::locate()?)?;
            if json { print_json(&tunnels)? } else { print::list(&tunnels)? }
        }
        Command::Show { name, json } => {
            let runtime = Runtime::locate()?;
            let tunnels = match &name {
                Some(name) => vec![show(&runtime, name)?],
                None => all(&runtime)?,
            };
            match (json, &name, &tunnels[..]) {
                (true, Some(_), [tunnel]) => print_json(tunnel)?,
                (true, ..) => print_json(&tunnels)?,
                (false, ..) => print::show(&tunnels)?,
            }
        }
        Command::Down { name, force } => down(&Runtime::locate()?, &name, force)?,
    }
    Ok(Exit::Done)
}

fn up(runtime: &Runtime, args: UpArgs) -> Result<(), Failure> {
    let name = args.name.unwrap_or_else(|| settle::stem(&args.file));
    check_name("tunnel", &name)?;
    let kind = match args.kind {
        Some(KindName::None) => {
            return Err(Failure::new("cannot make a tunnel", "a stack of kind none has no interfaces")
                .hint("leave out --kind none"));
        }
        Some(KindName::Smol) => Kind::Smol,
        _ => Kind::Kernel,
    };
    let wrong = |e: stacks::config::ConfigError| Failure::from(e.refusal("cannot use the configuration"));
    let mut config = StackConfig::default();
    config.add_tunnel(&args.file.to_string_lossy());
    args.link.iter().try_for_each(|line| config.add_line(line)).map_err(wrong)?;
    config.forward = args.forward;
    let mut config = config.checked().map_err(wrong)?;
    let path =
        std::path::absolute(runtime.stack(&name)).map_err(|e| Failure::io("cannot use the path", &e))?;
    if remote::describe(&path).is_ok() {
        return Err(Failure::new(format!("cannot make tunnel {name}"), "there is a stack of this name")
            .hint(format!("`viewnet stack show {name}` shows it; give another --name")));
    }
    let tunnel = hold_as(runtime, &mut config, Some(&name))?;
    let switches = hold_switches(runtime, &name, kind == Kind::Smol, &mut config)?;
    let up = Up { name, path, mode: 0o600, config, kind, restart: Restart::Never };
    keeper::up(runtime, &up, args.kind.is_none())?;
    drop((tunnel, switches));
    Ok(())
}

fn down(runtime: &Runtime, name: &str, force: bool) -> Result<(), Failure> {
    // That there is such a tunnel; its stack may be gone already, if the tunnel was just about to end.
    let tunnel = show(runtime, name)?;
    let ended = remote::end(&runtime.stack(name), force);
    if let Err(refusal) = ended
        && remote::describe(&runtime.stack(name)).is_ok()
    {
        return Err(refusal.into());
    }
    // Without its stack it ends by itself; told so, it has when this returns.
    let _ = ask::<()>(&tunnel.path, &Request::Down);
    Ok(())
}

/// The tunnels of the runtime folder; the sockets of dead ones are removed on the way.
fn all(runtime: &Runtime) -> Result<Vec<Description>, Failure> {
    // One that ends while we ask is not listed.
    let show = |path: &PathBuf| ask(path, &Request::Show).ok();
    Ok(sockets(&runtime.tunnels())?.iter().filter_map(show).collect())
}

fn show(runtime: &Runtime, name: &str) -> Result<Description, Failure> {
    let path = if name.contains('/') { PathBuf::from(name) } else { runtime.tunnels().join(name) };
    ask(&path, &Request::Show).map_err(|failure| match failure.refusal.hint {
        None => failure.hint("`viewnet vpn ls` lists the tunnels that are there"),
        Some(_) => failure,
    })
}

fn ask<A: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> Result<A, Failure> {
    served::call("cannot reach the tunnel", path, request, &[])
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::augment_args(clap::Command::new("vpn")).debug_assert();
    }
}
