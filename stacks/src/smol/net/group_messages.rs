//! Messages of group management: IGMPv1 to v3 and MLDv1 and v2, in and out.
//!
//! # Theory of operation
//! Both protocols say the same in different formats: a report is a list of [`Record`]s, an older version's is
//! one group. IGMP travels with the router alert option and TTL 1, MLD with the hop-by-hop router alert, hop limit
//! 1 and a link-local source, or none while there is none (RFC 3590).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::neighbours::Origin;
use super::output::Way;
use super::upper::IGMP;
use super::{Net, Packet};
use crate::smol::tables::IfIndex;

/// What a record says (RFC 3376 clause 4.2.12; MLDv2's numbers are the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    IsInclude = 1,
    IsExclude = 2,
    ToInclude = 3,
    ToExclude = 4,
    Allow = 5,
    Block = 6,
}

/// One group in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: RecordKind,
    pub(super) group: IpAddr,
    pub(super) sources: Vec<IpAddr>,
}

/// A question which groups are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Unspecified: all.
    pub(super) group: IpAddr,
    /// Empty: the group as such.
    pub(super) sources: Vec<IpAddr>,
    /// Time to answer.
    pub(super) within: Duration,
    /// The version of a querier that knows no records.
    pub(super) older: Option<u8>,
}

/// Router alert (RFC 2113) as an IPv4 option.
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
/// Router alert for MLD (RFC 2711) with padding, as a hop-by-hop header before ICMPv6.
const ALERT_V6: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
/// Bytes of records in one report: fits every Ethernet with all headers.
const MAX_RECORDS: usize = 1400;

/// IGMP types.
const QUERY: u8 = 0x11;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const LEAVE: u8 = 0x17;
const REPORT_V3: u8 = 0x22;
/// MLD types.
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

impl Net {
    pub(super) fn igmp_input(&mut self, now: Instant, packet: &Packet<'_>) {
        let message = &*packet.payload;
        if packet.mac.is_none() || message.len() < 8 || fold(sum(message)) != 0xFFFF {
            return;
        }
        match message[0] {
            QUERY => {
                if let Some(query) = query_v4(message) {
                    self.queried(now, packet.link, &query);
                }
            }
            REPORT_V1 | REPORT_V2 => self.overheard(now, packet.link, v4(&message[4..8])),
            _ => {}
        }
    }

    /// ICMPv6 has checked its sum.
    pub(super) fn mld_input(&mut self, now: Instant, packet: &Packet<'_>) {
        let near = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
        if packet.mac.is_none() || !near || packet.ttl != 1 || packet.payload.len() < 24 {
            return;
        }
        match packet.payload[0] {
            MLD_QUERY => {
                if let Some(query) = query_v6(&packet.payload) {
                    self.queried(now, packet.link, &query);
                }
            }
            MLD_REPORT => self.overheard(now, packet.link, v6(&packet.payload[8..24])),
            _ => {}
        }
    }

    /// Reports of version 3 (IGMP) or 2 (MLD), as many as are needed. All records are of one family.
    pub(super) fn send_records(&mut self, now: Instant, link: IfIndex, records: &[Record]) {
        let Some(v6) = records.first().map(|record| record.group.is_ipv6()) else { return };
        let mut message = Vec::new();
        let mut count = 0u16;
        for record in records {
            let bytes = record.to_bytes();
            if count > 0 && message.len() + bytes.len() > MAX_RECORDS {
                self.send_report(now, link, v6, &std::mem::take(&mut message), count);
                count = 0;
            }
            message.extend(bytes);
            count += 1;
        }
        self.send_report(now, link, v6, &message, count);
    }

    fn send_report(&mut self, now: Instant, link: IfIndex, v6: bool, records: &[u8], count: u16) {
        const ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
        const ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 0x16);
        let mut message = vec![if v6 { MLD_REPORT_V2 } else { REPORT_V3 }, 0, 0, 0, 0, 0];
        message.extend(count.to_be_bytes());
        message.extend(records);
        if v6 {
            self.send_mld(now, link, ROUTERS_V6, &mut message);
        } else {
            self.send_igmp(now, link, ROUTERS_V4, &mut message);
        }
    }

    /// A report or leave of an older version.
    pub(super) fn send_older(
        &mut self,
        link: IfIndex,
        group: IpAddr,
        joined: bool,
        version: u8,
        now: Instant,
    ) {
        match group {
            IpAddr::V4(group) => {
                let (kind, to) = match (joined, version) {
                    (true, 1) => (REPORT_V1, group),
                    (true, _) => (REPORT_V2, group),
                    (false, 1) => return,
                    (false, _) => (LEAVE, Ipv4Addr::new(224, 0, 0, 2)),
                };
                let [a, b, c, d] = group.octets();
                self.send_igmp(now, link, to, &mut [kind, 0, 0, 0, a, b, c, d]);
            }
            IpAddr::V6(group) => {
                let routers = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);
                let (kind, to) = if joined { (MLD_REPORT, group) } else { (MLD_DONE, routers) };
                let mut message = [0; 24];
                message[0] = kind;
                message[8..].copy_from_slice(&group.octets());
                self.send_mld(now, link, to, &mut message);
            }
        }
    }

    fn send_igmp(&mut self, now: Instant, link: IfIndex, to: Ipv4Addr, message: &mut [u8]) {
        if self.arena.is_full() {
            return;
        }
        message[2..4].fill(0);
        let value = !fold(sum(message));
        message[2..4].copy_from_slice(&value.to_be_bytes());
        let source = self.select_v4(link, None, libc::RT_SCOPE_LINK).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let total = (24 + message.len()) as u16;
        let mut head = [0x46, 0xC0, 0, 0, 0, 0, 0x40, 0, 1, IGMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        head[2..4].copy_from_slice(&total.to_be_bytes());
        head[12..16].copy_from_slice(&source.octets());
        head[16..20].copy_from_slice(&to.octets());
        head[20..].copy_from_slice(&ALERT_V4);
        let value = !fold(sum(&head));
        head[10..12].copy_from_slice(&value.to_be_bytes());
        let at = self.arena.write(&[&head, message]);
        let way = Way { link, next_hop: IpAddr::V4(to), group: true };
        let _ = self.send_packet(now, way, at, VnetHdr::default(), Origin::Ours);
    }

    fn send_mld(&mut self, now: Instant, link: IfIndex, to: Ipv6Addr, message: &mut [u8]) {
        let source = self.link_local(link).unwrap_or(Ipv6Addr::UNSPECIFIED);
        self.send_control_v6(now, link, None, (source, to), 1, &ALERT_V6, message);
    }
}

impl Record {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8, 0];
        bytes.extend((self.sources.len() as u16).to_be_bytes());
        for address in [self.group].iter().chain(&self.sources) {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 4];
    octets.copy_from_slice(bytes);
    IpAddr::from(octets)
}

fn v6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    IpAddr::from(octets)
}

/// A number with an exponent, for long times (RFC 3376 clause 4.1.1).
fn float(code: u32, mantissa: u32) -> u64 {
    let top = 1 << (mantissa + 3);
    if code < top {
        return u64::from(code);
    }
    let exponent = (code >> mantissa) & 7;
    u64::from((code & ((1 << mantissa) - 1)) | (1 << mantissa)) << (exponent + 3)
}

fn query_v4(message: &[u8]) -> Option<Query> {
    let group = v4(&message[4..8]);
    let tenths = |n: u64| Duration::from_millis(n * 100);
    let (within, older, sources) = match message.len() {
        8 if message[1] == 0 => (tenths(100), Some(1), Vec::new()),
        8 => (tenths(u64::from(message[1])), Some(2), Vec::new()),
        12.. => {
            let count = usize::from(u16::from_be_bytes([message[10], message[11]]));
            let sources = message.get(12..12 + count * 4)?.chunks(4).map(v4).collect();
            (tenths(float(u32::from(message[1]), 4)), None, sources)
        }
        _ => return None,
    };
    (group.is_unspecified() || group.is_multicast()).then_some(Query { group, sources, within, older })
}

fn query_v6(message: &[u8]) -> Option<Query> {
    let group = v6(&message[8..24]);
    let code = u32::from(u16::from_be_bytes([message[4], message[5]]));
    let (within, older, sources) = match message.len() {
        24 => (u64::from(code), Some(1), Vec::new()),
        28.. => {
            let count = usize::from(u16::from_be_bytes([message[26], message[27]]));
            let sources = message.get(28..28 + count * 16)?.chunks(16).map(v6).collect();
            (float(code, 12), None, sources)
        }
        _ => return None,
    };
    let within = Duration::from_millis(within);
    (group.is_unspecified() || group.is_multicast()).then_some(Query { group, sources, within, older })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_have_an_exponent() {
        assert_eq!([float(0x7F, 4), float(0x80, 4), float(0xFF, 4)], [127, 128, 31 << 10]);
        assert_eq!([float(0x7FFF, 12), float(0x8000, 12)], [0x7FFF, 0x1000 << 3]);
    }

    #[test]
    fn a_querys_length_tells_its_version() {
        let of = |bytes: &[u8]| query_v4(bytes).map(|query| (query.older, query.within.as_millis()));
        assert_eq!(of(&[0x11, 0, 0, 0, 0, 0, 0, 0]), Some((Some(1), 10_000)));
        assert_eq!(of(&[0x11, 5, 0, 0, 0, 0, 0, 0]), Some((Some(2), 500)));
        assert_eq!(of(&[0x11, 5, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), Some((None, 500)));
        assert_eq!(of(&[0x11, 5, 0, 0, 0, 0, 0, 0, 2, 125, 0, 1]), None, "a source is missing");
        assert_eq!(of(&[0x11, 5, 0, 0, 10, 0, 0, 1]), None, "no group");
    }
}
