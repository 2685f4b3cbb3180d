//! The files of wg-quick(8).
//!
//! # Theory of operation
//! Sections `[Interface]` (one) and `[Peer]`, lines `Key = value`, names in any case, `#` begins a comment. What
//! wg-quick hands to a shell (PreUp, PostUp, PreDown, PostDown) is refused: a tunnel here changes nothing of the
//! machine that would have to be put right. `Table` may be `auto` or `off`: a stack has one table. `SaveConfig` is
//! read over, as nothing changes at run time that could be saved.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use msocket_proto::line::Refusal;
use serde::{Deserialize, Serialize};

/// Longest file that is read: thousands of peers.
pub const MAX_FILE: usize = 1 << 20;
/// Most peers of a tunnel: each has some kilobytes of sessions, and is looked at with each tick.
pub const MAX_PEERS: usize = 1024;
/// Most entries of AllowedIPs in a file.
pub const MAX_ALLOWED: usize = 16_384;
/// Most entries of Address and of DNS, each.
const MAX_OWN: usize = 64;
/// Longest name of an endpoint's host (RFC 1035 clause 2.3.4).
const MAX_HOST: usize = 255;
/// As `ip link` takes it; WireGuard over UDP takes no longer packets.
pub(super) const MTUS: std::ops::RangeInclusive<u32> = 576..=65_000;

/// A Curve25519 or preshared key. It is shown by nobody: only [`Key::to_text`] tells it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub [u8; 32]);

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our key.
    pub private_key: Key,
    /// The UDP port; absent: one that is free.
    pub listen_port: Option<u16>,
    /// SO_MARK of the tunnel's datagrams; 0 is none.
    pub fwmark: u32,
    /// The stack's addresses.
    pub addresses: Vec<IpNet>,
    /// Nameservers, to be asked through the tunnel.
    pub dns: Vec<IpAddr>,
    /// Search domains, of which we cannot tell a resolver.
    pub search: Vec<String>,
    /// Bytes, of packets within the tunnel.
    pub mtu: Option<u32>,
    /// Whether AllowedIPs become routes of the stack (`Table = auto`).
    pub routes: bool,
    /// The peers.
    pub peers: Vec<Peer>,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its key.
    pub public_key: Key,
    /// A secret both have beside their keys.
    pub preshared_key: Option<Key>,
    /// Whose packets it may send, and where packets to those go.
    pub allowed_ips: Vec<IpNet>,
    /// Where it is; absent: where it is heard from.
    pub endpoint: Option<Endpoint>,
    /// Seconds between packets that keep the way open; absent: none are sent.
    pub keepalive: Option<u16>,
}

/// Where a peer is: `HOST:PORT`, `[ADDRESS]:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// A name, or an address in digits.
    pub host: String,
    /// UDP.
    pub port: u16,
}

/// What is wrong in a file. It never has a key in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct QuickError {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
    /// What would be right.
    pub hint: String,
}

impl QuickError {
    fn new(line: usize, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { line, why: why.into(), hint: hint.into() }
    }

    /// For whoever wrote `file`.
    pub fn refusal(&self, file: &str) -> Refusal {
        Refusal::new(format!("cannot use {file}"), self).hint(&self.hint)
    }
}

enum Section {
    Before,
    Interface,
    Peer,
}

/// What is known of the interface while its section is read.
#[derive(Default)]
struct Reading {
    private_key: Option<Key>,
    seen: bool,
    allowed: usize,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, QuickError> {
        if text.len() > MAX_FILE {
            return Err(QuickError::new(1, "the file is longer than 1 MiB", "give a file of wg-quick(8)"));
        }
        let mut config = Self {
            private_key: Key([0; 32]),
            listen_port: None,
            fwmark: 0,
            addresses: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            mtu: None,
            routes: true,
            peers: Vec::new(),
        };
        let mut reading = Reading::default();
        let mut section = Section::Before;
        let mut peer_line = 0;
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if line.starts_with('[') {
                if let Section::Peer = section {
                    config.check_last_peer(peer_line)?;
                }
                section = config.begin_section(line, number, &mut reading)?;
                peer_line = number;
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                return Err(QuickError::new(number, "it is no `Name = value`", "see wg-quick(8)"));
            };
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            let said = match section {
                Section::Before => Err("it stands before any section".to_owned()),
                Section::Interface => config.interface(&name, value, &mut reading),
                Section::Peer => config.peer(&name, value, &mut reading),
            };
            said.map_err(|why| QuickError::new(number, why, hint(&name)))?;
        }
        if let Section::Peer = section {
            config.check_last_peer(peer_line)?;
        }
        match reading.private_key {
            Some(key) => config.private_key = key,
            None => {
                let why = "there is no PrivateKey in an [Interface]";
                return Err(QuickError::new(text.lines().count().max(1), why, "`wg genkey` makes one"));
            }
        }
        Ok(config)
    }

    fn begin_section(
        &mut self,
        line: &str,
        number: usize,
        reading: &mut Reading,
    ) -> Result<Section, QuickError> {
        match line.to_ascii_lowercase().as_str() {
            "[interface]" if reading.seen => {
                Err(QuickError::new(number, "there is an [Interface] already", "a file is one tunnel"))
            }
            "[interface]" => {
                reading.seen = true;
                Ok(Section::Interface)
            }
            "[peer]" if self.peers.len() >= MAX_PEERS => {
                let why = format!("there are more than {MAX_PEERS} peers");
                Err(QuickError::new(number, why, "make several tunnels of them"))
            }
            "[peer]" => {
                self.peers.push(Peer {
                    public_key: Key([0; 32]),
                    preshared_key: None,
                    allowed_ips: Vec::new(),
                    endpoint: None,
                    keepalive: None,
                });
                Ok(Section::Peer)
            }
            _ => Err(QuickError::new(number, "the section is not known", "there are [Interface] and [Peer]")),
        }
    }

    fn check_last_peer(&self, line: usize) -> Result<(), QuickError> {
        let Some((last, others)) = self.peers.split_last() else { return Ok(()) };
        if last.public_key.0 == [0; 32] {
            return Err(QuickError::new(line, "the peer has no PublicKey", "ask whoever runs the peer"));
        }
        if others.iter().any(|other| other.public_key == last.public_key) {
            return Err(QuickError::new(line, "the peer is there already", "join the two sections"));
        }
        Ok(())
    }

    fn interface(&mut self, name: &str, value: &str, reading: &mut Reading) -> Result<(), String> {
        match name {
            "privatekey" => reading.private_key = Some(value.parse()?),
            "listenport" => self.listen_port = Some(number(value)?).filter(|port| *port != 0),
            "fwmark" => self.fwmark = mark(value)?,
            "address" => {
                for part in list(value) {
                    self.addresses.push(network(part)?);
                }
            }
            "dns" => {
                for part in list(value) {
                    match part.parse() {
                        Ok(address) => self.dns.push(address),
                        Err(_) => self.search.push(part.to_owned()),
                    }
                }
            }
            "mtu" => match number::<u32>(value)? {
                mtu if MTUS.contains(&mtu) => self.mtu = Some(mtu),
                _ => return Err("an MTU is 576 to 65000 bytes".into()),
            },
            "table" => match value.to_ascii_lowercase().as_str() {
                "auto" => self.routes = true,
                "off" => self.routes = false,
                _ => return Err("Table can be auto or off, as a stack has one table".into()),
            },
            "saveconfig" => {}
            "preup" | "postup" | "predown" | "postdown" => {
                return Err("commands are not run".into());
            }
            _ => return Err("nothing of this name belongs into [Interface]".into()),
        }
        if self.addresses.len().max(self.dns.len()).max(self.search.len()) > MAX_OWN {
            return Err(format!("there are more than {MAX_OWN}"));
        }
        Ok(())
    }

    fn peer(&mut self, name: &str, value: &str, reading: &mut Reading) -> Result<(), String> {
        let peer = self.peers.last_mut().expect("a section [Peer] has begun");
        match name {
            "publickey" => peer.public_key = value.parse()?,
            "presharedkey" => {
                // `wg showconf` writes none as zeros.
                peer.preshared_key = Some(value.parse()?).filter(|key: &Key| key.0 != [0; 32]);
            }
            "allowedips" => {
                for part in list(value) {
                    peer.allowed_ips.push(network(part)?.trunc());
                    reading.allowed += 1;
                }
                if reading.allowed > MAX_ALLOWED {
                    return Err(format!("there are more than {MAX_ALLOWED} AllowedIPs"));
                }
            }
            "endpoint" => peer.endpoint = Some(value.parse()?),
            "persistentkeepalive" => {
                let seconds = if value.eq_ignore_ascii_case("off") { 0 } else { number(value)? };
                peer.keepalive = Some(seconds).filter(|seconds| *seconds != 0);
            }
            _ => return Err("nothing of this name belongs into [Peer]".into()),
        }
        Ok(())
    }

    /// Where packets go that leave by the tunnel, the widest last.
    pub fn destinations(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> =
            self.peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc).collect();
        all.sort_by_key(|net| (std::cmp::Reverse(net.prefix_len()), *net));
        all.dedup();
        all
    }

    /// Those of `machine`'s nameservers that are asked for by programs and have one of ours to stand for them.
    pub fn stands_for(&self, machine: &[IpAddr]) -> Vec<IpAddr> {
        let has = |server: &&IpAddr| {
            // Nothing that is sent to ::1 ever leaves a stack.
            let reachable = server.is_ipv4() || !server.is_loopback();
            reachable && self.dns.iter().any(|dns| dns.is_ipv4() == server.is_ipv4())
        };
        let mut servers: Vec<IpAddr> = machine.iter().filter(has).copied().collect();
        servers.dedup();
        servers
    }
}

fn hint(name: &str) -> String {
    match name {
        "preup" | "postup" | "predown" | "postdown" => {
            "take the line out; what it did for the machine, do in a program in the view".into()
        }
        "privatekey" | "publickey" | "presharedkey" => {
            "a key is 44 characters of base64, as `wg genkey` writes".into()
        }
        _ => "wg-quick(8) and wg(8) say what is known".into(),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "it is no number of the kind that belongs here".to_owned())
}

/// `off`, decimal, or hexadecimal with 0x.
fn mark(value: &str) -> Result<u32, String> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).map_err(|_| "it is no mark".to_owned()),
        None => number(value),
    }
}

/// An address with the length of its network's prefix, or a single one.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text} is no address with prefix length, such as 10.0.0.2/32"))
}

impl Key {
    /// As in a file.
    pub fn to_text(self) -> String {
        STANDARD.encode(self.0)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is wrong is not repeated: it may be all but one character of a key.
        let wrong = |_| "it is no key".to_owned();
        let bytes = STANDARD.decode(text).map_err(|e| wrong(e.to_string()))?;
        Ok(Self(bytes.try_into().map_err(|_| wrong(String::new()))?))
    }
}

impl TryFrom<String> for Key {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_text()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a key)")
    }
}

impl Endpoint {
    /// The address, if it is one in digits.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|host: IpAddr| SocketAddr::new(host, self.port))
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "an endpoint is HOST:PORT or [ADDRESS]:PORT".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(address)) if is_ipv6(address) => address,
            None if !host.contains([':', '%']) => host,
            _ => return Err(wrong()),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
        if host.is_empty() || host.len() > MAX_HOST || !host.chars().all(plain) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// An address in digits, behind which a `%` and an interface may stand (RFC 4007 clause 11). Which one that is the host
/// says, as it does of names.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "lo"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && !zone.contains([':', '%'])
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests;
