//! What of a port's rate is promised, and whether more can be.
//!
//! # Theory of operation
//! A [`Reservation`] promises a VLAN a rate on a port: its frames have a queue of their own there, which is served
//! before all others as long as it is within its rate. So that promises can be kept, and others live beside them, no
//! more than a share of the port's rate is promised in all ([`RESERVABLE_PERCENT`] unless told otherwise); [`admit`]
//! refuses what is more.
//!
//! Read: IEEE 802.1Q-2018 clauses 34.3.1 (portion of a port's rate that may be reserved) and 35 (reservation).

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use crate::vlan::Vid;

/// The share of a port's rate that may be promised (802.1Q-2018 clause 34.3.1: 75 % for class A).
pub const RESERVABLE_PERCENT: u8 = 75;
/// Reservations at most on one port: each has a queue, and all queues are looked at when a frame is to be sent.
pub const MAX_RESERVATIONS: usize = 32;

/// A rate promised to a VLAN on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The VLAN.
    pub vid: Vid,
    /// What it gets, whatever the others do.
    #[serde(rename = "rate_bps")]
    pub rate: Rate,
    /// What it gets at most, when there is room; absent: all.
    #[serde(rename = "max_bps", default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Rate>,
}

/// Why there is no promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Nobody knows what there is to be promised.
    #[error("the port has no rate of which a part could be reserved")]
    NoRate,
    /// More than there is.
    #[error(
        "{wanted} do not fit: of the port's {rate}, {percent} % may be reserved, {} are, {} are free",
        shown(*.reserved),
        shown(*.free)
    )]
    TooMuch {
        /// What was asked for.
        wanted: Rate,
        /// What the port has.
        rate: Rate,
        /// How much of it may be reserved.
        percent: u8,
        /// Reserved already, in bits per second.
        reserved: u64,
        /// Not yet, in bits per second.
        free: u64,
    },
    /// One for each VLAN.
    #[error("VLAN {0} has a reservation there already")]
    Taken(Vid),
    /// There is none.
    #[error("VLAN {0} has no reservation there")]
    Unknown(Vid),
    /// Too many.
    #[error("the port has {MAX_RESERVATIONS} reservations already")]
    Full,
    /// A ceiling below the floor.
    #[error("the VLAN cannot be limited to {max}, less than its reserved {rate}")]
    BadMax {
        /// What is reserved.
        rate: Rate,
        /// The limit.
        max: Rate,
    },
}

fn shown(bps: u64) -> String {
    Rate::from_bps(bps).map_or_else(|| "0 bit/s".to_owned(), |rate| rate.to_string())
}

/// Bits per second that may be promised of a port's rate.
pub fn reservable(rate: Rate, percent: u8) -> u64 {
    // A hundredth first would lose some bits of it; rates leave room for the product.
    rate.bps() * u64::from(percent.min(100)) / 100
}

/// May `wanted` be promised beside `reserved`, on a port with this rate, of which so many percent may be?
///
/// # Errors
/// Why not.
pub fn admit(
    rate: Option<Rate>,
    percent: u8,
    reserved: &[Reservation],
    wanted: &Reservation,
) -> Result<(), ReserveError> {
    let rate = rate.ok_or(ReserveError::NoRate)?;
    if let Some(max) = wanted.max.filter(|max| *max < wanted.rate) {
        return Err(ReserveError::BadMax { rate: wanted.rate, max });
    }
    if reserved.iter().any(|r| r.vid == wanted.vid) {
        return Err(ReserveError::Taken(wanted.vid));
    }
    if reserved.len() >= MAX_RESERVATIONS {
        return Err(ReserveError::Full);
    }
    let sum: u64 = reserved.iter().map(|r| r.rate.bps()).sum();
    let free = reservable(rate, percent).saturating_sub(sum);
    if wanted.rate.bps() > free {
        return Err(ReserveError::TooMuch { wanted: wanted.rate, rate, percent, reserved: sum, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reservation(vid: u16, bps: u64) -> Reservation {
        Reservation { vid: Vid::new(vid).unwrap(), rate: Rate::from_bps(bps).unwrap(), max: None }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_free() {
        let rate = Rate::from_bps(100_000_000);
        let there = [reservation(10, 60_000_000)];
        let error = admit(rate, 75, &there, &reservation(20, 16_000_000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "16 Mbit/s do not fit: of the port's 100 Mbit/s, 75 % may be reserved, 60 Mbit/s are, 15 Mbit/s are free"
        );
        assert_eq!(admit(rate, 75, &there, &reservation(20, 15_000_000)), Ok(()));
        assert_eq!(admit(rate, 75, &there, &reservation(10, 1000)), Err(ReserveError::Taken(there[0].vid)));
        assert_eq!(admit(None, 75, &[], &there[0]), Err(ReserveError::NoRate));
        let capped = Reservation { max: Rate::from_bps(1000), ..there[0] };
        assert!(matches!(admit(rate, 75, &[], &capped), Err(ReserveError::BadMax { .. })));
    }

    proptest! {
        #[test]
        fn never_promises_more_than_there_is(
            bps in 1_000..1_000_000_000u64,
            percent in 0..=100u8,
            wanted in prop::collection::vec(1_000..500_000_000u64, 0..60),
        ) {
            let (rate, mut reserved) = (Rate::from_bps(bps).unwrap(), Vec::new());
            for (n, bps) in (1..).zip(wanted) {
                let before: u64 = reserved.iter().map(|r: &Reservation| r.rate.bps()).sum();
                let fits = before + bps <= reservable(rate, percent) && reserved.len() < MAX_RESERVATIONS;
                let new = reservation(n, bps);
                prop_assert_eq!(admit(Some(rate), percent, &reserved, &new).is_ok(), fits);
                reserved.extend(fits.then_some(new));
            }
            prop_assert!(reserved.iter().map(|r| r.rate.bps()).sum::<u64>() * 100 <= bps * u64::from(percent));
        }
    }
}
