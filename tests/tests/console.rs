//! The management console, beside that of Debian's vde_switch.

use std::path::PathBuf;

use tests::{User, World};

/// Talks to a console: sends each line of its input, and prints what comes until the next prompt.
const TALK: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(10)
def answer():
    text = b''
    while not text.endswith(b'\nvde$ '):
        more = s.recv(65536)
        if not more:
            return text
        text += more
    return text
answer()
for line in sys.stdin:
    s.sendall(line.encode())
    sys.stdout.write('> ' + line + answer().decode())
"#;

struct Desk {
    world: World,
    real: tests::Running,
}

impl Desk {
    /// Our switch `lan` and a vde_switch, each with its console.
    fn new(user: User) -> Self {
        let world = World::new(user);
        world.viewnet(["switch", "up", "lan", "--mgmt", "ours"]).run().ok();
        let options = ["-s", "ctl", "-M", "theirs"];
        let real = world.cmd("vde_switch").args(options).keep_stdin().start();
        assert!(tests::wait_until(std::time::Duration::from_secs(10), || world
            .home()
            .join("theirs")
            .exists()));
        Self { world, real }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.home().join(name)
    }

    fn talk(&self, console: &str, lines: &str) -> String {
        self.world.cmd("python3").args(["-c", TALK, console]).stdin(lines).run().ok().stdout
    }

    fn end(mut self) {
        self.real.close_stdin();
        self.real.wait();
        self.world.viewnet(["switch", "down", "lan"]).run().ok();
    }
}

#[test]
fn both_answer_alike() {
    for &user in User::all() {
        let desk = Desk::new(user);
        let lines = "\
port/create 3
port/create 3
port/allprint
port/allprint 3
port/print
port/print 3
vlan/create 10
vlan/create 10
vlan/create 0
vlan/create 4095
vlan/create 20
port/setvlan 3 10
port/setvlan 3 77
port/setvlan 4 10
port/setvlan 3
port/setvlan x y
vlan/addport 20 3
vlan/addport 77 3
vlan/allprint
vlan/print
vlan/print 20
vlan/print 77
vlan/delport 10 3
vlan/delport 20 3
vlan/allprint 10
vlan/remove 10
vlan/remove 20
vlan/remove 20
port/setvlan 3 0x0
vlan/remove 10
vlan/allprint
hash/find 00:11
hash/find 02:00:00:00:00:01
hash/print
hash/setexpire 200
help vlan/p
help nothing
fstp/setfstp 0
port/sethub 0
port/epclose 3 4
port/epclose 3
port/resetcounter
port/resetcounter 3
port/remove 3
port/remove 3
load /nonexistent
bogus
# a remark
debug/add nothing
plugin/list
logout
";
        assert_eq!(desk.talk("ours", lines), desk.talk("theirs", lines));
        desk.end();
    }
}

#[test]
fn help_lists_the_same_commands() {
    let desk = Desk::new(User::Ordinary);
    let paths = |console: &str| -> Vec<String> {
        let text = desk.talk(console, "help\n");
        text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    };
    let (ours, theirs) = (paths("ours"), paths("theirs"));
    let missing: Vec<_> = theirs.iter().filter(|path| !ours.contains(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    desk.end();
}

#[test]
fn debians_tools_work_with_it() {
    let desk = Desk::new(User::Ordinary);
    let world = &desk.world;
    let ask = |console: &str, words: &[&str]| {
        world.cmd("unixcmd").args(["-f", "/etc/vde2/vdecmd", "-s", console]).args(words).run()
    };
    // Its exit status is the same whatever the console says.
    let usual = ask("theirs", &["port/showinfo"]).status;
    let vdecmd = |words: &[&str]| {
        let outcome = ask("ours", words);
        assert_eq!(outcome.status, usual, "{}", outcome.stderr);
        outcome
    };
    vdecmd(&["showinfo"]).says("VDE switch V.");
    vdecmd(&["vlan/create", "10"]);
    vdecmd(&["vlan/print"]).says("VLAN 0010");
    world.viewnet(["switch", "vlan", "ls", "lan"]).run().ok().says("10");
    // A real port, changed by the console and seen by both.
    let sleeper = world.run(["--link", "switch:lan", "--", "sh", "-c", "echo up; sleep 1000"]);
    let mut sleeper = sleeper.start();
    sleeper.until("up");
    vdecmd(&["port/print"]).says("Port 0001 untagged_vlan=0000 ACTIVE");
    vdecmd(&["port/setvlan", "1", "10"]);
    vdecmd(&["vlan/print", "10"]).says(" -- Port 0001 tagged=0 active=1 status=Forwarding");
    world.viewnet(["switch", "port", "ls", "lan"]).run().ok().says("access 10");
    world.write("script", "vlan/create 20\nvlan/addport 20 1\n");
    let script = desk.path("script");
    vdecmd(&["load", script.to_str().unwrap()]);
    world.viewnet(["switch", "port", "ls", "lan"]).run().ok().says("trunk 10,20 native 10");
    vdecmd(&["port/epclose", "1", "1"]);
    assert_eq!(world.viewnet(["switch", "port", "ls", "lan", "--json"]).run().ok().stdout, "[]\n");
    sleeper.kill_group();
    sleeper.wait();
    let mut term = world.cmd("unixterm").args(["ours"]).keep_stdin().start();
    term.until("vde$ ");
    term.tell("port/showinfo");
    term.until("counters=true");
    term.tell("logout");
    term.wait().ok();
    desk.end();
}

#[test]
fn hostile_visitors_are_endured() {
    let desk = Desk::new(User::Ordinary);
    let flood = r"
import socket
for n in range(40):
    s = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for c in s:
        try:
            c.connect('ours')
            c.setblocking(False)
            c.send(b'help\n' * 5000 if n % 2 else bytes(range(256)) * 200)
        except OSError:
            pass
";
    desk.world.cmd("python3").args(["-c", flood]).run().ok();
    assert!(desk.talk("ours", "showinfo\n").contains("1000 Success"));
    desk.world.viewnet(["switch", "show", "lan"]).run().ok();
    desk.end();
}

#[test]
fn it_comes_and_goes_while_the_switch_runs() {
    let desk = Desk::new(User::Ordinary);
    let world = &desk.world;
    world.viewnet(["switch", "set", "lan", "--mgmt", "elsewhere"]).run().ok();
    assert!(!desk.path("ours").exists());
    assert!(desk.talk("elsewhere", "showinfo\n").contains("elsewhere perm 0600"));
    let taken = world.viewnet(["switch", "set", "lan", "--mgmt", "theirs"]).run().code(1).stderr;
    assert!(taken.contains("cannot serve the console"), "{taken}");
    world.viewnet(["switch", "set", "lan", "--mgmt", ""]).run().ok();
    assert!(!desk.path("elsewhere").exists());
    world.viewnet(["switch", "set", "lan", "--mode", "0660"]).run().ok();
    let socket = world.runtime().join("viewnet/switches/lan");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    let group = world.viewnet(["switch", "set", "lan", "--group", "no-such-group"]).run().code(1).stderr;
    assert!(group.contains("no group `no-such-group`"), "{group}");
    world.viewnet(["switch", "set", "lan", "--mgmt", "ours"]).run().ok();
    desk.talk("ours", "shutdown\n");
    assert!(tests::wait_until(std::time::Duration::from_secs(5), || !desk.path("ours").exists()));
    world.viewnet(["switch", "up", "lan"]).run().ok();
    desk.end();
}

#[test]
fn a_switch_comes_from_a_file() {
    let world = World::new(User::Ordinary);
    world.write("lan.toml", "age = 60\nmgmt = \"console\"\nvlan.10 = \"office\"\n");
    world.viewnet(["switch", "up", "lan", "--config", "lan.toml", "--mode", "0666"]).run().ok();
    world.viewnet(["switch", "show", "lan"]).run().ok().says("after 60 s");
    world.viewnet(["switch", "vlan", "ls", "lan"]).run().ok().says("office");
    assert!(world.home().join("console").exists());
    world.viewnet(["switch", "down", "lan"]).run().ok();
    assert!(!world.home().join("console").exists());
    world.write("lan.toml", "age = 60\nprot.x = {}\n");
    let wrong = world.viewnet(["switch", "up", "lan", "--config", "lan.toml"]).run().code(1).stderr;
    assert!(wrong.contains("cannot use lan.toml: line 2, column 1: unknown field `prot`"), "{wrong}");
    assert!(wrong.contains("did you mean `port`?"), "{wrong}");
    world.write("lan.toml", "port.x = { nic = \"nosuch0\" }\n");
    world.viewnet(["switch", "up", "lan", "--config", "lan.toml"]).run().code(1);
    assert_eq!(world.viewnet(["switch", "ls", "--json"]).run().ok().stdout, "[]\n");
}
