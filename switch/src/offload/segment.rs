//! Cutting a super-segment into frames (GSO in software).
//!
//! # Theory of operation
//! [`cut`] parses the headers once, strictly, for a super-segment comes from a port and may be a lie:
//! IPv4, or IPv6 with extension headers, then TCP or UDP, where the virtio-net header says they are. Then for
//! each `gso_size` bytes of payload it patches one copy of the headers (at most [`MAX_HEADERS`] bytes) and
//! hands out that copy and the payload where it lies. As Linux's tcp_gso_segment and udp_gso_segment do:
//! - IPv4: length, identification + 1 per segment, header checksum; IPv6: payload length;
//! - TCP: sequence number; FIN and PSH only on the last segment, CWR only on the first (RFC 3168 clause 6.1.2);
//! - UDP: length; every segment is a datagram of its own;
//! - the checksum, whole or, for a port that fills it, the pseudo-header's part.

use std::ops::ControlFlow;

use super::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Malformed, NEEDS_CSUM, Pieces, VnetHdr, checksum};
use crate::frame::{Frame, IPV4, IPV6, TagEdit};

/// Bytes of headers at most: Ethernet with tag, IPv6 with extension headers, TCP with options.
pub const MAX_HEADERS: usize = 256;
/// Frames one super-segment may turn into: 64 KiB at TCP's smallest segment size of 48 bytes
/// (TCP_MIN_SND_MSS), so that one write cannot keep the switch busy at will.
pub const MAX_SEGMENTS: usize = 1366;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Where the headers are, from the frame's first byte.
struct Layout {
    ip: usize,
    /// Source address; the destination follows.
    addresses: (usize, usize),
    transport: usize,
    protocol: u8,
    payload: usize,
    end: usize,
}

/// Cuts `frame` and gives the pieces to `put`, with the tag edited. With `partial` the checksums are left to
/// the port.
///
/// # Errors
/// [`Malformed`], before the first `put`.
pub fn cut(
    hdr: &VnetHdr,
    frame: Frame<'_>,
    edit: TagEdit,
    partial: bool,
    mut put: impl FnMut(&VnetHdr, &Pieces<'_>) -> ControlFlow<()>,
) -> Result<(), Malformed> {
    let bytes = frame.bytes();
    let layout = Layout::parse(hdr, frame).ok_or(Malformed)?;
    let size = usize::from(hdr.gso_size);
    let payload = &bytes[layout.payload..layout.end];
    let count = payload.len().div_ceil(size).max(1);
    if count > MAX_SEGMENTS {
        return Err(Malformed);
    }
    let original = &bytes[..layout.payload];
    let mut copy = [0; MAX_HEADERS];
    let headers = copy.get_mut(..original.len()).ok_or(Malformed)?;
    headers.copy_from_slice(original);
    for i in 0..count {
        let part = &payload[(i * size).min(payload.len())..((i + 1) * size).min(payload.len())];
        let place = Place { index: i, offset: i * size, last: i + 1 == count };
        layout.patch(headers, original, part, &place, partial);
        // The header copy is a frame of its own to the tag edit, as its tag is in it.
        let (head, rest) = edit.apply(frame.with_headers(headers).ok_or(Malformed)?);
        let out = if partial { layout.partial(edit.shift()) } else { VnetHdr::default() };
        if put(&out, &[head.as_ref(), rest, part, &[]]).is_break() {
            break;
        }
    }
    Ok(())
}

/// Which segment this is.
struct Place {
    index: usize,
    /// Payload bytes before it.
    offset: usize,
    last: bool,
}

impl Layout {
    fn parse(hdr: &VnetHdr, frame: Frame<'_>) -> Option<Self> {
        let bytes = frame.bytes();
        let (ethertype, ip) = frame.innermost();
        let (protocol, transport, end, addresses) = match ethertype {
            IPV4 => {
                let header = bytes.get(ip..ip + 20)?;
                let len = usize::from(header[0] & 0x0F) * 4;
                // More fragments, or an offset: a fragment is no super-segment.
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
                if header[0] >> 4 != 4 || len < 20 || fragment {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                (header[9], ip + len, ip + total, (ip + 12, ip + 20))
            }
            IPV6 => {
                let header = bytes.get(ip..ip + 40)?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let end = ip + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
                let (protocol, transport) = skip_extensions(bytes, header[6], ip + 40)?;
                (protocol, transport, end, (ip + 8, ip + 40))
            }
            _ => return None,
        };
        let v4 = ethertype == IPV4;
        let header_len = match (hdr.gso(), protocol) {
            (GSO_TCPV4, TCP) if v4 => tcp_header_len(bytes, transport)?,
            (GSO_TCPV6, TCP) if !v4 => tcp_header_len(bytes, transport)?,
            (GSO_UDP_L4, UDP) => 8,
            _ => return None,
        };
        let payload = transport + header_len;
        let at_transport = !hdr.needs_csum() || usize::from(hdr.csum_start) == transport;
        (at_transport && payload <= end && end <= bytes.len()).then_some(Self {
            ip,
            addresses,
            transport,
            protocol,
            payload,
            end,
        })
    }

    fn is_v4(&self) -> bool {
        self.addresses.1 - self.addresses.0 == 8
    }

    fn csum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    /// The virtio-net header of a segment whose checksum the port fills.
    fn partial(&self, shift: isize) -> VnetHdr {
        let hdr = VnetHdr {
            flags: NEEDS_CSUM,
            hdr_len: self.payload as u16,
            csum_start: self.transport as u16,
            csum_offset: self.csum_offset() as u16,
            ..VnetHdr::default()
        };
        hdr.shifted(shift)
    }

    /// Makes `headers` those of one segment.
    fn patch(&self, headers: &mut [u8], original: &[u8], part: &[u8], place: &Place, partial: bool) {
        let transport_len = self.payload - self.transport + part.len();
        let ip_len = self.transport - self.ip + transport_len;
        let ip = &mut headers[self.ip..self.transport];
        if self.is_v4() {
            ip[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
            let id = u16::from_be_bytes([original[self.ip + 4], original[self.ip + 5]]);
            ip[4..6].copy_from_slice(&id.wrapping_add(place.index as u16).to_be_bytes());
            ip[10..12].fill(0);
            let sum = !checksum::fold(checksum::sum(ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[4..6].copy_from_slice(&((ip_len - 40) as u16).to_be_bytes());
        }
        let pseudo =
            checksum::pseudo(&headers[self.addresses.0..self.addresses.1], self.protocol, transport_len);
        let transport = &mut headers[self.transport..];
        if self.protocol == TCP {
            let was = &original[self.transport..];
            let seq = u32::from_be_bytes([was[4], was[5], was[6], was[7]]).wrapping_add(place.offset as u32);
            transport[4..8].copy_from_slice(&seq.to_be_bytes());
            let not_first = if place.index > 0 { CWR } else { 0 };
            let not_last = if place.last { 0 } else { FIN_PSH };
            transport[13] = was[13] & !not_first & !not_last;
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
        }
        let at = self.csum_offset();
        transport[at..at + 2].fill(0);
        let field = if partial {
            checksum::fold(pseudo)
        } else {
            // Transport headers have an even length, so the payload's sum may be added as it is.
            match !checksum::fold(pseudo + checksum::sum(transport) + checksum::sum(part)) {
                0 if self.protocol == UDP => 0xFFFF,
                sum => sum,
            }
        };
        transport[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
}

fn tcp_header_len(bytes: &[u8], at: usize) -> Option<usize> {
    let len = usize::from(bytes.get(at..at + 20)?[12] >> 4) * 4;
    (len >= 20 && at + len <= bytes.len()).then_some(len)
}

/// The protocol and place behind IPv6 extension headers (RFC 8200 clause 4). A routing header changes which
/// destination the checksum covers, and a fragment is no super-segment: neither is followed.
fn skip_extensions(bytes: &[u8], mut next: u8, mut at: usize) -> Option<(u8, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    while next == HOP_BY_HOP || next == DESTINATION {
        let header = bytes.get(at..at + 8)?;
        next = header[0];
        at += 8 + usize::from(header[1]) * 8;
        if at > MAX_HEADERS {
            return None;
        }
    }
    Some((next, at))
}
