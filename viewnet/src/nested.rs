//! `viewnet run` inside a view.
//!
//! A task can have one seccomp listener above it (seccomp(2), EBUSY), so the inner command cannot have a
//! supervisor of its own: it asks the outer one for another view. The way to it is one trapped call,
//! socket(2) with a family no kernel has ([`msocket_proto::proto::AF_VIEWNET`]), which works without any path or
//! environment. The inner command's process then becomes the root of the new view and executes the
//! program.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use msocket_proto::line::{CallError, Line};
use msocket_proto::proto::File;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::launch::{Plan, Ruled, StackSpec};
use crate::sys;

/// What the inner command asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// A view for the calling process and its descendants. Answer: [`Nested`].
    View {
        /// Its name.
        name: String,
        /// Its stack.
        stack: StackSpec,
        /// Its rules.
        #[serde(default)]
        ruled: Box<Ruled>,
    },
    /// What the program may know of its sockets without asking ([`msocket_proto::board`]). Answer: `null` and the
    /// descriptor.
    Board {
        /// The secret in their names.
        secret: String,
    },
    /// A file about the view's network. Answer: `null` and the descriptor, or its errno.
    File(File),
}

/// The view that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Nested {
    /// What marks it in the environment of the program.
    pub(crate) marker: String,
}

/// A line to the supervisor we are under; `None` if there is none.
pub(crate) fn supervisor() -> Option<Line> {
    let fd: OwnedFd = sys::seccomp::open_control().ok()?;
    Some(Line::client(UnixStream::from(fd)))
}

/// Asks for a view.
pub(crate) fn ask(line: &mut Line, plan: &Plan) -> Result<Nested, CallError> {
    let Plan { name, stack, ruled, .. } = plan;
    let request = Request::View { name: name.clone(), stack: stack.clone(), ruled: Box::new(ruled.clone()) };
    Ok(line.call(&request, &[])?.0)
}

/// A pair for a control line: the supervisor's end and the program's.
pub(crate) fn pair() -> Result<(Line, OwnedFd), Errno> {
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let (ours, theirs) = UnixStream::pair().map_err(errno)?;
    Ok((Line::server(ours).map_err(errno)?, theirs.into()))
}
