//! The files about the network: which paths they are, and what the supervisor is asked for.
//!
//! # Theory of operation
//! /proc/net follows the process that opens it, and a program in a view is in the machine's network namespace. So
//! whoever opens such a path is given the descriptor of the view's file, which the supervisor opens; what it does
//! not have (a folder of a smol stack), the program gets from the machine.

use interpose::config;
use interpose::ops::Answer;
use interpose::sys::{self, Asked};

/// Longest path that is looked at; longer ones are none of these.
const MAX_PATH: usize = 128;

/// Where files are: `proc` or `sys`, as the supervisor knows it, and how one comes from there to the folder.
type Place = (&'static str, &'static [u8]);

/// The folders.
const PLACES: [(&[u8], Place); 5] = [
    (b"/proc/net", ("proc", b"")),
    (b"/proc/self/net", ("proc", b"")),
    (b"/proc/thread-self/net", ("proc", b"")),
    (b"/sys/class/net", ("sys", b"")),
    (b"/sys/devices/virtual/net", ("sys", b"../../devices/virtual/net/")),
];

/// The place and the path below it.
fn place(path: &[u8]) -> Option<(Place, &[u8])> {
    // Most paths are neither.
    if !path.starts_with(b"/proc/") && !path.starts_with(b"/sys/") || path.len() > MAX_PATH {
        return None;
    }
    let (place, rest) = PLACES
        .iter()
        .find_map(|(folder, place)| Some((*place, path.strip_prefix(*folder)?)))
        .or_else(|| Some((PLACES[0].1, of_this_process(path)?)))?;
    let below = match rest.split_first() {
        None => rest,
        Some((b'/', below)) => below,
        Some(_) => return None,
    };
    // What needs no escape in JSON; no file of these has another letter.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:@".contains(byte);
    below.iter().all(plain).then_some((place, below))
}

/// What is behind `/proc/PID/net`.
fn of_this_process(path: &[u8]) -> Option<&[u8]> {
    let rest = path.strip_prefix(b"/proc/")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let pid = rest
        .get(..digits)?
        .iter()
        .fold(0_u64, |pid, digit| pid.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    (pid == u64::from(sys::pid())).then_some(())?;
    rest.get(digits..)?.strip_prefix(b"/net")
}

/// What a file is asked for, in words of `msocket_proto::proto::FileUse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// To be read.
    Reading,
    /// To be looked at.
    Looking,
    /// To be looked at, and if it is a symbolic link, that.
    Itself,
}

impl For {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Reading => b"read",
            Self::Looking => b"look",
            Self::Itself => b"link",
        }
    }
}

/// open(2) for writing: what is the view's cannot be written so, and what is the machine's there shall not be.
pub(crate) fn refuse(path: &[u8]) -> Answer {
    match place(path).filter(|_| config::is_view()) {
        Some((("sys", _), _)) => Answer::Fail(libc::EROFS),
        _ => Answer::Original,
    }
}

/// open(2): the descriptor, close-on-exec.
pub(crate) fn open(path: &[u8], how: For) -> Answer {
    let Some(((name, way), below)) = place(path).filter(|_| config::is_view()) else {
        return Answer::Original;
    };
    let mut request = [0_u8; 2 * MAX_PATH];
    let parts: [&[u8]; 8] = [
        br#"{"op":"file","place":""#,
        name.as_bytes(),
        br#"","how":""#,
        how.word(),
        br#"","path":""#,
        way,
        below,
        b"\"}\n",
    ];
    let mut length = 0;
    for part in parts {
        let Some(room) = request.get_mut(length..length + part.len()) else { return Answer::Original };
        room.copy_from_slice(part);
        length += part.len();
    }
    match sys::ask(request.get(..length).unwrap_or_default()) {
        Asked::File(file) => Answer::Value(file as isize),
        Asked::Refused(errno) => Answer::Fail(errno),
        Asked::Nothing => Answer::Original,
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn paths_of_the_network_are_known() {
        let (proc, sys) = (("proc", &b""[..]), ("sys", &b""[..]));
        assert_eq!(place(b"/proc/net/tcp"), Some((proc, &b"tcp"[..])));
        assert_eq!(place(b"/proc/self/net/dev"), Some((proc, &b"dev"[..])));
        assert_eq!(place(b"/proc/net"), Some((proc, &b""[..])));
        assert_eq!(place(b"/sys/class/net/eth0/mtu"), Some((sys, &b"eth0/mtu"[..])));
        let devices = ("sys", &b"../../devices/virtual/net/"[..]);
        assert_eq!(place(b"/sys/devices/virtual/net/lo"), Some((devices, &b"lo"[..])));
        let own = format!("/proc/{}/net/udp", std::process::id());
        assert_eq!(place(own.as_bytes()), Some((proc, &b"udp"[..])));
        for other in [
            "/proc/1/net/tcp",
            "/proc/netx",
            "/proc/net/a\"b",
            "/proc/self/status",
            "/sys/class/block",
            "net/tcp",
            "",
        ] {
            assert_eq!(place(other.as_bytes()), None, "{other}");
        }
    }
}
