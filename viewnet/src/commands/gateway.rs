//! `viewnet gateway`: a way out of a switch's network, over sockets of the host.
//!
//! # Theory of operation
//! A gateway lives with its switch, in its process or beside it, and has the switch's name: its socket is a file of that name
//! in the runtime folder. [`launch`] starts it; every other command here is one connection to it, a request, and
//! the answer as a table or as JSON.

mod launch;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::switch::client::Client;
use ::switch::vlan::{PortVlans, Vid};
use clap::Subcommand;
use ipnet::IpNet;
use stacks::config::Link;
use stacks::filter::Ruleset;
use stacks::gateway::dhcp::{Dhcp6, Fixed, MAX_FIXED, MAX_NAME, MAX_NTP, Said};
use stacks::gateway::policy::{Destinations, Rules};
use stacks::gateway::proxy::Via;
use stacks::gateway::serve::Description;
pub(crate) use stacks::gateway::serve::Request;
use stacks::gateway::{Config, Dns64};

use crate::commands::options::filter_text;
use crate::commands::switch;
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;
use crate::served::{self, sockets};
use crate::tables::{print, print_json, table};
pub(crate) use launch::serve;

const START: &str = "cannot start the gateway";
/// The gateway's address, if none is said, and its network's length.
const ADDRESSES: [&str; 2] = ["10.0.2.1/24", "fd00:10:0:2::1/64"];

/// Shortest lease: half of it is when a client asks again (RFC 2131, section 4.4.5).
const MIN_LEASE: u32 = 8;
/// Least MTU of IPv4, RFC 791 section 3.2.
const MIN_MTU: u16 = 68;

/// Attempts to start the default switch's gateway, and the pause between two: two seconds in all.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// Let a switch's network out over sockets of the host.
///
/// TCP, UDP and ping, IPv4 and IPv6, without privilege. The gateway gives its network addresses and names, too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a gateway in the background
    Up(Up),
    /// List the running gateways
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a gateway: addresses, rules, flows
    Show {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a gateway other rules, which hold for new connections
    Set {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        rules: RuleOptions,
    },
    /// End a gateway and all that goes through it
    Down {
        #[command(flatten)]
        target: Target,
    },
}

/// Whose gateway.
#[derive(Debug, clap::Args)]
struct Target {
    /// The switch that it is plugged into: a name, or the path of its socket
    #[arg(id = "switch", long = "switch", value_name = "SWITCH", default_value = switch::DEFAULT)]
    name: String,
}

/// `gateway up`
#[derive(Debug, clap::Args)]
struct Up {
    #[command(flatten)]
    target: Target,
    /// Its address and its network, one of each family at most; 10.0.2.1/24 and fd00:10:0:2::1/64 if none is said
    #[arg(long, value_name = "ADDR/LEN")]
    ip: Vec<IpNet>,
    /// The switch's VLAN that it is in
    #[arg(long, value_name = "VID")]
    vlan: Option<Vid>,
    /// When names are looked up for IPv4 addresses, which stand as IPv6 ones in 64:ff9b::/96: `auto`, while the host
    /// has IPv4 and no IPv6
    #[arg(long, value_name = "auto|always|never", default_value = "auto", value_parser = dns64)]
    dns64: Dns64,
    /// Go by a proxy, and nowhere else: `socks5:HOST:PORT` (TCP and UDP) or `http:HOST:PORT` (CONNECT), with `[auth FILE]`
    /// behind it if it wants the `user:password` in a file. It looks up names, too
    #[arg(long, value_name = "PROXY")]
    via: Option<Via>,
    #[command(flatten)]
    dhcp: DhcpOptions,
    #[command(flatten)]
    rules: RuleOptions,
    /// Add to its packet filter: a rule, such as `input: proto udp drop`, or a file of rules
    #[arg(long, value_name = "RULE|FILE")]
    filter: Vec<String>,
}

/// What DHCP says.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "DHCP")]
struct DhcpOptions {
    /// Keep an address for one client, by its hardware address, by the name that it says (of a view: its own) or, one of
    /// IPv6, by its DUID; with --dhcp6 stateful
    #[arg(long = "static", value_name = "MAC|NAME|DUID=IP")]
    fixed: Vec<Fixed>,
    /// What DHCPv6 gives: nothing, the names and servers of NTP alone, or addresses, too; router advertisements say so
    #[arg(long, value_name = "off|stateless|stateful", default_value = "stateless")]
    dhcp6: Dhcp6,
    /// For how many seconds addresses are given
    #[arg(long, value_name = "SECONDS", default_value_t = Said::default().lease_s, value_parser = clap::value_parser!(u32).range(i64::from(MIN_LEASE)..))]
    lease: u32,
    /// The domain in which names are looked up
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// The network's MTU
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..))]
    mtu: Option<u16>,
    /// A server of NTP
    #[arg(long, value_name = "ADDR")]
    ntp: Vec<IpAddr>,
}

impl DhcpOptions {
    /// For a network with these addresses of the gateway.
    fn said(self, own: &[IpNet]) -> Result<Said, Failure> {
        let Self { fixed, dhcp6: v6, lease, domain, mtu, ntp } = self;
        let said = Said { lease_s: lease, fixed, domain, mtu, ntp, v6 };
        check_dhcp(&said, own)?;
        Ok(said)
    }
}

/// Whether DHCP can say that in a network with these addresses of the gateway; none: the usual ones.
pub(crate) fn check_dhcp(said: &Said, own: &[IpNet]) -> Result<(), Failure> {
    let Said { lease_s, fixed, domain, mtu, ntp, v6 } = said;
    let cannot = |why: String, hint: &str| Err(Failure::new(START, why).hint(hint));
    let usual = addresses();
    let own = if own.is_empty() { &usual } else { own };
    if fixed.len() > MAX_FIXED || ntp.len() > MAX_NTP {
        let why = format!("more than {MAX_FIXED} static entries, or {MAX_NTP} servers of NTP");
        return cannot(why, "leave some out");
    }
    if *lease_s < MIN_LEASE || mtu.is_some_and(|mtu| mtu < MIN_MTU) {
        let why = format!("a lease is {MIN_LEASE} seconds at least, an MTU {MIN_MTU} bytes");
        return cannot(why, "take more");
    }
    let inside = |it: &Fixed| {
        let address = it.address;
        own.iter().any(|net| {
            net.contains(&address) && ![net.addr(), net.network(), net.broadcast()].contains(&address)
        })
    };
    if let Some(outside) = fixed.iter().find(|it| !inside(it)) {
        let why = format!("{outside} is no address that a client could have here");
        return cannot(why, "give one of the gateway's network, and not the gateway's own");
    }
    if let Some(idle) = fixed.iter().find(|it| it.address.is_ipv6()).filter(|_| *v6 != Dhcp6::Stateful) {
        let why = format!("{idle} is given by DHCPv6, which is to give no addresses");
        return cannot(why, "add --dhcp6 stateful");
    }
    if domain.as_ref().is_some_and(|name| !(1..=MAX_NAME).contains(&name.len())) {
        return cannot("the domain is no name".into(), "write it as lan.example");
    }
    Ok(())
}

/// Who may go where.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Rules")]
struct RuleOptions {
    /// The gateway's own addresses lead to the host's loopback, 127.0.0.1 and ::1
    #[arg(long)]
    host_loopback: bool,
    /// Let nothing through but what --allow names
    #[arg(long)]
    isolate: bool,
    /// Let these destinations through, whatever --isolate and --deny say: 10.0.0.0/8, 10.0.0.1:443, [fd00::/8]:80-90, :25
    #[arg(long, value_name = "DEST")]
    allow: Vec<Destinations>,
    /// Refuse these destinations
    #[arg(long, value_name = "DEST")]
    deny: Vec<Destinations>,
}

fn dns64(text: &str) -> Result<Dns64, String> {
    match text {
        "auto" => Ok(Dns64::Auto),
        "always" => Ok(Dns64::Always),
        "never" => Ok(Dns64::Never),
        _ => Err("it is auto, always or never".into()),
    }
}

impl RuleOptions {
    fn rules(self) -> Rules {
        let Self { host_loopback, isolate, allow, deny } = self;
        Rules { host_loopback, isolate, allow, deny }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Up(args) => up(&runtime, args)?,
        Command::Ls { json } => ls(&runtime, json)?,
        Command::Show { target, json } => show(&runtime, &target, json)?,
        Command::Set { target, rules } => {
            ask::<()>(&runtime, &target, &Request::Set { rules: rules.rules() })?
        }
        Command::Down { target } => ask::<()>(&runtime, &target, &Request::Down)?,
    }
    Ok(Exit::Done)
}

fn up(runtime: &Runtime, args: Up) -> Result<(), Failure> {
    let Up { target, mut ip, vlan, dns64, via, dhcp, rules, filter: given } = args;
    let here = std::env::current_dir().map_err(|e| Failure::io("cannot use this folder", &e))?;
    let via = via.map(|via| via.rooted(&here));
    let mut filter = Ruleset::default();
    for given in &given {
        let (text, what) = filter_text(given)?;
        filter.extend(&text).map_err(|why| Failure::from(why.refusal(what)))?;
    }
    if ip.is_empty() {
        ip = addresses();
    }
    let dhcp = dhcp.said(&ip)?;
    start(runtime, &target.name, Wanted { ip, vlan, dns64, via, dhcp, rules: rules.rules(), filter })
}

/// What a gateway is to be like.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Its addresses; none: the usual ones.
    pub(crate) ip: Vec<IpNet>,
    /// The switch's VLAN that it is in.
    pub(crate) vlan: Option<Vid>,
    /// When names are looked up for IPv4 addresses.
    pub(crate) dns64: Dns64,
    /// The proxy that it goes by.
    pub(crate) via: Option<Via>,
    /// What its DHCP server says.
    pub(crate) dhcp: Said,
    /// Who may go where.
    pub(crate) rules: Rules,
    /// Its packet filter.
    pub(crate) filter: Ruleset,
}

/// Starts the gateway of the switch that is called `name`.
pub(crate) fn start(runtime: &Runtime, name: &str, wanted: Wanted) -> Result<(), Failure> {
    let Wanted { mut ip, vlan, dns64, via, dhcp, rules, filter } = wanted;
    let target = Target { name: name.to_owned() };
    let path = target.path(runtime)?;
    if ip.is_empty() {
        ip = addresses();
    }
    check_addresses(&ip)?;
    // As long as this connection, the switch stays.
    let held = switch::reach(runtime, name)?;
    let link = Link::switch(&target.switch(runtime)?, vlan.map(|vid| PortVlans::Access { vid }));
    launch::launch(runtime, &path, &Config { link, ip, rules, filter, dhcp, dns64, via, guest: false })?;
    drop(held);
    Ok(())
}

/// Asks the gateway of the switch that is called `name`.
pub(crate) fn ask_of<A: serde::de::DeserializeOwned>(
    runtime: &Runtime,
    name: &str,
    request: &Request,
) -> Result<A, Failure> {
    ask(runtime, &Target { name: name.to_owned() }, request)
}

/// Whether a gateway can have these addresses.
pub(crate) fn check_addresses(ip: &[IpNet]) -> Result<(), Failure> {
    for v4 in [true, false] {
        if ip.iter().filter(|net: &&IpNet| net.addr().is_ipv4() == v4).count() > 1 {
            return Err(
                Failure::new(START, "it has two addresses of one family").hint("give one --ip of each")
            );
        }
    }
    if let Some(net) =
        ip.iter().find(|net| net.addr() == net.network() || net.max_prefix_len() - net.prefix_len() < 2)
    {
        return Err(Failure::new(START, format!("{net} is no address in a network with others"))
            .hint("write it with the length of its network's prefix: 10.0.2.1/24"));
    }
    Ok(())
}

/// Makes sure that the switch `name`, which `client` holds, has a gateway, by a proxy or without. One that is started here
/// ends with the last of the switch's other users.
pub(crate) fn ensure(
    runtime: &Runtime,
    name: &str,
    via: Option<Via>,
    client: &mut Client,
) -> Result<(), Failure> {
    let what = &format!("cannot start the {name} gateway");
    let path = runtime.gateways().join(name);
    let config = Config {
        link: Link::switch(name, None),
        ip: addresses(),
        rules: Rules::default(),
        filter: Ruleset::default(),
        dhcp: Said::default(),
        dns64: Dns64::Auto,
        via,
        guest: true,
    };
    for _ in 0..ATTEMPTS {
        let ports = client.ports().map_err(|e| call_failed(what, e))?;
        if ports.iter().any(|port| port.name == stacks::gateway::PORT) {
            return Ok(());
        }
        match launch::launch(runtime, &path, &config) {
            // Somebody else is just starting one, or the last switch's is just ending.
            Err(failure) if failure.refusal.errno == Some(libc::EADDRINUSE) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    Err(Failure::new(what, "one is there that is not plugged in")
        .hint(format!("`viewnet gateway down --switch {name}` ends it")))
}

fn addresses() -> Vec<IpNet> {
    ADDRESSES.iter().map(|text| text.parse().expect("constant")).collect()
}

/// The gateways of the runtime folder; the sockets of dead ones are removed on the way.
pub(crate) fn all(runtime: &Runtime) -> Result<Vec<Description>, Failure> {
    // One that ends while we ask is not listed.
    let show = |path: &PathBuf| call_with(path, &Request::Show, &[]).ok();
    Ok(sockets(&runtime.gateways())?.iter().filter_map(show).collect())
}

fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let listed = all(runtime)?;
    if json {
        return print_json(&listed);
    }
    let row = |it: &Description| {
        let (streams, mappings) = (it.figures.streams.to_string(), it.figures.mappings.to_string());
        [it.config.link.to_string(), it.pid.to_string(), list(&it.config.ip), streams, mappings]
    };
    print(&table(["PLUGGED INTO", "PID", "ADDRESSES", "CONNECTIONS", "MAPPINGS"], listed.iter().map(row)))
}

fn show(runtime: &Runtime, target: &Target, json: bool) -> Result<(), Failure> {
    let it: Description = ask(runtime, target, &Request::Show)?;
    if json {
        return print_json(&it);
    }
    let (rules, figures) = (&it.config.rules, &it.figures);
    let mut text = format!(
        "plugged into  {}\nsocket        {}\nprocess       {}\naddresses     {}\n",
        it.config.link,
        it.path.display(),
        it.pid,
        list(&it.config.ip),
    );
    if let Some(via) = &it.config.via {
        text += &format!("goes by       {via}\n");
    }
    text += &format!("loopback      {}\n", if rules.host_loopback { "the host's" } else { "not reachable" });
    text += &format!(
        "lets through  {}\n",
        if rules.isolate { "what is allowed" } else { "all but what is denied" }
    );
    for (what, destinations) in [("allowed", &rules.allow), ("denied", &rules.deny)] {
        if !destinations.is_empty() {
            text += &format!("{what:12}  {}\n", list(destinations));
        }
    }
    text += &format!(
        "connections   {}, {} made, {} refused\nmappings      {}\npublished     {}\nleases        {}\nprohibited    {}\nevicted       {}\n",
        figures.streams,
        figures.opened,
        figures.refused,
        figures.mappings,
        figures.published.len(),
        figures.leases,
        figures.prohibited,
        figures.evicted,
    );
    let rows = figures.inside.iter().map(|(address, flows)| [address.to_string(), flows.to_string()]);
    print(&(text + "\n" + &table(["INSIDE", "FLOWS"], rows)))
}

fn list(of: &[impl ToString]) -> String {
    of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

impl Target {
    /// The gateway's socket: the switch's name in the gateways' folder, or beside the switch's own socket.
    fn path(&self, runtime: &Runtime) -> Result<PathBuf, Failure> {
        let path = match self.name.contains('/') {
            true => PathBuf::from(format!("{}.gateway", self.name)),
            false => runtime.gateways().join(&self.name),
        };
        std::path::absolute(&path).map_err(|e| Failure::io(format!("cannot use {}", path.display()), &e))
    }

    /// The switch's name, or the absolute path of its socket.
    fn switch(&self, runtime: &Runtime) -> Result<String, Failure> {
        if !self.name.contains('/') {
            return Ok(self.name.clone());
        }
        switch::socket_of(&self.name, runtime).map(|path| path.display().to_string())
    }
}

fn ask<A: serde::de::DeserializeOwned>(
    runtime: &Runtime,
    target: &Target,
    request: &Request,
) -> Result<A, Failure> {
    call_with(&target.path(runtime)?, request, &[]).map_err(|failure| match failure.refusal.hint {
        None => failure.hint(format!("start it with `viewnet gateway up --switch {}`", target.name)),
        Some(_) => failure,
    })
}

/// Asks the gateway at `path`; descriptors go along.
pub(crate) fn call_with<A: serde::de::DeserializeOwned>(
    path: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<A, Failure> {
    served::call("cannot reach the gateway", path, request, fds)
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::augment_args(clap::Command::new("gateway")).debug_assert();
        assert!(ADDRESSES.iter().all(|text| text.parse::<IpNet>().is_ok()));
    }
}
