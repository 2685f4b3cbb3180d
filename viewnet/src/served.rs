//! What is served in the runtime folder: the sockets that are there, and how to ask one.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use msocket_proto::line::{Line, sweep, unusable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use switch::client::PATIENCE;

use crate::exit::{Failure, call_failed};

/// The sockets in a folder, by name; those of dead servers are removed on the way. Hidden ones are somebody's who is just
/// making them.
pub(crate) fn sockets(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot list {}", folder.display()), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let path = entry.path();
        if is_socket && !is_hidden && !sweep(&path).unwrap_or(false) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Sends a request to whoever serves `path`, descriptors beside it, and waits for the answer; `what` is what failed if there
/// is none.
pub(crate) fn call<A: DeserializeOwned>(
    what: &str,
    path: &Path,
    request: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<A, Failure> {
    let mut line = Line::connect(path).map_err(|e| match e.kind() {
        NotFound | ConnectionRefused => Failure::new(what, format!("nobody serves {}", path.display())),
        _ => unusable(what, path, &e).into(),
    })?;
    let stream = line.stream();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .map_err(|e| Failure::io(what, &e))?;
    let (answer, _) = line.call(request, fds).map_err(|e| call_failed(what, e))?;
    Ok(answer)
}
