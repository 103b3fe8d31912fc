//! Link settings of the shared library.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" {
        return;
    }
    // Programs that were linked with one minor version keep finding it next to another.
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvoxtile.so.{minor}");
    // Threads and their destructors must not lose their code.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    if target("ENV") == "gnu" {
        // Rust asks for the shared unwinder; this script of the same name, found first, gives it
        // the static one, so that the library needs nothing but libc and libm.
        let folder = env::var("OUT_DIR").unwrap_or_default();
        let script = Path::new(&folder).join("libgcc_s.so");
        fs::write(script, "GROUP ( -lgcc_eh -lgcc -lc )\n").expect("OUT_DIR is writable");
        println!("cargo:rustc-link-search=native={folder}");
    }
}
