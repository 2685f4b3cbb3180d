//! What the library does without.
//!
//! It is loaded into programs of any libc, so it asks for no other library: what the standard library would take
//! from libgcc_s.so.1 and ld-linux.so.2, the unwinder and thread-local variables, is needed to panic and for
//! nothing else, and a panic ends here.

#![allow(unsafe_code)]

use std::arch::global_asm;

macro_rules! absent {
    ($stop:literal; $($name:ident)*) => {
        global_asm!($(concat!(".globl ", stringify!($name), "\n.hidden ", stringify!($name), "\n", stringify!($name), ":")),*, $stop);
    };
}
#[cfg(target_arch = "x86_64")]
absent! { "ud2";
    __tls_get_addr _Unwind_Backtrace _Unwind_DeleteException _Unwind_FindEnclosingFunction _Unwind_GetCFA
    _Unwind_GetDataRelBase _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData _Unwind_GetRegionStart
    _Unwind_GetTextRelBase _Unwind_RaiseException _Unwind_Resume _Unwind_SetGR _Unwind_SetIP
}
#[cfg(target_arch = "aarch64")]
absent! { "brk #1";
    _Unwind_Backtrace _Unwind_DeleteException _Unwind_FindEnclosingFunction _Unwind_GetCFA
    _Unwind_GetDataRelBase _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData _Unwind_GetRegionStart
    _Unwind_GetTextRelBase _Unwind_RaiseException _Unwind_Resume _Unwind_SetGR _Unwind_SetIP
}
