//! Whether the program's end of a connection is closed, asked of the kernel's sock_diag(7).
//!
//! # Theory of operation
//! A stream that is shut both ways polls as one whose peer was closed does, and every call on our end answers the
//! same. What is left is to ask for the peer's inode: a closed socket has none. That costs some ten microseconds and
//! a socket, so it is asked only when nothing else can tell.

use std::os::fd::AsFd;

use nix::errno::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::unix::{self, errno};

/// linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
/// sizeof(struct nlmsghdr), and with a struct unix_diag_req or a struct unix_diag_msg behind it.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 24;
const ANSWER: usize = HEADER + 16;

/// Whether the peer of `ours` is closed. An error if the kernel does not tell.
pub(super) fn is_abandoned(ours: &impl AsFd) -> Result<bool, Errno> {
    let inode = u32::try_from(unix::inode(ours)?).map_err(|_| Errno::EOVERFLOW)?;
    let diag = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )
    .map_err(errno)?;
    send(&diag, &request(inode), SendFlags::DONTWAIT).map_err(errno)?;
    let mut answer = [0; 512];
    let (length, _) = recv(&diag, &mut answer[..], RecvFlags::DONTWAIT).map_err(errno)?;
    peer_inode(&answer[..length.min(answer.len())]).map(|peer| peer == 0)
}

fn request(inode: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[HEADER] = libc::AF_UNIX as u8;
    // All states; the inode; what is wanted; no cookie.
    bytes[HEADER + 4..HEADER + 8].fill(0xff);
    bytes[HEADER + 8..HEADER + 12].copy_from_slice(&inode.to_ne_bytes());
    bytes[HEADER + 12..HEADER + 16].copy_from_slice(&UDIAG_SHOW_PEER.to_ne_bytes());
    bytes[HEADER + 16..].fill(0xff);
    bytes
}

/// The peer's inode in a struct unix_diag_msg; 0 if there is none.
fn peer_inode(answer: &[u8]) -> Result<u32, Errno> {
    let half = |at: usize| answer.get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    if half(4) != Some(SOCK_DIAG_BY_FAMILY) {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut at = ANSWER;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == UNIX_DIAG_PEER {
            let inode = answer.get(at + 4..at + 8).and_then(|b| b.try_into().ok());
            return inode.map(u32::from_ne_bytes).ok_or(Errno::EBADMSG);
        }
        at += usize::from(length).next_multiple_of(4).max(4);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use rustix::net::{Shutdown, socketpair};

    use super::*;

    #[test]
    fn a_shut_peer_is_not_a_closed_one() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        unix::shut(&ours, Shutdown::Both).unwrap();
        assert_eq!(is_abandoned(&ours), Ok(false));
        drop(theirs);
        assert_eq!(is_abandoned(&ours), Ok(true));
    }
}
