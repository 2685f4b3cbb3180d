//! What a stack still owes others when its programs have ended.
//!
//! A program that writes, closes and exits leaves sockets behind that the kernel goes on serving: data to be
//! acknowledged, a FIN to be answered (RFC 9293 section 3.6). They belong to nobody and are listed in
//! /proc/net/tcp of their namespace (proc_net(5)) like any other. A namespace that is unplugged before they
//! are done takes the data with it.

use std::fs;

/// How far along its orphans are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfinished {
    /// Nothing is owed.
    Nothing,
    /// Everything was delivered; a peer has yet to close its side, and would miss our answers.
    Waiting,
    /// Data or a FIN has not been acknowledged.
    Sending,
}

/// States of linux/tcp_states.h.
const FIN_WAIT1: &str = "04";
const FIN_WAIT2: &str = "05";
const LAST_ACK: &str = "09";
const CLOSING: &str = "0B";

/// How many retransmissions in a row without an answer mean that the peer has gone: on an Ethernet within the
/// machine, some 1.4 s (RFC 6298 with Linux's 200 ms minimum).
pub(crate) const GONE_AFTER: u32 = 3;

/// Looks at the network namespace this process is in.
pub(super) fn unfinished() -> Unfinished {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    // To list connections the kernel walks a table of all namespaces, for milliseconds; counting is cheap.
    let table = |counts: &str, kind: &str, name: &str| {
        if in_use(&read(counts), kind) > 0 { judge(&read(name)) } else { Unfinished::Nothing }
    };
    table("sockstat", "TCP:", "tcp").max(table("sockstat6", "TCP6:", "tcp6"))
}

/// The sockets of a kind, from lines such as `TCP: inuse 4 orphan 0 tw 2 alloc 5 mem 1`.
fn in_use(counts: &str, kind: &str) -> u32 {
    let line = counts.lines().find_map(|line| line.strip_prefix(kind));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(1)
}

/// The worst of a table's connections.
fn judge(table: &str) -> Unfinished {
    table.lines().skip(1).filter_map(owed).max().unwrap_or(Unfinished::Nothing)
}

/// What one line says: the fourth column is the state, the seventh (in hexadecimal) counts unanswered
/// retransmissions, the ninth unanswered probes of a closed window.
fn owed(line: &str) -> Option<Unfinished> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let unanswered = u32::from_str_radix(columns.get(6)?, 16).ok()?.max(columns.get(8)?.parse().ok()?);
    Some(match *columns.get(3)? {
        FIN_WAIT1 | LAST_ACK | CLOSING if unanswered < GONE_AFTER => Unfinished::Sending,
        FIN_WAIT2 => Unfinished::Waiting,
        _ => Unfinished::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    #[test]
    fn only_states_after_close_count() {
        let with = |states: &[&str]| {
            let line = |state: &&str| format!("   0: 0100007F:0050 0200000A:8235 {state} 0:0 00:0 0 0 0 0\n");
            judge(&(HEAD.to_owned() + &states.iter().map(line).collect::<String>()))
        };
        assert_eq!(with(&[]), Unfinished::Nothing);
        assert_eq!(with(&["0A", "01", "06", "08"]), Unfinished::Nothing);
        assert_eq!(with(&["06", "05"]), Unfinished::Waiting);
        assert_eq!(with(&["05", "04"]), Unfinished::Sending);
        assert_eq!((in_use("TCP: inuse 4 orphan 0\n", "TCP:"), in_use("TCP6: inuse 0\n", "TCP6:")), (4, 0));
        assert_eq!(judge("nonsense\n\n x"), Unfinished::Nothing);
    }

    #[test]
    fn a_peer_that_does_not_answer_has_gone() {
        let with = |retransmissions, probes| {
            let line =
                format!("   0: 0100007F:0050 0200000A:8235 04 10:0 01:19 {retransmissions} 0 {probes} 0\n");
            judge(&(HEAD.to_owned() + &line))
        };
        assert_eq!(with("00000002", "0"), Unfinished::Sending);
        assert_eq!(with("00000003", "0"), Unfinished::Nothing);
        assert_eq!(with("00000000", "3"), Unfinished::Nothing);
    }
}
