//! socketcall(2) of 32-bit x86: one number for all calls on sockets, their arguments in memory.

use super::TABLE;
use crate::answer::Stop;
use crate::handlers::{Call, Row};

/// The calls in the order of their numbers, from 1 on (linux/net.h), and how many arguments each has.
const CALLS: [(&str, usize); 20] = [
    ("socket", 3),
    ("bind", 3),
    ("connect", 3),
    ("listen", 2),
    ("accept", 3),
    ("getsockname", 3),
    ("getpeername", 3),
    ("socketpair", 4),
    ("send", 4),
    ("recv", 4),
    ("sendto", 6),
    ("recvfrom", 6),
    ("shutdown", 2),
    ("setsockopt", 5),
    ("getsockopt", 5),
    ("sendmsg", 3),
    ("recvmsg", 3),
    ("accept4", 4),
    ("recvmmsg", 5),
    ("sendmmsg", 4),
];

/// The real call and its arguments, from memory. `None`: there is none, or it makes a socket.
pub(crate) fn call_of_socketcall(call: &mut Call<'_>) -> Result<Option<(&'static str, [u64; 6])>, Stop> {
    let number = usize::try_from(call.int(0)).unwrap_or(0);
    let Some((name, count)) = number.checked_sub(1).and_then(|at| CALLS.get(at)).copied() else {
        return Ok(None);
    };
    // socket(2) and socketpair(2) are judged by the kernel views' handler, which leaves nothing to the kernel.
    if ["socket", "socketpair"].contains(&name) {
        return Ok(None);
    }
    let bytes = call.target.read(call.address(1), 4 * count)?;
    let mut args = [0; 6];
    for (arg, word) in args.iter_mut().zip(bytes.chunks_exact(4)) {
        *arg = u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    // send(2) and recv(2) are sendto(2) and recvfrom(2) without an address.
    let name = match name {
        "send" => "sendto",
        "recv" => "recvfrom",
        name => name,
    };
    Ok(Some((name, args)))
}

/// Takes the real arguments from memory and finds the row of the real call. `None`: the kernel's.
pub(crate) fn unpack(call: &mut Call<'_>) -> Result<Option<&'static Row>, Stop> {
    let Some((name, args)) = call_of_socketcall(call)? else { return Ok(None) };
    let row = TABLE.iter().find(|row| row.name == name).filter(|row| row.applies(&args));
    if row.is_some() {
        call.args = args;
    }
    Ok(row)
}
