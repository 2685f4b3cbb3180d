//! Two servers on the same port of the same machine, each in its view, and a client in a third that reaches
//! both: what ports cannot give, addresses can.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", greeting] => serve(greeting),
        ["get", ref addresses @ ..] => addresses.iter().for_each(|address| println!("{}", get(address))),
        _ => play(),
    }
}

fn play() {
    let mut servers = [("10.77.0.1/24", "hello from the first"), ("10.77.0.2/24", "hello from the second")]
        .map(|(ip, greeting)| start(ip, greeting));
    let output =
        examples::in_view(&["--ip", "10.77.0.3/24"], &["get", "10.77.0.1:80", "10.77.0.2:80"]).output();
    for server in &mut servers {
        let _ = server.kill();
        let _ = server.wait();
    }
    let answers = String::from_utf8(output.expect("viewnet can be run").stdout).expect("text");
    print!("{answers}");
    assert_eq!(answers, "hello from the first\nhello from the second\n");
}

/// Starts a server in a view and waits until it listens.
fn start(ip: &str, greeting: &str) -> Child {
    let mut server = examples::in_view(&["--ip", ip], &["serve", greeting])
        .stdout(Stdio::piped())
        .spawn()
        .expect("viewnet runs");
    let mut ready = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
    assert_eq!(ready, "listening\n");
    server
}

fn serve(greeting: &str) {
    let listener = TcpListener::bind("0.0.0.0:80").expect("port 80 is ours in our own view");
    println!("listening");
    for mut stream in listener.incoming().flatten() {
        let _ = stream.write_all(greeting.as_bytes());
    }
}

fn get(address: &str) -> String {
    let mut answer = String::new();
    TcpStream::connect(address).and_then(|mut s| s.read_to_string(&mut answer)).expect("the server answers");
    answer
}
