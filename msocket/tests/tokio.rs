//! Sockets of a stack inside the process, in a tokio runtime of one thread.

use std::net::SocketAddr;

use msocket::Stack;
use msocket::tokio::{TcpListener, TcpStream, UdpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn tcp() {
    let stack = Stack::create("eth0=none,ip=10.0.0.1/24").unwrap();
    run(async {
        let listener = TcpListener::try_from(stack.tcp_listen(at("10.0.0.1:80")).unwrap()).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let client = async {
            let mut stream = TcpStream::connect(&stack, at("10.0.0.1:80")).await.unwrap();
            assert_eq!(stream.socket().peer_addr().unwrap(), at("10.0.0.1:80"));
            let long = vec![7; 1 << 20];
            stream.write_all(&long).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, long);
        };
        tokio::join!(server, client);
        let refused = TcpStream::connect(&stack, at("10.0.0.1:81")).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn udp() {
    let stack = Stack::create("eth0=none,ip=10.0.0.1/24").unwrap();
    run(async {
        let [a, b] = [7, 8].map(|port| {
            UdpSocket::try_from(stack.udp_bind(at(&format!("10.0.0.1:{port}"))).unwrap()).unwrap()
        });
        let mut buffer = [0; 8];
        let wait = a.recv_from(&mut buffer);
        let (got, sent) = tokio::join!(wait, b.send_to(b"ping", at("10.0.0.1:7")));
        assert_eq!((got.unwrap(), sent.unwrap()), ((4, at("10.0.0.1:8")), 4));
    });
}
