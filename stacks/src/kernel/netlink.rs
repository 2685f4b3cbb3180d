//! A minimal rtnetlink client: one request, its acknowledgement or its dump, in the current namespace, or of
//! whatever stack made the socket.
//!
//! Messages are netlink-packet-route's; this file owns the socket and the framing (netlink(7)). A client
//! lives as long as one change or one look; nothing is subscribed.

use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The kernel sends dumps in pieces of up to 32 KiB (NLMSG_GOODSIZE and its growth).
const BUFFER: usize = 64 << 10;

/// What a request may do to things that exist.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Change or delete.
    Plain,
    /// Make; EEXIST if it is there.
    Create,
    /// Make, or put in the place of what is there.
    Replace,
}

/// A connection to rtnetlink.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens it in the network namespace this process is in.
    pub(crate) fn open() -> Result<Self, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self::over(socket))
    }

    /// Takes a NETLINK_ROUTE socket of any stack.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, mode: Mode) -> Result<(), Errno> {
        let mode = match mode {
            Mode::Plain => 0,
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        };
        self.request(message, NLM_F_ACK | mode, |_| {})
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// Those of send(2) and recv(2), and the stack's.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Errno> {
        let mut found = Vec::new();
        self.request(message, NLM_F_DUMP, |message| found.push(message))?;
        Ok(found)
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Errno> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let message: NetlinkMessage<RouteNetlinkMessage> =
                    NetlinkMessage::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
                // Each message begins on a multiple of four bytes (NLMSG_ALIGN).
                let used = (message.header.length as usize).next_multiple_of(4).clamp(16, rest.len().max(16));
                rest = rest.get(used..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(e) => {
                        return e.code.map_or(Ok(()), |code| Err(Errno::from_raw(-code.get())));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
            }
        }
    }
}
