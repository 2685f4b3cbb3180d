//! What a stack may use, as text: memory, time of the processor, packets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Bytes that a stack may have without being told otherwise: a hundred thousand busy connections.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// The least that a stack can be expected to live with, in bytes.
const LEAST_MEMORY: u64 = 64 << 10;

/// What a stack may use. One that uses more ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory.
    #[serde(default)]
    pub memory: MemoryLimit,
    /// Time of one processor; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuLimit>,
    /// Packets in and out; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketLimit>,
}

/// Bytes of buffers, queues and sockets: `64M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemoryLimit(pub u64);

/// Hundredths of one processor: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuLimit(pub u32);

/// Packets in a second, both ways together: `100000/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PacketLimit(pub u64);

impl Default for MemoryLimit {
    fn default() -> Self {
        Self(DEFAULT_MEMORY)
    }
}

impl Limits {
    /// Nobody asked for any.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// `memory=64M`, `cpu=50%` or `packets=100000/s`.
    pub(super) fn add(&mut self, text: &str) -> Result<(), ConfigError> {
        match text.split_once('=') {
            Some(("memory", value)) => self.memory = value.parse()?,
            Some(("cpu", value)) => self.cpu = Some(value.parse()?),
            Some(("packets", value)) => self.packets = Some(value.parse()?),
            _ => {
                let why = "unknown limit; known are memory=64M, cpu=50% and packets=100000/s";
                return Err(ConfigError::new(text, why));
            }
        }
        Ok(())
    }
}

impl FromStr for MemoryLimit {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'K')) => (&text[..at], 10),
            Some((at, 'M')) => (&text[..at], 20),
            Some((at, 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        bytes
            .filter(|bytes| *bytes >= LEAST_MEMORY)
            .map(Self)
            .ok_or_else(|| ConfigError::new(text, "no amount of memory, such as 64M; 64K is the least"))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % (1 << 30) == 0 => write!(f, "{}G", n >> 30),
            n if n % (1 << 20) == 0 => write!(f, "{}M", n >> 20),
            n if n % (1 << 10) == 0 => write!(f, "{}K", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

impl FromStr for CpuLimit {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let percent = text.trim().strip_suffix('%').and_then(|digits| digits.parse().ok());
        // A stack is one thread's work.
        let fits = percent.filter(|percent| (1..=100).contains(percent));
        fits.map(Self).ok_or_else(|| ConfigError::new(text, "no part of a processor; 1% to 100%"))
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for PacketLimit {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let packets = text.trim().strip_suffix("/s").and_then(|digits| digits.parse().ok());
        let fits = packets.filter(|packets| *packets > 0);
        fits.map(Self)
            .ok_or_else(|| ConfigError::new(text, "no number of packets in a second, such as 100000/s"))
    }
}

impl fmt::Display for PacketLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}
