use super::super::path::Path;
use super::*;
use crate::device::networks::{Builder, projected};
use crate::net::{Op, Source, TensorId};

#[test]
fn zz_print() {
    for side in [128usize, 64] {
        for channels in [16, 32, 64, 96] {
            for instructions in Instructions::available() {
                for precision in [Precision::F32, Precision::Bf16] {
                    let mut builder = Builder::new(1, [side; 3]);
                    projected(&mut builder, vec![Source::plain(TensorId(0))], channels, [1; 3]);
                    let plan = builder.finish();
                    let kernels = Kernels::of(instructions, precision).unwrap();
                    let Op::Conv(conv) = &plan.network.ops[1] else { panic!() };
                    for method in [Method::Fastest, Method::Direct] {
                        let path = Path::new(&plan.network, conv, kernels, method);
                        let row = path.task_row();
                        println!(
                            "{side} {channels} {instructions:?} {precision:?} {} {row:?} of {} under way {} distance {:?}",
                            matches!(path, Path::Winograd(_)), path.tasks(), row.under_way(),
                            path.displacement(&plan.network).map(|d| d / (side * side * channels)),
                        );
                    }
                }
            }
        }
    }
}
