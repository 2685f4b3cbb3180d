//! BPDUs: what bridges say to each other, as bytes.
//!
//! # Theory of operation
//! Three kinds: the configuration and topology change BPDUs of the old protocol (STP), and the rapid one (RST).
//! [`Bpdu::parse`] takes a whole Ethernet frame (802.3 with LLC) and gives values in range only; [`Bpdu::to_frame`] is
//! its inverse. Times are whole seconds: old bridges write fractions, which are cut off, so that an age that
//! grows by a few ticks does not look like news every time. Newer protocols (MSTP) begin as RST BPDUs do, and are read
//! as such.
//!
//! Read: IEEE 802.1D-2004 clause 9.3; 9.3.4 is what must be refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::{HEADER_LEN, Mac};

/// The bridge group address (table 7-10).
pub const GROUP: Mac = Mac([0x01, 0x80, 0xC2, 0, 0, 0]);
/// A BPDU as a frame, without FCS: the least that Ethernet has (802.3 clause 4.2.3.3).
pub const FRAME_LEN: usize = 60;
/// DSAP and SSAP of the spanning tree protocol, and "unnumbered information" (clause 7.12.3).
const LLC: [u8; 3] = [0x42, 0x42, 0x03];
/// Where the BPDU begins in the frame.
const START: usize = HEADER_LEN + LLC.len();
/// Octets of each kind (figures 9-1 to 9-3).
const CONFIG_LEN: usize = 35;
const TCN_LEN: usize = 4;
const RST_LEN: usize = 36;
/// The largest length field; above it is an EtherType (802.3 clause 3.2.6).
const MAX_LENGTH: usize = 1500;

/// A bridge: priority and address; the smaller is the better (clause 9.2.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BridgeId(u64);

impl BridgeId {
    /// The bridge with this priority and address.
    pub fn new(priority: u16, address: Mac) -> Self {
        Self(u64::from(priority) << 48 | address.bits())
    }

    /// Its priority, 0 to 65535: a system id of 12 bits, if it has one, included.
    pub fn priority(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Its address.
    pub fn address(self) -> Mac {
        let [_, _, mac @ ..] = self.0.to_be_bytes();
        Mac(mac)
    }
}

impl fmt::Display for BridgeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04x}.{}", self.priority(), self.address())
    }
}

impl fmt::Debug for BridgeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A priority vector; the smaller is the better (clause 17.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Vector {
    /// The root.
    pub root: BridgeId,
    /// What the path to it costs.
    pub cost: u32,
    /// The bridge that says so: the designated one.
    pub bridge: BridgeId,
    /// Its port: priority in the upper 4 bits, number in the lower 12.
    pub port: u16,
}

impl Vector {
    /// Do both come from the same bridge and port, whatever their priorities?
    pub(super) fn is_by_sender_of(&self, other: &Self) -> bool {
        self.bridge.address() == other.bridge.address() && self.port & 0x0FFF == other.port & 0x0FFF
    }
}

/// Timer values, in seconds (clause 17.18.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How far from the root, or how old, this is.
    pub message_age: u8,
    /// From which age on it is worth nothing.
    pub max_age: u8,
    /// How often it is said.
    pub hello: u8,
    /// How long a port listens, and then learns, if its neighbour does not agree before.
    pub forward_delay: u8,
}

/// What a port is to its link (clause 17.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing: its link is down, or it was shut.
    #[default]
    Disabled,
    /// It leads to the root.
    Root,
    /// It leads its link to the root.
    Designated,
    /// It would lead to the root if the root port failed.
    Alternate,
    /// Another port of this bridge leads the same link.
    Backup,
}

/// What a configuration or RST BPDU says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its sender's priority vector.
    pub vector: Vector,
    /// Its timer values.
    pub times: Times,
    /// Its sender's role. One that says none is believed to be designated (clause 9.2.9), and an alternate port
    /// says the same as a backup one.
    pub role: Role,
    /// The topology changed.
    pub tc: bool,
    /// Let me forward.
    pub proposal: bool,
    /// The sender learns.
    pub learning: bool,
    /// The sender forwards.
    pub forwarding: bool,
    /// You may forward.
    pub agreement: bool,
    /// A topology change notification was heard (configuration BPDUs only).
    pub tc_ack: bool,
}

/// A BPDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bpdu {
    /// STP: the topology changed.
    Tcn,
    /// STP: what a designated port says.
    Config(Message),
    /// RSTP.
    Rst(Message),
}

/// Why a frame is no BPDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBpdu {
    /// Not a frame of the spanning tree protocol.
    #[error("no spanning tree frame")]
    Foreign,
    /// Cut off.
    #[error("a BPDU of {0} bytes is too short")]
    Short(usize),
    /// A protocol, version or type that we do not know.
    #[error("unknown protocol {protocol}, version {version}, type {kind}")]
    Unknown {
        /// Protocol identifier.
        protocol: u16,
        /// Protocol version identifier.
        version: u8,
        /// BPDU type.
        kind: u8,
    },
    /// A configuration as old as its maximum age.
    #[error("its message age {0} s has reached its maximum age")]
    Old(u8),
}

impl Bpdu {
    /// Reads a frame.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(frame: &[u8]) -> Result<Self, BadBpdu> {
        let length = frame.get(12..HEADER_LEN).map_or(usize::MAX, |l| half(l, 0).into());
        if length > MAX_LENGTH || frame[..6] != GROUP.0 || frame.get(HEADER_LEN..START) != Some(&LLC) {
            return Err(BadBpdu::Foreign);
        }
        // What lies behind the length is padding.
        let end = (HEADER_LEN + length).max(START);
        let bytes = frame.get(START..end).ok_or(BadBpdu::Short(frame.len() - START))?;
        let short = BadBpdu::Short(bytes.len());
        let (&[a, b, version, kind], _) = bytes.split_first_chunk().ok_or(short)?;
        let need = |len| if bytes.len() < len { Err(short) } else { Ok(()) };
        match (u16::from_be_bytes([a, b]), version, kind) {
            (0, _, 0x80) => need(TCN_LEN).map(|()| Self::Tcn),
            (0, _, 0x00) => {
                need(CONFIG_LEN)?;
                let message = Message::parse(bytes, false);
                let Times { message_age, max_age, .. } = message.times;
                if message_age >= max_age {
                    Err(BadBpdu::Old(message_age))
                } else {
                    Ok(Self::Config(message))
                }
            }
            (0, 2.., 0x02) => {
                need(RST_LEN)?;
                Ok(Self::Rst(Message::parse(bytes, true)))
            }
            (protocol, version, kind) => Err(BadBpdu::Unknown { protocol, version, kind }),
        }
    }

    /// This BPDU, with what an earlier one of the same port asked for that may not be lost: topology changes.
    pub(super) fn after(self, earlier: &Self) -> Self {
        let was_tc = matches!(earlier, Self::Config(message) | Self::Rst(message) if message.tc);
        match self {
            Self::Tcn => self,
            Self::Config(message) => Self::Config(Message { tc: message.tc | was_tc, ..message }),
            Self::Rst(message) => Self::Rst(Message { tc: message.tc | was_tc, ..message }),
        }
    }

    /// The frame, sent by `source`.
    pub fn to_frame(&self, source: Mac) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        let len = match self {
            Self::Tcn => {
                frame[START + 3] = 0x80;
                TCN_LEN
            }
            Self::Config(message) => {
                message.write(&mut frame[START..], false);
                CONFIG_LEN
            }
            Self::Rst(message) => {
                (frame[START + 2], frame[START + 3]) = (2, 2);
                message.write(&mut frame[START..], true);
                RST_LEN
            }
        };
        frame[..6].copy_from_slice(&GROUP.0);
        frame[6..12].copy_from_slice(&source.0);
        frame[12..HEADER_LEN].copy_from_slice(&((LLC.len() + len) as u16).to_be_bytes());
        frame[HEADER_LEN..START].copy_from_slice(&LLC);
        frame
    }
}

impl Message {
    /// `bytes` are long enough; the flags between the first and the last belong to RST BPDUs (clause 9.3.3).
    fn parse(bytes: &[u8], rapid: bool) -> Self {
        let flag = |bit: u8| rapid && bytes[4] & bit != 0;
        let role = match bytes[4] >> 2 & 3 {
            1 if rapid => Role::Alternate,
            2 if rapid => Role::Root,
            _ => Role::Designated,
        };
        let seconds = |at: usize| bytes[at];
        Self {
            vector: Vector {
                root: BridgeId(long(bytes, 5)),
                cost: u32::from_be_bytes([bytes[13], bytes[14], bytes[15], bytes[16]]),
                bridge: BridgeId(long(bytes, 17)),
                port: half(bytes, 25),
            },
            times: Times {
                message_age: seconds(27),
                max_age: seconds(29),
                hello: seconds(31).max(1),
                forward_delay: seconds(33).max(1),
            },
            role,
            tc: bytes[4] & 0x01 != 0,
            proposal: flag(0x02),
            learning: flag(0x10),
            forwarding: flag(0x20),
            agreement: flag(0x40),
            tc_ack: !rapid && bytes[4] & 0x80 != 0,
        }
    }

    /// Everything but version and type, which lie before, and the last octet of an RST BPDU, which is 0.
    fn write(&self, bytes: &mut [u8], rapid: bool) {
        let role = match self.role {
            Role::Disabled => 0,
            Role::Alternate | Role::Backup => 1,
            Role::Root => 2,
            Role::Designated => 3,
        };
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let rapid_flags = flag(self.proposal, 0x02)
            | role << 2
            | flag(self.learning, 0x10)
            | flag(self.forwarding, 0x20)
            | flag(self.agreement, 0x40);
        bytes[4] = flag(self.tc, 0x01) | if rapid { rapid_flags } else { flag(self.tc_ack, 0x80) };
        let Vector { root, cost, bridge, port } = self.vector;
        bytes[5..13].copy_from_slice(&root.0.to_be_bytes());
        bytes[13..17].copy_from_slice(&cost.to_be_bytes());
        bytes[17..25].copy_from_slice(&bridge.0.to_be_bytes());
        bytes[25..27].copy_from_slice(&port.to_be_bytes());
        let Times { message_age, max_age, hello, forward_delay } = self.times;
        (bytes[27], bytes[29], bytes[31], bytes[33]) = (message_age, max_age, hello, forward_delay);
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(long)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn message() -> impl Strategy<Value = Message> {
        let vector = any::<(u64, u32, u64, u16)>().prop_map(|(root, cost, bridge, port)| Vector {
            root: BridgeId(root),
            cost,
            bridge: BridgeId(bridge),
            port,
        });
        let times =
            (0..20u8, 20..41u8, 1..11u8, 1..31u8).prop_map(|(message_age, max_age, hello, forward_delay)| {
                Times { message_age, max_age, hello, forward_delay }
            });
        let role = prop_oneof![Just(Role::Root), Just(Role::Designated), Just(Role::Alternate)];
        (vector, times, role, any::<[bool; 6]>()).prop_map(|(vector, times, role, flags)| {
            let [tc, proposal, learning, forwarding, agreement, tc_ack] = flags;
            Message { vector, times, role, tc, proposal, learning, forwarding, agreement, tc_ack }
        })
    }

    /// What the Linux bridge wrote on a veth (net/bridge/br_stp_bpdu.c): 1/256 s are cut off.
    #[test]
    fn a_configuration_of_linux() {
        let mut frame = vec![0x01, 0x80, 0xC2, 0, 0, 0, 0xC2, 1, 2, 3, 4, 5, 0, 38, 0x42, 0x42, 3];
        frame.extend([0, 0, 0, 0, 0x81, 0x80, 0, 0xC2, 1, 2, 3, 4, 5, 0, 0, 0, 2]);
        frame.extend([0x80, 0, 0xC2, 1, 2, 3, 4, 6, 0x80, 1, 0, 7, 20, 0, 2, 0, 15, 0]);
        let Ok(Bpdu::Config(message)) = Bpdu::parse(&frame) else { panic!("{:?}", Bpdu::parse(&frame)) };
        assert_eq!(message.vector.root.to_string(), "8000.c2:01:02:03:04:05");
        assert_eq!((message.vector.cost, message.vector.port), (2, 0x8001));
        assert_eq!(message.times, Times { message_age: 0, max_age: 20, hello: 2, forward_delay: 15 });
        assert!(message.tc && message.tc_ack && !message.proposal);
        assert_eq!(message.role, Role::Designated);
        frame.truncate(frame.len() - 1);
        assert_eq!(Bpdu::parse(&frame), Err(BadBpdu::Short(34)));
    }

    #[test]
    fn what_is_no_bpdu() {
        let good = Bpdu::Tcn.to_frame(SOURCE);
        assert_eq!(Bpdu::parse(&good), Ok(Bpdu::Tcn));
        let with = |at: usize, byte: u8| {
            let mut frame = good;
            frame[at] = byte;
            Bpdu::parse(&frame)
        };
        assert_eq!(with(5, 0x0E), Err(BadBpdu::Foreign));
        assert_eq!(with(12, 0x08), Err(BadBpdu::Foreign));
        assert_eq!(with(14, 0xAA), Err(BadBpdu::Foreign));
        assert_eq!(with(13, 6), Err(BadBpdu::Short(3)));
        assert_eq!(with(18, 1), Err(BadBpdu::Unknown { protocol: 1, version: 0, kind: 0x80 }));
        assert_eq!(with(20, 2), Err(BadBpdu::Unknown { protocol: 0, version: 0, kind: 2 }));
        assert_eq!(with(20, 0), Err(BadBpdu::Short(4)));
    }

    proptest! {
        #[test]
        fn frames_round_trip(message in message(), kind in 0..3) {
            let bpdu = match kind {
                0 => Bpdu::Tcn,
                1 => Bpdu::Config(Message {
                    role: Role::Designated,
                    proposal: false,
                    learning: false,
                    forwarding: false,
                    agreement: false,
                    ..message
                }),
                _ => Bpdu::Rst(Message { tc_ack: false, ..message }),
            };
            prop_assert_eq!(Bpdu::parse(&bpdu.to_frame(SOURCE)), Ok(bpdu));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), real: bool) {
            if real && bytes.len() > 22 {
                bytes[..17].copy_from_slice(&Bpdu::Tcn.to_frame(SOURCE)[..17]);
                (bytes[13], bytes[17], bytes[18], bytes[20]) = (39, 0, 0, bytes[20] & 0x82);
            }
            let _ = Bpdu::parse(&bytes);
        }
    }
}
