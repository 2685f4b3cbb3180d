//! VXLAN: Ethernet frames in UDP datagrams, between tunnel ends that learn who is behind whom.
//!
//! # Theory of operation
//! A [`Tunnel`] is one VXLAN network (VNI) on one UDP port. [`Tunnel::handle_datagram`] judges what arrived and
//! learns that the frame's source is behind the sender; [`Tunnel::destinations`] says to whom a frame goes: to the
//! end behind which its destination was heard, or else to every peer of the flood list (head-end replication; there
//! is no multicast group). A sender need not be on that list, as with the kernel's device. Datagrams are sent to the
//! tunnel's port, or to the port that the list gives for that address, as the port they come from means nothing
//! (RFC 7348 clause 5). What is heard is believed for [`AGE`]; the table holds [`STATIONS`].
//!
//! Bits that RFC 7348 reserves are zero when sent and ignored when received.
//!
//! Read: RFC 7348 clauses 4 and 5; drivers/net/vxlan/vxlan_core.c, bridge(8) `fdb append 00:00:00:00:00:00`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::frame::{HEADER_LEN, Mac};

/// Bytes before the inner frame.
pub const VXLAN_HEADER_LEN: usize = 8;
/// The UDP port that IANA gave VXLAN.
pub const PORT: u16 = 4789;
/// The first byte's bit that says that there is a VNI.
const FLAG_VNI: u8 = 0x08;
/// For how long a silent station is believed to be where it was; the kernel's device has the same.
pub const AGE: Duration = Duration::from_secs(300);
/// Stations at most: as many as the switch learns behind one port.
pub const STATIONS: usize = 16_384;
/// Peers at most: each gets a copy of every flooded frame.
pub const MAX_PEERS: usize = 256;
/// How often a full table is searched for silent stations.
const SWEEP: Duration = Duration::from_secs(10);

/// A VXLAN network's number, 0 to 16,777,215.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// The number is no VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no VNI; 0 to 16777215")]
pub struct BadVni(u32);

impl TryFrom<u32> for Vni {
    type Error = BadVni;

    fn try_from(number: u32) -> Result<Self, BadVni> {
        if number < 1 << 24 { Ok(Self(number)) } else { Err(BadVni(number)) }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

/// What a tunnel is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its network.
    pub vni: Vni,
    /// The flood list, [`MAX_PEERS`] at most: who gets the frames of which nobody knows where they belong.
    #[serde(default)]
    pub peers: Vec<SocketAddr>,
    /// The UDP port of ends that are not on that list.
    #[serde(default = "port")]
    pub port: u16,
}

fn port() -> u16 {
    PORT
}

/// Why a datagram is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The header, or the inner frame's, is cut off.
    #[error("it is cut off")]
    Short,
    /// There is no VNI in it, or another network's.
    #[error("it is of another network")]
    Vni,
}

/// One end of a VXLAN network.
#[derive(Debug)]
pub struct Tunnel {
    config: Config,
    stations: FxHashMap<Mac, Heard>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    behind: SocketAddr,
    at: Instant,
}

impl Tunnel {
    /// An end that has heard nobody yet. Peers past [`MAX_PEERS`] are left out.
    pub fn new(config: Config) -> Self {
        let mut tunnel = Self { config, stations: FxHashMap::default(), swept: None };
        tunnel.config.peers.truncate(MAX_PEERS);
        tunnel
    }

    /// What it was told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Another flood list; [`MAX_PEERS`] of it at most. Who is where is learned anew.
    pub fn set_peers(&mut self, peers: Vec<SocketAddr>) {
        self.config.peers = peers;
        self.config.peers.truncate(MAX_PEERS);
        self.stations.clear();
    }

    /// The header of every datagram it sends.
    pub fn header(&self) -> [u8; VXLAN_HEADER_LEN] {
        let [_, a, b, c] = self.config.vni.0.to_be_bytes();
        [FLAG_VNI, 0, 0, 0, a, b, c, 0]
    }

    /// A datagram arrived: the inner frame. Its source is behind `from` now.
    ///
    /// # Errors
    /// Why it is none of ours.
    pub fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &'b [u8],
    ) -> Result<&'b [u8], Refused> {
        let (header, frame) = bytes.split_first_chunk::<VXLAN_HEADER_LEN>().ok_or(Refused::Short)?;
        let &[flags, _, _, _, a, b, c, _] = header;
        if flags & FLAG_VNI == 0 || u32::from_be_bytes([0, a, b, c]) != self.config.vni.0 {
            return Err(Refused::Vni);
        }
        let source = frame.get(6..12).filter(|_| frame.len() >= HEADER_LEN).ok_or(Refused::Short)?;
        let mut mac = Mac([0; 6]);
        mac.0.copy_from_slice(source);
        if mac.is_station() {
            self.learn(now, mac, from.ip());
        }
        Ok(frame)
    }

    /// To whom a frame goes.
    pub fn destinations(&self, now: Instant, to: Mac) -> &[SocketAddr] {
        let known = if to.is_group() { None } else { self.stations.get(&to) };
        match known {
            Some(heard) if is_fresh(heard, now) => std::slice::from_ref(&heard.behind),
            _ => &self.config.peers,
        }
    }

    /// How many stations it remembers, silent ones included.
    pub fn stations(&self) -> usize {
        self.stations.len()
    }

    fn learn(&mut self, now: Instant, mac: Mac, ip: IpAddr) {
        if let Some(heard) = self.stations.get_mut(&mac)
            && heard.behind.ip() == ip
        {
            heard.at = now;
            return;
        }
        if self.stations.len() >= STATIONS && !self.stations.contains_key(&mac) && !self.make_room(now) {
            return;
        }
        let peer = self.config.peers.iter().find(|peer| peer.ip() == ip);
        let behind = peer.copied().unwrap_or_else(|| SocketAddr::new(ip, self.config.port));
        self.stations.insert(mac, Heard { behind, at: now });
    }

    /// Forgets who was silent for long, now and then; true if there is room.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
            self.swept = Some(now);
            self.stations.retain(|_, heard| is_fresh(heard, now));
        }
        self.stations.len() < STATIONS
    }
}

fn is_fresh(heard: &Heard, now: Instant) -> bool {
    now.saturating_duration_since(heard.at) < AGE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tunnel(peers: &[&str]) -> Tunnel {
        let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        Tunnel::new(Config { vni: Vni(0x01_02_03), peers, port: PORT })
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn datagram(source: u8) -> Vec<u8> {
        let mut bytes = vec![8, 0, 0, 0, 1, 2, 3, 0];
        bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, source, 8, 0]);
        bytes
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn what_is_heard_is_learned_and_forgotten() {
        let mut tunnel = tunnel(&["10.0.0.2:4789", "10.0.0.3:4790"]);
        let start = now();
        assert_eq!(tunnel.header(), datagram(1)[..8]);
        assert_eq!(tunnel.destinations(start, mac(9)).len(), 2);
        // From any port, answered to the tunnel's, or to the listed one.
        for (last, from, to) in
            [(9, "10.0.0.7:33333", "10.0.0.7:4789"), (8, "10.0.0.3:44444", "10.0.0.3:4790")]
        {
            let bytes = datagram(last);
            let frame = tunnel.handle_datagram(start, from.parse().unwrap(), &bytes).unwrap();
            assert_eq!(frame, &bytes[8..]);
            assert_eq!(tunnel.destinations(start, mac(last)), [to.parse().unwrap()]);
        }
        // It moves.
        tunnel.handle_datagram(start, "10.0.0.8:1".parse().unwrap(), &datagram(9)).unwrap();
        assert_eq!(tunnel.destinations(start, mac(9)), ["10.0.0.8:4789".parse().unwrap()]);
        assert_eq!(tunnel.destinations(start + AGE, mac(9)).len(), 2);
        assert_eq!(tunnel.destinations(start, Mac([0xFF; 6])).len(), 2);
        tunnel.set_peers(vec!["10.0.0.4:4789".parse().unwrap()]);
        assert_eq!(tunnel.destinations(start, mac(9)), ["10.0.0.4:4789".parse().unwrap()]);
    }

    #[test]
    fn other_networks_are_refused() {
        let mut tunnel = tunnel(&[]);
        let mut judge =
            |bytes: &[u8]| tunnel.handle_datagram(now(), "10.0.0.2:1".parse().unwrap(), bytes).err();
        let mut bytes = datagram(1);
        for len in 0..bytes.len() {
            assert_eq!(judge(&bytes[..len]), Some(Refused::Short), "{len}");
        }
        bytes[3] = 7;
        assert_eq!(judge(&bytes), None, "reserved bits are ignored");
        bytes[6] = 4;
        assert_eq!(judge(&bytes), Some(Refused::Vni));
        let mut bytes = datagram(1);
        bytes[0] = 0;
        assert_eq!(judge(&bytes), Some(Refused::Vni));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tunnel = tunnel(&[]);
        let start = now();
        let mut bytes = datagram(0);
        let mut hear = |tunnel: &mut Tunnel, at: Instant, number: u32| {
            bytes[16..20].copy_from_slice(&number.to_be_bytes());
            tunnel.handle_datagram(at, "10.0.0.2:1".parse().unwrap(), &bytes).unwrap();
        };
        (0..2 * STATIONS as u32).for_each(|number| hear(&mut tunnel, start, number));
        assert_eq!(tunnel.stations(), STATIONS);
        hear(&mut tunnel, start + AGE, u32::MAX);
        assert_eq!(tunnel.stations(), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut tunnel = tunnel(&["10.0.0.2:4789"]);
            let from = "[fe80::1]:1".parse().unwrap();
            if let Ok(frame) = tunnel.handle_datagram(now(), from, &bytes) {
                prop_assert_eq!(frame.len() + VXLAN_HEADER_LEN, bytes.len());
            }
            prop_assert!(tunnel.stations() <= 1);
        }
    }
}
