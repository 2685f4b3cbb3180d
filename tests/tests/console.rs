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
        assert!(tests::wait_until(tests::SOON, || world.home().join("theirs").exists()));
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

/// What both consoles answer alike, byte for byte.
const ALIKE: &str = "\
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
port/setuser 3 root
port/setgroup 3 nogroup
port/setuser 3 no-such-user
port/setuser 3
port/setuser 9 root
port/setuser 9999 root
port/allprint 3
port/setuser 3  NONE
port/setgroup 3 99
port/allocatable 3 1
port/allocatable 9 1
port/allocatable 9999 1
port/allocatable 3
port/allprint
port/setgroup 3 ANY
port/setvlan 3 4095
port/allprint 3
vlan/print 0
port/setvlan 3 0
port/setnumports 0
port/setnumports 2
port/setnumports 40
port/showinfo
port/createauto
port/createauto
port/allprint 2
port/remove 1
fstp/setfstp 0
fstp/setfstp 1
fstp/setedge 5 3 1
fstp/setedge 0 9999 1
fstp/setedge 0 3
fstp/bonus 0
port/sethub 1
port/showinfo
fstp/setfstp 1
port/sethub 0
port/showinfo
fstp/setfstp 0
debug/list
debug/list fstp
debug/add port
debug/add port
debug/list port
debug/del port/ep
debug/list port
debug/del hash
debug/del nothing
debug/del
debug/list nothing
hash/setgcint 7
hash/setminper 5
hash/setsize 0
help ds
help port/create
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

#[test]
fn both_answer_alike() {
    for &user in User::all() {
        let desk = Desk::new(user);
        assert_eq!(desk.talk("ours", ALIKE), desk.talk("theirs", ALIKE));
        desk.end();
    }
}

/// What a program says of itself, and the numbers of processes, descriptors and users differ.
fn without_numbers(text: &str) -> String {
    let keep = |line: &str| match (line.split_once("endpoint ID "), line.split_once(" -> ")) {
        (Some((head, tail)), _) => format!("{head}endpoint ID N{}", &tail[4..33.min(tail.len())]),
        (None, Some((head, _))) => head.split(" FD ").next().unwrap_or_default().to_owned(),
        (None, None) => line.split(" FD ").next().unwrap_or_default().to_owned(),
    };
    text.lines().map(keep).collect::<Vec<_>>().join("\n")
}

#[test]
fn programs_at_a_port_look_alike() {
    for &user in User::all() {
        let desk = Desk::new(user);
        desk.world.viewnet(["switch", "set", "lan", "--vde", "folder"]).run().ok();
        let session = |console: &str, folder: &str| {
            let mut text = desk.talk(console, "port/create 3\nvlan/create 10\nport/setvlan 3 10\n");
            let plug = || desk.world.cmd("vde_plug").args([format!("{folder}[3]")]).keep_stdin().start();
            let count = |n: usize| {
                let printed = || desk.talk(console, "port/allprint 3\n");
                assert!(
                    tests::wait_until(tests::SOON, || { printed().matches("endpoint ID").count() == n }),
                    "{n} endpoints: {}",
                    printed()
                );
                printed()
            };
            let mut one = plug();
            text += &count(1);
            let mut two = plug();
            text += &count(2);
            text += &desk.talk(console, "port/remove 3\nvlan/print 10\nport/epclose 3 9999\nport/print 4\n");
            one.close_stdin();
            one.wait();
            text += &count(1);
            two.close_stdin();
            two.wait();
            text += &count(0);
            text + &desk.talk(console, "vlan/allprint 10\nport/print 3\nport/remove 3\nport/allprint\n")
        };
        let (ours, theirs) = (session("ours", "folder"), session("theirs", "ctl"));
        assert_eq!(without_numbers(&ours), without_numbers(&theirs));
        desk.end();
    }
}

#[test]
fn what_happens_is_told_alike() {
    let desk = Desk::new(User::Ordinary);
    desk.world.viewnet(["switch", "set", "lan", "--vde", "folder"]).run().ok();
    let listen = r"
import socket, subprocess, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(10)
text = b''
def until(word):
    global text
    while word not in text:
        text += s.recv(65536)
until(b'vde$ ')
text = b''
s.sendall(b'debug/add port\n')
until(b'vde$ ')
plug = subprocess.Popen(['vde_plug', sys.argv[2] + '[5]'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
until(b'port/descr')
plug.stdin.close()
plug.wait()
until(b'port/-')
until(b'port/ep/-')
print(text.decode())
";
    let told = |console: &str, folder: &str| {
        let text = desk.world.cmd("python3").args(["-c", listen, console, folder]).run().ok().stdout;
        let mut lines: Vec<String> = without_numbers(&text).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(told("ours", "folder"), told("theirs", "ctl"));
    desk.end();
}

/// Of a switch that is killed no socket is left behind: neither its own nor those of its programs.
#[test]
fn nothing_is_left_of_a_killed_switch() {
    for &user in User::all() {
        let world = World::new(user);
        world.viewnet(["switch", "up", "lan", "--vde", "folder", "--mgmt", "console"]).run().ok();
        let plug = || world.cmd("vde_plug").args(["folder[3]"]).keep_stdin().start();
        let (mut one, mut two) = (plug(), plug());
        let mut any = world.cmd("vde_plug").args(["folder"]).keep_stdin().start();
        let files = || -> Vec<String> {
            let files = std::fs::read_dir(world.home().join("folder")).unwrap();
            let mut names: Vec<String> =
                files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        let soon = |what: &str, is: &dyn Fn() -> bool| {
            assert!(tests::wait_until(tests::SOON, is), "{what}: {:?}", files());
        };
        soon("three programs", &|| files() == ["001.0", "003.0", "003.1", "ctl"]);
        two.close_stdin();
        two.wait();
        soon("one goes", &|| files().len() == 3);
        let shown = world.viewnet(["switch", "show", "lan", "--json"]).run().ok().stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let pid = nix::unistd::Pid::from_raw(shown["pid"].as_i64().unwrap() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        soon("none is left", &|| files().is_empty());
        assert!(!world.home().join("console").exists());
        // The next takes the folder.
        world.viewnet(["switch", "up", "lan", "--vde", "folder"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
        [&mut one, &mut any].into_iter().for_each(tests::Running::close_stdin);
    }
}

#[test]
fn numbers_are_for_some() {
    if !User::all().contains(&User::Root) {
        eprintln!("skipped: only root can be other users");
        return;
    }
    let world = World::new(User::Root);
    // Others are to come to the folder in it.
    std::fs::set_permissions(world.home(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    world.viewnet(["switch", "up", "lan", "--vde", "folder", "--vde-mode", "0666"]).run().ok();
    let keep = |args: &[&str]| {
        let args = ["switch", "vde", "keep", "lan"].iter().chain(args);
        world.viewnet(args).run().ok();
    };
    keep(&["3", "--access", "10", "--user", "nobody"]);
    keep(&["4", "--group", "9999"]);
    keep(&["5", "--user", "1234", "--allocatable", "true"]);
    // Who is let in has a socket in the folder.
    let is_in = || std::fs::read_dir(world.home().join("folder")).unwrap().count() > 1;
    let plug = |uid: &str, group: &str, number: &str| {
        let args = ["--reuid", uid, "--regid", "65534", "--groups", group];
        let plug = world.cmd("setpriv").args(args).args(["vde_plug".into(), format!("folder[{number}]")]);
        let mut plug = plug.keep_stdin().start();
        assert!(tests::wait_until(tests::SOON, || is_in() || plug.has_ended()));
        let was_in = is_in();
        plug.wait();
        assert!(tests::wait_until(tests::SOON, || !is_in()));
        was_in
    };
    for (uid, group, number, expected) in [
        ("65534", "65534", "3", true),
        ("1000", "9999", "3", false),
        ("1000", "9999", "4", true),
        ("1000", "9998", "4", false),
        ("0", "0", "4", true),
        ("1234", "1", "0", true),
        ("1000", "1", "0", true),
    ] {
        assert_eq!(plug(uid, group, number), expected, "user {uid}, group {group}, number {number}");
    }
    let list = world.viewnet(["switch", "vde", "ls", "lan", "--json"]).run().ok().stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let kept: Vec<_> = list.as_array().unwrap().iter().map(|info| info["number"].as_u64().unwrap()).collect();
    assert_eq!(kept, [3, 4, 5]);
    world.viewnet(["switch", "vde", "ls", "lan"]).run().ok().says("nobody");
    world.viewnet(["switch", "vde", "release", "lan", "3"]).run().ok();
    world.viewnet(["switch", "vde", "release", "lan", "3"]).run().code(1);
    world.viewnet(["switch", "vde", "keep", "lan", "0"]).run().code(1);
    assert!(plug("1000", "9999", "3"));
    world.viewnet(["switch", "down", "lan"]).run().ok();
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
    assert!(tests::wait_until(tests::SOON, || !desk.path("ours").exists()));
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
