//! One program on three stacks at once: a kernel stack, one in a library that the keeper keeps, and one in a library
//! inside this very program. Each is a station of the same network, and each speaks with both others.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use examples::Kept;
use msocket::Stack;

const PORT: u16 = 7;

fn main() {
    let kernel = Kept::up("three-kernel", &["--kind", "kernel", "--ip", "10.79.0.1/24"]);
    let smol = Kept::up("three-smol", &["--kind", "smol", "--ip", "10.79.0.2/24"]);
    let stacks = [
        Stack::open(kernel.name()).expect("it was just made"),
        Stack::open(smol.name()).expect("it was just made"),
        Stack::create("eth0=switch,ip=10.79.0.3/24").expect("the default switch is there"),
    ];
    let address = |host: usize| SocketAddr::from((Ipv4Addr::new(10, 79, 0, host as u8 + 1), PORT));
    let listeners: Vec<_> = stacks
        .iter()
        .enumerate()
        .map(|(host, stack)| stack.tcp_listen(address(host)).expect("its own address"))
        .collect();
    for (from, stack) in stacks.iter().enumerate() {
        for (to, listener) in listeners.iter().enumerate().filter(|(to, _)| *to != from) {
            let mut client = stack.tcp_connect(address(to)).expect("they are on one network");
            let (mut server, peer) = listener.accept().expect("a connection");
            client.write_all(b"hello").expect("it is connected");
            drop(client);
            let mut said = String::new();
            server.read_to_string(&mut said).expect("bytes and their end");
            println!("{} to {}: {said}", peer.ip(), address(to).ip());
            assert_eq!((said.as_str(), peer.ip()), ("hello", address(from).ip()));
        }
    }
}
