//! Stacks in a library, as a supervisor runs them.
//!
//! [`SmolHost`] is all that the supervisor knows of them: it makes stacks and sockets, watches one
//! descriptor, gives the host its turns, and hands it the calls on its sockets. [`host`] is the one place
//! where the host of this build is made.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use msocket::line::Refusal;
use nix::errno::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use stacks::config::StackConfig;
use stacks::kernel::orphans::Unfinished;
use stacks::smol::call::SocketHost;
use stacks::stack::{SocketSpec, TYPE_MASK};

/// Names a stack of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SmolId(pub(crate) u64);

/// Whoever runs stacks in a library. Its answers to parked calls are asked for after every call and turn.
pub(crate) trait SmolHost: SocketHost {
    /// Readable when it wants a turn.
    fn watched(&self) -> BorrowedFd<'_>;
    /// When it wants a turn at the latest. A call that leaves something to be done at once says so here.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Its turn: frames, timers, what programs have written.
    fn turn(&mut self, now: Instant);
    /// Makes a stack; `switches` is the folder of the switches' control sockets.
    fn create(
        &mut self,
        now: Instant,
        name: &str,
        config: &StackConfig,
        switches: &Path,
    ) -> Result<SmolId, Refusal>;
    /// Ends a stack: its sockets have no network from now on.
    fn remove(&mut self, stack: SmolId);
    /// Makes a socket, close-on-exec on this side. Whoever asks has the rights it needs.
    fn socket(&mut self, now: Instant, stack: SmolId, spec: SocketSpec) -> Result<OwnedFd, Errno>;
    /// What a stack still owes others when its programs have ended.
    fn unfinished(&mut self, stack: SmolId) -> Unfinished;
}

/// The host of this build, with no stacks yet.
pub(crate) fn host() -> Result<Box<dyn SmolHost>, Refusal> {
    Err(Refusal::new("cannot make a smol stack", "this version has kernel stacks only")
        .hint("leave out `smol`"))
}

/// A socket of the machine rather than of a network, for a caller whose arguments are in memory that it could
/// change before the kernel reads them.
pub(crate) fn machine_socket(spec: SocketSpec) -> Result<OwnedFd, Errno> {
    let kind = u32::try_from(spec.kind & TYPE_MASK).map_err(|_| Errno::EINVAL)?;
    let flags = u32::try_from(spec.kind & !TYPE_MASK).map_err(|_| Errno::EINVAL)?;
    let family = u16::try_from(spec.domain).map_err(|_| Errno::EAFNOSUPPORT)?;
    let protocol = u32::try_from(spec.protocol).map_err(|_| Errno::EPROTONOSUPPORT)?;
    socket_with(
        AddressFamily::from_raw(family),
        SocketType::from_raw(kind),
        SocketFlags::from_bits_retain(flags) | SocketFlags::CLOEXEC,
        std::num::NonZeroU32::new(protocol).map(Protocol::from_raw),
    )
    .map_err(|e| Errno::from_raw(e.raw_os_error()))
}
