//! What a new port is made of: a link's descriptors, opened where this command runs.
//!
//! # Theory of operation
//! The switch gets open descriptors; it opens nothing itself. So a port belongs to the network, the user and the view
//! of whoever adds it. Two switches are joined by a ring: each gets one of its ends, and one end of a socket pair
//! that tells it when the other has gone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use msocket_proto::line::CallError;
use switch::client::{Attach, Kind};
use switch::link::{Address, Link};
use switch::ports::ring::{CAPACITY, Ring};
use switch::ports::{packet, tap, vde, watch};
use switch::vde::Wanted;
use switch::vlan::PortVlans;

use super::{connect, socket_of};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;

/// The file mode of a socket on which QEMU finds us: its user is ours.
const SOCKET_MODE: u32 = 0o600;

/// How often the other switch is asked for a port whose name is taken there, and the pause between two times.
const FAR_ATTEMPTS: u32 = 50;
const FAR_PAUSE: Duration = Duration::from_millis(10);

/// A port to be.
pub(super) struct Plug<'a> {
    /// The switch's name or path, as typed.
    pub(super) switch: &'a str,
    pub(super) port: &'a str,
    /// A TAP without offloads.
    pub(super) plain: bool,
    pub(super) vlans: Option<PortVlans>,
}

/// A port's descriptors and what is said with them.
pub(super) struct Opened {
    pub(super) fds: Vec<OwnedFd>,
    pub(super) attach: Attach,
}

impl Plug<'_> {
    /// Opens what a link leads to.
    pub(super) fn open(self, link: &Link, runtime: &Runtime) -> Result<Opened, Failure> {
        let what = || format!("cannot add {link}");
        let (kind, fds) = match link {
            Link::Tap(device) => (Kind::Tap, watched(open_tap(device, self.plain)?)),
            Link::Nic(device) => (Kind::Packet, watched(open_nic(device)?)),
            Link::Vde { path, port } => (Kind::Vde, self.plug_vde(path, *port)?),
            Link::Switch { name, vlans } => return self.join(link, name, vlans.clone(), runtime),
            Link::Udp { remote, local } => (Kind::Dgram, vec![open_udp(&what(), *remote, *local)?]),
            Link::Vxlan { local, .. } => (Kind::Vxlan, vec![bind_udp(&what(), *local)?.into()]),
            Link::Stream { at, listen } => (Kind::Stream, vec![open_stream(&what(), at, *listen)?]),
            Link::Dgram { remote, local } => (Kind::Dgram, vec![open_dgram(&what(), remote, local)?]),
            Link::Impaired(impaired) => return self.open(&impaired.link, runtime),
        };
        let mut attach = self.attach(kind, link, PortVlans::default());
        if let Link::Vxlan { config, .. } = link {
            attach.vxlan = Some(config.clone());
        }
        Ok(Opened { fds, attach })
    }

    fn attach(&self, kind: Kind, link: &Link, default: PortVlans) -> Attach {
        Attach {
            name: Some(self.port.to_owned()),
            vlans: self.vlans.clone().unwrap_or(default),
            linger: true,
            peer: link.to_string(),
            ..Attach::new(kind)
        }
    }

    /// What the port is called at the other end.
    fn far_name(&self) -> String {
        let switch = Path::new(self.switch)
            .file_name()
            .map_or_else(|| self.switch.into(), |name| name.to_string_lossy());
        format!("{switch}.{}", self.port)
    }

    fn plug_vde(&self, folder: &Path, port: Option<u32>) -> Result<Vec<OwnedFd>, Failure> {
        let what = format!("cannot plug into the VDE switch {}", folder.display());
        let plug = vde::plug(folder, Wanted::number(port), &format!("viewnet:{}", self.far_name()));
        let plug = plug.map_err(|e| Failure::from(vde::refuse(what, &folder.to_string_lossy(), e)))?;
        Ok(plug.into())
    }

    /// A ring to another switch: its end is plugged in there, ours is returned.
    fn join(
        self,
        link: &Link,
        name: &str,
        vlans: Option<PortVlans>,
        runtime: &Runtime,
    ) -> Result<Opened, Failure> {
        let what = || format!("cannot join the switch `{name}`");
        let path = socket_of(name, runtime)?;
        if path == socket_of(self.switch, runtime)? {
            return Err(
                Failure::new(what(), "it is the same switch").hint("that would be a loop: name another")
            );
        }
        let mut far = connect(name, &path)?;
        let (_, [memory, theirs, ours]) = Ring::create(CAPACITY).map_err(|e| Failure::io(what(), &e))?;
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(|e| Failure::io(what(), &e));
        let (here, there) = UnixStream::pair().map_err(|e| Failure::io(what(), &e))?;
        let fds = vec![clone(&memory)?, clone(&ours)?, clone(&theirs)?, here.into()];
        let attach =
            Attach { mirrored: true, ..self.attach(Kind::Ring, link, PortVlans::between_switches()) };
        let far_attach = Attach {
            name: Some(self.far_name()),
            vlans: vlans.unwrap_or_else(PortVlans::between_switches),
            linger: true,
            peer: format!("switch:{}", self.switch),
            ..Attach::new(Kind::Ring)
        };
        let far_fds = [memory, theirs, ours, there.into()];
        let mut attempts = FAR_ATTEMPTS;
        loop {
            match far.add_port_of(&far_fds, &far_attach) {
                // A port of ours that was just removed here is a moment longer there.
                Err(CallError::Refused(refusal)) if refusal.errno == Some(libc::EEXIST) && attempts > 0 => {
                    attempts -= 1;
                    std::thread::sleep(FAR_PAUSE);
                }
                Err(e) => return Err(call_failed(&what(), e)),
                Ok(_) => return Ok(Opened { fds, attach }),
            }
        }
    }
}

fn in_use(what: &str, why: String) -> Failure {
    let mut failure = Failure::new(what, why);
    failure.refusal.errno = Some(libc::EADDRINUSE);
    failure
}

fn bind_udp(what: &str, local: SocketAddr) -> Result<UdpSocket, Failure> {
    UdpSocket::bind(local).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => in_use(what, format!("something else receives at {local}"))
            .hint("choose another `local` address or port; `ss -lun` lists who does"),
        io::ErrorKind::AddrNotAvailable => {
            Failure::new(what, format!("{} is no address of this network", local.ip()))
                .hint("`ip address` lists those of the network in which this command runs")
        }
        _ => Failure::io(what, &e),
    })
}

fn open_udp(what: &str, remote: SocketAddr, local: Option<SocketAddr>) -> Result<OwnedFd, Failure> {
    let any = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, remote.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, remote.port()).into(),
    };
    let local = local.unwrap_or(any);
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(Failure::new(what, "its two addresses are of different families").hint("give two of one"));
    }
    let socket = bind_udp(what, local)?;
    socket.connect(remote).map_err(|e| Failure::io(what, &e))?;
    Ok(socket.into())
}

fn open_stream(what: &str, at: &Address, listen: bool) -> Result<OwnedFd, Failure> {
    let opened: io::Result<OwnedFd> = match (at, listen) {
        (Address::Path(path), true) => {
            absolute(path).and_then(|path| msocket_proto::line::listen(&path, SOCKET_MODE)).map(Into::into)
        }
        (Address::Path(path), false) => UnixStream::connect(path).map(Into::into),
        (Address::Ip(address), true) => TcpListener::bind(address).map(Into::into),
        (Address::Ip(address), false) => TcpStream::connect(address).map(Into::into),
    };
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if !listen => {
            Failure::new(what, format!("nobody listens at {at}"))
                .hint("start QEMU with `server=on` first, or add `[listen]` and start it with `server=off`")
        }
        io::ErrorKind::AddrInUse => in_use(what, format!("{at} is in use")).hint("choose another address"),
        _ => Failure::io(what, &e),
    })
}

fn open_dgram(what: &str, remote: &Path, local: &Path) -> Result<OwnedFd, Failure> {
    let bind = |path: &Path| match UnixDatagram::bind(path) {
        // Left behind by one that is gone, if nobody reads it.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_deserted(path) => {
            std::fs::remove_file(path).and_then(|()| UnixDatagram::bind(path))
        }
        other => other,
    };
    let local = absolute(local).map_err(|e| Failure::io(what, &e))?;
    let socket = bind(&local).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            in_use(what, format!("{} is in use", local.display())).hint("choose another `local` path")
        }
        _ => Failure::io(what, &e),
    })?;
    absolute(remote).and_then(|remote| socket.connect(remote)).map_err(|e| {
        let _ = std::fs::remove_file(&local);
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::new(what, format!("nobody receives at {}", remote.display()))
                    .hint("start QEMU first")
            }
            _ => Failure::io(what, &e),
        }
    })?;
    Ok(socket.into())
}

fn is_deserted(path: &Path) -> bool {
    let tried = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    tried.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// The switch must find it from wherever it runs.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// An interface, and who tells of its link; without that the switch asks now and then.
fn watched(interface: OwnedFd) -> Vec<OwnedFd> {
    let watch = watch::open().inspect_err(|e| log::debug!("nobody tells of the link: {e}"));
    std::iter::once(interface).chain(watch.ok()).collect()
}

fn open_tap(device: &str, plain: bool) -> Result<OwnedFd, Failure> {
    let node = Path::new(tap::DEVICE);
    let opened = if plain { tap::open_plain(node, device) } else { tap::open(node, device) };
    let what = format!("cannot make the TAP `{device}`");
    opened.map(|(fd, _)| fd).map_err(|e| match e.raw_os_error() {
        // EACCES is the node's mode, EPERM the missing capability.
        Some(libc::EACCES) => Failure::new(what, format!("{}: {e}", node.display()))
            .hint("`viewnet doctor` says how to open the node; `--nic` over a veth pair needs none"),
        Some(libc::ENOENT | libc::ENODEV) => Failure::new(what, format!("{}: {e}", node.display()))
            .hint("load the driver: `sudo modprobe tun`"),
        Some(libc::EPERM) => Failure::new(what, "not permitted in this network").hint(PRIVILEGE),
        Some(libc::EBUSY) => Failure::new(what, "the interface is in use").hint("choose another name"),
        Some(libc::EINVAL) => Failure::new(what, "the interface exists and is no TAP of this kind"),
        _ if e.kind() == io::ErrorKind::InvalidInput => {
            Failure::new(what, "the name is longer than 15 bytes")
        }
        _ => Failure::new(what, e),
    })
}

fn open_nic(device: &str) -> Result<OwnedFd, Failure> {
    let what = format!("cannot take the interface `{device}`");
    let index = nix::net::if_::if_nametoindex(device)
        .map_err(|e| Failure::new(&what, e.desc()).hint("`ip link` lists the interfaces of this network"))?;
    packet::open(index).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => Failure::new(what, "not permitted in this network").hint(PRIVILEGE),
        _ => Failure::new(what, e),
    })
}

const PRIVILEGE: &str = "run it inside a view (`viewnet run -- viewnet switch port add …`), whose network is yours, or as \
    root, with the path of the switch's socket, which `viewnet switch show` prints, in place of its name";
