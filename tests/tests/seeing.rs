//! `capture`, `top`, `events` and `metrics`, with real traffic; tcpdump reads what was recorded.

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::pty::Terminal;
use tests::{Running, SOON, User, World, wait_until};

const KINDS: [&str; 2] = ["kernel", "smol"];

/// A switch `lan` with a kept stack of each kind, which answers to 10.0.0.1 and 10.0.0.2.
fn lan() -> World {
    let world = World::new(User::Ordinary);
    world.viewnet(["switch", "up", "lan"]).run().ok();
    for (n, kind) in KINDS.iter().enumerate() {
        let link = format!("eth0=switch:lan,ip=10.0.0.{}/24", n + 1);
        world.viewnet(["stack", "up", &format!("{kind}1"), "--kind", kind, "--link", &link]).run().ok();
    }
    world
}

fn end(world: &World) {
    for kind in KINDS {
        world.viewnet(["stack", "down", &format!("{kind}1"), "--force"]).run().ok();
    }
    world.viewnet(["switch", "down", "lan"]).run().ok();
}

/// A capture that has begun.
fn capture(world: &World, args: &[&str]) -> Running {
    let running = world.viewnet(["capture"]).args(args).start();
    let begun = wait_until(SOON, || running.stderr().contains("capturing"));
    assert!(begun, "{args:?}: {}", running.stderr());
    running
}

fn ping(world: &World) {
    world.run(["--stack", "kernel1", "--", "ping", "-n", "-c", "2", "-i", "0.2", "10.0.0.2"]).run().ok();
}

#[test]
fn a_switch_a_port_and_stacks_of_either_kind_are_seen() {
    let world = lan();
    let all = capture(&world, &["lan", "-c", "8", "icmp"]);
    let port = capture(&world, &["lan:smol1.eth0", "--direction", "in", "-c", "2", "icmp"]);
    let named = capture(&world, &["smol1.eth0", "-c", "1", "src host 10.0.0.2 and icmp"]);
    let kernel = capture(&world, &["kernel1", "-c", "4", "-i", "eth0", "icmp"]);
    let smol = capture(&world, &["smol1", "-c", "4", "icmp"]);
    let recorded = capture(&world, &["lan", "-w", "file.pcapng", "-c", "8", "-s", "64", "icmp"]);
    let piped = world.cmd("bash").args(["-c", "viewnet capture lan -w - -c 8 icmp | tcpdump -nr -"]).start();
    assert!(wait_until(SOON, || piped.stderr().contains("capturing")));
    ping(&world);
    let outcome = all.wait().ok();
    for line in [
        "kernel1.eth0 in  10.0.0.1 > 10.0.0.2 ICMP echo request",
        "smol1.eth0 out 10.0.0.1 > 10.0.0.2 ICMP echo request",
        "smol1.eth0 in  10.0.0.2 > 10.0.0.1 ICMP echo reply",
        "kernel1.eth0 out 10.0.0.2 > 10.0.0.1 ICMP echo reply",
    ] {
        assert_eq!(outcome.stdout.matches(line).count(), 2, "{line}: {}", outcome.stdout);
    }
    assert!(outcome.stderr.contains("viewnet: 8 frames\n"), "{}", outcome.stderr);
    assert_eq!(port.wait().ok().stdout.matches("echo reply").count(), 2);
    named.wait().ok().says("echo reply");
    for (outcome, request) in [(kernel.wait().ok(), "out"), (smol.wait().ok(), "in ")] {
        let line = format!("eth0 {request} 10.0.0.1 > 10.0.0.2 ICMP echo request");
        assert_eq!(outcome.stdout.matches(&line).count(), 2, "{}", outcome.stdout);
    }
    recorded.wait().ok();
    for text in
        [world.cmd("tcpdump").args(["-nr", "file.pcapng"]).run().ok().stdout, piped.wait().ok().stdout]
    {
        assert_eq!(text.matches("10.0.0.1 > 10.0.0.2: ICMP echo request").count(), 4, "{text}");
    }
    end(&world);
}

#[test]
fn super_segments_are_cut_on_request_and_checksums_are_right() {
    const SERVE: &str = "import socket; s=socket.socket(); s.bind(('10.0.0.2',80)); s.listen(); print('up',flush=True)\n\
                         c=s.accept()[0]\nwhile c.recv(65536): pass";
    const SEND: &str = "import socket; s=socket.create_connection(('10.0.0.2',80)); s.sendall(bytes(2000000)); \
                        s.shutdown(1); s.recv(1)";
    let world = lan();
    let mut server = world.run(["--stack", "smol1", "--", "python3", "-c", SERVE]).start();
    server.until("up");
    let cut = capture(&world, &["lan:smol1.eth0", "--cut", "-w", "cut.pcapng", "tcp port 80"]);
    let whole = capture(&world, &["lan:smol1.eth0", "-w", "whole.pcapng", "tcp port 80"]);
    world.run(["--stack", "kernel1", "--", "python3", "-c", SEND]).run().ok();
    server.wait().ok();
    for running in [cut, whole] {
        running.kill(Signal::SIGINT);
        running.wait().ok();
    }
    let read = |file: &str| world.cmd("tcpdump").args(["-nvver", file]).run().ok().stdout;
    let lengths = |text: &str| -> Vec<usize> {
        let of = |line: &str| line.split_once(", length ")?.1.split_once(':')?.0.parse().ok();
        text.lines().filter_map(of).collect()
    };
    let (cut, whole) = (read("cut.pcapng"), read("whole.pcapng"));
    assert!(!cut.contains("incorrect"), "checksums are filled");
    let (cut, whole) = (lengths(&cut), lengths(&whole));
    assert!(cut.len() > 1300 && cut.iter().all(|len| *len <= 1514), "{} {:?}", cut.len(), cut.iter().max());
    assert!(whole.iter().any(|len| *len > 9000), "{whole:?}");
    end(&world);
}

#[test]
fn events_metrics_and_top_tell_of_a_view() {
    let world = lan();
    let mut events = world.viewnet(["events", "lan", "--json"]).start();
    let mut words = world.viewnet(["events"]).start();
    // Until they listen.
    let name = || world.viewnet(["switch", "vlan", "add", "lan", "7", "--name", "x"]).run().ok();
    let told = |running: &Running| running.stdout().contains("x\"") || running.stdout().contains("`x`");
    assert!(wait_until(SOON, || {
        name();
        told(&events) && told(&words)
    }));
    let view = ["--link", "eth0=switch:lan,ip=10.0.0.3/24", "--name", "web", "--", "sleep", "600"];
    let sleeper = world.run(view).start();
    events.until("\"port\":\"web.eth0\"");
    words.until("port web.eth0 added, access 1");
    let text = world.viewnet(["metrics"]).run().ok().stdout;
    for line in [
        "viewnet_port_info{switch=\"lan\",port=\"web.eth0\",kind=\"",
        "viewnet_stack_info{stack=\"web\",kind=\"kernel\"} 1",
        "viewnet_stack_views{stack=\"web\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    world.viewnet(["switch", "set", "lan", "--metrics", "unix:counters"]).run().ok();
    let curl = ["-sf", "--unix-socket", "counters", "http://localhost/metrics"];
    world.cmd("curl").args(curl).run().ok().says("viewnet_switch_ports{switch=\"lan\"} 3");
    let top: Value =
        serde_json::from_str(&world.viewnet(["top", "--json", "-i", "0.1"]).run().ok().stdout).unwrap();
    let ports: Vec<&str> =
        top["ports"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(ports.contains(&"lan:web.eth0") && ports.len() == 3, "{ports:?}");
    assert_eq!((&top["views"][0]["name"], &top["views"][0]["command"]), (&"web".into(), &"sleep".into()));

    let sized = ["-c", "stty rows 24 cols 80; exec viewnet top -i 0.2"];
    let mut screen = Terminal::start(world.cmd("sh").args(sized).env("TERM", "xterm"));
    screen.until("lan:web.eth0");
    screen.type_keys("4");
    screen.until("sleep");
    screen.type_keys("?");
    screen.until("scroll");
    screen.type_keys("xq");
    assert_eq!(screen.wait(), Some(0));
    assert!(screen.screen().contains("\u{1b}[?1049l"), "the terminal is as it was");

    sleeper.kill(Signal::SIGTERM);
    sleeper.wait();
    events.until("port_removed");
    end(&world);
    assert!(events.wait().stdout.trim_end().ends_with("\"event\":\"switch_gone\"}"));
    words.wait().ok().says("no more events");
}
