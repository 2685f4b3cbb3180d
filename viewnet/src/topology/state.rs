//! What a topology has made, on disk: `topologies/NAME/state.json` in the runtime folder.
//!
//! # Theory of operation
//! An entry is written before its thing is made, without an identity, and again with it afterwards; it goes after the
//! thing has gone. So a crash leaves at most an entry whose thing is not there. The identity is that of the thing's
//! socket file (inode and time of birth): a switch that somebody ended and started again by hand has another one,
//! and is not ours. Files are replaced by rename(2), so that a reader finds the old one or the new one.
//!
//! Whoever changes a topology holds the lock on the folder of all topologies ([`Folder::lock`]), so that two of
//! them do not take the same name. A topology is gone when its folder is.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::schema::{Gateway, Stack, Switch};
use crate::exit::Failure;
use crate::runtime::Runtime;

/// Of the file's form; another one is not touched.
const VERSION: u32 = 1;

/// What a topology has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    /// The file it was made from.
    pub(crate) file: PathBuf,
    /// Switches, with the ports that were added.
    #[serde(default)]
    pub(crate) switches: BTreeMap<String, Made<Switch>>,
    /// Gateways, by their switches.
    #[serde(default)]
    pub(crate) gateways: BTreeMap<String, Made<Gateway>>,
    /// Stacks.
    #[serde(default)]
    pub(crate) stacks: BTreeMap<String, Made<Stack>>,
}

/// Something that was made, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made<T> {
    /// Absent while it is being made.
    pub(crate) id: Option<Identity>,
    /// As it was made.
    pub(crate) config: T,
}

/// Which file a path named when we looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not know.
    born: u64,
}

impl Identity {
    /// Of the file at `path`, if there is one.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Some(Self { inode: meta.ino(), born: born.map_or(0, |since| since.as_nanos() as u64) })
    }
}

impl<T> Made<T> {
    /// Is the file at `path` that of this thing?
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        match (self.id, Identity::of(path)) {
            (_, None) => false,
            // Nobody had the name when the entry was written: what is there now came of it.
            (None, Some(_)) => true,
            (Some(id), Some(found)) => id == found,
        }
    }
}

impl State {
    /// Nothing made yet.
    pub(crate) fn new(file: &Path) -> Self {
        Self {
            version: VERSION,
            file: file.to_owned(),
            switches: BTreeMap::new(),
            gateways: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }
}

/// The folder of one topology.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// As long as it lives nobody else changes a topology.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Folder {
    /// That of the topology `name`; it need not be there.
    pub(crate) fn of(runtime: &Runtime, name: &str) -> Self {
        Self { path: runtime.topologies().join(name) }
    }

    /// The topologies there are, by name.
    pub(crate) fn all(runtime: &Runtime) -> Vec<(String, Self)> {
        let entries = fs::read_dir(runtime.topologies()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| stacks::serve::is_name(name)).collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), Self::of(runtime, &name))).collect()
    }

    /// Waits until nobody else changes a topology.
    pub(crate) fn lock(runtime: &Runtime) -> Result<Lock, Failure> {
        let folder = runtime.topologies();
        let failed = |e: io::Error| Failure::io(format!("cannot lock {}", folder.display()), &e);
        let file = File::open(&folder).map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive).map(Lock).map_err(|(_, errno)| failed(errno.into()))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The runner's socket.
    pub(crate) fn runner(&self) -> PathBuf {
        self.path.join("runner")
    }

    /// Where a program's output is kept.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.path.join(format!("{program}.log"))
    }

    /// What it has made; `None` if there is no such topology.
    pub(crate) fn load(&self) -> Result<Option<State>, Failure> {
        let path = self.path.join(STATE);
        let what = || format!("cannot read {}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::io(what(), &e)),
        };
        let hint = "use the viewnet that wrote it, or remove the file once its switches and stacks are gone";
        let state: State = serde_json::from_str(&text).map_err(|e| Failure::new(what(), e).hint(hint))?;
        if state.version != VERSION {
            return Err(Failure::new(what(), format!("it is of version {}", state.version)).hint(hint));
        }
        Ok(Some(state))
    }

    /// Keeps what it has made.
    pub(crate) fn save(&self, state: &State) -> Result<(), Failure> {
        let path = self.path.join(STATE);
        self.write(state, &path).map_err(|e| Failure::io(format!("cannot write {}", path.display()), &e))
    }

    fn write(&self, state: &State, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let new = self.path.join(".state.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }

    /// Forgets it, with the output of its programs.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        // First what makes it a topology: a crash in between leaves nothing that counts.
        for result in [fs::remove_file(self.path.join(STATE)), fs::remove_dir_all(&self.path)] {
            match result {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::io(format!("cannot remove {}", self.path.display()), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

const STATE: &str = "state.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_made_again_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "").unwrap();
        let made = Made { id: Identity::of(&path), config: () };
        assert!(made.is_at(&path));
        fs::remove_file(&path).unwrap();
        assert!(!made.is_at(&path));
        fs::write(folder.path().join("t"), "").unwrap();
        fs::write(&path, "").unwrap();
        assert!(!made.is_at(&path));
        assert!(Made { id: None, config: () }.is_at(&path));
    }

    #[test]
    fn state_survives_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder { path: root.path().join("lab") };
        assert!(folder.load().unwrap().is_none());
        let mut state = State::new(Path::new("/x.toml"));
        state.switches.insert("lan".into(), Made { id: None, config: Switch::default() });
        folder.save(&state).unwrap();
        assert_eq!(folder.load().unwrap(), Some(state));
        folder.remove().unwrap();
        assert!(folder.load().unwrap().is_none() && !folder.path().exists());
        folder.remove().unwrap();
    }
}
