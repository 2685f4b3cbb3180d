//! Turning connections away when there are no descriptors left.

use std::os::unix::net::UnixListener;

/// A descriptor in reserve: when there is no other left, it is given up for the moment that it takes to
/// accept a connection and close it. Otherwise the connection would stay in the queue and wake us for ever.
#[derive(Debug, Default)]
pub struct Shed(Option<std::fs::File>);

impl Shed {
    /// A reserve.
    pub fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok())
    }

    /// Whether `error` meant that descriptors have run out and one connection was turned away. Without a
    /// descriptor accept(2) says so even if nobody waits: then there is no more to do.
    pub fn make_room(&mut self, error: &std::io::Error, listener: &UnixListener) -> bool {
        let out =
            matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && self.0.take().is_some();
        let turned_away = out && listener.accept().is_ok();
        if out {
            *self = Self::new();
        }
        turned_away
    }
}
