#!/usr/bin/env python3
"""Small networks of one to four operations, with every tensor as PyTorch computes it.

usage: make_ops.py OUT_DIR                     (OUT_DIR is tests/fixtures/ops)

OUT_DIR receives ops.json and one NAME.safetensors per case. ops.json lists the cases; each is a
network as `net` describes one:

  name, description   in plain terms
  file                the .safetensors file with the case's values, all float32
  tolerance           largest relative error (norm of the difference over the norm) per tensor
  tensors             name -> [channels, shape0, shape1, shape2]; "input" is what the network reads
  operations          in the order they run, each with
    operation         "conv" (a 3-D convolution, padding (kernel - 1) / 2, over the concatenation of
                      its sources) or "join" (leaky(normalised main + shortcut))
    sources           tensor, upsample (nearest neighbour), normalization (or null), per source;
                      the padding stays zero after normalisation
    weight, bias      names in the file; bias may be null
    kernel, stride    per axis
    statistics        whether mean and biased variance of the output are kept; the file has them as
                      OUTPUT.mean and OUTPUT.variance
    add_normalized    null, or main and normalization: leaky(normalised main + sum) is written
    output            the tensor it writes
  normalization       scale and shift (names in the file), epsilon, slope:
                      leaky((x - mean) / sqrt(variance + epsilon) * scale + shift) with the
                      statistics of the tensor it is applied to; slope 1 is no activation.
                      In add_normalized and join the slope is applied to the sum.

The file has every tensor under its name. Expected values are computed in double precision and
rounded once; single precision agrees to better than the tolerance, which is checked here.

needs: pip install torch==2.11.0 safetensors
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

EPSILON, SLOPE = 1e-5, 0.01


class Case:
    """Builds one case; values are drawn as it grows."""

    def __init__(self, name, description, channels, shape, seed, tolerance=1e-5):
        self.entry = dict(name=name, description=description, file=f"{name}.safetensors",
                          tolerance=tolerance, tensors={"input": [channels, *shape]},
                          operations=[])
        self.generator = torch.Generator().manual_seed(seed)
        self.values = {"input": self.random(channels, *shape)}

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def shape_of(self, source):
        channels, *shape = self.entry["tensors"][source["tensor"]]
        return channels, [n * u for n, u in zip(shape, source["upsample"])]

    def conv(self, sources, channels, output, kernel=(3, 3, 3), stride=(1, 1, 1), bias=True,
             statistics=False, add_normalized=None, weight=None):
        shapes = [self.shape_of(source) for source in sources]
        inputs = sum(channels for channels, _ in shapes)
        assert all(shape == shapes[0][1] for _, shape in shapes)
        if weight is None:
            scale = (inputs * kernel[0] * kernel[1] * kernel[2]) ** -0.5
            weight = self.random(channels, inputs, *kernel) * scale
        self.values[f"{output}.weight"] = weight
        if bias:
            self.values[f"{output}.bias"] = self.random(channels)
        self.entry["tensors"][output] = [
            channels, *[-(-n // s) for n, s in zip(shapes[0][1], stride)]]
        self.entry["operations"].append(dict(
            operation="conv", sources=sources, weight=f"{output}.weight",
            bias=f"{output}.bias" if bias else None, kernel=list(kernel), stride=list(stride),
            statistics=statistics, add_normalized=add_normalized, output=output))
        return output

    def join(self, main, normalization, shortcut, output):
        self.entry["tensors"][output] = self.entry["tensors"][main]
        self.entry["operations"].append(dict(
            operation="join", main=main, normalization=normalization, shortcut=shortcut,
            output=output))
        return output

    def normalization(self, tensor):
        """Parameters that make it matter whether the padding is zero before or after."""
        channels = self.entry["tensors"][tensor][0]
        self.values[f"{tensor}.scale"] = 1 + 0.3 * self.random(channels)
        self.values[f"{tensor}.shift"] = 1.5 + 0.5 * self.random(channels)
        return dict(scale=f"{tensor}.scale", shift=f"{tensor}.shift", epsilon=EPSILON, slope=SLOPE)


def source(tensor, upsample=(1, 1, 1), normalization=None):
    return dict(tensor=tensor, upsample=list(upsample), normalization=normalization)


def normalized(x, normalization, values):
    y = F.instance_norm(x[None], weight=values[normalization["scale"]],
                        bias=values[normalization["shift"]], eps=normalization["epsilon"])
    return y[0]


def computed(entry, values):
    """Every tensor, in the precision of `values`."""
    found = {"input": values["input"]}
    for op in entry["operations"]:
        if op["operation"] == "join":
            n = op["normalization"]
            y = normalized(found[op["main"]], n, values) + found[op["shortcut"]]
            found[op["output"]] = F.leaky_relu(y, n["slope"])
            continue
        parts = []
        for s in op["sources"]:
            x, n = found[s["tensor"]], s["normalization"]
            if n:
                x = F.leaky_relu(normalized(x, n, values), n["slope"])
            parts.append(F.interpolate(x[None], scale_factor=[float(u) for u in s["upsample"]],
                                       mode="nearest")[0])
        bias = values[op["bias"]] if op["bias"] else None
        y = F.conv3d(torch.cat(parts)[None], values[op["weight"]], bias, op["stride"],
                     [(k - 1) // 2 for k in op["kernel"]])[0]
        if op["statistics"]:
            found[op["output"] + ".mean"] = y.mean((1, 2, 3))
            found[op["output"] + ".variance"] = y.var((1, 2, 3), correction=0)
        if op["add_normalized"]:
            n = op["add_normalized"]["normalization"]
            y = y + normalized(found[op["add_normalized"]["main"]], n, values)
            y = F.leaky_relu(y, n["slope"])
        found[op["output"]] = y
    return found


def convolutions():
    table = [  # kernel, stride, shape, input channels, output channels
        ([3, 3, 3], [1, 1, 1], [5, 7, 9], 3, 5),
        ([3, 3, 3], [2, 2, 2], [6, 5, 9], 3, 17),
        ([3, 3, 3], [1, 2, 2], [3, 7, 8], 17, 3),
        ([3, 3, 3], [2, 1, 1], [5, 4, 6], 1, 24),
        ([3, 3, 3], [1, 1, 2], [4, 3, 17], 5, 3),
        ([3, 3, 3], [2, 2, 1], [7, 6, 5], 3, 8),
        ([3, 3, 3], [1, 1, 1], [1, 6, 11], 5, 3),
        ([3, 3, 3], [2, 2, 2], [4, 1, 7], 3, 17),
        ([3, 3, 3], [1, 2, 1], [3, 5, 1], 8, 3),
        ([3, 3, 3], [1, 1, 1], [1, 1, 1], 3, 5),
        ([3, 3, 3], [1, 1, 1], [2, 3, 26], 3, 8),
        ([1, 1, 1], [1, 1, 1], [2, 3, 5], 40, 24),
        ([1, 1, 1], [2, 2, 2], [3, 4, 3], 17, 40),
        ([1, 1, 1], [1, 2, 2], [1, 5, 6], 24, 5),
        ([1, 3, 3], [1, 2, 2], [3, 6, 5], 5, 8),
    ]
    for number, (kernel, stride, shape, inputs, outputs) in enumerate(table):
        name = "conv_{}_stride_{}_{}x{}x{}_{}_to_{}".format(
            "x".join(map(str, kernel)) if len(set(kernel)) > 1 else kernel[0],
            "".join(map(str, stride)), *shape, inputs, outputs)
        case = Case(name, f"a convolution with bias, {inputs} to {outputs} channels", inputs,
                    shape, number)
        case.conv([source("input")], outputs, "output", kernel, stride)
        yield case


def concatenations():
    for seed, (down, shape) in enumerate([([2, 2, 2], [4, 4, 6]), ([1, 1, 2], [3, 5, 6])], 100):
        name = "concatenation_upsampled_by_" + "".join(map(str, down))
        case = Case(name, f"two sources, the first enlarged by {down}, the second normalised as it "
                    "is read", 3, shape, seed)
        case.conv([source("input")], 8, "deep", stride=down)
        case.conv([source("input")], 5, "skip", [1, 1, 1], bias=False, statistics=True)
        skip = source("skip", normalization=case.normalization("skip"))
        case.conv([source("deep", down), skip], 5, "output", bias=False, statistics=True)
        yield case


def normalizations():
    for seed, (stride, shape) in enumerate(
            [([1, 1, 1], [3, 5, 7]), ([2, 2, 1], [4, 5, 3]), ([1, 2, 2], [1, 7, 6])], 200):
        name = "normalized_on_read_stride_" + "".join(map(str, stride))
        case = Case(name, "a convolution that normalises and activates its source as it reads; the "
                    "padding is zero after that", 3, shape, seed)
        case.conv([source("input")], 8, "middle", bias=False, statistics=True)
        middle = source("middle", normalization=case.normalization("middle"))
        case.conv([middle], 5, "output", stride=stride, bias=False, statistics=True)
        yield case


def cancellation():
    case = Case("statistics_of_mean_1000_deviation_1", "means near 1000 and deviations near 1, "
                "which E[x^2] - E[x]^2 can't tell in single precision; the convolution copies its "
                "input exactly", 3, [4, 7, 9], 300, tolerance=2e-5)
    # Multiples of 1/64 of this size are exact in single precision.
    case.values["input"] = 1000 + (case.values["input"] * 64).round() / 64
    copy = torch.eye(3).reshape(3, 3, 1, 1, 1)
    case.conv([source("input")], 3, "copied", [1, 1, 1], bias=False, statistics=True, weight=copy)
    copied = source("copied", normalization=case.normalization("copied"))
    case.conv([copied], 3, "output")
    yield case


def blocks():
    for seed, stride in enumerate([[1, 1, 1], [2, 2, 2], [1, 2, 2]], 400):
        name = "block_with_projection_stride_" + "".join(map(str, stride))
        case = Case(name, "a residual block whose 1x1x1 shortcut ends it: leaky(normalised main + "
                    "sum)", 5, [3, 5, 4] if stride[0] == 1 else [4, 5, 6], seed)
        case.conv([source("input")], 6, "first", stride=stride, bias=False, statistics=True)
        first = source("first", normalization=case.normalization("first"))
        case.conv([first], 6, "main", bias=False, statistics=True)
        end = dict(main="main", normalization=case.normalization("main"))
        case.conv([source("input")], 6, "output", [1, 1, 1], stride, add_normalized=end)
        yield case
    case = Case("block_with_identity", "a residual block whose shortcut is its input", 5, [3, 4, 5],
                500)
    case.conv([source("input")], 5, "stem", [1, 1, 1])
    case.conv([source("stem")], 5, "first", bias=False, statistics=True)
    first = source("first", normalization=case.normalization("first"))
    case.conv([first], 5, "main", bias=False, statistics=True)
    case.join("main", case.normalization("main"), "stem", "output")
    yield case


def main(out):
    torch.set_num_threads(2)
    os.makedirs(out, exist_ok=True)
    index = []
    for family in (convolutions, concatenations, normalizations, cancellation, blocks):
        for case in family():
            double = {name: value.double() for name, value in case.values.items()}
            expected = computed(case.entry, double)
            for name, single in computed(case.entry, case.values).items():
                error = ((single - expected[name]).norm() / expected[name].norm()).item()
                assert error < case.entry["tolerance"], (case.entry["name"], name, error)
            save_file({**case.values, **{n: t.float().contiguous() for n, t in expected.items()}},
                      os.path.join(out, case.entry["file"]))
            index.append(case.entry)
    with open(os.path.join(out, "ops.json"), "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in index) + "\n]\n")
    print(len(index), "cases")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
