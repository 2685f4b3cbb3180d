//! What every kind of stack must do, run on each kind: as whoever runs the tests, root or not.
//!
//! A stack's maker must be a process with one thread, so this test has a `main` of its own: it
//! starts itself again for each check, and prints as the usual harness does.

mod driver;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, bind, connect, getsockname, listen};
use stacks::config::StackConfig;
use stacks::kernel::{KernelStack, namespace};
use stacks::none::NoStack;
use stacks::remote;
use stacks::serve::{Backing, Server, Serving, User};
use stacks::stack::{Kind, SocketSpec, Stack};

use driver::{Driver, Hosted, Native};

type Check = fn(&mut dyn Driver);

const TCP: SocketSpec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
const UDP: SocketSpec = SocketSpec { kind: libc::SOCK_DGRAM, ..TCP };

/// What stacks with a network do.
const WITH_NETWORK: [(&str, Check); 12] = [
    ("a_loopback_is_up_and_first", loopback),
    ("sockets_of_each_family", families),
    ("a_connection_to_itself", connection),
    ("a_side_may_end_before_the_other", half_close),
    ("an_abrupt_end_is_a_reset", reset),
    ("datagrams_both_ways", datagrams),
    ("nobody_listens", nobody_listens),
    ("names_are_taken_and_free", names),
    ("the_kernels_own_errors", errors),
    ("close_on_exec_always", close_on_exec),
    ("port_80_is_free_for_its_owner", port_80),
    ("after_its_end_there_is_no_network", after_the_end),
];

/// What is said of stacks in general.
const OTHERS: [(&str, fn()); 4] = [
    ("none::every_family_is_refused", refused),
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
        all.push((format!("kernel::{name}"), Box::new(move || with_kernel(check))));
        all.push((format!("remote::{name}"), Box::new(move || with_remote(check))));
        all.push((format!("smol::{name}"), Box::new(move || check(&mut Hosted::new()))));
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

fn with_kernel(check: Check) {
    let shut = |stack: &mut KernelStack| stack.shut().expect("it goes down");
    check(&mut Native { stack: &mut kernel(), end: &shut });
}

/// A stack served by another process, which makes the sockets.
fn with_remote(check: Check) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let mut server = again(&["--serve", path.to_str().expect("a plain path")]).spawn().expect("it starts");
    let user = User { view: "v".into(), pid: 1, rules: vec![] };
    // The file is there a moment before its server listens.
    let mut attempts = 0..30_000;
    let mut member = loop {
        match remote::join(&path, &user) {
            Err(_) if attempts.next().is_some() => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            joined => break joined.expect("joined"),
        }
    };
    let down = || remote::ask::<()>(&path, &msocket_proto::proto::Request::Down { force: true });
    check(&mut Native { stack: &mut member.remote, end: &|_| down().expect("down") });
    drop(member);
    // The check may have ended it.
    let _ = down();
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

fn loopback(stack: &mut dyn Driver) {
    let interfaces = stack.interfaces().expect("a list");
    assert_eq!(interfaces[0].name, "lo");
    for address in ["127.0.0.1/8", "::1/128"] {
        assert!(interfaces[0].up && interfaces[0].addresses.contains(&address.to_owned()), "{interfaces:?}");
    }
}

fn families(stack: &mut dyn Driver) {
    for (domain, kind, protocol) in [
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET6, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0),
        (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
        (libc::AF_PACKET, libc::SOCK_RAW, 0),
    ] {
        let spec = SocketSpec { domain, kind, protocol };
        let socket = stack.socket(spec).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
        let flags = rustix::fs::fcntl_getfl(&socket).expect("flags");
        let wanted = kind & libc::SOCK_NONBLOCK != 0;
        assert_eq!(flags.contains(rustix::fs::OFlags::NONBLOCK), wanted, "{spec:?}");
    }
}

fn localhost(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn inet(to: SocketAddr, kind: i32) -> SocketSpec {
    SocketSpec { domain: if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, kind, protocol: 0 }
}

/// A bound socket, and its name.
fn bound(stack: &mut dyn Driver, to: SocketAddr, kind: i32) -> (OwnedFd, SocketAddr) {
    let socket = stack.socket(inet(to, kind)).expect("a socket");
    stack.bind(&socket, to).expect("bound");
    let name = stack.name(&socket).expect("a name");
    (socket, name)
}

/// The client's end, and the server's.
fn connected(stack: &mut dyn Driver, to: SocketAddr) -> (OwnedFd, OwnedFd) {
    let (listener, name) = bound(stack, to, libc::SOCK_STREAM);
    stack.listen(&listener).expect("listens");
    let client = stack.socket(inet(to, libc::SOCK_STREAM)).expect("a socket");
    stack.connect(&client, name).expect("connected");
    let (server, peer) = stack.accept(&listener).expect("accepted");
    assert_eq!((peer.ip(), stack.name(&client)), (to.ip(), Ok(peer)));
    assert_eq!(
        (stack.peer(&client), stack.name(&server), stack.peer(&server)),
        (Ok(name), Ok(name), Ok(peer))
    );
    (client, server)
}

fn connection(stack: &mut dyn Driver) {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (client, server) = connected(stack, (ip, 0).into());
        for (from, to) in [(&client, &server), (&server, &client)] {
            assert_eq!(stack.write(from, b"hello"), Ok(5));
            assert_eq!(stack.read(to), Ok(b"hello".to_vec()));
        }
        stack.close(client);
        assert_eq!(stack.read(&server), Ok(Vec::new()), "an end in order");
    }
}

fn half_close(stack: &mut dyn Driver) {
    let (client, server) = connected(stack, localhost(0));
    assert_eq!(stack.write(&client, b"question"), Ok(8));
    stack.shut(&client).expect("shut");
    assert_eq!(stack.read(&server), Ok(b"question".to_vec()));
    assert_eq!(stack.read(&server), Ok(Vec::new()));
    assert_eq!(stack.write(&server, b"answer"), Ok(6));
    assert_eq!(stack.read(&client), Ok(b"answer".to_vec()));
    stack.close(server);
    assert_eq!(stack.read(&client), Ok(Vec::new()));
}

fn reset(stack: &mut dyn Driver) {
    let (client, server) = connected(stack, localhost(0));
    stack.make_abrupt(&server).expect("an option");
    stack.close(server);
    assert_eq!(stack.read(&client), Err(Errno::ECONNRESET));
}

fn datagrams(stack: &mut dyn Driver) {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (one, here) = bound(stack, (ip, 0).into(), libc::SOCK_DGRAM);
        let (other, there) = bound(stack, (ip, 0).into(), libc::SOCK_DGRAM);
        assert_eq!(stack.send_to(&one, b"ping", there), Ok(4));
        assert_eq!(stack.receive_from(&other), Ok((b"ping".to_vec(), here)));
        assert_eq!(stack.send_to(&other, b"", here), Ok(0));
        assert_eq!(stack.receive_from(&one), Ok((Vec::new(), there)), "an empty one is one");
        stack.connect(&one, there).expect("connected");
        assert_eq!(stack.peer(&one), Ok(there));
        assert_eq!(stack.write(&one, b"native"), Ok(6));
        assert_eq!(stack.receive_from(&other), Ok((b"native".to_vec(), here)));
        assert_eq!(stack.send_to(&other, b"back", here), Ok(4));
        assert_eq!(stack.read(&one), Ok(b"back".to_vec()));
        let long = vec![7; 40_000];
        assert_eq!(stack.send_to(&one, &long, there), Ok(long.len()));
        assert_eq!(stack.receive_from(&other), Ok((long, here)));
    }
}

fn nobody_listens(stack: &mut dyn Driver) {
    let socket = stack.socket(TCP).expect("a socket");
    assert_eq!(stack.connect(&socket, localhost(9)), Err(Errno::ECONNREFUSED));
    let socket = stack.socket(UDP).expect("a socket");
    stack.connect(&socket, localhost(9)).expect("connected");
    assert_eq!(stack.write(&socket, b"?"), Ok(1));
    stack.settle(Some(&socket));
    assert_eq!(stack.receive_from(&socket), Err(Errno::ECONNREFUSED));
}

fn names(stack: &mut dyn Driver) {
    for spec in [TCP, UDP] {
        let (taken, name) = bound(stack, localhost(0), spec.kind);
        assert!(name.port() >= 1024, "{name}");
        assert_eq!(stack.bind(&taken, localhost(0)), Err(Errno::EINVAL), "twice");
        assert_eq!(stack.peer(&taken), Err(Errno::ENOTCONN));
        let socket = stack.socket(spec).expect("a socket");
        assert_eq!(stack.bind(&socket, name), Err(Errno::EADDRINUSE));
        let any = (Ipv4Addr::UNSPECIFIED, name.port()).into();
        assert_eq!(stack.bind(&socket, any), Err(Errno::EADDRINUSE));
        let strange = (Ipv4Addr::new(192, 0, 2, 1), name.port()).into();
        assert_eq!(stack.bind(&socket, strange), Err(Errno::EADDRNOTAVAIL));
        stack.bind(&socket, (Ipv4Addr::new(127, 0, 0, 2), name.port()).into()).expect("another address");
        stack.close(taken);
        let again = stack.socket(spec).expect("a socket");
        stack.bind(&again, name).expect("it is free again");
    }
}

fn errors(stack: &mut dyn Driver) {
    let fails =
        |stack: &mut dyn Driver, spec, errno| assert_eq!(stack.socket(spec).expect_err("no socket"), errno);
    fails(stack, SocketSpec { domain: -1, ..TCP }, Errno::EAFNOSUPPORT);
    fails(stack, SocketSpec { kind: 77, ..TCP }, Errno::EINVAL);
    fails(stack, SocketSpec { protocol: libc::IPPROTO_UDP, ..TCP }, Errno::EPROTONOSUPPORT);
    fails(stack, SocketSpec { kind: libc::SOCK_SEQPACKET, ..TCP }, Errno::ESOCKTNOSUPPORT);
    let socket = stack.socket(TCP).expect("a socket");
    assert_eq!(stack.accept(&socket).expect_err("no listener"), Errno::EINVAL);
    assert_eq!(stack.shut(&socket), Err(Errno::ENOTCONN));
    let messages = stack.socket(UDP).expect("a socket");
    assert_eq!(stack.listen(&messages), Err(Errno::EOPNOTSUPP));
}

fn close_on_exec(stack: &mut dyn Driver) {
    let (client, server) = connected(stack, localhost(0));
    for socket in [client, server] {
        let flags = rustix::io::fcntl_getfd(&socket).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

fn port_80(stack: &mut dyn Driver) {
    assert_eq!(bound(stack, localhost(80), libc::SOCK_STREAM).1.port(), 80);
}

fn after_the_end(stack: &mut dyn Driver) {
    let (listener, name) = bound(stack, localhost(0), libc::SOCK_STREAM);
    stack.listen(&listener).expect("listens");
    let old = stack.socket(SocketSpec { kind: TCP.kind | libc::SOCK_NONBLOCK, ..TCP }).expect("a socket");
    stack.end();
    assert!(!stack.interfaces().is_ok_and(|all| all.iter().any(|it| it.up)));
    stack.connect(&old, name).expect_err("no network");
    let peer = stack.peer(&old).expect_err("no connection");
    assert!(matches!(peer, Errno::ENOTCONN | Errno::ENETDOWN), "{peer}");
}

fn refused() {
    for domain in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
        let answer = NoStack.socket(SocketSpec { domain, kind: libc::SOCK_DGRAM, protocol: 0 });
        assert_eq!(answer.expect_err("no socket"), Errno::EAFNOSUPPORT);
    }
    assert_eq!((NoStack.kind(), NoStack.interfaces()), (Kind::None, Ok(Vec::new())));
}

fn two_stacks() {
    let (mut one, mut other) = (kernel(), new_stack("t"));
    let server = one.socket(TCP).expect("a socket");
    let any = SockaddrIn::new(127, 0, 0, 1, 0);
    bind(server.as_raw_fd(), &any).expect("a port");
    let name = getsockname::<SockaddrIn>(server.as_raw_fd()).expect("a name");
    listen(&server, nix::sys::socket::Backlog::new(1).expect("one")).expect("listens");
    for (stack, expected) in [(&mut other, Err(Errno::ECONNREFUSED)), (&mut one, Ok(()))] {
        let client = stack.socket(TCP).expect("a socket");
        assert_eq!(connect(client.as_raw_fd(), &name), expected);
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
    let mut line = msocket_proto::line::Line::connect(&path).expect("connected");
    let turn = |server: &mut Server| {
        wait_for(server);
        server.turn(&|_| Default::default()).expect("a turn")
    };
    line.send(&msocket_proto::proto::Request::Join { view: "v".into(), pid: 7, rules: vec![] }, &[])
        .expect("sent");
    turn(&mut server);
    turn(&mut server);
    assert_eq!(server.users(id), 1);
    let mut other = msocket_proto::line::Line::connect(&path).expect("connected");
    other.send(&msocket_proto::proto::Request::Down { force: false }, &[]).expect("sent");
    turn(&mut server);
    turn(&mut server);
    assert!(server.kernel(id).is_some(), "a stack in use stays");
    drop(line);
    turn(&mut server);
    assert_eq!(server.users(id), 0);
    other.send(&msocket_proto::proto::Request::Down { force: false }, &[]).expect("sent");
    turn(&mut server);
    assert!(server.is_empty() && !path.exists());
}
