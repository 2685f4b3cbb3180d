//! `struct cmsghdr` in and out.
//!
//! # Theory of operation
//! Layout: the machine's 64-bit one, cmsg(3): a length of eight bytes, level and type of four, data, all
//! aligned to eight. [`Control`] puts records behind each other as far as there is room, and cuts the last one
//! as Linux does (net/core/scm.c, put_cmsg). What a socket wants to know of a datagram is in ip(7) and
//! ipv6(7): IP_PKTINFO and its relatives (net/ipv4/ip_sockglue.c, ip_cmsg_recv_offset; net/ipv6/datagram.c).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::address::{Domain, Endpoint, emit, parse_in, parse_in6};
use super::options::Stamp;
use super::options::ip::wants as ip_wants;
use super::options::ipv6::wants as ip6_wants;
use super::queue::{Item, Sender};
use super::{Body, Socket};
use crate::smol::tables::{IfIndex, Tables};

/// Bytes of a header.
const HEADER: usize = 16;
/// UDP_SEGMENT
pub(crate) const UDP_SEGMENT: i32 = 103;
/// UDP_GRO
pub(crate) const UDP_GRO: i32 = 104;
/// SCM_TXTIME: accepted, and the datagram leaves at once.
const SCM_TXTIME: i32 = 61;
/// IPV6_2292PKTINFO and IPV6_2292HOPLIMIT.
const IPV6_2292PKTINFO: i32 = 2;
const IPV6_2292HOPLIMIT: i32 = 8;
/// SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE: stamp what arrives, and tell.
const STAMP_RECEIVED: i32 = 8 | 16;
/// IP_RECVFRAGSIZE and IP_CHECKSUM are not told: datagrams are whole, and their sums are not kept.
const SOL_UDP: i32 = libc::IPPROTO_UDP;

/// Records for a program.
#[derive(Debug)]
pub(crate) struct Control<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
    /// Something did not fit (MSG_CTRUNC).
    pub(crate) truncated: bool,
}

impl<'a> Control<'a> {
    /// Records go to `out`, at most `room` bytes.
    pub(crate) fn new(out: &'a mut Vec<u8>, room: usize) -> Self {
        out.clear();
        Self { out, room, truncated: false }
    }

    /// Adds a record.
    pub(crate) fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.room - self.out.len().min(self.room);
        if left < HEADER {
            self.truncated = true;
            return;
        }
        let mut length = HEADER + data.len();
        if length > left {
            self.truncated = true;
            length = left;
        }
        self.out.extend_from_slice(&(length as u64).to_ne_bytes());
        self.out.extend_from_slice(&level.to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(&data[..length - HEADER]);
        let end = self.out.len().next_multiple_of(8).min(self.room);
        self.out.resize(end, 0);
    }
}

/// A record of a program.
pub(crate) struct Record<'a> {
    pub(crate) level: i32,
    pub(crate) kind: i32,
    pub(crate) data: &'a [u8],
}

/// The records in a program's bytes. EINVAL where a length makes no sense.
pub(crate) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Errno>> {
    std::iter::from_fn(move || {
        if bytes.len() < HEADER {
            return None;
        }
        let length = u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < HEADER || length > bytes.len() {
            bytes = &[];
            return Some(Err(Errno::EINVAL));
        }
        let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let record = Record { level: word(8), kind: word(12), data: &bytes[HEADER..length] };
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or(&[]);
        Some(Ok(record))
    })
}

/// What a program asks of one datagram, over the socket's options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) source: Option<IpAddr>,
    pub(crate) link: Option<IfIndex>,
    pub(crate) ttl: Option<u8>,
    pub(crate) tos: Option<u8>,
    pub(crate) segment: Option<u16>,
    pub(crate) dont_fragment: Option<bool>,
}

fn int(data: &[u8]) -> Result<i32, Errno> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// Reads a program's ancillary data. EINVAL for what makes no sense or is not known.
pub(crate) fn parse(bytes: &[u8], domain: Domain) -> Result<Wishes, Errno> {
    let mut wishes = Wishes::default();
    for record in records(bytes) {
        let Record { level, kind, data } = record?;
        match (level, kind) {
            (SOL_UDP, UDP_SEGMENT) => {
                let size = data.first_chunk().filter(|_| data.len() == 2).ok_or(Errno::EINVAL)?;
                wishes.segment = Some(u16::from_ne_bytes(*size));
            }
            (libc::SOL_SOCKET, libc::SO_MARK | libc::SO_PRIORITY | libc::SO_TIMESTAMPING) => {
                int(data)?;
            }
            (libc::SOL_SOCKET, SCM_TXTIME) if data.len() == 8 => {}
            (libc::SOL_SOCKET, libc::SCM_RIGHTS | libc::SCM_CREDENTIALS) => {}
            (libc::SOL_SOCKET, _) => return Err(Errno::EINVAL),
            (libc::IPPROTO_IP, _) => parse_ip(kind, data, &mut wishes)?,
            (libc::IPPROTO_IPV6, _) if domain == Domain::V6 => parse_ipv6(kind, data, &mut wishes)?,
            _ => {}
        }
    }
    Ok(wishes)
}

fn parse_ip(kind: i32, data: &[u8], wishes: &mut Wishes) -> Result<(), Errno> {
    match kind {
        libc::IP_PKTINFO => {
            let b: &[u8; 12] = data.first_chunk().filter(|_| data.len() == 12).ok_or(Errno::EINVAL)?;
            set_info(wishes, i32::from_ne_bytes([b[0], b[1], b[2], b[3]]), [b[4], b[5], b[6], b[7]].into());
        }
        libc::IP_TTL => match int(data)? {
            ttl @ 1..=255 => wishes.ttl = Some(ttl as u8),
            _ => return Err(Errno::EINVAL),
        },
        libc::IP_TOS => match data {
            [tos] => wishes.tos = Some(*tos),
            _ => wishes.tos = Some(u8::try_from(int(data)?).map_err(|_| Errno::EINVAL)?),
        },
        libc::IP_RETOPTS => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn parse_ipv6(kind: i32, data: &[u8], wishes: &mut Wishes) -> Result<(), Errno> {
    match kind {
        libc::IPV6_PKTINFO | IPV6_2292PKTINFO => {
            let b: &[u8; 20] = data.first_chunk().ok_or(Errno::EINVAL)?;
            let octets: [u8; 16] = b[..16].try_into().expect("sixteen bytes");
            let link = i32::from_ne_bytes([b[16], b[17], b[18], b[19]]);
            set_info(wishes, link, IpAddr::from(octets).to_canonical());
        }
        libc::IPV6_HOPLIMIT | IPV6_2292HOPLIMIT => match int(data)? {
            -1 => wishes.ttl = None,
            hops @ 0..=255 if data.len() == 4 => wishes.ttl = Some(hops as u8),
            _ => return Err(Errno::EINVAL),
        },
        libc::IPV6_TCLASS => match int(data)? {
            -1 => wishes.tos = None,
            class @ 0..=255 if data.len() == 4 => wishes.tos = Some(class as u8),
            _ => return Err(Errno::EINVAL),
        },
        libc::IPV6_DONTFRAG => match int(data)? {
            flag @ 0..=1 => wishes.dont_fragment = Some(flag == 1),
            _ => return Err(Errno::EINVAL),
        },
        // Extension headers of one datagram are left out.
        libc::IPV6_HOPOPTS | libc::IPV6_DSTOPTS | libc::IPV6_RTHDR | libc::IPV6_FLOWINFO => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn set_info(wishes: &mut Wishes, link: i32, source: IpAddr) {
    wishes.link = u32::try_from(link).ok().filter(|n| *n != 0).map(IfIndex);
    wishes.source = Some(source).filter(|source| !source.is_unspecified());
}

/// What the clock said when a datagram came.
pub(crate) fn realtime(at: Instant, origin: Instant, realtime: Duration) -> Duration {
    match at.checked_duration_since(origin) {
        Some(since) => realtime + since,
        None => realtime.saturating_sub(origin.duration_since(at)),
    }
}

/// Whether a socket wants to know anything of its datagrams.
pub(crate) fn describes(socket: &Socket) -> bool {
    let options = &socket.options;
    let counts = options.overflow_count || options.receive_mark;
    let coalesced = matches!(&socket.body, Body::Datagram(datagrams) if datagrams.coalesced);
    let stamps = options.stamp != Stamp::Off || options.stamping != 0;
    counts || coalesced || stamps || options.ip.wants != 0 || options.ip6.wants != 0
}

/// Puts what a socket wants to know of a datagram.
pub(crate) fn describe(
    control: &mut Control<'_>,
    socket: &Socket,
    item: &Item,
    when: Duration,
    tables: &Tables,
    dropped: u64,
) {
    let options = &socket.options;
    stamp(control, (options.stamp, options.stamping), when);
    if options.overflow_count && dropped > 0 {
        control.put(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &(dropped as u32).to_ne_bytes());
    }
    if options.receive_mark {
        control.put(libc::SOL_SOCKET, libc::SO_MARK, &0u32.to_ne_bytes());
    }
    if item.segment != 0 {
        control.put(SOL_UDP, UDP_GRO, &i32::from(item.segment).to_ne_bytes());
    }
    if let Sender::Inet(from) = &item.from {
        if item.to.is_ipv4() {
            describe_v4(control, socket, item, tables);
        }
        if socket.domain == Domain::V6 {
            describe_v6(control, socket, item, from);
        }
    }
}

/// SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING, as the first two and the third say.
pub(crate) fn stamp(control: &mut Control<'_>, (wish, stamping): (Stamp, i32), when: Duration) {
    let (seconds, nanos) = (when.as_secs() as i64, i64::from(when.subsec_nanos()));
    let stamp = |fraction: i64| [seconds.to_ne_bytes(), fraction.to_ne_bytes()].concat();
    match wish {
        Stamp::Off => {}
        Stamp::Micro(kind) => control.put(libc::SOL_SOCKET, kind, &stamp(nanos / 1000)),
        Stamp::Nano(kind) => control.put(libc::SOL_SOCKET, kind, &stamp(nanos)),
    }
    if stamping & STAMP_RECEIVED == STAMP_RECEIVED {
        // Software's, and two of hardware that does not stamp.
        control.put(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &[stamp(nanos), vec![0; 32]].concat());
    }
}

fn describe_v4(control: &mut Control<'_>, socket: &Socket, item: &Item, tables: &Tables) {
    let wants = socket.options.ip.wants;
    let IpAddr::V4(to) = item.to else { return };
    if wants & ip_wants::PKTINFO != 0 {
        // ipi_spec_dst is an address of ours: for a group, the one answers would come from.
        let own = tables.addresses_of(item.link).find_map(|address| match address.net.addr() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        let group = to.is_multicast() || tables.addresses.iter().any(|a| a.broadcast == Some(item.to));
        let specific = if group { own.unwrap_or(to) } else { to };
        let mut info = [0; 12];
        info[..4].copy_from_slice(&item.link.0.to_ne_bytes());
        info[4..8].copy_from_slice(&specific.octets());
        info[8..].copy_from_slice(&to.octets());
        control.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
    }
    if wants & ip_wants::TTL != 0 {
        control.put(libc::IPPROTO_IP, libc::IP_TTL, &i32::from(item.ttl).to_ne_bytes());
    }
    if wants & ip_wants::TOS != 0 {
        control.put(libc::IPPROTO_IP, libc::IP_TOS, &[item.tos]);
    }
    if wants & ip_wants::ORIGDSTADDR != 0 {
        let to = emit(Domain::V4, &Endpoint::new(item.to, item.to_port));
        control.put(libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, &to);
    }
}

fn describe_v6(control: &mut Control<'_>, socket: &Socket, item: &Item, from: &Endpoint) {
    let wants = socket.options.ip6.wants;
    let v6 = match item.to {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let info = || [&v6.octets()[..], &item.link.0.to_ne_bytes()].concat();
    if wants & ip6_wants::PKTINFO != 0 {
        control.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info());
    }
    if wants & ip6_wants::OLD_PKTINFO != 0 {
        control.put(libc::IPPROTO_IPV6, IPV6_2292PKTINFO, &info());
    }
    if item.to.is_ipv4() {
        return;
    }
    let int = |n: u8| i32::from(n).to_ne_bytes();
    if wants & ip6_wants::HOPLIMIT != 0 {
        control.put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &int(item.ttl));
    }
    if wants & ip6_wants::TCLASS != 0 {
        control.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &int(item.tos));
    }
    if wants & ip6_wants::FLOWINFO != 0 && item.flow != 0 {
        control.put(libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO, &item.flow.to_be_bytes());
    }
    if wants & ip6_wants::OLD_HOPLIMIT != 0 {
        control.put(libc::IPPROTO_IPV6, IPV6_2292HOPLIMIT, &int(item.ttl));
    }
    if wants & ip6_wants::ORIGDSTADDR != 0 {
        let to = Endpoint { scope: from.scope, ..Endpoint::new(item.to, item.to_port) };
        control.put(libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR, &emit(Domain::V6, &to));
    }
}

/// A destination in a program's bytes, for the family that they say. EINVAL, EAFNOSUPPORT.
pub(crate) fn destination(bytes: &[u8], domain: Domain) -> Result<Endpoint, Errno> {
    let family = super::address::family(bytes);
    match (domain, family) {
        (_, None) => Err(Errno::EINVAL),
        (Domain::V4, Some(libc::AF_INET | libc::AF_UNSPEC)) => parse_in(bytes),
        (Domain::V4, Some(_)) if bytes.len() < super::address::IN_LEN => Err(Errno::EINVAL),
        (Domain::V6, Some(libc::AF_INET)) => parse_in(bytes),
        (Domain::V6, Some(libc::AF_INET6)) => parse_in6(bytes),
        (_, Some(_)) => Err(Errno::EAFNOSUPPORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Control::new(&mut out, 1024).put(level, kind, data);
        out
    }

    #[test]
    fn what_was_put_is_read_again() {
        let mut bytes = record(libc::IPPROTO_IP, libc::IP_TTL, &7i32.to_ne_bytes());
        bytes.extend(record(SOL_UDP, UDP_SEGMENT, &1200u16.to_ne_bytes()));
        let wishes = parse(&bytes, Domain::V4).unwrap();
        assert_eq!((wishes.ttl, wishes.segment), (Some(7), Some(1200)));
    }

    #[test]
    fn nonsense_is_einval() {
        let mut bytes = record(libc::IPPROTO_IP, libc::IP_TTL, &7i32.to_ne_bytes());
        bytes[0] = 200;
        assert_eq!(parse(&bytes, Domain::V4), Err(Errno::EINVAL));
        bytes[..8].fill(0);
        assert_eq!(parse(&bytes, Domain::V4), Err(Errno::EINVAL));
        let zero = record(libc::IPPROTO_IP, libc::IP_TTL, &0i32.to_ne_bytes());
        assert_eq!(parse(&zero, Domain::V4), Err(Errno::EINVAL));
        assert_eq!(parse(&record(libc::IPPROTO_IP, 200, &[]), Domain::V4), Err(Errno::EINVAL));
    }

    #[test]
    fn a_record_without_room_is_cut_and_said_so() {
        let mut out = Vec::new();
        let mut control = Control::new(&mut out, 18);
        control.put(1, 2, &[1, 2, 3, 4]);
        assert!(control.truncated);
        control.put(1, 2, &[]);
        assert_eq!((out.len(), out[0]), (18, 18));
    }
}
