//! Names of views: which questions of DNS are about them, and the answers (RFC 1035). A core.
//!
//! # Theory of operation
//! A question about `NAME.view`, or for the name of an address of the gateway's network, is answered here and never
//! leaves; all others are somebody else's. Only a message with one question of class IN is looked at; what is
//! malformed is a nameserver's to refuse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The domain of views. It is in no registry, so nobody else's.
const DOMAIN: &str = "view";
/// For how long an answer is good, in seconds: views come and go.
const TTL: u32 = 1;
/// Bytes of a message's header.
const HEADER: usize = 12;
/// Longest name, in bytes of text.
const MAX_NAME: usize = 255;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The addresses of a view, of one family.
    Addresses {
        /// The view.
        view: String,
        /// IPv4 or IPv6; neither: another type of record.
        v4: Option<bool>,
    },
    /// Whose an address is.
    Name(IpAddr),
}

/// What is said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses of the family that was asked for; none: it has others.
    Addresses(Vec<IpAddr>),
    /// The view.
    Name(String),
    /// A host that is no view.
    Host(String),
    /// There is no such name (NXDOMAIN).
    Nobody,
    /// Such questions are not answered here (REFUSED).
    Refused,
}

/// A message's one question: its name in small letters, its type, and where it ends.
fn parse(message: &[u8]) -> Option<(String, u16, usize)> {
    let head = message.first_chunk::<HEADER>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    // A query (QR, opcode) with one question.
    if head[2] & 0xF8 != 0 || word(4) != 1 {
        return None;
    }
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length).filter(|_| length < 64)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        label.iter().for_each(|byte| name.push(byte.to_ascii_lowercase().into()));
        if name.len() > MAX_NAME {
            return None;
        }
    }
    let tail = message.get(at..at + 4)?;
    let class = u16::from_be_bytes([tail[2], tail[3]]);
    (class == 1).then(|| (name, u16::from_be_bytes([tail[0], tail[1]]), at + 4))
}

/// What a message asks, if it is about views or addresses.
pub fn question(message: &[u8]) -> Option<Question> {
    let (name, kind, _) = parse(message)?;
    if let Some(rest) = name.strip_suffix(DOMAIN)
        && (rest.is_empty() || rest.ends_with('.'))
    {
        let view = rest.trim_end_matches('.').to_owned();
        let v4 = match kind {
            1 => Some(true),
            28 => Some(false),
            _ => None,
        };
        return Some(Question::Addresses { view, v4 });
    }
    (kind == 12).then(|| reverse(&name).map(Question::Name)).flatten()
}

/// The name that a message asks about, in small letters, and whether for its IPv4 or its IPv6 addresses, or neither.
pub fn host(message: &[u8]) -> Option<(String, Option<bool>)> {
    let (name, kind, _) = parse(message)?;
    let v4 = match kind {
        1 => Some(true),
        28 => Some(false),
        _ => None,
    };
    Some((name, v4))
}

/// The address in a name of in-addr.arpa or ip6.arpa.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes: Vec<u8> = rest.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        bytes.reverse();
        return Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)));
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let text: String = digits.into_iter().rev().collect();
    u128::from_str_radix(&text, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

/// The answer to a message that has a question.
pub fn answer(message: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let (_, _, end) = parse(message)?;
    let mut out = message[..end].to_vec();
    let (rcode, records): (u8, Vec<(u16, Vec<u8>)>) = match answer {
        Answer::Nobody => (3, Vec::new()),
        Answer::Refused => (5, Vec::new()),
        Answer::Name(view) => (0, vec![(12, labels(&format!("{view}.{DOMAIN}"))?)]),
        Answer::Host(name) => (0, vec![(12, labels(name)?)]),
        Answer::Addresses(addresses) => {
            let record = |address: &IpAddr| match address {
                IpAddr::V4(v4) => (1, v4.octets().to_vec()),
                IpAddr::V6(v6) => (28, v6.octets().to_vec()),
            };
            (0, addresses.iter().map(record).collect())
        }
    };
    // A response, authoritative; recursion as it was desired, and available.
    out[2] = 0x84 | out[2] & 1;
    out[3] = 0x80 | rcode;
    out[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    out[8..HEADER].fill(0);
    for (kind, data) in records {
        // The question's name, which is at the header's end.
        out.extend_from_slice(&[0xC0, HEADER as u8]);
        [kind, 1].iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
        out.extend_from_slice(&TTL.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&data);
    }
    Some(out)
}

/// A name as labels.
fn labels(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Some(out)
}

/// The nameservers of a resolv.conf(5).
pub fn nameservers(text: &str) -> Vec<IpAddr> {
    /// MAXNS of resolv.h.
    const MOST: usize = 3;
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse().ok()).flatten()
    });
    lines.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        out.extend(labels(name).unwrap());
        [kind, 1].iter().for_each(|word: &u16| out.extend_from_slice(&word.to_be_bytes()));
        out
    }

    #[test]
    fn views_and_addresses_are_asked_for() {
        let view = |view: &str, v4| Some(Question::Addresses { view: view.into(), v4 });
        assert_eq!(question(&query("Web.View", 1)), view("web", Some(true)));
        assert_eq!(question(&query("a.b.view", 28)), view("a.b", Some(false)));
        assert_eq!(question(&query("web.view", 15)), view("web", None));
        assert_eq!(question(&query("web.review", 1)), None);
        assert_eq!(question(&query("2.2.0.10.in-addr.arpa", 12)), Some(Question::Name([10, 0, 2, 2].into())));
        let v6: Ipv6Addr = "fd00::2".parse().unwrap();
        let digits: Vec<String> = format!("{:032x}", v6.to_bits()).chars().rev().map(String::from).collect();
        assert_eq!(
            question(&query(&format!("{}.ip6.arpa", digits.join(".")), 12)),
            Some(Question::Name(v6.into()))
        );
    }

    #[test]
    fn an_answer_repeats_the_question() {
        let asked = query("web.view", 1);
        let said = answer(&asked, &Answer::Addresses(vec![[10, 0, 2, 2].into()])).unwrap();
        assert_eq!(said[..4], [0x12, 0x34, 0x85, 0x80]);
        assert_eq!(said[12..asked.len()], asked[12..]);
        assert_eq!(said[said.len() - 4..], [10, 0, 2, 2]);
        assert_eq!(answer(&asked, &Answer::Nobody).unwrap()[3] & 15, 3);
    }

    #[test]
    fn resolv_conf_is_read() {
        let text = "# x\nnameserver 127.0.0.53\nsearch a\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 1.1.1.1\n";
        let expected: Vec<IpAddr> =
            ["127.0.0.53", "fe80::1", "1.1.1.1"].map(|it| it.parse().unwrap()).to_vec();
        assert_eq!(nameservers(text), expected);
    }

    proptest! {
        #[test]
        fn anything_may_be_asked(bytes in prop::collection::vec(any::<u8>(), 0..100), text in ".{0,80}") {
            let _ = (question(&bytes), nameservers(&text));
            if let Some(said) = answer(&bytes, &Answer::Name("web".into())) {
                prop_assert!(parse(&bytes).is_some() && said.len() > bytes.len().min(HEADER));
            }
        }
    }
}
