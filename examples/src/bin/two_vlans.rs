//! One switch, two VLANs: stations of one reach each other, stations of different ones do not, although they
//! have addresses of one network.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use examples::{in_view, manage};

const PORT: u16 = 7;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo"] => echo(),
        ["ask", address] => std::process::exit(i32::from(!ask(address))),
        _ => play(),
    }
}

fn play() {
    let switch = format!("vlans-{}", std::process::id());
    manage(&["switch", "up", &switch]);
    let station = |vlan: u16, ip: &str| format!("switch:{switch}[vlan {vlan}],ip={ip}/24");
    let mut server = in_view(&["--link", &station(10, "10.78.0.1")], &["echo"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("viewnet runs");
    let mut ready = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
    let reaches = |vlan, ip: &str| {
        let status = in_view(&["--link", &station(vlan, ip)], &["ask", "10.78.0.1"]).status();
        status.expect("viewnet runs").success()
    };
    let (same, other) = (reaches(10, "10.78.0.2"), reaches(20, "10.78.0.3"));
    let _ = server.kill();
    let _ = server.wait();
    manage(&["switch", "down", &switch]);
    println!("from VLAN 10: {same}\nfrom VLAN 20: {other}");
    assert!(same && !other);
}

fn echo() {
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("the port is ours in our own view");
    println!("listening");
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Whether `address` answers within a second and a half.
fn ask(address: &str) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
    (0..5).any(|_| {
        let sent = socket.send_to(b"ping", (address, PORT));
        sent.is_ok() && socket.recv(&mut [0; 64]).is_ok()
    })
}
