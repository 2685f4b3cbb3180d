//! Nothing leaves beside the tunnel: what a program tries, and what is seen on the host's wire meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tests::{Cmd, SOON, User, World, wait_until};

use super::peer::{ENDPOINT, Peer};
use super::python;

/// Tries whatever could leave, also as a child and as a daemon; prints what it heard.
const ESCAPE: &str = r#"
import ctypes, os, socket, subprocess, sys, threading
attempts = []
def attempt(what, do):
    def run():
        try: print(what, 'ANSWERED', do(), flush=True)
        except (OSError, subprocess.SubprocessError) as e: print(what, e, flush=True)
    attempts.append(threading.Thread(target=run)); attempts[-1].start()
def kind(at): return socket.AF_INET6 if ':' in at else socket.AF_INET
def tcp(at):
    s = socket.socket(kind(at)); s.settimeout(1); s.connect((at, 7007))
def udp(at, port=7007):
    s = socket.socket(kind(at), socket.SOCK_DGRAM); s.settimeout(0.3)
    s.sendto(b'leak', (at, port)); return s.recv(99)
def ping(at): subprocess.run(['ping', '-c', '1', '-W', '1', at], check=True, stdout=-3, stderr=-3)
def unix(path):
    s = socket.socket(socket.AF_UNIX); s.connect(path); return path
def ring():
    if ctypes.CDLL(None, use_errno=True).syscall(425, 4, ctypes.create_string_buffer(120)) < 0:
        raise OSError(ctypes.get_errno(), 'io_uring')
def everything():
    for at in ('192.0.2.2', '198.51.100.7', '2001:db8::2', '2001:db8:7::7'):
        attempt('tcp ' + at, lambda at=at: tcp(at)); attempt('udp ' + at, lambda at=at: udp(at))
        attempt('dns ' + at, lambda at=at: udp(at, 53)); attempt('ping ' + at, lambda at=at: ping(at))
    attempt('name', lambda: socket.getaddrinfo('leak.example.com', 1))
    for path in sys.argv[1:]: attempt(path, lambda path=path: unix(path))
    attempt('io_uring', ring)
    for one in attempts: one.join()
    attempts.clear()
everything()
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: everything()
    os._exit(0)
os.close(w); os.wait(); os.read(r, 1)
print('tried')
"#;
/// What of it is seen on the wire where there is no view, and answered.
const SEEN: [&str; 9] = [
    "192.0.2.2.7007",
    "198.51.100.7.7007",
    "2001:db8::2.7007",
    "2001:db8:7::7.7007",
    "192.0.2.2.53",
    "2001:db8:7::7.53",
    "198.51.100.7: ICMP echo request",
    "2001:db8:7::7: ICMP6, echo request",
    "leak.example.com",
];
/// Those who ask for names in the place of programs.
const SERVICES: [&str; 3] =
    ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/dbus/system_bus_socket"];

/// A machine from which everything leaves, and the sockets of its services.
fn open_host(user: User) -> Option<(World, Peer, Vec<UnixListener>)> {
    let mut world = World::new(user);
    let resolv = world.write("resolv.conf", "nameserver 192.0.2.2\noptions timeout:1 attempts:1\n");
    world.bind_mount(&resolv, Path::new("/etc/resolv.conf"));
    let peer = Peer::new(&world)?;
    let run = world.folder().join("services");
    let serve = |path: &str| {
        let path = run.join(path.strip_prefix("/run/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let accepting = listener.try_clone().unwrap();
        // Whoever comes is sent away at once; ends with the test.
        std::thread::spawn(move || while accepting.accept().is_ok() {});
        listener
    };
    let services = SERVICES.iter().map(|path| serve(path)).collect();
    world.bind_mount(&run, Path::new("/run"));
    Some((world, peer, services))
}

fn each(test: impl Fn(&World, &Peer, &str)) {
    for &user in User::all() {
        for kind in ["kernel", "smol"] {
            eprintln!("as {user:?} on a {kind} stack");
            let Some((world, peer, _services)) = open_host(user) else { return };
            test(&world, &peer, kind);
        }
    }
}

fn patient(cmd: Cmd) -> Cmd {
    cmd.args(SERVICES).limit(Duration::from_secs(90))
}

/// Nothing but WireGuard's datagrams to the peer, and what the host's kernel says of the peer's own that come when their
/// tunnel has ended.
pub(crate) fn only_the_tunnel(seen: &[String]) {
    let late = |line: &str| {
        line.contains("192.0.2.1 > 192.0.2.2: ICMP 192.0.2.1 udp port") && line.contains("unreachable")
    };
    let beside: Vec<_> = seen.iter().filter(|line| !line.contains(ENDPOINT) && !late(line)).collect();
    assert!(beside.is_empty(), "beside the tunnel: {beside:#?}");
}

#[test]
fn all_of_it_would_be_seen_without_a_view() {
    for &user in User::all() {
        let Some((world, peer, _services)) = open_host(user) else { return };
        let mut heard = String::new();
        let seen = peer.capture(|| {
            heard = patient(world.cmd("python3").args(["-c", ESCAPE])).run().ok().says("tried").stdout;
        });
        for what in SEEN {
            assert!(seen.iter().any(|line| line.contains(what)), "no {what} in {seen:#?}");
        }
        for what in SERVICES.iter().chain(&["ping 192.0.2.2", "ping 2001:db8::2"]) {
            assert!(heard.contains(&format!("{what} ANSWERED")), "no {what} in {heard}");
        }
        if !heard.contains("io_uring ANSWERED") {
            eprintln!("not tested: this machine has no io_uring");
        }
    }
}

#[test]
fn before_the_first_handshake() {
    each(|world, peer, kind| {
        let seen = peer.capture(|| {
            let heard = patient(python(world, kind, &[], ESCAPE)).run().ok().says("tried").stdout;
            assert!(!heard.contains("ANSWERED"), "{heard}");
        });
        assert!(seen.iter().any(|line| line.contains(ENDPOINT)), "no handshake");
        only_the_tunnel(&seen);
    });
}

#[test]
fn while_the_peer_is_there_and_when_it_is_gone() {
    each(|world, peer, kind| {
        peer.begin();
        let script = format!(
            "import os; os.system('ping -c 1 -W 9 10.9.0.1')\nprint('up', flush=True)\ninput()\n{ESCAPE}"
        );
        for gone in [false, true] {
            let seen = peer.capture(|| {
                let mut program = patient(python(world, kind, &[], &script)).keep_stdin().start();
                program.until("up");
                if gone {
                    peer.end();
                }
                program.tell("");
                let heard = program.wait().ok().says("tried").stdout;
                // The peer has the host's wire's addresses, too, and answers for them inside.
                assert_eq!(heard.contains("ping 192.0.2.2 ANSWERED"), !gone, "{heard}");
                for path in SERVICES.iter().chain(&["io_uring"]) {
                    assert!(!heard.contains(&format!("{path} ANSWERED")), "{heard}");
                }
            });
            only_the_tunnel(&seen);
        }
    });
}

#[test]
fn when_a_process_of_ours_is_killed() {
    each(|world, peer, kind| {
        peer.begin();
        // One kind of them, and all of them.
        for victim in ["viewnet-vpn", "viewnet-view", "viewnet-keeper", "viewnet-eye", "viewnet-"] {
            eprintln!("without {victim}");
            let kept = !matches!(victim, "viewnet-vpn" | "viewnet-view");
            let script = format!("print('up', flush=True)\ninput()\n{ESCAPE}");
            let seen = peer.capture(|| {
                let cmd = if kept {
                    world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
                    world.viewnet(["vpn", "run", "office", "--", "python3", "-c", &script])
                } else {
                    python(world, kind, &[], &script)
                };
                let mut program = patient(cmd).keep_stdin().start();
                program.until("up");
                let is_victim = |pid: &nix::unistd::Pid| {
                    fs::read_to_string(format!("/proc/{pid}/cmdline"))
                        .is_ok_and(|line| line.starts_with(victim))
                };
                let victims: Vec<_> = world.supervisors().into_iter().filter(is_victim).collect();
                assert!(!victims.is_empty(), "no {victim}");
                victims.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
                program.tell("");
                let heard = program.wait().stdout;
                assert!(heard.contains("tcp 192.0.2.2"), "{heard}");
                assert!(!heard.contains("ANSWERED"), "without {victim}: {heard}");
            });
            only_the_tunnel(&seen);
            let none = || world.viewnet(["vpn", "ls", "--json"]).run().ok().stdout.trim() == "[]";
            assert!(wait_until(SOON, none), "a tunnel stays");
            // What was killed is no obstacle to making it anew.
            world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
            world.viewnet(["vpn", "down", "office"]).run().ok();
        }
    });
}

#[test]
fn ipv6_if_the_tunnel_has_none() {
    each(|world, peer, kind| {
        peer.begin();
        peer.file(world, "office.conf", &[(", fd09::2/64", "")]);
        let script = format!(
            "
import errno, socket
for at in ('fd09::1', '2001:db8::2', '2001:db8:7::7'):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try: s.connect((at, 7)); print('connected')
    except OSError as e: print(errno.errorcode[e.errno])
{ESCAPE}"
        );
        let seen = peer.capture(|| {
            let heard = patient(python(world, kind, &[], &script)).run().ok().says("tried").stdout;
            assert!(heard.starts_with("ENETUNREACH\nENETUNREACH\nENETUNREACH\n"), "{heard}");
        });
        only_the_tunnel(&seen);
    });
}

#[test]
fn what_a_rule_sends_through_a_tunnel_that_is_gone() {
    each(|world, peer, kind| {
        peer.begin();
        let script = "
import socket
def attempt(kind, do):
    s = socket.socket(socket.AF_INET, kind); s.settimeout(2)
    try: s.connect(('10.9.0.1', 7007)); do(s); print('done')
    except OSError as e: print(e)
for n in range(3):
    print('ready', n, flush=True); input()
    attempt(socket.SOCK_STREAM, lambda s: None)
    attempt(socket.SOCK_DGRAM, lambda s: (s.send(b'leak'), s.recv(9)))
print('tried')";
        let _servers = peer.servers();
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        let rule = ["--stack", "host", "--rule", "to 10.9.0.0/24 via office", "--", "python3", "-c", script];
        let mut program = world.run(rule).keep_stdin().start();
        let seen = peer.capture(|| {
            program.until("ready 0");
            program.tell("");
            program.until("done\ndone\nready 1");
            // The tunnel goes, and then its stack.
            let is_tunnel = |pid: &nix::unistd::Pid| {
                let title = fs::read_to_string(format!("/proc/{pid}/cmdline"));
                title.is_ok_and(|title| title.starts_with("viewnet-vpn"))
            };
            let tunnel = world.supervisors().into_iter().find(is_tunnel).expect("a tunnel");
            kill(tunnel, Signal::SIGKILL).unwrap();
            program.tell("");
            program.until("ready 2");
            world.viewnet(["stack", "down", "--force", "office"]).run().ok();
            program.tell("");
            let heard = program.wait().ok().says("tried").stdout;
            assert_eq!(heard.matches("done").count(), 2, "{heard}");
        });
        only_the_tunnel(&seen);
    });
}
