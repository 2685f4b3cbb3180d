//! msocket() in a view: sockets of other stacks than the view's, and the default stack of a process.
//!
//! # Theory of operation
//! msocket() is one trapped call, socket(2) with a family that no kernel has (`AF_MSOCKET` of `msocket_proto`). The
//! stack that it names is joined once, kept, and forgotten when it has gone. What a program may have by a path is
//! what it could have of the path itself, whose file it sees inside of the view as well: the stack's owner decides,
//! by the file's mode. As it is we who join, only our own user may ask, and nobody gets the machine's network. Who
//! asks is looked up anew for each path and each raw socket; for a stack's number what was seen within
//! [`crate::eye::BELIEF`] is enough.
//!
//! A default stack is a view inside the view: its root is the process that set it, its sockets those of the view
//! around it but for the families that were given a stack. So it is inherited as nested views are.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use msocket_proto::line::{MAX_PATH, Refusal};
use msocket_proto::proto::{AF_MSOCKET, SOCK_DEFAULT, SOCK_NUMBER};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stacks::kernel::SetUpError;
use stacks::serve::User;
use stacks::stack::{Kind, SocketSpec};

use super::{MAX_VIEWS, MEMBERS, Supervisor};
use crate::answer::{Answer, Reply, Stop};
use crate::handlers::{Caller, refusal};
use crate::sys::seccomp::Notification;
use crate::target::Target;
use crate::views::{Asker, At, Known, Source, View};

/// Most stacks that are joined for msocket(): each is a connection, and an engine's buffers at its other end.
const MAX_STACKS: usize = 64;
/// Memberships of these stacks have the numbers from here on; those of views are below.
pub(super) const STACKS: u64 = 1 << 40;
/// What the machine's own network is called.
const HOST: &[u8] = b"host";

/// The paths of the stacks that were joined for msocket().
#[derive(Debug, Default)]
pub(super) struct Stacks {
    by_path: BTreeMap<PathBuf, u64>,
    last: u64,
}

/// Whether the call is an msocket().
pub(super) fn is_msocket(call: &Notification) -> bool {
    call.args[0] as i32 == AF_MSOCKET
}

impl Supervisor {
    /// Answers an msocket().
    pub(super) fn msocket(&mut self, tid: i32, args: [u64; 6]) -> Answer {
        let (kind, protocol, domain) = (args[1] as i32, args[2] as i32, args[3] as i32);
        let spec = SocketSpec { domain, kind, protocol };
        let stranger = args[5] != 0;
        let asker = self.with_known(tid, |known, target| {
            // What is believed for a moment is enough for a stack that was asked for before.
            if stranger || spec.needs_rights() {
                known.forget();
            }
            known.asker(target)
        })?;
        let stack = self.stack_of(tid, asker, args[4], args[5])?;
        match kind {
            SOCK_NUMBER => Ok(Reply::Value((stack - STACKS) as i64)),
            SOCK_DEFAULT => {
                self.set_default(asker, stack, domain).map(|()| Reply::Value(0)).map_err(Stop::Fail)
            }
            _ if !spec.is_of_a_stack() => Err(Stop::Fail(foreign(refusal(spec)))),
            _ if spec.needs_rights() && !asker.rights => Err(Stop::Fail(Errno::EPERM)),
            _ => match self.with_known(tid, |known, target| known.make(At::joined(stack), spec, target)) {
                Ok(fd) => Ok(Reply::Descriptor { fd, cloexec: kind & libc::SOCK_CLOEXEC != 0 }),
                Err(Errno::ENETDOWN) => {
                    // It has gone unheard, and there may be another one by now.
                    self.lose(stack);
                    Err(Stop::Fail(Errno::ESTALE))
                }
                Err(errno) => Err(Stop::Fail(foreign(errno))),
            },
        }
    }

    /// The stack that is meant: by its number, or by its path.
    fn stack_of(&mut self, tid: i32, asker: Asker, address: u64, length: u64) -> Result<u64, Errno> {
        // Made with our rights: whoever gave them up shall not have them back.
        if !asker.owner {
            return Err(Errno::EACCES);
        }
        if length == 0 {
            let id = address.checked_add(STACKS).ok_or(Errno::ESTALE)?;
            return if self.is_there(id) { Ok(id) } else { Err(Errno::ESTALE) };
        }
        let path = self.path_of(tid, address, length)?;
        if path.as_os_str().as_bytes() == HOST {
            return Err(Errno::EACCES);
        }
        self.stack_at(&path, asker.pid)
    }

    /// Whether a stack is there; what has hung up is forgotten.
    fn is_there(&mut self, id: u64) -> bool {
        match self.views.joined.get(&id) {
            None | Some(Source::Gone) => false,
            Some(source) if has_hung_up(source) => {
                self.lose(id);
                false
            }
            Some(_) => true,
        }
    }

    fn path_of(&mut self, tid: i32, address: u64, length: u64) -> Result<PathBuf, Errno> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_PATH {
            return Err(Errno::ENAMETOOLONG);
        }
        let bytes = self.eye.target(tid, None, Instant::now()).read(address, length)?;
        Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
    }

    /// The stack at a path, joined if it was not yet.
    fn stack_at(&mut self, path: &Path, pid: i32) -> Result<u64, Errno> {
        if let Some(id) = self.stacks.by_path.remove(path)
            && self.is_there(id)
        {
            self.stacks.by_path.insert(path.to_owned(), id);
            return Ok(id);
        }
        if !path.is_absolute() {
            return Err(Errno::ENOENT);
        }
        // Those that have gone and are nobody's default.
        let used = self.views.defaults();
        self.views.joined.retain(|id, source| !matches!(source, Source::Gone) || used.contains(id));
        if self.views.joined.len() >= MAX_STACKS {
            return Err(Errno::ENOBUFS);
        }
        let id = self.stacks.last.max(STACKS) + 1;
        let user = User { view: "msocket".into(), pid, rules: Vec::new() };
        let source = self.join(path, &user, MEMBERS + id).map_err(|error| match error {
            SetUpError::Refused(Refusal { errno, .. }) => errno.map_or(Errno::EOPNOTSUPP, Errno::from_raw),
            SetUpError::Step(_, errno) => errno,
        })?;
        self.stacks.last = id;
        self.stacks.by_path.insert(path.to_owned(), id);
        self.views.joined.insert(id, source);
        Ok(id)
    }

    fn set_default(&mut self, asker: Asker, stack: u64, family: i32) -> Result<(), Errno> {
        let kind = match self.views.joined.get(&stack) {
            Some(Source::Smol { .. }) => Kind::Smol,
            Some(Source::Gone) | None => return Err(Errno::ENETDOWN),
            Some(_) => Kind::Kernel,
        };
        let all: Vec<i32> = SocketSpec::families(kind).collect();
        let families = match family {
            libc::AF_UNSPEC => all,
            family if all.contains(&family) => vec![family],
            _ => return Err(Errno::EPFNOSUPPORT),
        };
        // Whoever has left the view's network makes its own sockets.
        let around = asker.view.ok_or(Errno::EPERM)?;
        let view = match self.views.is_default_of(around, asker.pid) {
            true => around,
            false if self.views.count() > MAX_VIEWS => return Err(Errno::ENOBUFS),
            false => {
                let name = format!("default-{}", asker.pid);
                let (root, outer) = (Some(asker.pid), around);
                self.views.nest(View { root, outer, ..View::new(&name, Source::Outer) })
            }
        };
        self.views.set_defaults(view, &families, stack);
        Ok(())
    }
}

impl Supervisor {
    /// Does something with a thread of the program.
    pub(super) fn with_known<T>(
        &mut self,
        tid: i32,
        act: impl FnOnce(&mut Known<'_>, &mut dyn Target) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let nested = self.views.nested().then(std::process::id);
        let now = Instant::now();
        let mut known = Known {
            views: &mut self.views,
            server: &mut self.server,
            smol: self.smol.as_mut().map(|smol| &mut smol.host),
            tid,
            now,
            owner: self.owner,
            open_control: &mut |_| Err(Errno::ENFILE),
        };
        act(&mut known, &mut self.eye.target(tid, nested, now))
    }
}

/// Whether the stack's server has gone, and we are yet to be told.
fn has_hung_up(source: &Source) -> bool {
    let Source::Joined(_, Some(member)) = source else { return false };
    let mut ready = [PollFd::new(member.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// The kernel's word for a family that it lacks is what msocket() hears outside of a view; so inside of one it
/// hears another.
fn foreign(errno: Errno) -> Errno {
    if errno == Errno::EAFNOSUPPORT { Errno::EPFNOSUPPORT } else { errno }
}
