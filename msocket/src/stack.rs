//! A stack and what can be had of it: [`Stack`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use msocket_proto::line::Refusal;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Stats64};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;
use stacks::config::StackConfig;
use stacks::kernel::netlink::Netlink;
use stacks::remote;
use stacks::serve::Description;
pub use stacks::stack::{InterfaceInfo, Kind};

use crate::client::Way;
use crate::local::Local;
use crate::net::{TcpListener, TcpStream, UdpSocket};
use crate::socket::MSocket;
use crate::{in_view, places, sys};

/// Connections that a listener's queue may hold, as std has it.
const BACKLOG: i32 = 128;

/// A network stack: one that is kept (`viewnet stack up`), one of a running view, or one inside this process.
///
/// Dropping it closes no socket, unless the stack is this process's own: that ends.
#[derive(Debug)]
pub struct Stack {
    path: PathBuf,
    kind: Kind,
    /// How to reach it; in a view, that is the supervisor's business.
    way: Option<Way>,
    /// It is ours.
    _local: Option<Local>,
}

/// One route of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Network and length of its prefix.
    pub destination: (IpAddr, u8),
    /// The next hop, if the network is not the interface's own.
    pub gateway: Option<IpAddr>,
    /// The interface's name.
    pub interface: String,
    /// The lesser is preferred.
    pub metric: u32,
}

/// What an interface has carried, as rtnl_link_stats64 counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Dropped in place of being sent.
    pub tx_dropped: u64,
}

impl Stack {
    /// The stack at a path, or of that name among the user's stacks.
    ///
    /// # Errors
    /// NotFound: there is none. PermissionDenied: it is not for us.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = places::path(path.as_ref())?;
        let kind = remote::describe(&path).map_err(refused)?.kind;
        let way = if sys::has_supervisor() && !places::is_own(&path) { None } else { Some(Way::to(&path)?) };
        Ok(Self { path, kind, way, _local: None })
    }

    /// A new stack inside this process, TCP/IP in a library: no daemon, no privilege. Each line, or what stands
    /// between semicolons, is an interface: `eth0=switch:lan,ip=10.0.0.2/24,gw=10.0.0.1`.
    ///
    /// ```
    /// let stack = msocket::Stack::create("eth0=none,ip=10.0.0.1/24")?;
    /// let listener = stack.tcp_listen("10.0.0.1:80".parse().unwrap())?;
    /// assert_eq!(listener.local_addr()?.port(), 80);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// What is wrong with the configuration, or with what it is to be plugged into.
    pub fn create(config: &str) -> io::Result<Self> {
        let mut parsed = StackConfig::default();
        for line in config.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
            parsed.add_line(line).map_err(|e| refused(e.refusal("cannot use the configuration")))?;
        }
        Self::create_with(&parsed)
    }

    /// The same, of a configuration made otherwise.
    ///
    /// # Errors
    /// As [`Stack::create`].
    pub fn create_with(config: &StackConfig) -> io::Result<Self> {
        let local = Local::open(config).map_err(refused)?;
        let path = local.path().to_owned();
        let way = Some(Way::to(&path)?);
        Ok(Self { path, kind: Kind::Smol, way, _local: Some(local) })
    }

    /// Its path: what msocket(3) and `viewnet stack show` take.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a network namespace, or TCP/IP in a library.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// socket(2) on this stack, close-on-exec.
    ///
    /// # Errors
    /// Those of socket(2); ENETDOWN when the stack has gone.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> io::Result<MSocket> {
        let kind = kind | libc::SOCK_CLOEXEC;
        match &self.way {
            Some(way) => {
                let client = way.client().cloned();
                Ok(MSocket::new(way.socket(domain, kind, protocol)?, client))
            }
            None => match in_view(&self.path, &self.path, domain, kind, protocol) {
                Ok(Some(fd)) => Ok(MSocket::new(sys::take(fd), None)),
                Ok(None) | Err(Errno::ENOENT) => Err(Errno::ENETDOWN.into()),
                Err(errno) => Err(errno.into()),
            },
        }
    }

    fn socket_for(&self, address: SocketAddr, kind: i32) -> io::Result<MSocket> {
        let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        self.socket(domain, kind, 0)
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn tcp_connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket_for(to, libc::SOCK_STREAM)?;
        socket.connect(to)?;
        Ok(TcpStream::of(socket))
    }

    /// A TCP listener, with SO_REUSEADDR as std has it.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn tcp_listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket_for(at, libc::SOCK_STREAM)?;
        socket.set_option(libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32.to_ne_bytes())?;
        socket.bind(at)?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::of(socket))
    }

    /// A UDP socket with this address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn udp_bind(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket_for(at, libc::SOCK_DGRAM)?;
        socket.bind(at)?;
        Ok(UdpSocket::of(socket))
    }

    /// Its interfaces with their addresses, the loopback first.
    ///
    /// # Errors
    /// The stack has gone.
    pub fn interfaces(&self) -> io::Result<Vec<InterfaceInfo>> {
        Ok(self.describe()?.interfaces)
    }

    /// Its addresses, with the lengths of their prefixes.
    ///
    /// # Errors
    /// The stack has gone.
    pub fn addresses(&self) -> io::Result<Vec<(IpAddr, u8)>> {
        let parsed = |text: &str| {
            let (address, length) = text.split_once('/')?;
            Some((address.parse().ok()?, length.parse().ok()?))
        };
        let interfaces = self.interfaces()?;
        Ok(interfaces.iter().flat_map(|i| &i.addresses).filter_map(|text| parsed(text)).collect())
    }

    /// Its unicast routes, of both families, those to its own addresses left out.
    ///
    /// # Errors
    /// The stack has gone.
    pub fn routes(&self) -> io::Result<Vec<Route>> {
        let names: Vec<(u32, String)> =
            self.links()?.iter().map(|link| (link.header.index, name_of(link))).collect();
        let mut routes = Vec::new();
        for message in self.netlink()?.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))? {
            if let RouteNetlinkMessage::NewRoute(route) = message
                && route.header.kind == RouteType::Unicast
            {
                routes.extend(route_of(&route, &names));
            }
        }
        Ok(routes)
    }

    /// What each interface has carried, by name.
    ///
    /// # Errors
    /// The stack has gone.
    pub fn statistics(&self) -> io::Result<Vec<(String, Statistics)>> {
        let counted = |link: &LinkMessage| {
            let stats = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(Statistics::from(*stats)),
                _ => None,
            });
            (name_of(link), stats.unwrap_or_default())
        };
        Ok(self.links()?.iter().map(counted).collect())
    }

    fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let all = self.netlink()?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let link = |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        };
        Ok(all.into_iter().filter_map(link).collect())
    }

    /// Its own rtnetlink; asking needs no call but those that move bytes.
    fn netlink(&self) -> io::Result<Netlink> {
        let socket: OwnedFd = self.socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?.into_fd();
        Ok(Netlink::over(socket))
    }

    fn describe(&self) -> io::Result<Description> {
        remote::describe(&self.path).map_err(refused)
    }
}

fn name_of(link: &LinkMessage) -> String {
    let name = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    };
    link.attributes.iter().find_map(name).unwrap_or_default()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The route in a message; `None` for one without an interface.
fn route_of(route: &RouteMessage, names: &[(u32, String)]) -> Option<Route> {
    let any = match i32::from(u8::from(route.header.address_family)) {
        libc::AF_INET => IpAddr::from([0u8; 4]),
        libc::AF_INET6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let (mut destination, mut gateway, mut interface, mut metric) = (any, None, None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let interface = names.iter().find(|(index, _)| Some(*index) == interface)?.1.clone();
    let length = route.header.destination_prefix_length;
    Some(Route { destination: (destination, length), gateway, interface, metric })
}

impl From<Stats64> for Statistics {
    fn from(stats: Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_dropped: stats.rx_dropped,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
        }
    }
}

/// A refusal's words, with the kind of error that its errno is.
fn refused(refusal: Refusal) -> io::Error {
    let kind = refusal.errno.map_or(io::ErrorKind::Other, |errno| io::Error::from_raw_os_error(errno).kind());
    io::Error::new(kind, refusal)
}
