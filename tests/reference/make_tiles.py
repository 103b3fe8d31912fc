#!/usr/bin/env python3
"""Small STU-Nets as voxtile packages, a patch for each, and the scores PyTorch computes of it.

usage: make_tiles.py OUT_DIR           (OUT_DIR is tests/fixtures/tiles)

Each case leaves NAME.model.safetensors and NAME.safetensors: patch (channels, a0, a1, a2), scores
(folds, classes, a0, a1, a2), PyTorch's double precision rounded to float32; metadata: error, the
norm of the difference between PyTorch's single and double precision, relative.

needs: pip install torch==2.11.0 safetensors
"""

import os
import sys

import torch
from safetensors.torch import save_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from pack import DTYPES, pack  # noqa: E402

CASES = {  # the released plan's strides in small; odd widths and two blocks; folds; stored types
    "released_strides": dict(channels=[6, 8, 10, 12, 12, 12], patch=[32, 16, 32],
                             strides=[[2, 2, 2]] * 4 + [[1, 1, 2]], classes=5),
    "odd_widths": dict(channels=[5, 9, 18], depth=2, inputs=2, classes=3, patch=[6, 12, 20],
                       strides=[[1, 2, 2], [2, 2, 2]], dtype="f32"),
    "two_folds": dict(channels=[4, 6], strides=[[2, 2, 2]], patch=[8, 10, 12], folds=2),
    "bf16": dict(channels=[8, 16], strides=[[2, 1, 2]], patch=[8, 7, 14], dtype="bf16"),
}
DEFAULTS = dict(depth=1, inputs=1, classes=4, folds=1, dtype="f16")


def seeded(case, seed):
    net = stunet_torch.STUNet(case["inputs"], case["classes"], case["channels"], case["depth"],
                              case["strides"])
    return stunet_torch.seeded(net, seed, DTYPES[case["dtype"]])


def main(out):
    for name, given in CASES.items():
        case = {**DEFAULTS, **given}
        nets = [seeded(case, fold) for fold in range(case["folds"])]
        g = torch.Generator().manual_seed(99)
        # Neighbouring voxels alike, as in an image, and far from zero mean.
        patch = torch.randn([1, case["inputs"], *case["patch"]], generator=g)
        patch = torch.nn.functional.avg_pool3d(patch, 3, 1, 1) * 3 + 0.7
        with torch.inference_mode():
            single = torch.stack([net(patch)[0] for net in nets])
            scores = torch.stack([net.double()(patch.double())[0] for net in nets])
        error = ((single - scores).norm() / scores.norm()).item()
        print(name, list(scores.shape), f"single precision is off by {error:.1e}")
        states = [{k: v.float() for k, v in net.state_dict().items()} for net in nets]
        plans = dict(
            dataset_name=name, image_reader_writer="SimpleITKIO", transpose_forward=[0, 1, 2],
            configurations={"3d_fullres": dict(
                patch_size=case["patch"], spacing=[1.5, 1.5, 1.5],
                strides=[[1, 1, 1]] + case["strides"],
                normalization_schemes=["NoNormalization"] * case["inputs"])})
        dataset = dict(labels={"background": 0, **{
            f"structure {i}": i for i in range(1, case["classes"])}})
        with open(os.path.join(out, f"{name}.model.safetensors"), "wb") as file:
            file.write(pack(states, plans, dataset, dtype=case["dtype"], source="random numbers"))
        save_file(dict(patch=patch[0].contiguous(), scores=scores.float().contiguous()),
                  os.path.join(out, f"{name}.safetensors"), dict(error=f"{error:.2e}"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
