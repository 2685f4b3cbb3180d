//! The unsafe room of the client library: one system call per function.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// socket(2) with the three numbers as the program gave them.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The one call of msocket() inside a view, as `msocket_proto::proto::AF_MSOCKET` says: a descriptor, or a number
/// if `kind` asks for none. A kernel without a supervisor says EAFNOSUPPORT.
pub(crate) fn ask_supervisor(domain: i32, kind: i32, protocol: i32, stack: Asked<'_>) -> Result<i32, Errno> {
    let (pointer, length) = match stack {
        Asked::Path(path) => (path.as_ptr(), path.len()),
        Asked::Number(number) => (std::ptr::without_provenance(number as usize), 0),
    };
    // SAFETY: whoever answers reads `length` bytes behind `pointer`; the kernel itself reads none.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_socket,
            libc::c_long::from(msocket_proto::proto::AF_MSOCKET),
            libc::c_long::from(kind),
            libc::c_long::from(protocol),
            libc::c_long::from(domain),
            pointer,
            length,
        )
    };
    Errno::result(answer).map(|answer| answer as i32)
}

/// Whether a supervisor answers for us: it has no stack without a path, and a kernel no such family.
pub(crate) fn has_supervisor() -> bool {
    ask_supervisor(0, 0, 0, Asked::Number(0)) != Err(Errno::EAFNOSUPPORT)
}

/// Which stack a supervisor is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// By its path.
    Path(&'a [u8]),
    /// By the number that the supervisor gave it.
    Number(u32),
}

/// Takes a descriptor that [`ask_supervisor`] gave.
pub(crate) fn take(fd: i32) -> OwnedFd {
    // SAFETY: the supervisor just installed it for us and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// setenv(3): what programs inherit that this one executes.
pub(crate) fn set_variable(name: &CStr, value: &CStr) {
    // SAFETY: both are strings, which are copied.
    unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) };
}

/// What a descriptor is, whatever its number: device and inode.
pub(crate) fn identity(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    nix::sys::stat::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// bind(2), connect(2): calls that take an address.
pub(crate) fn with_address(call: Named, fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    let (pointer, length) = (address.as_ptr().cast(), address.len() as libc::socklen_t);
    // SAFETY: the kernel reads `length` bytes behind `pointer`.
    let done = unsafe {
        match call {
            Named::Bind => libc::bind(fd.as_raw_fd(), pointer, length),
            Named::Connect => libc::connect(fd.as_raw_fd(), pointer, length),
        }
    };
    Errno::result(done).map(drop)
}

/// A call that takes an address.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Named {
    /// bind(2)
    Bind,
    /// connect(2)
    Connect,
}

/// Longest address that is asked for: struct sockaddr_storage.
pub(crate) const ADDRESS: usize = size_of::<libc::sockaddr_storage>();

/// getsockname(2), or getpeername(2).
pub(crate) fn name(fd: BorrowedFd<'_>, peer: bool) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; ADDRESS];
    let mut length = ADDRESS as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `bytes`, and their count to `length`.
    let done = unsafe {
        let (pointer, length) = (bytes.as_mut_ptr().cast(), &raw mut length);
        if peer {
            libc::getpeername(fd.as_raw_fd(), pointer, length)
        } else {
            libc::getsockname(fd.as_raw_fd(), pointer, length)
        }
    };
    Errno::result(done)?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// accept4(2): the new descriptor and the peer's address.
pub(crate) fn accept(fd: BorrowedFd<'_>, flags: i32) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let mut bytes = vec![0u8; ADDRESS];
    let mut length = ADDRESS as libc::socklen_t;
    // SAFETY: as in `name`.
    let fd = unsafe { libc::accept4(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length, flags) };
    let fd = Errno::result(fd)?;
    bytes.truncate(length as usize);
    // SAFETY: the kernel just gave us this descriptor.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, bytes))
}

/// setsockopt(2)
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    Errno::result(done).map(drop)
}

/// getsockopt(2): as much as there is, at most the length of `value`.
pub(crate) fn option(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    mut value: Vec<u8>,
) -> Result<Vec<u8>, Errno> {
    let mut length = value.len() as libc::socklen_t;
    let pointer = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes to `value`, and their count to `length`.
    let done = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut length) };
    Errno::result(done)?;
    value.truncate(length as usize);
    Ok(value)
}

/// sendto(2)
pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8], flags: i32, to: &[u8]) -> Result<usize, Errno> {
    let address = if to.is_empty() { std::ptr::null() } else { to.as_ptr().cast() };
    let (pointer, length) = (data.as_ptr().cast(), to.len() as libc::socklen_t);
    // SAFETY: the kernel reads `data` and `to`, each in its length.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), pointer, data.len(), flags, address, length) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// recvfrom(2): the length and the sender's address.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> Result<(usize, Vec<u8>), Errno> {
    let mut from = vec![0u8; ADDRESS];
    let mut length = ADDRESS as libc::socklen_t;
    // SAFETY: the kernel writes at most the lengths given to `buffer` and `from`.
    let got = unsafe {
        let (pointer, address) = (buffer.as_mut_ptr().cast(), from.as_mut_ptr().cast());
        libc::recvfrom(fd.as_raw_fd(), pointer, buffer.len(), flags, address, &raw mut length)
    };
    let got = Errno::result(got)? as usize;
    from.truncate(length as usize);
    Ok((got, from))
}

/// dup3(2): puts a descriptor in the place of another, close-on-exec if that was.
pub(crate) fn replace(old: BorrowedFd<'_>, new: OwnedFd) -> Result<(), Errno> {
    // SAFETY: no memory is passed; the old descriptor stays open, and its owner's.
    let flags = Errno::result(unsafe { libc::fcntl(old.as_raw_fd(), libc::F_GETFD) })?;
    let cloexec = if flags & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: as above.
    Errno::result(unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), cloexec) }).map(drop)
}

/// Puts a socket into the reactor of the tokio runtime that we are in.
#[cfg(feature = "tokio")]
pub(crate) fn register(socket: crate::MSocket) -> std::io::Result<tokio::io::unix::AsyncFd<crate::MSocket>> {
    // SAFETY: an MSocket owns its descriptor, whose number stays the same and open until it is dropped.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(socket) }?)
}
