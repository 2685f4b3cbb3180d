//! Options that programs are shown (`msocket_proto::board::options`): their rows, found when this is compiled.

use msocket_proto::board::options::{COUNT, Shown, Values};

use super::super::Socket;
use super::{Row, ip, ipv6, socket, tcp};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::sockets::address::Domain;

/// How each is read.
const READERS: [fn(&Socket) -> i32; COUNT] = {
    let mut readers: [fn(&Socket) -> i32; COUNT] = [|_| 0; COUNT];
    let mut number = 0;
    while let Some(shown) = Shown::at(number) {
        let (level, name) = shown.name();
        let table = match level {
            libc::SOL_SOCKET => socket::TABLE,
            libc::IPPROTO_IP => ip::TABLE,
            libc::IPPROTO_IPV6 => ipv6::TABLE,
            libc::IPPROTO_TCP => tcp::TABLE,
            _ => panic!("a level without table"),
        };
        readers[number] = reader(table, name);
        number += 1;
    }
    readers
};

const fn reader(table: &[Row], name: i32) -> fn(&Socket) -> i32 {
    let mut at = 0;
    while table[at].name != name {
        at += 1;
    }
    table[at].get
}

impl Engine {
    /// What programs are shown of the options of a TCP or UDP socket.
    pub(crate) fn shown_options(&self, id: SocketId) -> Values {
        let mut values = [None; COUNT];
        let Some(socket) = self.sockets.get(id) else { return values };
        let (stream, v6) = (socket.stream().is_some(), socket.domain == Domain::V6);
        for (value, shown) in values.iter_mut().zip(Shown::all()) {
            let has = match shown.name() {
                // Set again, it sends what is corked (tcp(7)).
                (libc::IPPROTO_TCP, libc::TCP_NODELAY) => stream && !tcp::tcp(socket).cork,
                (libc::IPPROTO_TCP, _) => stream,
                (libc::IPPROTO_IPV6, _) => v6,
                _ => true,
            };
            *value = has.then(|| READERS[shown.number()](socket));
        }
        values
    }
}
