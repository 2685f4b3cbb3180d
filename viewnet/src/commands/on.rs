//! `viewnet on`: another default stack for a program, as View-OS's mstack(1).
//!
//! Per address family that is a view whose rules are `default FAMILY via STACK` and whose own stack is what was there:
//! the host's network, or, inside a view, that view.

use std::ffi::OsString;

use crate::commands::options::{resolve, stack_named};
use crate::commands::run::{free_name, warn_of_lost_privileges};
use crate::exit::{Exit, Failure};
use crate::launch::{self, Plan, Ruled, StackSpec};
use crate::rules::{self, Rules};
use crate::runtime::{Runtime, check_name};

/// Run a program whose sockets are made on another stack, all of them or those of some families.
///
/// Families that are not named stay what they are: the host's outside of a view, the view's inside of one. Without a family it is as
/// `run --stack STACK`. The program, its exit status and signals are as with `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet on office ip addr
  viewnet on office -4 -- curl http://10.8.0.1/
  viewnet on none -6 -- ssh host
  viewnet run --ip 10.0.0.1/24 -- viewnet on office -n -- ip addr")]
pub(crate) struct Args {
    /// The stack: a name, a path, `none` or `host`
    #[arg(value_name = "STACK")]
    stack: String,

    /// For IPv4 (inet)
    #[arg(short = '4')]
    inet: bool,

    /// For IPv6 (inet6)
    #[arg(short = '6')]
    inet6: bool,

    /// For netlink, by which `ip` and `ss` ask
    #[arg(short = 'n')]
    netlink: bool,

    /// For packet sockets
    #[arg(short = 'p')]
    packet: bool,

    /// For these families, by their names (inet, inet6, netlink, packet) or the numbers of AF_*
    #[arg(short, long, visible_alias = "families", value_name = "LIST", value_delimiter = ',')]
    family: Vec<String>,

    /// Do not have dynamic programs load libvnet_preload.so, as with `viewnet run`
    #[arg(long)]
    no_shim: bool,

    /// Print a line on standard error for each call that viewnet answers
    #[arg(long)]
    trace: bool,

    /// Say which families the stack is for
    #[arg(long, short)]
    verbose: bool,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs it; returns only if that fails.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    set_up(args).map_err(Failure::before_program)
}

fn set_up(args: Args) -> Result<Exit, Failure> {
    let families = args.families()?;
    let runtime = Runtime::locate()?;
    let inside = crate::nested::supervisor().is_some();
    let pid = std::process::id() as i32;
    let (stack, ruled) = if families.is_empty() {
        (stack_named(&runtime, &args.stack)?, Ruled::default())
    } else {
        let families: Vec<String> = families.iter().map(i32::to_string).collect();
        let rules = Rules::try_from(vec![format!("default {} via {}", families.join(" "), args.stack)]);
        let ruled = resolve(&runtime, rules.map_err(crate::commands::options::rule_failure)?)?;
        (if inside { StackSpec::Outer } else { StackSpec::Host }, ruled)
    };
    if args.verbose {
        let families: Vec<String> = families.iter().map(|family| rules::family_name(*family)).collect();
        let which = if families.is_empty() { "all families".to_owned() } else { families.join(", ") };
        eprintln!("viewnet: {} for {which}", args.stack);
    }
    if !inside && stack == StackSpec::Host && ruled.stacks.iter().all(|other| *other == StackSpec::Host) {
        return launch::execute(&args.command, None).map(|never| match never {});
    }
    warn_of_lost_privileges(&args.command[0]);
    let name = free_name(&runtime, pid);
    check_name("view", &name)?;
    let Args { command, trace, verbose, no_shim, .. } = args;
    let (parent, shim, life) = (false, !no_shim, None);
    let plan = Plan { runtime, name, stack, ruled, pid, command, trace, verbose, parent, shim, life };
    launch::launch(&plan).map(|never| match never {})
}

impl Args {
    /// AF_* of the families that are named.
    fn families(&self) -> Result<Vec<i32>, Failure> {
        let short = [
            (self.inet, libc::AF_INET),
            (self.inet6, libc::AF_INET6),
            (self.netlink, libc::AF_NETLINK),
            (self.packet, libc::AF_PACKET),
        ];
        let mut families: Vec<i32> =
            short.into_iter().filter(|(given, _)| *given).map(|(_, family)| family).collect();
        for name in &self.family {
            let family = rules::family(name)
                .map_err(|(why, hint)| Failure::new("cannot choose a stack for a family", why).hint(hint))?;
            families.push(family);
        }
        families.sort_unstable();
        families.dedup();
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(words: &[&str]) -> Args {
        let line = ["viewnet", "on"].iter().chain(words);
        let cli = crate::cli::Cli::try_parse_from(line).unwrap();
        let crate::cli::Command::On(args) = cli.command else { panic!("not on") };
        args
    }

    #[test]
    fn families_are_chosen_as_with_mstack() {
        let both = args(&["office", "-46", "-f", "netlink,17,2", "-v", "--", "ip", "-4", "addr"]);
        assert_eq!(both.families().unwrap(), [2, 10, 16, 17]);
        assert_eq!(both.command, ["ip", "-4", "addr"]);
        let all = args(&["office", "ip", "-4", "addr"]);
        assert_eq!((all.families().unwrap(), all.command.len()), (vec![], 3));
        assert!(args(&["office", "-f", "unix", "true"]).families().is_err());
    }
}
