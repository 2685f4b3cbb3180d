//! VDE's plug protocol, version 3: what a client asks a vde_switch, and the answer.
//!
//! # Theory of operation
//! A VDE switch has a folder with a stream socket `ctl` in it. A client connects there and sends one request: who
//! it is, and the address of a datagram socket of its own. The switch makes a datagram socket for the new port,
//! connects it to the client's, and answers with its address, to which the client connects. From then on
//! each datagram is an Ethernet frame, and the stream connection says how long the port lives.
//! ```text
//! request   magic 0xFEEDFACE, version 3, kind | port << 8: three words in the machine's order
//!           struct sockaddr_un: family and 108 bytes of name
//!           a description for people, to the end of the message
//! answer    struct sockaddr_un
//! ```
//! Here bytes are read and written; [`crate::ports::vde`] has the sockets. Versions 0 to 2 have no user any more.
//!
//! Read: vde-2's src/vde_switch/datasock.c (`request_v3`) and vdeplug4's libvdeplug_vde.c; unix(7).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// First word of a request (`SWITCH_MAGIC`).
const MAGIC: u32 = 0xFEED_FACE;
/// Second word.
const VERSION: u32 = 3;
/// Lowest byte of the third word: a port (`REQ_NEW_CONTROL`).
const NEW_CONTROL: u32 = 0;
/// The same: the port of the switch's own management (`REQ_NEW_PORT0`).
const NEW_PORT0: u32 = 1;
/// Bytes of the three words.
const WORDS: usize = 12;
/// Bytes of a `struct sockaddr_un`.
pub const ADDRESS_LEN: usize = 110;
/// Bytes of a request at most, as vde_switch reads it (`REQBUFLEN`).
pub const MAX_REQUEST: usize = 256;
/// Bytes of a description at most (`MAXDESCR`).
const MAX_DESCRIPTION: usize = 128;

/// Longest frame of a VDE port, in bytes: an MTU of 1500 with header and tag, as vde_switch's buffer holds it
/// (`struct packet`).
pub const MAX_FRAME: usize = 14 + 1504;

/// Which port a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Any that is free.
    Any,
    /// The one with this number, from 1.
    Number(u32),
    /// The one of the switch's own management.
    Zero,
}

impl Wanted {
    /// The port with this number; `None`: any.
    pub fn number(number: Option<u32>) -> Self {
        match number {
            None => Self::Any,
            Some(0) => Self::Zero,
            Some(number) => Self::Number(number),
        }
    }
}

/// A client asks for a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which one.
    pub port: Wanted,
    /// The client's datagram socket: a path, or an abstract name behind a zero byte (unix(7)); empty for none.
    pub socket: Vec<u8>,
    /// Who it is, for people to read; printable characters only.
    pub description: String,
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// There may be more to come.
    #[error("it is cut off")]
    Short,
    /// It begins with something else.
    #[error("it does not begin with VDE's magic number")]
    Magic,
    /// Another version of the protocol.
    #[error("it is of version {0}; known is {VERSION}")]
    Version(u32),
    /// Another kind of request.
    #[error("it is of the unknown kind {0}")]
    Kind(u32),
    /// The client's socket is no Unix socket.
    #[error("its socket has no address of the family AF_UNIX")]
    Family,
}

impl Request {
    /// From the wire.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map(u32::from_ne_bytes).ok_or(BadRequest::Short)
        };
        if word(0)? != MAGIC {
            return Err(BadRequest::Magic);
        }
        let version = word(4)?;
        if version != VERSION {
            return Err(BadRequest::Version(version));
        }
        let kind = word(8)?;
        let port = match (kind & 0xFF, kind >> 8) {
            (NEW_CONTROL, 0) => Wanted::Any,
            (NEW_CONTROL, number) => Wanted::Number(number),
            (NEW_PORT0, _) => Wanted::Zero,
            (kind, _) => return Err(BadRequest::Kind(kind)),
        };
        let address = bytes.get(WORDS..WORDS + ADDRESS_LEN).ok_or(BadRequest::Short)?;
        let socket = parse_address(address).ok_or(BadRequest::Family)?;
        let description = bytes[WORDS + ADDRESS_LEN..].split(|byte| *byte == 0).next().unwrap_or_default();
        let printable = description.iter().take(MAX_DESCRIPTION);
        let printable =
            printable.map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '?' });
        Ok(Self { port, socket, description: printable.collect() })
    }

    /// To the wire. A socket's name longer than an address holds is cut off.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.port {
            Wanted::Any => NEW_CONTROL,
            Wanted::Number(number) => NEW_CONTROL | number << 8,
            Wanted::Zero => NEW_PORT0,
        };
        let mut bytes = Vec::with_capacity(MAX_REQUEST);
        [MAGIC, VERSION, kind].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(address(&self.socket));
        bytes.extend(self.description.bytes().take(MAX_DESCRIPTION));
        bytes
    }
}

/// A `struct sockaddr_un` with this name.
pub fn address(name: &[u8]) -> [u8; ADDRESS_LEN] {
    let mut bytes = [0; ADDRESS_LEN];
    bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let len = name.len().min(ADDRESS_LEN - 2);
    bytes[2..2 + len].copy_from_slice(&name[..len]);
    bytes
}

/// The name in a whole `struct sockaddr_un`: a path up to its first zero byte, or all of an abstract name.
pub fn parse_address(bytes: &[u8]) -> Option<Vec<u8>> {
    let (family, name) = bytes.split_first_chunk::<2>()?;
    if u16::from_ne_bytes(*family) != libc::AF_UNIX as u16 || name.len() != ADDRESS_LEN - 2 {
        return None;
    }
    match name.split_first() {
        Some((0, rest)) if rest.iter().any(|byte| *byte != 0) => Some(name.to_vec()),
        _ => Some(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
    }
}

/// The path in an answer.
pub fn parse_answer(bytes: &[u8; ADDRESS_LEN]) -> Option<PathBuf> {
    parse_address(bytes).map(|name| PathBuf::from(OsStr::from_bytes(&name)))
}

/// The name of the datagram socket of port `number` in a switch's folder, as vde_switch calls it.
pub fn socket_name(folder: &Path, number: usize, salt: u32) -> PathBuf {
    folder.join(format!("{number:03}.{salt}"))
}

/// Is this file name one of [`socket_name`]'s, or of a client's socket in the folder (`.PID-NUMBER`, and ours)?
pub fn is_socket_name(name: &OsStr) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let both = |parts: Option<(&str, &str)>| parts.is_some_and(|(one, other)| digits(one) && digits(other));
    let Some(name) = name.to_str() else { return false };
    match name.strip_prefix('.') {
        Some(client) => both(client.strip_prefix("viewnet-").unwrap_or(client).split_once('-')),
        None => both(name.split_once('.').filter(|(number, _)| number.len() >= 3)),
    }
}

/// The folder's mode for sockets of this mode, as vde_switch has it: who may use the sockets may enter, and files
/// take the folder's group.
pub fn folder_mode(mode: u32) -> u32 {
    let enter = [0o600, 0o060, 0o006].into_iter().zip([0o100, 0o010, 0o001]);
    0o2000 | mode & 0o666 | enter.filter(|(may, _)| mode & may != 0).map(|(_, bit)| bit).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_as_libvdeplug_writes_it() {
        let mut bytes = Vec::new();
        [0xFEED_FACE_u32, 3, 7 << 8].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(1u16.to_ne_bytes());
        let mut name = b"/tmp/vde.01234-00000".to_vec();
        name.resize(108, 0);
        bytes.extend(&name);
        bytes.extend(b"vde_plug: user=me\n");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.port, Wanted::Number(7));
        assert_eq!(request.socket, b"/tmp/vde.01234-00000");
        assert_eq!(request.description, "vde_plug: user=me?");
        for len in 0..WORDS + ADDRESS_LEN {
            assert_eq!(Request::parse(&bytes[..len]), Err(BadRequest::Short), "{len}");
        }
        bytes[4] = 9;
        assert!(matches!(Request::parse(&bytes), Err(BadRequest::Version(_))));
        bytes[0] = 9;
        assert_eq!(Request::parse(&bytes), Err(BadRequest::Magic));
    }

    #[test]
    fn names_and_modes() {
        assert_eq!(socket_name(Path::new("/tmp/v"), 1, 12), Path::new("/tmp/v/001.12"));
        for (name, ours) in [
            ("001.12", true),
            ("1234.5", true),
            (".01234-00000", true),
            (".viewnet-12-0", true),
            ("ctl", false),
            ("001", false),
            ("1.2", false),
            (".bashrc", false),
            (".-", false),
        ] {
            assert_eq!(is_socket_name(OsStr::new(name)), ours, "{name}");
        }
        for (mode, folder) in [(0o600, 0o2700), (0o660, 0o2770), (0o666, 0o2777), (0o620, 0o2730)] {
            assert_eq!(folder_mode(mode), folder, "{mode:o}");
        }
    }

    proptest! {
        #[test]
        fn requests_round_trip(number in 0u32..1 << 24, name in "[/a-z.0-9]{0,108}", description in "[ -~]{0,128}") {
            let port = if number == 0 { Wanted::Any } else { Wanted::Number(number) };
            let request = Request { port, socket: name.into_bytes(), description };
            let bytes = request.to_bytes();
            prop_assert!(bytes.len() <= MAX_REQUEST);
            prop_assert_eq!(Request::parse(&bytes).unwrap(), request);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), good: bool) {
            let mut bytes = bytes;
            if good && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC.to_ne_bytes());
                bytes[4..8].copy_from_slice(&VERSION.to_ne_bytes());
            }
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert!(request.description.len() <= MAX_DESCRIPTION);
                prop_assert!(request.socket.len() <= ADDRESS_LEN - 2);
            }
        }
    }
}
