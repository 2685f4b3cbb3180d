//! Bits per second, and how people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most bits per second: more than any port moves, and so that no sum of rates overflows.
pub const MAX_BPS: u64 = 10_000_000_000_000;
/// Fewest bits per second: a frame of 1,514 bytes every 12 seconds is a port that is alive.
pub const MIN_BPS: u64 = 1_000;

/// A rate, at least 1 kbit/s; written in bits per second with an optional k, M, G or T (of 1000), as `100M` or `2.5G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Rate(u64);

impl Rate {
    /// `None` if it is out of bounds.
    pub fn from_bps(bps: u64) -> Option<Self> {
        (MIN_BPS..=MAX_BPS).contains(&bps).then_some(Self(bps))
    }

    /// Bits per second.
    pub fn bps(self) -> u64 {
        self.0
    }

    /// As it can be typed, and nothing is lost: `100M`.
    pub fn exact(self) -> String {
        let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        let unit = units.into_iter().find(|(unit, _)| self.0.is_multiple_of(*unit));
        unit.map_or_else(|| self.0.to_string(), |(unit, name)| format!("{}{name}", self.0 / unit))
    }
}

/// The text or number is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate; write bits per second, 1k to 10T, as 100M or 2.5G")]
pub struct BadRate(String);

impl TryFrom<u64> for Rate {
    type Error = BadRate;

    fn try_from(bps: u64) -> Result<Self, BadRate> {
        Self::from_bps(bps).ok_or_else(|| BadRate(bps.to_string()))
    }
}

impl From<Rate> for u64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let bps = scaled(
            text,
            &[("k", 1_000), ("K", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)],
        );
        bps.and_then(Self::from_bps).ok_or_else(|| BadRate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}bit/s", Short(self.0))
    }
}

/// The text or number is no amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount of bytes; write as 64K or 1M")]
pub struct BadBytes(String);

/// Reads bytes, with an optional K or M (of 1024).
///
/// # Errors
/// The text is something else.
pub fn bytes(text: &str) -> Result<u32, BadBytes> {
    let bytes = scaled(text, &[("K", 1 << 10), ("k", 1 << 10), ("M", 1 << 20)]);
    bytes.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| BadBytes(text.to_owned()))
}

/// A number with up to nine decimals and one of the units.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1));
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(unit) / 10u128.pow(part.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// A number with three decimals at most.
struct Short(u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        let (unit, name) = units.into_iter().find(|(unit, _)| self.0 >= *unit).unwrap_or((1, ""));
        let (whole, part) = (self.0 / unit, self.0 % unit * 1000 / unit);
        let decimals = format!(".{part:03}");
        write!(f, "{whole}{} {name}", decimals.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let rate = |text: &str| text.parse::<Rate>().map(Rate::bps);
        assert_eq!(rate("100M"), Ok(100_000_000));
        assert_eq!(rate("2.5G"), Ok(2_500_000_000));
        assert_eq!(rate("1000"), Ok(1000));
        for bad in [
            "",
            "M",
            "-1M",
            "1.M",
            ".5M",
            "1e9",
            "999",
            "11T",
            "99999999999999999999",
            "1.0000000001G",
            "1 M",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!("100M".parse::<Rate>().unwrap().to_string(), "100 Mbit/s");
        assert_eq!("1.05G".parse::<Rate>().unwrap().to_string(), "1.05 Gbit/s");
        for (text, exact) in [("1000M", "1G"), ("2.5G", "2500M"), ("1001", "1001")] {
            assert_eq!(text.parse::<Rate>().unwrap().exact(), exact);
        }
        assert_eq!((bytes("64K"), bytes("1500")), (Ok(65_536), Ok(1500)));
        assert!(bytes("5G").is_err());
        assert!(serde_json::from_str::<Rate>("0").is_err());
    }
}
