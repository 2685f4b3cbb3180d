//! VDE plugs: both ends of a port of a vde_switch, or of a switch that speaks as one does.
//!
//! # Theory of operation
//! A *plug* is two descriptors: a datagram socket, connected to the other end's, through which the frames go, and
//! a stream connection, which hangs up when the other end goes. [`plug`] gets one from a switch ([`crate::vde`] is
//! the protocol); `Seat` is one as a switch hands it out. Names in the file system are needed for the
//! handshake only: the client's is gone when [`plug`] returns, the switch's when its port goes, as in a vde_switch.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use msocket_proto::line::Refusal;
use rustix::fs::{Mode, OFlags};

use super::sys;
use crate::vde::{ADDRESS_LEN, Request, Wanted, parse_answer, socket_name};

/// How long the switch may take to answer; it answers at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names tried for a socket: others may have some, in a folder that is open to all.
const NAME_ATTEMPTS: u32 = 100;

/// Plugs in at the switch whose control socket is in `folder`; `description` is what its owner reads there. The
/// result is [`crate::ports::Kind::Vde`]'s descriptors.
///
/// # Errors
/// ENOENT, ECONNREFUSED: there is no such switch; ENOTDIR: it is no folder; an unexpected end: the switch refused,
/// as one without a free port does; EACCES; no name for our socket.
pub fn plug(folder: &Path, wanted: Wanted, description: &str) -> io::Result<[OwnedFd; 2]> {
    // The switch must find our socket from wherever it runs.
    let folder = folder.canonicalize()?;
    let mut control = UnixStream::connect(folder.join("ctl"))?;
    control.set_read_timeout(Some(PATIENCE))?;
    control.set_write_timeout(Some(PATIENCE))?;
    let (data, name) = bind_somewhere(&folder)?;
    let description = description.chars().filter(char::is_ascii_graphic).collect();
    let socket = name.0.as_os_str().as_bytes().to_vec();
    let request = Request { port: wanted, socket, description };
    control.write_all(&request.to_bytes())?;
    let mut answer = [0; ADDRESS_LEN];
    control.read_exact(&mut answer)?;
    let peer = parse_answer(&answer).ok_or(io::ErrorKind::InvalidData)?;
    data.connect(peer)?;
    data.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    Ok([data.into(), control.into()])
}

/// The words for an error of [`plug`].
pub fn refuse(what: impl Into<String>, folder: &str, error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Refusal::new(what, "there is no such switch")
                .hint(format!("start it with `vde_switch -s {folder}`"))
        }
        io::ErrorKind::NotADirectory => Refusal::new(what, "it is no folder")
            .hint("give the folder in which the switch has its socket `ctl`"),
        io::ErrorKind::UnexpectedEof => {
            Refusal::new(what, "the switch closed the connection; it may have no port left, or not for you")
        }
        _ => Refusal::system(what, error),
    }
}

/// A datagram socket with a name that the switch can connect to: in its folder if we may, else in the usual ones.
fn bind_somewhere(folder: &Path) -> io::Result<(UnixDatagram, FileName)> {
    let pid = std::process::id();
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for folder in [folder, Path::new("/var/tmp"), Path::new("/tmp")] {
        for attempt in 0..NAME_ATTEMPTS {
            let name = folder.join(format!(".viewnet-{pid}-{attempt}"));
            match UnixDatagram::bind(&name) {
                Ok(socket) => {
                    let name = FileName(name);
                    // The switch may be another user's; whose socket it is, is told by the file's owner.
                    fs::set_permissions(&name.0, fs::Permissions::from_mode(0o777))?;
                    return Ok((socket, name));
                }
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => {
                    refused = e;
                    break;
                }
            }
        }
    }
    Err(refused)
}

/// A name in the file system that goes with this value.
#[derive(Debug)]
pub(crate) struct FileName(PathBuf);

impl FileName {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl FileName {
    /// The name of a socket that is bound to a path: as it was bound, so believe this of those only who may remove
    /// what is there.
    pub(crate) fn of_socket(fd: impl AsFd) -> Option<Self> {
        use rustix::net::{SocketAddrUnix, getsockname};
        let name = SocketAddrUnix::try_from(getsockname(fd).ok()?).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(name.path()?.to_bytes()));
        let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
        (path.is_absolute() && is_socket).then_some(Self(path))
    }
}

impl Drop for FileName {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The switch's end of a port that a client asked for.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The datagram socket, connected to the client's.
    pub(crate) data: OwnedFd,
    /// Its name, which is to live as long as the port.
    pub(crate) name: FileName,
}

/// Who may use a switch's VDE sockets: a mode, and a group if it is not the process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// The sockets' mode; the folder's follows from it ([`crate::vde::folder_mode`]).
    pub(crate) mode: u32,
    pub(crate) group: Option<u32>,
}

impl Access {
    /// Lets these in at a socket's file or a folder; `owner` becomes its owner, if we may.
    pub(crate) fn apply(self, path: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
        if owner.is_some() || self.group.is_some() {
            std::os::unix::fs::chown(path, owner, self.group)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
}

impl Seat {
    /// Makes the port's socket in `folder`, connected to the one that user `uid` named.
    ///
    /// # Errors
    /// EPERM when that socket is somebody else's, those of connect(2) and bind(2).
    pub(crate) fn new(
        folder: &Path,
        number: usize,
        access: Access,
        client: &[u8],
        uid: u32,
    ) -> io::Result<Self> {
        let data = UnixDatagram::unbound()?;
        data.set_nonblocking(true)?;
        let owner = match client.split_first() {
            // Abstract names have no owner.
            Some((0, name)) => {
                use std::os::linux::net::SocketAddrExt;
                data.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
                None
            }
            Some(_) => {
                // Nobody shall make us speak to a socket that is not theirs: what is judged is what is used.
                let path = Path::new(OsStr::from_bytes(client));
                let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let owner = rustix::fs::fstat(&file)?.st_uid;
                if owner != uid && uid != 0 {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                data.connect(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                Some(owner)
            }
            None => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let mut name = Err(io::Error::from(io::ErrorKind::AddrInUse));
        for salt in 0..NAME_ATTEMPTS {
            let path = socket_name(folder, number, salt);
            match rustix::net::bind(&data, &rustix::net::SocketAddrUnix::new(&path)?) {
                Ok(()) => {
                    name = Ok(FileName(path));
                    break;
                }
                Err(rustix::io::Errno::ADDRINUSE) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let name = name?;
        // Root gives the socket to its client, and nobody else; others share it as they share the switch.
        let owner = owner.filter(|_| nix::unistd::geteuid().is_root());
        let mode = if owner.is_some() { access.mode & 0o700 } else { access.mode };
        access.apply(&name.0, mode, owner)?;
        Ok(Self { data: data.into(), name })
    }
}

/// Are these a plug's descriptors?
///
/// # Errors
/// EINVAL if not, ENOTSOCK for no sockets.
pub(crate) fn identify(data: BorrowedFd<'_>, control: BorrowedFd<'_>) -> io::Result<()> {
    for (fd, kind) in [(data, libc::SOCK_DGRAM), (control, libc::SOCK_STREAM)] {
        let is_unix = sys::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? == libc::AF_UNIX;
        if !is_unix || sys::option(fd, libc::SOL_SOCKET, libc::SO_TYPE)? != kind {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::getpeername(fd)?;
    }
    Ok(())
}

/// Has the other end of a plug's stream connection gone?
pub(crate) fn is_hung_up(control: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(&control, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) && fds[0].revents().intersects(gone)
}
