#!/usr/bin/env python3
"""What the compiler made of the kernels: resources, instructions, and how many blocks fit.

usage: kernels/check.py            check images.zip and write the table in docs/kernels.md
       kernels/check.py --check    check images.zip, and that the table is current

Fails if a kernel spills registers or keeps anything in local memory, if one that multiplies on the
tensor cores does not use the instructions that were meant, or if a block does not fit.

Reads images.zip with NVIDIA's disassembler, which build.py's cache folder holds.
"""

import argparse
import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import build

sys.path.insert(0, str(build.KERNELS.parent / "benches" / "gpu"))
import roofline  # noqa: E402

DOCUMENT = build.KERNELS.parent / "docs" / "kernels.md"
PARAMETERS = build.KERNELS / "parameters.cuh"
BEGIN = "<!-- kernels/check.py writes from here -->\n"
END = "<!-- to here -->\n"

# Of a multiprocessor, by compute capability (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability"): warps, blocks, bytes of shared memory, and the most that
# one block may have.
Limits = collections.namedtuple("Limits", "warps blocks shared block_shared")
LIMITS = {
    "sm_80": Limits(64, 32, 164 << 10, 163 << 10),
    "sm_86": Limits(48, 16, 100 << 10, 99 << 10),
    "sm_89": Limits(48, 24, 100 << 10, 99 << 10),
    "sm_90a": Limits(64, 32, 228 << 10, 227 << 10),
    "sm_100": Limits(64, 32, 228 << 10, 227 << 10),
    "sm_120": Limits(48, 24, 100 << 10, 99 << 10),
}
REGISTERS = 65536
# Registers are handed out to a warp in this many, shared memory to a block in this many bytes, and
# the system keeps some of the latter for itself.
REGISTER_UNIT = 256
SHARED_UNIT = 128
SHARED_RESERVED = 1024

# What a kernel whose name begins so must contain: the tensor cores' product, the load of its
# operand from shared memory, and the copy to shared memory that needs no register.
MEANT = {"conv_mma": ("HMMA", "LDSM", "LDGSTS"), "conv_direct_half": ("HMMA",)}
# Loads and stores of local memory: spilled registers, or arrays indexed at run time.
NEVER = ("LDL", "STL")

Kernel = collections.namedtuple("Kernel", "threads registers shared stack instructions")


def cuobjdump(*arguments):
    folder = build.tools("13.5") / "cu13" / "bin"
    command = [str(folder / "cuobjdump"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(folder)})
    if run.returncode:
        raise build.Failure(f"{' '.join(command)}: {run.stderr.strip()}")
    return run.stdout


def read_image(path):
    """Name -> Kernel of a cubin."""
    threads = {}
    for name, attributes in re.findall(
        r"^\.nv\.info\.(\w+)\n(.*?)(?=^\.|\Z)", cuobjdump("-elf", path), re.MULTILINE | re.DOTALL
    ):
        bound = re.search(r"EIATTR_(?:MAX_THREADS|REQNTID)\s+.*\n\s+Value:\s+(.*)", attributes)
        if bound:
            x, y, z = (int(value, 16) for value in bound[1].split())
            threads[name] = x * y * z
    code = {}
    for function in cuobjdump("-sass", path).split("\t\tFunction : ")[1:]:
        name = function.split("\n", 1)[0].strip()
        lines = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", function, re.M)
        code[name] = collections.Counter(lines)
    kernels = {}
    for name, registers, stack, shared, local in re.findall(
        r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        cuobjdump("-res-usage", path),
    ):
        if name not in threads:
            raise build.Failure(f"{name} has no __launch_bounds__")
        # From compute capability 9.0 on, what the system keeps is counted in.
        kept = SHARED_RESERVED if re.search(r"sm_(9|1\d)\d", Path(path).name) else 0
        kernels[name] = Kernel(
            threads[name], int(registers), int(shared) - kept, int(stack) + int(local), code[name]
        )
    if not kernels:
        raise build.Failure(f"{path} has no kernels")
    return kernels


def round_up(value, unit):
    return -(-value // unit) * unit


def resident_blocks(kernel, shared, limits):
    """Blocks of a kernel that run at a time on one multiprocessor."""
    warps = -(-kernel.threads // 32)
    registers = round_up(kernel.registers * 32, REGISTER_UNIT) * warps
    return min(
        limits.blocks,
        limits.warps // warps,
        REGISTERS // registers,
        limits.shared // round_up(shared + SHARED_RESERVED, SHARED_UNIT),
    )


def dynamic_shared(name):
    """Bytes of dynamic shared memory of a launch; all that kernels have is dynamic. Convolutions
    differ: 3x3x3 of stride 1 over 64 channels here, which tiles of 4 x 8 x 8 voxels cut best; with
    a shortcut of stride 2."""
    constants = dict(
        re.findall(r"^const int (\w+_SHARED_BYTES) = (\d+);", PARAMETERS.read_text(), re.MULTILINE)
    )
    if name.startswith("conv_mma") or name == "conv_direct_half":
        channels, width = (1, 32) if name == "conv_direct_half" else (64, int(name.split("_")[2]))
        source = roofline.Source(channels, (128, 128, 128))
        layer = roofline.Layer(name, "conv", [source], width, source.shape, 3)
        if name.endswith("shortcut"):
            layer.shortcut, layer.stride, layer.shape = True, (2, 2, 2), (64, 64, 64)
        return roofline.cut(layer).shared_bytes
    if name == "interpolate":
        return int(constants["INTERPOLATE_SHARED_BYTES"])
    if name == "classify" or name.startswith("blend_probabilities"):
        return int(constants["HEAD_SHARED_BYTES"])
    return {"coefficients": 2048, "conv_finish": 768}.get(name, 0)


def faults(image, name, kernel, shared):
    """What is wrong with a kernel."""
    limits = LIMITS[image]
    if kernel.stack:
        yield f"{kernel.stack} bytes of local memory"
    for instruction in NEVER:
        if kernel.instructions[instruction]:
            yield f"{kernel.instructions[instruction]} {instruction}"
    for prefix, instructions in MEANT.items():
        for instruction in instructions if name.startswith(prefix) else ():
            if not kernel.instructions[instruction]:
                yield f"no {instruction}"
    if shared > limits.block_shared:
        yield f"{shared} bytes of shared memory, at most {limits.block_shared} are there"
    elif not resident_blocks(kernel, shared, limits):
        yield "not one block fits"


def table(images):
    """The kernels in Markdown."""
    lines = ["| kernel | threads | shared memory, bytes | " + " | ".join(images) + " |"]
    lines.append("|---|---|---|" + "---|" * len(images))
    for name in sorted(next(iter(images.values()))):
        cells = []
        for image, kernels in images.items():
            kernel, limits = kernels[name], LIMITS[image]
            shared = kernel.shared + dynamic_shared(name)
            blocks = resident_blocks(kernel, shared, limits)
            occupancy = round(100 * blocks * -(-kernel.threads // 32) / limits.warps)
            cells.append(f"{kernel.registers}, {blocks}, {occupancy} %")
        lines.append(f"| `{name}` | {kernel.threads} | {shared} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    images = {}
    with tempfile.TemporaryDirectory() as scratch:
        for file, content in build.read_archive().items():
            if file.endswith(".cubin"):
                path = Path(scratch) / file
                path.write_bytes(content)
                images[path.stem] = read_image(str(path))
    wrong = []
    for image, kernels in images.items():
        if kernels.keys() != next(iter(images.values())).keys():
            wrong.append(f"{image} has other kernels than {next(iter(images))}")
        for name, kernel in kernels.items():
            shared = kernel.shared + dynamic_shared(name)
            wrong += [f"{image} {name}: {fault}" for fault in faults(image, name, kernel, shared)]
    if wrong:
        raise build.Failure("\n".join(["the images are not as meant:", *wrong]))
    text = DOCUMENT.read_text()
    if text.count(BEGIN) != 1:
        raise build.Failure(f"{DOCUMENT} lacks the line where the table begins")
    before, rest = text.split(BEGIN)
    current, after = rest.split(END, 1)
    new = table(images)
    if arguments.check:
        if current != new:
            raise build.Failure("the table in docs/kernels.md is stale: run kernels/check.py")
    else:
        DOCUMENT.write_text(before + BEGIN + new + END + after)
        print(new, end="")
    count = sum(len(kernels) for kernels in images.values())
    print(f"{count} kernels in {len(images)} images: nothing spilled, tensor cores used as meant")


if __name__ == "__main__":
    try:
        main()
    except build.Failure as failure:
        sys.exit(f"kernels/check.py: {failure}")
