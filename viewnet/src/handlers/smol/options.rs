//! setsockopt(2) and getsockopt(2).
//!
//! A value goes to the stack in the layout of this machine. Two kinds need a hand: classic BPF programs
//! (socket(7), SO_ATTACH_FILTER), which are a pointer and go as the instructions themselves; and, from 32-bit
//! programs, times and group requests, whose members have other places there (net/compat.c).

use nix::errno::Errno;
use stacks::smol::call::SocketCall;

use crate::answer::Stop;
use crate::ask::{Ask, Give};
use crate::handlers::{Abi, Call};
use crate::target::Target;

/// Longest option that is copied: the kernel's own limit where it has one (optmem_max, socket(7)) is higher,
/// but nothing that has an answer here is as long.
const MAX_OPTION: usize = 64 << 10;
/// BPF_MAXINSNS, linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;
/// sizeof(struct sock_filter).
const INSTRUCTION: usize = 8;
/// struct sock_fprog: a 16-bit length, and a pointer at its second word.
const PROGRAM: usize = 16;
const PROGRAM_32: usize = 8;
/// SO_ATTACH_REUSEPORT_CBPF, asm-generic/socket.h.
const ATTACH_REUSEPORT: i32 = 51;
/// SO_RCVTIMEO_OLD and SO_SNDTIMEO_OLD: struct timeval as it is on the machine.
const TIMES: [i32; 2] = [20, 21];
/// MCAST_JOIN_GROUP to MCAST_MSFILTER, linux/in.h.
const GROUPS: std::ops::RangeInclusive<i32> = 42..=48;

/// Where the value of getsockopt(2) goes.
#[derive(Debug)]
pub(crate) struct Room {
    value: u64,
    length: u64,
    /// The program's own idea of the length.
    room: usize,
    /// A struct timeval of 32-bit members.
    short_time: bool,
}

/// setsockopt(2)
pub(super) fn setsockopt(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let (level, name) = (call.int(1), call.int(2));
    let length = usize::try_from(call.int(4)).map_err(|_| Errno::EINVAL)?;
    let programs = [libc::SO_ATTACH_FILTER, ATTACH_REUSEPORT];
    let value = if level == libc::SOL_SOCKET && programs.contains(&name) {
        program(call, length)?
    } else {
        let value = call.target.read_partly(call.address(3), length.min(MAX_OPTION))?;
        if call.abi == Abi::I386 { widen(level, name, value) } else { value }
    };
    Ok(Ask::new(SocketCall::SetOption { level, name, value }, Give::Value))
}

/// A BPF program's instructions; none at all where the kernel would say EINVAL.
fn program(call: &mut Call<'_>, length: usize) -> Result<Vec<u8>, Stop> {
    let wide = call.abi == Abi::Native;
    if length != if wide { PROGRAM } else { PROGRAM_32 } {
        return Ok(Vec::new());
    }
    let bytes = call.target.read(call.address(3), length)?;
    let count = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    let pointer = if wide { word64(&bytes, 8) } else { u64::from(word32(&bytes, 4)) };
    if count > MAX_INSTRUCTIONS {
        return Ok(Vec::new());
    }
    Ok(call.target.read(pointer, count * INSTRUCTION)?)
}

/// A 32-bit program's value in the machine's layout.
fn widen(level: i32, name: i32, value: Vec<u8>) -> Vec<u8> {
    if is_time(level, name) && value.len() >= 8 {
        let signed = |at| i64::from(word32(&value, at) as i32).to_ne_bytes();
        return [signed(0), signed(4)].concat();
    }
    // The address after the interface's number is aligned to a long.
    if [libc::SOL_IP, libc::SOL_IPV6].contains(&level) && GROUPS.contains(&name) && value.len() > 4 {
        return [&value[..4], &[0; 4], &value[4..]].concat();
    }
    value
}

fn is_time(level: i32, name: i32) -> bool {
    level == libc::SOL_SOCKET && TIMES.contains(&name)
}

/// getsockopt(2)
pub(super) fn getsockopt(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let (level, name) = (call.int(1), call.int(2));
    let (address, length) = (call.address(3), call.address(4));
    let room = word32(&call.target.read(length, 4)?, 0) as i32;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let short_time = call.abi == Abi::I386 && is_time(level, name);
    let offered = if short_time { room.min(8) * 2 } else { room.min(MAX_OPTION) };
    // Of the levels of sockets and of TCP, no option reads the buffer.
    let mut value = match level {
        libc::SOL_SOCKET | libc::SOL_TCP => Vec::new(),
        _ => call.target.read_partly(address, offered).unwrap_or_default(),
    };
    value.resize(offered, 0);
    let give = Give::Option(Room { value: address, length, room, short_time });
    Ok(Ask::new(SocketCall::GetOption { level, name, value }, give))
}

impl Room {
    /// Writes a value and its length.
    pub(crate) fn write(&self, bytes: &[u8], target: &mut dyn Target) -> Result<(), Errno> {
        let mut short = [0; 8];
        let bytes = if self.short_time && bytes.len() == 16 {
            short[..4].copy_from_slice(&(word64(bytes, 0) as u32).to_ne_bytes());
            short[4..].copy_from_slice(&(word64(bytes, 8) as u32).to_ne_bytes());
            &short[..]
        } else {
            bytes
        };
        let bytes = &bytes[..bytes.len().min(self.room)];
        let length = (bytes.len() as u32).to_ne_bytes();
        target.scatter(&[(self.value, bytes), (self.length, &length)])
    }
}

/// Four bytes at `at`, which must be there.
pub(super) fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Eight bytes at `at`, which must be there.
pub(super) fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
