//! A proxy with one leg in each of two networks that cannot reach each other, by stacks inside the proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::{Child, Stdio};

use examples::{in_view, manage};
use msocket::{Stack, TcpStream};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        ["ask", address] => ask(address),
        _ => play(),
    }
}

fn play() {
    let [left, right] = ["left", "right"].map(|side| format!("{side}-{}", std::process::id()));
    manage(&["switch", "up", &left]);
    manage(&["switch", "up", &right]);
    let mut server = server(&format!("switch:{right},ip=10.81.0.2/24"));
    let near = Stack::create(&format!("eth0=switch:{left},ip=10.80.0.1/24")).expect("the switch is there");
    let far = Stack::create(&format!("eth0=switch:{right},ip=10.81.0.1/24")).expect("the switch is there");
    let listener = near.tcp_listen(address("10.80.0.1:8080")).expect("the address is ours");
    let client = std::thread::spawn(move || {
        in_view(&["--link", &format!("switch:{left},ip=10.80.0.2/24")], &["ask", "10.80.0.1:8080"]).output()
    });
    let (client_side, _) = listener.accept().expect("the client comes");
    join(&client_side, &far.tcp_connect(address("10.81.0.2:80")).expect("the server is there"));
    drop(client_side);
    let said = client.join().expect("no panic").expect("viewnet runs").stdout;
    drop((near, far));
    let _ = server.kill();
    let _ = server.wait();
    for side in ["left", "right"] {
        manage(&["switch", "down", &format!("{side}-{}", std::process::id())]);
    }
    print!("{}", String::from_utf8_lossy(&said));
    assert_eq!(said, b"you said hello\n");
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Passes bytes in both directions until both have ended.
fn join(near: &TcpStream, far: &TcpStream) {
    let pass = |mut from: &TcpStream, mut to: &TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| pass(near, far));
        pass(far, near);
    });
}

/// A server that knows nothing of stacks, in a view.
fn server(link: &str) -> Child {
    let mut server =
        in_view(&["--link", link], &["serve"]).stdout(Stdio::piped()).spawn().expect("viewnet runs");
    let mut ready = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
    server
}

fn serve() {
    let listener = TcpListener::bind("0.0.0.0:80").expect("the port is ours in our own view");
    println!("listening");
    for mut stream in listener.incoming().flatten() {
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        let _ = writeln!(stream, "you said {said}");
    }
}

fn ask(address: &str) {
    let mut stream = std::net::TcpStream::connect(address).expect("the proxy is there");
    stream.write_all(b"hello").and_then(|()| stream.shutdown(Shutdown::Write)).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    print!("{answer}");
}
