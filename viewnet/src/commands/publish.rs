//! `viewnet publish`: ports of the host that lead to ports of a view.
//!
//! # Theory of operation
//! A port is published by the gateway of the network that the view's stack is plugged into
//! ([`stacks::gateway::doors`]): this finds it, by the switch and the addresses of the stack's interfaces, and asks it.
//! Along goes a descriptor that hangs up when the ports are to be published no more: for `run --publish` one whose other end
//! the view's supervisor has, for `add` and `move` a connection to the stack.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use ipnet::IpNet;
use msocket_proto::line::unusable;
use stacks::config::{Link, StackConfig};
use stacks::gateway::doors::{Inside, Published};
use stacks::gateway::publish::{Ports, Publish};
use stacks::gateway::serve::{Description, Request};
use stacks::stack::InterfaceInfo;

use crate::commands::{gateway, stack};
use crate::exit::{Exit, Failure};
use crate::launch::StackSpec;
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

const WHAT: &str = "cannot publish ports";

/// Let ports of the host lead to ports of a view.
///
/// It is the gateway of the view's network that listens at the host; the view's stack must be plugged into a switch
/// that has one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ports are written [ADDR:]PORT[-PORT][:PORT[-PORT]][/udp], the host's first:
  8080:80                  port 8080 of all addresses of the host leads to port 80 of the view
  127.0.0.1:8080:80        of this address only
  [::1]:5353:53/udp        of an IPv6 address, UDP
  8000-8010:9000-9010      as many ports as there are
  auto, 127.0.0.1:auto     each TCP port that a program of the view listens on, under its own number")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish ports of a view or stack, for as long as it is there
    Add {
        /// A view, as `viewnet ls` names it, or a stack
        view: String,
        /// `8080:80`, `127.0.0.1:8000-8010:9000-9010/udp`, `auto`
        #[arg(required = true)]
        ports: Vec<Publish>,
    },
    /// Publish ports no more; connections that came in stay
    Rm {
        /// A view, as `viewnet ls` names it, or a stack
        view: String,
        /// The host's ports: `8080`, `127.0.0.1:8000-8010/udp`; all if none is said
        ports: Vec<Ports>,
    },
    /// List the published ports
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have published ports lead to another view from now on; connections that came in stay where they are
    Move {
        /// The host's ports: `8080`, `8000-8010/udp`
        ports: Ports,
        /// The other view or stack; `host`: the port is given back, for a program of the host to listen on
        to: String,
    },
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Add { view, ports } => add(&runtime, &view, ports)?,
        Command::Rm { view, ports } => {
            rm(&runtime, Some(stack_of(&runtime, &view).map_or(view, |it| it.name)), ports)?
        }
        Command::Ls { json } => ls(&runtime, json)?,
        Command::Move { ports, to } if to == "host" => rm(&runtime, None, vec![ports])?,
        Command::Move { ports, to } => move_to(&runtime, ports, &to)?,
    }
    Ok(Exit::Done)
}

/// Publishes ports of a stack that a view is about to get. What is returned must stay open for as long as the view lasts.
pub(super) fn of_a_view(
    runtime: &Runtime,
    name: &str,
    spec: &StackSpec,
    ports: Vec<Publish>,
) -> Result<Option<Arc<OwnedFd>>, Failure> {
    if ports.is_empty() {
        return Ok(None);
    }
    if crate::nested::supervisor().is_some() {
        return Err(Failure::new(WHAT, "this is inside a view, which may end before its programs do")
            .hint("use `viewnet publish add` once the inner view runs"));
    }
    let (stack, path, plugs) = match spec {
        StackSpec::New(config) | StackSpec::Kernel(config) | StackSpec::Smol(config) => {
            (name.to_owned(), runtime.stack(name), plugs_of(config))
        }
        StackSpec::At(path) => {
            let it = stacks::remote::describe(path)?;
            (it.name, path.clone(), plugs_shown(&it.interfaces))
        }
        StackSpec::Host | StackSpec::Outer => {
            return Err(Failure::new(WHAT, "the view has the host's own").hint("leave out --publish"));
        }
        StackSpec::None => {
            return Err(
                Failure::new(WHAT, "the view has no network").hint("leave out --publish or --stack none")
            );
        }
    };
    let (gateway, inside) = find(runtime, stack, path, &plugs)?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| Failure::io(WHAT, &e))?;
    let request = Request::Publish { inside, ports };
    gateway::call_with::<usize>(&gateway, &request, &[theirs.as_fd()])?;
    Ok(Some(Arc::new(ours.into())))
}

/// What an interface is plugged into, and its addresses.
type Plug = (Link, Vec<IpAddr>);

fn plugs_of(config: &StackConfig) -> Vec<Plug> {
    let interfaces = config.interfaces.iter();
    interfaces.map(|it| (it.link.clone(), it.ip.iter().map(IpNet::addr).collect())).collect()
}

fn plugs_shown(interfaces: &[InterfaceInfo]) -> Vec<Plug> {
    let address = |text: &String| text.parse::<IpNet>().ok().map(|net| net.addr());
    let plug =
        |it: &InterfaceInfo| Some((it.link.parse().ok()?, it.addresses.iter().filter_map(address).collect()));
    interfaces.iter().filter_map(plug).collect()
}

/// The gateway of a stack's network, and what it shall know of the stack.
fn find(
    runtime: &Runtime,
    stack: String,
    path: PathBuf,
    plugs: &[Plug],
) -> Result<(PathBuf, Inside), Failure> {
    let what = format!("cannot publish ports of {stack}");
    let gateways = gateway::all(runtime)?;
    let mut switch = None;
    for (link, addresses) in plugs {
        let Some(name) = link.plug().map(|plug| plug.switch) else { continue };
        let of_it = |it: &&Description| it.config.link.plug().is_some_and(|plug| plug.switch == name);
        for it in gateways.iter().filter(of_it) {
            let inside = |address: &&IpAddr| it.config.ip.iter().any(|net| net.contains(*address));
            let addresses: Vec<IpAddr> = addresses.iter().filter(inside).copied().collect();
            if !addresses.is_empty() {
                return Ok((it.path.clone(), Inside { stack, path, addresses }));
            }
        }
        switch = switch.or_else(|| Some((name, gateways.iter().any(|it| of_it(&it)))));
    }
    Err(match switch {
        None => Failure::new(what, "it is plugged into no switch")
            .hint("plug it into one with a gateway: --link switch,ip=auto"),
        Some((name, false)) => Failure::new(what, format!("switch {name} has no gateway"))
            .hint(format!("start one with `viewnet gateway up --switch {name}`")),
        Some((name, true)) => {
            Failure::new(what, format!("it has no address in the network of the gateway of switch {name}"))
                .hint("have it ask for one: ip=auto")
        }
    })
}

/// A stack by its name, or by that of a view that uses it.
fn stack_of(runtime: &Runtime, name: &str) -> Result<stacks::serve::Description, Failure> {
    if name.contains('/') {
        return stacks::remote::describe(&runtime.stack(name)).map_err(Failure::from);
    }
    let all = stack::all(runtime);
    let by_name = |it: &&stacks::serve::Description| it.name == name;
    let by_view = |it: &&stacks::serve::Description| it.users.iter().any(|user| user.view == name);
    let found = all.iter().find(by_name).or_else(|| all.iter().find(by_view));
    found.cloned().ok_or_else(|| {
        Failure::new(format!("cannot find the view {name}"), "there is none of this name, nor a stack")
            .hint("`viewnet ls` lists the views, `viewnet stack ls` the stacks")
    })
}

/// The gateway of a stack that is there, what it shall know of it, and a connection that lasts as long as the stack.
fn reach(runtime: &Runtime, view: &str) -> Result<(PathBuf, Inside, UnixStream), Failure> {
    let it = stack_of(runtime, view)?;
    let life = UnixStream::connect(&it.path).map_err(|e| unusable(WHAT, &it.path, &e))?;
    let (gateway, inside) = find(runtime, it.name, it.path, &plugs_shown(&it.interfaces))?;
    Ok((gateway, inside, life))
}

/// Publishes ports of a view or stack for as long as it is there.
pub(crate) fn add(runtime: &Runtime, view: &str, ports: Vec<Publish>) -> Result<(), Failure> {
    let (gateway, inside, life) = reach(runtime, view)?;
    gateway::call_with::<usize>(&gateway, &Request::Publish { inside, ports }, &[life.as_fd()]).map(drop)
}

/// Publishes ports of a stack no more; with `auto` among them none of it.
pub(crate) fn close(runtime: &Runtime, stack: &str, ports: &[Publish]) -> Result<(), Failure> {
    let of_host = |ports: &Publish| match ports {
        Publish::Ports(ports) => Some(ports.clone()),
        Publish::Auto(_) => None,
    };
    let ports = ports.iter().map(of_host).collect::<Option<Vec<Ports>>>().unwrap_or_default();
    let request = Request::Unpublish { stack: Some(stack.to_owned()), ports };
    for it in gateway::all(runtime)? {
        gateway::call_with::<usize>(&it.path, &request, &[])?;
    }
    Ok(())
}

/// Which of these ports lead to the stack now, by what the gateways say.
pub(crate) fn published(gateways: &[Description], stack: &str, ports: &[Publish]) -> Vec<Publish> {
    let is_open = |ports: &&Publish| match ports {
        Publish::Ports(ports) => ports.each().all(|(host, inside)| {
            let leads = |it: &Published| {
                it.stack == stack
                    && it.inside.port() == inside
                    && it.listen.port() == host
                    && ports.has(it.transport, it.listen)
            };
            gateways.iter().flat_map(|it| &it.figures.published).any(leads)
        }),
        Publish::Auto(address) => gateways
            .iter()
            .flat_map(|it| &it.figures.watched)
            .any(|it| it.stack == stack && it.address == *address),
    };
    ports.iter().filter(is_open).cloned().collect()
}

fn rm(runtime: &Runtime, stack: Option<String>, ports: Vec<Ports>) -> Result<(), Failure> {
    let request = Request::Unpublish { stack, ports };
    let mut count = 0;
    for it in gateway::all(runtime)? {
        count += gateway::call_with::<usize>(&it.path, &request, &[])?;
    }
    if count == 0 { Err(not_published()) } else { Ok(()) }
}

fn not_published() -> Failure {
    Failure::new("cannot change what is published", "no such port is")
        .hint("`viewnet publish ls` shows what is")
}

fn move_to(runtime: &Runtime, ports: Ports, to: &str) -> Result<(), Failure> {
    let (gateway, inside, life) = reach(runtime, to)?;
    let request = Request::Move { inside, ports: vec![ports] };
    match gateway::call_with::<usize>(&gateway, &request, &[life.as_fd()])? {
        0 => Err(not_published()),
        _ => Ok(()),
    }
}

fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let mut listed: Vec<Published> =
        gateway::all(runtime)?.into_iter().flat_map(|it| it.figures.published).collect();
    listed.sort_by_key(|it| (it.listen.port(), it.transport, it.listen));
    if json {
        return print_json(&listed);
    }
    let rows = listed.iter().map(|it| {
        let how = match (&it.failure, it.auto) {
            (Some(why), _) => format!("not published: {why}"),
            (None, true) => "auto".into(),
            (None, false) => String::new(),
        };
        let (host, transport) = (it.listen.to_string(), it.transport.to_string());
        [host, transport, it.inside.to_string(), it.stack.clone(), it.clients.to_string(), how]
    });
    print(&table(["HOST", "PROTOCOL", "INSIDE", "STACK", "CLIENTS", ""], rows))
}
