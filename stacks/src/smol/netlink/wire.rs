//! Netlink messages as bytes: headers, attributes, and nothing of what they mean (netlink(7), netlink(3)).
//!
//! Requests come from programs that need not be well-behaved, and Linux answers even those that are too short
//! for their type (getifaddrs(3) sends one byte of `struct ifinfomsg`): so they are read piece by piece here, and
//! not by a parser that takes a message as a whole or not at all.

use std::net::IpAddr;

use nix::errno::Errno;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER: no part of the type.
const TYPE_MASK: u16 = 0x3fff;
/// NLMSG_ALIGNTO, NLA_ALIGNTO.
const ALIGNMENT: usize = 4;
/// Highest attribute type that anything here looks at.
const MAX_TYPE: usize = 71;

/// `struct nlmsghdr`, without the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) port: u32,
}

impl Header {
    pub(super) fn has(&self, flag: i32) -> bool {
        i32::from(self.flags) & flag != 0
    }
}

/// A request: its header, what follows, and both together as they came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
    pub(super) whole: &'a [u8],
}

/// The next message of `bytes`, and what is behind it; `None` where Linux stops reading (netlink_rcv_skb).
pub(super) fn next_request(bytes: &[u8]) -> Option<(Request<'_>, &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    if length < HEADER || length > bytes.len() {
        return None;
    }
    let header = Header {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        port: u32_at(bytes, 12)?,
    };
    let whole = &bytes[..length];
    let rest = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Some((Request { header, payload: &whole[HEADER..], whole }, rest))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The attributes of a message or of a nest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    found: [Option<&'a [u8]>; MAX_TYPE + 1],
}

impl<'a> Attributes<'a> {
    /// What is behind the first `skip` bytes. Of two of a type the second counts, trailing rubbish is ignored
    /// (nla_parse_deprecated).
    pub(super) fn behind(payload: &'a [u8], skip: usize) -> Self {
        let mut found = [None; MAX_TYPE + 1];
        let at = skip.next_multiple_of(ALIGNMENT);
        for (kind, value) in Iter(payload.get(at..).unwrap_or_default()) {
            if let Some(place) = found.get_mut(usize::from(kind)) {
                *place = Some(value);
            }
        }
        Self { found }
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.found.get(usize::from(kind)).copied().flatten()
    }

    pub(super) fn has(&self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    fn fixed<const N: usize>(&self, kind: u16) -> Result<Option<[u8; N]>, Errno> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        Ok(Some(value.get(..N).and_then(|value| value.try_into().ok()).ok_or(Errno::ERANGE)?))
    }

    /// A number; ERANGE if the attribute is too short for one.
    pub(super) fn u32(&self, kind: u16) -> Result<Option<u32>, Errno> {
        Ok(self.fixed(kind)?.map(u32::from_ne_bytes))
    }

    pub(super) fn u16(&self, kind: u16) -> Result<Option<u16>, Errno> {
        Ok(self.fixed(kind)?.map(u16::from_ne_bytes))
    }

    pub(super) fn u8(&self, kind: u16) -> Result<Option<u8>, Errno> {
        Ok(self.fixed::<1>(kind)?.map(|[byte]| byte))
    }

    pub(super) fn mac(&self, kind: u16) -> Result<Option<[u8; 6]>, Errno> {
        self.fixed(kind)
    }

    /// An IP address of the family's length.
    pub(super) fn ip(&self, kind: u16, v4: bool) -> Result<Option<IpAddr>, Errno> {
        Ok(if v4 {
            self.fixed::<4>(kind)?.map(IpAddr::from)
        } else {
            self.fixed::<16>(kind)?.map(IpAddr::from)
        })
    }

    /// Text up to its NUL.
    pub(super) fn text(&self, kind: u16) -> Result<Option<&'a str>, Errno> {
        let Some(value) = self.get(kind) else { return Ok(None) };
        let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(value).map(Some).map_err(|_| Errno::EINVAL)
    }

    /// The attributes inside an attribute.
    pub(super) fn nest(&self, kind: u16) -> Option<Self> {
        self.get(kind).map(|value| Attributes::behind(value, 0))
    }
}

/// Attributes one after the other.
#[derive(Debug, Clone)]
pub(super) struct Iter<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A message being written.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(header: Header) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&header.kind.to_ne_bytes());
        bytes.extend_from_slice(&header.flags.to_ne_bytes());
        bytes.extend_from_slice(&header.sequence.to_ne_bytes());
        bytes.extend_from_slice(&header.port.to_ne_bytes());
        Self(bytes)
    }

    /// Bytes as they are: the fixed part behind the header.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.align();
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(super) fn ip(&mut self, kind: u16, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attribute(kind, &ip.octets()),
        }
    }

    /// An attribute made of attributes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.align();
        let start = self.0.len();
        self.attribute(kind, &[]);
        fill(self);
        self.align();
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// The message with its length, in which the padding of the last attribute counts.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.align();
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    fn align(&mut self) {
        let aligned = self.0.len().next_multiple_of(ALIGNMENT);
        self.0.resize(aligned, 0);
    }
}

/// Appends a message to a datagram of messages.
pub(super) fn append(datagram: &mut Vec<u8>, message: &[u8]) {
    let aligned = datagram.len().next_multiple_of(ALIGNMENT);
    datagram.resize(aligned, 0);
    datagram.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let header = Header { kind: 16, flags: 1, sequence: 7, port: 9 };
        let mut message = Message::new(header);
        message.raw(&[2, 0, 0, 0]).text(3, "eth0").u32(4, 1500);
        message.nest(18, |nest| {
            nest.text(1, "vlan");
        });
        let bytes = message.finish();
        let (request, rest) = next_request(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!(request.header, header);
        let attributes = Attributes::behind(request.payload, 4);
        assert_eq!(attributes.text(3), Ok(Some("eth0")));
        assert_eq!(attributes.u32(4), Ok(Some(1500)));
        assert_eq!(attributes.u32(3), Ok(Some(u32::from_ne_bytes(*b"eth0"))));
        assert_eq!(attributes.mac(3), Err(Errno::ERANGE));
        assert_eq!(attributes.nest(18).unwrap().text(1), Ok(Some("vlan")));
        assert!(!attributes.has(5) && attributes.get(u16::MAX).is_none());
    }

    #[test]
    fn messages_that_are_shorter_than_they_say_are_not_read() {
        let bytes = Message::new(Header { kind: 16, flags: 1, sequence: 0, port: 0 }).finish();
        assert!(next_request(&bytes[..15]).is_none());
        assert!(next_request(&[0; 16]).is_none());
        let mut long = bytes.clone();
        long[0] = 17;
        assert!(next_request(&long).is_none());
    }
}
