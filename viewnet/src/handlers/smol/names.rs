//! bind(2), connect(2), listen(2), accept(2), getsockname(2), getpeername(2), shutdown(2).

use nix::errno::Errno;
use stacks::smol::call::SocketCall;

use crate::answer::Stop;
use crate::ask::{Ask, Give, Name};
use crate::handlers::Call;

/// sizeof(struct sockaddr_storage), socket(7): the longest address that the kernel takes.
pub(super) const MAX_ADDRESS: usize = 128;

/// An address that the program gives: move_addr_to_kernel of net/socket.c.
pub(super) fn address(call: &mut Call<'_>, pointer: usize, length: usize) -> Result<Vec<u8>, Stop> {
    let length = usize::try_from(call.int(length)).map_err(|_| Errno::EINVAL)?;
    if length > MAX_ADDRESS {
        return Err(Stop::Fail(Errno::EINVAL));
    }
    Ok(call.target.read(call.address(pointer), length)?)
}

/// Where an address that the program wants goes.
pub(super) fn name(call: &Call<'_>, pointer: usize, length: usize) -> Name {
    Name { address: call.address(pointer), length: call.address(length) }
}

/// bind(2)
pub(super) fn bind(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::Bind { address: address(call, 1, 2)? }, Give::Value))
}

/// connect(2)
pub(super) fn connect(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::Connect { address: address(call, 1, 2)? }, Give::Value))
}

/// listen(2)
pub(super) fn listen(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::Listen { backlog: call.int(1) }, Give::Value))
}

/// accept(2)
pub(super) fn accept(call: &mut Call<'_>) -> Result<Ask, Stop> {
    accept_with(call, 0)
}

/// accept4(2)
pub(super) fn accept4(call: &mut Call<'_>) -> Result<Ask, Stop> {
    accept_with(call, call.int(3))
}

fn accept_with(call: &Call<'_>, flags: i32) -> Result<Ask, Stop> {
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Stop::Fail(Errno::EINVAL));
    }
    let give = Give::Accepted { peer: name(call, 1, 2), cloexec: flags & libc::SOCK_CLOEXEC != 0 };
    Ok(Ask::new(SocketCall::Accept { flags }, give))
}

/// getsockname(2)
pub(super) fn getsockname(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::LocalName, Give::Name(name(call, 1, 2))))
}

/// getpeername(2)
pub(super) fn getpeername(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::PeerName, Give::Name(name(call, 1, 2))))
}

/// shutdown(2)
pub(super) fn shutdown(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::Shutdown { how: call.int(1) }, Give::Value))
}
