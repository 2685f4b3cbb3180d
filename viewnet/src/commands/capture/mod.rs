//! `viewnet capture`: the frames of a switch, of one of its ports or of a stack, live.
//!
//! # Theory of operation
//! A switch tells its frames through a ring ([`switch::client::Captured`]), a stack through a packet socket. To have one
//! in the stack's network, whichever kind that is, the command runs itself once more in a view of the stack
//! (`--here`). Either gives frames to an [`output::Output`], which is a pcapng file or lines of text. SIGINT, SIGTERM, a
//! reader that has gone and the end of the switch end the capture in good order: the file gets its last block, and the
//! user a line that says how many frames there were and how many were lost.

mod from_stack;
mod from_switch;
mod output;
mod wait;

use clap::ValueEnum;
use msocket_proto::line::is_dead;
use switch::capture::filter::Filter;
use switch::mirror::Direction;

use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;

/// Show or record the frames of a switch, a port or a stack.
///
/// Frames are shown as lines of text or, with -w, recorded as pcapng. They pass as super-segments of up to 64 KiB, as
/// the stacks made them, and are recorded whole unless --cut cuts them into frames as a wire would carry.
///
/// FILTER is tcpdump's language without names and without access to bytes: host, net, port, portrange (with src, dst),
/// ether, ip, ip6, arp, tcp, udp, icmp, icmp6, sctp, proto, vlan, broadcast, multicast, less, greater, and, or, not and
/// parentheses. A VLAN tag is looked through.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet capture lan
  viewnet capture lan:p1,p2 -w p1.pcapng 'tcp port 80'
  viewnet capture lan --cut -w - | wireshark -k -i -
  viewnet capture lan -w - | tcpdump -nr -
  viewnet capture web -i eth0 'not arp'")]
pub(crate) struct Args {
    /// A switch, SWITCH:PORT[,PORT..], a stack, or a port that only one switch has
    #[arg(value_name = "SWITCH[:PORT]|STACK|PORT")]
    target: String,

    /// Of a stack: only this interface
    #[arg(short, long, value_name = "IF")]
    interface: Option<String>,

    /// Record into a pcapng file; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<std::path::PathBuf>,

    /// End after so many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Keep so many bytes of each frame
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..=262_144))]
    snaplen: Option<u32>,

    /// Cut super-segments into frames, as a wire would carry them
    #[arg(long)]
    cut: bool,

    /// Only frames that arrive at the switch or stack, or that leave it
    #[arg(long, value_name = "WAY", default_value = "both")]
    direction: WayName,

    /// TARGET is a stack, in whose view this runs
    #[arg(long, hide = true)]
    here: bool,

    /// Which frames, in tcpdump's language: `tcp port 80`; all without it
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    filter: Vec<String>,
}

/// Which frames of a port, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WayName {
    /// Those that arrive.
    In,
    /// Those that leave.
    Out,
    /// All.
    Both,
}

impl From<WayName> for Direction {
    fn from(way: WayName) -> Self {
        match way {
            WayName::In => Self::In,
            WayName::Out => Self::Out,
            WayName::Both => Self::Both,
        }
    }
}

/// What is to be captured.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A switch, and its ports if not all are meant.
    Switch(String, Option<Vec<String>>),
    Stack(String),
}

/// Captures until the end.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let text = args.filter.join(" ");
    let filter: Filter = text.parse().map_err(|e| {
        Failure::new("cannot use the filter", e).hint("`viewnet capture --help` says what a filter may be")
    })?;
    if args.here {
        return from_stack::here(args, &filter);
    }
    let runtime = Runtime::locate()?;
    match find(args, &runtime)? {
        Target::Switch(name, ports) => from_switch::run(args, &runtime, &name, ports, text),
        Target::Stack(name) => from_stack::run(args, &name),
    }
}

/// What does the user mean?
fn find(args: &Args, runtime: &Runtime) -> Result<Target, Failure> {
    let name = args.target.as_str();
    if let Some((switch, ports)) = name.rsplit_once(':') {
        let ports = ports.split(',').filter(|port| !port.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        return Ok(Target::Switch(switch.to_owned(), (!ports.is_empty()).then_some(ports)));
    }
    let answers = |path: std::path::PathBuf| path.exists() && !is_dead(&path);
    let is_switch = args.interface.is_none() && answers(runtime.switch(name));
    let is_stack = answers(runtime.stack(name));
    // A path is both to the runtime.
    match (is_switch, is_stack) {
        (true, true) if name.contains('/') => match stacks::remote::describe(&runtime.stack(name)) {
            Ok(_) => Ok(Target::Stack(name.to_owned())),
            Err(_) => Ok(Target::Switch(name.to_owned(), None)),
        },
        (true, true) => Err(Failure::new(
            format!("cannot capture `{name}`"),
            "there are a switch and a stack of that name",
        )
        .hint(format!("write `{name}:` for the switch, or the interface of the stack with -i"))),
        (true, false) => Ok(Target::Switch(name.to_owned(), None)),
        (false, true) => Ok(Target::Stack(name.to_owned())),
        (false, false) => from_switch::with_port(runtime, name),
    }
}
