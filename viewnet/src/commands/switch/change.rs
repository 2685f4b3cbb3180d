//! The commands that change a switch: one request each. They print nothing when all went well.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use clap::builder::TypedValueParser;
use switch::client::{Attach, Client, Kind, MacFilter, Request, Settings};
use switch::ports::{packet, tap};
use switch::vlan::{PortVlans, Vid};

use super::launch::absolute;
use super::{Filter, Rules, Target};
use crate::commands::options::file_mode;
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::print;

/// `switch port add`
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").args(["tap", "nic"]).required(true))]
pub(super) struct PortAdd {
    #[command(flatten)]
    target: Target,
    /// The port's name
    port: String,
    /// Make a TAP interface of this name, or take a persistent one
    #[arg(long, value_name = "DEV")]
    tap: Option<String>,
    /// Make the TAP without offloads: every frame whole, none longer than its MTU
    #[arg(long, requires = "tap")]
    plain: bool,
    /// Take an existing interface, a NIC or one end of a veth pair
    #[arg(long, value_name = "DEV")]
    nic: Option<String>,
    #[command(flatten)]
    rules: Rules,
}

/// `switch set`
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Changes {
    /// Forget stations silent for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    age: Option<u64>,
    /// Who may use the switch: the mode of its socket file, in octal
    #[arg(long, value_name = "MODE", value_parser = file_mode)]
    mode: Option<u32>,
    /// The group of its socket files, by name or number; empty: your own
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Serve the console of vde_switch at this path; empty: nowhere
    #[arg(long, value_name = "PATH", value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from))]
    mgmt: Option<PathBuf>,
}

pub(super) fn set(target: &Target, runtime: &Runtime, settings: Changes) -> Result<(), Failure> {
    let Changes { age, mode, group, mgmt } = settings;
    let place = |path: PathBuf| if path.as_os_str().is_empty() { Ok(path) } else { absolute(&path) };
    let mgmt = mgmt.map(place).transpose()?;
    request(
        target,
        runtime,
        "cannot change the switch",
        &Request::Set(Settings { age_s: age, mode, group, mgmt }),
    )
}

pub(super) fn down(target: &Target, runtime: &Runtime) -> Result<(), Failure> {
    request(target, runtime, "cannot end the switch", &Request::Down)
}

pub(super) fn port_add(args: PortAdd, runtime: &Runtime) -> Result<(), Failure> {
    let PortAdd { target, port, tap, plain, nic, rules } = args;
    let mut client = target.connect(runtime)?;
    let vlans = rules.vlans().unwrap_or_default();
    plug(&mut client, &port, tap.as_deref(), nic.as_deref(), plain, vlans)
}

/// Adds an interface of this network as a port that stays: a TAP if one is named, else a NIC.
pub(crate) fn plug(
    client: &mut Client,
    port: &str,
    tap: Option<&str>,
    nic: Option<&str>,
    plain: bool,
    vlans: PortVlans,
) -> Result<(), Failure> {
    let (kind, fd) = match (tap, nic) {
        (Some(device), _) => (Kind::Tap, open_tap(device, plain)?),
        (None, device) => (Kind::Packet, open_nic(device.unwrap_or_default())?),
    };
    let attach = Attach { name: Some(port.to_owned()), vlans, linger: true, ..Attach::new(kind) };
    client.add_port(fd, &attach).map_err(|e| call_failed("cannot add the port", e))?;
    Ok(())
}

pub(super) fn port_rm(target: &Target, runtime: &Runtime, port: String) -> Result<(), Failure> {
    request(target, runtime, "cannot remove the port", &Request::PortRm { port })
}

pub(super) fn port_set(
    target: &Target,
    runtime: &Runtime,
    port: String,
    rules: Rules,
    rename: Option<String>,
) -> Result<(), Failure> {
    let vlans = rules.vlans();
    if vlans.is_none() && rename.is_none() {
        return Err(Failure::new("cannot change the port", "nothing to change was given")
            .hint("give --access, --trunk or --rename"));
    }
    request(target, runtime, "cannot change the port", &Request::PortSet { port, vlans, rename })
}

pub(super) fn vlan_add(target: &Target, runtime: &Runtime, vid: Vid, name: String) -> Result<(), Failure> {
    request(target, runtime, "cannot name the VLAN", &Request::VlanAdd { vid, name })
}

pub(super) fn vlan_rm(target: &Target, runtime: &Runtime, vid: Vid) -> Result<(), Failure> {
    request(target, runtime, "cannot remove the VLAN", &Request::VlanRm { vid })
}

pub(super) fn mac_flush(target: &Target, runtime: &Runtime, filter: Filter) -> Result<(), Failure> {
    let filter = MacFilter { vid: filter.vlan, port: filter.port };
    let mut client = target.connect(runtime)?;
    let count: usize =
        client.call(&Request::MacFlush(filter)).map_err(|e| call_failed("cannot forget addresses", e))?;
    print(&format!("{count} forgotten\n"))
}

fn request(target: &Target, runtime: &Runtime, what: &str, request: &Request) -> Result<(), Failure> {
    target.connect(runtime)?.call(request).map_err(|e| call_failed(what, e))
}

fn open_tap(device: &str, plain: bool) -> Result<OwnedFd, Failure> {
    let node = Path::new(tap::DEVICE);
    let opened = if plain { tap::open_plain(node, device) } else { tap::open(node, device) };
    let what = format!("cannot make the TAP `{device}`");
    opened.map(|(fd, _)| fd).map_err(|e| match e.raw_os_error() {
        // EACCES is the node's mode, EPERM the missing capability.
        Some(libc::EACCES) => Failure::new(what, format!("{}: {e}", node.display()))
            .hint("`viewnet doctor` says how to open the node; `--nic` over a veth pair needs none"),
        Some(libc::ENOENT | libc::ENODEV) => Failure::new(what, format!("{}: {e}", node.display()))
            .hint("load the driver: `sudo modprobe tun`"),
        Some(libc::EPERM) => Failure::new(what, "not permitted in this network").hint(PRIVILEGE),
        Some(libc::EBUSY) => Failure::new(what, "the interface is in use").hint("choose another name"),
        Some(libc::EINVAL) => Failure::new(what, "the interface exists and is no TAP of this kind"),
        _ if e.kind() == io::ErrorKind::InvalidInput => {
            Failure::new(what, "the name is longer than 15 bytes")
        }
        _ => Failure::new(what, e),
    })
}

fn open_nic(device: &str) -> Result<OwnedFd, Failure> {
    let what = format!("cannot take the interface `{device}`");
    let index = nix::net::if_::if_nametoindex(device)
        .map_err(|e| Failure::new(&what, e.desc()).hint("`ip link` lists the interfaces of this network"))?;
    packet::open(index).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => Failure::new(what, "not permitted in this network").hint(PRIVILEGE),
        _ => Failure::new(what, e),
    })
}

const PRIVILEGE: &str =
    "run it inside a view (`viewnet run -- viewnet switch port add …`), whose network is yours, or as root";
