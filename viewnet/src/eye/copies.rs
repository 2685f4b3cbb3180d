//! Where a program holds a socket: the numbers of its descriptors, and the epoll sets that it is in
//! (proc_pid_fd(5), and proc_pid_fdinfo(5) for what stands in an epoll set).

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Most descriptors, and most places in epoll sets, of one socket: a program has one or two of each.
const MAX_COPIES: usize = 512;

/// Where a program holds a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copies {
    /// Numbers of descriptors, and whether each is close-on-exec.
    pub(crate) numbers: Vec<(i32, bool)>,
    /// Places in epoll sets.
    pub(crate) watches: Vec<Watch>,
}

/// A place in an epoll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// The descriptor of the set.
    pub(crate) epoll: i32,
    /// The number that the socket was added under.
    pub(crate) number: i32,
    /// EPOLL* with its flags.
    pub(crate) events: u32,
    /// The program's own word for it.
    pub(crate) data: u64,
}

/// Looks for the socket that thread `tid` has as `fd`.
pub(super) fn copies(tid: i32, fd: i32) -> Result<Copies, Errno> {
    let folder = format!("/proc/{tid}/fd");
    let socket = fs::metadata(format!("{folder}/{fd}")).map_err(|_| Errno::EBADF)?;
    let mut copies = Copies::default();
    for entry in fs::read_dir(&folder).map_err(|_| Errno::ESRCH)?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let link = link.to_str().unwrap_or_default();
        let info = || fs::read_to_string(format!("/proc/{tid}/fdinfo/{number}")).unwrap_or_default();
        if link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'))
            == Some(&socket.ino().to_string())
        {
            copies.numbers.push((number, is_cloexec(&info())));
        } else if link == "anon_inode:[eventpoll]" {
            let key = (socket.ino(), socket.dev());
            copies.watches.extend(info().lines().filter_map(|line| watch(line, number, key)));
        }
        if copies.numbers.len().max(copies.watches.len()) > MAX_COPIES {
            return Err(Errno::ENOBUFS);
        }
    }
    Ok(copies)
}

/// The `flags` line: octal, with O_CLOEXEC.
fn is_cloexec(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// `tfd:        5 events:       1d data:          5  pos:0 ino:61af sdev:7`, if it is of the file with this inode and device.
fn watch(line: &str, epoll: i32, (inode, device): (u64, u64)) -> Option<Watch> {
    let spaced = line.replace(':', " ");
    let mut words = spaced.split_whitespace();
    let mut after = |name: &str| words.by_ref().find(|word| *word == name).and_then(|_| words.next());
    let number = after("tfd")?.parse().ok()?;
    let events = u32::from_str_radix(after("events")?, 16).ok()?;
    let data = u64::from_str_radix(after("data")?, 16).ok()?;
    let ours = u64::from_str_radix(after("ino")?, 16) == Ok(inode)
        && u64::from_str_radix(after("sdev")?, 16) == Ok(device);
    ours.then_some(Watch { epoll, number, events, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_is_found_wherever_it_is() {
        let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let copy = socket.try_clone().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&copy, EpollEvent::new(flags, u64::MAX - 1)).unwrap();
        epoll.add(&other, EpollEvent::new(flags, 3)).unwrap();
        let tid = nix::unistd::gettid().as_raw();
        let mut found = copies(tid, socket.as_raw_fd()).unwrap();
        found.numbers.sort_unstable();
        let mut numbers = vec![(socket.as_raw_fd(), true), (copy.as_raw_fd(), true)];
        numbers.sort_unstable();
        assert_eq!(found.numbers, numbers);
        let [watch] = found.watches[..] else { panic!("{found:?}") };
        assert_eq!(
            (watch.epoll, watch.number, watch.data),
            (epoll.0.as_raw_fd(), copy.as_raw_fd(), u64::MAX - 1)
        );
        // The kernel adds EPOLLERR and EPOLLHUP.
        assert_eq!(watch.events & flags.bits() as u32, flags.bits() as u32);
    }
}
