//! Questions to the machine's nameservers, taken to those of the tunnel.
//!
//! # Theory of operation
//! A program asks whom /etc/resolv.conf names, and that file is the machine's. So a tunnel whose file says `DNS =`
//! lets the stack have a route to those nameservers, and rewrites what comes that way: a packet to port 53 of one of
//! them gets the address of a nameserver of the file; the answer gets the old address back. All is done by address
//! and port of the asker, in a table of fixed size in which a newer question displaces an older one. Checksums are
//! mended by RFC 1624. Fragments are left alone: a question is none, and a long answer comes by TCP or not at all.

use std::net::IpAddr;

/// Questions under way, at most; a power of two. A resolver asks from a new port each time, and waits five seconds.
const QUESTIONS: usize = 1024;
/// The port of nameservers.
const DOMAIN: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who stands for whom.
#[derive(Debug)]
pub struct Names {
    /// The machine's.
    asked: Vec<IpAddr>,
    /// The file's.
    answering: Vec<IpAddr>,
    questions: Vec<Option<Question>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    protocol: u8,
    port: u16,
    asked: IpAddr,
    answering: IpAddr,
}

impl Names {
    /// `answering` stand for `asked`, each for those of its own family.
    pub fn new(asked: Vec<IpAddr>, answering: Vec<IpAddr>) -> Self {
        let size = if asked.is_empty() || answering.is_empty() { 0 } else { QUESTIONS };
        Self { asked, answering, questions: vec![None; size] }
    }

    /// May packets to this address go to another one?
    pub fn may_rewrite(&self, destination: IpAddr) -> bool {
        !self.questions.is_empty() && self.asked.contains(&destination)
    }

    /// A packet leaves for the tunnel.
    pub fn outbound(&mut self, packet: &mut [u8]) {
        if self.questions.is_empty() {
            return;
        }
        let Some(found) = Found::parse(packet) else { return };
        let (source, destination) = found.ports;
        if destination != DOMAIN {
            return;
        }
        let asked = found.destination(packet);
        let Some(at) = self.asked.iter().position(|server| *server == asked) else { return };
        let fit = |server: &&IpAddr| server.is_ipv4() == asked.is_ipv4();
        let count = self.answering.iter().filter(fit).count();
        // The second of the machine's asks the second of the file's.
        let Some(&answering) = self.answering.iter().filter(fit).nth(at % count.max(1)) else { return };
        let question = Question { protocol: found.protocol, port: source, asked, answering };
        self.questions[usize::from(source) % QUESTIONS] = Some(question);
        found.set_destination(packet, answering);
    }

    /// A packet came out of the tunnel.
    pub fn inbound(&self, packet: &mut [u8]) {
        if self.questions.is_empty() {
            return;
        }
        let Some(found) = Found::parse(packet) else { return };
        let (source, destination) = found.ports;
        if source != DOMAIN {
            return;
        }
        let Some(question) = self.questions[usize::from(destination) % QUESTIONS] else { return };
        let from = found.source(packet);
        if question.port == destination && question.protocol == found.protocol && question.answering == from {
            found.set_source(packet, question.asked);
        }
    }
}

/// A whole UDP or TCP packet.
struct Found {
    v4: bool,
    protocol: u8,
    transport: usize,
    /// Source and destination.
    ports: (u16, u16),
}

impl Found {
    fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let (v4, transport, protocol) = match first >> 4 {
            4 => {
                let header = packet.get(..20)?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
                let len = usize::from(first & 0x0F) * 4;
                (true, len, Some(header[9]).filter(|_| !fragment && len >= 20)?)
            }
            6 => (false, 40, *packet.get(6)?),
            _ => return None,
        };
        let least = match protocol {
            UDP => 8,
            TCP => 20,
            _ => return None,
        };
        let header = packet.get(transport..transport + least)?;
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self { v4, protocol, transport, ports: (port(0), port(2)) })
    }

    fn source(&self, packet: &[u8]) -> IpAddr {
        self.address(packet, if self.v4 { 12 } else { 8 })
    }

    fn destination(&self, packet: &[u8]) -> IpAddr {
        self.address(packet, if self.v4 { 16 } else { 24 })
    }

    fn address(&self, packet: &[u8], at: usize) -> IpAddr {
        if self.v4 {
            let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
            octets.into()
        } else {
            let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
            octets.into()
        }
    }

    fn set_source(&self, packet: &mut [u8], to: IpAddr) {
        self.set(packet, if self.v4 { 12 } else { 8 }, to);
    }

    fn set_destination(&self, packet: &mut [u8], to: IpAddr) {
        self.set(packet, if self.v4 { 16 } else { 24 }, to);
    }

    fn set(&self, packet: &mut [u8], at: usize, to: IpAddr) {
        let mut new = [0; 16];
        let len = match to {
            IpAddr::V4(to) if self.v4 => {
                new[..4].copy_from_slice(&to.octets());
                4
            }
            IpAddr::V6(to) if !self.v4 => {
                new = to.octets();
                16
            }
            _ => return,
        };
        let mut old = [0; 16];
        old[..len].copy_from_slice(&packet[at..at + len]);
        let (old, new) = (&old[..len], &new[..len]);
        packet[at..at + len].copy_from_slice(new);
        if self.v4 {
            mend(packet, 10, old, new);
        }
        let field = self.transport + if self.protocol == UDP { 6 } else { 16 };
        // A UDP checksum of zero is none (RFC 768).
        if self.protocol == TCP || packet[field..field + 2] != [0, 0] {
            mend(packet, field, old, new);
            if self.protocol == UDP && packet[field..field + 2] == [0, 0] {
                packet[field..field + 2].fill(0xFF);
            }
        }
    }
}

/// The checksum at `field`, after `old` became `new` (RFC 1624, equation 3).
fn mend(packet: &mut [u8], field: usize, old: &[u8], new: &[u8]) {
    let word = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut sum = u32::from(!u16::from_be_bytes([packet[field], packet[field + 1]]));
    for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
        sum += (!word(old) & 0xFFFF) + word(new);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    packet[field..field + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests;
