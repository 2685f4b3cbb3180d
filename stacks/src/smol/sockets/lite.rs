//! UDP-Lite (RFC 3828; udplite(7)): UDP whose checksum may cover only the first bytes of a datagram.
//!
//! # Theory of operation
//! A UDP-Lite socket is a UDP socket with a table and ports of its own; where UDP's header has the length there is the
//! checksum's coverage, 0 meaning all of it. The network layer has checked the sum over what is covered; a receiver may
//! ask for more of it than a sender gave. Read: net/ipv4/udp.c (udp_send_skb, udp_queue_rcv_one_skb),
//! include/net/udplite.h.

use nix::errno::Errno;
use switch::offload::checksum::{fold, sum};

use super::Socket;
use super::datagram::Datagrams;
use crate::smol::net::{Path, pseudo_sum};

/// IPPROTO_UDPLITE
pub(crate) const LITE: u8 = 136;
/// Options at IPPROTO_UDP and IPPROTO_UDPLITE.
pub(crate) const SEND_CSCOV: i32 = 10;
pub(crate) const RECV_CSCOV: i32 = 11;
/// Bytes of a header, which are always covered.
const HEADER: usize = 8;

/// How much of a datagram a checksum is to cover: UDPLITE_SEND_CSCOV and UDPLITE_RECV_CSCOV, where set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Coverage {
    pub(crate) send: Option<u16>,
    pub(crate) receive: Option<u16>,
}

impl Socket {
    /// Its datagrams are those of UDP-Lite.
    pub(crate) fn is_lite(&self) -> bool {
        self.protocol == u16::from(LITE)
    }
}

impl Datagrams {
    /// Sets an option of UDP-Lite: ENOPROTOOPT for UDP, and no less than the header is covered.
    pub(super) fn set_coverage(&mut self, lite: bool, name: i32, number: i32) -> Result<(), Errno> {
        if !lite {
            return Err(Errno::ENOPROTOOPT);
        }
        let bytes = match number {
            0 => 0,
            // A negative number is less than the header, too.
            ..8 => HEADER as u16,
            _ => u16::try_from(number).unwrap_or(u16::MAX),
        };
        let coverage = Some(bytes);
        if name == SEND_CSCOV {
            self.coverage.send = coverage;
        } else {
            self.coverage.receive = coverage;
        }
        Ok(())
    }

    /// Whether enough of a datagram was covered for its receiver.
    pub(super) fn is_covered(&self, datagram: &[u8]) -> bool {
        let covered = datagram.get(4..6).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]));
        let whole = covered == 0 || usize::from(covered) >= datagram.len();
        match self.coverage.receive {
            // Whoever asked for everything gets nothing less.
            Some(0) => whole,
            Some(least) => whole || covered >= least,
            None => true,
        }
    }

    /// Completes a header: coverage and checksum.
    pub(super) fn cover(&self, header: &mut [u8; HEADER], data: &[u8], path: &Path, to: std::net::IpAddr) {
        let length = HEADER + data.len();
        let (field, covered) = match self.coverage.send.map(usize::from) {
            Some(0) => (0, length),
            Some(bytes) if bytes < length => (bytes, bytes),
            _ => (length, length),
        };
        header[4..6].copy_from_slice(&(field as u16).to_be_bytes());
        let pseudo = pseudo_sum(path.source, to, LITE, length);
        // Zero would mean that there is none, which UDP-Lite does not allow.
        let value = match !fold(pseudo + sum(header) + sum(&data[..covered - HEADER])) {
            0 => u16::MAX,
            value => value,
        };
        header[6..].copy_from_slice(&value.to_be_bytes());
    }
}
