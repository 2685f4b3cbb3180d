//! From a file of wg-quick(8) to an interface that is plugged into a running tunnel.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::switch::client::Client;
use ipnet::IpNet;
use stacks::config::{InterfaceConfig, Link, RouteConfig, StackConfig};
use stacks::wg::serve::Start;
use stacks::wg::{Config, quick};

use super::{ask, launch};
use crate::exit::Failure;
use crate::runtime::{Runtime, check_name};
use stacks::wg::serve::{Description, Request};

/// How long a tunnel of the same file, whose view has just ended, may take to end as well.
const TRIES: u32 = 20;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// The name of a tunnel whose file's name is none.
const NAMELESS: &str = "wg";

/// Starts the tunnels that the configuration names by their files, and completes their interfaces. They stay while the
/// connections last, or a stack is plugged in.
pub(crate) fn hold(runtime: &Runtime, config: &mut StackConfig) -> Result<Vec<Client>, Failure> {
    hold_as(runtime, config, None)
}

/// As [`hold`]; the first tunnel has this name.
pub(crate) fn hold_as(
    runtime: &Runtime,
    config: &mut StackConfig,
    mut name: Option<&str>,
) -> Result<Vec<Client>, Failure> {
    let mut held = Vec::new();
    for interface in &mut config.interfaces {
        let Link::Wg { path } = &interface.link else { continue };
        let path = PathBuf::from(path);
        let reach =
            |path: &Path| Client::connect(path).map_err(|e| Failure::io("cannot reach the tunnel", &e));
        if path.metadata().is_ok_and(|meta| meta.file_type().is_socket()) {
            held.push(reach(&path)?);
            continue;
        }
        let name = name.take().map_or_else(|| stem(&path), str::to_owned);
        let (socket, start) = start(runtime, &path, &name)?;
        // From here on it has a connection, with the last of which it ends.
        held.push(reach(&socket)?);
        let description: Description = ask(&socket, &Request::Show)?;
        let routes = complete(interface, &start.config, &description);
        interface.link = Link::Wg { path: socket.to_string_lossy().into_owned() };
        config.routes.extend(routes);
    }
    Ok(held)
}

/// The file's name as a name for the tunnel.
pub(super) fn stem(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if check_name("tunnel", stem).is_ok() { stem.to_owned() } else { NAMELESS.to_owned() }
}

fn start(runtime: &Runtime, file: &Path, name: &str) -> Result<(PathBuf, Start), Failure> {
    let shown = file.display().to_string();
    let text = read(file)?;
    let config = Config::parse(&text).map_err(|e| Failure::from(e.refusal(&shown)))?;
    warn(file, &config);
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string();
    let start = Start { file, config };
    let socket = runtime.tunnels().join(name);
    let mut tried = 0;
    loop {
        match launch::launch(&socket, &start) {
            Ok(notes) => {
                notes.iter().for_each(|note| eprintln!("viewnet: warning: {note}"));
                return Ok((socket, start));
            }
            Err(failure) if failure.refusal.errno == Some(libc::EADDRINUSE) && tried < TRIES => {
                tried += 1;
                std::thread::sleep(PAUSE);
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let failed = |why: std::io::Error| {
        Failure::new(format!("cannot read {}", file.display()), why)
            .hint("give the path of a file of wg-quick(8), or of a running tunnel's socket")
    };
    let mut text = String::new();
    // One byte more, by which a file that is too long is seen.
    let limit = quick::MAX_FILE as u64 + 1;
    std::fs::File::open(file).and_then(|open| open.take(limit).read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

/// What wg-quick warns of, and what we cannot do.
fn warn(file: &Path, config: &Config) {
    let mode = |path: &Path| path.metadata().map_or(0, |meta| meta.permissions().mode());
    let folder =
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if mode(file) & mode(folder) & 0o007 != 0 {
        eprintln!("viewnet: warning: `{}' is world accessible", file.display());
    }
    if !config.search.is_empty() {
        eprintln!(
            "viewnet: warning: search domains ({}) are not set: programs read the machine's /etc/resolv.conf",
            config.search.join(", ")
        );
    }
}

/// Gives the interface what the file says, unless it has more to say itself; the answer are its routes.
fn complete(interface: &mut InterfaceConfig, config: &Config, tunnel: &Description) -> Vec<RouteConfig> {
    for net in &config.addresses {
        if !interface.ip.contains(net) {
            interface.ip.push(*net);
        }
    }
    interface.mtu.get_or_insert(tunnel.mtu);
    let has = |v4: bool| interface.ip.iter().any(|net| net.addr().is_ipv4() == v4);
    let own: Vec<IpNet> = interface.ip.iter().map(IpNet::trunc).collect();
    let servers = tunnel.stands_for.iter().map(|server| IpNet::from(*server));
    let allowed = config.destinations().into_iter().filter(|_| config.routes);
    let mut all: Vec<IpNet> = Vec::new();
    for to in servers.chain(allowed) {
        // Without an address of the family nothing could be sent there; an address' own network is routed already.
        if has(to.addr().is_ipv4()) && !own.contains(&to) && !all.contains(&to) {
            all.push(to);
        }
    }
    let dev = Some(interface.name.clone());
    all.into_iter().map(|to| RouteConfig { to, via: None, dev: dev.clone(), metric: None }).collect()
}
