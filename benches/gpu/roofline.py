#!/usr/bin/env python3
"""What bounds each layer of STU-Net on an H100: bytes, operations, and milliseconds.

usage: benches/gpu/roofline.py            write the tables into docs/kernels.md
       benches/gpu/roofline.py --check    fail if they are stale

A model, not a measurement. Its layers are the operations that src/model/families/stunet.rs makes
for a patch of 128^3 voxels, and its tiles those of kernels/convolution*.cuh.
"""

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
BEGIN = "<!-- benches/gpu/roofline.py writes from here -->\n"
END = "<!-- to here -->\n"

# Channels per level and residual blocks per stage; stride into each level.
SIZES = {
    "S": ([16, 32, 64, 128, 256, 256], 1),
    "B": ([32, 64, 128, 256, 512, 512], 1),
    "L": ([64, 128, 256, 512, 1024, 1024], 2),
    "H": ([96, 192, 384, 768, 1536, 1536], 3),
}
STRIDES = [(2, 2, 2)] * 4 + [(1, 1, 2)]
PATCH = (128, 128, 128)


@dataclass
class Source:
    """A tensor as a convolution reads it."""

    channels: int
    shape: tuple  # as it is stored
    upsample: tuple = (1, 1, 1)


@dataclass
class Layer:
    """One operation of the network."""

    name: str
    kind: str  # "conv", "join", "gather", "blend"
    sources: list
    channels: int
    shape: tuple  # of the output
    kernel: int = 1
    stride: tuple = (1, 1, 1)
    adds: bool = False  # reads the main branch, too
    shortcut: bool = False  # makes the 1x1x1 convolution of the block's shortcut, too

    @property
    def inputs(self):
        return sum(source.channels for source in self.sources)

    @property
    def voxels(self):
        return math.prod(self.shape)

    @property
    def operations(self):
        """Two for each multiplication of the network as published."""
        if self.kind != "conv":
            return 0
        return 2 * self.inputs * self.channels * self.taps * self.voxels

    @property
    def taps(self):
        return self.kernel**3 + self.shortcut

    @property
    def bytes(self):
        """Of device memory: each tensor once, in half precision; volume and mosaic in single."""
        if self.kind == "gather":
            return self.voxels * self.channels * (4 + 2)
        if self.kind == "blend":
            # Features; sums, read and written; window; sums of weights, read and written.
            return self.voxels * (padded(self.channels) * (2 + 8) + 4 + 8)
        total = 0
        for source in self.sources:
            read = padded(source.channels) * math.prod(source.shape)
            if self.kernel == 1:
                # Of what a strided 1x1x1 convolution skips, neighbours along the rows come along:
                # a sector of 32 bytes holds two of them.
                read /= self.stride[0] * self.stride[1]
            total += 2 * read
        output = 2 * padded(self.channels) * self.voxels
        total += output * (2 if self.adds or self.shortcut else 1)
        if self.kind == "conv":
            total += 2 * padded(self.inputs) * padded(self.channels) * self.taps
        return total


def padded(channels):
    """Activations hold a multiple of 16 channels; the network's input holds what it has."""
    return channels if channels < 4 else -(-channels // 16) * 16


def layers(size):
    """The operations of one tile, in the order they run."""
    channels, blocks = SIZES[size]
    shapes = [PATCH]
    for stride in STRIDES:
        shapes.append(tuple(extent // s for extent, s in zip(shapes[-1], stride)))
    result = [Layer("gather", "gather", [], 1, PATCH)]

    def stage(name, sources, width, shape, stride):
        main = Source(width, shape)
        for number in range(blocks):
            block = f"{name}.{number}"
            first = sources if number == 0 else [main]
            step = stride if number == 0 else (1, 1, 1)
            conv1 = Layer(f"{block}.conv1", "conv", first, width, shape, 3, step)
            last = Layer(f"{block}.join", "join", [main], width, shape, adds=True)
            if number == 0:
                conv3 = Layer(f"{block}.conv3", "conv", first, width, shape, 1, step, adds=True)
                conv1.shortcut = max(step) > 1 and faster_together(conv1, conv3)
                last = replace(last, name=conv3.name) if conv1.shortcut else conv3
            result.append(conv1)
            result.append(Layer(f"{block}.conv2", "conv", [main], width, shape, 3))
            result.append(last)
        return main

    last = Source(1, PATCH)
    skips = []
    for level, width in enumerate(channels):
        stride = STRIDES[level - 1] if level else (1, 1, 1)
        name = f"conv_blocks_context.{level}"
        last = stage(name, [last], width, shapes[level], stride)
        skips.append(last)
    for up in range(len(STRIDES)):
        level = len(STRIDES) - 1 - up
        width = channels[level]
        name = f"upsample_layers.{up}.conv"
        result.append(Layer(name, "conv", [last], width, last.shape))
        raised = Source(width, last.shape, STRIDES[level])
        name = f"conv_blocks_localization.{up}"
        last = stage(name, [raised, skips[level]], width, shapes[level], (1, 1, 1))
    return [*result, Layer("blend", "blend", [last], channels[0], PATCH)]


# ---- how the layers are cut into blocks, as src/device/cuda/tiles.rs does

MULTIPROCESSORS = 132
LINES, COLUMNS, WARP_LINES, STAGES = 32, 8, 8, 3
PRODUCTS_PER_CYCLE, STRINGS_PER_CYCLE, CACHE_BYTES_PER_CYCLE = 1024, 2, 24
LAUNCH_CYCLES = 4000
LARGEST_SHARED_BYTES = 99 << 10
MEMORY_BYTES_PER_CYCLE = 13
RESIDENT = {16: 4, 32: 4, 48: 2, 64: 2, "shortcut": 1}


@dataclass
class Cut:
    """The launch of a convolution."""

    kernel: str
    width: int  # output channels of a block
    planes: int  # of a tile
    rows: int
    plane_groups: int
    splits: int
    grid: tuple
    shared_bytes: int
    brick_bytes: int  # that a block reads of 16 input channels
    cycles: int  # about, of the GPU, without memory and launch
    resident: int  # blocks of a multiprocessor


def ceil_div(value, by):
    return -(-value // by)


def cut(layer):
    """How a convolution is launched on a GPU of 132 multiprocessors."""
    planar = layer.inputs < 4
    outputs = padded(layer.channels)
    cost = lambda width: ceil_div(outputs, width) * (width + 16)  # noqa: E731
    width = 32 if planar else min([64, 48, 32, 16], key=cost)
    if layer.shortcut:
        width = 64
    resident = RESIDENT["shortcut" if layer.shortcut else width]
    taps, chunks = layer.taps, padded(layer.inputs) // 16
    stride = layer.stride if layer.kernel == 3 else (1, 1, 1)

    def extent(planes, groups):
        tile = (planes, LINES // planes, COLUMNS)
        axes = [(t - 1) * s + layer.kernel for t, s in zip(tile, stride)]
        stored = groups * planes if groups > 1 else axes[0]
        return axes, 2 * stored * axes[1] * axes[2]

    def shared_bytes(planes, groups, splits):
        axes, strings = extent(planes, groups)
        if planar:
            table = 4 * ceil_div(layer.inputs * layer.kernel**3, 16) * 16
            used = table + ceil_div(2 * layer.inputs * math.prod(axes), 16) * 16
        else:
            steps = ceil_div(chunks, splits) * groups
            stage = (layer.kernel + layer.shortcut) * width * 32
            used = 16 * strings // groups * min(steps, 2) + STAGES * stage
            used += 4 * len(layer.sources) * (axes[0] + axes[1] * axes[2])
        return max(used, (8 if layer.shortcut else 4) * width * 12)

    def cycles(planes, groups):
        shares = layer.kernel == 1 or (stride[1] == 1 and LINES // planes % WARP_LINES == 0)
        products = LINES * COLUMNS * width * 16 * taps * (8 if shares else 9) // 8
        return products // PRODUCTS_PER_CYCLE + extent(planes, groups)[1] // STRINGS_PER_CYCLE

    def tiles(planes):
        tile = (planes, LINES // planes, COLUMNS)
        return math.prod(ceil_div(n, t) for n, t in zip(layer.shape, tile))

    options = [(1 << shift, groups) for shift in range(6) for groups in (1, 3)]
    if planar or layer.kernel == 1:
        options = [(planes, groups) for planes, groups in options if groups == 1]
    options = [option for option in options if shared_bytes(*option, 1) <= LARGEST_SHARED_BYTES]
    planes, groups = min(options, key=lambda option: tiles(option[0]) * cycles(*option))
    blocks = tiles(planes) * ceil_div(outputs, width)
    values = outputs * layer.voxels * (2 if layer.shortcut else 1)

    def time(splits):
        waves = ceil_div(blocks * splits, MULTIPROCESSORS * resident)
        time = waves * ceil_div(chunks, splits) * cycles(planes, groups) * resident
        if splits > 1:
            share = CACHE_BYTES_PER_CYCLE * MULTIPROCESSORS
            time += LAUNCH_CYCLES + values * 8 * splits // share
        return time

    splits = 1 if planar else min(range(1, min(chunks, 32) + 1), key=time)
    kernel = "conv_direct_half" if planar else f"conv_mma_{width}"
    return Cut(
        kernel=kernel + ("_shortcut" if layer.shortcut else ""),
        width=width,
        planes=planes,
        rows=LINES // planes,
        plane_groups=groups,
        splits=splits,
        grid=(tiles(planes), ceil_div(outputs, width), splits),
        shared_bytes=shared_bytes(planes, groups, splits),
        brick_bytes=16 * extent(planes, groups)[1],
        cycles=time(splits),
        resident=resident,
    )


def cycles(layer):
    """About how many cycles a convolution on the tensor cores takes, as tiles.rs counts them."""
    skipped = 1 if layer.kernel > 1 else layer.stride[0] * layer.stride[1]
    read = sum(padded(source.channels) * math.prod(source.shape) for source in layer.sources)
    tensors = 1 + layer.adds + layer.shortcut
    values = read // skipped + tensors * padded(layer.channels) * layer.voxels
    return max(cut(layer).cycles, memory_cycles(values)) + LAUNCH_CYCLES


def memory_cycles(values):
    return 2 * values // (MEMORY_BYTES_PER_CYCLE * MULTIPROCESSORS)


def faster_together(conv1, conv3):
    """Whether a strided block's first convolution makes its shortcut's, too."""
    join = memory_cycles(3 * padded(conv1.channels) * conv1.voxels) + LAUNCH_CYCLES
    return cycles(replace(conv1, shortcut=True)) + join < cycles(conv1) + cycles(conv3)


# ---- the model

# Measured on an H100 SXM elsewhere, by others: an 8192^3 product of half precision, and a copy in
# device memory, read and written.
PRODUCT_RATE = 798e12
MEMORY_RATE = 3.0e12
# Share of that product's rate that mma.sync reaches on Hopper; wgmma alone reaches all of it.
MMA_SYNC_SHARE = 0.64
# Of the second-level cache: an assumption.
CACHE_RATE = 5.5e12
# From one launch to the next within a graph: an assumption.
LAUNCH_SECONDS = 2e-6


@dataclass
class Estimate:
    """What bounds a layer, in seconds."""

    products: float  # the layer's own multiplications, at the rate of mma.sync
    memory: float  # each tensor once
    blocks: float  # what the blocks multiply, what lies outside the tensor included
    cache: float  # what the blocks read and write, halos and weights again for each
    waves: float  # how many times longer the last, partly filled wave of blocks makes it
    launches: int

    @property
    def bound(self):
        """The least that any kernel with mma.sync could take."""
        return max(self.products, self.memory)

    @property
    def expected(self):
        """What these tiles should take, if nothing but what is listed holds them up."""
        time = max(self.blocks * self.waves, self.memory, self.cache)
        return time + self.launches * LAUNCH_SECONDS

    @property
    def by(self):
        """Which one it is."""
        names = {"products": self.blocks * self.waves, "memory": self.memory, "cache": self.cache}
        return max(names, key=names.get)


def estimate(layer):
    """The model of one layer."""
    memory = layer.bytes / MEMORY_RATE
    if layer.kind != "conv":
        return Estimate(0, memory, 0, layer.bytes / CACHE_RATE, 1, 1)
    rate = PRODUCT_RATE * MMA_SYNC_SHARE
    launch = cut(layer)
    tiles, groups, splits = launch.grid
    inputs = padded(layer.inputs)
    if layer.inputs < 4:  # its taps are filled up, not its channels
        inputs = ceil_div(layer.inputs * layer.kernel**3, 16) * 16 / layer.kernel**3
    multiplied = tiles * LINES * COLUMNS * groups * launch.width * inputs * layer.taps
    chunks = inputs / 16
    read = tiles * groups * chunks * (launch.brick_bytes + 32 * launch.width * layer.taps)
    outputs = layer.voxels * padded(layer.channels) * (2 if layer.shortcut else 1)
    written = outputs * (2 if splits == 1 else 8 * splits + 2) + (2 * outputs if layer.adds else 0)
    resident = MULTIPROCESSORS * launch.resident
    blocks = tiles * groups * splits
    # Only as many blocks as there are multiprocessors are needed to keep all tensor cores busy.
    waves = ceil_div(blocks, resident) * resident / blocks if blocks > resident else 1
    waves = max(waves, MULTIPROCESSORS / blocks)
    statistics = layer.name.endswith(("conv1", "conv2"))
    return Estimate(
        products=layer.operations / rate,
        memory=memory,
        blocks=2 * multiplied / rate,
        cache=(read + written) / CACHE_RATE,
        waves=waves,
        launches=1 + (splits > 1) + statistics,
    )


def bound_seconds(layer):
    """The least that a layer can take with mma.sync."""
    return estimate(layer).bound


# ---- the tables


def summary():
    heads = ["network", "operations, 10⁹", "memory, MB", "products, ms", "memory, ms", "bound, ms"]
    lines = [f"| {' | '.join(heads)} | expected, ms |", "|" + "---|" * 7]
    for size in SIZES:
        rows = [(layer, estimate(layer)) for layer in layers(size)]
        operations = sum(layer.operations for layer, _ in rows) / 1e9
        moved = sum(layer.bytes for layer, _ in rows) / 1e6
        products, memory, bound, expected = (
            1e3 * sum(getattr(row, name) for _, row in rows)
            for name in ("products", "memory", "bound", "expected")
        )
        lines.append(
            f"| STU-Net-{size} | {operations:.0f} | {moved:.0f} | {products:.2f} | {memory:.2f} "
            f"| {bound:.2f} | {expected:.2f} |"
        )
    return lines


def table(size):
    lines = [f"### STU-Net-{size}", ""]
    lines.append(
        "| layer | in → out | voxels | kernel | tile | splits | blocks | shared, KiB "
        "| operations, 10⁹ | memory, MB | bound, µs | expected, µs | by |"
    )
    lines.append("|" + "---|" * 13)
    for layer in layers(size):
        row = estimate(layer)
        if layer.kind == "conv":
            launch = cut(layer)
            groups = f" / {launch.plane_groups}" if launch.plane_groups > 1 else ""
            how = (
                f"`{launch.kernel}` | {launch.planes} × {launch.rows} × 8{groups} "
                f"| {launch.splits} | {math.prod(launch.grid)} | {launch.shared_bytes / 1024:.0f}"
            )
        else:
            how = f"`{layer.kind}_half` | | | |"
        voxels = " × ".join(map(str, layer.shape))
        inputs = layer.inputs or layer.channels
        lines.append(
            f"| {layer.name} | {inputs} → {layer.channels} | {voxels} | {how} "
            f"| {layer.operations / 1e9:.2f} | {layer.bytes / 1e6:.1f} | {row.bound * 1e6:.1f} "
            f"| {row.expected * 1e6:.1f} | {row.by} |"
        )
    return [*lines, ""]


def document():
    lines = summary() + [""]
    for size in SIZES:
        lines += table(size)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    text = DOCUMENT.read_text()
    if text.count(BEGIN) != 1:
        sys.exit(f"benches/gpu/roofline.py: {DOCUMENT} lacks the line where the tables begin")
    before, rest = text.split(BEGIN)
    current, after = rest.split(END, 1)
    new = document()
    if arguments.check:
        if current != new:
            sys.exit("the tables in docs/kernels.md are stale: run benches/gpu/roofline.py")
    else:
        DOCUMENT.write_text(before + BEGIN + new + END + after)
        print("\n".join(summary()))


if __name__ == "__main__":
    main()
