//! `viewnet switch`: start, list and change user-space Ethernet switches.
//!
//! # Theory of operation
//! A switch is a process of its own that answers on a socket file; every command here but `up` is one
//! connection to it, a request or two, and the answer as a table or as JSON. NAME is a name, whose socket
//! lives in the runtime folder, or a path (with a `/`). [`launch`] starts switches, [`wire`] those that carry a stack's link, [`ensure_default`] for those
//! who need one and do not care which; [`inspect`] asks, [`change`] changes, [`qos`] and [`guard`] do both, [`crate::tables`] prints.

mod change;
mod guard;
mod impair;
mod inspect;
mod launch;
mod links;
mod mirror;
mod qos;
mod stp;
mod vde;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Subcommand};
use msocket_proto::line::unusable;
use switch::client::traffic::{MacAdd, MacRm};
use switch::client::{Client, Hello};
use switch::control::Vde;
use switch::guard::Exceed;
use switch::qos::rate::Rate;
use switch::vlan::{PortVlans, Vid, VidSet};

pub(crate) use self::change::plug;
pub(crate) use self::inspect::duration;
pub(crate) use self::launch::ensure;
use self::launch::ensure_default;
pub(crate) use self::launch::{Definition, start_switch};
pub(crate) use self::wire::lay;
use crate::commands::options::file_mode;
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;

/// Name of the switch that starts when it is first used.
pub(crate) const DEFAULT: &str = "default";
/// Bytes at most in a switch's name: the path of its socket must fit into 107 (unix(7)).
const MAX_NAME: usize = 32;

/// Start, list and change user-space Ethernet switches
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a switch in the background
    Up(launch::Up),
    /// List the running switches
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a switch with its ports and VLANs
    Show {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a switch
    #[command(group = ArgGroup::new("any").multiple(true))]
    Set {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        settings: Box<change::Changes>,
        #[command(flatten)]
        stp: stp::Set,
    },
    /// Show the spanning tree of a switch
    Stp {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a switch and all its ports
    Down {
        #[command(flatten)]
        target: Target,
    },
    /// List, add, remove and change ports
    #[command(subcommand)]
    Port(Port),
    /// List, name and remove VLANs
    #[command(subcommand)]
    Vlan(Vlan),
    /// List, forget and pin addresses
    #[command(subcommand)]
    Mac(Mac),
    /// Priorities, rates and queues of ports
    #[command(subcommand)]
    Qos(qos::Qos),
    /// Promise VLANs a part of a port's rate
    #[command(subcommand)]
    Reserve(qos::Reserve),
    /// Limits of ports: storms, and who may be behind them
    #[command(subcommand)]
    Guard(guard::Guard),
    /// List, add and remove mirrors: copies of some ports' frames for another one
    #[command(subcommand)]
    Mirror(mirror::Mirror),
    /// Ports' numbers, which VDE's programs ask for: list, keep and release them
    #[command(subcommand)]
    Vde(vde::Vde),
    #[command(hide = true)]
    Serve(launch::Serve),
}

/// Which switch.
#[derive(Debug, clap::Args)]
struct Target {
    /// The switch: a name, or the path of its socket
    #[arg(id = "switch", value_name = "SWITCH")]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Port {
    /// List the ports
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a port: an interface of the network this command runs in, or a link to elsewhere
    Add(Box<change::PortAdd>),
    /// Make a port's link misbehave on purpose, or show how it does
    Impair(impair::Impair),
    /// Remove a port
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
    /// Change a port's VLANs, name or tunnel, or what it is to the spanning tree
    Set {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
        #[command(flatten)]
        rules: Rules,
        /// Its new name
        #[arg(long, value_name = "NEW")]
        rename: Option<String>,
        /// The peers of a VXLAN tunnel that get what is flooded: ADDR or ADDR:PORT
        #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = change::peer)]
        peer: Vec<SocketAddr>,
        #[command(flatten)]
        stp: stp::PortSet,
    },
    /// Let nothing in or out of a port until it is opened
    Shut {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
    /// Open a port that was shut, or shut itself
    Open {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
}

#[derive(Debug, Subcommand)]
enum Vlan {
    /// List the VLANs that have a name, an access or native port, or traffic
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a VLAN a name
    Add {
        #[command(flatten)]
        target: Target,
        /// The VLAN, 1 to 4094
        vid: Vid,
        /// Its name
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
    },
    /// Limit the rate of a VLAN's frames, all ports together
    Set {
        #[command(flatten)]
        target: Target,
        /// The VLAN, 1 to 4094
        vid: Vid,
        /// The rate, as 50M; what is more is dropped. `off` for none
        #[arg(long, value_name = "RATE")]
        rate: OrOff<Rate>,
        /// Bytes that may come at once
        #[arg(long, value_name = "BYTES", value_parser = switch::qos::rate::bytes)]
        burst: Option<u32>,
        /// What happens to frames beyond the rate: `drop`, or `mark` them to be dropped first
        #[arg(long, value_name = "ACTION", value_parser = qos::exceed())]
        exceed: Option<Exceed>,
    },
    /// Forget a VLAN and take it off every trunk
    Rm {
        #[command(flatten)]
        target: Target,
        /// The VLAN, 1 to 4094
        vid: Vid,
    },
}

#[derive(Debug, Subcommand)]
enum Mac {
    /// List the learned addresses
    Ls {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget learned addresses; pinned ones stay
    Flush {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        filter: Filter,
    },
    /// Pin a station to a port: it is believed nowhere else, and not forgotten
    Add {
        #[command(flatten)]
        target: Target,
        /// Its address, as 02:00:00:00:00:01
        mac: switch::frame::Mac,
        /// The port's name
        #[arg(long, value_name = "PORT")]
        port: String,
        /// Its VLAN
        #[arg(long, value_name = "VID", default_value_t = Vid::DEFAULT)]
        vlan: Vid,
    },
    /// Forget a pinned station
    Rm {
        #[command(flatten)]
        target: Target,
        /// Its address
        mac: switch::frame::Mac,
        /// Its VLAN
        #[arg(long, value_name = "VID", default_value_t = Vid::DEFAULT)]
        vlan: Vid,
    },
}

/// A value, or the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OrOff<T>(Option<T>);

impl<T: std::str::FromStr> std::str::FromStr for OrOff<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

/// Where VDE's programs plug in, and who may.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "VDE")]
struct VdeOptions {
    /// Let VDE's programs plug in, too: vde_plug, vdens, QEMU's `-nic vde` find the switch in this folder
    #[arg(long, value_name = "FOLDER")]
    vde: Option<PathBuf>,
    /// The mode of the sockets in that folder, in octal, as vde_switch's -m
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = file_mode, requires = "vde")]
    vde_mode: u32,
    /// The group of that folder and the sockets in it, as vde_switch's -g
    #[arg(long, value_name = "GROUP", requires = "vde")]
    vde_group: Option<String>,
}

impl VdeOptions {
    fn resolve(&self) -> Result<Option<Vde>, Failure> {
        let Some(folder) = &self.vde else { return Ok(None) };
        let path = std::path::absolute(folder)
            .map_err(|e| Failure::io(format!("cannot use {}", folder.display()), &e))?;
        let group = self.vde_group.as_deref().map(group_id).transpose()?;
        Ok(Some(Vde { path: Some(path), mode: self.vde_mode, group }))
    }
}

/// The number of a group, which may be given as such.
pub(crate) fn group_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(name).ok().flatten();
    found.map(|group| group.gid.as_raw()).ok_or_else(|| {
        Failure::new(format!("cannot use the group `{name}`"), "there is no such group")
            .hint("`getent group` lists them")
    })
}

/// Which addresses.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those of this VLAN
    #[arg(long, value_name = "VID")]
    vlan: Option<Vid>,
    /// Only those behind this port
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
}

/// A port's VLANs, as typed.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("mode").args(["access", "trunk", "hybrid", "tunnel", "service"]))]
#[command(group = ArgGroup::new("tagged").args(["trunk", "service"]))]
struct Rules {
    /// One VLAN, without tags
    #[arg(long, value_name = "VID")]
    access: Option<Vid>,
    /// Several VLANs, with tags: 10,20-29 or all
    #[arg(long, value_name = "LIST")]
    trunk: Option<VidSet>,
    /// The VLAN of frames without tag on a trunk or service port
    #[arg(long, value_name = "VID", requires = "tagged")]
    native: Option<Vid>,
    /// Several VLANs, with tags but for those of --untagged
    #[arg(long, value_name = "LIST")]
    hybrid: Option<VidSet>,
    /// The VLANs that leave a hybrid port without tags
    #[arg(long, value_name = "LIST", requires = "hybrid")]
    untagged: Option<VidSet>,
    /// The VLAN of frames that come to a hybrid port without tag
    #[arg(long, value_name = "VID", requires = "hybrid")]
    pvid: Option<Vid>,
    /// A customer's port: all it sends, tags and all, in one VLAN (Q-in-Q)
    #[arg(long, value_name = "VID")]
    tunnel: Option<Vid>,
    /// Several VLANs, with a provider's tags (802.1ad, 0x88a8): 10,20-29 or all
    #[arg(long, value_name = "LIST")]
    service: Option<VidSet>,
}

impl Rules {
    fn vlans(self) -> Option<PortVlans> {
        let Self { access, trunk, native, hybrid, untagged, pvid, tunnel, service } = self;
        let access = access.map(|vid| PortVlans::Access { vid });
        let trunk = trunk.map(|allowed| PortVlans::Trunk { native, allowed });
        let untagged = untagged.unwrap_or_else(VidSet::none);
        let hybrid = hybrid.map(|allowed| PortVlans::Hybrid { pvid, allowed, untagged });
        let tunnel = tunnel.map(|vid| PortVlans::Tunnel { vid });
        let service = service.map(|allowed| PortVlans::Service { native, allowed });
        access.or(trunk).or(hybrid).or(tunnel).or(service)
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    // What runs in the background was told its path, and needs no runtime folder.
    if let Command::Serve(serve) = args.command {
        return launch::serve(serve);
    }
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Up(up) => launch::up(up, &runtime)?,
        Command::Serve(_) => {}
        Command::Ls { json } => inspect::ls(&runtime, json)?,
        Command::Show { target, json } => inspect::show(&target, &runtime, json)?,
        Command::Set { target, settings, stp } => change::set(&target, &runtime, *settings, &stp)?,
        Command::Stp { target, json } => stp::show(&target, &runtime, json)?,
        Command::Down { target } => change::down(&target, &runtime)?,
        Command::Port(Port::Ls { target, json }) => inspect::ports(&target, &runtime, json)?,
        Command::Port(Port::Add(add)) => change::port_add(*add, &runtime)?,
        Command::Port(Port::Impair(args)) => impair::run(args, &runtime)?,
        Command::Port(Port::Rm { target, port }) => change::port_rm(&target, &runtime, port)?,
        Command::Port(Port::Set { target, port, rules, rename, peer, stp }) => {
            change::port_set(&target, &runtime, port, rules, rename, peer, stp)?;
        }
        Command::Port(Port::Shut { target, port }) => change::port_open(&target, &runtime, port, false)?,
        Command::Port(Port::Open { target, port }) => change::port_open(&target, &runtime, port, true)?,
        Command::Vlan(Vlan::Set { target, vid, rate, burst, exceed }) => {
            let police = qos::police(None, Some(rate), burst, exceed)?;
            change::vlan_set(&target, &runtime, vid, police)?;
        }
        Command::Vlan(Vlan::Ls { target, json }) => inspect::vlans(&target, &runtime, json)?,
        Command::Vlan(Vlan::Add { target, vid, name }) => change::vlan_add(&target, &runtime, vid, name)?,
        Command::Vlan(Vlan::Rm { target, vid }) => change::vlan_rm(&target, &runtime, vid)?,
        Command::Mac(Mac::Ls { target, filter, json }) => inspect::macs(&target, &runtime, filter, json)?,
        Command::Mirror(command) => mirror::run(command, &runtime)?,
        Command::Mac(Mac::Flush { target, filter }) => change::mac_flush(&target, &runtime, filter)?,
        Command::Mac(Mac::Add { target, mac, port, vlan }) => {
            change::mac_add(&target, &runtime, MacAdd { vid: vlan, mac, port })?;
        }
        Command::Mac(Mac::Rm { target, mac, vlan }) => {
            change::mac_rm(&target, &runtime, MacRm { vid: vlan, mac })?;
        }
        Command::Qos(command) => qos::run_qos(command, &runtime)?,
        Command::Reserve(command) => qos::run_reserve(command, &runtime)?,
        Command::Guard(command) => guard::run(command, &runtime)?,
        Command::Vde(command) => vde::run(command, &runtime)?,
    }
    Ok(Exit::Done)
}

impl Target {
    fn path(&self, runtime: &Runtime) -> Result<PathBuf, Failure> {
        socket_of(&self.name, runtime)
    }

    /// Connects to the switch.
    fn connect(&self, runtime: &Runtime) -> Result<Client, Failure> {
        connect(&self.name, &self.path(runtime)?)
    }
}

/// The socket of the switch `name`, as an absolute path.
pub(crate) fn socket_of(name: &str, runtime: &Runtime) -> Result<PathBuf, Failure> {
    if !name.contains('/') && !is_valid_name(name) {
        return Err(Failure::new(
            format!("`{name}` is no name for a switch"),
            "a name has 1 to 32 letters, digits, `.`, `_` or `-`",
        )
        .hint("to name a socket file, write a path with a `/`"));
    }
    let path = runtime.switch(name);
    std::path::absolute(&path).map_err(|e| Failure::io(format!("cannot use {}", path.display()), &e))
}

fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn connect(name: &str, path: &Path) -> Result<Client, Failure> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let what = format!("cannot reach the switch `{name}`");
    let mut client = Client::connect(path).map_err(|e| match e.kind() {
        NotFound | ConnectionRefused => Failure::new(&what, format!("nobody serves {}", path.display()))
            .hint(format!("start it with `viewnet switch up {name}`, or see `viewnet switch ls`")),
        PermissionDenied => Failure::new(&what, format!("{}: {e}", path.display()))
            .hint("its owner may open it with `viewnet switch set --mode`"),
        _ => unusable(&what, path, &e).into(),
    })?;
    let hello = client.hello().map_err(|e| call_failed(&what, e))?;
    check_version(name, &hello).map(|()| client)
}

/// A connection to the switch that a stack is plugged into; the default one starts on first use.
pub(crate) fn reach(runtime: &Runtime, name: &str) -> Result<Client, Failure> {
    if name == DEFAULT {
        return ensure_default(runtime);
    }
    connect(name, &socket_of(name, runtime)?)
}

/// A connection to a switch that is there.
pub(crate) fn reach_existing(runtime: &Runtime, name: &str) -> Result<Client, Failure> {
    connect(name, &socket_of(name, runtime)?)
}

/// This user's switches that run, by the names of their socket files.
pub(crate) fn each(runtime: &Runtime) -> Vec<(String, Client)> {
    let named = |(path, client): (PathBuf, Client)| Some((path.file_name()?.to_str()?.to_owned(), client));
    inspect::running(runtime).unwrap_or_default().into_iter().filter_map(named).collect()
}

/// Do we understand this switch?
fn check_version(name: &str, hello: &Hello) -> Result<(), Failure> {
    let ours = switch::control::VERSION;
    if hello.version <= ours {
        return Ok(());
    }
    let why = format!("it speaks version {}, this viewnet {ours}", hello.version);
    Err(Failure::new(format!("cannot talk to the switch `{name}`"), why)
        .hint("use the viewnet that started it"))
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::augment_args(clap::Command::new("switch")).debug_assert();
    }

    #[test]
    fn names() {
        for good in ["lan", "a", "lab-1.b_2"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-x", "a b", "ä", &"x".repeat(33)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
