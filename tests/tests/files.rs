//! /proc/net and /sys/class/net of a smol stack: as of a network namespace with the same interfaces, as far as a stack
//! has something to say. The referee is a view on a kernel stack, whose files are the kernel's own.

use std::path::Path;

use tests::{SOON, User, World, wait_until};

/// What a script prints in a view of each kind with an interface eth0.
fn both(world: &World, script: &str) -> [String; 2] {
    ["kernel", "smol"].map(|kind| {
        let view = ["--kind", kind, "--link", "eth0=none,ip=10.7.7.1/24,ip=fd07::1/64", "--"];
        world.run(view).args(["python3", "-c", script]).run().ok().stdout
    })
}

const WALK: &str = "
import os, stat
def walk(path, name):
    for entry in sorted(os.listdir(path)):
        if entry in ('power', 'queues') or entry.startswith('phys_'): continue
        here, told = path + '/' + entry, name + '/' + entry
        kind = os.lstat(here).st_mode
        assert stat.S_IFMT(os.stat(here).st_mode) != stat.S_IFLNK
        if stat.S_ISLNK(kind): print(told, '->', os.readlink(here))
        elif stat.S_ISDIR(kind): walk(here, told)
        elif 'statistics' in here: print(told, open(here).read().strip().isdigit())
        else:
            try: print(told, repr(open(here).read()))
            except OSError as error: print(told, error.errno)
";

#[test]
fn the_loopback_of_sysfs_reads_as_the_kernels() {
    let world = World::new(User::Ordinary);
    let script = format!("{WALK}
print(sorted(os.listdir('/sys/class/net')), os.readlink('/sys/class/net/lo'))
print([name for name in os.listdir('/sys/class/net') if not os.path.islink('/sys/class/net/' + name)])
walk('/sys/class/net/lo', 'lo')
walk(os.path.realpath('/sys/class/net/lo') + '/statistics', 'statistics')
for how in [os.stat, os.lstat, os.listdir, open, os.readlink]:
    try: print(how('/sys/class/net/nosuch'))
    except OSError as error: print(error.errno)
try: os.readlink('/sys/class/net/lo/mtu')
except OSError as error: print(error.errno)
for how in [os.R_OK, os.F_OK]: print(os.access('/sys/class/net/lo/mtu', how), os.access('/sys/class/net/no', how))
folder = os.open('/sys/class/net/lo', os.O_RDONLY)
print(os.read(os.open('mtu', os.O_RDONLY, dir_fd=folder), 99), open('/sys/class/net/../net/lo/type').read())
for path in ['/sys/class/net/lo/mtu', '/sys/class/net/eth0/nosuch']:
    try: open(path, 'w')
    except OSError as error: print(error.errno)
");
    let [kernel, smol] = both(&world, &script);
    assert_eq!(kernel, smol);
    assert!(smol.contains("lo/statistics/rx_bytes True") && smol.contains("lo/mtu '65536\\n'"), "{smol}");
}

/// What is not up to the driver.
#[test]
fn an_interface_of_sysfs_tells_what_it_is() {
    let world = World::new(User::Ordinary);
    let script = "import os, subprocess
def show():
    for name in ['address', 'addr_len', 'broadcast', 'carrier', 'flags', 'ifindex', 'iflink', 'mtu', 'operstate', 'type',
                 'uevent', 'dormant', 'ifalias']:
        try: told = open('/sys/class/net/eth0/' + name).read()
        except OSError as error: told = error.errno
        print(name, repr(told) if name != 'address' else len(told))
subprocess.run(['ip', 'link', 'set', 'eth0', 'up'])
show()
subprocess.run(['ip', 'link', 'set', 'eth0', 'mtu', '1400', 'down'])
show()
subprocess.run(['ip', 'link', 'add', 'cable0', 'type', 'veth', 'peer', 'name', 'cable1'])
print(sorted(os.listdir('/sys/class/net')))
subprocess.run(['ip', 'link', 'del', 'cable0'])
print(sorted(os.listdir('/sys/class/net')), os.path.exists('/sys/class/net/cable1'))
";
    let [kernel, smol] = both(&world, script);
    assert_eq!(kernel, smol);
}

/// Numbers that do not depend on when something is acknowledged or looked for.
const COUNT: &str = "
import os, socket, struct
def lines(name):
    found = {}
    rows = [line.split() for line in open('/proc/net/' + name)]
    for names, values in zip(rows[::2], rows[1::2]):
        found.update({names[0] + name: value for name, value in zip(names[1:], values[1:])})
    return found
def lines6(): return dict(line.split() for line in open('/proc/net/snmp6'))
before, before6 = lines('snmp'), lines6()
def udp(family, to):
    a, b = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    b.bind((to, 0))
    for n in range(5): a.sendto(b'x' * (1 + 3000 * n), b.getsockname())
    for n in range(5): b.recv(20000)
    gone = b.getsockname(); b.close()
    a.connect(gone)
    a.send(b'x')
    try: a.recv(1)
    # On a smol stack, AF_UNIX's word for it.
    except ConnectionError: pass
udp(socket.AF_INET, '127.0.0.1')
udp(socket.AF_INET6, '::1')
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.send(b'x'); server.recv(1)
for _ in range(3):
    try: socket.create_connection(('127.0.0.1', 1))
    except ConnectionRefusedError: pass
now = lines('snmp')
print('open:', now['Tcp:CurrEstab'])
reset = socket.create_connection(listener.getsockname()); peer, _ = listener.accept()
reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); reset.close()
try: peer.recv(1)
except ConnectionResetError: print('reset')
now, now6 = lines('snmp'), lines6()
for name in ['Udp:InDatagrams', 'Udp:NoPorts', 'Udp:OutDatagrams', 'Udp:InErrors', 'Tcp:ActiveOpens', 'Tcp:PassiveOpens',
             'Tcp:AttemptFails', 'Tcp:EstabResets', 'Tcp:InErrs', 'Tcp:OutRsts', 'Tcp:RetransSegs', 'Tcp:InCsumErrors',
             'Icmp:InMsgs', 'Icmp:OutMsgs', 'Icmp:InDestUnreachs', 'Icmp:OutDestUnreachs', 'IcmpMsg:InType3',
             'Ip:ForwDatagrams', 'Ip:InHdrErrors', 'Ip:ReasmFails']:
    print(name, int(now[name]) - int(before.get(name, 0)))
for name in ['Udp6InDatagrams', 'Udp6NoPorts', 'Udp6OutDatagrams', 'Icmp6InDestUnreachs', 'Icmp6OutDestUnreachs',
             'Icmp6InType1', 'Ip6InHdrErrors']:
    print(name, int(now6[name]) - int(before6.get(name, 0)))
assert int(now['Tcp:InSegs']) >= 10 and int(now['Ip:InReceives']) == int(now['Ip:OutTransmits']) > 20
print(sorted(now), sorted(now6))
";

#[test]
fn what_is_counted_is_what_the_kernel_counts() {
    let world = World::new(User::Ordinary);
    let [kernel, smol] = both(&world, COUNT);
    // Whatever was seen on eth0 is as it came about.
    let names = |text: &str| -> Vec<String> {
        let (rest, last) = text.trim_end().rsplit_once('\n').unwrap();
        let own = |name: &&str| {
            !name.contains("Type") && !name.contains("BcastPkts") && !name.contains("McastPkts")
        };
        let names = last.split(' ').map(|name| name.trim_matches(&['[', ']', ',', '\''][..])).filter(own);
        let known = names.filter(|name| !name.contains("ECT") && !name.contains("InCEPkts"));
        let known = known.filter(|name| !name.ends_with("castOctets"));
        rest.lines().chain(known).map(ToOwned::to_owned).collect()
    };
    assert_eq!(names(&kernel), names(&smol));
}

const TELL: &str = "
import os, re, socket, struct
group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
index = socket.if_nametoindex('eth0')
mreqn = struct.pack('4s4si', socket.inet_aton('239.1.2.3'), bytes(4), index)
group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
source = struct.pack('4s4s4s', *map(socket.inet_aton, ['239.1.2.4', '10.7.7.1', '10.7.7.9']))
group.setsockopt(socket.IPPROTO_IP, 39, source)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, 'ff15::7') + struct.pack('i', index))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
raw.bind(('eth0', 0x88b5))
all = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
for name in ['igmp', 'igmp6', 'mcfilter', 'dev_mcast', 'packet', 'ptype', 'rt_cache', 'ip6_flowlabel', 'anycast6', 'icmp', 'icmp6',
             'ipv6_route', 'raw', 'udplite', 'udplite6', 'raw6']:
    for line in sorted(open('/proc/net/' + name)):
        # Hardware addresses and what is made of them; inodes, objects, reference counts, who made a socket; who looks for routers.
        line = re.sub(r'(3333ff|1ff|fe80)[0-9a-f]{6,}', r'\\1X', line)
        if name == 'packet': line = line[17:].rsplit(None, 2)[0]
        if name == 'ipv6_route':
            words = line.split()
            if words[4] == '0' * 32 and words[0].startswith(('ff0', 'fe80', 'fd07')) and words[1] == '80': continue
            line = ' '.join(words[:6] + words[8:])
        # Another driver of the machine's.
        if name == 'ptype' and 'llc' in line: continue
        if 'ff02' + '0' * 27 + '2 ' in line or '333300000002' in line: continue
        print(name, repr(line))
print(open('/proc/net/sockstat').read().split('UDP:')[1].split()[1], open('/proc/net/sockstat6').read())
";

#[test]
fn groups_routes_and_sockets_read_as_the_kernels() {
    let world = World::new(User::Ordinary);
    let [kernel, smol] = both(&world, TELL);
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
        // Hardware addresses are anybody's guess, and so is where they come in the order.
        lines.sort();
        lines.dedup();
        lines
    };
    assert_eq!(lines(&kernel), lines(&smol));
}

#[test]
fn every_file_that_is_listed_can_be_read() {
    let world = World::new(User::Ordinary);
    let script = "import os, socket
a = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE); a.bind((0, 1))
for folder in ['/proc/net', '/proc/self/net', '/proc/thread-self/net', f'/proc/{os.getpid()}/net']:
    for name in os.listdir(folder):
        text = open(folder + '/' + name).read()
        assert text or name in ('anycast6', 'unix', 'dev_mcast'), name
print(sorted(os.listdir('/proc/net')))
print([line.split()[1] + line.split()[3] for line in open('/proc/net/netlink')][1:])
";
    let [kernel, smol] = ["kernel", "smol"].map(|kind| {
        let script =
            if kind == "kernel" { "import os; print(sorted(os.listdir('/proc/net')))" } else { script };
        world.run(["--kind", kind, "--", "python3", "-c", script]).run().ok().stdout
    });
    let (listed, netlink) = smol.split_once('\n').unwrap();
    for name in listed.split(' ') {
        assert!(kernel.contains(name.trim_matches(&['[', ']', ','][..])), "{name} is none of the kernel's");
    }
    assert_eq!(netlink.trim(), "['000000001']");
}

/// Folders named so below `path`.
fn folders(path: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".files") {
            found.push(entry.path().display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders(&entry.path(), found);
        }
    }
}

fn left(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    folders(world.folder(), &mut found);
    found
}

#[test]
fn a_stacks_folder_goes_with_it() {
    let world = World::new(User::Ordinary);
    let script = "ls /sys/class/net; echo up; read x";
    for kill in [false, true] {
        let mut view = world.alone(["--stack", "smol", "--", "bash", "-c", script]).keep_stdin().start();
        view.until("up");
        assert_eq!(left(&world).len(), 1);
        if kill {
            // Its eye may be among them: whichever goes first, the other looks after what it left.
            let supervisor = world.supervisors().into_iter().next().expect("a supervisor");
            nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
            assert!(wait_until(SOON, || left(&world).is_empty()), "{:?}", left(&world));
        }
        view.close_stdin();
        view.wait();
        assert!(wait_until(SOON, || left(&world).is_empty()), "{:?}", left(&world));
    }
}
