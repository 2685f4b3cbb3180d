//! Stacks inside the process that uses them: TCP, UDP, several threads, what a stack says of itself, its end.

use std::io::{Read, Write};
use std::net::SocketAddr;

use msocket::{MSocket, Stack};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn stack() -> Stack {
    Stack::create("eth0=none,ip=10.0.0.1/24,ip=2001:db8::1/64").unwrap()
}

#[test]
fn tcp_says_who_and_closes() {
    let stack = stack();
    let listener = stack.tcp_listen(at("10.0.0.1:80")).unwrap();
    let mut client = stack.tcp_connect(at("10.0.0.1:80")).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(client.peer_addr().unwrap(), at("10.0.0.1:80"));
    client.set_nodelay(true).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    server.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    let refused = stack.tcp_connect(at("10.0.0.1:81")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(std::net::TcpStream::try_from(client).is_err(), "AF_UNIX is none of std's");
}

#[test]
fn udp_names_its_senders() {
    let stack = stack();
    for ip in ["10.0.0.1", "[2001:db8::1]"] {
        let a = stack.udp_bind(at(&format!("{ip}:7"))).unwrap();
        let b = stack.udp_bind(at(&format!("{ip}:0"))).unwrap();
        b.send_to(b"ping", a.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = a.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"ping"[..], b.local_addr().unwrap()));
        a.connect(from).unwrap();
        a.send(b"pong").unwrap();
        b.connect(at(&format!("{ip}:7"))).unwrap();
        assert_eq!(b.recv(&mut buffer).unwrap(), 4);
    }
}

#[test]
fn one_thread_that_waits_holds_up_no_other() {
    let stack = stack();
    let listeners: Vec<_> =
        (1..=8).map(|port| stack.tcp_listen(at(&format!("10.0.0.1:{port}"))).unwrap()).collect();
    let stack = &stack;
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for _ in 0..20 {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(&listener.local_addr().unwrap().port().to_be_bytes()).unwrap();
                }
            });
        }
        for port in 1..=8u16 {
            scope.spawn(move || {
                for _ in 0..20 {
                    let mut stream = stack.tcp_connect(at(&format!("10.0.0.1:{port}"))).unwrap();
                    let mut said = [0; 2];
                    stream.read_exact(&mut said).unwrap();
                    assert_eq!(u16::from_be_bytes(said), port);
                }
            });
        }
    });
}

#[test]
fn what_a_stack_says_of_itself() {
    let stack = Stack::create("eth0=none,ip=10.0.0.1/24,gw=10.0.0.254; eth1=none,ip=10.1.0.1/16").unwrap();
    let addresses = stack.addresses().unwrap();
    assert!(addresses.contains(&("10.1.0.1".parse().unwrap(), 16)), "{addresses:?}");
    let routes = stack.routes().unwrap();
    let default = routes.iter().find(|route| route.destination.1 == 0 && route.gateway.is_some());
    assert_eq!(default.unwrap().interface, "eth0", "{routes:?}");
    let lo =
        |stack: &Stack| stack.statistics().unwrap().into_iter().find(|(name, _)| name == "lo").unwrap().1;
    let before = lo(&stack).tx_packets;
    let socket = stack.udp_bind(at("127.0.0.1:0")).unwrap();
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    assert!(lo(&stack).tx_packets > before);
}

#[test]
fn options_and_errors_are_the_networks() {
    let stack = stack();
    let socket: MSocket = stack.socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
    assert!(!socket.is_native());
    let domain = socket.option(libc::SOL_SOCKET, libc::SO_DOMAIN, 4).unwrap();
    assert_eq!(domain, libc::AF_INET.to_ne_bytes());
    let error = socket.peer_addr().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let error = socket.bind(at("10.9.9.9:80")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    let error = stack.socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
}

#[test]
fn a_stack_that_ends_breaks_its_sockets_and_leaves_no_file() {
    let stack = stack();
    let listener = stack.tcp_listen(at("10.0.0.1:80")).unwrap();
    let path = stack.path().to_owned();
    assert!(Stack::open(&path).is_ok());
    drop(stack);
    assert!(!path.exists());
    assert!(listener.accept().is_err());
    assert_eq!(Stack::open(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_bad_configuration_is_told_in_words() {
    let error = Stack::create("eth0=nonsense").unwrap_err();
    assert!(error.to_string().contains("cannot use the configuration"), "{error}");
}
