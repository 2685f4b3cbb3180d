//! What a port leads to, as text: the one grammar of links.
//!
//! # Theory of operation
//! A link is `KIND:WHERE`, and more about it in brackets, in pairs of words. A link that another one goes by stands in
//! its place in braces, as in VDE's network locators:
//! ```text
//! tap:NAME                                  a TAP interface, made if it is not there
//! nic:NAME                                  an interface that is there
//! vde:PATH            [port N]              a port of the VDE switch whose folder is PATH
//! switch, switch:NAME-or-PATH               a port of another switch; without name, of the user's own
//!     [vlan N], [trunk LIST native N], [hybrid LIST untagged LIST pvid N], [tunnel N], [service LIST native N]
//!                                           the rules it has there
//! udp:ADDR:PORT       [local ADDR:PORT]     frames in UDP datagrams, to one peer
//! vxlan:VNI           [peer ADDR[:PORT],… local ADDR[:PORT] port N]
//! qemu:PATH           [listen]              QEMU's -netdev stream; [local PATH]: its -netdev dgram
//! qemu:ADDR:PORT      [listen]
//! impair:{LINK}       [SPEC], [in SPEC | out SPEC | seed N]
//!                                           a link that misbehaves on purpose, both ways or each by itself
//! ```
//! An IPv6 address with a port is written `[fd00::1]:5000`, as everywhere; the last bracket is the link's if a kind's
//! words are in it. Defaults of VXLAN: port 4789, every local address. SPEC is that of [`crate::impair::spec`]; `in` is
//! what comes from the link. A stack's links (`stacks::config`) are these, and some that only stacks have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::impair::Spec;
use crate::vlan::{PortVlans, Vid, VidSet};
use crate::vxlan::{self, Vni};

/// What a port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A TAP.
    Tap(String),
    /// An interface that is there.
    Nic(String),
    /// A VDE switch.
    Vde {
        /// Its folder.
        path: PathBuf,
        /// The number of the port there; absent: any.
        port: Option<u32>,
    },
    /// Another switch.
    Switch {
        /// Its name, or the path of its socket.
        name: String,
        /// The rules of the port there; absent: a trunk of all VLANs, 1 being native.
        vlans: Option<PortVlans>,
    },
    /// One peer by UDP.
    Udp {
        /// Its address.
        remote: SocketAddr,
        /// Our own; absent: any address and the peer's port number.
        local: Option<SocketAddr>,
    },
    /// A VXLAN network.
    Vxlan {
        /// Its number, the flood list, and the port that peers listen on.
        config: vxlan::Config,
        /// Where we listen.
        local: SocketAddr,
    },
    /// QEMU's stream.
    Stream {
        /// Where.
        at: Address,
        /// QEMU connects to us, and not we to it.
        listen: bool,
    },
    /// QEMU's datagrams over Unix sockets.
    Dgram {
        /// QEMU's socket.
        remote: PathBuf,
        /// Ours.
        local: PathBuf,
    },
    /// One of the others, that misbehaves.
    Impaired(Box<Impaired>),
}

/// A link that misbehaves on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impaired {
    /// The link itself, which is not of this kind.
    pub link: Link,
    /// What happens to frames that come from it.
    pub ingress: Option<Spec>,
    /// What happens to frames that go to it.
    pub egress: Option<Spec>,
    /// Where chance begins.
    pub seed: Option<u64>,
}

/// Of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Path(PathBuf),
    /// TCP.
    Ip(SocketAddr),
}

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {why}")]
pub struct BadLink {
    text: String,
    why: String,
}

impl BadLink {
    /// The piece that is wrong, and what is wrong with it.
    pub fn parts(&self) -> (&str, &str) {
        (&self.text, &self.why)
    }
}

fn bad(text: &str, why: impl Into<String>) -> BadLink {
    BadLink { text: text.to_owned(), why: why.into() }
}

/// The kinds, for help.
const KINDS: &str = "known are tap:NAME, nic:NAME, vde:PATH, switch:NAME, udp:ADDR:PORT, vxlan:VNI, qemu:PATH and impair:{LINK}";
/// The switch that is meant where none is named.
pub const DEFAULT_SWITCH: &str = "default";

impl Link {
    /// What it does on purpose, if it is such a link.
    pub fn impaired(&self) -> Option<&Impaired> {
        match self {
            Self::Impaired(impaired) => Some(impaired),
            _ => None,
        }
    }

    /// The link itself, whether it misbehaves or not.
    pub fn plain(&self) -> &Self {
        self.impaired().map_or(self, |impaired| &impaired.link)
    }

    /// The same link, with relative paths in it made ones in `folder`.
    pub fn rooted(self, folder: &Path) -> Self {
        match self {
            Self::Vde { path, port } => Self::Vde { path: folder.join(path), port },
            Self::Switch { name, vlans } if name.contains('/') => {
                Self::Switch { name: folder.join(name).display().to_string(), vlans }
            }
            Self::Stream { at: Address::Path(path), listen } => {
                Self::Stream { at: Address::Path(folder.join(path)), listen }
            }
            Self::Dgram { remote, local } => {
                Self::Dgram { remote: folder.join(remote), local: folder.join(local) }
            }
            Self::Impaired(mut impaired) => {
                impaired.link = impaired.link.rooted(folder);
                Self::Impaired(impaired)
            }
            other => other,
        }
    }
}

impl FromStr for Link {
    type Err = BadLink;

    fn from_str(text: &str) -> Result<Self, BadLink> {
        let text = text.trim();
        let (kind, rest) = match text.strip_prefix("switch") {
            Some(rest) if rest.is_empty() || rest.starts_with('[') => ("switch", rest),
            _ => text.split_once(':').ok_or_else(|| bad(text, KINDS))?,
        };
        let (place, words) = split(rest);
        let place = if text.starts_with("switch:") || kind != "switch" { place } else { DEFAULT_SWITCH };
        if place.is_empty() {
            return Err(bad(text, "nothing after the colon"));
        }
        if kind == "impair" {
            return impaired(place, words);
        }
        // They are the words' own, but in addresses such as [fd00::1]:5000.
        if place.contains(['[', ']']) && place.parse::<SocketAddr>().is_err() {
            return Err(bad(text, "a name or path in a link has no brackets"));
        }
        let mut words = Words::new(words)?;
        let link = match kind {
            "tap" => Self::Tap(place.to_owned()),
            "nic" => Self::Nic(place.to_owned()),
            "vde" => Self::Vde { path: place.into(), port: words.parsed("port", "a port's number")? },
            "switch" => Self::Switch { name: place.to_owned(), vlans: words.vlans()? },
            "udp" => {
                let remote = parsed(place, "the peer's ADDR:PORT")?;
                Self::Udp { remote, local: words.parsed("local", "an ADDR:PORT")? }
            }
            "vxlan" => vxlan(place, &mut words)?,
            "qemu" => qemu(place, &mut words)?,
            _ => return Err(bad(text, format!("unknown kind of link; {KINDS}"))),
        };
        words.end()?;
        Ok(link)
    }
}

fn vxlan(place: &str, words: &mut Words<'_>) -> Result<Link, BadLink> {
    let number: u32 = parsed(place, "a VNI, 0 to 16777215")?;
    let vni = Vni::try_from(number).map_err(|e| bad(place, e.to_string()))?;
    let port = words.parsed("port", "a UDP port")?.unwrap_or(vxlan::PORT);
    let peers = match words.value("peer") {
        None => Vec::new(),
        Some(list) => list.split(',').map(|peer| address(peer, port)).collect::<Result<_, _>>()?,
    };
    if peers.len() > vxlan::MAX_PEERS {
        return Err(bad(place, format!("a tunnel has {} peers at most", vxlan::MAX_PEERS)));
    }
    let local = match words.value("local") {
        Some(local) => address(local, port)?,
        None if peers.first().is_some_and(SocketAddr::is_ipv6) => {
            (std::net::Ipv6Addr::UNSPECIFIED, port).into()
        }
        None => (Ipv4Addr::UNSPECIFIED, port).into(),
    };
    if peers.iter().any(|peer| peer.is_ipv4() != local.is_ipv4()) {
        return Err(bad(place, "its addresses are of both families; one tunnel has one"));
    }
    Ok(Link::Vxlan { config: vxlan::Config { vni, peers, port }, local })
}

fn qemu(place: &str, words: &mut Words<'_>) -> Result<Link, BadLink> {
    if let Some(local) = words.value("local") {
        return Ok(Link::Dgram { remote: place.into(), local: local.into() });
    }
    let listen = words.flag("listen");
    let at = match place.parse() {
        Ok(address) => Address::Ip(address),
        Err(_) if place.contains('/') => Address::Path(place.into()),
        Err(_) => return Err(bad(place, "neither a path with a `/` nor an ADDR:PORT")),
    };
    Ok(Link::Stream { at, listen })
}

/// `{LINK}`, and what happens there.
fn impaired(place: &str, words: &str) -> Result<Link, BadLink> {
    let inner = place.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let inner =
        inner.ok_or_else(|| bad(place, "expected a link in braces, as impair:{switch:lan}[delay 10ms]"))?;
    if inner.trim_start().starts_with("impair:") {
        return Err(bad(inner, "it is impaired already; say everything in one place"));
    }
    let nothing = || bad(place, "nothing is said about what happens there; add [delay 10ms]");
    if words.trim().is_empty() {
        return Err(nothing());
    }
    let mut found = Impaired { link: inner.parse()?, ingress: None, egress: None, seed: None };
    let spec = |text: &str| text.parse::<Spec>().map_err(|why| bad(text, why.to_string()));
    for part in words.split('|').map(str::trim) {
        let (word, rest) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
        let twice = match word {
            "in" => found.ingress.replace(spec(rest)?).is_some(),
            "out" => found.egress.replace(spec(rest)?).is_some(),
            "seed" => found.seed.replace(parsed(rest.trim(), "a number")?).is_some(),
            _ => {
                let both = spec(part)?;
                let is_first = found.ingress.replace(both.clone()).is_none();
                !is_first || found.egress.replace(both).is_some()
            }
        };
        if twice {
            return Err(bad(part, "there twice"));
        }
    }
    if found.ingress.is_none() && found.egress.is_none() {
        return Err(nothing());
    }
    Ok(Link::Impaired(Box::new(found)))
}

fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, BadLink> {
    text.parse().map_err(|_| bad(text, format!("this is not {what}")))
}

/// `ADDR` or `ADDR:PORT`.
fn address(text: &str, port: u16) -> Result<SocketAddr, BadLink> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    bare.or_else(|_| parsed(text, "an address, or ADDR:PORT"))
}

/// The place, and what stands in the last brackets, if the text ends with them; `[fd00::1]:5000` does not.
fn split(rest: &str) -> (&str, &str) {
    match opening(rest) {
        Some(open) => (rest[..open].trim_end(), &rest[open + 1..rest.len() - 1]),
        None => (rest, ""),
    }
}

/// Where the bracket opens with which the text ends.
fn opening(text: &str) -> Option<usize> {
    text.strip_suffix(']')?;
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().rev() {
        depth += i32::from(byte == b']') - i32::from(byte == b'[');
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Words in brackets: a name and its value each, or a name alone.
struct Words<'t> {
    list: Vec<&'t str>,
}

impl<'t> Words<'t> {
    /// The names that stand alone.
    const FLAGS: [&'static str; 1] = ["listen"];

    fn new(text: &'t str) -> Result<Self, BadLink> {
        let list: Vec<&str> = text.split_whitespace().collect();
        let mut rest = list.iter();
        while let Some(name) = rest.next() {
            if !Self::FLAGS.contains(name) && rest.next().is_none() {
                return Err(bad(text, format!("nothing after `{name}`")));
            }
        }
        Ok(Self { list })
    }

    fn position(&self, name: &str) -> Option<usize> {
        let mut at = 0;
        while let Some(word) = self.list.get(at) {
            if *word == name {
                return Some(at);
            }
            at += if Self::FLAGS.contains(word) { 1 } else { 2 };
        }
        None
    }

    fn flag(&mut self, name: &str) -> bool {
        self.position(name).map(|at| self.list.remove(at)).is_some()
    }

    fn value(&mut self, name: &str) -> Option<&'t str> {
        let at = self.position(name)?;
        self.list.remove(at);
        Some(self.list.remove(at))
    }

    fn parsed<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, BadLink> {
        self.value(name).map(|value| parsed(value, what)).transpose()
    }

    fn vlans(&mut self) -> Result<Option<PortVlans>, BadLink> {
        let access: Option<Vid> = self.parsed("vlan", "a VLAN, 1 to 4094")?;
        let trunk: Option<VidSet> = self.parsed("trunk", "a list of VLANs, such as 10,20-29 or all")?;
        let native = self.parsed("native", "a VLAN, 1 to 4094")?;
        let tunnel: Option<Vid> = self.parsed("tunnel", "a VLAN, 1 to 4094")?;
        let service: Option<VidSet> = self.parsed("service", "a list of VLANs, such as 10,20-29 or all")?;
        let hybrid: Option<VidSet> = self.parsed("hybrid", "a list of VLANs, such as 10,20-29 or all")?;
        let untagged: Option<VidSet> = self.parsed("untagged", "a list of VLANs, such as 10,20-29 or all")?;
        let pvid = self.parsed("pvid", "a VLAN, 1 to 4094")?;
        let given = [access, tunnel].iter().flatten().count()
            + [&trunk, &service, &hybrid].into_iter().flatten().count();
        let rules = match (access, trunk, tunnel, service, hybrid) {
            _ if given > 1 => None,
            (Some(vid), ..) => Some(PortVlans::Access { vid }),
            (_, Some(allowed), ..) => Some(PortVlans::Trunk { native, allowed }),
            (_, _, Some(vid), ..) => Some(PortVlans::Tunnel { vid }),
            (_, _, _, Some(allowed), _) => Some(PortVlans::Service { native, allowed }),
            (.., Some(allowed)) => Some(PortVlans::Hybrid {
                pvid,
                allowed,
                untagged: untagged.clone().unwrap_or_else(VidSet::none),
            }),
            _ => None,
        };
        let fits = match &rules {
            Some(PortVlans::Trunk { .. } | PortVlans::Service { .. }) => pvid.is_none() && untagged.is_none(),
            Some(PortVlans::Hybrid { .. }) => native.is_none(),
            _ => native.is_none() && pvid.is_none() && untagged.is_none(),
        };
        if given > 1 || !fits {
            let forms = "`vlan 10`, `trunk 10,20-29 [native 1]`, `hybrid 10,20 [untagged 10] [pvid 10]`, `tunnel 10` or \
                         `service 10,20 [native 1]`";
            return Err(bad("vlan", format!("expected {forms}")));
        }
        Ok(rules)
    }

    fn end(&self) -> Result<(), BadLink> {
        match self.list.first() {
            Some(word) => Err(bad(word, "not a word of this kind of link, or there twice")),
            None => Ok(()),
        }
    }
}

/// A port's rules as they stand behind a switch's name.
pub fn rules(vlans: &PortVlans) -> String {
    match vlans {
        PortVlans::Access { vid } => format!("[vlan {vid}]"),
        vlans => format!("[{vlans}]"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => fmt::Display::fmt(&path.display(), out),
            Self::Ip(address) => fmt::Display::fmt(address, out),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(out, "tap:{name}"),
            Self::Nic(name) => write!(out, "nic:{name}"),
            Self::Vde { path, port: None } => write!(out, "vde:{}", path.display()),
            Self::Vde { path, port: Some(port) } => write!(out, "vde:{}[port {port}]", path.display()),
            Self::Switch { name, vlans } => {
                write!(out, "switch:{name}")?;
                vlans.as_ref().map_or(Ok(()), |vlans| out.write_str(&rules(vlans)))
            }
            Self::Udp { remote, local: None } => write!(out, "udp:{remote}"),
            Self::Udp { remote, local: Some(local) } => write!(out, "udp:{remote}[local {local}]"),
            Self::Vxlan { config, local } => {
                write!(out, "vxlan:{}[", config.vni)?;
                if !config.peers.is_empty() {
                    let peers: Vec<String> = config.peers.iter().map(SocketAddr::to_string).collect();
                    write!(out, "peer {} ", peers.join(","))?;
                }
                write!(out, "local {local} port {}]", config.port)
            }
            Self::Stream { at, listen } => write!(out, "qemu:{at}{}", if *listen { "[listen]" } else { "" }),
            Self::Dgram { remote, local } => {
                write!(out, "qemu:{}[local {}]", remote.display(), local.display())
            }
            Self::Impaired(impaired) => fmt::Display::fmt(&**impaired, out),
        }
    }
}

impl fmt::Display for Impaired {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "impair:{{{}}}[", self.link)?;
        match (&self.ingress, &self.egress) {
            (Some(ingress), Some(egress)) if ingress == egress => write!(out, "{ingress}")?,
            (Some(ingress), Some(egress)) => write!(out, "in {ingress} | out {egress}")?,
            (Some(ingress), None) => write!(out, "in {ingress}")?,
            (None, Some(egress)) => write!(out, "out {egress}")?,
            (None, None) => {}
        }
        self.seed.map_or(Ok(()), |seed| write!(out, " | seed {seed}"))?;
        out.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Link {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn links_as_text_and_back() {
        for text in [
            "tap:tap0",
            "nic:eth0",
            "vde:/run/vde.ctl",
            "vde:/run/vde.ctl[port 3]",
            "switch:lab",
            "switch:/tmp/s/lab[vlan 10]",
            "switch:lab[trunk 10,20-29]",
            "switch:lab[trunk 1-4094 native 1]",
            "udp:10.0.0.2:5000",
            "udp:[fd00::2]:5000[local [fd00::1]:5000]",
            "vxlan:42[peer 10.0.0.2:4789,10.0.0.3:4790 local 10.0.0.1:4789 port 4789]",
            "vxlan:0[local 0.0.0.0:8472 port 8472]",
            "qemu:/tmp/q.sock",
            "qemu:127.0.0.1:1234[listen]",
            "qemu:/tmp/q.sock[listen]",
            "qemu:/tmp/q.sock[local /tmp/l.sock]",
            "switch:lab[hybrid 10,20 untagged 10 pvid 10]",
            "switch:lab[tunnel 7]",
            "switch:lab[service 10 native 20]",
            "impair:{switch:lab[vlan 10]}[delay 10ms, loss 1%]",
            "impair:{udp:[fd00::2]:5000}[in loss 1% | out none | seed 7]",
            "impair:{vde:/run/vde.ctl}[out state a: loss 1%; state b: delay 5ms; every 100ms: a>b 5%]",
        ] {
            let link = read(text);
            assert_eq!(read(&link.to_string()), link, "{text}");
            assert_eq!(link.to_string().replace(" ]", "]"), text.replace("1-4094", "all"), "{text}");
        }
        assert_eq!(read("switch"), read("switch:default"));
        assert_eq!(read("switch[vlan 10]"), read("switch:default[vlan 10]"));
        let Link::Vxlan { config, local } = read("vxlan:42[peer fd00::2,fd00::3]") else {
            panic!("no tunnel")
        };
        assert_eq!(config.peers[1], "[fd00::3]:4789".parse().unwrap());
        assert_eq!(local, "[::]:4789".parse().unwrap());
        assert_eq!(
            read("udp:[fd00::2]:5000"),
            Link::Udp { remote: "[fd00::2]:5000".parse().unwrap(), local: None }
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "known are"),
            ("vde", "known are"),
            ("vde:", "nothing after the colon"),
            ("wire:x", "unknown kind"),
            ("vde:/x[port]", "nothing after `port`"),
            ("vde:/x[port x]", "a port's number"),
            ("vde:/x[lamp on]", "not a word"),
            ("vde:/x[port 1 port 2]", "there twice"),
            ("tap:x[port 1]", "not a word"),
            ("udp:somewhere", "ADDR:PORT"),
            ("vxlan:16777216", "no VNI"),
            ("vxlan:1[peer 10.0.0.1 local ::]", "both families"),
            ("qemu:x", "neither a path"),
            ("switch:x[vlan 5000]", "a VLAN"),
            ("switch:x[vlan 1 trunk 2]", "expected"),
            ("vde:/x]", "no brackets"),
            ("switch:[][]", "no brackets"),
            ("switch:", "nothing after the colon"),
            ("impair:switch:x[loss 1%]", "a link in braces"),
            ("impair:{switch:x}", "nothing is said"),
            ("impair:{switch:x}[seed 7]", "nothing is said"),
            ("impair:{switch:x}[loss 1% | in loss 2%]", "there twice"),
            ("impair:{switch:x}[loss 200%]", "200"),
            ("impair:{impair:{switch:x}[loss 1%]}[loss 1%]", "impaired already"),
            ("impair:{wire:x}[loss 1%]", "unknown kind"),
        ] {
            let e = text.parse::<Link>().expect_err(text).to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_link_or_none(text in "(impair:\\{)?(vde|udp|vxlan|qemu|switch|tap):?[a-z0-9./:\\[\\]{} ,|%]{0,40}") {
            if let Ok(link) = text.parse::<Link>() {
                prop_assert_eq!(link.to_string().parse::<Link>().unwrap(), link);
            }
        }
    }
}
