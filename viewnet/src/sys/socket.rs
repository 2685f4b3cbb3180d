//! Sockets whose names and options are bytes: what they are is the program's affair.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// sizeof(struct sockaddr_storage), socket(7).
const MAX_ADDRESS: usize = 128;
/// struct f_owner_ex, fcntl(2).
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    pid: libc::pid_t,
}
const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;

/// getsockopt(2) into `value`; returns the bytes used.
pub(crate) fn option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the length of `value`.
    let rc =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(rc).map(|_| (length as usize).min(value.len()))
}

/// setsockopt(2)
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads `length` bytes, which is the length of `value`.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    Errno::result(rc).map(drop)
}

/// bind(2)
pub(crate) fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel copies `length` bytes, which is the length of `address`.
    Errno::result(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), length) }).map(drop)
}

/// getsockname(2)
pub(crate) fn local_name(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut address = vec![0; MAX_ADDRESS];
    let mut length = MAX_ADDRESS as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the length of `address`.
    let rc = unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(rc)?;
    address.truncate(length as usize);
    Ok(address)
}

/// Gives `to` the status flags of `from` that a program can set on a socket, and whom it signals (fcntl(2)).
pub(crate) fn copy_flags(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let mut owner = Owner { kind: 0, pid: 0 };
    // SAFETY: the kernel writes one struct f_owner_ex.
    if unsafe { libc::fcntl(from, F_GETOWN_EX, &raw mut owner) } == 0 && owner.pid != 0 {
        // SAFETY: the kernel reads one struct f_owner_ex.
        Errno::result(unsafe { libc::fcntl(to, F_SETOWN_EX, &raw const owner) })?;
    }
    // SAFETY: no memory is passed.
    let signal = unsafe { libc::fcntl(from, F_GETSIG) };
    if signal > 0 {
        // SAFETY: no memory is passed.
        Errno::result(unsafe { libc::fcntl(to, F_SETSIG, signal) })?;
    }
    // SAFETY: no memory is passed.
    let flags = Errno::result(unsafe { libc::fcntl(from, libc::F_GETFL) })?;
    let flags = flags & (libc::O_NONBLOCK | libc::O_ASYNC);
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::fcntl(to, libc::F_SETFL, flags) }).map(drop)
}

/// epoll_ctl(2) on `file` under the number that the program has it under: the kernel tells the files of an epoll set apart by file
/// and number. Without `event` the file is taken out. Whatever of ours has the number is put aside for
/// the moment; the process must have one thread.
pub(crate) fn watch_as(
    epoll: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    number: i32,
    event: Option<(u32, u64)>,
) -> Result<(), Errno> {
    let ours = [epoll.as_raw_fd(), file.as_raw_fd()];
    // SAFETY: no memory is passed.
    let aside = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the kernel just gave us this descriptor.
    let aside = (aside >= 0).then(|| unsafe { OwnedFd::from_raw_fd(aside) });
    // What is moved out of the way is used by its copy.
    let [epoll, file] =
        ours.map(|fd| if fd == number { aside.as_ref().map_or(fd, AsRawFd::as_raw_fd) } else { fd });
    // SAFETY: no memory is passed; what `number` was is kept in `aside` and comes back below.
    Errno::result(unsafe { libc::dup3(file, number, libc::O_CLOEXEC) })?;
    let mut raw = libc::epoll_event {
        events: event.map_or(0, |(events, _)| events),
        u64: event.map_or(0, |(_, data)| data),
    };
    let op = if event.is_some() { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_DEL };
    // SAFETY: the kernel reads one struct epoll_event.
    let done = Errno::result(unsafe { libc::epoll_ctl(epoll, op, number, &raw mut raw) }).map(drop);
    match &aside {
        // SAFETY: `number` is what it was before, but for its close-on-exec flag, which all of ours have.
        Some(aside) => drop(unsafe { libc::dup3(aside.as_raw_fd(), number, libc::O_CLOEXEC) }),
        // SAFETY: nobody of ours owned `number`.
        None => drop(unsafe { libc::close(number) }),
    }
    done
}
