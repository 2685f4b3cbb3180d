//! IPPROTO_UDP and IPPROTO_UDPLITE, which are one (udp(7); net/ipv4/udp.c, udp_lib_setsockopt).

use std::time::Instant;

use nix::errno::Errno;

use super::super::Socket;
use super::super::cmsg::{UDP_GRO, UDP_SEGMENT};
use super::super::lite::{RECV_CSCOV, SEND_CSCOV};
use super::{answer, int};
use crate::smol::engine::{Engine, SocketId};

const UDP_CORK: i32 = 1;
const UDP_ENCAP: i32 = 100;
/// UDP_ENCAP_ESPINUDP, UDP_ENCAP_L2TPINUDP
const ENCAP_ESP: i32 = 2;
const ENCAP_L2TP: i32 = 3;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;

impl Engine {
    pub(crate) fn get_udp_option(&self, id: SocketId, name: i32) -> Result<Vec<u8>, Errno> {
        let datagrams = self.sockets.get(id).and_then(Socket::datagrams).ok_or(Errno::EBADF)?;
        let n = match name {
            UDP_CORK => datagrams.corked.into(),
            UDP_ENCAP => datagrams.encapsulation,
            UDP_NO_CHECK6_TX => datagrams.no_check6.0.into(),
            UDP_NO_CHECK6_RX => datagrams.no_check6.1.into(),
            UDP_SEGMENT => datagrams.segment.into(),
            UDP_GRO => datagrams.coalesced.into(),
            SEND_CSCOV => datagrams.coverage.send.unwrap_or(0).into(),
            RECV_CSCOV => datagrams.coverage.receive.unwrap_or(0).into(),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(answer(n))
    }

    pub(crate) fn set_udp_option(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let number = int(value)?;
        let lite = self.sockets.get(id).is_some_and(Socket::is_lite);
        let datagrams = self.sockets.get_mut(id).and_then(Socket::datagrams_mut).ok_or(Errno::EBADF)?;
        match name {
            UDP_CORK => {
                datagrams.corked = number != 0;
                if number == 0 {
                    self.uncork(now, id)?;
                }
            }
            UDP_ENCAP => match number {
                0 | ENCAP_ESP | ENCAP_L2TP => datagrams.encapsulation = number,
                _ => return Err(Errno::ENOPROTOOPT),
            },
            UDP_NO_CHECK6_TX => datagrams.no_check6.0 = number != 0,
            UDP_NO_CHECK6_RX => datagrams.no_check6.1 = number != 0,
            UDP_SEGMENT => datagrams.segment = u16::try_from(number).map_err(|_| Errno::EINVAL)?,
            UDP_GRO => datagrams.coalesced = number != 0,
            SEND_CSCOV | RECV_CSCOV => datagrams.set_coverage(lite, name, number)?,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}
