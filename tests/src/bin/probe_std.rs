//! A probe: what a Rust program sees of the network through std.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::Duration;

fn kind<T>(result: Result<T, std::io::Error>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => format!("{:?} {:?}", e.kind(), e.raw_os_error()),
    }
}

fn tcp(any: SocketAddr, name: &str) {
    let listener = TcpListener::bind(any).expect("listen");
    let at = listener.local_addr().expect("address");
    let server = thread::spawn(move || {
        let (mut stream, from) = listener.accept().expect("accept");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        stream.write_all(text.to_uppercase().as_bytes()).expect("write");
        (text.len(), from.ip())
    });
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).expect("connect");
    println!("{name} nodelay: {:?}", stream.set_nodelay(true).and_then(|()| stream.nodelay()));
    println!("{name} ttl: {:?}", stream.set_ttl(77).and_then(|()| stream.ttl()));
    let big = "x".repeat(300_000);
    stream.write_all(big.as_bytes()).expect("write");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    let (got, from) = server.join().expect("server");
    println!("{name} echo: {got} from {from}, {} back, {}", answer.len(), answer.starts_with("XX"));
    println!("{name} peer: {}", kind(stream.peer_addr()));
    println!("{name} gone: {}", kind(TcpStream::connect(at)));
    println!("{name} gone with timeout: {}", kind(TcpStream::connect_timeout(&at, Duration::from_secs(2))));
    println!("{name} take_error: {:?}", stream.take_error());
}

fn udp(any: SocketAddr, name: &str) {
    let (a, b) = (UdpSocket::bind(any).expect("bind"), UdpSocket::bind(any).expect("bind"));
    b.set_read_timeout(Some(Duration::from_millis(30))).expect("timeout");
    let mut buffer = [0; 100];
    println!("{name} nothing: {:?}", b.recv_from(&mut buffer).map_err(|e| e.kind()));
    b.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    a.send_to(b"hello", b.local_addr().expect("address")).expect("send");
    let (n, from) = b.recv_from(&mut buffer).expect("recv");
    println!("{name} datagram: {n} {}", from == a.local_addr().expect("address"));
    b.connect(from).expect("connect");
    println!("{name} connected send: {}", kind(b.send(b"back")));
    println!("{name} recv: {:?}", a.recv(&mut buffer).map_err(|e| e.kind()));
    drop(a);
    let _ = b.send(b"nobody");
    thread::sleep(Duration::from_millis(20));
    println!("{name} refused: {}", kind(b.send(b"nobody")));
    b.set_nonblocking(true).expect("nonblocking");
    let again = b.recv(&mut buffer).map_err(|e| e.kind() == ErrorKind::WouldBlock);
    println!("{name} nonblocking: {again:?}");
}

fn main() {
    let places = [
        (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "v4"),
        (SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), "v6"),
    ];
    for (any, name) in places {
        tcp(any, &format!("tcp {name}"));
        udp(any, &format!("udp {name}"));
    }
    println!("port 80: {}", kind(TcpListener::bind("0.0.0.0:80")));
    println!("elsewhere: {}", kind(TcpListener::bind("192.0.2.1:80")));
    println!("no route: {}", kind(TcpStream::connect("192.0.2.1:80")));
    println!("numbers: {:?}", ("::1", 5).to_socket_addrs().map(|all| all.collect::<Vec<_>>()));
}
