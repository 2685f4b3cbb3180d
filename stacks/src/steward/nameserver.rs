//! The stub: a nameserver on loopback addresses of a stack, which asks another one.
//!
//! # Theory of operation
//! Where /etc/resolv.conf names a nameserver of the machine itself (systemd-resolved's 127.0.0.53, dnsmasq's
//! 127.0.0.1), a view's programs ask at that address of their own loopback. There the stub listens, on port 53 of UDP
//! and TCP, as natively that nameserver does, and has the questions answered by the network's nameserver: nothing is
//! kept, nothing is looked at but the number of a question.
//! ```text
//!  programs ─ 127.0.0.53:53 ─ door ─┬─ UDP: question N as question M ─ up ─┐
//!                                   └─ TCP: a connection for each ─────────┴─► the network's nameserver
//! ```
//! Questions share one socket towards the nameserver, where each has a number of its own (RFC 1035 section 4.1.1); whose it
//! was is remembered until it is answered, or [`PATIENCE`] has passed and another takes its place.
//!
//! [`Stub`] is a core: it works on [`Sockets`], and is to be called whenever something happened to any of its own. It needs
//! no timer: what is over is forgotten when its place is needed.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Sockets;

/// The port of nameservers.
const DOMAIN: u16 = 53;
/// Bytes of a message's header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Longest datagram.
const LONGEST: usize = 65_535;
/// Questions under way: a resolver asks two at once, so this is many programs.
const MAX_ASKED: usize = 512;
/// How long an answer may take: resolvers give up after five seconds (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_secs(10);
/// TCP connections under way; beyond them the one that was silent for longest ends.
const MAX_TALKS: usize = 32;
/// Bytes moved at once, which wait if the other side has no room.
const PIECE: usize = 16 << 10;
/// Datagrams, or pieces, of one socket in a row: others wait meanwhile, until the next event.
const TURN: usize = 64;

/// Nameservers that a stack is to have on its own loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nameserver {
    /// Its addresses, at most [`Self::MOST`].
    pub at: Vec<IpAddr>,
    /// Whom it asks.
    pub ask: IpAddr,
}

impl Nameserver {
    /// MAXNS of resolv.h: more are not asked.
    pub const MOST: usize = 3;
}

/// The stub of a stack.
#[derive(Debug)]
pub struct Stub<I> {
    server: SocketAddr,
    doors: Vec<Door<I>>,
    up: I,
    asked: FxHashMap<u16, Asked<I>>,
    number: u64,
    talks: Vec<Talk<I>>,
}

/// Where programs ask.
#[derive(Debug, Clone, Copy)]
struct Door<I> {
    datagrams: I,
    listener: I,
}

/// Whose a question is.
#[derive(Debug, Clone, Copy)]
struct Asked<I> {
    door: I,
    from: SocketAddr,
    number: [u8; 2],
    at: Instant,
}

/// A program's connection, and the one to the nameserver.
#[derive(Debug)]
struct Talk<I> {
    ends: [I; 2],
    /// What an end has said and the other has not taken yet.
    held: [Vec<u8>; 2],
    /// An end has said everything; the other knows.
    finished: [(bool, bool); 2],
    at: Instant,
}

impl<I: Copy + PartialEq + Debug> Stub<I> {
    /// A stub where `config` says; an address that the stack does not have, or that somebody has already, is left out.
    /// `seed` makes its numbers hard to guess.
    ///
    /// # Errors
    /// Why it cannot ask.
    pub fn new<S: Sockets<Id = I>>(sockets: &mut S, config: &Nameserver, seed: u64) -> Result<Self, Errno> {
        let server = SocketAddr::new(config.ask, DOMAIN);
        let up = sockets.datagrams(None, server)?;
        let mut doors = Vec::new();
        for at in config.at.iter().take(Nameserver::MOST).map(|at| SocketAddr::new(*at, DOMAIN)) {
            let opened = sockets.datagrams(Some(at), at).and_then(|datagrams| {
                let listener = sockets.listener(at).inspect_err(|_| sockets.close(datagrams))?;
                Ok(Door { datagrams, listener })
            });
            match opened {
                Ok(door) => doors.push(door),
                Err(errno) => log::warn!("no nameserver at {at}: {errno}"),
            }
        }
        Ok(Self { server, doors, up, asked: FxHashMap::default(), number: seed, talks: Vec::new() })
    }

    /// Whom it asks.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Another nameserver is asked from now on; what the old one was asked is asked again by whoever wants to know.
    ///
    /// # Errors
    /// Why it cannot ask.
    pub(super) fn ask_another<S: Sockets<Id = I>>(
        &mut self,
        sockets: &mut S,
        ask: IpAddr,
    ) -> Result<(), Errno> {
        let server = SocketAddr::new(ask, DOMAIN);
        let up = sockets.datagrams(None, server)?;
        sockets.close(std::mem::replace(&mut self.up, up));
        self.server = server;
        self.asked.clear();
        Ok(())
    }

    /// Whether a socket is one of its own.
    pub fn owns(&self, id: I) -> bool {
        self.up == id
            || self.doors.iter().any(|door| door.datagrams == id || door.listener == id)
            || self.talks.iter().any(|talk| talk.ends.contains(&id))
    }

    /// Something happened: moves what can be moved.
    pub fn turn<S: Sockets<Id = I>>(&mut self, now: Instant, sockets: &mut S) {
        let mut buffer = vec![0; LONGEST];
        for door in 0..self.doors.len() {
            let door = self.doors[door];
            for _ in 0..TURN {
                let Some((length, from)) = sockets.receive(door.datagrams, &mut buffer) else { break };
                if self.ask(now, door.datagrams, from, &mut buffer[..length]).is_some() {
                    sockets.send(self.up, self.server, &buffer[..length]);
                }
            }
            while let Some(end) = sockets.accept(door.listener) {
                self.begin(now, end, sockets);
            }
        }
        for _ in 0..TURN {
            let Some((length, from)) = sockets.receive(self.up, &mut buffer) else { break };
            if from == self.server
                && let Some(asked) = self.answered(&mut buffer[..length])
            {
                sockets.send(asked.door, asked.from, &buffer[..length]);
            }
        }
        for talk in &mut self.talks {
            talk.turn(now, &mut buffer[..PIECE], sockets);
        }
        self.talks.retain(|talk| {
            let over = talk.is_over();
            if over {
                talk.ends.iter().for_each(|end| sockets.close(*end));
            }
            !over
        });
    }

    /// Gives a question a number of ours.
    fn ask(&mut self, now: Instant, door: I, from: SocketAddr, message: &mut [u8]) -> Option<()> {
        if message.len() < HEADER {
            return None;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.retain(|_, asked| now.saturating_duration_since(asked.at) < PATIENCE);
        }
        if self.asked.len() >= MAX_ASKED {
            return None;
        }
        let number = loop {
            let number = self.next_number();
            if !self.asked.contains_key(&number) {
                break number;
            }
        };
        let place = message.first_chunk_mut::<2>()?;
        self.asked.insert(number, Asked { door, from, number: *place, at: now });
        *place = number.to_be_bytes();
        Some(())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_number(&mut self) -> u16 {
        self.number = self.number.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.number ^ self.number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) as u16
    }

    /// Whose an answer is, which gets its question's number back.
    fn answered(&mut self, message: &mut [u8]) -> Option<Asked<I>> {
        if message.len() < HEADER {
            return None;
        }
        let place = message.first_chunk_mut::<2>()?;
        let asked = self.asked.remove(&u16::from_be_bytes(*place))?;
        *place = asked.number;
        Some(asked)
    }

    /// A program's connection, and one to the nameserver for it.
    fn begin<S: Sockets<Id = I>>(&mut self, now: Instant, end: I, sockets: &mut S) {
        if self.talks.len() >= MAX_TALKS
            && let Some(oldest) = (0..self.talks.len()).min_by_key(|place| self.talks[*place].at)
        {
            self.talks.swap_remove(oldest).ends.into_iter().for_each(|end| sockets.close(end));
        }
        match sockets.connection(self.server) {
            Ok(other) => self.talks.push(Talk {
                ends: [end, other],
                held: Default::default(),
                finished: Default::default(),
                at: now,
            }),
            Err(_) => sockets.close(end),
        }
    }
}

impl<I: Copy + PartialEq + Debug> Talk<I> {
    fn turn<S: Sockets<Id = I>>(&mut self, now: Instant, buffer: &mut [u8], sockets: &mut S) {
        for (one, other) in [(0, 1), (1, 0)] {
            for _ in 0..TURN {
                if self.held[one].is_empty() && !self.finished[one].0 {
                    match sockets.read(self.ends[one], buffer) {
                        Ok(0) => self.finished[one].0 = true,
                        Ok(count) => self.held[one].extend_from_slice(&buffer[..count]),
                        Err(Errno::EAGAIN) => break,
                        Err(_) => return self.finished = [(true, true); 2],
                    }
                    self.at = now;
                }
                if self.held[one].is_empty() {
                    if self.finished[one] == (true, false) {
                        self.finished[one].1 = true;
                        sockets.finish(self.ends[other]);
                    }
                    break;
                }
                match sockets.write(self.ends[other], &self.held[one]) {
                    Ok(count) => drop(self.held[one].drain(..count)),
                    Err(Errno::EAGAIN) => break,
                    Err(_) => return self.finished = [(true, true); 2],
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.finished == [(true, true); 2]
    }
}

#[cfg(test)]
#[path = "nameserver/tests.rs"]
mod tests;
