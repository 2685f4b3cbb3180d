//! `viewnet graph`: a topology as a picture.

use std::path::PathBuf;

use clap::ArgGroup;
use switch::client::Client;

use crate::commands::stack::all;
use crate::commands::up::read;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::served::sockets;
use crate::tables::{print, print_json};
use crate::topology::graph::{Graph, Rank, shortened, svg};

/// Draw a topology: a file, or what runs.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").args(["file", "running"]).required(true))]
#[command(group = ArgGroup::new("form").args(["svg", "json"]))]
#[command(after_help = "Examples:
  viewnet graph lab.toml | dot -Tpdf > lab.pdf
  viewnet graph lab.toml --svg > lab.svg
  viewnet graph --running --svg > now.svg")]
pub(crate) struct Args {
    /// The topology's file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Draw all that you have running, of topologies or not
    #[arg(long)]
    running: bool,

    /// As SVG, in place of DOT for graphviz
    #[arg(long)]
    svg: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let graph = match &args.file {
        Some(file) => Graph::of(&read(file)?.2),
        None => running(&Runtime::locate()?),
    };
    if args.json {
        print_json(&graph)?;
    } else if args.svg {
        print(&svg(&graph))?;
    } else {
        print(&graph.dot())?;
    }
    Ok(Exit::Done)
}

/// Switches, stacks and views of this user.
fn running(runtime: &Runtime) -> Graph {
    let mut graph = Graph::default();
    let mut ports = Vec::new();
    for path in sockets(&runtime.switches()).unwrap_or_default() {
        let asked = Client::connect(&path).and_then(|mut client| {
            let failed = std::io::Error::other;
            Ok((client.show().map_err(failed)?, client.ports().map_err(failed)?))
        });
        let Ok((show, list)) = asked else { continue };
        graph.node(Rank::Switch, &show.name, vec![format!("switch, {} stations", show.stations)]);
        ports.extend(list.into_iter().map(|port| (show.name.clone(), port)));
    }
    let mut plugged = Vec::new();
    for stack in all(runtime) {
        let id = graph.node(Rank::Stack, &stack.name, vec![format!("{} stack", stack.kind.name())]);
        for interface in stack.interfaces.iter().filter(|interface| interface.name != "lo") {
            plugged.push(format!("{}.{}", stack.name, interface.name));
            if let Ok(link) = interface.link.parse() {
                graph.plug(&id, &interface.name, &link, &interface.addresses);
            }
        }
        for user in stack.users {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", user.pid)).unwrap_or_default();
            let more = vec![shortened(command.trim_end())];
            let program = graph.node(Rank::Program, &user.view, more);
            graph.edge(&program, &id, "");
        }
    }
    // The others are interfaces of stacks.
    for (switch, port) in ports {
        if plugged.iter().any(|name| port.name == *name || port.name.starts_with(&format!("{name}."))) {
            continue;
        }
        let kind = serde_json::to_value(port.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
        let id = graph.node(Rank::Port, &format!("{switch}/{}", port.name), vec![kind]);
        graph.edge(&format!("switch {switch}"), &id, port.vlans.to_string());
    }
    graph
}
