//! What a program can learn of the stacks it uses: addresses, routes, statistics. The same program outside of any
//! view and inside of views, on a kernel stack and on one in a library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use examples::{Kept, in_view};
use msocket::Stack;

fn main() {
    let stacks: Vec<String> = std::env::args().skip(1).collect();
    match stacks.is_empty() {
        true => play(),
        false => stacks.iter().for_each(|stack| show(stack)),
    }
}

fn play() {
    let network = ["--link", "none", "--ip", "10.84.0.1/24", "--gw", "10.84.0.254"];
    let up = |kind| Kept::up(&format!("show-{kind}"), &[&["--kind", kind][..], &network].concat());
    let (kernel, smol) = (up("kernel"), up("smol"));
    let both = [kernel.name(), smol.name()];
    let this = std::env::current_exe().expect("/proc is mounted");
    let mut outside = Command::new(this);
    outside.args(both);
    let in_smol = in_view(&["--stack", "smol"], &both);
    // The supervisor of a view on a kernel stack does not see the calls on other ones.
    let in_kernel = in_view(&["--stack", "kernel"], &both[..1]);
    for mut command in [outside, in_smol, in_kernel] {
        assert!(command.status().expect("it runs").success(), "{command:?}");
    }
}

fn show(name: &str) {
    let stack = Stack::open(name).expect("it was made");
    let ours = IpAddr::from(Ipv4Addr::new(10, 84, 0, 1));
    assert!(stack.addresses().expect("it lives").contains(&(ours, 24)));
    let routes = stack.routes().expect("it lives");
    assert!(routes.iter().any(|route| route.destination.1 == 0 && route.interface == "eth0"), "{routes:?}");
    let sent = |stack: &Stack| {
        let all = stack.statistics().expect("it lives");
        all.iter().find(|(name, _)| name == "lo").map_or(0, |(_, counted)| counted.tx_packets)
    };
    let before = sent(&stack);
    let socket = stack.udp_bind(SocketAddr::from((ours, 0))).expect("its own address");
    socket.send_to(b"hello", socket.local_addr().expect("it is bound")).expect("to ourselves");
    let mut buffer = [0; 8];
    let (length, from) = socket.recv_from(&mut buffer).expect("from ourselves");
    assert_eq!((&buffer[..length], from.ip()), (&b"hello"[..], ours));
    assert!(sent(&stack) > before);
    // A socket that is the kernel's, or has a supervisor, is one of std's.
    match std::net::UdpSocket::try_from(socket) {
        Ok(socket) => println!("{name}: {:?}, std's socket on {:?}", stack.kind(), socket.local_addr()),
        Err(socket) => println!("{name}: {:?}, our socket on {:?}", stack.kind(), socket.local_addr()),
    }
}
