//! What every kind of stack must do, run on each kind: as whoever runs the tests, root or not.
//!
//! A stack's maker must be a process with one thread, so this test has a `main` of its own: it
//! starts itself again for each check, and prints as the usual harness does.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, bind, connect, getsockname, listen};
use stacks::config::StackConfig;
use stacks::kernel::{KernelStack, namespace};
use stacks::none::NoStack;
use stacks::remote;
use stacks::serve::{Backing, Server, Serving, User};
use stacks::stack::{Kind, SocketSpec, Stack};

type Check = fn(&mut dyn Stack);

const TCP: SocketSpec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };

/// What stacks with a network do.
const WITH_NETWORK: [(&str, Check); 5] = [
    ("a_loopback_is_up_and_first", loopback),
    ("a_connection_to_itself", connection),
    ("the_kernels_own_errors", errors),
    ("close_on_exec_always", close_on_exec),
    ("port_80_is_free_for_its_owner", port_80),
];
/// What the stack without one does.
const WITHOUT: [(&str, Check); 1] = [("every_family_is_refused", refused)];

/// What is said of stacks in general.
const OTHERS: [(&str, fn()); 3] = [
    ("kernel::two_stacks_do_not_meet", two_stacks),
    ("kernel::wrong_configurations_leave_nothing", wrong_configuration),
    ("serve::a_user_counts_until_it_goes", users),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", path] => serve(path.as_ref()),
        ["--check", name] => all().into_iter().find(|(known, _)| known == name).expect("a check").1(),
        _ => return run_all(),
    }
    ExitCode::SUCCESS
}

/// Every check with its name.
fn all() -> Vec<(String, Box<dyn Fn()>)> {
    let mut all: Vec<(String, Box<dyn Fn()>)> = Vec::new();
    for (name, check) in WITH_NETWORK {
        all.push((format!("kernel::{name}"), Box::new(move || check(&mut kernel()))));
        all.push((format!("remote::{name}"), Box::new(move || with_remote(check))));
    }
    for (name, check) in WITHOUT {
        all.push((format!("none::{name}"), Box::new(move || check(&mut NoStack))));
    }
    all.extend(OTHERS.map(|(name, check)| (name.to_owned(), Box::new(check) as Box<dyn Fn()>)));
    all
}

/// This program again, in another role.
fn again(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
    command.args(words);
    command
}

fn run_all() -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (name, _) in all() {
        let good = again(&["--check", &name]).status().is_ok_and(|status| status.success());
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        *(if good { &mut passed } else { &mut failed }) += 1;
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}

fn kernel() -> KernelStack {
    namespace::enter_new().expect("user namespaces work here: see `viewnet doctor`");
    new_stack("s")
}

fn new_stack(name: &str) -> KernelStack {
    KernelStack::create(name, &StackConfig::default(), "/nonexistent".as_ref()).expect("a stack")
}

/// A stack served by another process, which makes the sockets.
fn with_remote(check: Check) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let mut server = again(&["--serve", path.to_str().expect("a plain path")]).spawn().expect("it starts");
    let user = User { view: "v".into(), pid: 1 };
    // The file is there a moment before its server listens.
    let mut attempts = 0..5_000;
    let mut member = loop {
        match remote::join(&path, &user) {
            Err(_) if attempts.next().is_some() => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            joined => break joined.expect("joined"),
        }
    };
    check(&mut member.remote);
    drop(member);
    remote::ask::<()>(&path, &msocket::proto::Request::Down { force: true }).expect("down");
    assert!(server.wait().expect("it ends").success());
}

fn serve(path: &std::path::Path) {
    let mut server = Server::new().expect("a server");
    let serving = Serving { name: "s".into(), path: path.to_owned(), mode: 0o600, kept: true, own: None };
    server.add(serving, Backing::Kernel(kernel())).expect("served");
    while !server.is_empty() {
        wait_for(&server);
        let _ = server.turn(&|_| Default::default());
    }
}

fn wait_for(server: &Server) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let _ = poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100u16));
}

fn loopback(stack: &mut dyn Stack) {
    let interfaces = stack.interfaces().expect("a list");
    assert_eq!(interfaces[0].name, "lo");
    assert!(
        interfaces[0].up && interfaces[0].addresses.contains(&"127.0.0.1/8".to_owned()),
        "{interfaces:?}"
    );
}

fn localhost(port: u16) -> SockaddrIn {
    SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn connection(stack: &mut dyn Stack) {
    let (server, client) = (stack.socket(TCP).expect("a socket"), stack.socket(TCP).expect("a socket"));
    let port = bound(&server, 0).expect("a port");
    listen(&server, nix::sys::socket::Backlog::new(1).expect("one")).expect("listens");
    connect(std::os::fd::AsRawFd::as_raw_fd(&client), &localhost(port)).expect("connected");
    let mut client = std::net::TcpStream::from(client);
    let (mut accepted, peer) = std::net::TcpListener::from(server).accept().expect("accepted");
    assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    std::io::Write::write_all(&mut client, b"hello").expect("written");
    let mut five = [0; 5];
    std::io::Read::read_exact(&mut accepted, &mut five).expect("read");
    assert_eq!(&five, b"hello");
}

fn bound(socket: &OwnedFd, port: u16) -> nix::Result<u16> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    bind(fd, &localhost(port))?;
    Ok(getsockname::<SockaddrIn>(fd)?.port())
}

fn errors(stack: &mut dyn Stack) {
    let fails =
        |stack: &mut dyn Stack, spec, errno| assert_eq!(stack.socket(spec).expect_err("no socket"), errno);
    fails(stack, SocketSpec { domain: -1, ..TCP }, Errno::EAFNOSUPPORT);
    fails(stack, SocketSpec { kind: 77, ..TCP }, Errno::EINVAL);
    fails(stack, SocketSpec { protocol: libc::IPPROTO_UDP, ..TCP }, Errno::EPROTONOSUPPORT);
    fails(stack, SocketSpec { kind: libc::SOCK_SEQPACKET, ..TCP }, Errno::ESOCKTNOSUPPORT);
    let socket = stack.socket(TCP).expect("a socket");
    let refused =
        connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &localhost(9)).expect_err("nobody listens");
    assert_eq!(refused, Errno::ECONNREFUSED);
}

fn close_on_exec(stack: &mut dyn Stack) {
    let socket = stack.socket(TCP).expect("a socket");
    let flags = rustix::io::fcntl_getfd(&socket).expect("flags");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

fn port_80(stack: &mut dyn Stack) {
    let socket = stack.socket(TCP).expect("a socket");
    assert_eq!(bound(&socket, 80), Ok(80));
}

fn refused(stack: &mut dyn Stack) {
    for domain in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
        let answer = stack.socket(SocketSpec { domain, kind: libc::SOCK_DGRAM, protocol: 0 });
        assert_eq!(answer.expect_err("no socket"), Errno::EAFNOSUPPORT);
    }
    assert_eq!((stack.kind(), stack.interfaces()), (Kind::None, Ok(Vec::new())));
}

fn two_stacks() {
    let (mut one, mut other) = (kernel(), new_stack("t"));
    let server = one.socket(TCP).expect("a socket");
    let port = bound(&server, 0).expect("a port");
    listen(&server, nix::sys::socket::Backlog::new(1).expect("one")).expect("listens");
    for (stack, expected) in [(&mut other, Err(Errno::ECONNREFUSED)), (&mut one, Ok(()))] {
        let client = stack.socket(TCP).expect("a socket");
        assert_eq!(connect(std::os::fd::AsRawFd::as_raw_fd(&client), &localhost(port)), expected);
    }
}

fn wrong_configuration() {
    namespace::enter_new().expect("user namespaces work here");
    for (line, part) in [
        ("eth0=switch:nosuch,ip=10.0.0.1/24", "no such switch"),
        ("eth0=none,ip=10.0.0.1/24,gw=192.168.7.1", "on no network of this stack"),
        ("eth0=none,route=10.0.0.0/8 dev eth7", "cannot find eth7"),
        ("eth0=none,ip=10.0.0.1/24,ip=10.0.0.1/24", "cannot add 10.0.0.1/24"),
        ("eth0=vde:/tmp", "cannot plug eth0 into vde:/tmp"),
        ("eth0=tap:tap0", "use a smol stack"),
        ("eth0=fd:3", "use a smol stack"),
        ("eth0=pair:x", "use a smol stack"),
        ("eth0=none,pcap=x", "cannot record the frames of eth0"),
    ] {
        let mut config = StackConfig::default();
        config.add_line(line).expect("it parses");
        let error = KernelStack::create("s", &config, "/nonexistent".as_ref()).expect_err(line);
        assert!(error.to_string().contains(part), "{line}: {error}");
    }
}

fn users() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let mut server = Server::new().expect("a server");
    let stack = kernel();
    let serving = Serving { name: "s".into(), path: path.clone(), mode: 0o600, kept: true, own: None };
    let id = server.add(serving, Backing::Kernel(stack)).expect("served");
    let mut line = msocket::line::Line::connect(&path).expect("connected");
    let turn = |server: &mut Server| {
        wait_for(server);
        server.turn(&|_| Default::default()).expect("a turn")
    };
    line.send(&msocket::proto::Request::Join { view: "v".into(), pid: 7 }, &[]).expect("sent");
    turn(&mut server);
    turn(&mut server);
    assert_eq!(server.users(id), 1);
    let mut other = msocket::line::Line::connect(&path).expect("connected");
    other.send(&msocket::proto::Request::Down { force: false }, &[]).expect("sent");
    turn(&mut server);
    turn(&mut server);
    assert!(server.kernel(id).is_some(), "a stack in use stays");
    drop(line);
    turn(&mut server);
    assert_eq!(server.users(id), 0);
    other.send(&msocket::proto::Request::Down { force: false }, &[]).expect("sent");
    turn(&mut server);
    assert!(server.is_empty() && !path.exists());
}
