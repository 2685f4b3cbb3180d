//! The protocols of which a stack has only the sockets: they say no, each as Linux does where the thing asked
//! for is not built in, so that programs say so too.

use nix::errno::Errno;

use super::reply::{Answer, Answered, Asked, Empty};
use super::wire::Attributes;
use crate::smol::tables::Refused;

/// GENL_ID_CTRL, the family that finds families.
const ID_CONTROL: u16 = 0x10;
/// CTRL_CMD_GETFAMILY
const COMMAND_GET_FAMILY: u8 = 3;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;
/// CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME
const ATTRIBUTE_FAMILY: [u16; 2] = [1, 2];

/// Generic netlink with no family at all: ENOENT for each that is looked for.
pub(super) fn generic(asked: &Asked<'_>) -> Answered {
    if asked.request.header.kind != ID_CONTROL {
        return Err(Errno::ENOENT.into());
    }
    let Some(command) = asked.request.payload.first() else { return Err(Errno::EINVAL.into()) };
    if *command != COMMAND_GET_FAMILY {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if asked.is_dump() {
        return Ok(Answer::Dump(Box::new(Empty)));
    }
    let attributes = Attributes::behind(asked.request.payload, GENERIC_HEADER);
    let named = ATTRIBUTE_FAMILY.iter().any(|kind| attributes.has(*kind));
    Err(if named { Errno::ENOENT } else { Errno::EINVAL }.into())
}

/// Netfilter, IPsec, audit and the rest.
pub(super) fn refuse(protocol: i32, asked: &Asked<'_>) -> Answered {
    let errno = match protocol {
        // nfnetlink_rcv() and xfrm_user_rcv_msg() look at the rights first.
        libc::NETLINK_NETFILTER | libc::NETLINK_XFRM | libc::NETLINK_AUDIT if !asked.rights => Errno::EPERM,
        // nfnetlink_rcv_msg(): a subsystem that is not there.
        libc::NETLINK_NETFILTER => Errno::EINVAL,
        libc::NETLINK_XFRM => return Err(Refused::new(Errno::EOPNOTSUPP, "IPsec is not supported")),
        // They listen to nothing: the kernel end only sends.
        libc::NETLINK_KOBJECT_UEVENT => return Ok(Answer::Nothing),
        _ => Errno::EOPNOTSUPP,
    };
    Err(errno.into())
}
