#!/usr/bin/env python3
"""Plants classic bugs in the kernels, one at a time; the tests on the emulator must catch each.

usage: kernels/host/mutate.py [--only TEXT] [--list]

The tests first pass on the kernels as they are. A bug counts as caught if a test fails, or if the
emulator ends it, for what it found or because it no longer ends by itself. A bug that compiles to
nothing, or whose place is gone, is an error here.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1]
SECONDS = 300

# What is wrong, the file, its text, what stands there instead, and the tests that must notice.
BUGS = [
    # Races and missing waits.
    (
        "a stage's weights and brick are read without a barrier",
        "convolution_mma.cuh",
        "block_barrier();\n            copy_weights(stage + STAGES - 1);",
        "copy_weights(stage + STAGES - 1);",
        "convolution",
    ),
    (
        "the wait for a stage's weights lets one group too many stay in flight",
        "convolution_mma.cuh",
        "copy_async_wait<STAGES - 2>();",
        "copy_async_wait<STAGES - 1>();",
        "convolution",
    ),
    (
        "shared memory is reused for the statistics without a barrier",
        "convolution_mma.cuh",
        "copy_async_wait<0>();\n    block_barrier();\n    if (WITH_SHORTCUT)",
        "copy_async_wait<0>();\n    if (WITH_SHORTCUT)",
        "convolution",
    ),
    (
        "tables of places are read without a barrier",
        "convolution_mma.cuh",
        "    block_barrier();\n\n    // What leaves room",
        "\n    // What leaves room",
        "convolution",
    ),
    (
        "the warps' statistics are merged without a barrier",
        "convolution.cuh",
        "        }\n    }\n    block_barrier();\n    const int channel = thread_index();\n    if (channel < N",
        "        }\n    }\n    const int channel = thread_index();\n    if (channel < N",
        "convolution",
    ),
    (
        "a brick of a patch is read without a barrier",
        "convolution_direct.cuh",
        "    block_barrier();\n\n    int lines[WARP_LINES];",
        "\n    int lines[WARP_LINES];",
        "convolution",
    ),
    (
        "a step of a sum over a block lacks its barrier",
        "normalization.cuh",
        "scratch[thread] += scratch[thread + width];\n        block_barrier();",
        "scratch[thread] += scratch[thread + width];",
        "normalization",
    ),
    (
        "features and weights of the head are overwritten while they are read",
        "head.cuh",
        "            // Nobody reads what was there before.\n            block_barrier();\n",
        "",
        "classify",
    ),
    (
        "voxels are listed before all warps have counted theirs",
        "interpolate.cuh",
        "    block_barrier();\n    int total = 0;",
        "    int total = 0;",
        "interpolate",
    ),
    # Wrong slots and places.
    (
        "the ring of weights is read one slot further",
        "convolution_mma.cuh",
        "const u8* operands = ring + stage % STAGES * slot_bytes;",
        "const u8* operands = ring + (stage + 1) % STAGES * slot_bytes;",
        "convolution",
    ),
    (
        "the next brick overwrites the one in use",
        "convolution_mma.cuh",
        "u8* next = bricks + (step + 1) % 2 * p.brick.voxels * 32;",
        "u8* next = bricks + step % 2 * p.brick.voxels * 32;",
        "convolution",
    ),
    (
        "the mosaic's ring is one plane short",
        "mosaic.cuh",
        "(i64)(plane % mosaic.ring_planes) * (mosaic.depth / 8)",
        "(i64)(plane % (mosaic.ring_planes - 1)) * (mosaic.depth / 8)",
        "mosaic",
    ),
    (
        "classes are looked up in the wrong plane of their ring",
        "interpolate.cuh",
        "mosaic.classes[(i64)(plane % mosaic.class_planes)",
        "mosaic.classes[(i64)((plane + 1) % mosaic.class_planes)",
        "interpolate",
    ),
    (
        "the shortcut's weights are those of the block's first channels",
        "convolution_mma.cuh",
        "const int chunk = first_chunk + (u32)step / (u32)p.plane_groups;",
        "const int chunk = first_chunk;",
        "convolution",
    ),
    (
        "the shortcut's weights lie where the stage's lie",
        "convolution_mma.cuh",
        "copy_async_16(to + stage_bytes + thread * 16, tap + thread * 16);",
        "copy_async_16(to + thread * 16, tap + thread * 16);",
        "convolution",
    ),
    # Arithmetic of convolutions.
    (
        "the shortcut is multiplied at another tap",
        "convolution_mma.cuh",
        "return plane == p.kernel[0] / 2 && column == p.kernel[2] / 2;",
        "return plane == 0 && column == p.kernel[2] / 2;",
        "convolution",
    ),
    (
        "a split's sums are added twice",
        "convolution_mma.cuh",
        "for (int c = 0; c < 8; c++) sums[c] += part[c];",
        "for (int c = 0; c < 8; c++) sums[c] += split == 1 ? 2 * part[c] : part[c];",
        "convolution",
    ),
    (
        "sums of splits lack the bias",
        "convolution_mma.cuh",
        "for (int c = 0; c < 8; c++) sums[c] += written.bias[string * 8 + c];",
        "for (int c = 0; c < 8; c++) sums[c] += 0;",
        "convolution",
    ),
    (
        "padding is normalised",
        "convolution_mma.cuh",
        "held.which |= 1u << i;",
        "held.which |= 1u << i | (chunk.coefficients ? (upper ? 0x10100u : 0x100u) << i : 0);",
        "convolution",
    ),
    (
        "the stride along the rows is forgotten",
        "convolution_mma.cuh",
        "p.kernel[1],\n                                    p.stride[1], p.input.rows);",
        "p.kernel[1],\n                                    1, p.input.rows);",
        "convolution",
    ),
    (
        "taps are taken in the opposite order",
        "convolution_mma.cuh",
        "const int column_tap = (u32)in_step % (u32)p.kernel[2];",
        "const int column_tap = p.kernel[2] - 1 - (u32)in_step % (u32)p.kernel[2];",
        "convolution",
    ),
    (
        "rows and channels of an operand are swapped",
        "convolution_mma.cuh",
        "a[i][0] = r[0], a[i][1] = r[2], a[i][2] = r[1], a[i][3] = r[3];",
        "a[i][0] = r[0], a[i][1] = r[1], a[i][2] = r[2], a[i][3] = r[3];",
        "convolution",
    ),
    (
        "the enlargement along the columns is forgotten",
        "convolution_mma.cuh",
        "column / source.upsample[2];\n    }\n}",
        "column;\n    }\n}",
        "convolution",
    ),
    (
        "a split begins where the one before it begins",
        "convolution_mma.cuh",
        "const int first_chunk = (int)((i64)chunks * block_index_z() / p.splits);",
        "const int first_chunk = 0;",
        "convolution",
    ),
    (
        "a sum over lanes lacks a step",
        "convolution.cuh",
        "    value += shuffle_xor(value, 8);\n",
        "",
        "convolution",
    ),
    (
        "statistics count voxels outside the tensor",
        "convolution.cuh",
        "squares += voxels[i] >= 0 ? delta * delta : 0;",
        "squares += delta * delta;",
        "convolution",
    ),
    # The mosaic.
    (
        "a mirrored tile is read one voxel off",
        "gather.cuh",
        "last - along",
        "last + 1 - along",
        "gather",
    ),
    (
        "of equal scores the later class wins",
        "head.cuh",
        "if (score > decided.highest) {",
        "if (score >= decided.highest) {",
        "classify",
    ),
    (
        "neighbours' weights are swapped",
        "interpolate.cuh",
        "shares[0] = 1 - fraction;\n        shares[1] = fraction;",
        "shares[0] = fraction;\n        shares[1] = 1 - fraction;",
        "interpolate",
    ),
    (
        "probabilities are not divided by their sum",
        "probabilities.cuh",
        "expf(score - highest) * share",
        "expf(score - highest)",
        "mosaic",
    ),
    (
        "probabilities are shared out before all threads know the highest score",
        "probabilities.cuh",
        "shares[scorer.thread] = 1 / decided.total;\n                block_barrier();",
        "shares[scorer.thread] = 1 / decided.total;",
        "mosaic",
    ),
    # The volume, and what else is read and written voxel by voxel.
    (
        "a line's deviations are taken from zero",
        "intensity.cuh",
        "const double apart = value - mean;",
        "const double apart = value;",
        "intensity",
    ),
    (
        "values at the limits count",
        "intensity.cuh",
        "if (value > p.above && value < p.below) count++, sum += value;",
        "if (value >= p.above && value < p.below) count++, sum += value;",
        "intensity",
    ),
    (
        "intensities are not clipped from above",
        "intensity.cuh",
        "(fminf(fmaxf(value, how.lower), how.upper) - how.mean)",
        "(fmaxf(value, how.lower) - how.mean)",
        "intensity",
    ),
    (
        "a resampled axis' ring is one voxel short",
        "resample.cuh",
        "place = place + 1 == p.input_ring ? 0 : place + 1;",
        "place = place + 2 >= p.input_ring ? 0 : place + 1;",
        "resample",
    ),
    (
        "slices' limits are those of their neighbours",
        "resample.cuh",
        "p.limits_axis == 1 ? inner / p.columns",
        "p.limits_axis == 1 ? inner % p.columns",
        "resample",
    ),
    (
        "a mean forgets what is pending",
        "pool.cuh",
        "sums[c] += leaky(fmaf(values[c], affine.factor[c], affine.offset[c]), slope);",
        "sums[c] += values[c];",
        "pool",
    ),
    (
        "boxes begin where the ones before end in the output",
        "pool.cuh",
        "row * p.size[1] + j;",
        "row + j;",
        "pool",
    ),
    (
        "the last block of a residual block's end runs past the tensor",
        "normalization.cuh",
        "if (voxel >= p.voxels) return;",
        "",
        "normalization",
    ),
]


def build_and_run(kernels, objects, test):
    """(whether the test was built, whether it passed, what it said)."""
    environment = {**os.environ, "VOXTILE_EMULATOR_FOLDER": str(objects)}
    command = [str(kernels / "host" / "tests" / "build_and_run.sh"), test]
    try:
        run = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return True, False, f"stopped after {SECONDS} s"
    return f"== {test}" in run.stdout, run.returncode == 0, run.stdout


def copy_kernels(to):
    """The kernels' sources, the emulator and its tests."""
    ignore = shutil.ignore_patterns("*.zip", "*.py", "__pycache__")
    shutil.copytree(KERNELS, to, ignore=ignore)


def plant(bug, scratch, objects):
    """(whether the bug was caught, how), in a copy of its own."""
    _, file, text, instead, test = bug
    source = (KERNELS / file).read_text()
    if source.count(text) != 1:
        return False, f"its place in {file} was found {source.count(text)} times, not once"
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        folder = Path(folder)
        copy_kernels(folder / "kernels")
        (folder / "kernels" / file).write_text(source.replace(text, instead))
        shutil.copytree(objects, folder / "objects")
        built, passed, said = build_and_run(folder / "kernels", folder / "objects", test)
    if not built:
        return False, "it does not compile:\n" + said[-2000:]
    if passed:
        return False, f"the tests of {test} pass"
    said = said.replace(f"{folder}/", "").split(f"== {test}\n")[-1]
    lines = [line for line in said.splitlines() if not re.match(r"ok |FAILED|\s*$", line)]
    return True, (lines[0].strip()[:110] if lines else f"the tests of {test} fail")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="bugs whose description holds this")
    parser.add_argument("--list", action="store_true", help="list the bugs and end")
    arguments = parser.parse_args()
    bugs = [bug for bug in BUGS if arguments.only in bug[0]]
    if not bugs:
        sys.exit(f"kernels/host/mutate.py: no bug's description holds {arguments.only!r}")
    if arguments.list:
        for what, file, *_ in bugs:
            print(f"{file:24} {what}")
        return
    started = time.monotonic()
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        objects = scratch / "objects"
        copy_kernels(scratch / "kernels")
        for test in sorted({bug[4] for bug in bugs}):
            _, passed, said = build_and_run(scratch / "kernels", objects, test)
            if not passed:
                sys.exit(f"kernels/host/mutate.py: {test} fails on the kernels as they are:\n{said}")
        for program in objects.glob("test_*"):
            program.unlink()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda bug: plant(bug, scratch, objects), bugs)
            for (what, file, *_), (caught, how) in zip(bugs, results):
                print(f"{'caught' if caught else 'MISSED'}  {file}: {what}  [{how}]", flush=True)
                missed += not caught
    seconds = time.monotonic() - started
    print(f"{len(bugs) - missed} of {len(bugs)} planted bugs caught in {seconds:.0f} s")
    if missed:
        sys.exit(f"kernels/host/mutate.py: {missed} bugs were not caught")


if __name__ == "__main__":
    main()
