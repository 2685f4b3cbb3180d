//! The `LD_PRELOAD` accelerator of viewnet.
//!
//! A view needs no preloaded library: its mechanism is the supervisor's seccomp filter, which static
//! programs and libc's own calls cannot pass by. This crate will hold the hooks that spare a dynamic
//! program some traps and show it the view's `/proc/net`; today it holds none and builds no shared
//! object, so that nothing can be preloaded by mistake.
