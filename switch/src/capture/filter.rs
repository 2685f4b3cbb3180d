//! Which frames are wanted, in tcpdump's words.
//!
//! # Theory of operation
//! `str::parse` turns the text into a tree of terms, [`Filter::matches`] asks it about a frame. The language is a
//! part of pcap-filter(7), with its precedence: `not` binds most, `and` and `or` bind alike, from left to right, and a
//! value without qualifiers takes those of the one before it (`host 10.0.0.1 or 10.0.0.2`).
//!
//! ```text
//! filter    = term { ("and" | "&&" | "or" | "||") term }
//! term      = { "not" | "!" } ( "(" filter ")" | primitive )
//! primitive = [proto] [dir] ["host"] ADDRESS      ADDRESS: IPv4 or IPv6
//!           | [proto] [dir] "net" ADDRESS[/LEN]
//!           | [proto] [dir] "port" N | [proto] [dir] "portrange" N-M
//!           | "ether" [dir] ["host"] MAC | "ether" "proto" N | ["ether"] ("broadcast" | "multicast")
//!           | ["ip" | "ip6"] "proto" N | proto
//!           | "vlan" [N] | "less" N | "greater" N
//! proto     = "ip" | "ip6" | "arp" | "tcp" | "udp" | "icmp" | "icmp6" | "sctp"
//! dir       = "src" | "dst" | "src or dst" | "src and dst"
//! ```
//!
//! One difference: a VLAN tag is looked through, so `host 10.0.0.1` finds tagged frames, too, where libpcap's `vlan`
//! moves what stands behind it. Names of hosts and services are not looked up.

mod parse;
mod term;

use std::str::FromStr;

use super::packet::Packet;
use term::Term;

/// Bytes at most of a filter's text: some dozens of terms.
pub const MAX_TEXT: usize = 2048;
/// Terms at most: each may be asked for every frame.
pub const MAX_TERMS: usize = 128;
/// Parentheses and negations at most inside each other: each is a call on the stack.
pub const MAX_DEPTH: usize = 32;

/// A filter; the default one wants every frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    tree: Option<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Term(Term),
    Not(Box<Self>),
    /// Terms from left to right: each with true for "and", false for "or" before it.
    Chain(Box<Self>, Vec<(bool, Self)>),
}

/// The text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not understood here: {why}")]
pub struct BadFilter {
    /// The word, or nothing at the end.
    pub word: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Filter {
    /// Does it want every frame?
    pub fn is_empty(&self) -> bool {
        self.tree.is_none()
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Does it want this frame of `len` bytes, of which `bytes` are the first?
    pub fn matches(&self, bytes: &[u8], len: usize) -> bool {
        let Some(tree) = &self.tree else { return true };
        Packet::parse(bytes).is_some_and(|packet| tree.matches(&packet, len))
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        if text.len() > MAX_TEXT {
            return Err(BadFilter { word: text[..0].to_owned(), why: "the filter is too long" });
        }
        let tree = parse::parse(text)?;
        Ok(Self { text: text.to_owned(), tree })
    }
}

impl Node {
    fn matches(&self, packet: &Packet<'_>, len: usize) -> bool {
        match self {
            Self::Term(term) => term.matches(packet, len),
            Self::Not(node) => !node.matches(packet, len),
            Self::Chain(first, rest) => {
                rest.iter().fold(first.matches(packet, len), |so_far, (and, node)| {
                    // "true or" and "false and" are decided.
                    if so_far == *and { node.matches(packet, len) } else { so_far }
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
