//! Which destinations a call names: what the rules of a view judge (see [`crate::steer`]) before the call goes on as
//! in any other view.
//!
//! What the kernel refuses anyway (a bad pointer, an address that is too long or too short, another family) is no
//! destination: nothing is judged, and the kernel or the stack gives its error.

use nix::errno::Errno;

use super::smol::{call_of_socketcall, layout};
use super::{Abi, Call};
use crate::answer::{Answer, Stop};

/// sizeof(struct sockaddr_storage), socket(7): the longest address that the kernel takes.
const MAX_ADDRESS: usize = 128;
/// Most messages of one call: UIO_MAXIOV, linux/uio.h.
const MAX_MESSAGES: usize = 1024;

/// What a call is about to do with its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// bind(2)
    Bind,
    /// connect(2), or a send that connects (MSG_FASTOPEN).
    Connect,
    /// A send with an address.
    Send,
}

/// A call that names destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Course {
    /// The descriptor.
    pub(crate) fd: i32,
    /// What for.
    pub(crate) use_: Use,
    /// `struct sockaddr` bytes, one at least.
    pub(crate) addresses: Vec<Vec<u8>>,
}

/// What a call names, if it names anything.
pub(crate) fn course(name: &str, call: &mut Call<'_>) -> Option<Course> {
    let (name, args) = match name {
        "socketcall" => call_of_socketcall(call).ok()??,
        name => (name, call.args),
    };
    let abi = call.abi;
    let wide = |n: usize| if abi == Abi::Native { args[n] } else { args[n] & 0xffff_ffff };
    let int = |n: usize| args[n] as i32;
    let flagged = |n: usize| if int(n) & libc::MSG_FASTOPEN != 0 { Use::Connect } else { Use::Send };
    let (use_, addresses) = match name {
        "bind" => (Use::Bind, vec![address(call, wide(1), int(2))]),
        "connect" => (Use::Connect, vec![address(call, wide(1), int(2))]),
        "sendto" => (flagged(3), vec![address(call, wide(4), int(5))]),
        "sendmsg" => (flagged(2), vec![name_of(call, wide(1))]),
        "sendmmsg" => {
            let count = (wide(2) as u32 as usize).min(MAX_MESSAGES) as u64;
            let entry = layout::entry(abi);
            let all = (0..count).map(|n| name_of(call, wide(1).wrapping_add(n * entry)));
            (flagged(3), all.collect())
        }
        _ => return None,
    };
    let addresses: Vec<Vec<u8>> = addresses.into_iter().flatten().collect();
    (!addresses.is_empty()).then(|| Course { fd: int(0), use_, addresses })
}

/// An address of the program, if there is one.
fn address(call: &mut Call<'_>, pointer: u64, length: i32) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| (2..=MAX_ADDRESS).contains(length))?;
    if pointer == 0 { None } else { call.target.read(pointer, length).ok() }
}

/// The address in a struct msghdr: its first two members are a pointer and an int.
fn name_of(call: &mut Call<'_>, header: u64) -> Option<Vec<u8>> {
    let bytes = call.target.read(header, if call.abi == Abi::Native { 12 } else { 8 }).ok()?;
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (pointer, length) = match call.abi {
        Abi::Native => (u64::from(word(0)) | u64::from(word(4)) << 32, word(8)),
        Abi::I386 => (u64::from(word(0)), word(4)),
    };
    // A longer one is cut (__copy_msghdr, net/socket.c).
    address(call, pointer, length.min(MAX_ADDRESS as u32) as i32)
}

/// What has been judged is the kernel's.
pub(super) fn native(_call: &mut Call<'_>) -> Answer {
    Err(Stop::Native)
}

/// Why a send cannot go where its rule says: its socket is on another stack, and stays there.
pub(crate) const ELSEWHERE: Errno = Errno::ENETUNREACH;
