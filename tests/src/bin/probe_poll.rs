//! A probe: one edge-triggered epoll loop that serves many connections, as event-driven programs do.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const CLIENTS: usize = 100;
const ROUNDS: usize = 20;

fn client(at: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(at).expect("connect");
    let mut good = 0;
    for round in 0..ROUNDS {
        let sent = vec![u8::try_from(round).expect("small"); 1 + round * 997];
        stream.write_all(&sent).expect("write");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).expect("read");
        good += usize::from(back == sent);
    }
    good
}

/// Echoes until there is nothing more; true when the peer has closed.
fn echo(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(n) => {
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    match stream.write(rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(e) if e.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                        Err(_) => return true,
                    }
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    listener.set_nonblocking(true).expect("nonblocking");
    let at = listener.local_addr().expect("address");
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || client(at))).collect();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(&listener, EpollEvent::new(edge, 0)).expect("add");
    let (mut streams, mut closed, mut accepted) = (HashMap::new(), 0, 0);
    while closed < CLIENTS {
        let mut events = [EpollEvent::empty(); 16];
        let n = epoll.wait(&mut events, EpollTimeout::from(10_000_u16)).expect("wait");
        assert!(n > 0, "nothing happened for ten seconds: {accepted} accepted, {closed} closed");
        for event in &events[..n] {
            if event.data() == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).expect("nonblocking");
                    let key = u64::from(stream.as_raw_fd().unsigned_abs());
                    epoll.add(&stream, EpollEvent::new(edge, key)).expect("add");
                    streams.insert(key, stream);
                    accepted += 1;
                }
            } else if streams.get_mut(&event.data()).is_some_and(echo) {
                streams.remove(&event.data());
                closed += 1;
            }
        }
    }
    let good: usize = clients.into_iter().map(|client| client.join().expect("client")).sum();
    println!("accepted: {accepted}");
    println!("closed: {closed}");
    println!("echoes right: {good} of {}", CLIENTS * ROUNDS);
}
