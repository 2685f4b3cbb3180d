//! NAT64 and DNS64: IPv4 addresses as IPv6 ones, and names that have only the former (RFC 6052, 6146, 6147). A core.
//!
//! # Theory of operation
//! The well-known prefix 64:ff9b::/96 stands for all of IPv4. Where the host has no IPv6, every question for IPv6 addresses
//! is asked as one for IPv4 addresses ([`as_v4`]), and the answer told as IPv6 ones ([`as_v6`]): all IPv6 addresses count as
//! excluded (RFC 6147 section 5.1.4), as nobody could reach them. Names in an answer are written out anew, as the longer records
//! move what compression points to. What is malformed is passed on as it is: the program's to refuse.

use std::net::{Ipv4Addr, Ipv6Addr};

/// 64:ff9b::/96 (RFC 6052 section 2.1).
const PREFIX: u128 = 0x0064_ff9b << 96;

/// Bytes of a message's header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Types and classes of records.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const DNAME: u16 = 39;
const IN: u16 = 1;
/// Bytes of a record between its name and its data.
const FIXED: usize = 10;
/// Pointers followed in one name: more is a loop.
const MAX_POINTERS: usize = 32;
/// Longest name, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
/// Records of an answer that are looked at; the rest is left out. More do not fit into a message of 64 KiB.
const MAX_RECORDS: usize = 2048;
/// Longest message.
const LONGEST: usize = 65_535;

/// An IPv4 address in IPv6.
pub fn embed(v4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX | u128::from(v4.to_bits()))
}

/// The IPv4 address in an IPv6 one.
pub fn extract(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    (v6.to_bits() >> 32 == PREFIX >> 32).then(|| Ipv4Addr::from_bits(v6.to_bits() as u32))
}

/// Where the type of a message's one question stands, if that is of class IN.
fn kind_at(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    while let length @ 1..64 = *message.get(at)? {
        at += 1 + usize::from(length);
    }
    (message.get(at)? == &0 && message.get(at + 3..at + 5)? == IN.to_be_bytes()).then_some(at + 1)
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// A question for IPv6 addresses as one for IPv4 addresses; `None`: it asks for something else, or wants the truth
/// (CD, as those who verify themselves set it: RFC 6147 section 5.5).
pub fn as_v4(message: &[u8]) -> Option<Vec<u8>> {
    let at = kind_at(message)?;
    let verifies = message.get(3)? & 0x10 != 0;
    (word(message, at)? == AAAA && !verifies).then(|| {
        let mut asked = message.to_vec();
        asked[at..at + 2].copy_from_slice(&A.to_be_bytes());
        asked
    })
}

/// The answer to such a question, told as one for IPv6 addresses, at most `longest` bytes: what is longer is marked as cut.
pub fn as_v6(message: &[u8], longest: usize) -> Option<Vec<u8>> {
    let kind = kind_at(message).filter(|at| word(message, *at) == Some(A))?;
    let (question, records) = (kind + 4, word(message, 6)?);
    let mut said = message[..question].to_vec();
    said[kind..kind + 2].copy_from_slice(&AAAA.to_be_bytes());
    if records == 0 {
        // Nothing moves.
        said.extend_from_slice(&message[question..]);
        return Some(said);
    }
    // Records behind the answers are for those who ask others in turn.
    said[8..HEADER].fill(0);
    let (mut at, mut count) = (question, 0u16);
    for _ in 0..usize::from(records).min(MAX_RECORDS) {
        let Some(next) = copy(message, at, kind, &mut said) else { break };
        if said.len() > longest.min(LONGEST) {
            said.truncate(question);
            (said[2], count) = (said[2] | 2, 0);
            break;
        }
        (at, count) = (next, count + 1);
    }
    said[6..8].copy_from_slice(&count.to_be_bytes());
    // Nothing of it was verified (AD).
    said[3] &= !0x20;
    Some(said)
}

/// Copies a record of an answer, IPv4 addresses as IPv6 ones. The place of the next one; `None`: it is malformed.
fn copy(message: &[u8], at: usize, question: usize, out: &mut Vec<u8>) -> Option<usize> {
    let (name, at) = name(message, at)?;
    let fixed = message.get(at..at + FIXED)?;
    let (kind, length) = (word(fixed, 0)?, usize::from(word(fixed, 8)?));
    let data = message.get(at + FIXED..at + FIXED + length)?;
    let data = match (kind, data.first_chunk::<4>()) {
        (A, Some(v4)) if length == 4 => embed(Ipv4Addr::from(*v4)).octets().to_vec(),
        (CNAME | DNAME, _) => self::name(message, at + FIXED)?.0,
        _ => data.to_vec(),
    };
    // The name that was asked for is there already (RFC 1035 section 4.1.4).
    match message.get(HEADER..question)? == name {
        true => out.extend_from_slice(&[0xC0, HEADER as u8]),
        false => out.extend_from_slice(&name),
    }
    let kind = if kind == A { AAAA } else { kind };
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&fixed[2..8]);
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(&data);
    Some(at + FIXED + length)
}

/// A name, written out, and where the message goes on behind it.
fn name(message: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let (mut name, mut behind, mut pointers) = (Vec::new(), None, 0);
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                name.push(0);
                return Some((name, behind.unwrap_or(at + 1)));
            }
            1..64 => {
                name.extend_from_slice(message.get(at..=at + usize::from(length))?);
                at += 1 + usize::from(length);
            }
            0xC0.. => {
                behind.get_or_insert(at + 2);
                at = usize::from(word(message, at)? & 0x3FFF);
                pointers += 1;
            }
            _ => return None,
        }
        if name.len() >= MAX_NAME || pointers > MAX_POINTERS {
            return None;
        }
    }
}

#[cfg(test)]
#[path = "nat64/tests.rs"]
mod tests;
