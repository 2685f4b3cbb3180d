//! One server, five networks, the same port on each: five stacks inside one program.

use std::io::{Read, Write};
use std::net::SocketAddr;

use examples::in_view;
use msocket::Stack;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("ask") => ask(),
        _ => play(),
    }
}

fn play() {
    let switch = examples::hold_default_switch();
    let any: SocketAddr = "0.0.0.0:80".parse().expect("an address");
    let servers: Vec<_> = (1..=5)
        .map(|host| {
            let stack =
                Stack::create(&format!("eth0=switch,ip=10.82.0.{host}/24")).expect("the switch is there");
            let listener = stack.tcp_listen(any).expect("port 80 is ours on our own stack");
            // The stack ends when it is dropped: each goes with its listener.
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                writeln!(stream, "hello from {:?}", stack.addresses().expect("it lives").last().map(|a| a.0))
                    .expect("it reads");
                stream.shutdown(std::net::Shutdown::Both).expect("it is connected");
                // Until the client has read it.
                let _ = stream.read(&mut [0]);
            })
        })
        .collect();
    let said = in_view(&["--ip", "10.82.0.9/24"], &["ask"]).output().expect("viewnet runs").stdout;
    servers.into_iter().for_each(|server| server.join().expect("no panic"));
    drop(switch);
    let said = String::from_utf8(said).expect("text");
    print!("{said}");
    assert_eq!(said.lines().count(), 5, "{said}");
}

fn ask() {
    for host in 1..=5 {
        let mut stream = std::net::TcpStream::connect((format!("10.82.0.{host}"), 80)).expect("a server");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("it answers");
        print!("{said}");
    }
}
