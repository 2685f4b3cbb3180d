//! System calls that nix and rustix lack: TAP ioctls, packet sockets, datagrams in batches. One function, one call.
//!
//! # Theory of operation
//! Policy lives in [`super::tap`], [`super::packet`] and [`super::datagrams`]. Constants are those of
//! include/uapi/linux/if_tun.h and if_packet.h.

#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
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

/// SIOCGIFINDEX: the number of the interface of this name in the socket's network.
pub(crate) fn interface_index(fd: BorrowedFd<'_>, name: &str) -> io::Result<c_int> {
    let mut req = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    let place = req.name.get_mut(..name.len()).filter(|place| place.len() < libc::IFNAMSIZ);
    place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq`, whose size `IfReq` has.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut req) })?;
    let ([a, b], [c, d, ..]) = (req.flags.to_ne_bytes(), req.rest);
    Ok(c_int::from_ne_bytes([a, b, c, d]))
}

/// SO_NETNS_COOKIE (Linux 5.14): a number that no other network of this boot has.
pub(crate) fn network_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: c_int = 71;
    let mut value: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let place = (&raw mut value).cast();
    // SAFETY: the kernel writes at most one u64.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, place, &raw mut len)
    })?;
    Ok(value)
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

/// Where a frame was heard (`struct sockaddr_ll`, packet(7)).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Address {
    pub(crate) ifindex: u32,
    pub(crate) hatype: u16,
    pub(crate) pkttype: u8,
}

/// recvmsg without waiting, with the sender's address if `from` is given; returns the length and, from PACKET_AUXDATA, a tag (TPID, TCI) that the kernel
/// took out of the frame.
pub(crate) fn packet_recv(
    fd: BorrowedFd<'_>,
    parts: &mut [IoSliceMut<'_>],
    from: Option<&mut Address>,
) -> io::Result<(usize, Option<(u16, u16)>)> {
    #[repr(C, align(8))]
    struct Space([MaybeUninit<u8>; 64]);
    let mut space = Space([MaybeUninit::uninit(); 64]);
    // SAFETY: an all-zero `msghdr` is a valid empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // SAFETY: an all-zero address is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    if from.is_some() {
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    }
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Space>() as _;
    // SAFETY: IoSliceMut has the layout of `struct iovec`; all pointers outlive the call.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    if let Some(from) = from {
        let (hatype, pkttype) = (address.sll_hatype, address.sll_pkttype);
        *from = Address { ifindex: u32::try_from(address.sll_ifindex).unwrap_or(0), hatype, pkttype };
    }
    // SAFETY: the kernel filled `space` and set `msg_controllen`.
    Ok((len, unsafe { tag_of(&message) }))
}

/// The tag that PACKET_AUXDATA tells of.
///
/// # Safety
/// The message's control buffer is as the kernel has written it, or as it was given to recvmsg.
unsafe fn tag_of(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the CMSG functions stay inside the control buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: `header` is null or points to a whole control header inside that buffer.
    while let Some(cmsg) = unsafe { header.as_ref() } {
        if (cmsg.cmsg_level, cmsg.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: the kernel writes a whole `struct tpacket_auxdata` as data of this message.
            let aux = unsafe { libc::CMSG_DATA(cmsg).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let has_tpid = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                let tpid = if has_tpid { aux.tp_vlan_tpid } else { crate::frame::TPID };
                return Some((tpid, aux.tp_vlan_tci));
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, cmsg) };
    }
    None
}

/// recvmmsg on a packet socket without waiting: up to `count` frames, each into `slot` bytes of `room`, one behind the
/// other. Gives each to `each`: where its slot begins, its bytes, and the tag that the kernel took out; returns how many
/// there were.
pub(crate) fn packet_recv_batch(
    fd: BorrowedFd<'_>,
    room: &mut [u8],
    slot: usize,
    count: usize,
    mut each: impl FnMut(usize, &mut [u8], Option<(u16, u16)>),
) -> io::Result<usize> {
    #[derive(Clone, Copy)]
    #[repr(C, align(8))]
    struct Space([MaybeUninit<u8>; 64]);
    let mut spaces = [Space([MaybeUninit::uninit(); 64]); DATAGRAMS];
    let mut batch = Batch::new();
    for (place, space) in room.chunks_exact_mut(slot).zip(&mut spaces).take(count) {
        let (header, _) = batch.add(place.as_mut_ptr(), slot);
        header.msg_control = space.0.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Space>() as _;
    }
    let (headers, used) = (batch.headers.as_mut_ptr().cast(), batch.used as c_uint);
    // SAFETY: the first `used` headers are set, and name distinct slots of `room` and `spaces`, which outlive the call.
    let rc = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers, used, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
    };
    let count = usize::try_from(rc).map_err(|_| io::Error::last_os_error())?.min(batch.used);
    for (at, place) in room.chunks_exact_mut(slot).take(count).enumerate() {
        // SAFETY: it was set by `add`, and filled by the kernel with its control buffer.
        let (header, tag) = unsafe {
            let header = batch.headers[at].assume_init_ref();
            (header, tag_of(&header.msg_hdr))
        };
        each(at * slot, &mut place[..(header.msg_len as usize).min(slot)], tag);
    }
    Ok(count)
}

/// Datagrams moved by one call at most.
const DATAGRAMS: usize = super::expect::MANY;

/// A datagram that [`recv_batch`] took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// Where its slot begins.
    pub(crate) start: usize,
    /// It was longer than its slot.
    pub(crate) truncated: bool,
    /// Whom it is from, if it came over IP.
    pub(crate) from: Option<SocketAddr>,
}

/// What the kernel is told of a batch. Nothing is set beyond the entries in use: a lone datagram is to cost little.
struct Batch {
    headers: [MaybeUninit<libc::mmsghdr>; DATAGRAMS],
    parts: [MaybeUninit<libc::iovec>; DATAGRAMS],
    names: [MaybeUninit<libc::sockaddr_in6>; DATAGRAMS],
    used: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            headers: [MaybeUninit::uninit(); DATAGRAMS],
            parts: [MaybeUninit::uninit(); DATAGRAMS],
            names: [MaybeUninit::uninit(); DATAGRAMS],
            used: 0,
        }
    }

    /// Adds a datagram of these bytes; gives back its header, without address, and a zeroed place for one.
    fn add(&mut self, base: *mut u8, len: usize) -> (&mut libc::msghdr, &mut libc::sockaddr_in6) {
        let at = self.used;
        self.used += 1;
        let part = self.parts[at].write(libc::iovec { iov_base: base.cast(), iov_len: len });
        // SAFETY: an all-zero header is a valid empty one.
        let header = self.headers[at].write(unsafe { mem::zeroed() });
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        // SAFETY: an all-zero address is a valid one.
        (&mut header.msg_hdr, self.names[at].write(unsafe { mem::zeroed() }))
    }
}

/// Groups of a process that are looked at, at most; the kernel allows 65,536 (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// The supplementary groups of the process at the other end of a Unix connection, as they were when it was made.
pub(crate) fn peer_groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut len = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: `groups` has `len` bytes, of which the kernel writes at most as many.
        let rc = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        match (rc, io::Error::last_os_error()) {
            (0, _) => {
                groups.truncate(count);
                return Ok(groups);
            }
            (_, e)
                if e.raw_os_error() == Some(libc::ERANGE) && (groups.len()..=MAX_GROUPS).contains(&count) =>
            {
                groups.resize(count, 0);
            }
            (_, e) => return Err(e),
        }
    }
}

/// recv without waiting: one datagram. Returns its length, which is longer than `room` if it was cut off there.
pub(crate) fn recv_one(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: `room` has as many bytes as the kernel is told.
    let rc = unsafe { libc::recv(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), flags) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// send without waiting: one datagram to where the socket is connected to.
pub(crate) fn send_one(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` has as many bytes as the kernel is told, and is only read.
    let rc = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// recvmmsg without waiting: up to `count` datagrams, each into `slot` bytes of `room`, one behind the other; with the
/// addresses of those they are from, if they are wanted. Gives each to `each`; returns how many there were.
pub(crate) fn recv_batch(
    fd: BorrowedFd<'_>,
    room: &mut [u8],
    slot: usize,
    count: usize,
    named: bool,
    mut each: impl FnMut(Datagram, &[u8]),
) -> io::Result<usize> {
    let mut batch = Batch::new();
    for place in room.chunks_exact_mut(slot).take(count.min(DATAGRAMS)) {
        let (header, name) = batch.add(place.as_mut_ptr(), slot);
        if named {
            header.msg_namelen = size_of_val(name) as libc::socklen_t;
            header.msg_name = (&raw mut *name).cast();
        }
    }
    let (headers, used) = (batch.headers.as_mut_ptr().cast(), batch.used as c_uint);
    // SAFETY: the first `used` headers are set, and name distinct slots of `room` and addresses, which outlive the call.
    let rc = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers, used, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
    };
    let count = usize::try_from(rc).map_err(|_| io::Error::last_os_error())?;
    for at in 0..count.min(batch.used) {
        // SAFETY: both were set by `add`.
        let (header, name) =
            unsafe { (batch.headers[at].assume_init_ref(), batch.names[at].assume_init_ref()) };
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let from = decode_address(name, header.msg_hdr.msg_namelen as usize);
        let start = at * slot;
        let bytes = &room[start..start + (header.msg_len as usize).min(slot)];
        each(Datagram { start, truncated, from }, bytes);
    }
    Ok(count)
}

/// sendmmsg without waiting: up to [`DATAGRAMS`] datagrams, each to where the socket is connected to or to an
/// address of its own. Returns how many went; an error is the first one's.
pub(crate) fn send_batch<'b>(
    fd: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'b [u8], Option<SocketAddr>)>,
) -> io::Result<usize> {
    let mut batch = Batch::new();
    for (bytes, to) in datagrams.take(DATAGRAMS) {
        let (header, name) = batch.add(bytes.as_ptr().cast_mut(), bytes.len());
        if let Some(to) = to {
            header.msg_namelen = encode_address(to, name) as libc::socklen_t;
            header.msg_name = (&raw mut *name).cast();
        }
    }
    let (headers, used) = (batch.headers.as_mut_ptr().cast(), batch.used as c_uint);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `used` headers are set, and name bytes and addresses, which outlive the call and are only read.
    let rc = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, used, flags as _) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// Writes an address in the kernel's form; returns its length.
fn encode_address(address: SocketAddr, place: &mut libc::sockaddr_in6) -> usize {
    match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a `sockaddr_in6` has room for a `sockaddr_in`, and its alignment.
            unsafe { (&raw mut *place).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            place.sin6_port = v6.port().to_be();
            place.sin6_flowinfo = v6.flowinfo();
            place.sin6_addr.s6_addr = v6.ip().octets();
            place.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    }
}

/// The IP address that the kernel wrote, if it is one.
fn decode_address(name: &libc::sockaddr_in6, len: usize) -> Option<SocketAddr> {
    match c_int::from(name.sin6_family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says that the kernel wrote a `sockaddr_in` here, which fits.
            let v4 = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read() };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some(SocketAddrV4::new(ip.into(), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// PACKET_STATISTICS: frames dropped for want of room since it was last asked.
pub(crate) fn packet_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most one `struct tpacket_stats`.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    })?;
    Ok(stats.tp_drops)
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
