//! `viewnet events`: what happens in switches, as it happens.
//!
//! # Theory of operation
//! One connection to each switch, all in one epoll set. A switch's lines are its events; they are printed as they come,
//! as JSON or in words. The command ends when the last of the switches has.

use std::fmt::Write as _;

use msocket_proto::line::{Line, Received};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use switch::client::Request;
use switch::events::{Event, Told, VERSION};

use crate::commands::switch::{each, reach_existing};
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::print;

const WHAT: &str = "cannot wait for events";

/// Print what happens in switches: ports, stations, VLANs, settings, drops.
///
/// Without SWITCH all that run now. Times are UTC.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet events
  viewnet events lan --json | jq 'select(.event == \"station_moved\")'")]
pub(crate) struct Args {
    /// The switches: names, or paths of their sockets
    #[arg(value_name = "SWITCH")]
    switches: Vec<String>,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Prints them until the last switch has ended.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    let clients = if args.switches.is_empty() {
        each(&runtime)
    } else {
        let reach = |name: &String| reach_existing(&runtime, name).map(|client| (name.clone(), client));
        args.switches.iter().map(reach).collect::<Result<_, _>>()?
    };
    if clients.is_empty() {
        return Err(Failure::new(WHAT, "no switch runs").hint("start one: `viewnet switch up lan`"));
    }
    let failed = |e: nix::Error| Failure::io(WHAT, &e.into());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    let mut lines = Vec::new();
    for (at, (name, mut client)) in clients.into_iter().enumerate() {
        client.call::<()>(&Request::Events).map_err(|e| call_failed(WHAT, e))?;
        let line = client.into_line();
        line.stream().set_nonblocking(true).map_err(|e| Failure::io(WHAT, &e))?;
        epoll.add(&line, EpollEvent::new(EpollFlags::EPOLLIN, at as u64)).map_err(failed)?;
        lines.push(Some((name, line)));
    }
    // Whoever reads us may go while nothing happens.
    let _ = epoll.add(std::io::stdout(), EpollEvent::new(EpollFlags::empty(), u64::MAX));
    // What came behind the answer is read without being waited for.
    let mut ready: Vec<usize> = (0..lines.len()).collect();
    loop {
        for at in ready.drain(..) {
            let Some(Some((name, line))) = lines.get_mut(at) else { return Ok(Exit::Done) };
            let is_open = drain(name, line, args.json)?;
            if !is_open && let Some((_, line)) = lines[at].take() {
                let _ = epoll.delete(&line);
            }
        }
        if lines.iter().all(Option::is_none) {
            return Ok(Exit::Done);
        }
        let mut events = [EpollEvent::empty(); 16];
        match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => ready.extend(events[..count].iter().map(|event| event.data() as usize)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Prints what a switch has told; false once it has ended.
fn drain(name: &str, line: &mut Line, json: bool) -> Result<bool, Failure> {
    loop {
        let text = match line.receive::<serde_json::Value>() {
            Ok(Received::Pending) => return Ok(true),
            Ok(Received::Message(told, _)) => {
                let words = serde_json::from_value::<Told>(told.clone());
                match words {
                    Ok(told) if !json => words_of(&told),
                    // As it came, so that fields and events of a later version pass.
                    _ => format!("{told}\n"),
                }
            }
            Ok(Received::Closed) | Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let time_ms = now.map_or(0, |now| now.as_millis() as u64);
                let switch = name.to_owned();
                let told = Told { version: VERSION, time_ms, switch, event: Event::SwitchGone };
                let text = match json {
                    true => serde_json::to_string(&told).unwrap_or_default() + "\n",
                    false => words_of(&told),
                };
                print(&text)?;
                return Ok(false);
            }
        };
        print(&text)?;
    }
}

/// An event as a line for people.
fn words_of(told: &Told) -> String {
    let seconds = told.time_ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let (seconds, millis) = (seconds % 60, told.time_ms % 1000);
    let mut text = format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03} {} ", told.switch);
    // Writing to a String does not fail.
    let _ = match &told.event {
        Event::PortAdded { port, vlans } => write!(text, "port {port} added, {vlans}"),
        Event::PortRemoved { port } => write!(text, "port {port} removed"),
        Event::PortRenamed { port, was } => write!(text, "port {was} is now {port}"),
        Event::PortVlans { port, vlans } => write!(text, "port {port} is now {vlans}"),
        Event::EndpointAdded { port, endpoint, peer } => {
            write!(text, "port {port} has a program, number {endpoint}: {peer}")
        }
        Event::EndpointRemoved { port, endpoint } => {
            write!(text, "port {port} has its program number {endpoint} no more")
        }
        Event::PortLink { port, up } => {
            write!(text, "the link of port {port} is {}", if *up { "up" } else { "down" })
        }
        Event::PortState { port, state } => {
            write!(text, "port {port} is {}", format!("{state:?}").to_lowercase())
        }
        Event::RootChanged { root, port: Some(port) } => write!(text, "the root is {root}, by {port}"),
        Event::RootChanged { root, port: None } => write!(text, "the root is {root}, this switch"),
        Event::StationLearned { vlan, mac, port } => {
            write!(text, "station {mac} of VLAN {vlan} is on {port}")
        }
        Event::StationMoved { vlan, mac, port, was } => {
            write!(text, "station {mac} of VLAN {vlan} moved from {was} to {port}")
        }
        Event::StationFlapping { vlan, mac, port, was, moves } => {
            write!(text, "station {mac} of VLAN {vlan} flaps between {was} and {port}, {moves} moves")
        }
        Event::StationAged { vlan, mac, port } => {
            write!(text, "station {mac} of VLAN {vlan} on {port} was silent for too long")
        }
        Event::StationsFlushed { count } => write!(text, "{count} stations forgotten"),
        Event::VlanNamed { vlan, name } => write!(text, "VLAN {vlan} is called `{name}`"),
        Event::VlanRemoved { vlan } => write!(text, "VLAN {vlan} removed"),
        Event::MirrorAdded { to } => write!(text, "mirror to {to} added"),
        Event::MirrorRemoved { to } => write!(text, "mirror to {to} removed"),
        Event::Setting { name, value } => write!(text, "{name} is now {value}"),
        Event::DropsBegan { port, reason, total } => {
            write!(text, "port {port} drops frames: {}, {total} so far", reason.name())
        }
        Event::Lost { count } => write!(text, "{count} events came too fast to be told"),
        Event::TooSlow => write!(text, "these lines are not read as fast as events come: no more of them"),
        Event::SwitchGone => write!(text, "no more events"),
    };
    text.push('\n');
    text
}
