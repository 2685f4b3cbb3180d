//! Groups that we are in, and telling routers and switches of them (RFC 3376, RFC 3810).
//!
//! # Theory of operation
//! A member is an interface and a group, with what is wanted of it: all but some sources, or only some. What
//! sockets want together, they say by [`Net::set_group`]; the network layer itself wants the groups of its
//! addresses ([`Net::join`]). When that changes, the difference to what was last told is reported, at once and
//! once more within a second (robustness 2); further changes meanwhile join the same report, and a group that
//! was left is remembered until its leaving was told twice. Queries are answered after a random part of the
//! time they allow: a general one by one report of everything, a specific one for its group. While a querier
//! of an older version is about, its version is spoken (RFC 3376 clause 7, RFC 3810 clause 8).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::group_messages::{Query, Record, RecordKind};
use super::timers::Timer;
use super::{GroupFilter, Net};
use crate::smol::tables::{IfIndex, LinkKind};

/// Groups of a stack that its sockets are in, at most; a socket may have twenty (igmp_max_memberships).
const MAX_GROUPS: usize = 1024;
/// Sources of a filter, at most: what fits one report (mld_max_msf and igmp_max_msf are lower by default).
pub(super) const MAX_SOURCES: usize = 64;
/// How often a change is told (RFC 3376 clause 8.1).
const ROBUSTNESS: u8 = 2;
/// Between two tellings, at most (RFC 3376 clause 8.11).
const UNSOLICITED: Duration = Duration::from_secs(1);
/// How long an older querier is believed to be about (RFC 3376 clause 8.12).
const OLDER_QUERIER: Duration = Duration::from_secs(260);

/// What is wanted of a group on an interface.
#[derive(Debug)]
struct Member {
    /// The network layer itself wants it, this many times.
    own: u32,
    /// What sockets want.
    users: Option<GroupFilter>,
    /// What routers knew before the changes that are being told.
    told: GroupFilter,
    /// How often the change is still to be told.
    left: u8,
    /// Sources that a query asked about; none: about the group.
    asked: Vec<IpAddr>,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: FxHashMap<(IfIndex, IpAddr), Member>,
    /// Queriers of older versions: which, and until when.
    older: FxHashMap<(IfIndex, bool), (u8, Instant)>,
}

/// Wanting nothing: not being a member.
fn nothing() -> GroupFilter {
    GroupFilter { include: true, sources: Vec::new() }
}

/// Wanting everything.
fn everything() -> GroupFilter {
    GroupFilter { include: false, sources: Vec::new() }
}

impl Member {
    fn new() -> Self {
        Self { own: 0, users: None, told: nothing(), left: 0, asked: Vec::new() }
    }

    fn wants(&self) -> GroupFilter {
        match &self.users {
            _ if self.own > 0 => everything(),
            Some(filter) => filter.clone(),
            None => nothing(),
        }
    }

    fn is_joined(&self) -> bool {
        self.own > 0
            || self.users.as_ref().is_some_and(|filter| !filter.include || !filter.sources.is_empty())
    }
}

impl Groups {
    /// Do packets to `group` concern us on this interface?
    pub(super) fn is_member(&self, link: IfIndex, group: IpAddr) -> bool {
        is_everybodys(group) || self.members.get(&(link, group)).is_some_and(Member::is_joined)
    }

    /// The version of the querier on a link, if it is an older one.
    fn older(&self, now: Instant, link: IfIndex, v6: bool) -> Option<u8> {
        self.older.get(&(link, v6)).filter(|(_, until)| now < *until).map(|(version, _)| *version)
    }
}

/// Groups in which every host is, and which are never reported.
fn is_everybodys(group: IpAddr) -> bool {
    const NODES: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xFF01, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1)];
    match group {
        IpAddr::V4(group) => group == Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => NODES.contains(&group),
    }
}

/// Does anybody beyond this machine want to know? (RFC 3810 clause 6: not below link-local scope.)
fn is_reported(group: IpAddr) -> bool {
    match group {
        _ if is_everybodys(group) => false,
        IpAddr::V4(_) => true,
        IpAddr::V6(group) => group.octets()[1] & 0x0F >= 2,
    }
}

impl Net {
    /// What the sockets on an interface want of a group, all together; `None`: nothing any more. The last call
    /// holds, they are not counted.
    ///
    /// # Errors
    /// ENODEV for no such interface, EINVAL for what is no group, ENOBUFS for too many groups or sources.
    pub fn set_group(
        &mut self,
        now: Instant,
        link: IfIndex,
        group: IpAddr,
        sources: Option<&GroupFilter>,
    ) -> Result<(), Errno> {
        if !self.tables.links.contains_key(&link) {
            return Err(Errno::ENODEV);
        }
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let known = self.groups.members.contains_key(&(link, group));
        if !known && sources.is_none() {
            return Ok(());
        }
        if sources.is_some_and(|filter| filter.sources.len() > MAX_SOURCES)
            || (!known && self.groups.members.len() >= MAX_GROUPS)
        {
            return Err(Errno::ENOBUFS);
        }
        self.change(now, link, group, |member| member.users = sources.cloned());
        Ok(())
    }

    /// The network layer itself wants a group. Counted.
    pub fn join(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        self.change(now, link, group, |member| member.own += 1);
    }

    /// Groups that the network layer itself is in, and how often.
    pub(in crate::smol) fn own_groups(&self) -> impl Iterator<Item = (IfIndex, IpAddr, usize)> {
        let own = self.groups.members.iter().filter(|(_, member)| member.own > 0);
        own.map(|((link, group), member)| (*link, *group, member.own as usize))
    }

    /// The end of a [`Net::join`].
    pub(super) fn leave(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        if self.groups.members.contains_key(&(link, group)) {
            self.change(now, link, group, |member| member.own = member.own.saturating_sub(1));
        }
    }

    fn change(&mut self, now: Instant, link: IfIndex, group: IpAddr, change: impl FnOnce(&mut Member)) {
        let member = self.groups.members.entry((link, group)).or_insert_with(Member::new);
        let (before, was_joined) = (member.wants(), member.is_joined());
        change(member);
        let after = member.wants();
        let joined = member.is_joined();
        if was_joined != joined {
            // Cached paths know whether copies come back.
            self.generation += 1;
        }
        if before == after {
            return;
        }
        let ethernet = self.tables.links.get(&link).is_some_and(|link| link.kind != LinkKind::Loopback);
        if !is_reported(group) || !ethernet {
            if !joined {
                self.groups.members.remove(&(link, group));
            }
            return;
        }
        if let Some(member) = self.groups.members.get_mut(&(link, group)) {
            if member.left == 0 {
                member.told = before;
            }
            member.left = ROBUSTNESS;
        }
        self.timers.set(Timer::Report(link, group), now);
    }

    /// A link runs now: it is told everything anew.
    pub(super) fn report_all(&mut self, now: Instant, link: IfIndex) {
        for ((at, group), member) in &mut self.groups.members {
            if *at == link && is_reported(*group) && member.is_joined() {
                member.told = nothing();
                member.left = ROBUSTNESS;
                self.timers.set(Timer::Report(link, *group), now);
            }
        }
    }

    /// A link has gone.
    pub(super) fn forget_groups(&mut self, link: IfIndex) {
        for (_, group) in self.groups.members.keys().filter(|(at, _)| *at == link) {
            self.timers.clear(Timer::Report(link, *group));
            self.timers.clear(Timer::Answer(link, *group));
        }
        self.timers.clear(Timer::Answer(link, IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        self.timers.clear(Timer::Answer(link, IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        self.groups.members.retain(|(at, _), _| *at != link);
        self.groups.older.retain(|(at, _), _| *at != link);
    }

    /// It is time to tell a change.
    pub(super) fn report_due(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        let older = self.groups.older(now, link, group.is_ipv6());
        let Some(member) = self.groups.members.get_mut(&(link, group)) else { return };
        let records = difference(group, &member.told, &member.wants());
        member.left = member.left.saturating_sub(1);
        let (left, joined) = (member.left, member.is_joined());
        match older {
            Some(version) => self.send_older(link, group, joined, version, now),
            None => self.send_records(now, link, &records),
        }
        if left > 0 {
            let due = now + self.random.delay(UNSOLICITED);
            self.timers.set(Timer::Report(link, group), due);
        } else if !joined {
            self.timers.clear(Timer::Answer(link, group));
            self.groups.members.remove(&(link, group));
        }
    }

    /// A query arrived.
    pub(super) fn queried(&mut self, now: Instant, link: IfIndex, query: &Query) {
        let v6 = query.group.is_ipv6();
        if let Some(version) = query.older {
            // The oldest of them decides, whoever came last.
            let known = self.groups.older(now, link, v6).unwrap_or(version);
            self.groups.older.insert((link, v6), (version.min(known), now + OLDER_QUERIER));
        }
        let due = now + self.random.delay(query.within);
        let sooner = |timers: &mut super::timers::Timers, timer| {
            if timers.due(timer).is_none_or(|already| due < already) {
                timers.set(timer, due);
            }
        };
        if query.group.is_unspecified() {
            sooner(&mut self.timers, Timer::Answer(link, query.group));
            return;
        }
        let timer = Timer::Answer(link, query.group);
        let pending = self.timers.due(timer).is_some();
        let Some(member) = self.groups.members.get_mut(&(link, query.group)) else { return };
        if !member.is_joined() || !is_reported(query.group) {
            return;
        }
        if query.sources.is_empty() || (pending && member.asked.is_empty()) {
            member.asked.clear();
        } else {
            member.asked.extend(query.sources.iter().take(MAX_SOURCES));
            member.asked.sort_unstable();
            member.asked.dedup();
            member.asked.truncate(MAX_SOURCES);
        }
        sooner(&mut self.timers, timer);
    }

    /// Another member of the group told an older querier: once is enough (RFC 2236 clause 3).
    pub(super) fn overheard(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        if self.groups.older(now, link, group.is_ipv6()).is_some() {
            self.timers.clear(Timer::Answer(link, group));
        }
    }

    /// It is time to answer a query.
    pub(super) fn answer_due(&mut self, now: Instant, link: IfIndex, group: IpAddr) {
        let v6 = group.is_ipv6();
        let all = group.is_unspecified();
        let concerned = |at: &IfIndex, member: &IpAddr| {
            *at == link && member.is_ipv6() == v6 && (all || *member == group) && is_reported(*member)
        };
        let older = self.groups.older(now, link, v6);
        let mut records = Vec::new();
        for ((at, group), member) in &mut self.groups.members {
            if concerned(at, group) && member.is_joined() {
                records.extend(state(*group, &member.wants(), &std::mem::take(&mut member.asked)));
            }
        }
        match older {
            Some(version) => {
                for record in records {
                    self.send_older(link, record.group, true, version, now);
                }
            }
            None => self.send_records(now, link, &records),
        }
    }
}

/// What tells a router that `old` became `new` (RFC 3376 clause 5.1).
fn difference(group: IpAddr, old: &GroupFilter, new: &GroupFilter) -> Vec<Record> {
    let record = |kind, sources| Record { kind, group, sources };
    if old.include != new.include {
        let kind = if new.include { RecordKind::ToInclude } else { RecordKind::ToExclude };
        return vec![record(kind, new.sources.clone())];
    }
    let (more, less) = (without(&new.sources, &old.sources), without(&old.sources, &new.sources));
    let (allow, block) = if new.include { (more, less) } else { (less, more) };
    let both = [record(RecordKind::Allow, allow), record(RecordKind::Block, block)];
    both.into_iter().filter(|record| !record.sources.is_empty()).collect()
}

/// What answers a query about a group, or about some sources of it (RFC 3376 clause 5.2).
fn state(group: IpAddr, wants: &GroupFilter, asked: &[IpAddr]) -> Option<Record> {
    if asked.is_empty() {
        let kind = if wants.include { RecordKind::IsInclude } else { RecordKind::IsExclude };
        return Some(Record { kind, group, sources: wants.sources.clone() });
    }
    let wanted = |source: &&IpAddr| wants.sources.contains(source) == wants.include;
    let sources: Vec<_> = asked.iter().filter(wanted).copied().collect();
    (!sources.is_empty()).then_some(Record { kind: RecordKind::IsInclude, group, sources })
}

fn without(all: &[IpAddr], some: &[IpAddr]) -> Vec<IpAddr> {
    all.iter().filter(|source| !some.contains(source)).copied().collect()
}
