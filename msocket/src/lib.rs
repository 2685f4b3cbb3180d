//! Client library of viewnet: several network stacks in one program.
//!
//! A [`Stack`] is what a machine's network is to a program, and a program may have any number of them: stacks that
//! are kept (`viewnet stack up lan`), those of running views, and stacks inside the program itself, which need no
//! daemon and no privilege.
//!
//! ```
//! use std::io::{Read, Write};
//!
//! let stack = msocket::Stack::create("eth0=none,ip=10.0.0.1/24")?;
//! let listener = stack.tcp_listen("10.0.0.1:80".parse().unwrap())?;
//! let mut client = stack.tcp_connect("10.0.0.1:80".parse().unwrap())?;
//! let (mut server, _) = listener.accept()?;
//! client.write_all(b"hello")?;
//! drop(client);
//! let mut said = String::new();
//! server.read_to_string(&mut said)?;
//! assert_eq!(said, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Below that, [`msocket`] is socket(2) with one more argument, the path of the stack that shall make the socket:
//! the function of the C library.
//!
//! # Theory of operation
//! Inside a view msocket() is one call, which the view's supervisor answers. Without one the library speaks to the
//! stack's path and is given the descriptor. A socket of a kernel stack is then the kernel's and works with every
//! call there is. One of a stack in a library is an AF_UNIX socket whose bytes are the stack's: reading, writing and
//! waiting are the kernel's, the other calls go to the stack ([`mod@call`]), as a supervisor would put them.
#![deny(unsafe_code)]

mod address;
pub mod call;
mod client;
mod default;
mod local;
mod net;
mod numbers;
mod places;
mod socket;
mod stack;
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use net::{TcpListener, TcpStream, UdpSocket};
pub use socket::MSocket;
pub use stack::{InterfaceInfo, Kind, Route, Stack, Statistics};
pub use stacks::config::StackConfig;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use msocket_proto::proto;
use nix::errno::Errno;

/// The name of the machine's own network, which no view gives.
const HOST: &str = "host";
/// How often a stack is looked for that goes while it is found.
const ATTEMPTS: usize = 3;

/// Makes a socket on the stack at `path`, a path or the name of one of the user's stacks; without it, on the
/// default stack of the family. `kind` may have SOCK_CLOEXEC and SOCK_NONBLOCK, as socket(2)'s type.
///
/// # Errors
/// Those of socket(2), and
/// - ENOENT: there is no such stack,
/// - EACCES: its owner does not let us use it,
/// - ENETDOWN: the default stack has gone,
/// - EAFNOSUPPORT: the stack does not have this family,
/// - EOPNOTSUPP: it is a stack in a library, and we are in a view whose supervisor cannot serve any.
pub fn msocket(path: Option<&Path>, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // Asks for no socket; or would, of a supervisor.
    if [proto::SOCK_DEFAULT, proto::SOCK_NUMBER].contains(&kind) {
        return Err(Errno::EINVAL);
    }
    match path {
        None => match default::of(domain).filter(|_| !is_of_the_machine(domain, protocol)) {
            Some(path) => client::socket(&path, domain, kind, protocol).map_err(|errno| match errno {
                Errno::ENOENT => Errno::ENETDOWN,
                other => other,
            }),
            None => sys::socket(domain, kind, protocol),
        },
        Some(name) => {
            let path = places::path(name)?;
            match in_view(name, &path, domain, kind, protocol)? {
                Some(fd) => Ok(sys::take(fd)),
                None if name.as_os_str() == HOST => sys::socket(domain, kind, protocol),
                None => client::socket(&path, domain, kind, protocol),
            }
        }
    }
}

/// As [`set_default`], for such programs: in a view whose socket(2) cannot follow it, a stack in a library is the
/// default of [`msocket`] alone.
///
/// # Errors
/// As [`msocket`], but for EOPNOTSUPP.
pub fn set_default_interposed(path: Option<&Path>, domain: i32) -> Result<(), Errno> {
    match (set_default(path, domain), path) {
        (Err(Errno::EOPNOTSUPP), Some(name)) => default::set(&places::path(name)?, domain),
        (set, _) => set,
    }
}

/// Netlink protocols about the machine, not a network: SELINUX, AUDIT, CONNECTOR, KOBJECT_UEVENT.
fn is_of_the_machine(domain: i32, protocol: i32) -> bool {
    let host =
        [libc::NETLINK_SELINUX, libc::NETLINK_AUDIT, libc::NETLINK_CONNECTOR, libc::NETLINK_KOBJECT_UEVENT];
    domain == libc::AF_NETLINK && host.contains(&protocol)
}

/// As [`msocket`], for programs that have a library before libc's calls, as those that are linked with libmsocket: it
/// makes the calls on sockets of a stack in a library, so that they need no supervisor that serves such stacks.
///
/// # Errors
/// As [`msocket`], but for EOPNOTSUPP.
pub fn msocket_interposed(
    path: Option<&Path>,
    domain: i32,
    kind: i32,
    protocol: i32,
) -> Result<OwnedFd, Errno> {
    match (msocket(path, domain, kind, protocol), path) {
        // Whoever may use its path may do so here, too.
        (Err(Errno::EOPNOTSUPP), Some(name)) => client::socket(&places::path(name)?, domain, kind, protocol),
        (made, _) => made,
    }
}

/// Makes the stack at `path` the default of a family, or with PF_UNSPEC of every family that it has: for this
/// process, and for those that it starts from now on. Inside a view, socket(2) follows it, too. Without a path
/// nothing changes.
///
/// # Errors
/// As [`msocket`].
pub fn set_default(path: Option<&Path>, domain: i32) -> Result<(), Errno> {
    let Some(name) = path else { return Ok(()) };
    let path = places::path(name)?;
    match in_view(name, &path, domain, proto::SOCK_DEFAULT, 0)? {
        Some(_) => {
            default::forget(domain);
            Ok(())
        }
        None => {
            // Better said now than by each socket.
            client::Way::to(&path)?;
            default::set(&path, domain)
        }
    }
}

/// Asks the supervisor of the view that we are in; `None` outside of one.
fn in_view(name: &Path, path: &Path, domain: i32, kind: i32, protocol: i32) -> Result<Option<i32>, Errno> {
    // Their threads would wait for a supervisor that waits for them.
    if places::is_own(path) {
        return Ok(None);
    }
    let asked = if name.as_os_str() == HOST { name } else { path };
    for _ in 0..ATTEMPTS {
        let number = match numbers::of(asked) {
            Some(number) => number,
            None => {
                let path = sys::Asked::Path(asked.as_os_str().as_bytes());
                match sys::ask_supervisor(0, proto::SOCK_NUMBER, 0, path) {
                    Ok(number) => numbers::keep(asked, number as u32),
                    Err(Errno::EAFNOSUPPORT) => return Ok(None),
                    Err(errno) => return Err(errno),
                }
            }
        };
        match sys::ask_supervisor(domain, kind, protocol, sys::Asked::Number(number)) {
            // The stack has gone; there may be another one at its path.
            Err(Errno::ESTALE) => numbers::forget(asked),
            // The supervisor's word for it: the other one is a kernel's that has no supervisor.
            Err(Errno::EPFNOSUPPORT) => return Err(Errno::EAFNOSUPPORT),
            answer => return answer.map(Some),
        }
    }
    Err(Errno::ENETDOWN)
}
