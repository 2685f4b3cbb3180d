//! What is published: which ports of the host lead to which ports of a stack. A core.
//!
//! # Theory of operation
//! [`Publish`] is what a user writes: `[ADDR:]PORT[-PORT][:PORT[-PORT]][/udp]`, or `[ADDR:]auto`. [`listening`] finds in
//! a list of proc_net(5) the ports that somebody listens on, which is what `auto` publishes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most ports that one gateway publishes: each takes one descriptor for each family.
pub const MAX_PORTS: usize = 1024;
/// TCP_LISTEN, net/tcp_states.h, as proc_net(5) prints it.
const LISTEN: &str = "0A";

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports of the host and those of a stack that they lead to: `8080:80`, `127.0.0.1:8000-8010:9000-9010/udp`, `[::1]:53`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    transport: Transport,
    address: Option<IpAddr>,
    host: RangeInclusive<u16>,
    /// The first one of the stack's; as many follow.
    inside: u16,
}

impl Ports {
    /// Of which protocol.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The host's address; `None`: any.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Each port of the host with that of the stack.
    pub fn each(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let inside = self.inside;
        // The ranges are of one length, and neither is longer than MAX_PORTS.
        self.host.clone().zip(inside..=u16::MAX)
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.host.len()
    }

    /// Does a port of the host belong to them?
    pub fn has(&self, transport: Transport, listen: SocketAddr) -> bool {
        self.transport == transport
            && self.host.contains(&listen.port())
            && self.address.is_none_or(|address| address == listen.ip())
    }
}

/// What a user wants published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Publish {
    /// These ports.
    Ports(Ports),
    /// Every TCP port that a program listens on, under the same number.
    Auto(Option<IpAddr>),
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` names no ports; write 8080:80, 127.0.0.1:8080:80, [::1]:53/udp or 8000-8010:9000-9010"
            )
        };
        let (rest, transport) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Transport::Tcp),
            Some((rest, "udp")) => (rest, Transport::Udp),
            Some(_) => return Err(wrong()),
        };
        let (address, ports) = address(rest).ok_or_else(wrong)?;
        let (host, inside) = match ports.split_once(':') {
            Some((host, inside)) => (host, inside),
            None => (ports, ports),
        };
        let (host, inside) = range(host).zip(range(inside)).ok_or_else(wrong)?;
        if host.len() != inside.len() {
            return Err(format!("`{text}` has {} ports for {}; write as many", host.len(), inside.len()));
        }
        if host.len() > MAX_PORTS {
            return Err(format!("`{text}` is more than {MAX_PORTS} ports"));
        }
        Ok(Self { transport, address, host, inside: *inside.start() })
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match address(text) {
            Some((address, "auto")) => Ok(Self::Auto(address)),
            _ => text.parse().map(Self::Ports),
        }
    }
}

/// An address before the ports, if there is one, and what follows it.
fn address(text: &str) -> Option<(Option<IpAddr>, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once("]:")?;
        return Some((Some(IpAddr::V6(address.parse().ok()?)), rest));
    }
    match text.split_once(':') {
        Some((address, rest)) if address.contains('.') => {
            Some((Some(IpAddr::V4(address.parse().ok()?)), rest))
        }
        _ => Some((None, text)),
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some(first..=last)
}

fn at(address: Option<IpAddr>) -> String {
    match address {
        None => String::new(),
        Some(IpAddr::V4(address)) => format!("{address}:"),
        Some(IpAddr::V6(address)) => format!("[{address}]:"),
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |first: u16| match self.host.len() {
            1 => first.to_string(),
            count => format!("{first}-{}", usize::from(first) + count - 1),
        };
        f.write_str(&at(self.address))?;
        f.write_str(&range(*self.host.start()))?;
        if self.inside != *self.host.start() {
            write!(f, ":{}", range(self.inside))?;
        }
        if self.transport == Transport::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports) => ports.fmt(f),
            Self::Auto(address) => write!(f, "{}auto", at(*address)),
        }
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

/// A socket of a list of proc_net(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its own address and port.
    pub local: SocketAddr,
    /// It listens for TCP connections.
    pub listens: bool,
    /// Its inode.
    pub inode: u64,
}

/// The sockets of /proc/net/tcp, tcp6, udp or udp6 (proc_net(5)); lines that are none are skipped.
pub fn sockets(list: &str) -> impl Iterator<Item = Listed> {
    list.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = socket_address(words.next()?)?;
        let listens = words.nth(1)? == LISTEN;
        Some(Listed { local, listens, inode: words.nth(5)?.parse().ok()? })
    })
}

/// `0100007F:1F90`: each four bytes of the address as a number of the machine, in hexadecimal digits.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (n, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(8 * n)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// The ports at which whoever has `addresses` can be reached.
pub fn listening(list: &str, addresses: &[IpAddr]) -> BTreeSet<u16> {
    let reachable = |ip: IpAddr| ip.is_unspecified() || addresses.contains(&ip);
    sockets(list)
        .filter(|socket| socket.listens && reachable(socket.local.ip()))
        .map(|socket| socket.local.port())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_written_in_many_ways() {
        for (text, shown) in [
            ("8080:80", "8080:80"),
            ("80", "80"),
            ("80:80/tcp", "80"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080:80/udp"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:8080:80", "[::1]:8080:80"),
            ("8000-8010:9000-9010", "8000-8010:9000-9010"),
            ("auto", "auto"),
            ("127.0.0.1:auto", "127.0.0.1:auto"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), shown);
        }
        let ports: Ports = "65534-65535:1-2/udp".parse().unwrap();
        assert_eq!(ports.each().collect::<Vec<_>>(), [(65534, 1), (65535, 2)]);
        assert!(ports.has(Transport::Udp, "192.0.2.1:65535".parse().unwrap()));
        assert!(!ports.has(Transport::Tcp, "192.0.2.1:65535".parse().unwrap()));
        for wrong in [
            "",
            "0",
            "8080:",
            ":80",
            "80/sctp",
            "1-2:3",
            "2-1",
            "1-2000",
            "65536",
            "::1:80:80",
            "[::1]80",
            "1.2.3:80",
            "auto/udp",
            "[1.2.3.4]:80",
        ] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn listeners_are_found_where_they_can_be_reached() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
            1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 112 1\n\
            2: 0202000A:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 113 1\n\
            3: 0202000A:1F93 0202000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 114 1\n";
        let list = if cfg!(target_endian = "little") { list } else { return };
        let found = listening(list, &["10.0.2.2".parse().unwrap()]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [8080, 8082]);
        assert_eq!(sockets(list).map(|socket| socket.inode).collect::<Vec<_>>(), [111, 112, 113, 114]);
    }

    proptest! {
        #[test]
        fn any_text_is_ports_or_refused(text in "[\\[\\]0-9a-z:./-]{0,40}") {
            if let Ok(publish) = text.parse::<Publish>() {
                prop_assert_eq!(publish.to_string().parse::<Publish>(), Ok(publish));
            }
        }

        #[test]
        fn any_list_is_read(text in "[ -~\n]{0,200}") {
            let _ = listening(&text, &[]);
        }
    }
}
