//! seccomp(2) with user notification, seccomp_unotify(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use seccompiler::sock_filter;

use crate::handlers::smol::EXEMPT;

/// Handled signals do not interrupt a call that the supervisor has taken (Linux 5.19).
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// Who makes a call sleeps at once, and so does who has answered it: the other one runs best where it did
/// (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6).
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// Install the descriptor and answer with its number in one step (Linux 5.14).
const ADDFD_SEND: u32 = 1 << 1;
/// Let the kernel run the call.
const FLAG_CONTINUE: u32 = 1;

/// A trapped call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Names the call until it is answered.
    pub(crate) id: u64,
    /// The thread that made it, in our pid namespace.
    pub(crate) tid: i32,
    /// Its number.
    pub(crate) nr: i32,
    /// AUDIT_ARCH_*: how to read `nr` and `args`.
    pub(crate) arch: u32,
    /// Its arguments, as they were in the registers.
    pub(crate) args: [u64; 6],
}

/// Gives up gaining privileges by exec, which lets an ordinary user install a filter.
pub(crate) fn set_no_new_privs() -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Whether handled signals interrupt a call that the supervisor has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signals {
    /// They wait, if the kernel can have them wait: for calls that are answered at once.
    Wait,
    /// They interrupt it: for calls that may wait themselves. The kernel fails it with EINTR, or makes it anew.
    Interrupt,
}

/// Installs a filter on this thread and returns its listener. EBUSY: a filter with a listener is there.
pub(crate) fn install(program: &[sock_filter], signals: Signals) -> Result<OwnedFd, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let load = |flags: libc::c_ulong| {
        // SAFETY: the kernel reads `len` instructions behind `filter`, which is `program`;
        // seccompiler's sock_filter has the layout of the kernel's.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER as libc::c_ulong,
                flags,
                &raw const fprog,
            )
        };
        Errno::result(fd)
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as libc::c_ulong;
    let fd = match signals {
        Signals::Interrupt => load(listener)?,
        Signals::Wait => match load(listener | WAIT_KILLABLE_RECV) {
            Err(Errno::EINVAL) => load(listener)?,
            other => other?,
        },
    };
    // SAFETY: the kernel just gave us this descriptor; it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes the next call. ENOENT: it was gone already; try again.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: all-zero is what the kernel wants to find.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one seccomp_notif.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut raw) })?;
    Ok(Notification {
        id: raw.id,
        tid: raw.pid as i32,
        nr: raw.data.nr,
        arch: raw.data.arch,
        args: raw.data.args,
    })
}

/// Lets caller and supervisor wake each other on the same CPU, where the kernel knows how; else nothing changes.
pub(crate) fn share_cpu(listener: BorrowedFd<'_>) {
    // SAFETY: the request takes a number and no pointer.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Is the call still waiting? False once its thread was killed or interrupted.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads eight bytes from `id`, which outlives the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Installs a descriptor in the caller's table and returns its number there. EMFILE is the caller's.
pub(crate) fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
) -> Result<i32, Errno> {
    add(listener, id, fd, cloexec, 0)
}

/// The same, and answers the call with that number. ENOENT: the call has gone, and nothing was installed.
pub(crate) fn add_fd_and_answer(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
) -> Result<i32, Errno> {
    add(listener, id, fd, cloexec, ADDFD_SEND)
}

/// Puts a descriptor in the place of number `over` of the caller's table.
pub(crate) fn replace_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    over: i32,
    cloexec: bool,
) -> Result<(), Errno> {
    add_at(listener, id, fd, cloexec, libc::SECCOMP_ADDFD_FLAG_SETFD as u32, over as u32).map(drop)
}

fn add(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
    flags: u32,
) -> Result<i32, Errno> {
    add_at(listener, id, fd, cloexec, flags, 0)
}

fn add_at(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
    flags: u32,
    newfd: u32,
) -> Result<i32, Errno> {
    let raw = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: fd.as_raw_fd() as u32,
        newfd,
        newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the kernel reads one seccomp_notif_addfd.
    let done = Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ADDFD, &raw const raw) });
    // It went while it was to take the descriptor (seccomp_do_user_notification of kernel/seccomp.c).
    done.map_err(|errno| if errno == Errno::ESRCH { Errno::ENOENT } else { errno })
}

/// Answers a call with a value or an error.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
    let (val, error) = match result {
        Ok(value) => (value, 0),
        Err(errno) => (0, -(errno as i32)),
    };
    send(listener, libc::seccomp_notif_resp { id, val, error, flags: 0 })
}

/// Lets the kernel run the call as it stands.
pub(crate) fn let_run(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    send(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags: FLAG_CONTINUE })
}

fn send(listener: BorrowedFd<'_>, mut response: libc::seccomp_notif_resp) -> Result<(), Errno> {
    // SAFETY: the kernel reads one seccomp_notif_resp.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut response) }).map(drop)
}

/// Sends a line with the listener beside it, by a sendmsg(2) that the filter exempts: nobody answers calls yet.
pub(crate) fn hand_over(socket: BorrowedFd<'_>, line: &[u8], listener: BorrowedFd<'_>) -> Result<(), Errno> {
    /// CMSG_SPACE(sizeof(int)), aligned as struct cmsghdr.
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        fd: i32,
    }
    // SAFETY: all-zero is a valid struct of lengths and numbers.
    let mut control: Control = unsafe { std::mem::zeroed() };
    let (header, fd) = (size_of::<libc::cmsghdr>(), size_of::<i32>());
    control.header.cmsg_len = (header + fd) as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.fd = listener.as_raw_fd();
    let mut piece = libc::iovec { iov_base: line.as_ptr().cast_mut().cast(), iov_len: line.len() };
    // SAFETY: all-zero is a valid struct msghdr, with null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let marked = socket.as_raw_fd() as u64 | u64::from(EXEMPT) << 32;
    // SAFETY: the kernel reads what `message` points to, all of which outlives the call; of the descriptor it
    // takes the lower half.
    let sent =
        unsafe { libc::syscall(libc::SYS_sendmsg, marked, &raw const message, libc::MSG_NOSIGNAL as u64) };
    Errno::result(sent).and_then(|sent| if sent as usize == line.len() { Ok(()) } else { Err(Errno::EIO) })
}

/// The family of a socket as the kernel has it, asked by a call that is not trapped: on a smol stack not the one that
/// the program asked for.
pub(crate) fn native_domain(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let marked = u64::from(EXEMPT) << 32 | socket.as_raw_fd() as u64;
    let (mut domain, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET as u64, libc::SO_DOMAIN as u64);
    // SAFETY: the kernel writes one int to `domain` and its length to `len`.
    let done =
        unsafe { libc::syscall(libc::SYS_getsockopt, marked, level, name, &raw mut domain, &raw mut len) };
    Errno::result(done).map(|_| domain)
}

/// The trapped call that leads to the supervisor; EAFNOSUPPORT outside a view.
pub(crate) fn open_control() -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::socket(msocket_proto::proto::AF_VIEWNET, libc::SOCK_STREAM, 0) })?;
    // SAFETY: the descriptor was just made for us; the supervisor made it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
