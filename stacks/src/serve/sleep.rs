//! How long epoll_wait(2) sleeps.

use std::time::Duration;

use nix::sys::epoll::EpollTimeout;

/// The time-out for a wait, or for none that ends by itself. epoll_wait(2) counts milliseconds, and to wake before the time
/// would be to wake again and again: so it is rounded up.
pub fn timeout(wait: Option<Duration>) -> EpollTimeout {
    wait.map_or(EpollTimeout::NONE, |wait| {
        let wait = if wait.is_zero() { wait } else { wait.saturating_add(Duration::from_micros(999)) };
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up() {
        let of = |wait| i32::from(timeout(wait));
        assert_eq!(of(None), -1);
        assert_eq!(of(Some(Duration::ZERO)), 0);
        assert_eq!(of(Some(Duration::from_nanos(1000))), 1);
        assert_eq!(of(Some(Duration::from_millis(5))), 5);
        assert_eq!(of(Some(Duration::MAX)), i32::MAX);
    }
}
