//! DHCPv6 (RFC 8415): its messages, a server and a client. Cores.
//!
//! # Theory of operation
//! [`Message`] is what a message says, of the options that we know; [`Message::parse`] and [`Message::bytes`] are its
//! two ways. Options are numbers and lengths in front of data, some of which are options again: an identity association
//! (IA_NA) has addresses, and both have a status. What is malformed is dropped as a whole (RFC 8415 section 16); what
//! is unknown is passed over. [`server`] gives addresses from a network of a gateway, [`client`] asks for them and keeps
//! them. Both know messages of IA_NA alone: temporary addresses (IA_TA) and relays are passed over, and who asks for a prefix
//! (IA_PD) hears that there is none.

pub mod client;
pub mod server;

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports of servers and of clients.
pub const SERVER: u16 = 547;
/// See there.
pub const CLIENT: u16 = 546;
/// All_DHCP_Relay_Agents_and_Servers (RFC 8415 section 7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 1, 2);
/// Never over (RFC 8415 section 7.7).
pub const INFINITY: u32 = u32::MAX;
/// Most associations of a message, and addresses of one: an interface has one of either, as a rule.
pub const MAX_IAS: usize = 8;
/// Most nameservers, domains, and servers of NTP: what resolvers use (resolv.h), with some to spare.
pub const MAX_LISTED: usize = 8;
/// Longest DUID, in bytes (RFC 8415 section 11.1), and the shortest.
const DUID: std::ops::RangeInclusive<usize> = 3..=130;
/// Longest name (RFC 1035 clause 2.3.4).
const MAX_NAME: usize = 253;

/// Options (RFC 8415 section 21, RFC 3646, RFC 4075, RFC 4242, RFC 4704, RFC 5908).
mod option {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const ASKED: u16 = 6;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const ELAPSED: u16 = 8;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const NAMESERVERS: u16 = 23;
    pub(super) const DOMAINS: u16 = 24;
    pub(super) const IA_PD: u16 = 25;
    pub(super) const SNTP: u16 = 31;
    pub(super) const REFRESH: u16 = 32;
    pub(super) const FQDN: u16 = 39;
    pub(super) const NTP: u16 = 56;
}
pub use asked::*;
/// Options that clients ask for by number.
mod asked {
    /// Nameservers (RFC 3646).
    pub const NAMESERVERS: u16 = super::option::NAMESERVERS;
    /// Domains to look names up in (RFC 3646).
    pub const DOMAINS: u16 = super::option::DOMAINS;
    /// Servers of SNTP (RFC 4075).
    pub const SNTP: u16 = super::option::SNTP;
    /// When to ask again (RFC 4242).
    pub const REFRESH: u16 = super::option::REFRESH;
    /// Servers of NTP (RFC 5908).
    pub const NTP: u16 = super::option::NTP;
}
/// A server's address, of the NTP option's suboptions (RFC 5908 section 4.1).
const NTP_ADDRESS: u16 = 1;

/// What a message is for (RFC 8415 section 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum Kind {
    Solicit = 1,
    Advertise,
    Request,
    Confirm,
    Renew,
    Rebind,
    Reply,
    Release,
    Decline,
    /// Not understood by us: clients do not need it.
    Reconfigure,
    InformationRequest,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        use Kind::*;
        const ALL: [Kind; 11] = [
            Solicit,
            Advertise,
            Request,
            Confirm,
            Renew,
            Rebind,
            Reply,
            Release,
            Decline,
            Reconfigure,
            InformationRequest,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// How it went (RFC 8415 section 21.13).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Success.
    pub const SUCCESS: Self = Self(0);
    /// NoAddrsAvail
    pub const NO_ADDRESSES: Self = Self(2);
    /// NoBinding
    pub const NO_BINDING: Self = Self(3);
    /// NotOnLink
    pub const NOT_ON_LINK: Self = Self(4);
    /// NoPrefixAvail
    pub const NO_PREFIX: Self = Self(6);
}

/// Who somebody is (RFC 8415 section 11): bytes that mean nothing to others.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duid(Vec<u8>);

impl Duid {
    /// Bytes; `None`: they are too few or too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        DUID.contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// That of a hardware address (DUID-LL of Ethernet, RFC 8415 section 11.4).
    pub fn of_mac(mac: [u8; 6]) -> Self {
        Self([&[0, 3, 0, 1], &mac[..]].concat())
    }

    /// The hardware address in it, of Ethernet (DUID-LLT, DUID-LL).
    pub fn mac(&self) -> Option<[u8; 6]> {
        match &*self.0 {
            [0, 1, 0, 1, _, _, _, _, mac @ ..] | [0, 3, 0, 1, mac @ ..] => mac.try_into().ok(),
            _ => None,
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Duid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Duid {
    type Err = String;

    /// `00:03:00:01:02:00:00:00:00:07`, longer than a hardware address.
    fn from_str(text: &str) -> Result<Self, String> {
        let byte = |word: &str| {
            u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2 && !word.starts_with('+'))
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let duid = bytes.and_then(|bytes| Self::new(&bytes));
        duid.ok_or_else(|| format!("`{text}` is no DUID; write 00:03:00:01:02:00:00:00:00:07"))
    }
}

impl TryFrom<String> for Duid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Duid> for String {
    fn from(duid: Duid) -> Self {
        duid.to_string()
    }
}

/// An address of an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IaAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// For how long it is preferred, in seconds.
    pub preferred_s: u32,
    /// For how long it is good, in seconds; 0: no more.
    pub valid_s: u32,
}

/// An identity association: the addresses of one interface (RFC 8415 section 21.4).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ia {
    /// Its number, which the client chose.
    pub id: u32,
    /// When to ask its server again, and everybody, in seconds; 0: as the client likes.
    pub renew_s: u32,
    /// See there.
    pub rebind_s: u32,
    /// Its addresses.
    pub addresses: Vec<IaAddress>,
    /// How it went.
    pub status: Status,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What for.
    pub kind: Kind,
    /// The transaction: 24 bits.
    pub id: u32,
    /// The client.
    pub client: Option<Duid>,
    /// The server.
    pub server: Option<Duid>,
    /// Associations of addresses.
    pub ias: Vec<Ia>,
    /// Associations of prefixes (IA_PD), by number.
    pub prefixes: Vec<u32>,
    /// How it went.
    pub status: Status,
    /// Two messages are enough (RFC 8415 section 21.14).
    pub rapid_commit: bool,
    /// Options that the client asks for.
    pub asked: Vec<u16>,
    /// For how long the client has been asking, in hundredths of a second.
    pub elapsed: Option<u16>,
    /// The server's rank among servers: 255 is taken at once.
    pub preference: Option<u8>,
    /// Nameservers.
    pub nameservers: Vec<Ipv6Addr>,
    /// Domains to look names up in.
    pub domains: Vec<String>,
    /// Servers of SNTP.
    pub sntp: Vec<Ipv6Addr>,
    /// Servers of NTP.
    pub ntp: Vec<Ipv6Addr>,
    /// After how many seconds to ask for such things again.
    pub refresh_s: Option<u32>,
    /// The client's name.
    pub name: Option<String>,
}

impl Message {
    /// One that says nothing yet.
    pub fn new(kind: Kind, id: u32) -> Self {
        Self {
            kind,
            id: id & 0xFF_FFFF,
            client: None,
            server: None,
            ias: Vec::new(),
            prefixes: Vec::new(),
            status: Status::SUCCESS,
            rapid_commit: false,
            asked: Vec::new(),
            elapsed: None,
            preference: None,
            nameservers: Vec::new(),
            domains: Vec::new(),
            sntp: Vec::new(),
            ntp: Vec::new(),
            refresh_s: None,
            name: None,
        }
    }

    /// What bytes say; `None`: they are no message of a client or a server, or malformed.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let mut message = Self::new(Kind::of(head[0])?, u32::from_be_bytes(*head));
        for part in options(rest) {
            let (number, data) = part?;
            message.take(number, data)?;
        }
        Some(message)
    }

    fn take(&mut self, number: u16, data: &[u8]) -> Option<()> {
        match number {
            option::CLIENT => self.client = Some(Duid::new(data)?),
            option::SERVER => self.server = Some(Duid::new(data)?),
            option::IA_NA if self.ias.len() < MAX_IAS => self.ias.push(association(data)?),
            option::IA_PD if self.prefixes.len() < MAX_IAS => {
                self.prefixes.push(u32::from_be_bytes(*data.first_chunk()?));
            }
            option::STATUS => self.status = status(data)?,
            option::RAPID_COMMIT => self.rapid_commit = true,
            option::ASKED => {
                let numbers = data.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
                self.asked = numbers.collect();
            }
            option::ELAPSED => self.elapsed = Some(u16::from_be_bytes(*data.first_chunk()?)),
            option::PREFERENCE => self.preference = Some(*data.first()?),
            option::NAMESERVERS => self.nameservers = addresses(data)?,
            // A name that could be none is no reason to go without the rest.
            option::DOMAINS => self.domains = names(data).unwrap_or_default(),
            option::SNTP => self.sntp = addresses(data)?,
            option::NTP => {
                for part in options(data) {
                    let (number, data) = part?;
                    if number == NTP_ADDRESS && self.ntp.len() < MAX_LISTED {
                        self.ntp.push(Ipv6Addr::from(*data.first_chunk::<16>()?));
                    }
                }
            }
            option::REFRESH => self.refresh_s = Some(u32::from_be_bytes(*data.first_chunk()?)),
            option::FQDN => self.name = data.get(1..).and_then(name).map(|(name, _)| name),
            _ => {}
        }
        Some(())
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        out[0] = self.kind as u8;
        let duids = [(option::CLIENT, &self.client), (option::SERVER, &self.server)];
        for (number, duid) in duids.into_iter().filter_map(|(number, duid)| Some((number, duid.as_ref()?))) {
            put(&mut out, number, |out| out.extend_from_slice(&duid.0));
        }
        if let Some(elapsed) = self.elapsed {
            put(&mut out, option::ELAPSED, |out| out.extend_from_slice(&elapsed.to_be_bytes()));
        }
        if let Some(preference) = self.preference {
            put(&mut out, option::PREFERENCE, |out| out.push(preference));
        }
        if self.rapid_commit {
            put(&mut out, option::RAPID_COMMIT, |_| {});
        }
        put_list(&mut out, option::ASKED, &self.asked, |out, number| {
            out.extend_from_slice(&number.to_be_bytes());
        });
        for ia in &self.ias {
            put(&mut out, option::IA_NA, |out| ia.put(out));
        }
        for id in &self.prefixes {
            // Nobody here has prefixes to give.
            put(&mut out, option::IA_PD, |out| {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(&[0; 8]);
                put_status(out, Status::NO_PREFIX);
            });
        }
        put_status(&mut out, self.status);
        let address = |out: &mut Vec<u8>, address: &Ipv6Addr| out.extend_from_slice(&address.octets());
        put_list(&mut out, option::NAMESERVERS, &self.nameservers, address);
        put_list(&mut out, option::DOMAINS, &self.domains, |out, domain| put_name(out, domain));
        put_list(&mut out, option::SNTP, &self.sntp, address);
        put_list(&mut out, option::NTP, &self.ntp, |out, server| {
            put(out, NTP_ADDRESS, |out| out.extend_from_slice(&server.octets()));
        });
        if let Some(refresh) = self.refresh_s {
            put(&mut out, option::REFRESH, |out| out.extend_from_slice(&refresh.to_be_bytes()));
        }
        if let Some(name) = &self.name {
            put(&mut out, option::FQDN, |out| {
                // Flags: whoever keeps names may do with it what it likes.
                out.push(0);
                put_name(out, name);
            });
        }
        out
    }
}

impl Ia {
    fn put(&self, out: &mut Vec<u8>) {
        for word in [self.id, self.renew_s, self.rebind_s] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for it in &self.addresses {
            put(out, option::ADDRESS, |out| {
                out.extend_from_slice(&it.address.octets());
                out.extend_from_slice(&it.preferred_s.to_be_bytes());
                out.extend_from_slice(&it.valid_s.to_be_bytes());
            });
        }
        put_status(out, self.status);
    }
}

/// Options one after the other; `None` in the place of one that is not whole, and then no more.
fn options(mut rest: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let whole = rest.split_first_chunk::<4>().and_then(|([a, b, c, d], left)| {
            let (data, left) = left.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
            Some((u16::from_be_bytes([*a, *b]), data, left))
        });
        rest = whole.map_or(&[][..], |(_, _, left)| left);
        Some(whole.map(|(number, data, _)| (number, data)))
    })
}

fn association(data: &[u8]) -> Option<Ia> {
    let (head, rest) = data.split_first_chunk::<12>()?;
    let word = |at: usize| head[at..].first_chunk().map(|word| u32::from_be_bytes(*word));
    let mut ia = Ia { id: word(0)?, renew_s: word(4)?, rebind_s: word(8)?, ..Ia::default() };
    for part in options(rest) {
        match part? {
            (option::ADDRESS, data) if ia.addresses.len() < MAX_IAS => {
                let (head, rest) = data.split_first_chunk::<24>()?;
                let (address, lifetimes) = head.split_first_chunk::<16>()?;
                let [a, b, c, d, e, f, g, h] = *lifetimes.first_chunk()?;
                let preferred_s = u32::from_be_bytes([a, b, c, d]);
                let valid_s = u32::from_be_bytes([e, f, g, h]);
                let mut refused = false;
                for part in options(rest) {
                    let (number, data) = part?;
                    refused |= number == option::STATUS && status(data)? != Status::SUCCESS;
                }
                // One that is preferred for longer than it is good is passed over (RFC 8415 section 21.6).
                if !refused && preferred_s <= valid_s {
                    ia.addresses.push(IaAddress { address: (*address).into(), preferred_s, valid_s });
                }
            }
            (option::STATUS, data) => ia.status = status(data)?,
            _ => {}
        }
    }
    Some(ia)
}

fn status(data: &[u8]) -> Option<Status> {
    data.first_chunk().map(|code| Status(u16::from_be_bytes(*code)))
}

fn addresses(data: &[u8]) -> Option<Vec<Ipv6Addr>> {
    let (whole, rest) = data.as_chunks::<16>();
    rest.is_empty().then(|| whole.iter().take(MAX_LISTED).map(|it| Ipv6Addr::from(*it)).collect())
}

/// Names as labels (RFC 8415 section 10), the last of which need not be complete.
fn names(mut data: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    while !data.is_empty() && found.len() < MAX_LISTED {
        let (name, rest) = name(data)?;
        found.extend(Some(name).filter(|name| !name.is_empty()));
        data = rest;
    }
    Some(found)
}

/// One name, and what is behind it.
fn name(mut data: &[u8]) -> Option<(String, &[u8])> {
    let mut name = String::new();
    while let Some((length, rest)) = data.split_first() {
        let (label, rest) = rest.split_at_checked(usize::from(*length)).filter(|_| *length < 64)?;
        data = rest;
        if label.is_empty() {
            break;
        }
        // What is no name of a host could be anything in a file that names are written into.
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        label.iter().for_each(|byte| name.push(char::from(*byte)));
    }
    (name.len() <= MAX_NAME).then_some((name, data))
}

fn put(out: &mut Vec<u8>, number: u16, data: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&number.to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 2]);
    data(out);
    let length = u16::try_from(out.len() - at - 2).expect("messages of ours are short");
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

fn put_list<T>(out: &mut Vec<u8>, number: u16, list: &[T], one: impl Fn(&mut Vec<u8>, &T)) {
    if !list.is_empty() {
        put(out, number, |out| list.iter().for_each(|it| one(out, it)));
    }
}

fn put_status(out: &mut Vec<u8>, status: Status) {
    if status != Status::SUCCESS {
        put(out, option::STATUS, |out| out.extend_from_slice(&status.0.to_be_bytes()));
    }
}

/// A name as labels; those that are too long, or nothing, are left out.
fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| (1..64).contains(&label.len())) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

#[cfg(test)]
mod tests;
