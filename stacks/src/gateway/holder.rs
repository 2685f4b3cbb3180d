//! Which process has a port of the host, as far as the gateway's user may know.
//!
//! The kernel's lists (proc_net(5)) have the inode of the socket, and proc_pid_fd(5) says whose it is. It is looked for only
//! once a port was refused.

use std::net::SocketAddr;
use std::path::Path;

use super::publish::{Transport, sockets};

/// Processes that are looked at: more are not, as nobody waits for them.
const MAX_PROCESSES: usize = 16_384;

/// `python3 (process 4711)`, if it can be known.
pub(super) fn of(transport: Transport, listen: SocketAddr) -> Option<String> {
    let meets = |local: SocketAddr| {
        let (a, b) = (local.ip(), listen.ip());
        local.port() == listen.port() && (a == b || a.is_unspecified() || b.is_unspecified())
    };
    let lists = ["", "6"].map(|family| format!("/proc/net/{transport}{family}"));
    let inode = lists.iter().find_map(|list| {
        let text = std::fs::read_to_string(list).ok()?;
        let wanted = |listens: bool| listens || transport == Transport::Udp;
        sockets(&text).find(|socket| wanted(socket.listens) && meets(socket.local)).map(|it| it.inode)
    })?;
    let name = format!("socket:[{inode}]");
    let process = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .take(MAX_PROCESSES)
        .find(|entry| has(&entry.path(), &name))?;
    let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    Some(format!("{} (process {})", command.trim_end(), process.file_name().display()))
}

fn has(process: &Path, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket))
}
