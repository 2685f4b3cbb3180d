//! A traffic class of a port: how its queue is served, and how fast at most.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::rate::Rate;

/// A class, written `strict` or as its weight, with `@RATE` if it has one: `4@10M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Class {
    /// How it is served.
    pub service: Service,
    /// Bits per second at most, also when the port has nothing else to send; absent: what the port has.
    pub rate: Option<Rate>,
}

/// How a class is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Before all weighted ones, and all strict ones of a lower number.
    Strict,
    /// By turns; so often as much as others.
    Weight(u8),
}

impl Class {
    /// A strict class, as fast as the port.
    pub const STRICT: Self = Self { service: Service::Strict, rate: None };

    /// A weighted class, as fast as the port.
    pub const fn weight(weight: u8) -> Self {
        Self { service: Service::Weight(weight), rate: None }
    }
}

/// The text names no class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no class; write `strict` or a weight of 1 to 255, and maybe a rate, as 4@10M")]
pub struct BadClass(String);

impl FromStr for Class {
    type Err = BadClass;

    fn from_str(text: &str) -> Result<Self, BadClass> {
        let bad = || BadClass(text.to_owned());
        let (service, rate) = match text.split_once('@') {
            Some((service, rate)) => (service, Some(rate.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let service = match service.parse() {
            Ok(weight @ 1..) => Service::Weight(weight),
            _ if service == "strict" => Service::Strict,
            _ => return Err(bad()),
        };
        Ok(Self { service, rate })
    }
}

impl TryFrom<String> for Class {
    type Error = BadClass;

    fn try_from(text: String) -> Result<Self, BadClass> {
        text.parse()
    }
}

impl From<Class> for String {
    fn from(class: Class) -> Self {
        class.to_string()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            Service::Strict => f.write_str("strict")?,
            Service::Weight(weight) => weight.fmt(f)?,
        }
        self.rate.map_or(Ok(()), |rate| write!(f, "@{}", rate.exact()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_as_text() {
        for text in ["strict", "1", "255", "strict@50M", "4@2500k"] {
            assert_eq!(text.parse::<Class>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "256", "Strict", "4@", "4@1", "@1M", "4@1M@1M"] {
            assert!(bad.parse::<Class>().is_err(), "{bad}");
        }
    }
}
