//! The commands that change a switch: one request each. They print nothing when all went well.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use clap::builder::TypedValueParser;
use switch::client::traffic::{MacAdd, MacRm, PortOpen, VlanSet};
use switch::client::{Client, Impair, MacFilter, Request, Settings};
use switch::control::Vde;
use switch::guard::Police;
use switch::link::{Impaired, Link};
use switch::vlan::Vid;
use switch::vxlan;

use super::launch::absolute;
use super::links::{Opened, Plug};
use super::{Filter, Rules, Target, VdeOptions, stp};
use crate::commands::options::file_mode;
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::print;

/// `switch port add`
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").args(["tap", "nic", "vde", "switch_link", "udp", "vxlan", "qemu", "link"]).required(true))]
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
    /// Plug into a vde_switch, or another that speaks as one does: FOLDER[port N]
    #[arg(long, value_name = "FOLDER")]
    vde: Option<String>,
    /// Join another switch, by name or path, with a trunk of all VLANs; NAME[vlan N] or NAME[trunk LIST] says what
    /// the port there is to be
    #[arg(long = "switch", id = "switch_link", value_name = "NAME")]
    switch: Option<String>,
    /// Carry frames in UDP datagrams to a peer: ADDR:PORT[local ADDR:PORT]
    #[arg(long, value_name = "ADDR:PORT")]
    udp: Option<String>,
    /// Join a VXLAN network: VNI[peer ADDR,ADDR local ADDR port N]
    #[arg(long, value_name = "VNI")]
    vxlan: Option<String>,
    /// Be the other end of QEMU's `-netdev stream` or, with `[local PATH]`, `dgram`: PATH or ADDR:PORT, and `[listen]`
    /// if QEMU connects
    #[arg(long, value_name = "ADDR")]
    qemu: Option<String>,
    /// Any of these as KIND:WHERE, as `port ls` shows them
    #[arg(long, value_name = "LINK")]
    link: Option<String>,
    #[command(flatten)]
    rules: Rules,
}

/// `switch set`
#[derive(Debug, clap::Args)]
#[group(skip)]
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
    /// Give the counters to Prometheus, over HTTP on a Unix socket or on loopback
    #[arg(long, value_name = "unix:PATH|127.0.0.1:PORT|off")]
    metrics: Option<String>,
    /// Give every frame to every port, as a hub does: nothing is learned, and VLANs are not looked at
    #[arg(long, value_name = "ON|OFF")]
    hub: Option<stp::Toggle>,
    #[command(flatten)]
    vde: VdeOptions,
    /// Let VDE's programs plug in no more; those that did stay
    #[arg(long, conflicts_with = "vde")]
    no_vde: bool,
}

impl Changes {
    fn settings(self) -> Result<Settings, Failure> {
        let Self { age, mode, group, mgmt, metrics, hub, vde, no_vde } = self;
        let place = |path: PathBuf| if path.as_os_str().is_empty() { Ok(path) } else { absolute(&path) };
        let nowhere = no_vde.then_some(Vde { path: None, mode: vde.vde_mode, group: None });
        // The switch has a folder of its own.
        let metrics = metrics.map(|place| match place.strip_prefix("unix:") {
            Some(path) => absolute(Path::new(path)).map(|path| format!("unix:{}", path.display())),
            None => Ok(place),
        });
        Ok(Settings {
            age_s: age,
            mode,
            group,
            mgmt: mgmt.map(place).transpose()?,
            metrics: metrics.transpose()?,
            vde: vde.resolve()?.or(nowhere),
            hub: hub.map(bool::from),
        })
    }
}

pub(super) fn set(
    target: &Target,
    runtime: &Runtime,
    changes: Changes,
    stp: &stp::Set,
) -> Result<(), Failure> {
    let what = "cannot change the switch";
    let (settings, change) = (changes.settings()?, stp.change());
    if settings == Settings::default() && change.is_none() {
        return Err(Failure::new(what, "nothing to change was given")
            .hint("`viewnet switch set --help` lists what can be given"));
    }
    if settings != Settings::default() {
        request(target, runtime, what, &Request::Set(settings))?;
    }
    change.map_or(Ok(()), |change| {
        request(target, runtime, "cannot change the spanning tree", &Request::StpSet(change))
    })
}

pub(super) fn down(target: &Target, runtime: &Runtime) -> Result<(), Failure> {
    request(target, runtime, "cannot end the switch", &Request::Down)
}

pub(super) fn port_add(args: PortAdd, runtime: &Runtime) -> Result<(), Failure> {
    let link = args.link()?;
    let (switch, port) = (args.target.name.as_str(), args.port.as_str());
    add(runtime, &link, Plug { switch, port, plain: args.plain, vlans: args.rules.vlans() })
}

/// Adds a port that stays, and leads where a topology says.
pub(crate) fn plug(
    runtime: &Runtime,
    switch: &str,
    name: &str,
    port: &crate::topology::schema::Port,
) -> Result<(), Failure> {
    let Some(link) = port.leads_to() else { return Ok(()) };
    add(runtime, &link, Plug { switch, port: name, plain: port.plain, vlans: port.given_vlans() })
}

fn add(runtime: &Runtime, link: &Link, plug: Plug<'_>) -> Result<(), Failure> {
    let mut client = super::connect(plug.switch, &super::socket_of(plug.switch, runtime)?)?;
    let port = plug.open(link, runtime)?;
    put(&mut client, link, &port)
}

/// Gives a switch what was opened.
pub(super) fn put(client: &mut Client, link: &Link, port: &Opened) -> Result<(), Failure> {
    let added =
        client.add_port_of(&port.fds, &port.attach).map_err(|e| call_failed("cannot add the port", e))?;
    let Some(impaired) = link.impaired() else { return Ok(()) };
    let Impaired { ingress, egress, seed, .. } = impaired.clone();
    let change = Request::Impair(Impair { port: added.name, ingress, egress, seed });
    client.call(&change).map_err(|e| call_failed("cannot impair the port", e))
}

impl PortAdd {
    /// The link that was typed, one way or the other.
    fn link(&self) -> Result<Link, Failure> {
        let typed = [
            ("tap", &self.tap),
            ("nic", &self.nic),
            ("vde", &self.vde),
            ("switch", &self.switch),
            ("udp", &self.udp),
            ("vxlan", &self.vxlan),
            ("qemu", &self.qemu),
        ];
        let typed = typed.into_iter().find_map(|(kind, place)| Some(format!("{kind}:{}", place.as_ref()?)));
        let text = typed.or_else(|| self.link.clone()).unwrap_or_default();
        text.parse().map_err(|e| {
            Failure::new("cannot add the port", e)
                .hint("`viewnet switch port add --help` shows what a link may be")
        })
    }
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
    peers: Vec<SocketAddr>,
    stp: stp::PortSet,
) -> Result<(), Failure> {
    const WHAT: &str = "cannot change the port";
    let (vlans, change) = (rules.vlans(), stp.change());
    let peers = Some(peers).filter(|peers| !peers.is_empty());
    let is_plain = vlans.is_some() || rename.is_some() || peers.is_some();
    if !is_plain && change.is_none() {
        return Err(Failure::new(WHAT, "nothing to change was given")
            .hint("`viewnet switch port set --help` lists what can be given"));
    }
    // First, as the next request may change the name.
    if let Some(change) = change {
        let port = port.clone();
        request(target, runtime, WHAT, &Request::StpPortSet { port, change })?;
    }
    if !is_plain {
        return Ok(());
    }
    request(target, runtime, WHAT, &Request::PortSet { port, vlans, rename, peers })
}

/// A tunnel's peer, as typed.
pub(super) fn peer(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, vxlan::PORT));
    bare.or_else(|_| text.parse()).map_err(|_| "give an address, or ADDR:PORT".to_owned())
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

pub(super) fn port_open(target: &Target, runtime: &Runtime, port: String, open: bool) -> Result<(), Failure> {
    let what = if open { "cannot open the port" } else { "cannot shut the port" };
    request(target, runtime, what, &Request::PortOpen(PortOpen { port, open }))
}

pub(super) fn vlan_set(
    target: &Target,
    runtime: &Runtime,
    vid: Vid,
    police: Option<Police>,
) -> Result<(), Failure> {
    request(target, runtime, "cannot change the VLAN", &Request::VlanSet(VlanSet { vid, police }))
}

pub(super) fn mac_add(target: &Target, runtime: &Runtime, add: MacAdd) -> Result<(), Failure> {
    request(target, runtime, "cannot pin the station", &Request::MacAdd(add))
}

pub(super) fn mac_rm(target: &Target, runtime: &Runtime, rm: MacRm) -> Result<(), Failure> {
    request(target, runtime, "cannot unpin the station", &Request::MacRm(rm))
}

/// Asks for one change.
pub(super) fn request(
    target: &Target,
    runtime: &Runtime,
    what: &str,
    request: &Request,
) -> Result<(), Failure> {
    target.connect(runtime)?.call(request).map_err(|e| call_failed(what, e))
}
