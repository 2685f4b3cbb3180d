//! What the environment says: read once, in the library's constructor.

use std::sync::atomic::{AtomicU8, Ordering};

/// Set by `viewnet run` to the kind of the view's stack.
pub const VARIABLE: &std::ffi::CStr = c"VIEWNET_SHIM";

/// Set by `viewnet run --preload-only` to the path of the stack, beside [`VARIABLE`].
pub const STACK: &std::ffi::CStr = c"VIEWNET_STACK";

/// The path of the stack as `struct sockaddr_un` has it; the first is 0 if there is none.
static PATH: [AtomicU8; 108] = [const { AtomicU8::new(0) }; 108];

/// 0: nothing is known of a view.
static KIND: AtomicU8 = AtomicU8::new(NONE);
const NONE: u8 = 0;
const KERNEL: u8 = 1;
const SMOL: u8 = 2;
const ALONE: u8 = 3;

/// Takes the value of [`VARIABLE`].
pub fn set(value: Option<&[u8]>) {
    let kind = match value {
        Some(b"smol") => SMOL,
        Some(b"kernel") => KERNEL,
        Some(b"alone") => ALONE,
        _ => NONE,
    };
    KIND.store(kind, Ordering::Relaxed);
}

/// The view's stack is a library: there are traps to be spared.
pub fn is_smol() -> bool {
    KIND.load(Ordering::Relaxed) == SMOL
}

/// There is a supervisor.
pub fn is_view() -> bool {
    matches!(KIND.load(Ordering::Relaxed), KERNEL | SMOL)
}

/// There is none: this library alone makes the view.
pub fn is_alone() -> bool {
    KIND.load(Ordering::Relaxed) == ALONE
}

/// Takes the value of [`STACK`].
pub fn set_stack(path: Option<&[u8]>) {
    for (to, byte) in PATH.iter().zip(path.filter(|path| path.len() < PATH.len()).unwrap_or_default()) {
        to.store(*byte, Ordering::Relaxed);
    }
}

/// The path of the stack, with zeros behind it.
pub fn stack() -> [u8; 108] {
    let mut path = [0; 108];
    for (to, byte) in path.iter_mut().zip(&PATH) {
        *to = byte.load(Ordering::Relaxed);
    }
    path
}
