//! Links libgcc's unwinder into the library instead of asking for libgcc_s.so.1: musl programs, into which it is
//! preloaded too, have none, and a preloaded library that cannot be loaded ends the program.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    // What rustc links as `-lgcc_s` is this script (ld(1), "implicit linker scripts").
    std::fs::write(folder.join("libgcc_s.so"), "INPUT ( -lgcc_eh -lgcc )\n").expect("OUT_DIR is ours");
    println!("cargo::rustc-link-search=native={}", folder.display());
}
