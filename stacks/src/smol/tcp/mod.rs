//! TCP: one connection's protocol machine, behind a trait.
//!
//! # Theory of operation
//! A [`Tcp`] makes connections and drives them; it knows nothing of sockets, ports, listeners or routes. A
//! segment is a TCP header with its data; what carries it is the caller's business, so are checksums. Whoever
//! calls gives the time and drains [`Tcp::poll_segment`] until it has nothing more, after everything that may
//! have made something to send. A connection that is [`State::Closed`] can be forgotten; until then it goes on
//! without its program (orphans, TIME-WAIT).

mod connection;
mod egress;
mod ingress;
mod isn;
mod machine;
mod pool;
mod rest;
mod scoreboard;
mod segment;
mod slab;
#[cfg(test)]
mod tests;
mod timers;
mod urgent;
mod wire;

use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;

pub use machine::{Connection, Machine};
pub use timers::ORPHAN_PATIENCE;

use segment::{Bare, Flags, Incoming};

/// The two ends: whose connection it is. Only for initial sequence numbers (RFC 6528) and MSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// Peer's address.
    pub peer: IpAddr,
    /// Peer's port.
    pub peer_port: u16,
}

/// What a socket asks of its connection; may change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Largest IP packet on the way, in bytes.
    pub mtu: u32,
    /// The port takes super-segments: segments up to 64 KiB with a `gso_size` may be given.
    pub super_segments: bool,
    /// TCP_MAXSEG, if lower than what the way allows.
    pub max_segment: Option<u16>,
    /// Receive buffer, in bytes; fixed once the connection exists.
    pub receive_buffer: usize,
    /// Send buffer, in bytes; fixed once the connection exists.
    pub send_buffer: usize,
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// TCP_CORK.
    pub cork: bool,
    /// TCP_QUICKACK.
    pub quick_ack: bool,
    /// SO_KEEPALIVE with TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT.
    pub keep_alive: Option<(Duration, Duration, u32)>,
    /// TCP_USER_TIMEOUT; absent: as many retransmissions as Linux makes (tcp_retries2).
    pub user_timeout: Option<Duration>,
    /// How many times a SYN is repeated (TCP_SYNCNT, tcp_syn_retries, tcp_synack_retries).
    pub syn_retries: u32,
    /// TCP_CONGESTION.
    pub congestion: Congestion,
    /// Timestamps (RFC 7323).
    pub timestamps: bool,
}

/// Congestion control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 5681.
    Reno,
}

/// RFC 9293 clause 3.3.2; the numbers are Linux's (TCP_ESTABLISHED …), for TCP_INFO and sock_diag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// 1
    Established = 1,
    /// 2
    SynSent = 2,
    /// 3
    SynReceived = 3,
    /// 4
    FinWait1 = 4,
    /// 5
    FinWait2 = 5,
    /// 6
    TimeWait = 6,
    /// 7
    Closed = 7,
    /// 8
    CloseWait = 8,
    /// 9
    LastAck = 9,
    /// 10
    Listen = 10,
    /// 11
    Closing = 11,
}

/// A segment to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the buffer given.
    pub range: Range<usize>,
    /// Data bytes per wire segment if it is longer than that, else 0.
    pub gso_size: u16,
    /// Data bytes in it.
    pub data: usize,
    /// It was sent before.
    pub again: bool,
}

/// Numbers for TCP_INFO and `ss -i`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its variation.
    pub rtt_var: Duration,
    /// Retransmission timeout.
    pub rto: Duration,
    /// Congestion window, in bytes.
    pub cwnd: usize,
    /// Slow-start threshold, in bytes.
    pub ssthresh: usize,
    /// Segment size towards the peer, in bytes.
    pub send_mss: u16,
    /// Segment size from the peer, in bytes.
    pub receive_mss: u16,
    /// Window scale we apply to what the peer says.
    pub send_scale: u8,
    /// Window scale the peer applies to what we say.
    pub receive_scale: u8,
    /// Both sides use timestamps.
    pub timestamps: bool,
    /// Both sides use SACK.
    pub sack: bool,
    /// Bytes sent and not acknowledged.
    pub unacked: usize,
    /// Bytes not yet sent.
    pub unsent: usize,
    /// Bytes acknowledged by the peer, ever.
    pub bytes_acked: u64,
    /// Bytes received, ever.
    pub bytes_received: u64,
    /// Segments sent, ever.
    pub segments_out: u64,
    /// Segments received, ever.
    pub segments_in: u64,
    /// Segments retransmitted, ever.
    pub retransmits: u64,
    /// Retransmissions of the oldest segment in a row, now.
    pub backoff: u32,
    /// Window the peer allows, in bytes.
    pub send_window: usize,
    /// Window we allow, in bytes.
    pub receive_window: usize,
}

/// Makes and drives connections.
pub trait Tcp: Debug {
    /// One connection.
    type Connection: Debug;

    /// An active open: a SYN waits in [`Tcp::poll_segment`].
    fn connect(&mut self, now: Instant, ends: &Ends, settings: &Settings) -> Self::Connection;

    /// A passive open by the SYN that a listener got; `None` if it is no good SYN.
    fn accept(
        &mut self,
        now: Instant,
        ends: &Ends,
        settings: &Settings,
        syn: &[u8],
    ) -> Option<Self::Connection>;

    /// A segment arrived: TCP header and data, checksum already judged. `congested`: it was marked CE.
    fn handle_segment(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        segment: &[u8],
        congested: bool,
    );

    /// As [`Tcp::handle_segment`], but long data that comes next in order while none waits is lent to the caller,
    /// who may give it to the program and spare it two copies. Returns how many bytes that is, the segment's last
    /// ones. Unless it is 0, [`Tcp::settle`] must be the next that is done with the connection.
    fn handle_segment_lending(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        segment: &[u8],
        congested: bool,
    ) -> usize;

    /// The program has the first `taken` of the bytes that were lent; the rest is kept for it.
    fn settle(&mut self, now: Instant, connection: &mut Self::Connection, lent: &[u8], taken: usize);

    /// Writes the next segment to send into `out`, at or behind `headroom`, its checksum field left zero.
    fn poll_segment(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        out: &mut [u8],
        headroom: usize,
    ) -> Option<Segment>;

    /// When [`Tcp::poll_segment`] has something to send, if nothing else happens first.
    fn poll_timeout(&mut self, now: Instant, connection: &Self::Connection) -> Option<Instant>;

    /// Applies changed settings.
    fn set(&mut self, now: Instant, connection: &mut Self::Connection, settings: &Settings);

    /// The way got narrower: longest IP packet now.
    fn set_mtu(&mut self, now: Instant, connection: &mut Self::Connection, mtu: u32);

    /// Its state.
    fn state(&self, connection: &Self::Connection) -> State;

    /// Why it closed, if not in order: ECONNREFUSED, ECONNRESET, ETIMEDOUT. Stays until taken.
    fn take_error(&mut self, connection: &mut Self::Connection) -> Option<Errno>;

    /// Free room in the send buffer, in bytes; 0 unless data may be sent now.
    fn send_room(&self, connection: &Self::Connection) -> usize;

    /// It has more than an idle connection needs, and may have less after [`Tcp::rest`].
    fn is_warm(&self, connection: &Self::Connection) -> bool;

    /// Lets go of what others can use, if that loses nothing. Returns whether it did.
    fn rest(&mut self, now: Instant, connection: &mut Self::Connection) -> bool;

    /// When to call [`Tcp::release`].
    fn poll_release(&self) -> Option<Instant>;

    /// Gives memory back that no connection has needed for a while.
    fn release(&mut self, now: Instant);

    /// Lets `fill` write into free room of the send buffer, a contiguous piece at a time; it says how many
    /// bytes it wrote, 0 ends. Returns the sum.
    fn send_with(
        &mut self,
        now: Instant,
        connection: &mut Self::Connection,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize;

    /// Bytes received in order and not yet taken.
    fn received(&self, connection: &Self::Connection) -> usize;

    /// Lets `take` read received bytes, a contiguous piece at a time; it says how many it took, 0 ends.
    /// Returns the sum.
    fn receive_with(
        &mut self,
        connection: &mut Self::Connection,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize;

    /// The last byte that [`Tcp::send_with`] got is urgent.
    fn urge(&mut self, connection: &mut Self::Connection);

    /// How many received bytes lie before the urgent one, if it is among them.
    fn urgent(&self, connection: &Self::Connection) -> Option<usize>;

    /// The peer has sent everything (its FIN came) and all of it was taken.
    fn is_drained(&self, connection: &Self::Connection) -> bool;

    /// A segment that begins at `sequence` is under way: what an ICMP error has to quote to be believed
    /// (RFC 5927 clause 4.1).
    fn is_under_way(&self, connection: &Self::Connection, sequence: u32) -> bool;

    /// Nothing more will be sent: a FIN follows the data.
    fn finish(&mut self, now: Instant, connection: &mut Self::Connection);

    /// Ends it at once: a RST waits in [`Tcp::poll_segment`].
    fn abort(&mut self, now: Instant, connection: &mut Self::Connection);

    /// Its numbers.
    fn info(&self, connection: &Self::Connection) -> Info;
}

/// The answer to a segment that belongs to no connection (RFC 9293 clause 3.10.7.1): a RST, unless it is one.
/// Returns its length; `out` has room for 20 bytes.
pub fn refuse(segment: &[u8], out: &mut [u8]) -> Option<usize> {
    let incoming = Incoming::parse(segment)?;
    if incoming.flags.has(Flags::RST) {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let reset = Bare { ports: (port(2), port(0)), flags: Flags::RST, ..Bare::default() };
    let reset = if incoming.flags.has(Flags::ACK) {
        Bare { seq: incoming.ack, ..reset }
    } else {
        Bare { ack: incoming.end(), flags: Flags::RST.with(Flags::ACK), ..reset }
    };
    Some(reset.emit(out))
}
