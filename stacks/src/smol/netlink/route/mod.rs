//! NETLINK_ROUTE: interfaces, addresses, routes, neighbours (rtnetlink(7), net/core/rtnetlink.c).
//!
//! Types come in fours, NEW, DEL, GET, SET; a GET with any bit of NLM_F_DUMP lists. What changes anything needs
//! rights. What Linux has and a stack has not (rules to be changed, traffic control, next hop objects) is
//! refused with EOPNOTSUPP, as by a Linux without it.

mod address;
mod link;
mod misc;
mod neighbour;
mod newlink;
mod notice;
mod routes;

use std::net::IpAddr;

use nix::errno::Errno;

use super::World;
use super::reply::{Answer, Answered, Asked, Empty};
use crate::smol::tables::{IfIndex, Mode, Refused};

pub(super) use link::{change_flags, oper_state};
pub(super) use newlink::other;
pub use notice::notice;

/// RTM_NEWNETCONF
const RTM_NEWNETCONF: u16 = 80;
/// RTM_GETNETCONF
const RTM_GETNETCONF: u16 = 82;
/// RTM_GETMDB
const RTM_GETMDB: u16 = 86;
/// RTM_NEWNSID
const RTM_NEWNSID: u16 = 88;
/// RTM_GETNSID
const RTM_GETNSID: u16 = 90;
/// RTM_GETNEXTHOP
const RTM_GETNEXTHOP: u16 = 106;

/// NLM_F_BULK: delete all that match.
const NLM_F_BULK: i32 = 0x200;

pub(super) fn answer(asked: &Asked<'_>, world: &mut dyn World) -> Answered {
    let kind = asked.request.header.kind;
    // Without even a family there is nothing to do.
    if asked.request.payload.is_empty() {
        return Ok(Answer::Nothing);
    }
    // RTNL_KIND_GET is the third of four.
    let is_get = kind & 3 == 2;
    if !is_get && !asked.rights {
        return Err(Errno::EPERM.into());
    }
    // RTNL_KIND_DEL is the second.
    if kind & 3 == 1 && asked.request.header.has(NLM_F_BULK) {
        return Err(Refused::new(Errno::EOPNOTSUPP, "Bulk delete is not supported"));
    }
    if is_get && asked.is_dump() { list(asked, world) } else { one(asked, world) }
}

fn list(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let family = asked.request.payload[0];
    let bridge = i32::from(family) == libc::AF_BRIDGE;
    let list = match asked.request.header.kind {
        libc::RTM_GETLINK | libc::RTM_GETNEIGH if bridge => Ok(Answer::Dump(Box::new(Empty))),
        libc::RTM_GETLINK => link::list(asked, world),
        libc::RTM_GETADDR => address::list(asked, world),
        libc::RTM_GETROUTE => routes::list(asked, world),
        libc::RTM_GETNEIGH => neighbour::list(asked, world),
        libc::RTM_GETRULE => Ok(misc::rules(family)),
        libc::RTM_GETADDRLABEL => Ok(misc::labels()),
        libc::RTM_GETQDISC => Ok(misc::disciplines()),
        RTM_GETNETCONF => Ok(misc::configurations(family)),
        libc::RTM_GETTCLASS
        | libc::RTM_GETTFILTER
        | libc::RTM_GETNEIGHTBL
        | libc::RTM_GETANYCAST
        | RTM_GETMDB
        | RTM_GETNSID
        | RTM_GETNEXTHOP => Ok(Answer::Dump(Box::new(Empty))),
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    // A list that cannot be made ends before it begins.
    Ok(list.unwrap_or_else(Answer::DumpFailed))
}

fn one(asked: &Asked<'_>, world: &mut dyn World) -> Answered {
    let done = |()| Answer::Nothing;
    match asked.request.header.kind {
        libc::RTM_GETLINK => link::get(asked, world),
        libc::RTM_NEWLINK => link::new(asked, world.tables_mut()).map(done),
        libc::RTM_SETLINK => link::set(asked, world.tables_mut()).map(done),
        libc::RTM_DELLINK => link::delete(asked, world.tables_mut()).map(done),
        libc::RTM_NEWADDR => address::new(asked, world.tables_mut()).map(done),
        libc::RTM_DELADDR => address::delete(asked, world.tables_mut()).map(done),
        libc::RTM_GETROUTE => routes::get(asked, world),
        libc::RTM_NEWROUTE => routes::new(asked, world.tables_mut()).map(done),
        libc::RTM_DELROUTE => routes::delete(asked, world.tables_mut()).map(done),
        libc::RTM_GETNEIGH => neighbour::get(asked, world),
        libc::RTM_NEWNEIGH => neighbour::new(asked, world.tables_mut()).map(done),
        libc::RTM_DELNEIGH => neighbour::delete(asked, world.tables_mut()).map(done),
        RTM_GETNSID => Ok(misc::namespace_id(asked)),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

impl Mode {
    /// From NLM_F_*.
    fn of(asked: &Asked<'_>) -> Self {
        let header = asked.request.header;
        Self {
            create: header.has(libc::NLM_F_CREATE),
            exclusive: header.has(libc::NLM_F_EXCL),
            replace: header.has(libc::NLM_F_REPLACE),
            append: header.has(libc::NLM_F_APPEND),
        }
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// IPv4 or not, of a request that must be one of the two.
fn is_v4(family: u8) -> Result<bool, Refused> {
    match i32::from(family) {
        libc::AF_INET => Ok(true),
        libc::AF_INET6 => Ok(false),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// Whether a dump that asked for `family` wants an address of that kind; 0 wants both, and what Linux has no
/// list for is listed as 0.
fn wants(family: u8, ip: IpAddr) -> bool {
    match i32::from(family) {
        libc::AF_INET => ip.is_ipv4(),
        libc::AF_INET6 => ip.is_ipv6(),
        _ => true,
    }
}

/// Of an index field: 0 is none.
fn index(value: u32) -> Option<IfIndex> {
    (value != 0).then_some(IfIndex(value))
}

/// The fixed part of a request; EINVAL if it is shorter.
fn fixed<'a>(asked: &Asked<'a>, length: usize) -> Result<&'a [u8], Refused> {
    asked.request.payload.get(..length).ok_or(Refused { errno: Errno::EINVAL, why: "" })
}
