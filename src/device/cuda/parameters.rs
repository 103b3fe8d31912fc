//! What kernels are handed: the structures of `kernels/parameters.cuh`, which says what their
//! fields mean, field by field. A test compares them with what the C++ compiler makes of them.

use bytemuck::{Pod, Zeroable};

use super::driver::Address;

/// Declares a structure as the kernels know it, and lists its fields for the test.
macro_rules! parameters {
    ($($name:ident, $bytes:literal bytes { $($field:ident: $type:ty,)* })*) => {
        $(
            #[allow(missing_docs)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
            #[repr(C)]
            pub struct $name {
                $(pub $field: $type,)*
            }

            const _: () = assert!(size_of::<$name>() == $bytes);
        )*

        /// For each structure its name, size, and fields with their offsets and sizes.
        #[cfg(test)]
        #[allow(clippy::type_complexity)]
        fn structures() -> Vec<(&'static str, usize, Vec<(&'static str, usize, usize)>)> {
            vec![$({
                let value = $name::default();
                let begin = (&raw const value).addr();
                let fields = vec![$((
                    stringify!($field),
                    (&raw const value.$field).addr() - begin,
                    size_of_val(&value.$field),
                ),)*];
                (stringify!($name), size_of::<$name>(), fields)
            },)*]
        }
    };
}

parameters! {
    Shape, 12 bytes {
        planes: i32,
        rows: i32,
        columns: i32,
    }
    Pending, 16 bytes {
        coefficients: Address,
        padded_channels: i32,
        slope: f32,
    }
    Partial, 12 bytes {
        count: f32,
        mean: f32,
        deviations: f32,
    }
    Source, 56 bytes {
        values: Address,
        pending: Pending,
        shape: Shape,
        channels: i32,
        upsample: [i32; 3],
        planar: i32,
    }
    Brick, 40 bytes {
        planes: i32,
        columns: i32,
        odd_columns: i32,
        area: i32,
        voxels: i32,
        tile_planes: i32,
        copies: i32,
        row_bits: i32,
        plane_pitch: i32,
        row_pitch: i32,
    }
    Shortcut, 32 bytes {
        weights: Address,
        bias: Address,
        output: Address,
        sums: Address,
    }
    Convolution, 352 bytes {
        sources: [Source; 2],
        weights: Address,
        bias: Address,
        main: Address,
        main_pending: Pending,
        output: Address,
        partials: Address,
        sums: Address,
        input: Shape,
        output_shape: Shape,
        source_count: i32,
        output_channels: i32,
        kernel: [i32; 3],
        stride: [i32; 3],
        expand: [i32; 3],
        tiles: [i32; 3],
        tile_planes: i32,
        tile_rows: i32,
        plane_groups: i32,
        brick: Brick,
        shares_lines: i32,
        splits: i32,
        epilogue: i32,
        shortcut: Shortcut,
    }
    Coefficients, 48 bytes {
        partials: Address,
        scale: Address,
        shift: Address,
        coefficients: Address,
        tiles: i32,
        channels: i32,
        padded_channels: i32,
        epsilon: f32,
    }
    Join, 64 bytes {
        main: Address,
        main_pending: Pending,
        shortcut: Address,
        shortcut_pending: Pending,
        output: Address,
        voxels: i32,
        padded_channels: i32,
    }
    AveragePool, 72 bytes {
        values: Address,
        pending: Pending,
        output: Address,
        input: Shape,
        output_shape: Shape,
        size: [i32; 3],
        padded_channels: i32,
    }
    Placement, 72 bytes {
        start: [i32; 3],
        pad_before: [i32; 3],
        volume: [i32; 3],
        axes: [i32; 3],
        mirror: [i32; 3],
        patch: [i32; 3],
    }
    Gather, 96 bytes {
        volume: Address,
        patch: Address,
        placement: Placement,
        ring_planes: i32,
        channels: i32,
    }
    Head, 24 bytes {
        weights: Address,
        bias: Address,
        classes: i32,
        padded_classes: i32,
    }
    Mosaic, 48 bytes {
        sums: Address,
        weight_sums: Address,
        classes: Address,
        ring_planes: i32,
        depth: i32,
        half_sums: i32,
        class_planes: i32,
        rows: i32,
        columns: i32,
    }
    Blend, 152 bytes {
        mosaic: Mosaic,
        features: Address,
        window: Address,
        placement: Placement,
        padded_features: i32,
        first: i32,
        counts_weight: i32,
        reserved: i32,
    }
    BlendProbabilities, 184 bytes {
        blend: Blend,
        head: Head,
        decision: i32,
        reserved: i32,
    }
    Classify, 128 bytes {
        mosaic: Mosaic,
        head: Head,
        scores: Address,
        probabilities: Address,
        wanted: Address,
        flags: Address,
        first: i32,
        planes: i32,
        wanted_count: i32,
        folds: f32,
        by_class: i32,
        decision: i32,
    }
    AxisMap, 24 bytes {
        low: Address,
        high: Address,
        fraction: Address,
    }
    LineStatistics, 32 bytes {
        mean: f64,
        squares: f64,
        low: f32,
        high: f32,
        count: i32,
        reserved: i32,
    }
    MeasureLines, 40 bytes {
        values: Address,
        statistics: Address,
        above: f64,
        below: f64,
        lines: i32,
        columns: i32,
    }
    Intensity, 16 bytes {
        lower: f32,
        upper: f32,
        mean: f32,
        deviation: f32,
    }
    NormalizeValues, 32 bytes {
        values: Address,
        how: Intensity,
        count: i32,
        reserved: i32,
    }
    Band, 24 bytes {
        first: Address,
        weights: Address,
        taps: i32,
        outputs: i32,
    }
    Resample, 112 bytes {
        input: Address,
        output: Address,
        band: Band,
        limits: Address,
        limits_axis: i32,
        columns: i32,
        inner: i32,
        groups: i32,
        first_group: i32,
        group_ring: i32,
        input_ring: i32,
        output_ring: i32,
        first: i32,
        count: i32,
        normalizes: i32,
        how: Intensity,
        reserved: i32,
    }
    Interpolate, 232 bytes {
        mosaic: Mosaic,
        head: Head,
        maps: [AxisMap; 3],
        classes: Address,
        probabilities: Address,
        wanted: Address,
        flags: Address,
        first: i32,
        planes: i32,
        output_rows: i32,
        output_columns: i32,
        region: [[i32; 2]; 3],
        wanted_count: i32,
        by_class: i32,
        decision: i32,
        reserved: i32,
    }
}

/// Declares a number that the kernels know by the same name, and lists it for the test.
macro_rules! numbers {
    ($($name:ident: $type:ty = $value:literal,)*) => {
        $(
            #[allow(missing_docs)]
            pub const $name: $type = $value;
        )*

        #[cfg(test)]
        fn numbers() -> Vec<(&'static str, i64)> {
            vec![$((stringify!($name), i64::from($name)),)*]
        }
    };
}

numbers! {
    EPILOGUE_PLAIN: i32 = 0,
    EPILOGUE_STATISTICS: i32 = 1,
    EPILOGUE_ADD_NORMALIZED: i32 = 2,
    DECISION_HIGHEST: i32 = 0,
    DECISION_LAST_POSITIVE: i32 = 1,
    FLAG_NOT_FINITE: u32 = 1,
    HEAD_SHARED_BYTES: u32 = 25600,
    INTERPOLATE_SHARED_BYTES: u32 = 27776,
}

impl From<[f32; 4]> for Intensity {
    fn from([lower, upper, mean, deviation]: [f32; 4]) -> Self {
        Self { lower, upper, mean, deviation }
    }
}

impl From<[usize; 3]> for Shape {
    fn from(shape: [usize; 3]) -> Self {
        let [planes, rows, columns] = shape.map(|extent| extent as i32);
        Self { planes, rows, columns }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// A table of every structure, field and number, as Rust has it.
    fn ours() -> String {
        let mut table = String::new();
        for (name, size, fields) in structures() {
            writeln!(table, "{name} {size}").unwrap();
            for (field, offset, size) in fields {
                writeln!(table, "{name}.{field} {offset} {size}").unwrap();
            }
        }
        for (name, value) in numbers() {
            writeln!(table, "{name} {value}").unwrap();
        }
        table
    }

    /// A program that prints the same table as C++ has it.
    fn program() -> String {
        let mut text = String::from(
            "#include <cstddef>\n#include <cstdio>\n#include \"parameters.cuh\"\nint main() {\n",
        );
        for (name, _, fields) in structures() {
            writeln!(text, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
            for (field, ..) in fields {
                writeln!(
                    text,
                    "printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), \
                     sizeof({name}::{field}));"
                )
                .unwrap();
            }
        }
        for (name, _) in numbers() {
            writeln!(text, "printf(\"{name} %lld\\n\", (long long){name});").unwrap();
        }
        text + "}\n"
    }

    #[test]
    fn structures_are_those_of_the_kernels() {
        let folder = tempfile::tempdir().unwrap();
        let (source, binary) = (folder.path().join("table.cpp"), folder.path().join("table"));
        std::fs::write(&source, program()).unwrap();
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let compiled = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".into()))
            .args(["-std=c++17", "-Wno-invalid-offsetof", "-I"])
            .arg(&kernels)
            .arg("-o")
            .args([&binary, &source])
            .output()
            .expect("a C++ compiler is needed: set CXX or install c++");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let theirs = Command::new(&binary).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&theirs.stdout), ours());
        // Every structure and number of the header is compared.
        let header = std::fs::read_to_string(kernels.join("parameters.cuh")).unwrap();
        let declared = header.lines().filter(|line| line.starts_with("struct ")).count();
        assert_eq!(declared, structures().len());
    }
}
