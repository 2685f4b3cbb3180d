//! Groups that sockets are members of.
//!
//! # Theory of operation
//! A membership is a socket's own: group, interface, and which sources it wants (INCLUDE) or does not want
//! (EXCLUDE). An interface listens to what all sockets together want of it (RFC 3376 clause 3.2, RFC 3810
//! clause 4.2): EXCLUDE the sources that nobody wants if any socket excludes, else INCLUDE the union. Read:
//! ip(7), net/ipv4/igmp.c (ip_mc_source, ip_mc_sf_allow), net/ipv6/mcast.c.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::Socket;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::GroupFilter;
use crate::smol::tables::IfIndex;

/// net.ipv4.igmp_max_memberships; IPv6 is bounded by net.core.optmem_max, which is more than twice as much.
const MAX_MEMBERSHIPS: usize = 20;
const MAX_MEMBERSHIPS_V6: usize = 64;
/// net.ipv4.igmp_max_msf, net.ipv6.mld_max_msf
pub(crate) const MAX_SOURCES: usize = 10;
pub(crate) const MAX_SOURCES_V6: usize = 64;

/// One membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) group: IpAddr,
    pub(crate) link: IfIndex,
    pub(crate) include: bool,
    pub(crate) sources: Vec<IpAddr>,
}

/// A socket's memberships.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups(pub(crate) Vec<Membership>);

/// What to do with one source of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceChange {
    /// IP_BLOCK_SOURCE
    Block,
    /// IP_UNBLOCK_SOURCE
    Unblock,
    /// IP_ADD_SOURCE_MEMBERSHIP
    Join,
    /// IP_DROP_SOURCE_MEMBERSHIP
    Leave,
}

impl Groups {
    fn position(&self, group: IpAddr, link: IfIndex) -> Option<usize> {
        self.0.iter().position(|m| m.group == group && m.link == link)
    }
}

impl Socket {
    /// Whether it takes packets of a group from a source (ip_mc_sf_allow).
    pub(crate) fn takes_group(&self, link: IfIndex, group: IpAddr, source: IpAddr) -> bool {
        let all = if group.is_ipv4() { self.options.ip.group_all } else { self.options.ip6.group_all };
        let Some(groups) = &self.options.groups else { return all };
        match groups.position(group, link) {
            None => all,
            Some(at) => {
                let membership = &groups.0[at];
                membership.include == membership.sources.contains(&source)
            }
        }
    }

    fn memberships(&mut self) -> &mut Groups {
        self.options_mut().groups.get_or_insert_default()
    }
}

impl Engine {
    /// Joins. EINVAL (no group), ENODEV, EADDRINUSE, ENOBUFS.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        id: SocketId,
        group: IpAddr,
        link: IfIndex,
    ) -> Result<(), Errno> {
        self.check_group(group, link)?;
        let most = if group.is_ipv4() { MAX_MEMBERSHIPS } else { MAX_MEMBERSHIPS_V6 };
        let groups = self.sockets.get_mut(id).ok_or(Errno::EBADF)?.memberships();
        if groups.position(group, link).is_some() {
            return Err(Errno::EADDRINUSE);
        }
        if groups.0.len() >= most {
            return Err(Errno::ENOBUFS);
        }
        groups.0.push(Membership { group, link, include: false, sources: Vec::new() });
        self.listen_to(now, id, group, link)
    }

    /// Leaves. EADDRNOTAVAIL.
    pub(crate) fn leave(
        &mut self,
        now: Instant,
        id: SocketId,
        group: IpAddr,
        link: Option<IfIndex>,
    ) -> Result<(), Errno> {
        let groups = self.sockets.get_mut(id).ok_or(Errno::EBADF)?.memberships();
        let fits = |m: &Membership| m.group == group && link.is_none_or(|link| link == m.link);
        let at = groups.0.iter().position(fits).ok_or(Errno::EADDRNOTAVAIL)?;
        let link = groups.0.remove(at).link;
        self.listen_to(now, id, group, link)
    }

    /// Changes what a socket wants of a group, a source at a time (ip_mc_source).
    pub(crate) fn change_source(
        &mut self,
        now: Instant,
        id: SocketId,
        (group, link): (IpAddr, IfIndex),
        source: IpAddr,
        change: SourceChange,
    ) -> Result<(), Errno> {
        self.check_group(group, link)?;
        let most = if group.is_ipv4() { MAX_SOURCES } else { MAX_SOURCES_V6 };
        let groups = self.sockets.get_mut(id).ok_or(Errno::EBADF)?.memberships();
        let add = matches!(change, SourceChange::Block | SourceChange::Join);
        let include = matches!(change, SourceChange::Join | SourceChange::Leave);
        let Some(at) = groups.position(group, link) else {
            if change != SourceChange::Join {
                return Err(Errno::EINVAL);
            }
            groups.0.push(Membership { group, link, include: true, sources: vec![source] });
            return self.listen_to(now, id, group, link);
        };
        let membership = &mut groups.0[at];
        if membership.include != include {
            if !membership.sources.is_empty() || membership.include {
                return Err(Errno::EINVAL);
            }
            membership.include = include;
        }
        match membership.sources.iter().position(|s| *s == source) {
            Some(_) if add => return Err(Errno::EADDRNOTAVAIL),
            None if !add => return Err(Errno::EADDRNOTAVAIL),
            None if membership.sources.len() >= most => return Err(Errno::ENOBUFS),
            None => membership.sources.push(source),
            Some(at) => {
                membership.sources.remove(at);
            }
        }
        if membership.include && membership.sources.is_empty() {
            groups.0.remove(at);
        }
        self.listen_to(now, id, group, link)
    }

    /// Sets what a socket wants of a group at once (IP_MSFILTER). EINVAL if it is no member.
    pub(crate) fn set_sources(
        &mut self,
        now: Instant,
        id: SocketId,
        (group, link): (IpAddr, IfIndex),
        include: bool,
        sources: Vec<IpAddr>,
    ) -> Result<(), Errno> {
        let most = if group.is_ipv4() { MAX_SOURCES } else { MAX_SOURCES_V6 };
        if sources.len() > most {
            return Err(Errno::ENOBUFS);
        }
        let groups = self.sockets.get_mut(id).ok_or(Errno::EBADF)?.memberships();
        let at = groups.position(group, link);
        if include && sources.is_empty() {
            let at = at.ok_or(Errno::EINVAL)?;
            groups.0.remove(at);
        } else {
            let membership = &mut groups.0[at.ok_or(Errno::EINVAL)?];
            (membership.include, membership.sources) = (include, sources);
        }
        self.listen_to(now, id, group, link)
    }

    /// A socket goes: so do its memberships.
    pub(crate) fn leave_groups(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.options.groups.is_none() {
            return;
        }
        let groups = socket.options_mut().groups.take().unwrap_or_default();
        for membership in groups.0 {
            // The interface may have gone before the socket.
            let _ = self.listen_to(now, id, membership.group, membership.link);
        }
    }

    fn check_group(&self, group: IpAddr, link: IfIndex) -> Result<(), Errno> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        self.net.tables.links.get(&link).map(|_| ()).ok_or(Errno::ENODEV)
    }

    /// The interface for a group that nobody named: by the address given, or by the route.
    pub(crate) fn group_interface(
        &self,
        id: SocketId,
        group: IpAddr,
        own: Option<IpAddr>,
    ) -> Result<IfIndex, Errno> {
        if let Some(own) = own.filter(|own| !own.is_unspecified()) {
            let address = self.net.tables.addresses.iter().find(|a| a.net.addr() == own);
            return address.map(|a| a.link).ok_or(Errno::ENODEV);
        }
        let device = self.sockets.get(id).and_then(|socket| socket.options.device);
        let wish = crate::smol::net::Wish { link: device, ..Default::default() };
        self.net.route(group, &wish).map(|path| path.link).map_err(|_| Errno::ENODEV)
    }

    /// Tells the network layer what all sockets together want of a group after `id` changed its mind.
    fn listen_to(&mut self, now: Instant, id: SocketId, group: IpAddr, link: IfIndex) -> Result<(), Errno> {
        let member = self
            .sockets
            .get(id)
            .and_then(|socket| socket.options.groups.as_ref())
            .is_some_and(|groups| groups.position(group, link).is_some());
        let members = self.groups.entry((link, group)).or_default();
        if member {
            members.insert(id);
        } else {
            members.remove(&id);
        }
        let wants: Vec<Membership> = members
            .iter()
            .filter_map(|id| {
                let groups = self.sockets.get(*id)?.options.groups.as_ref()?;
                groups.position(group, link).map(|at| groups.0[at].clone())
            })
            .collect();
        if wants.is_empty() {
            self.groups.remove(&(link, group));
            return self.net.set_group(now, link, group, None);
        }
        self.net.set_group(now, link, group, Some(&together(&wants)))
    }
}

/// What several memberships want together.
fn together(wants: &[Membership]) -> GroupFilter {
    let included: BTreeSet<IpAddr> =
        wants.iter().filter(|m| m.include).flat_map(|m| m.sources.iter().copied()).collect();
    let mut excluding = wants.iter().filter(|m| !m.include);
    let Some(first) = excluding.next() else {
        return GroupFilter { include: true, sources: included.into_iter().collect() };
    };
    let mut excluded: BTreeSet<IpAddr> = first.sources.iter().copied().collect();
    for other in excluding {
        excluded.retain(|source| other.sources.contains(source));
    }
    let sources = excluded.difference(&included).copied().collect();
    GroupFilter { include: false, sources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_3376_clause_3_2() {
        let group: IpAddr = "232.1.1.1".parse().unwrap();
        let source = |n: u8| IpAddr::from([10, 0, 0, n]);
        let want = |include, sources: &[u8]| Membership {
            group,
            link: IfIndex(2),
            include,
            sources: sources.iter().copied().map(source).collect(),
        };
        let all = together(&[want(false, &[1, 2, 3, 4]), want(false, &[2, 3, 4, 5]), want(true, &[4, 5, 6])]);
        assert_eq!(all, GroupFilter { include: false, sources: vec![source(2), source(3)] });
        let some = together(&[want(true, &[1]), want(true, &[2, 1])]);
        assert_eq!(some, GroupFilter { include: true, sources: vec![source(1), source(2)] });
    }
}
