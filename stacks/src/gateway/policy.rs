//! Where the inside may go: what a destination means, and who is refused. A core.
//!
//! # Theory of operation
//! [`Policy::judge`] turns the destination of a connection or datagram into an address of the host to use, a
//! service of the gateway, or a refusal. The gateway's own addresses are its services and, if the host's loopback
//! was asked for, that. What no router would forward goes nowhere: loopback, groups, link-local and unspecified
//! addresses. All else is let through unless it is denied; what is *allowed* by name is let through whatever
//! `deny` and `isolate` say.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::nat64;

/// Most rules of one gateway: each new flow looks at all of them.
pub const MAX_RULES: usize = 256;

/// A set of destinations: `10.0.0.0/8`, `10.0.0.1:443`, `[fd00::/8]:80-90`, `:25`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destinations {
    /// All addresses of both families when absent.
    net: Option<IpNet>,
    ports: RangeInclusive<u16>,
}

impl Destinations {
    fn contains(&self, to: SocketAddr) -> bool {
        self.net.is_none_or(|net| net.contains(&to.ip())) && self.ports.contains(&to.port())
    }
}

impl FromStr for Destinations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` names no destinations; write 10.0.0.0/8, 10.0.0.1:443, [fd00::/8]:80-90 or :25")
        };
        let all = 0..=u16::MAX;
        let (net, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (net, ports) = rest.split_once(']').ok_or_else(wrong)?;
                (net, ports.strip_prefix(':'))
            }
            // More than one colon is an IPv6 address without port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(net, ports)| (net, Some(ports))),
        };
        let net = match net {
            "" if ports.is_some() => None,
            net => Some(
                net.parse::<IpNet>()
                    .or_else(|_| net.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| wrong())?,
            ),
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let ports = match ports {
            None => all,
            Some(ports) => match ports.split_once('-') {
                Some((first, last)) => port(first)?..=port(last)?,
                None => port(ports)?..=port(ports)?,
            },
        };
        if ports.is_empty() { Err(wrong()) } else { Ok(Self { net: net.map(|net| net.trunc()), ports }) }
    }
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = match (*self.ports.start(), *self.ports.end()) {
            (0, u16::MAX) => String::new(),
            (first, last) if first == last => format!(":{first}"),
            (first, last) => format!(":{first}-{last}"),
        };
        match self.net {
            None if ports.is_empty() => f.write_str(":0-65535"),
            None => f.write_str(&ports),
            Some(IpNet::V6(net)) if !ports.is_empty() => write!(f, "[{net}]{ports}"),
            Some(net) => write!(f, "{net}{ports}"),
        }
    }
}

impl TryFrom<String> for Destinations {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Destinations> for String {
    fn from(destinations: Destinations) -> Self {
        destinations.to_string()
    }
}

/// What the inside may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The gateway's own addresses are the host's loopback.
    #[serde(default)]
    pub host_loopback: bool,
    /// Nothing is let through but what is allowed.
    #[serde(default)]
    pub isolate: bool,
    /// Let through whatever the others say.
    #[serde(default)]
    pub allow: Vec<Destinations>,
    /// Not let through.
    #[serde(default)]
    pub deny: Vec<Destinations>,
}

/// What becomes of something that is sent to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host sends it there.
    Host(SocketAddr),
    /// It is for the gateway itself: one of its services, or nobody.
    Own,
    /// It is refused, and the sender may know it.
    Prohibited,
    /// There is no such way.
    Unreachable,
}

/// Which families the host's network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4
    pub v4: bool,
    /// IPv6
    pub v6: bool,
}

impl Families {
    /// IPv4 alone.
    pub const V4: Self = Self { v4: true, v6: false };
    /// IPv6 alone.
    pub const V6: Self = Self { v4: false, v6: true };
}

/// Rules, and the addresses that they are about.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The rules.
    pub rules: Rules,
    /// What the host has; what it has not is reached by the other (NAT64).
    pub families: Families,
    /// The gateway's own addresses with their networks.
    own: Vec<IpNet>,
}

impl Policy {
    /// `own`: the gateway's addresses with their prefix lengths.
    pub fn new(rules: Rules, own: Vec<IpNet>) -> Self {
        Self { rules, families: Families { v4: true, v6: true }, own }
    }

    /// Is it one of the gateway's own addresses?
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.addr() == address)
    }

    /// Is it an address of the gateway's network?
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.contains(&address)) && !self.is_own(address)
    }

    /// The gateway's addresses with their networks.
    pub fn networks(&self) -> &[IpNet] {
        &self.own
    }

    /// The gateway's own address of a family.
    pub fn own(&self, v4: bool) -> Option<IpAddr> {
        self.own.iter().map(IpNet::addr).find(|address| address.is_ipv4() == v4)
    }

    /// What becomes of something for `to`.
    pub fn judge(&self, to: SocketAddr) -> Verdict {
        if self.is_own(to.ip()) {
            let loopback = match to.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            return if self.rules.host_loopback {
                Verdict::Host(SocketAddr::new(loopback, to.port()))
            } else {
                Verdict::Own
            };
        }
        // Of the two forms of an address, each may be what no router forwards, or what a rule names.
        let real = self.translated(to);
        if [to, real].into_iter().any(|to| !is_forwarded(to.ip()) || self.is_local(to.ip())) {
            return Verdict::Unreachable;
        }
        let named = |list: &[Destinations]| {
            list.iter().any(|destinations| destinations.contains(to) || destinations.contains(real))
        };
        if !named(&self.rules.allow) && (self.rules.isolate || named(&self.rules.deny)) {
            return Verdict::Prohibited;
        }
        Verdict::Host(real)
    }

    /// Where the host sends what is for `to`: an IPv4 address within [`nat64`]'s network is that; but where the host has IPv6
    /// alone, its network may know that network, and an IPv4 address is one in there (RFC 6877).
    fn translated(&self, to: SocketAddr) -> SocketAddr {
        let real = match to.ip() {
            IpAddr::V6(v6) if self.families != Families::V6 => nat64::extract(v6).map(IpAddr::V4),
            IpAddr::V4(v4) if self.families == Families::V6 => Some(IpAddr::V6(nat64::embed(v4))),
            _ => None,
        };
        real.map_or(to, |real| SocketAddr::new(real, to.port()))
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.contains(&address))
    }

    /// In whose name an inside address of IPv4, or of IPv6, hears something that came from `from`; `None`: it is not for
    /// the inside.
    pub fn name(&self, from: SocketAddr, v4: bool) -> Option<SocketAddr> {
        let from = self.named(from)?;
        let address = match from.ip() {
            IpAddr::V4(it) if !v4 => IpAddr::V6(nat64::embed(it)),
            IpAddr::V6(it) if v4 => IpAddr::V4(nat64::extract(it)?),
            address => address,
        };
        Some(SocketAddr::new(address, from.port()))
    }

    fn named(&self, from: SocketAddr) -> Option<SocketAddr> {
        if from.ip().is_loopback() {
            let own = self.own(from.is_ipv4()).filter(|_| self.rules.host_loopback)?;
            return Some(SocketAddr::new(own, from.port()));
        }
        let strange = !is_forwarded(from.ip()) || self.is_local(from.ip());
        (!strange).then_some(from)
    }
}

/// Would a router forward packets for it (RFC 6890)?
fn is_forwarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let nobody = v4.octets()[0] == 0 || v4.octets()[0] >= 240;
            !(nobody || v4.is_loopback() || v4.is_multicast() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_some();
            let nobody = v6.is_unspecified() || v6.is_loopback() || mapped;
            !(nobody || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(rules: Rules) -> Policy {
        Policy::new(rules, vec!["10.0.2.1/24".parse().unwrap(), "fd00:2::1/64".parse().unwrap()])
    }

    fn judge(rules: Rules, to: &str) -> Verdict {
        policy(rules).judge(to.parse().unwrap())
    }

    #[test]
    fn the_gateway_itself_is_the_loopback_only_if_asked_for() {
        let asked = Rules { host_loopback: true, ..Rules::default() };
        assert_eq!(judge(Rules::default(), "10.0.2.1:80"), Verdict::Own);
        assert_eq!(judge(asked.clone(), "10.0.2.1:80"), Verdict::Host("127.0.0.1:80".parse().unwrap()));
        assert_eq!(judge(asked.clone(), "[fd00:2::1]:80"), Verdict::Host("[::1]:80".parse().unwrap()));
        for never in
            ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80", "[fe80::1]:80", "10.0.2.7:1"]
        {
            assert_eq!(judge(asked.clone(), never), Verdict::Unreachable, "{never}");
        }
    }

    #[test]
    fn allowed_beats_denied_and_isolated() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let rules = Rules {
            allow: list(&["10.1.2.3:443"]),
            deny: list(&["10.0.0.0/8", ":25", "[2001:db8::/32]:80-90"]),
            ..Rules::default()
        };
        let isolated = Rules { isolate: true, ..rules.clone() };
        for (to, open, closed) in [
            ("10.1.2.3:443", true, true),
            ("10.1.2.3:80", false, false),
            ("192.0.2.1:25", false, false),
            ("192.0.2.1:80", true, false),
            ("[2001:db8::1]:85", false, false),
            ("[2001:db8::1]:443", true, false),
        ] {
            let goes = |rules: &Rules| judge(rules.clone(), to) == Verdict::Host(to.parse().unwrap());
            assert_eq!((goes(&rules), goes(&isolated)), (open, closed), "{to}");
        }
    }

    #[test]
    fn nobody_hears_the_loopback_or_their_own_network_through_the_gateway() {
        let open = policy(Rules::default());
        for from in ["127.0.0.1:5", "10.0.2.9:5", "[fd00:2::9]:5", "224.0.0.1:5"] {
            assert_eq!(
                open.name(from.parse().unwrap(), from.starts_with(|c: char| c.is_ascii_digit())),
                None,
                "{from}"
            );
        }
        let asked = policy(Rules { host_loopback: true, ..Rules::default() });
        assert_eq!(asked.name("127.0.0.1:5".parse().unwrap(), true), Some("10.0.2.1:5".parse().unwrap()));
    }

    #[test]
    fn what_the_host_lacks_is_reached_by_what_it_has() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let rules = Rules { deny: vec!["192.0.2.9".parse().unwrap()], ..Rules::default() };
        let mut policy = policy(rules);
        for (v4, v6) in [(true, true), (true, false), (false, false)] {
            policy.families = Families { v4, v6 };
            assert_eq!(
                policy.judge(address("[64:ff9b::c000:201]:80")),
                Verdict::Host(address("192.0.2.1:80"))
            );
            assert_eq!(policy.judge(address("[64:ff9b::c000:209]:80")), Verdict::Prohibited);
            for inner in ["7f00:1", "a00:207", "a00:201", "e000:1"] {
                let to = address(&format!("[64:ff9b::{inner}]:80"));
                assert_eq!(policy.judge(to), Verdict::Unreachable, "{inner}");
            }
            assert_eq!(policy.judge(address("192.0.2.1:80")), Verdict::Host(address("192.0.2.1:80")));
        }
        let name = policy.name(address("192.0.2.1:80"), false);
        assert_eq!(name, Some(address("[64:ff9b::c000:201]:80")));
        policy.families = Families::V6;
        let beyond = address("[64:ff9b::c000:201]:80");
        assert_eq!(policy.judge(address("192.0.2.1:80")), Verdict::Host(beyond));
        assert_eq!(policy.judge(beyond), Verdict::Host(beyond));
        assert_eq!(policy.name(beyond, true), Some(address("192.0.2.1:80")));
        assert_eq!(policy.name(beyond, false), Some(beyond));
        assert_eq!(policy.name(address("[2001:db8::1]:80"), true), None);
    }

    proptest! {
        #[test]
        fn any_text_is_destinations_or_refused(text in "[\\[\\]0-9a-f:./-]{0,40}") {
            if let Ok(destinations) = text.parse::<Destinations>() {
                prop_assert_eq!(destinations.to_string().parse::<Destinations>(), Ok(destinations));
            }
        }

        #[test]
        fn the_host_is_never_asked_for_its_own_loopback(address: u128, v4: u32, port: u16) {
            let all = policy(Rules::default());
            for address in [IpAddr::V6(address.into()), IpAddr::V4(v4.into()), IpAddr::V6((0xffff_u128 << 32 | u128::from(v4)).into())] {
                if let Verdict::Host(to) = all.judge(SocketAddr::new(address, port)) {
                    prop_assert!(!to.ip().is_loopback() && !to.ip().is_multicast() && !to.ip().is_unspecified());
                }
            }
        }
    }
}
