//! IPPROTO_TCP (tcp(7); net/ipv4/tcp.c, do_tcp_setsockopt and do_tcp_getsockopt).
//!
//! TCP Fast Open is taken as a wish and makes no difference: every connection has its three segments. TCP_ULP
//! knows none (ENOENT), TCP_REPAIR is for nobody (EPERM), TCP_MD5SIG and TCP_AO are not in (ENOPROTOOPT).

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::tcp::FIN_TIMEOUT;
use super::super::{Body, Socket};
use super::{Row, answer, int, row};
use crate::smol::call::Caller;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::netlink::tcp_info;
use crate::smol::tcp::{Congestion, State, Tcp};

/// `net.ipv4.tcp_wmem[1]` and `tcp_rmem[1]`, which getsockopt shows, in bytes.
pub(crate) const SEND_DEFAULT: u32 = 16_384;
pub(crate) const RECEIVE_DEFAULT: u32 = 131_072;

/// Options that libc does not name (linux/tcp.h).
const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
const TCP_THIN_DUPACK: i32 = 17;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_NOTSENT_LOWAT: i32 = 25;
const TCP_CC_INFO: i32 = 26;
const TCP_SAVE_SYN: i32 = 27;
const TCP_SAVED_SYN: i32 = 28;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_FASTOPEN_KEY: i32 = 33;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_ZEROCOPY_RECEIVE: i32 = 35;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;
const TCP_IS_MPTCP: i32 = 43;
const TCP_RTO_MAX_MS: i32 = 44;
const TCP_RTO_MIN_US: i32 = 45;
const TCP_DELACK_MAX_US: i32 = 46;

/// TCP_MIN_MSS, MAX_TCP_WINDOW
const MAXSEG: std::ops::RangeInclusive<i32> = 88..=32_767;
/// MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL
const KEEP_SECONDS: std::ops::RangeInclusive<i32> = 1..=32_767;
/// MAX_TCP_KEEPCNT, MAX_TCP_SYNCNT
const COUNTS: std::ops::RangeInclusive<i32> = 1..=127;
/// TCP_FIN_TIMEOUT_MAX, in seconds.
const LONGEST_LINGER: i32 = 120;
/// Half of SOCK_MIN_RCVBUF, in bytes.
const LEAST_CLAMP: i32 = 1152;
/// TCP_RTO_MAX, in milliseconds.
const RTO_MAX: i32 = 120_000;
/// TCP_TIMEOUT_MIN (two jiffies of 4 ms) to TCP_RTO_MIN and TCP_DELACK_MAX, in microseconds.
const SHORT_US: std::ops::RangeInclusive<i32> = 4001..=200_000;
/// The segment size before there is a connection (RFC 9293 clause 3.7.1).
const DEFAULT_MSS: i32 = 536;
/// Bytes of struct tcp_info as far as it is filled in (Linux 6.7).
pub(crate) const INFO_LEN: usize = 248;
/// Longest name of a congestion control, with its NUL (TCP_CA_NAME_MAX).
const NAME: usize = 16;

/// What TCP's own options are set to.
#[derive(Debug, Clone)]
pub(crate) struct TcpOptions {
    pub(crate) no_delay: bool,
    pub(crate) cork: bool,
    pub(crate) quick_ack: bool,
    pub(crate) thin: bool,
    pub(crate) save_syn: u8,
    pub(crate) fast_open_connect: bool,
    pub(crate) fast_open_no_cookie: bool,
    pub(crate) tell_queue: bool,
    pub(crate) congestion: Congestion,
    pub(crate) keep_count: u8,
    pub(crate) syn_count: u8,
    /// In bytes; 0: unset.
    pub(crate) max_segment: u16,
    /// In seconds.
    pub(crate) keep_idle: u32,
    /// In seconds.
    pub(crate) keep_interval: u32,
    /// In seconds; −1: not at all.
    pub(crate) linger2: i32,
    /// In seconds; 0: off.
    pub(crate) defer_accept: u32,
    /// In bytes; 0: unset.
    pub(crate) window_clamp: u32,
    /// In milliseconds; 0: unset.
    pub(crate) user_timeout: u32,
    pub(crate) not_sent_low: u32,
    pub(crate) fast_open_queue: i32,
    pub(crate) delay: i32,
    /// In milliseconds.
    pub(crate) rto_max: i32,
    /// In microseconds, told and nothing more.
    pub(crate) rto_min: i32,
    /// In microseconds, told and nothing more.
    pub(crate) delay_max: i32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            no_delay: false,
            cork: false,
            quick_ack: true,
            thin: false,
            save_syn: 0,
            fast_open_connect: false,
            fast_open_no_cookie: false,
            tell_queue: false,
            congestion: Congestion::Cubic,
            keep_count: 9,
            syn_count: 0,
            max_segment: 0,
            keep_idle: 7200,
            keep_interval: 75,
            linger2: FIN_TIMEOUT.as_secs() as i32,
            defer_accept: 0,
            window_clamp: 0,
            user_timeout: 0,
            not_sent_low: 0,
            fast_open_queue: 0,
            delay: 0,
            rto_max: RTO_MAX,
            rto_min: *SHORT_US.end(),
            delay_max: *SHORT_US.end(),
        }
    }
}

impl TcpOptions {
    /// How long an orphan waits in FIN-WAIT-2.
    pub(crate) fn fin_timeout(&self) -> Duration {
        Duration::from_secs(self.linger2.max(0) as u64)
    }
}

pub(super) fn tcp(s: &Socket) -> &TcpOptions {
    match &s.body {
        Body::Stream(stream) => &stream.options,
        _ => unreachable!("the level was checked: it is a stream"),
    }
}

fn tcp_mut(s: &mut Socket) -> &mut TcpOptions {
    match &mut s.body {
        Body::Stream(stream) => &mut stream.options,
        _ => unreachable!("the level was checked: it is a stream"),
    }
}

fn within(n: i32, range: std::ops::RangeInclusive<i32>) -> Result<i32, Errno> {
    if range.contains(&n) { Ok(n) } else { Err(Errno::EINVAL) }
}

macro_rules! flag {
    ($name:expr, $field:ident) => {
        Row {
            name: $name,
            get: |s| tcp(s).$field.into(),
            set: |s, n| {
                tcp_mut(s).$field = n != 0;
                Ok(())
            },
        }
    };
}

macro_rules! bounded {
    ($name:expr, $field:ident, $range:expr) => {
        Row {
            name: $name,
            get: |s| tcp(s).$field as i32,
            set: |s, n| {
                tcp_mut(s).$field = within(n, $range)? as _;
                Ok(())
            },
        }
    };
}

macro_rules! bit {
    ($name:expr, $field:ident) => {
        Row {
            name: $name,
            get: |s| tcp(s).$field.into(),
            set: |s, n| {
                tcp_mut(s).$field = within(n, 0..=1)? == 1;
                Ok(())
            },
        }
    };
}

pub(super) const TABLE: &[Row] = &[
    flag!(libc::TCP_NODELAY, no_delay),
    flag!(libc::TCP_CORK, cork),
    flag!(libc::TCP_QUICKACK, quick_ack),
    bounded!(libc::TCP_KEEPIDLE, keep_idle, KEEP_SECONDS),
    bounded!(libc::TCP_KEEPINTVL, keep_interval, KEEP_SECONDS),
    bounded!(libc::TCP_KEEPCNT, keep_count, COUNTS),
    bounded!(libc::TCP_USER_TIMEOUT, user_timeout, 0..=i32::MAX),
    bounded!(TCP_TX_DELAY, delay, 0..=i32::MAX),
    bounded!(TCP_RTO_MAX_MS, rto_max, 1000..=RTO_MAX),
    bit!(TCP_THIN_LINEAR_TIMEOUTS, thin),
    bit!(libc::TCP_FASTOPEN_CONNECT, fast_open_connect),
    bit!(TCP_FASTOPEN_NO_COOKIE, fast_open_no_cookie),
    bit!(TCP_INQ, tell_queue),
    Row {
        name: libc::TCP_SYNCNT,
        get: |s| match tcp(s).syn_count {
            0 => 6,
            n => n.into(),
        },
        set: |s, n| {
            tcp_mut(s).syn_count = within(n, COUNTS)? as u8;
            Ok(())
        },
    },
    Row { name: libc::TCP_LINGER2, get: |s| tcp(s).linger2, set: set_linger2 },
    Row { name: libc::TCP_DEFER_ACCEPT, get: |s| tcp(s).defer_accept as i32, set: set_defer },
    Row { name: libc::TCP_WINDOW_CLAMP, get: |s| tcp(s).window_clamp as i32, set: set_clamp },
    Row { name: libc::TCP_FASTOPEN, get: |s| tcp(s).fast_open_queue, set: set_fast_open },
    Row {
        name: TCP_NOTSENT_LOWAT,
        get: |s| tcp(s).not_sent_low as i32,
        set: |s, n| {
            tcp_mut(s).not_sent_low = n as u32;
            Ok(())
        },
    },
    bounded!(TCP_SAVE_SYN, save_syn, 0..=2),
    Row { name: TCP_THIN_DUPACK, get: |_| 0, set: |_, n| within(n, 0..=1).map(|_| ()) },
    Row { name: TCP_REPAIR, get: |_| 0, set: |_, _| Err(Errno::EPERM) },
    Row { name: TCP_TIMESTAMP, get: |_| 0, set: |_, _| Err(Errno::EPERM) },
    Row { name: TCP_REPAIR_OPTIONS, get: |_| 0, set: |_, _| Err(Errno::EINVAL) },
    Row { name: TCP_IS_MPTCP, get: |_| 0, set: super::read_only },
    bounded!(TCP_RTO_MIN_US, rto_min, SHORT_US),
    bounded!(TCP_DELACK_MAX_US, delay_max, SHORT_US),
    Row { name: TCP_MD5SIG_EXT, get: |_| 0, set: |_, _| Err(Errno::EINVAL) },
];

fn set_linger2(s: &mut Socket, n: i32) -> Result<(), Errno> {
    tcp_mut(s).linger2 = match n {
        ..0 => -1,
        0 => FIN_TIMEOUT.as_secs() as i32,
        n => n.min(LONGEST_LINGER),
    };
    Ok(())
}

/// As long as the SYN-ACKs take whose number Linux keeps (secs_to_retrans and back).
fn set_defer(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let (mut period, mut wait, mut count) = (0, 1, 0);
    while period < n && count < u8::MAX {
        period += wait;
        count += 1;
        wait = (wait * 2).min(RTO_MAX / 1000);
    }
    tcp_mut(s).defer_accept = period as u32;
    Ok(())
}

fn set_clamp(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let fresh = s.stream().is_some_and(|s| s.connection.is_none() && s.listener.is_none());
    if n == 0 && !fresh {
        return Err(Errno::EINVAL);
    }
    tcp_mut(s).window_clamp = if n == 0 { 0 } else { n.max(LEAST_CLAMP) as u32 };
    Ok(())
}

fn set_fast_open(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if n < 0 || s.stream().is_some_and(|s| s.connection.is_some()) {
        return Err(Errno::EINVAL);
    }
    tcp_mut(s).fast_open_queue = n;
    Ok(())
}

impl Engine {
    pub(crate) fn get_tcp_option(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        if name == libc::TCP_INFO {
            return Ok(self.tcp_info(now, id));
        }
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let options = tcp(socket);
        let bytes = match name {
            libc::TCP_MAXSEG => answer(self.segment_size(socket)),
            libc::TCP_CONGESTION => {
                let mut name = match options.congestion {
                    Congestion::Cubic => b"cubic".to_vec(),
                    Congestion::Reno => b"reno".to_vec(),
                };
                name.resize(NAME, 0);
                name
            }
            // Statistics of Vegas and others; these two have none.
            TCP_CC_INFO | libc::TCP_ULP | TCP_SAVED_SYN | TCP_FASTOPEN_KEY => Vec::new(),
            TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_WINDOW | TCP_ZEROCOPY_RECEIVE => {
                return Err(Errno::EINVAL);
            }
            TCP_REPAIR_OPTIONS | TCP_MD5SIG_EXT => return Err(Errno::ENOPROTOOPT),
            TCP_TIMESTAMP => {
                let since = now.saturating_duration_since(self.origin) + self.realtime;
                answer(since.as_millis() as i32)
            }
            _ => answer((row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.get)(socket)),
        };
        Ok(super::cut(bytes, value.len()))
    }

    fn segment_size(&self, socket: &Socket) -> i32 {
        let Some(stream) = socket.stream() else { return DEFAULT_MSS };
        match &stream.connection {
            Some(connection) if stream.was_connected => self.tcp.info(connection).send_mss.into(),
            _ if stream.options.max_segment != 0 => stream.options.max_segment.into(),
            _ => DEFAULT_MSS,
        }
    }

    pub(crate) fn set_tcp_option(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let _ = (now, caller);
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let text = || {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            &value[..end.min(NAME - 1)]
        };
        match name {
            libc::TCP_CONGESTION if value.is_empty() => return Err(Errno::EINVAL),
            libc::TCP_CONGESTION => {
                tcp_mut(socket).congestion = match text() {
                    b"cubic" => Congestion::Cubic,
                    b"reno" => Congestion::Reno,
                    _ => return Err(Errno::ENOENT),
                };
                return Ok(());
            }
            libc::TCP_ULP if value.is_empty() => return Err(Errno::EINVAL),
            libc::TCP_ULP => return Err(Errno::ENOENT),
            TCP_FASTOPEN_KEY => {
                return if matches!(value.len(), 16 | 32) { Ok(()) } else { Err(Errno::EINVAL) };
            }
            TCP_QUEUE_SEQ => return Err(Errno::EINVAL),
            TCP_REPAIR_QUEUE | TCP_REPAIR_WINDOW => return Err(Errno::EPERM),
            libc::TCP_MAXSEG => {
                let n = int(value)?;
                let n = if n == 0 { 0 } else { within(n, MAXSEG)? };
                tcp_mut(socket).max_segment = n as u16;
                return Ok(());
            }
            _ => {}
        }
        (row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.set)(socket, int(value)?)
    }

    /// struct tcp_info (linux/tcp.h), as far as there is something to say.
    pub(crate) fn tcp_info(&mut self, now: Instant, id: SocketId) -> Vec<u8> {
        let _ = now;
        let Some(socket) = self.sockets.get(id) else { return Vec::new() };
        self.tcp_info_of(socket)
    }

    /// The same, for lists.
    pub(crate) fn tcp_info_of(&self, socket: &Socket) -> Vec<u8> {
        let mut out = vec![0; INFO_LEN];
        let Some(stream) = socket.stream() else { return out };
        if let Some(listener) = &stream.listener {
            out[0] = State::Listen as u8;
            out[24..28].copy_from_slice(&(listener.queue.len() as u32).to_ne_bytes());
            out[28..32].copy_from_slice(&(listener.backlog as u32).to_ne_bytes());
            return out;
        }
        let Some(connection) = &stream.connection else {
            out[0] = State::Closed as u8;
            return out;
        };
        let info = self.tcp.info(connection);
        tcp_info(self.tcp.state(connection) as u8, &info).to_vec()
    }
}
