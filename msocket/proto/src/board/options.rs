//! Options that a record shows: ints which nothing changes but calls on the socket itself.
//!
//! Not among them are those that say how a connection is doing (TCP_INFO, TCP_MAXSEG, IP_MTU), those that are no int
//! (SO_LINGER, SO_RCVTIMEO, names, filters, groups), and rare ones.
//!
//! A value that is set although it is so already changes nothing, and the stack need not hear of it, as far as
//! [`Again`] says: Linux, too, does nothing then, and asks for no right (net/core/sock.c, net/ipv4/ip_sockglue.c,
//! net/ipv4/tcp.c, net/ipv6/ipv6_sockglue.c).

/// What setting an option to the value that it has is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Nothing; it is on or off, and any number but 0 is on.
    Flag,
    /// Nothing; it is a number.
    Number,
    /// Something: it has an effect all the same, or needs a right, or may be refused by now.
    Asked,
    /// Likewise, and it is on or off.
    AskedFlag,
}

impl Again {
    /// Its values are 0 and 1.
    const fn is_flag(self) -> bool {
        matches!(self, Self::Flag | Self::AskedFlag)
    }
}

/// Options of all kinds of sockets, by level and name.
const TABLE: [(i32, i32, Again); COUNT] = {
    use Again::{Asked, AskedFlag, Flag, Number};
    [
        (SOL_SOCKET, 2, Flag),         // SO_REUSEADDR
        (SOL_SOCKET, 5, Flag),         // SO_DONTROUTE
        (SOL_SOCKET, 6, Flag),         // SO_BROADCAST
        (SOL_SOCKET, 7, Asked),        // SO_SNDBUF
        (SOL_SOCKET, 8, Asked),        // SO_RCVBUF
        (SOL_SOCKET, 9, Flag),         // SO_KEEPALIVE
        (SOL_SOCKET, 10, Flag),        // SO_OOBINLINE
        (SOL_SOCKET, 12, Asked),       // SO_PRIORITY
        (SOL_SOCKET, 15, Flag),        // SO_REUSEPORT
        (SOL_SOCKET, 18, Asked),       // SO_RCVLOWAT
        (SOL_SOCKET, 36, Asked),       // SO_MARK
        (IPPROTO_IP, 1, Number),       // IP_TOS
        (IPPROTO_IP, 2, Number),       // IP_TTL
        (IPPROTO_IP, 8, Flag),         // IP_PKTINFO
        (IPPROTO_IP, 10, Number),      // IP_MTU_DISCOVER
        (IPPROTO_IP, 11, Flag),        // IP_RECVERR
        (IPPROTO_IP, 12, Flag),        // IP_RECVTTL
        (IPPROTO_IP, 13, Flag),        // IP_RECVTOS
        (IPPROTO_IP, 15, Flag),        // IP_FREEBIND
        (IPPROTO_IP, 33, Asked),       // IP_MULTICAST_TTL
        (IPPROTO_IP, 34, AskedFlag),   // IP_MULTICAST_LOOP
        (IPPROTO_TCP, 1, Flag),        // TCP_NODELAY
        (IPPROTO_TCP, 3, Flag),        // TCP_CORK
        (IPPROTO_TCP, 4, Number),      // TCP_KEEPIDLE
        (IPPROTO_TCP, 5, Number),      // TCP_KEEPINTVL
        (IPPROTO_TCP, 6, Number),      // TCP_KEEPCNT
        (IPPROTO_TCP, 7, Number),      // TCP_SYNCNT
        (IPPROTO_TCP, 8, Asked),       // TCP_LINGER2
        (IPPROTO_TCP, 9, Asked),       // TCP_DEFER_ACCEPT
        (IPPROTO_TCP, 12, AskedFlag),  // TCP_QUICKACK
        (IPPROTO_TCP, 18, Number),     // TCP_USER_TIMEOUT
        (IPPROTO_TCP, 25, Asked),      // TCP_NOTSENT_LOWAT
        (IPPROTO_IPV6, 16, Number),    // IPV6_UNICAST_HOPS
        (IPPROTO_IPV6, 18, Asked),     // IPV6_MULTICAST_HOPS
        (IPPROTO_IPV6, 19, AskedFlag), // IPV6_MULTICAST_LOOP
        (IPPROTO_IPV6, 23, Number),    // IPV6_MTU_DISCOVER
        (IPPROTO_IPV6, 25, Flag),      // IPV6_RECVERR
        (IPPROTO_IPV6, 26, AskedFlag), // IPV6_V6ONLY
        (IPPROTO_IPV6, 49, Flag),      // IPV6_RECVPKTINFO
        (IPPROTO_IPV6, 51, Flag),      // IPV6_RECVHOPLIMIT
        (IPPROTO_IPV6, 66, Flag),      // IPV6_RECVTCLASS
        (IPPROTO_IPV6, 67, Number),    // IPV6_TCLASS
    ]
};

/// How many there are.
pub const COUNT: usize = 42;
/// How many of them are flags.
pub const FLAGS: usize = {
    let (mut count, mut at) = (0, 0);
    while at < COUNT {
        count += TABLE[at].2.is_flag() as usize;
        at += 1;
    }
    count
};
/// Where a record has each: flags are counted by themselves, and so are numbers.
const PLACES: [usize; COUNT] = {
    let (mut places, mut next, mut at) = ([0; COUNT], [0; 2], 0);
    while at < COUNT {
        let kind = TABLE[at].2.is_flag() as usize;
        places[at] = next[kind];
        next[kind] += 1;
        at += 1;
    }
    places
};

const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

/// The values of a socket's options; `None` is of one that it has not.
pub type Values = [Option<i32>; COUNT];

/// An option that is shown: its number in [`Values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(usize);

impl Shown {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT).map(Self)
    }

    /// That of a level and a name (`SOL_SOCKET`, `SO_KEEPALIVE`).
    pub fn of(level: i32, name: i32) -> Option<Self> {
        TABLE.iter().position(|option| (option.0, option.1) == (level, name)).map(Self)
    }

    /// Its number.
    pub fn number(self) -> usize {
        self.0
    }

    /// Whether its values are 0 and 1.
    pub const fn is_flag(self) -> bool {
        TABLE[self.0].2.is_flag()
    }

    /// Its number among the flags, or among all others.
    pub const fn place(self) -> usize {
        PLACES[self.0]
    }

    /// Its level and its name.
    pub const fn name(self) -> (i32, i32) {
        (TABLE[self.0].0, TABLE[self.0].1)
    }

    /// The option of that number.
    pub const fn at(number: usize) -> Option<Self> {
        if number < COUNT { Some(Self(number)) } else { None }
    }

    /// Whether setting it changes nothing, if it has that value.
    pub fn is_nothing(self, has: i32, set: i32) -> bool {
        match TABLE[self.0].2 {
            Again::Flag => (set != 0) == (has != 0),
            Again::Number => set == has,
            Again::Asked | Again::AskedFlag => false,
        }
    }
}
