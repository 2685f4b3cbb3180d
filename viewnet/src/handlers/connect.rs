//! connect(2) to a Unix socket: the host's name services are not for a view.
//!
//! nscd, systemd-resolved and, on the system bus, its D-Bus name would resolve in the host's network what
//! the view must resolve in its own. They are refused with ECONNREFUSED, on which libc goes on to the
//! nameservers of resolv.conf, in the view. A view that has the host's own internet by default may ask them. Every other connection is run by the kernel, not by us: the
//! peer must see the program's own credentials (SO_PEERCRED). The price is that a program that changes the
//! path while it is being judged can reach such a service; a view does not confine programs that attack it.

use nix::errno::Errno;

use super::Call;
use crate::answer::{Answer, Stop};

/// sizeof(sa_family_t): where sun_path begins (unix(7)).
const PATH_AT: usize = 2;
/// sizeof(struct sockaddr_un).
const MAX_LENGTH: usize = 110;

/// connect(2)
pub(super) fn connect(call: &mut Call<'_>) -> Answer {
    let length = call.int(2);
    let Ok(length) = usize::try_from(length) else { return Err(Stop::Native) };
    // A sockaddr_un at least long enough for one byte of path, at most as long as the kernel takes.
    if !(PATH_AT + 1..=MAX_LENGTH).contains(&length) {
        return Err(Stop::Native);
    }
    // A program that nobody may look at (0711, PR_SET_DUMPABLE 0) or a bad pointer: the kernel's affair.
    let Ok(bytes) = call.target.read(call.address(1), length) else { return Err(Stop::Native) };
    if u16::from_ne_bytes([bytes[0], bytes[1]]) != libc::AF_UNIX as u16 {
        return Err(Stop::Native);
    }
    let path = bytes[PATH_AT..].split(|b| *b == 0).next().unwrap_or_default();
    if !path.is_empty() && call.target.is_host_resolver(path)? && !call.caller.is_on_host(call.target)? {
        return Err(Stop::Fail(Errno::ECONNREFUSED));
    }
    Err(Stop::Native)
}
