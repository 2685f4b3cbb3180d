//! Stand-ins: addresses for names that only the proxy looks up. A core.
//!
//! # Theory of operation
//! A program connects to addresses, a proxy to names. So a name that is asked for gets an address of 198.18.0.0/15,
//! which nobody has (RFC 2544, RFC 6890), and the same number in an IPv6 network of our own (RFC 4193); whoever
//! connects there is meant to reach the name. The least recently used name goes when there are too many, and its
//! address to the name that comes next. Names are a list by use, in a vector: a number is a place and an address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::proxy::is_name;

/// Names at once. A browser asks for some hundreds; each takes a hundred bytes.
pub const MAX_NAMES: usize = 1 << 16;
/// 198.18.0.1, the first one.
const FIRST: u32 = 0xC612_0001;
/// fd73:6f63:6b73::/96
const NETWORK: u128 = 0xfd73_6f63_6b73 << 80;
/// No place.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    /// The one that was used after it, and the one before.
    newer: u32,
    older: u32,
}

/// Names and their addresses.
#[derive(Debug)]
pub struct StandIns {
    places: HashMap<Box<str>, u32>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    limit: usize,
}

impl Default for StandIns {
    fn default() -> Self {
        Self::new(MAX_NAMES)
    }
}

impl StandIns {
    /// For so many names at once, [`MAX_NAMES`] at most, and one at least.
    pub fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, MAX_NAMES);
        Self { places: HashMap::new(), entries: Vec::new(), newest: NONE, oldest: NONE, limit }
    }

    /// How many names have addresses.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The addresses that stand for a name, in small letters. `None`: no host has such a name, it is the one that asks
    /// (`localhost`, RFC 6761 section 6.3), or an address in disguise, which no rule would see (RFC 3696 section 2).
    pub fn give(&mut self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let top = name.rsplit('.').next().unwrap_or_default();
        let is_number = top.starts_with("0x") || top.bytes().all(|byte| byte.is_ascii_digit());
        if !is_name(name) || top == "localhost" || is_number {
            return None;
        }
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => self.add(name),
        };
        self.touch(place);
        let v4 = Ipv4Addr::from_bits(FIRST + place);
        Some((v4, Ipv6Addr::from_bits(NETWORK | u128::from(v4.to_bits()))))
    }

    /// Does the address stand for a name, now or at other times?
    pub fn is_one(address: IpAddr) -> bool {
        place(address).is_some()
    }

    /// The name that an address stands for, which is used by that.
    pub fn name(&mut self, address: IpAddr) -> Option<&str> {
        let place = place(address).filter(|place| (*place as usize) < self.entries.len())?;
        self.touch(place);
        Some(&self.entries[place as usize].name)
    }

    fn add(&mut self, name: &str) -> u32 {
        let entry = Entry { name: name.into(), newer: NONE, older: NONE };
        let place = if self.entries.len() < self.limit {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let place = self.oldest;
            self.detach(place);
            let gone = std::mem::replace(&mut self.entries[place as usize], entry);
            self.places.remove(&gone.name);
            place
        };
        self.attach(place);
        self.places.insert(name.into(), place);
        place
    }

    fn touch(&mut self, place: u32) {
        if self.newest != place {
            self.detach(place);
            self.attach(place);
        }
    }

    fn detach(&mut self, place: u32) {
        let Entry { newer, older, .. } = self.entries[place as usize];
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn attach(&mut self, place: u32) {
        let older = std::mem::replace(&mut self.newest, place);
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, older);
    }
}

/// The place of an address, if it is one of ours.
fn place(address: IpAddr) -> Option<u32> {
    let v4 = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) if v6.to_bits() >> 32 == NETWORK >> 32 => v6.to_bits() as u32,
        IpAddr::V6(_) => return None,
    };
    // The whole of 198.18.0.0/15: what stands for nobody yet is nobody's either.
    (v4 >> 17 == FIRST >> 17).then(|| v4.wrapping_sub(FIRST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_one_address_of_each_family() {
        let mut names = StandIns::default();
        let (v4, v6) = names.give("a.example").unwrap();
        assert_eq!((v4.to_string(), v6.to_string()), ("198.18.0.1".into(), "fd73:6f63:6b73::c612:1".into()));
        assert_eq!(names.give("a.example"), Some((v4, v6)));
        assert_ne!(names.give("b.example"), Some((v4, v6)));
        for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            assert_eq!(names.name(address), Some("a.example"));
        }
        for nobody in ["198.18.0.0", "198.18.9.9", "198.19.255.255", "fd73:6f63:6b73::c613:1"] {
            let nobody = nobody.parse().unwrap();
            assert!(StandIns::is_one(nobody) && names.name(nobody).is_none(), "{nobody}");
        }
        for other in ["198.17.255.255", "198.20.0.0", "fd73:6f63:6b73::1", "::1"] {
            assert!(!StandIns::is_one(other.parse().unwrap()), "{other}");
        }
        for never in [
            "",
            "localhost",
            "x.localhost",
            "a b",
            "é.example",
            "10.0.0.1",
            "167772161",
            "10.0x1",
            "a.",
            &"a".repeat(256),
        ] {
            assert_eq!(names.give(never), None, "{never}");
        }
    }

    proptest! {
        #[test]
        fn the_least_recently_used_goes(uses in prop::collection::vec((0..12u8, any::<bool>()), 0..200)) {
            let mut names = StandIns::new(5);
            let mut model: Vec<(String, Ipv4Addr)> = Vec::new();
            for (number, give) in uses {
                let name = format!("n{number}");
                let known = model.iter().position(|(known, _)| *known == name).map(|at| model.remove(at));
                let address = match (known, give) {
                    (Some((_, address)), true) => {
                        prop_assert_eq!(names.give(&name).unwrap().0, address);
                        address
                    }
                    (Some((_, address)), false) => {
                        prop_assert_eq!(names.name(address.into()), Some(&*name));
                        address
                    }
                    (None, true) => {
                        let gone = (model.len() == 5).then(|| model.remove(0).1);
                        let address = names.give(&name).unwrap().0;
                        prop_assert!(gone.is_none_or(|gone| gone == address));
                        address
                    }
                    (None, false) => continue,
                };
                model.push((name, address));
            }
            prop_assert_eq!(names.len(), model.len());
            for (name, address) in model {
                prop_assert_eq!(names.name(address.into()), Some(&*name));
            }
        }
    }
}
