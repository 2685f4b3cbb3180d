//! VDE's own programs on a served switch: Debian's vde_plug2tap, dpipe, vde_plug, wirefilter, vdens, and QEMU.

mod common;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Namespace, Served, access, any_port, eventually, has_tap, isolated, transfer};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use switch::client::{Attach, Client, Kind, PortInfo, Request, Settings};
use switch::control::Vde;
use switch::ports::vde::plug;
use switch::vde::Wanted;
use switch::vlan::{PortVlans, Vid};

const LEN: usize = 8 << 20;

/// A program, and its process group, that ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .process_group(0)
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}")),
        )
    }

    /// In a namespace, with a terminal's end that never says anything.
    fn within(ns: &Namespace, program: &'static str, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        // It ends with its namespace's thread, whatever happens to the test.
        ns.run(move || Self::start(Command::new("setpriv").args(["--pdeathsig", "KILL", program]).args(args)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With what it started.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Debian's vde_switch at this folder.
fn debians(folder: &Path) -> Running {
    let running = Running::start(Command::new("vde_switch").arg("-s").arg(folder));
    eventually("the vde_switch", || folder.join("ctl").exists());
    running
}

/// A served switch with its folder for VDE's programs.
fn vde_switch(served: &Served) -> PathBuf {
    let folder = served.dir.path().join("vde");
    set_vde(&mut served.client(), &Vde::at(&folder));
    folder
}

fn set_vde(client: &mut Client, vde: &Vde) {
    client.call::<()>(&Request::Set(Settings { vde: Some(vde.clone()), ..Settings::default() })).unwrap();
}

fn ports(served: &Served) -> Vec<PortInfo> {
    served.client().ports().unwrap()
}

fn names(served: &Served) -> Vec<String> {
    ports(served).into_iter().map(|port| port.name).collect()
}

/// A namespace with `vde_plug2tap` on a TAP of its own.
fn plug2tap(folder: &Path, address: &str) -> (Namespace, Running) {
    let ns = Namespace::new();
    ns.sh("ip tuntap add dev t0 mode tap");
    let running = Running::within(&ns, "vde_plug2tap", &["-s", folder.to_str().unwrap(), "t0"]);
    ns.configure("t0", &[address]);
    (ns, running)
}

#[test]
fn two_taps_of_vde_plug2tap() {
    isolated("two_taps_of_vde_plug2tap", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let folder = vde_switch(&served);
        let (a, _one) = plug2tap(&folder, "10.0.0.1/24");
        let (b, two) = plug2tap(&folder, "10.0.0.2/24");
        eventually("two ports", || names(&served) == ["vde1", "vde2"]);
        assert!(a.ping("10.0.0.2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        let list = ports(&served);
        assert!(
            list.iter().all(|port| port.kind == Kind::Vde && port.peer.contains("vde_plug2tap")),
            "{list:?}"
        );
        let sockets = || std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(sockets(), 3, "ctl, and a socket a port");
        drop(two);
        eventually("a port goes with its program", || names(&served) == ["vde1"]);
        assert_eq!(sockets(), 2);
    });
}

/// A namespace whose kernel is a port of its own, in a VLAN.
fn station(served: &Served, vid: u16, address: &str) -> (Namespace, switch::client::Attached) {
    let ns = Namespace::new();
    let (fd, kind) = any_port(&ns);
    let attached = served.client().attach(fd, &access(kind, vid)).unwrap();
    ns.configure("eth0", &[address]);
    (ns, attached)
}

/// Moves a port to a VLAN.
fn move_to(served: &Served, port: &str, vid: u16) {
    let vlans = Some(PortVlans::Access { vid: Vid::new(vid).unwrap() });
    let request = Request::PortSet { port: port.into(), vlans, rename: None, peers: None };
    served.client().call::<()>(&request).unwrap();
}

#[test]
fn dpipe_and_wirefilter_between_two_ports() {
    isolated("dpipe_and_wirefilter_between_two_ports", || {
        let served = Served::new(None);
        let folder = vde_switch(&served);
        let (a, _one) = station(&served, 10, "10.0.0.1/24");
        let _two = station(&served, 20, "10.0.0.2/24");
        let plug = folder.to_str().unwrap();
        let both = format!("{plug}:{plug}");
        for (program, args) in [
            ("dpipe", vec!["vde_plug", plug, "=", "vde_plug", plug]),
            ("dpipe", vec!["vde_plug", plug, "=", "wirefilter", "=", "vde_plug", plug]),
            ("wirefilter", vec!["-v", &both]),
        ] {
            let running = Running::within(&a, program, &args);
            eventually("both ends", || names(&served).len() == 4);
            move_to(&served, "vde3", 10);
            move_to(&served, "vde4", 20);
            assert!(a.ping("10.0.0.2"), "{program} {args:?}");
            a.sh("ip neigh flush dev eth0");
            drop(running);
            eventually("both ends go", || names(&served).len() == 2);
        }
    });
}

#[test]
fn vdens_is_a_station() {
    isolated("vdens_is_a_station", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let folder = vde_switch(&served);
        let (a, _one) = station(&served, 1, "10.0.0.1/24");
        let script = "ip addr add 10.0.0.2/24 dev vde0 && ip link set vde0 up && exec sleep 60";
        let url = format!("vde://{}", folder.display());
        let _vdens = Running::within(&a, "vdens", &[&url, "sh", "-c", script]);
        eventually("its port", || names(&served).contains(&"vde2".into()));
        eventually("an answer", || a.ping("10.0.0.2"));
    });
}

/// QEMU without a machine: a hub of two network back ends.
fn qemu_hub(ns: &Namespace, one: &str, other: &str) -> Running {
    let (one, other) = (format!("{one},id=a"), format!("{other},id=b"));
    let hub = ["hubport,id=ha,hubid=0,netdev=a", "hubport,id=hb,hubid=0,netdev=b"];
    let mut args = vec!["-M", "none", "-display", "none", "-monitor", "none", "-serial", "none"];
    [&*one, &*other, hub[0], hub[1]].iter().for_each(|netdev| args.extend(["-netdev", netdev]));
    Running::within(ns, "qemu-system-x86_64", &args)
}

#[test]
fn qemu_plugs_in() {
    isolated("qemu_plugs_in", || {
        let served = Served::new(None);
        let folder = vde_switch(&served);
        let (a, _one) = station(&served, 10, "10.0.0.1/24");
        let (b, _two) = station(&served, 20, "10.0.0.2/24");
        let vde = |port| format!("vde,sock={},port={port}", folder.display());
        let _qemu = qemu_hub(&a, &vde(5), &vde(7));
        eventually("both ends", || names(&served).len() == 4);
        assert!(names(&served).contains(&"vde5".into()), "{:?}", names(&served));
        move_to(&served, "vde5", 10);
        move_to(&served, "vde7", 20);
        assert!(a.ping("10.0.0.2"));
        transfer(&a, &b, "10.0.0.2", LEN / 8);
    });
}

/// A frame between two stations, by their last octets; 0xFF is everybody.
fn frame(to: u8, from: u8) -> Vec<u8> {
    let to = if to == 0xFF { [0xFF; 6] } else { [2, 0, 0, 0, 0, to] };
    [&to[..], &[2, 0, 0, 0, 0, from], &[0x88, 0xB5], &[from; 50]].concat()
}

/// A program's end of a plug, that waits for frames.
struct Station(UnixDatagram, #[expect(dead_code, reason = "the port lives as long")] std::os::fd::OwnedFd);

impl Station {
    fn at(folder: &Path, wanted: Wanted) -> std::io::Result<Self> {
        let [data, control] = plug(folder, wanted, "station")?;
        let data = UnixDatagram::from(data);
        data.set_nonblocking(false)?;
        Ok(Self(data, control))
    }

    fn say(&self, frame: &[u8]) {
        self.0.send(frame).unwrap();
    }

    /// Who sent the next frame, if one comes in time.
    fn hears(&self, patience_ms: u64) -> Option<u8> {
        self.0.set_read_timeout(Some(Duration::from_millis(patience_ms))).unwrap();
        let mut bytes = [0; 2000];
        self.0.recv(&mut bytes).ok().map(|_| bytes[11])
    }
}

/// Several programs on port 3, and one elsewhere: what a vde_switch does, and we.
fn share_a_port(folder: &Path) {
    const SOON: u64 = 30_000;
    const NEVER: u64 = 100;
    let at = |wanted| Station::at(folder, wanted).unwrap();
    let (one, two, far) = (at(Wanted::Number(3)), at(Wanted::Number(3)), at(Wanted::Any));
    far.say(&frame(0xFF, 9));
    assert_eq!((one.hears(SOON), two.hears(SOON)), (Some(9), Some(9)), "both get what is for all");
    one.say(&frame(0xFF, 1));
    assert_eq!((far.hears(SOON), two.hears(NEVER)), (Some(1), None), "nothing between those of a port");
    far.say(&frame(1, 9));
    assert_eq!((one.hears(SOON), two.hears(SOON)), (Some(9), Some(9)), "both get what is for one");
    two.say(&frame(9, 2));
    assert_eq!(far.hears(SOON), Some(2));
    two.say(&frame(1, 2));
    assert_eq!((one.hears(NEVER), far.hears(NEVER)), (None, None), "it is of that port already");
    let three = at(Wanted::Number(3));
    drop(one);
    far.say(&frame(2, 9));
    assert_eq!((two.hears(SOON), three.hears(SOON)), (Some(9), Some(9)), "the others stay");
    drop(three);
    far.say(&frame(2, 9));
    assert_eq!(two.hears(SOON), Some(9));
    two.say(&frame(0xFF, 2));
    assert_eq!(far.hears(SOON), Some(2));
}

#[test]
fn several_programs_share_a_port() {
    let served = Served::new(None);
    let sock = served.dir.path().join("theirs");
    let _theirs = debians(&sock);
    share_a_port(&sock);
    let folder = vde_switch(&served);
    share_a_port(&folder);
    eventually("ports go with their last program", || names(&served).is_empty());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "and their sockets, too");
}

/// Bursts to a slow program do not keep others of its port waiting, and nothing is lost at those that read.
#[test]
fn one_that_does_not_read_is_no_harm() {
    const FRAMES: usize = 3000;
    let served = Served::new(None);
    let folder = vde_switch(&served);
    let at = |wanted| Station::at(&folder, wanted).unwrap();
    let (deaf, hears, far) = (at(Wanted::Number(3)), at(Wanted::Number(3)), at(Wanted::Any));
    for n in 0..FRAMES {
        far.say(&frame(0xFF, 9));
        assert_eq!(hears.hears(5000), Some(9), "frame {n}");
    }
    let port = || ports(&served).into_iter().find(|port| port.name == "vde3").unwrap();
    assert_eq!(port().tx_frames, FRAMES as u64);
    drop(deaf);
    far.say(&frame(0xFF, 9));
    assert_eq!(hears.hears(5000), Some(9));
    assert_eq!(names(&served).len(), 2);
}

#[test]
fn numbers_are_ports() {
    let served = Served::new(None);
    let folder = vde_switch(&served);
    let third = plug(&folder, Wanted::Number(3), "third").unwrap();
    let any = plug(&folder, Wanted::Any, "any\nbody").unwrap();
    assert_eq!(names(&served), ["vde1", "vde3"]);
    assert_eq!(ports(&served)[0].peer, "anybody");
    assert!(plug(&folder, Wanted::Number(9000), "beyond").is_err());
    drop(third);
    eventually("it is free again", || names(&served) == ["vde1"]);
    let _third = plug(&folder, Wanted::Number(3), "third").unwrap();
    // The folder closes; what was plugged in stays.
    set_vde(&mut served.client(), &Vde { path: None, ..Vde::at("/") });
    assert_eq!(plug(&folder, Wanted::Any, "late").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(names(&served).len(), 2);
    drop(any);
    eventually("it goes", || names(&served) == ["vde3"]);
}

#[test]
fn the_folder_is_what_a_vde_switch_makes() {
    let mut served = Served::new(None);
    let folder = served.dir.path().join("vde");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let mut client = served.client();
    for (given, folders) in [(0o600, 0o2700), (0o660, 0o2770), (0o666, 0o2777)] {
        set_vde(&mut client, &Vde { mode: given, ..Vde::at(&folder) });
        assert!(folder.join("ctl").metadata().unwrap().file_type().is_socket());
        assert_eq!((mode(&folder.join("ctl")), mode(&folder)), (given, folders));
    }
    assert_eq!(client.show().unwrap().vde.as_deref(), Some(&*folder));
    // A folder of somebody's files is not taken over, nor one that another switch serves.
    std::fs::write(served.dir.path().join("letter"), "dear").unwrap();
    let elsewhere = |path: &Path| Request::Set(Settings { vde: Some(Vde::at(path)), ..Settings::default() });
    let e = client.call::<()>(&elsewhere(served.dir.path())).unwrap_err();
    assert!(e.to_string().contains("other things"), "{e}");
    let other = Served::new(None);
    let e = other.client().call::<()>(&elsewhere(&folder)).unwrap_err();
    assert!(e.to_string().contains("another switch"), "{e}");
    assert!(plug(&folder, Wanted::Any, "still there").is_ok());
    // What a dead switch left behind is.
    client.down().unwrap();
    drop(client);
    served.join();
    assert!(!folder.exists());
    std::fs::create_dir(&folder).unwrap();
    for name in ["ctl", "001.7", ".00123-00000"] {
        drop(std::os::unix::net::UnixListener::bind(folder.join(name)).unwrap());
    }
    set_vde(&mut other.client(), &Vde::at(&folder));
    assert!(plug(&folder, Wanted::Any, "new").is_ok());
    assert!(!folder.join("001.7").exists());
}

#[test]
fn hostile_clients_cost_nothing() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    let served = Served::new(None);
    let folder = vde_switch(&served);
    let connect = || UnixStream::connect(folder.join("ctl")).unwrap();
    // Silent ones, past the limit, and then rubbish, half a request, and requests with sockets that are none.
    let silent: Vec<UnixStream> = (0..200).map(|_| connect()).collect();
    let request = |socket: &[u8]| {
        let request =
            switch::vde::Request { port: Wanted::Any, socket: socket.to_vec(), description: "x".into() };
        request.to_bytes()
    };
    for bytes in
        [vec![0; 300], request(b""), request(b"/dev/null"), request(b"/nowhere"), request(b"\0nobody")]
    {
        let mut stream = connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
    }
    let mut half = connect();
    half.write_all(&request(b"/tmp/x")[..50]).unwrap();
    assert!(plug(&folder, Wanted::Any, "honest").is_ok());
    eventually("no port is left", || names(&served).is_empty());
    drop((silent, half));
}

#[test]
fn a_switch_plugs_into_a_vde_switch() {
    isolated("a_switch_plugs_into_a_vde_switch", || {
        if !has_tap() {
            return;
        }
        let served = Served::new(None);
        let sock = served.dir.path().join("theirs");
        let (a, _one) = station(&served, 1, "10.0.0.1/24");
        let theirs = debians(&sock);
        let fds = plug(&sock, Wanted::Any, "ours").unwrap();
        let attach = Attach { name: Some("up".into()), linger: true, ..Attach::new(Kind::Vde) };
        served.client().add_port_of(&fds, &attach).unwrap();
        drop(fds);
        let (b, _two) = plug2tap(&sock, "10.0.0.2/24");
        assert!(a.ping("10.0.0.2"));
        transfer(&a, &b, "10.0.0.2", LEN);
        transfer(&b, &a, "10.0.0.1", LEN);
        drop(theirs);
        eventually("the port goes with the vde_switch", || !names(&served).contains(&"up".into()));
    });
}
