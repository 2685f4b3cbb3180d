//! What a stack counts of its packets (RFC 4293, RFC 4022, RFC 4113): the numbers of /proc/net/snmp, snmp6 and netstat.
//!
//! Counted where Linux counts it, but for datagrams, which count as delivered when they come to their socket, not when
//! the program takes them. Super-segments count as one IP packet and as many segments as they stand for.

use super::net::Packet;

/// Packets of one version of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) in_receives: u64,
    pub(crate) in_octets: u64,
    pub(crate) in_header_errors: u64,
    /// Not for us, or with addresses that cannot be.
    pub(crate) in_address_errors: u64,
    pub(crate) in_unknown_protocols: u64,
    pub(crate) in_delivers: u64,
    pub(crate) out_requests: u64,
    pub(crate) out_transmits: u64,
    pub(crate) out_octets: u64,
    pub(crate) out_discards: u64,
    pub(crate) forwarded: u64,
    /// Fragments that came.
    pub(crate) parts: u64,
    pub(crate) parts_late: u64,
    pub(crate) wholes: u64,
    pub(crate) parts_failed: u64,
    pub(crate) cut: u64,
    pub(crate) cut_failed: u64,
    pub(crate) cut_parts: u64,
}

/// Messages of ICMP or ICMPv6.
#[derive(Debug, Clone)]
pub(crate) struct Icmp {
    pub(crate) received: u64,
    pub(crate) errors: u64,
    pub(crate) bad_sums: u64,
    pub(crate) sent: u64,
    /// By type.
    pub(crate) received_as: [u64; 256],
    pub(crate) sent_as: [u64; 256],
}

impl Default for Icmp {
    fn default() -> Self {
        Self { received: 0, errors: 0, bad_sums: 0, sent: 0, received_as: [0; 256], sent_as: [0; 256] }
    }
}

/// Connections and segments of TCP, of both versions of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) active_opens: u64,
    pub(crate) passive_opens: u64,
    pub(crate) attempts_failed: u64,
    pub(crate) resets: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) sent_again: u64,
    pub(crate) errors: u64,
    pub(crate) resets_sent: u64,
    pub(crate) bad_sums: u64,
}

/// Datagrams of UDP or UDP-Lite over one version of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Udp {
    pub(crate) received: u64,
    pub(crate) no_ports: u64,
    pub(crate) errors: u64,
    pub(crate) sent: u64,
    pub(crate) overflows: u64,
    pub(crate) bad_sums: u64,
}

/// All of them; of pairs the first is of IPv4.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mib {
    ip: [Ip; 2],
    icmp: Box<[Icmp; 2]>,
    pub(crate) tcp: Tcp,
    udp: [Udp; 2],
    lite: [Udp; 2],
}

/// What is wrong with a packet for one of our protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsound {
    Length,
    Sum,
}

/// Of which version: the place in a pair.
const fn place(v4: bool) -> usize {
    if v4 { 0 } else { 1 }
}

impl Mib {
    pub(crate) fn ip(&mut self, v4: bool) -> &mut Ip {
        &mut self.ip[place(v4)]
    }

    pub(crate) fn icmp(&mut self, v4: bool) -> &mut Icmp {
        &mut self.icmp[place(v4)]
    }

    /// Of UDP, or of UDP-Lite.
    pub(crate) fn udp(&mut self, lite: bool, v4: bool) -> &mut Udp {
        let pair = if lite { &mut self.lite } else { &mut self.udp };
        &mut pair[place(v4)]
    }

    pub(crate) fn ip_of(&self, v4: bool) -> &Ip {
        &self.ip[place(v4)]
    }

    pub(crate) fn icmp_of(&self, v4: bool) -> &Icmp {
        &self.icmp[place(v4)]
    }

    pub(crate) fn udp_of(&self, lite: bool, v4: bool) -> &Udp {
        let pair = if lite { &self.lite } else { &self.udp };
        &pair[place(v4)]
    }

    /// A packet of ours leaves; of ICMP with the type of its message.
    pub(crate) fn leaves(&mut self, v4: bool, length: usize, icmp: Option<u8>) {
        let ip = self.ip(v4);
        ip.out_requests += 1;
        ip.out_transmits += 1;
        ip.out_octets += length as u64;
        if let Some(kind) = icmp {
            let icmp = self.icmp(v4);
            icmp.sent += 1;
            icmp.sent_as[usize::from(kind)] += 1;
        }
    }

    /// A packet of somebody else's leaves.
    pub(crate) fn passes(&mut self, v4: bool, length: usize) {
        let ip = self.ip(v4);
        ip.forwarded += 1;
        ip.out_transmits += 1;
        ip.out_octets += length as u64;
    }

    /// A message of ICMP came.
    pub(crate) fn heard(&mut self, v4: bool, kind: u8) {
        let icmp = self.icmp(v4);
        icmp.received += 1;
        icmp.received_as[usize::from(kind)] += 1;
    }

    /// A packet for one of our protocols makes no sense.
    pub(crate) fn unsound(&mut self, packet: &Packet<'_>, why: Unsound) {
        let v4 = packet.source.is_ipv4();
        let sum = u64::from(why == Unsound::Sum);
        match i32::from(packet.protocol) {
            libc::IPPROTO_TCP => {
                self.tcp.received += 1;
                self.tcp.errors += 1;
                self.tcp.bad_sums += sum;
            }
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => {
                let icmp = self.icmp(v4);
                icmp.received += 1;
                icmp.errors += 1;
                icmp.bad_sums += sum;
            }
            protocol => {
                let udp = self.udp(protocol == libc::IPPROTO_UDPLITE, v4);
                udp.errors += 1;
                udp.bad_sums += sum;
            }
        }
    }
}
