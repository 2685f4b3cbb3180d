//! The packets that a program without a supervisor exchanges with the host of its sockets, without allocating.
//!
//! # Theory of operation
//! A host of stacks in a library takes calls on its sockets as packets, each with the descriptor that the call is
//! made on beside it (`stacks::smol::relay`, whose types these are in the encoding of postcard). A library that
//! stands in a program's calls may not allocate, as the call may be made in a signal handler or after fork(2) in a
//! program of threads. So it puts packets together from [`Head`]s on its stack and the program's own memory, and
//! reads of an answer as much as it needs: [`Told::read`]. That both sides speak the same is tested in `stacks`.

/// Longest head: a few numbers of at most ten bytes.
pub const HEAD: usize = 96;

/// Which call; the numbers are those of `stacks::smol::call::SocketCall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// bind(2): an address.
    Bind = 0,
    /// listen(2): a signed number.
    Listen = 1,
    /// connect(2): an address.
    Connect = 2,
    /// accept4(2): signed flags.
    Accept = 3,
    /// getsockname(2)
    LocalName = 4,
    /// getpeername(2)
    PeerName = 5,
    /// getsockopt(2): level and name, signed, and the buffer.
    GetOption = 6,
    /// setsockopt(2): level and name, signed, and the value.
    SetOption = 7,
    /// shutdown(2): a signed number.
    Shutdown = 8,
    /// sendmsg(2): 1 and an address, or 0; control, data, signed flags.
    Send = 9,
    /// recvmsg(2): room for data, room for control, signed flags, whether the sender is asked for.
    Receive = 10,
    /// mmap(2): length and offset.
    Map = 11,
    /// ioctl(2): the request and its argument.
    Ioctl = 12,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// getpid(2)
    pub pid: i32,
    /// geteuid(2); the host looks for itself.
    pub uid: u32,
}

/// The beginning of a packet, or what stands between two pieces of the program's memory.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; HEAD],
    length: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; HEAD], length: 0 }
    }
}

impl Head {
    /// The beginning of a call on a socket.
    pub fn call(ticket: u64, asker: Asker, fd: i32, call: Call) -> Self {
        let mut head = Self::default();
        head.byte(1).number(ticket).asker(asker, fd).byte(call as u8);
        head
    }

    /// The board of the host with that secret.
    pub fn board(ticket: u64, secret: &[u8]) -> Self {
        let mut head = Self::default();
        head.byte(2).number(ticket).number(secret.len() as u64);
        for byte in secret {
            head.byte(*byte);
        }
        head
    }

    /// A call that waits is given up.
    pub fn abandon(ticket: u64, of: u64) -> Self {
        let mut head = Self::default();
        head.byte(6).number(ticket).number(of);
        head
    }

    fn asker(&mut self, asker: Asker, fd: i32) -> &mut Self {
        self.signed(asker.pid).number(asker.uid.into()).signed(fd).byte(1)
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        self
    }

    /// An unsigned number, or the length of the bytes that follow.
    pub fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8)
    }

    /// A signed number.
    pub fn signed(&mut self, number: i32) -> &mut Self {
        let number = i64::from(number);
        self.number(((number << 1) ^ (number >> 63)) as u64)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The same, for calls that take what they do not change as if they did.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

/// What a host says, in its packet's beginning. Bytes are where they begin and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The call waits.
    Parked,
    /// A return value.
    Value(i64),
    /// Bytes for the program's buffer.
    Bytes(usize, usize),
    /// An address.
    Address(usize, usize),
    /// A new socket, whose descriptor comes along, and its peer.
    Accepted(usize, usize),
    /// What is to be mapped, whose descriptor comes along.
    Mapping,
    /// A message: its data; behind it is a [`Tail`].
    Received(usize, usize),
    /// It is no socket of this host.
    NotOurs,
    /// The kernel's answer on the descriptor is right.
    Native,
    /// An errno.
    Failed(i32),
}

impl Told {
    /// The ticket, and what is said; `None`: it makes no sense.
    pub fn read(bytes: &[u8]) -> Option<(u64, Self)> {
        let mut reader = Reader { bytes, at: 0 };
        let parked = match reader.number()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let ticket = reader.number()?;
        if parked {
            return Some((ticket, Self::Parked));
        }
        let told = match (reader.number()?, reader.number()?) {
            (0, 0) => Self::Value(reader.signed()?),
            (0, 1) => reader.piece(Self::Bytes)?,
            (0, 2) => reader.piece(Self::Address)?,
            (0, 3) => reader.piece(Self::Accepted)?,
            (0, 4) => Self::Mapping,
            (0, 5) => reader.piece(Self::Received)?,
            (0, 6) => Self::NotOurs,
            (0, 7) => Self::Native,
            (1, errno) => Self::Failed(i32::try_from(unzigzag(errno)).ok()?),
            _ => return None,
        };
        Some((ticket, told))
    }
}

/// What is behind the data of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The return value.
    pub length: usize,
    /// Where the sender's address is, and how long.
    pub from: (usize, usize),
    /// Where ancillary data begins, and how much there is; behind it are the flags.
    pub control: (usize, usize),
}

impl Tail {
    /// Reads it; ancillary data may be cut off.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let length = reader.number()? as usize;
        let from = reader.number()? as usize;
        let from = (reader.at, from);
        reader.at = reader.at.checked_add(from.1).filter(|at| *at <= bytes.len())?;
        let control = reader.number()? as usize;
        Some(Self { length, from, control: (reader.at, control) })
    }
}

/// The flags behind ancillary data.
pub fn flags(bytes: &[u8]) -> Option<i32> {
    i32::try_from(Reader { bytes, at: 0 }.signed()?).ok()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        self.number().map(unzigzag)
    }

    fn piece(&mut self, told: fn(usize, usize) -> Told) -> Option<Told> {
        let length = usize::try_from(self.number()?).ok()?;
        Some(told(self.at, length))
    }
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
