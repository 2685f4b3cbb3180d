//! Where the programs under test come from: `viewnet` from cargo, the C probes from gcc, the Rust probes from
//! beside the running test.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// PATH of every command of a World: no per-user shims, as the World's user may not read them.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a C probe is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// As most programs are.
    Dynamic,
    /// With no libc to interpose.
    Static,
    /// An i386 program.
    Static32,
    /// Dynamic but for libmsocket, whose msocket() stands in for socket().
    Msocket,
    /// Static likewise.
    StaticMsocket,
}

impl Linkage {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Dynamic => &[],
            Self::Static => &["-static"],
            Self::Static32 => &["-m32", "-static"],
            Self::Msocket => &[
                "-Dsocket=default_socket",
                "-Dif_nametoindex=default_if_nametoindex",
                "-Dif_indextoname=default_if_indextoname",
                "-Wl,--gc-sections",
            ],
            Self::StaticMsocket => &[
                "-static",
                "-Dsocket=default_socket",
                "-Dif_nametoindex=default_if_nametoindex",
                "-Dif_indextoname=default_if_indextoname",
                "-Wl,--gc-sections",
            ],
        }
    }
}

/// The `viewnet` binary: `$VIEWNET_BIN`, or built once by cargo with the profile of the tests.
pub fn viewnet() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| std::env::var_os("VIEWNET_BIN").map_or_else(build_viewnet, PathBuf::from)).clone()
}

/// The folder of `libmsocket.so` and `libmsocket.a`: beside `$VIEWNET_BIN`, or built once as that is.
pub fn libmsocket() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let beside = || {
        let folder = PathBuf::from(std::env::var_os("VIEWNET_BIN")?).parent()?.to_owned();
        folder.join("libmsocket.so").exists().then_some(folder)
    };
    BUILT.get_or_init(|| beside().unwrap_or_else(|| build(&["msocket-capi"]))).clone()
}

/// A C program of `programs/` that uses libmsocket.
pub fn msocket_program(name: &str, linkage: Linkage) -> PathBuf {
    let (here, library) = (Path::new(env!("CARGO_MANIFEST_DIR")), libmsocket());
    let folder = profile_folder().join("probes");
    fs::create_dir_all(&folder).expect("mkdir");
    let stem = name.rsplit('/').next().unwrap_or(name);
    let built = folder.join(format!("{stem}-{linkage:?}"));
    let own = tempfile::Builder::new().prefix(stem).tempfile_in(&folder).expect("a file").into_temp_path();
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(here.join("../msocket/include"));
    gcc.arg("-o").arg(&own).arg(here.join("programs").join(format!("{name}.c")));
    match linkage {
        Linkage::Dynamic => gcc.arg("-L").arg(library).arg("-lmsocket"),
        _ => gcc.arg("-static").arg(library.join("libmsocket.a")).arg("-Wl,--gc-sections"),
    };
    let gcc = gcc.output().unwrap_or_else(|e| panic!("gcc: {e}; install what tests/PACKAGES lists"));
    assert!(gcc.status.success(), "{name} {linkage:?}:\n{}", String::from_utf8_lossy(&gcc.stderr));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).expect("chmod");
    own.persist(&built).expect("rename");
    built
}

fn build_viewnet() -> PathBuf {
    build(&["viewnet", "libvnet-preload"]).join("viewnet")
}

/// Builds packages with the profile of the tests; the folder where their products are.
fn build(packages: &[&str]) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet"])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .arg("--manifest-path");
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    build.arg("--target-dir").arg(profile_folder().parent().expect("target/PROFILE"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.status().expect("cargo");
    assert!(built.success(), "{packages:?}: cargo build failed");
    profile_folder()
}

/// The library that dynamic programs load in a view: beside [`viewnet`], where that finds it, too.
pub fn shim() -> PathBuf {
    viewnet().with_file_name("libvnet_preload.so")
}

/// `target/debug` or `target/release`: the test itself is in `deps` below it.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.parent().expect("a folder");
    if folder.ends_with("deps") { folder.parent().expect("a folder").into() } else { folder.into() }
}

/// A Rust probe, built by cargo with the tests.
pub fn rust_probe(name: &str) -> PathBuf {
    profile_folder().join(name)
}

/// A C probe, built when its source, its header or its flags changed.
pub fn c_probe(name: &str, linkage: Linkage) -> PathBuf {
    let strict = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-pthread"];
    let flags = [&strict, linkage.flags()].concat();
    if !matches!(linkage, Linkage::Msocket | Linkage::StaticMsocket) {
        return compile("probes", name, "gcc", &flags, &[]);
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let more = [here.join("programs/default.c"), libmsocket().join("libmsocket.a")];
    compile("probes", name, "gcc", &flags, &more)
}

/// A C program of `programs/`.
pub fn c_program(name: &str, compiler: &str, flags: &[&str]) -> PathBuf {
    compile(
        "programs",
        name,
        compiler,
        &[&["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"], flags].concat(),
        &[],
    )
}

fn compile(folder: &str, name: &str, compiler: &str, flags: &[&str], more: &[PathBuf]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = sources.join(folder).join(format!("{name}.c"));
    let mut hash = DefaultHasher::new();
    (compiler, flags).hash(&mut hash);
    for file in [&source, &sources.join("probes/probe.h")].into_iter().chain(more) {
        fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).hash(&mut hash);
    }
    let folder = profile_folder().join("probes");
    fs::create_dir_all(&folder).expect("mkdir");
    let built = folder.join(format!("{name}-{:016x}", hash.finish()));
    if !built.exists() {
        // Another thread or test may be building the same one: each writes its own, the last rename wins.
        let own =
            tempfile::Builder::new().prefix(name).tempfile_in(&folder).expect("a file").into_temp_path();
        let mut command = Command::new(compiler);
        command.args(flags).arg("-I").arg(sources.join("../msocket/include"));
        let done = command.arg("-o").arg(&own).arg(&source).args(more).output();
        let done = done.unwrap_or_else(|e| panic!("{compiler}: {e}; install what tests/PACKAGES lists"));
        assert!(done.status.success(), "{name} {flags:?}:\n{}", String::from_utf8_lossy(&done.stderr));
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).expect("chmod");
        own.persist(&built).expect("rename");
    }
    built
}

/// A program of `programs/`, built by go without libc.
pub fn go_program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(format!("{name}.go"));
            let folder = profile_folder().join("probes");
            fs::create_dir_all(&folder).expect("mkdir");
            let built = folder.join(format!("go-{name}"));
            let mut go = Command::new("go");
            go.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder.join("gocache"));
            go.env("GOFLAGS", "").args(["build", "-o"]).arg(&built).arg(source);
            let go = go.output().unwrap_or_else(|e| panic!("go: {e}; install what tests/PACKAGES lists"));
            assert!(go.status.success(), "{name}.go:\n{}", String::from_utf8_lossy(&go.stderr));
            built
        })
        .clone()
}
