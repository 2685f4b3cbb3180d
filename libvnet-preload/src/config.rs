//! What the environment says: read once, in the library's constructor.

use std::sync::atomic::{AtomicU8, Ordering};

/// Set by `viewnet run` to the kind of the view's stack.
pub(crate) const VARIABLE: &std::ffi::CStr = c"VIEWNET_SHIM";

/// 0: nothing is known of a view.
static KIND: AtomicU8 = AtomicU8::new(NONE);
const NONE: u8 = 0;
const KERNEL: u8 = 1;
const SMOL: u8 = 2;

/// Takes the value of [`VARIABLE`].
pub(crate) fn set(value: Option<&[u8]>) {
    let kind = match value {
        Some(b"smol") => SMOL,
        Some(b"kernel") => KERNEL,
        _ => NONE,
    };
    KIND.store(kind, Ordering::Relaxed);
}

/// The view's stack is a library: there are traps to be spared.
pub(crate) fn is_smol() -> bool {
    KIND.load(Ordering::Relaxed) == SMOL
}

/// This is a view.
pub(crate) fn is_view() -> bool {
    KIND.load(Ordering::Relaxed) != NONE
}
