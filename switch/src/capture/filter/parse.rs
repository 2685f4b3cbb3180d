//! From the text of a filter to its tree.

use std::net::IpAddr;
use std::str::FromStr;

use super::term::{End, Proto, Term};
use super::{BadFilter, MAX_DEPTH, MAX_TERMS, Node};

/// What a value is, if it says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Ether,
}

/// What stood before a value.
#[derive(Debug, Clone, Copy)]
struct Qualifiers {
    proto: Option<Proto>,
    end: End,
    kind: Kind,
}

struct Parser<'t> {
    words: Vec<&'t str>,
    at: usize,
    terms: usize,
    depth: usize,
    /// Those of the last primitive, for a value that stands alone.
    last: Option<Qualifiers>,
}

/// `None` for a text without words.
pub(super) fn parse(text: &str) -> Result<Option<Node>, BadFilter> {
    let words = split(text);
    let mut parser = Parser { words, at: 0, terms: 0, depth: 0, last: None };
    if parser.words.is_empty() {
        return Ok(None);
    }
    let tree = parser.chain()?;
    match parser.peek() {
        None => Ok(Some(tree)),
        Some(_) => Err(parser.bad("expected `and` or `or`")),
    }
}

/// Words, and `(`, `)`, `!`, `&&`, `||` as words of their own.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in text.split_ascii_whitespace() {
        let mut rest = part;
        while !rest.is_empty() {
            let symbol = ["&&", "||", "(", ")", "!"].into_iter().find(|s| rest.starts_with(s));
            let len = match symbol {
                Some(symbol) => symbol.len(),
                None => rest.find(['(', ')', '!', '&', '|']).filter(|at| *at > 0).unwrap_or(rest.len()),
            };
            let (word, more) = rest.split_at(len);
            words.push(word);
            rest = more;
        }
    }
    words
}

impl<'t> Parser<'t> {
    fn chain(&mut self) -> Result<Node, BadFilter> {
        let first = self.term()?;
        let mut rest = Vec::new();
        loop {
            let and = match self.peek() {
                Some("and" | "&&") => true,
                Some("or" | "||") => false,
                _ => break,
            };
            self.at += 1;
            rest.push((and, self.term()?));
        }
        Ok(if rest.is_empty() { first } else { Node::Chain(Box::new(first), rest) })
    }

    fn term(&mut self) -> Result<Node, BadFilter> {
        if self.depth >= MAX_DEPTH {
            return Err(self.bad("too many parentheses inside each other"));
        }
        self.depth += 1;
        let node = match self.peek() {
            Some("not" | "!") => {
                self.at += 1;
                Node::Not(Box::new(self.term()?))
            }
            Some("(") => {
                self.at += 1;
                let node = self.chain()?;
                if !self.take(")") {
                    return Err(self.bad("expected `)`"));
                }
                node
            }
            _ => {
                self.terms += 1;
                if self.terms > MAX_TERMS {
                    return Err(self.bad("too many terms"));
                }
                Node::Term(self.primitive()?)
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    fn primitive(&mut self) -> Result<Term, BadFilter> {
        match self.peek() {
            Some("ether") => return self.ether(),
            Some("broadcast" | "multicast") => return Ok(self.group()),
            Some("vlan") => {
                self.at += 1;
                let vid = self.peek().and_then(|word| word.parse().ok());
                self.at += usize::from(vid.is_some());
                return Ok(Term::Vlan(vid));
            }
            Some("less") => return self.after().map(Term::Less),
            Some("greater") => return self.after().map(Term::Greater),
            Some("proto") => return self.protocol(None),
            _ => {}
        }
        let proto = self.peek().and_then(Proto::of);
        self.at += usize::from(proto.is_some());
        if let (Some(Proto::Ip | Proto::Ip6), Some("proto")) = (proto, self.peek()) {
            return self.protocol(proto);
        }
        let end = self.end();
        let kind = self.kind();
        let alone = end.is_none() && kind.is_none();
        let ends_here = matches!(self.peek(), None | Some("and" | "&&" | "or" | "||" | ")"));
        if let (Some(proto), true, true) = (proto, alone, ends_here) {
            return Ok(Term::Proto(proto));
        }
        let given = Qualifiers { proto, end: end.unwrap_or(End::Either), kind: kind.unwrap_or(Kind::Host) };
        let qualifiers = if alone && proto.is_none() { self.last.unwrap_or(given) } else { given };
        self.value(qualifiers)
    }

    fn value(&mut self, qualifiers: Qualifiers) -> Result<Term, BadFilter> {
        let Qualifiers { proto, end, kind } = qualifiers;
        let word = self.peek().unwrap_or_default();
        let term = match kind {
            Kind::Host | Kind::Net => {
                let (address, bits) = net(word, kind == Kind::Net)
                    .ok_or_else(|| self.bad("expected an address, as 10.0.0.1, or with `net` 10.0.0.0/8"))?;
                if proto.is_some_and(|proto| !carries(proto, address)) {
                    return Err(self.bad("this protocol has no such address"));
                }
                Term::Net(proto, end, address, bits)
            }
            Kind::Port | Kind::PortRange => {
                let (first, last) = match (kind, word.split_once('-')) {
                    (Kind::PortRange, Some(range)) => range,
                    _ => (word, word),
                };
                let range = first.parse().ok().zip(last.parse().ok()).filter(|(a, b): &(u16, u16)| a <= b);
                let (first, last) = range.ok_or_else(|| self.bad("expected a port's number, 0 to 65535"))?;
                if proto.is_some_and(|proto| proto.transport().is_none()) {
                    return Err(self.bad("this protocol has no ports"));
                }
                Term::Ports(proto.and_then(Proto::transport), end, first, last)
            }
            Kind::Ether => {
                let mac = word.parse().map_err(|_| self.bad("expected an address as 02:00:00:00:00:01"))?;
                Term::Mac(end, mac)
            }
        };
        self.at += 1;
        self.last = Some(qualifiers);
        Ok(term)
    }

    fn ether(&mut self) -> Result<Term, BadFilter> {
        self.at += 1;
        match self.peek() {
            Some("broadcast" | "multicast") => Ok(self.group()),
            Some("proto") => {
                self.at += 1;
                let word = self.peek().unwrap_or_default();
                let number = match (word, word.strip_prefix("0x")) {
                    ("ip", _) => Some(crate::frame::IPV4),
                    ("ip6", _) => Some(crate::frame::IPV6),
                    ("arp", _) => Some(crate::capture::packet::ARP),
                    (_, Some(hex)) => u16::from_str_radix(hex, 16).ok(),
                    _ => word.parse().ok(),
                };
                let number = number.ok_or_else(|| self.bad("expected an EtherType, as 0x88cc"))?;
                self.at += 1;
                Ok(Term::Ethertype(number))
            }
            _ => {
                let end = self.end().unwrap_or(End::Either);
                self.take("host");
                self.value(Qualifiers { proto: None, end, kind: Kind::Ether })
            }
        }
    }

    fn group(&mut self) -> Term {
        let is_broadcast = self.peek() == Some("broadcast");
        self.at += 1;
        if is_broadcast { Term::Broadcast } else { Term::Multicast }
    }

    fn protocol(&mut self, over: Option<Proto>) -> Result<Term, BadFilter> {
        self.at += 1;
        let word = self.peek().unwrap_or_default();
        let named = Proto::of(word.trim_start_matches('\\'));
        let number = match named {
            Some(Proto::Icmp) => Some(1),
            Some(Proto::Icmp6) => Some(58),
            Some(proto) => proto.transport(),
            None => word.parse().ok(),
        };
        let number = number.ok_or_else(|| self.bad("expected a protocol's number, 0 to 255"))?;
        self.at += 1;
        Ok(Term::IpProto(over, number))
    }

    fn end(&mut self) -> Option<End> {
        let rest = &self.words[self.at.min(self.words.len())..];
        let (end, len) = match rest {
            ["src", "or", "dst", ..] | ["dst", "or", "src", ..] => (End::Either, 3),
            ["src", "and", "dst", ..] | ["dst", "and", "src", ..] => (End::Both, 3),
            ["src", ..] => (End::Source, 1),
            ["dst", ..] => (End::Destination, 1),
            _ => return None,
        };
        self.at += len;
        Some(end)
    }

    fn kind(&mut self) -> Option<Kind> {
        let kind = match self.peek()? {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            _ => return None,
        };
        self.at += 1;
        Some(kind)
    }

    /// The number behind a word.
    fn after<T: FromStr>(&mut self) -> Result<T, BadFilter> {
        self.at += 1;
        let number = self.peek().and_then(|word| word.parse().ok());
        let number = number.ok_or_else(|| self.bad("expected a number"))?;
        self.at += 1;
        Ok(number)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.peek() == Some(word);
        self.at += usize::from(is_there);
        is_there
    }

    fn peek(&self) -> Option<&'t str> {
        self.words.get(self.at).copied()
    }

    fn bad(&self, why: &'static str) -> BadFilter {
        BadFilter { word: self.peek().unwrap_or_default().to_owned(), why }
    }
}

fn net(word: &str, is_net: bool) -> Option<(IpAddr, u8)> {
    let (address, bits) = match word.split_once('/').filter(|_| is_net) {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((address, bits))
}

/// May this protocol have this address?
fn carries(proto: Proto, address: IpAddr) -> bool {
    match proto {
        Proto::Ip | Proto::Arp | Proto::Icmp => address.is_ipv4(),
        Proto::Ip6 | Proto::Icmp6 => address.is_ipv6(),
        Proto::Tcp | Proto::Udp | Proto::Sctp => true,
    }
}
