//! unshare(2) and setns(2): a program that makes or enters a network namespace of its own has left the
//! view; its sockets are made there from now on, by the kernel.

use super::Call;
use crate::answer::{Answer, Stop};

/// unshare(CLONE_NEWNET) and setns(2)
pub(super) fn leave(call: &mut Call<'_>) -> Answer {
    call.caller.forget();
    Err(Stop::Native)
}
