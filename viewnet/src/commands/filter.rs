//! `viewnet filter`: the packet filter of a stack, a view or a gateway, while it runs.

use msocket_proto::proto::{FilterChange, Request};
use serde::Serialize;
use stacks::filter::Listing;
use stacks::{gateway, remote};

use crate::commands::gateway::ask_of;
use crate::commands::options::filter_text;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

/// Show and change the packet filter of a stack, a view or a gateway.
///
/// Rules are lines such as `input: proto tcp dport 22 from 10.0.0.0/8 accept`; doc/filter.md has the language. WHOSE is
/// the name or path of a stack, the name of a running view, or `gateway`, that of the default switch, or
/// `gateway:SWITCH`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet filter add web 'default input drop' 'input: state established,related accept'
  viewnet filter add web /etc/web.rules
  viewnet filter set web /etc/web.rules
  viewnet filter ls web
  viewnet filter rm web 3")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the rules with what they have counted
    Ls {
        /// Whose filter: a stack's, a view's, `gateway` or `gateway:SWITCH`
        whose: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Add rules behind those that are there
    Add {
        /// Whose filter: a stack's, a view's, `gateway` or `gateway:SWITCH`
        whose: String,
        /// A rule, or a file of rules
        #[arg(required = true, value_name = "RULE|FILE")]
        rules: Vec<String>,
    },
    /// Put rules in the place of those that are there, all at once
    Set {
        /// Whose filter
        whose: String,
        /// A rule, or a file of rules
        #[arg(required = true, value_name = "RULE|FILE")]
        rules: Vec<String>,
    },
    /// Remove rules by their numbers
    Rm {
        /// Whose filter: a stack's, a view's, `gateway` or `gateway:SWITCH`
        whose: String,
        /// As `ls` shows them
        #[arg(required = true)]
        number: Vec<u64>,
    },
    /// Remove all rules: everything is let through
    Flush {
        /// Whose filter: a stack's, a view's, `gateway` or `gateway:SWITCH`
        whose: String,
    },
    /// Show what rules have logged: the last lines, or on a kernel stack the first since the last look
    Log {
        /// Whose filter: a stack's, a view's, `gateway` or `gateway:SWITCH`
        whose: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Ls { whose, json } => show(&ask(&runtime, &whose, None)?, json)?,
        Command::Log { whose, json } => log(&ask(&runtime, &whose, None)?, json)?,
        Command::Add { whose, rules } => {
            let rules = texts(&rules)?;
            ask(&runtime, &whose, Some(FilterChange::Add { rules }))?;
        }
        Command::Set { whose, rules } => {
            let rules = texts(&rules)?;
            ask(&runtime, &whose, Some(FilterChange::Set { rules }))?;
        }
        Command::Rm { whose, number } => {
            for handle in number {
                ask(&runtime, &whose, Some(FilterChange::Remove { handle }))?;
            }
        }
        Command::Flush { whose } => {
            ask(&runtime, &whose, Some(FilterChange::Flush))?;
        }
    }
    Ok(Exit::Done)
}

/// The text of all that was given.
fn texts(given: &[String]) -> Result<String, Failure> {
    let texts = given.iter().map(|given| Ok(filter_text(given)?.0));
    Ok(texts.collect::<Result<Vec<String>, Failure>>()?.join("\n"))
}

fn ask(runtime: &Runtime, whose: &str, change: Option<FilterChange>) -> Result<Listing, Failure> {
    let switch = match whose.split_once(':') {
        Some(("gateway", switch)) => Some(switch),
        _ => (whose == "gateway").then_some(crate::commands::switch::DEFAULT),
    };
    if let Some(switch) = switch {
        return ask_of(runtime, switch, &gateway::serve::Request::Filter { change });
    }
    remote::ask(&runtime.stack(whose), &Request::Filter { change }).map_err(|refusal| {
        let hint = refusal.hint.clone();
        Failure::from(refusal)
            .hint(hint.unwrap_or_else(|| "`viewnet stack ls` lists the stacks there are".into()))
    })
}

fn show(listing: &Listing, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(listing);
    }
    let rules = listing.rules.iter().map(|rule| {
        let (packets, bytes) = (rule.counts.packets.to_string(), rule.counts.bytes.to_string());
        [rule.handle.to_string(), packets, bytes, rule.rule.clone()]
    });
    let defaults = listing.defaults.iter().filter(|rest| rest.action == "drop" || rest.counts.packets > 0);
    let defaults = defaults.map(|rest| {
        let (packets, bytes) = (rest.counts.packets.to_string(), rest.counts.bytes.to_string());
        ["-".to_owned(), packets, bytes, format!("default {} {}", rest.hook, rest.action)]
    });
    let rows = table(["NUMBER", "PACKETS", "BYTES", "RULE"], rules.chain(defaults));
    print(&format!("{rows}\nconnections {}, without room {}\n", listing.flows, listing.crowded))
}

/// As it is printed.
#[derive(Serialize)]
struct Logged<'l> {
    lines: &'l [stacks::filter::log::Line],
}

fn log(listing: &Listing, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&Logged { lines: &listing.lines });
    }
    let line = |line: &stacks::filter::log::Line| {
        let skipped =
            if line.skipped > 0 { format!("({} were too many)\n", line.skipped) } else { String::new() };
        format!("{skipped}{} {}\n", line.number, line.text)
    };
    print(&listing.lines.iter().map(line).collect::<String>())
}
