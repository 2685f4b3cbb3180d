//! sendto(2), recvfrom(2), sendmsg(2), recvmsg(2).

use nix::errno::Errno;
use stacks::smol::call::SocketCall;

use super::layout::{Header, MAX_DATA, Outgoing};
use super::names::{address, name};
use crate::answer::Stop;
use crate::ask::{Ask, Give};
use crate::handlers::Call;
use crate::target::Target;

/// MSG_CMSG_COMPAT, linux/socket.h: the kernel's own mark of a 32-bit program, which no program may set.
const CMSG_COMPAT: i32 = i32::MIN;

/// The flags of a call on a struct msghdr.
pub(super) fn refuse_compat(flags: i32) -> Result<i32, Errno> {
    if flags & CMSG_COMPAT != 0 { Err(Errno::EINVAL) } else { Ok(flags) }
}

/// sendto(2)
pub(super) fn sendto(call: &mut Call<'_>) -> Result<Ask, Stop> {
    // An address of no length is one all the same: the kernel looks at the pointer.
    let to = if call.address(4) == 0 { None } else { Some(address(call, 4, 5)?) };
    let data = call.target.read(call.address(1), call.size(2).min(MAX_DATA))?;
    let flags = call.int(3) & !CMSG_COMPAT;
    Ok(Ask::new(SocketCall::Send { to, control: Vec::new(), data, flags }, Give::Value))
}

/// recvfrom(2)
pub(super) fn recvfrom(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let length = call.size(2).min(MAX_DATA);
    let flags = call.int(3) & !CMSG_COMPAT;
    let from = name(call, 4, 5);
    let named = from.address != 0;
    let give = Give::Datagram { data: call.address(1), from };
    Ok(Ask::new(SocketCall::Receive { length, control: 0, flags, named }, give))
}

/// sendmsg(2)
pub(super) fn sendmsg(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let flags = refuse_compat(call.int(2))?;
    let header = Header::read(call.abi, call.address(1), flags, call.target)?;
    Ok(Ask::new(header.send(flags, call.target)?, Give::Value))
}

/// recvmsg(2)
pub(super) fn recvmsg(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let flags = refuse_compat(call.int(2))?;
    let header = Header::read(call.abi, call.address(1), flags, call.target)?;
    Ok(Ask::new(header.receive(flags), Give::Message(Box::new(header))))
}

impl Header {
    /// What to ask of the stack when this is sent.
    pub(super) fn send(&self, flags: i32, target: &mut dyn Target) -> Result<SocketCall, Errno> {
        let Outgoing { to, control, data } = self.outgoing(target)?;
        Ok(SocketCall::Send { to, control, data, flags })
    }

    /// What to ask of the stack when this is to be filled.
    pub(super) fn receive(&self, flags: i32) -> SocketCall {
        let (length, control, named) = (self.length(), self.control_room(), self.wants_name());
        SocketCall::Receive { length, control, flags, named }
    }
}
