//! A port of a vde_switch.
//!
//! # Theory of operation
//! The plug protocol, version 3, of Virtual Distributed Ethernet 2: connect to the stream socket `ctl` in the
//! switch's folder, send one request that names a datagram socket of ours, and read one `struct sockaddr_un`,
//! the switch's datagram socket for this port. Both are connected to each other; each datagram is a plain
//! Ethernet frame, no longer than VDE's buffers. The port lives as long as the stream connection, which hangs
//! up when the switch ends. Our socket's name is needed for the moment of the request only, and is gone from
//! the file system after it.
//!
//! Read: vde-2's src/vde_switch/datasock.c (`request_v3`, `new_port_v1_v3`) and src/lib/libvdeplug.c.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use msocket_proto::line::Refusal;
use nix::sys::epoll::EpollFlags;
use rustix::net::{RecvFlags, SendFlags};
use switch::offload::Pieces;
use switch::port::DropReason;
use switch::ports::Sent;

/// First word of a request (`SWITCH_MAGIC`).
const MAGIC: u32 = 0xFEED_FACE;
/// Second word.
const VERSION: u32 = 3;
/// Third word: a data port (`REQ_NEW_CONTROL`), and in the bits above eight no wish for its number.
const REQ_NEW_CONTROL: u32 = 0;
/// `struct sockaddr_un`: family and 108 bytes of path.
const ADDRESS: usize = 110;
/// Bytes of the description, for people, with which the request stays below vde_switch's buffer (`REQBUFLEN`).
const MAX_DESCRIPTION: usize = 128;
/// Longest frame that a vde_switch takes whole (`struct packet`), in bytes.
const MAX_FRAME: usize = 14 + 1504;
/// How long the switch may take to answer; it answers at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names tried for our socket: others may have some, in a folder that is open to all.
const NAME_ATTEMPTS: u32 = 100;

/// A port of a vde_switch.
#[derive(Debug)]
pub struct Vde {
    control: UnixStream,
    data: UnixDatagram,
}

impl Vde {
    /// Plugs in at the switch whose control socket is in `folder`; `description` is what its owner reads there.
    ///
    /// # Errors
    /// No such switch, or what went wrong.
    pub fn plug(interface: &str, folder: &str, description: &str) -> Result<Self, Refusal> {
        connect(Path::new(folder), description).map_err(|why| {
            let what = format!("cannot plug {interface} into vde_switch {folder}");
            match why.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Refusal::new(what, "there is no such switch")
                        .hint(format!("start it with `vde_switch -s {folder}`"))
                }
                io::ErrorKind::NotADirectory => Refusal::new(what, "it is no folder")
                    .hint("give the folder in which the switch has its socket `ctl`"),
                io::ErrorKind::UnexpectedEof => {
                    Refusal::new(what, "the switch closed the connection; it may have no port left")
                }
                _ => Refusal::new(what, why),
            }
        })
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// EAGAIN when there is none; others when the switch has gone.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let (len, _) = rustix::net::recv(&self.data, &mut *buffer, RecvFlags::DONTWAIT)?;
        Ok(&buffer[..len])
    }

    /// Puts one plain frame out.
    pub(super) fn send(&self, pieces: &Pieces<'_>) -> Sent {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if len > MAX_FRAME {
            return Sent::Dropped(DropReason::Refused);
        }
        let parts = pieces.map(IoSlice::new);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut control = rustix::net::SendAncillaryBuffer::default();
        use rustix::io::Errno;
        match rustix::net::sendmsg(&self.data, &parts, &mut control, flags) {
            Ok(_) => Sent::Bytes(len),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => Sent::Dropped(DropReason::Full),
            Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::PIPE) => Sent::Dead,
            Err(_) => Sent::Dropped(DropReason::Refused),
        }
    }

    pub(super) fn sources(&self) -> [(BorrowedFd<'_>, EpollFlags); 2] {
        let hangup = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        [(self.data.as_fd(), EpollFlags::EPOLLIN), (self.control.as_fd(), hangup)]
    }
}

fn connect(folder: &Path, description: &str) -> io::Result<Vde> {
    // The switch must find our socket from wherever it runs.
    let folder = folder.canonicalize()?;
    let mut control = UnixStream::connect(folder.join("ctl"))?;
    control.set_read_timeout(Some(PATIENCE))?;
    control.set_write_timeout(Some(PATIENCE))?;
    let (data, name) = bind(&folder)?;
    let plugged = request(&mut control, &name, description).and_then(|address| data.connect(address));
    let _ = std::fs::remove_file(&name.0);
    plugged?;
    Ok(Vde { control, data })
}

/// A file name that fits in an address.
struct Name(PathBuf);

/// A datagram socket with a name that the switch can connect to: in its folder if we may, else in the usual ones.
fn bind(folder: &Path) -> io::Result<(UnixDatagram, Name)> {
    let pid = std::process::id();
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for folder in [folder, Path::new("/var/tmp"), Path::new("/tmp")] {
        for attempt in 0..NAME_ATTEMPTS {
            let name = Name(folder.join(format!(".viewnet-{pid}-{attempt}")));
            match UnixDatagram::bind(&name.0) {
                Ok(socket) => {
                    // The switch may be another user's; whose socket it is, is told by the file's owner.
                    std::fs::set_permissions(&name.0, std::fs::Permissions::from_mode(0o777))?;
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

/// Asks for a port; the answer is the switch's socket for it.
fn request(control: &mut UnixStream, name: &Name, description: &str) -> io::Result<PathBuf> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut request = Vec::with_capacity(256);
    for word in [MAGIC, VERSION, REQ_NEW_CONTROL] {
        request.extend(word.to_ne_bytes());
    }
    let address = request.len();
    request.extend((libc::AF_UNIX as u16).to_ne_bytes());
    request.extend(name.0.as_os_str().as_bytes());
    request.resize(address + ADDRESS, 0);
    request.extend(description.bytes().filter(u8::is_ascii_graphic).take(MAX_DESCRIPTION));
    control.write_all(&request)?;
    let mut answer = [0; ADDRESS];
    control.read_exact(&mut answer)?;
    let path = answer[2..].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(PathBuf::from(OsStr::from_bytes(path)))
}
