//! System calls that nix and rustix lack: TAP ioctls and packet sockets. One function, one call.
//!
//! # Theory of operation
//! The only unsafe room of this crate. Policy lives in [`super::tap`] and [`super::packet`]. Constants are
//! those of include/uapi/linux/if_tun.h and if_packet.h.

#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_uint, c_ulong};

/// A frame is Ethernet, not IP.
pub(crate) const IFF_TAP: u16 = 0x0002;
/// No four-byte prefix.
pub(crate) const IFF_NO_PI: u16 = 0x1000;
/// A virtio-net header before each frame.
pub(crate) const IFF_VNET_HDR: u16 = 0x4000;

pub(crate) const TUN_F_CSUM: c_uint = 0x01;
pub(crate) const TUN_F_TSO4: c_uint = 0x02;
pub(crate) const TUN_F_TSO6: c_uint = 0x04;
pub(crate) const TUN_F_TSO_ECN: c_uint = 0x08;
/// Both from Linux 6.2, and only together.
pub(crate) const TUN_F_USO: c_uint = 0x20 | 0x40;

/// The part of `struct ifreq` that TAP ioctls use, padded to its size.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

/// TUNSETIFF: makes or joins the interface `name` (may hold `%d`, or be empty); returns its name.
pub(crate) fn tun_set_iff(fd: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<String> {
    const TUNSETIFF: c_ulong = nix::request_code_write!(b'T', 202, size_of::<c_int>()) as c_ulong;
    let mut req = IfReq { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    if name.len() >= req.name.len() || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    req.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `IfReq` has.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF as _, &raw mut req) })?;
    Ok(name_of(&req))
}

/// TUNGETIFF: the name and flags of a TAP; an error for any other descriptor.
pub(crate) fn tun_get_iff(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    const TUNGETIFF: c_ulong = nix::request_code_read!(b'T', 210, size_of::<c_uint>()) as c_ulong;
    let mut req = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: the kernel writes one `struct ifreq`, whose size `IfReq` has.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF as _, &raw mut req) })?;
    Ok((name_of(&req), req.flags))
}

/// TUNSETOFFLOAD: what the interface may hand to us undone.
pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, flags: c_uint) -> io::Result<()> {
    const TUNSETOFFLOAD: c_ulong = nix::request_code_write!(b'T', 208, size_of::<c_uint>()) as c_ulong;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, c_ulong::from(flags)) })
}

/// TUNSETVNETHDRSZ: the length of the virtio-net header.
pub(crate) fn tun_set_vnet_hdr_sz(fd: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    const TUNSETVNETHDRSZ: c_ulong = nix::request_code_write!(b'T', 216, size_of::<c_int>()) as c_ulong;
    // SAFETY: the kernel reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const len) })
}

/// TUNSETPERSIST: the interface outlives its descriptor.
pub(crate) fn tun_set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    const TUNSETPERSIST: c_ulong = nix::request_code_write!(b'T', 203, size_of::<c_int>()) as c_ulong;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETPERSIST as _, c_ulong::from(persist)) })
}

/// setsockopt with an int.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
}

/// getsockopt with an int.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most one int.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// PACKET_ADD_MEMBERSHIP: the interface takes frames for every address while the socket lives.
pub(crate) fn packet_set_promiscuous(fd: BorrowedFd<'_>, ifindex: c_int) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: ifindex,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the kernel reads one `struct packet_mreq`.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    })
}

/// bind: frames of every protocol, of one interface.
pub(crate) fn packet_bind(fd: BorrowedFd<'_>, ifindex: c_int) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads one `struct sockaddr_ll`.
    check(unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    })
}

/// getsockname: the interface a packet socket is bound to. (nix's LinkAddr refuses the short address.)
pub(crate) fn packet_ifindex(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    // SAFETY: an all-zero `sockaddr_ll` is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of the address.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    if c_int::from(address.sll_family) == libc::AF_PACKET {
        Ok(address.sll_ifindex)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// SIOCGIFNAME: the name of the interface `ifindex` in the socket's network, padded with NUL.
pub(crate) fn interface_name(fd: BorrowedFd<'_>, ifindex: c_int) -> io::Result<[u8; libc::IFNAMSIZ]> {
    let mut req = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    let [a, b, c, d] = ifindex.to_ne_bytes();
    (req.flags, req.rest[0], req.rest[1]) = (u16::from_ne_bytes([a, b]), c, d);
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `IfReq` has.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut req) })?;
    Ok(req.name)
}

/// SIOCGIFFLAGS: the flags of the interface of this name in the socket's network.
pub(crate) fn interface_flags(fd: BorrowedFd<'_>, name: [u8; libc::IFNAMSIZ]) -> io::Result<u16> {
    let mut req = IfReq { name, flags: 0, rest: [0; 22] };
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `IfReq` has.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut req) })?;
    Ok(req.flags)
}

/// SIOCETHTOOL, ETHTOOL_GSET: the speed of the interface of this name, in Mb/s (include/uapi/linux/ethtool.h).
pub(crate) fn interface_speed(fd: BorrowedFd<'_>, name: [u8; libc::IFNAMSIZ]) -> io::Result<u32> {
    const ETHTOOL_GSET: u32 = 1;
    /// `struct ethtool_cmd`; what is not looked at is `a`, `b` and `c`.
    #[repr(C)]
    #[derive(Default)]
    struct Command {
        cmd: u32,
        a: [u32; 2],
        speed: u16,
        b: [u16; 7],
        speed_hi: u16,
        c: [u16; 7],
    }
    const _: () = assert!(size_of::<Command>() == 44);
    /// `struct ifreq` with its union as a pointer, padded to its size.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut Command,
        rest: [u64; 2],
    }
    let mut command = Command { cmd: ETHTOOL_GSET, ..Command::default() };
    let mut request = Request { name, data: &raw mut command, rest: [0; 2] };
    const SIOCETHTOOL: c_ulong = 0x8946;
    // SAFETY: the kernel reads one `struct ifreq`, and reads and writes the `struct ethtool_cmd` it points to.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
    Ok(u32::from(command.speed_hi) << 16 | u32::from(command.speed))
}

/// recvmsg without waiting; returns the length and, from PACKET_AUXDATA, a tag (TPID, TCI) that the kernel
/// took out of the frame.
pub(crate) fn packet_recv(
    fd: BorrowedFd<'_>,
    parts: &mut [IoSliceMut<'_>],
) -> io::Result<(usize, Option<(u16, u16)>)> {
    #[repr(C, align(8))]
    struct Space([MaybeUninit<u8>; 64]);
    let mut space = Space([MaybeUninit::uninit(); 64]);
    // SAFETY: an all-zero `msghdr` is a valid empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Space>() as _;
    // SAFETY: IoSliceMut has the layout of `struct iovec`; all pointers outlive the call.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled `space` and set `msg_controllen`; the CMSG functions stay inside it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: `header` is null or points to a whole control header inside `space`.
    while let Some(cmsg) = unsafe { header.as_ref() } {
        if (cmsg.cmsg_level, cmsg.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: the kernel writes a whole `struct tpacket_auxdata` as data of this message.
            let aux = unsafe { libc::CMSG_DATA(cmsg).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let tpid = if aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
                    aux.tp_vlan_tpid
                } else {
                    crate::frame::TPID
                };
                return Ok((len, Some((tpid, aux.tp_vlan_tci))));
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, cmsg) };
    }
    Ok((len, None))
}

/// close_range with CLOSE_RANGE_CLOEXEC: no descriptor from `first` on survives an exec.
pub(crate) fn close_on_exec_from(first: c_uint) -> io::Result<()> {
    // SAFETY: no descriptor is closed, only flags change.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(rc as c_int)
}

fn name_of(req: &IfReq) -> String {
    let len = req.name.iter().position(|&b| b == 0).unwrap_or(req.name.len());
    String::from_utf8_lossy(&req.name[..len]).into_owned()
}

fn check(rc: c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
