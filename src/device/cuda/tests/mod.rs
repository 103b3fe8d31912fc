//! The device on the emulated driver of `kernels/host`.

mod forward;
mod meter;
mod mosaic;
mod resample;

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::Gpu;
use super::driver::{Context, Driver, Properties};
use crate::device::Precision;

/// Builds the emulated driver and loads it, for this process to find as libcuda; not where
/// `tests/gpu/run` asks for the machine's own.
fn emulate() {
    if std::env::var_os("VOXTILE_REQUIRE_CUDA").is_some() {
        return;
    }
    static EMULATED: OnceLock<()> = OnceLock::new();
    EMULATED.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/emulator");
        let built =
            Command::new("sh").arg(root.join("kernels/host/build.sh")).arg(&folder).status();
        assert!(built.expect("a shell is needed").success(), "the emulator does not build");
        let library = folder.join("libcuda.so.1");
        let library = std::ffi::CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library's initialisers only list kernels.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "the emulator does not load");
    });
}

/// A stream on the emulated GPU.
fn gpu(precision: Precision) -> Gpu {
    emulate();
    let driver = Driver::open().unwrap();
    let context = Context::new(&driver, Properties::of(&driver, 0).unwrap()).unwrap();
    Gpu::new(&context, precision).unwrap()
}

/// Seeded values, the same on every machine.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In [-1, 1).
    fn next(&mut self) -> f32 {
        (self.bits() >> 7) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn whole(&mut self, range: Range<usize>) -> usize {
        range.start + self.bits() as usize % range.len()
    }

    fn coin(&mut self) -> bool {
        self.bits() & 64 != 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.whole(0..choices.len())].clone()
    }
}
