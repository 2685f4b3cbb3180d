//! The calls of a program on a socket, made natively or handed to a host of smol stacks.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags, SockaddrLike, SockaddrStorage, sockopt};
use stacks::config::StackConfig;
use stacks::smol::call::{Answered, Caller, Done, SocketCall, SocketHost, Ticket};
use stacks::smol::host::{Host, StackKey};
use stacks::stack::{InterfaceInfo, SocketSpec, Stack};

/// The clock, for a host that runs for real.
#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn now() -> Instant {
    Instant::now()
}

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stack with programs on it.
pub(crate) trait Driver {
    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno>;
    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal>;
    fn bind(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno>;
    fn listen(&mut self, fd: &OwnedFd) -> Result<(), Errno>;
    fn connect(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno>;
    fn accept(&mut self, fd: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno>;
    fn name(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno>;
    fn peer(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno>;
    fn shut(&mut self, fd: &OwnedFd) -> Result<(), Errno>;
    /// SO_LINGER with no time: close(2) resets.
    fn make_abrupt(&mut self, fd: &OwnedFd) -> Result<(), Errno>;
    fn send_to(&mut self, fd: &OwnedFd, data: &[u8], to: SocketAddr) -> Result<usize, Errno>;
    fn receive_from(&mut self, fd: &OwnedFd) -> Result<(Vec<u8>, SocketAddr), Errno>;
    /// What takes place while a program looks elsewhere; until the descriptor is readable, if one is given.
    fn settle(&mut self, until: Option<&OwnedFd>);
    /// The stack goes.
    fn end(&mut self);

    /// write(2), which nobody traps.
    fn write(&mut self, fd: &OwnedFd, data: &[u8]) -> Result<usize, Errno> {
        let written = nix::unistd::write(fd, data);
        self.settle(None);
        written
    }

    /// read(2), which nobody traps.
    fn read(&mut self, fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
        self.settle(Some(fd));
        let mut buffer = vec![0; 4096];
        let length = nix::unistd::read(fd, &mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// close(2), which nobody traps.
    fn close(&mut self, fd: OwnedFd) {
        drop(fd);
        self.settle(None);
    }
}

/// A stack whose sockets are the kernel's.
pub(crate) struct Native<'a, S: Stack> {
    pub(crate) stack: &'a mut S,
    pub(crate) end: &'a dyn Fn(&mut S),
}

fn storage(address: SocketAddr) -> SockaddrStorage {
    address.into()
}

fn plain(address: &SockaddrStorage) -> SocketAddr {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::V4((*v4).into()),
        (_, Some(v6)) => SocketAddr::V6((*v6).into()),
        _ => panic!("an address of family {:?}", address.family()),
    }
}

impl<S: Stack> Driver for Native<'_, S> {
    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        self.stack.socket(spec)
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        self.stack.interfaces()
    }

    fn bind(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        socket::bind(fd.as_raw_fd(), &storage(to))
    }

    fn listen(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        socket::listen(fd, socket::Backlog::new(5).expect("five"))
    }

    fn connect(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        socket::connect(fd.as_raw_fd(), &storage(to))
    }

    fn accept(&mut self, fd: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
        let listener = std::net::TcpListener::from(fd.try_clone().expect("a duplicate"));
        let accepted =
            listener.accept().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))?;
        Ok((accepted.0.into(), accepted.1))
    }

    fn name(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno> {
        socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).map(|name| plain(&name))
    }

    fn peer(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno> {
        socket::getpeername::<SockaddrStorage>(fd.as_raw_fd()).map(|name| plain(&name))
    }

    fn shut(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        socket::shutdown(fd.as_raw_fd(), socket::Shutdown::Write)
    }

    fn make_abrupt(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        socket::setsockopt(fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
    }

    fn send_to(&mut self, fd: &OwnedFd, data: &[u8], to: SocketAddr) -> Result<usize, Errno> {
        socket::sendto(fd.as_raw_fd(), data, &storage(to), MsgFlags::empty())
    }

    fn receive_from(&mut self, fd: &OwnedFd) -> Result<(Vec<u8>, SocketAddr), Errno> {
        let mut buffer = vec![0; 65_536];
        let (length, from) = socket::recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)?;
        buffer.truncate(length);
        Ok((buffer, plain(&from.expect("a sender"))))
    }

    fn settle(&mut self, _until: Option<&OwnedFd>) {}

    fn end(&mut self) {
        (self.end)(self.stack);
    }
}

/// A smol stack, and this process as the supervisor of its programs.
pub(crate) struct Hosted {
    host: Host,
    _folder: tempfile::TempDir,
    key: StackKey,
    tickets: u64,
}

impl Hosted {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut host = Host::new(folder.path()).expect("a host");
        let key = host.create("s", &StackConfig::default(), "/nonexistent".as_ref()).expect("a stack");
        Self { host, _folder: folder, key, tickets: 0 }
    }

    /// A trapped call: it waits, if it has to, as the program does.
    fn call(&mut self, fd: &OwnedFd, call: SocketCall) -> Answered {
        self.tickets += 1;
        let (ticket, copy) = (Ticket(self.tickets), fd.try_clone().expect("a duplicate"));
        let caller = caller(fd);
        if let Some(answered) = self.host.call(now(), ticket, &caller, copy, call) {
            return answered;
        }
        let end = now() + PATIENCE;
        while now() < end {
            self.turn(None);
            if let Some((done, answered)) = self.host.poll_done() {
                assert_eq!(done, ticket, "only one call waits");
                return answered;
            }
        }
        panic!("no answer");
    }

    fn value(&mut self, fd: &OwnedFd, call: SocketCall) -> Result<usize, Errno> {
        match self.call(fd, call).0? {
            Done::Value(value) => Ok(value as usize),
            other => panic!("{other:?}"),
        }
    }

    fn address(&mut self, fd: &OwnedFd, call: SocketCall) -> Result<SocketAddr, Errno> {
        match self.call(fd, call).0? {
            Done::Address(bytes) => Ok(decoded(&bytes)),
            other => panic!("{other:?}"),
        }
    }

    /// Lets the host work once it has something to do. False: it has not, for a while.
    fn turn(&mut self, until: Option<&OwnedFd>) -> bool {
        let wait = self.host.poll_timeout().map(|at| at.saturating_duration_since(now()));
        // An answer on the loopback takes no time: whoever is silent that long waits for nothing.
        let wait = wait.unwrap_or(SILENCE).min(SILENCE);
        let timeout = PollTimeout::from(wait.as_millis() as u16 + 1);
        let mut ready = vec![PollFd::new(self.host.as_fd(), PollFlags::POLLIN)];
        ready.extend(until.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let count = poll(&mut ready, timeout).expect("it polls");
        self.host.turn().expect("a turn");
        count > 0 || wait < SILENCE
    }
}

/// How long nothing happens when nothing is under way.
const SILENCE: Duration = Duration::from_millis(20);

fn caller(fd: &OwnedFd) -> Caller {
    Caller { pid: std::process::id() as i32, uid: 0, fd: fd.as_raw_fd(), rights: true }
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn encoded(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = [(family as u16).to_ne_bytes(), address.port().to_be_bytes()].concat();
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn decoded(bytes: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    if i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) == libc::AF_INET {
        let octets: [u8; 4] = bytes[4..8].try_into().expect("four");
        return SocketAddrV4::new(Ipv4Addr::from(octets), port).into();
    }
    let octets: [u8; 16] = bytes[8..24].try_into().expect("sixteen");
    SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, 0).into()
}

impl Driver for Hosted {
    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        let nobody = Caller { pid: std::process::id() as i32, uid: 0, fd: -1, rights: true };
        self.host.socket(self.key, spec, &nobody, false)
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        Ok(self.host.interfaces(self.key))
    }

    fn bind(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        self.value(fd, SocketCall::Bind { address: encoded(to) }).map(drop)
    }

    fn listen(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        self.value(fd, SocketCall::Listen { backlog: 5 }).map(drop)
    }

    fn connect(&mut self, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        self.value(fd, SocketCall::Connect { address: encoded(to) }).map(drop)
    }

    fn accept(&mut self, fd: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
        match self.call(fd, SocketCall::Accept { flags: libc::SOCK_CLOEXEC }) {
            (Ok(Done::Accepted { peer }), Some(new)) => Ok((new, decoded(&peer))),
            (Err(errno), _) => Err(errno),
            other => panic!("{other:?}"),
        }
    }

    fn name(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno> {
        self.address(fd, SocketCall::LocalName)
    }

    fn peer(&mut self, fd: &OwnedFd) -> Result<SocketAddr, Errno> {
        self.address(fd, SocketCall::PeerName)
    }

    fn shut(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        self.value(fd, SocketCall::Shutdown { how: libc::SHUT_WR }).map(drop)
    }

    fn make_abrupt(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        let value = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
        let call = SocketCall::SetOption { level: libc::SOL_SOCKET, name: libc::SO_LINGER, value };
        self.value(fd, call).map(drop)
    }

    fn send_to(&mut self, fd: &OwnedFd, data: &[u8], to: SocketAddr) -> Result<usize, Errno> {
        let (to, data) = (Some(encoded(to)), data.to_vec());
        self.value(fd, SocketCall::Send { to, control: Vec::new(), data, flags: 0 })
    }

    fn receive_from(&mut self, fd: &OwnedFd) -> Result<(Vec<u8>, SocketAddr), Errno> {
        let call = SocketCall::Receive { length: 65_536, control: 0, flags: 0, named: true };
        match self.call(fd, call).0? {
            Done::Received(message) => Ok((message.data, decoded(&message.from))),
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, until: Option<&OwnedFd>) {
        let end = now() + PATIENCE;
        let readable = |fd: &OwnedFd| {
            let mut ready = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::ZERO) == Ok(1)
        };
        while now() < end {
            let busy = self.turn(until);
            match until {
                Some(fd) if readable(fd) => return,
                None if !busy => return,
                _ => {}
            }
        }
        assert!(until.is_none(), "nothing to read");
    }

    fn end(&mut self) {
        self.host.remove(self.key);
    }
}
