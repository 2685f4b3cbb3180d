//! Neighbours: RTM_GETNEIGH, NEWNEIGH, DELNEIGH (`struct ndmsg`, linux/neighbour.h).

use std::net::IpAddr;
use std::time::Instant;

use libc::{NDA_CACHEINFO, NDA_DST, NDA_LLADDR, NDA_PROBES, RTM_NEWNEIGH};
use nix::errno::Errno;

use super::super::World;
use super::super::reply::{Answer, Answered, Asked, List, Sink, fill_from};
use super::super::wire::{Attributes, Header, Message, u16_at, u32_at};
use super::{family, fixed, index, is_v4, wants};
use crate::config::Mac;
use crate::smol::tables::{IfIndex, Mode, Neighbour, Nud, Refused, Tables};

/// Length of `struct ndmsg`.
const MESSAGE: usize = 12;
const NDA_IFINDEX: u16 = 8;
/// NTF_PROXY: entries that we would answer for.
const NTF_PROXY: u8 = 8;
/// NTF_ROUTER
const NTF_ROUTER: u8 = 0x80;
/// NTF_USE: the entry is about to be used.
const NTF_USE: u8 = 1;
/// RTN_UNICAST
const TYPE: u8 = 1;
/// NUD_*
const STATES: [(Nud, u16); 8] = [
    (Nud::Incomplete, 0x01),
    (Nud::Reachable, 0x02),
    (Nud::Stale, 0x04),
    (Nud::Delay, 0x08),
    (Nud::Probe, 0x10),
    (Nud::Failed, 0x20),
    (Nud::NoArp, 0x40),
    (Nud::Permanent, 0x80),
];

/// Every neighbour that was there when the dump began and still is.
#[derive(Debug)]
struct Neighbours {
    keys: Vec<(IfIndex, IpAddr)>,
}

impl List for Neighbours {
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        now: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let header = Header { kind: RTM_NEWNEIGH, ..header };
        fill_from(self.keys.iter(), from, sink, |(link, ip)| {
            let neighbour = world.tables().neighbours.get(&(*link, *ip))?;
            Some(message(*link, *ip, neighbour, now, header))
        })
    }
}

/// `ip neighbour show`
pub(super) fn list(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let payload = asked.request.payload;
    let attributes = Attributes::behind(payload, MESSAGE);
    let proxy = payload.get(10).is_some_and(|flags| *flags & NTF_PROXY != 0);
    let link = attributes.u32(NDA_IFINDEX)?.and_then(index);
    let link = link.or_else(|| u32_at(payload, 4).filter(|_| asked.strict).and_then(index));
    let wanted = |key: &&(IfIndex, IpAddr)| {
        !proxy && wants(payload[0], key.1) && link.is_none_or(|link| link == key.0)
    };
    let mut keys: Vec<_> = world.tables().neighbours.keys().filter(wanted).copied().collect();
    keys.sort_unstable_by_key(|(link, ip)| (ip.is_ipv6(), *link, *ip));
    Ok(Answer::Dump(Box::new(Neighbours { keys })))
}

/// `ip neighbour get`
pub(super) fn get(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let fixed = fixed(asked, MESSAGE)?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    if u32_at(fixed, 4) == Some(0) {
        return Err(Refused::new(Errno::EINVAL, "No device specified"));
    }
    let (link, ip) = named(fixed, &attributes, world.tables())?;
    let neighbour = world
        .tables()
        .neighbours
        .get(&(link, ip))
        .ok_or_else(|| Refused::new(Errno::ENOENT, "Neighbour entry not found"))?;
    let header = asked.header(RTM_NEWNEIGH);
    Ok(Answer::Message(message(link, ip, neighbour, asked.now, header)))
}

/// `ip neighbour add`, `change`, `replace`
pub(super) fn new(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    let (link, ip) = named(fixed, &attributes, tables).map_err(|refused| match refused {
        Refused { errno: Errno::EINVAL, why: "" } => Refused::new(Errno::EINVAL, "Device not specified"),
        refused => refused,
    })?;
    let mac =
        attributes.mac(NDA_LLADDR).map_err(|_| Refused::new(Errno::EINVAL, "Invalid link address"))?.map(Mac);
    let flags = fixed[10];
    if flags & NTF_PROXY != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let wanted = u16_at(fixed, 8).unwrap_or_default();
    let state = STATES.iter().find(|(_, bit)| *bit == wanted).map(|(state, _)| *state);
    let state = match (state, mac) {
        (Some(state), _) => state,
        (None, Some(_)) if flags & NTF_USE != 0 => Nud::Delay,
        (None, _) => return Err(Errno::EINVAL.into()),
    };
    let router = flags & NTF_ROUTER != 0;
    tables.add_neighbour(asked.now, link, ip, mac, state, router, Mode::of(asked))
}

/// `ip neighbour delete`
pub(super) fn delete(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    let (link, ip) = named(fixed, &attributes, tables)?;
    tables.remove_neighbour(link, ip)
}

/// The interface and address that a request names.
fn named(fixed: &[u8], attributes: &Attributes<'_>, tables: &Tables) -> Result<(IfIndex, IpAddr), Refused> {
    let none = || Refused::new(Errno::EINVAL, "Network address not specified");
    if !attributes.has(NDA_DST) {
        return Err(none());
    }
    let link = u32_at(fixed, 4).and_then(index);
    if let Some(link) = link {
        tables.link(link)?;
    }
    let v4 = is_v4(fixed[0]).map_err(|_| Refused::from(Errno::EAFNOSUPPORT))?;
    let ip = attributes
        .ip(NDA_DST, v4)
        .map_err(|_| Refused::new(Errno::EINVAL, "Invalid network address"))?
        .ok_or_else(none)?;
    Ok((link.ok_or(Errno::EINVAL)?, ip))
}

/// A neighbour as neigh_fill_info() tells it.
pub(super) fn message(
    link: IfIndex,
    ip: IpAddr,
    neighbour: &Neighbour,
    now: Instant,
    header: Header,
) -> Vec<u8> {
    let mut message = Message::new(header);
    let state = STATES.iter().find(|(state, _)| *state == neighbour.state).map_or(0, |(_, bit)| *bit);
    message.raw(&[family(ip), 0, 0, 0]).raw(&link.0.to_ne_bytes()).raw(&state.to_ne_bytes());
    message.raw(&[if neighbour.router { NTF_ROUTER } else { 0 }, TYPE]);
    message.ip(NDA_DST, ip);
    if let Some(mac) = neighbour.mac {
        message.attribute(NDA_LLADDR, &mac.0);
    }
    message.u32(NDA_PROBES, 0);
    // `struct nda_cacheinfo`: confirmed, used, updated, in hundredths of a second ago; users.
    let age = now.saturating_duration_since(neighbour.updated).as_millis() / 10;
    let age = u32::try_from(age).unwrap_or(u32::MAX);
    let cache = [age, age, age, 0];
    message.attribute(NDA_CACHEINFO, &cache.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
    message.finish()
}
