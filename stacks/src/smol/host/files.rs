//! The files about a stack's network, as descriptors for programs.
//!
//! # Theory of operation
//! A file is a piece of memory with what it says now. A folder has to be one, for programs list it: a stack has a
//! folder beside its socket ([`msocket_proto::line::companion`]), made when somebody first asks for one, with all
//! that /proc/net and /sys/class/net have, and brought up to date whenever somebody asks again. It goes with the
//! stack, and with the socket's file whoever removes that.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use msocket_proto::proto::{File, FilePlace, FileUse};
use nix::errno::Errno;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat, openat2};

use super::super::netlink::sys::Node;
use super::super::pump::unix;

/// Most files of a stack's folder: those of some five hundred interfaces.
const MAX_FILES: usize = 1 << 15;
/// How often a path is walked while something in the folder changes (openat2(2)).
const ATTEMPTS: usize = 64;

/// Where a stack's folder is, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Files {
    place: Option<PathBuf>,
    tree: Option<Tree>,
}

#[derive(Debug)]
struct Tree {
    path: PathBuf,
    root: OwnedFd,
    nodes: BTreeMap<String, Node>,
}

/// What needs no folder.
pub(super) fn text(node: &Node, how: FileUse) -> Option<Result<OwnedFd, Errno>> {
    match node {
        Node::Text(text) => Some(unix::text_file(text)),
        Node::Unknown if how == FileUse::Read => Some(Err(Errno::EINVAL)),
        Node::Unknown => Some(unix::text_file("")),
        Node::Folder | Node::Link(_) => None,
    }
}

impl Files {
    /// The folder may be made there; or not any more, and what there was goes.
    pub(super) fn set_place(&mut self, place: Option<PathBuf>) {
        *self = Self { place, tree: None };
    }

    /// Opens what is in the folder, which shall have `nodes`: folders before what is in them.
    pub(super) fn open(&mut self, file: &File, nodes: Vec<(String, Node)>) -> Result<OwnedFd, Errno> {
        let place = self.place.as_deref().filter(|_| nodes.len() <= MAX_FILES).ok_or(Errno::EOPNOTSUPP)?;
        let tree = match &mut self.tree {
            Some(tree) => tree,
            // Where none can be made, the program sees the machine's.
            none => none.insert(Tree::new(place).map_err(|_| Errno::EOPNOTSUPP)?),
        };
        tree.update(nodes.into_iter().collect()).map_err(|_| Errno::EOPNOTSUPP)?;
        tree.open(file)
    }
}

impl Tree {
    fn new(path: &Path) -> Result<Self, Errno> {
        // Left by one that was killed together with whoever looked after it.
        let _ = std::fs::remove_dir_all(path);
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).map_err(unix::errno)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(unix::errno)?;
        Ok(Self { path: path.to_owned(), root, nodes: BTreeMap::new() })
    }

    /// Makes what is there what shall be there.
    fn update(&mut self, nodes: BTreeMap<String, Node>) -> Result<(), Errno> {
        let differs = |(name, node): &(&String, &Node)| nodes.get(*name) != Some(*node);
        let stale: Vec<_> = self.nodes.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        // What is in a folder comes behind it.
        for name in stale.iter().rev() {
            let Some(node) = self.nodes.remove(name) else { continue };
            // A file that says something else now stays the same file.
            let stays = |now: &Node| matches!((&node, now), (Node::Text(_), Node::Text(_)));
            if !nodes.get(name).is_some_and(stays) {
                let flags = if node == Node::Folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(&self.root, name.as_str(), flags).map_err(unix::errno)?;
            }
        }
        for (name, node) in nodes {
            if !self.nodes.contains_key(&name) {
                self.make(&name, &node)?;
                self.nodes.insert(name, node);
            }
        }
        Ok(())
    }

    fn make(&self, name: &str, node: &Node) -> Result<(), Errno> {
        let text = match node {
            Node::Folder => {
                let mode = Mode::from_raw_mode(0o755);
                return rustix::fs::mkdirat(&self.root, name, mode).map_err(unix::errno);
            }
            Node::Link(to) => {
                return rustix::fs::symlinkat(to.as_str(), &self.root, name).map_err(unix::errno);
            }
            Node::Text(text) => text.as_bytes(),
            Node::Unknown => &[],
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.root, name, flags, Mode::from_raw_mode(0o644)).map_err(unix::errno)?;
        if rustix::io::write(&file, text).map_err(unix::errno)? == text.len() {
            Ok(())
        } else {
            Err(Errno::ENOSPC)
        }
    }

    fn open(&self, file: &File) -> Result<OwnedFd, Errno> {
        let (place, folder) = match file.place {
            FilePlace::Proc => ("proc", ""),
            FilePlace::Sys => ("sys", "class/net"),
        };
        let path = format!("./{folder}/{}", file.path);
        let flags = OFlags::CLOEXEC
            | match file.how {
                FileUse::Read => OFlags::RDONLY | OFlags::NONBLOCK,
                FileUse::Look => OFlags::PATH,
                FileUse::Link => OFlags::PATH | OFlags::NOFOLLOW,
            };
        let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = openat(&self.root, place, at, Mode::empty()).map_err(unix::errno)?;
        let open = || openat2(&place, path.as_str(), flags, Mode::empty(), ResolveFlags::BENEATH);
        let again = |result: &Result<_, _>| matches!(result, Err(rustix::io::Errno::AGAIN));
        let last = || Err(rustix::io::Errno::AGAIN);
        (0..ATTEMPTS).map(|_| open()).find(|result| !again(result)).unwrap_or_else(last).map_err(unix::errno)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
