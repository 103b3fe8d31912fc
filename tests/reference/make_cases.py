#!/usr/bin/env python3
"""Runs the real nnU-Net v2 predictor on small volumes and keeps every stage's output.

usage: make_cases.py CT.nii.gz OUT_DIR [CASE ...]

CT.nii.gz is examples/ct.nii.gz; OUT_DIR is tests/fixtures/cases. Each case leaves
  NAME.model.safetensors  a seeded STU-Net as a voxtile package (f16 weights)
  NAME.safetensors        image (channels, k, j, i), pre: the preprocessed image on the network's
                          axes (float32), labels: what nnU-Net writes (k, j, i); metadata:
                          spacing, direction (LPS), mirror

nnU-Net adds its scores in half precision, which decides labels at the volume's edges, where the
Gaussian weights are subnormal. So each case is run a second time with single-precision sums:
logits holds those blended scores (stored as float16), labels_single the labels they give.

needs: pip install nnunetv2==2.8.1 torch==2.11.0 safetensors
"""

import json
import os
import sys
import tempfile

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.numpy import save_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from nnunet import Job, dataset_of, plans_of, single_precision_sums  # noqa: E402
from pack import pack  # noqa: E402

CT = dict(mean=10.0, std=220.0, percentile_00_5=-950.0, percentile_99_5=700.0, min=-1024.0,
          max=1500.0, median=20.0)
DEFAULTS = dict(
    crop=((40, 62), (30, 54), (40, 62)), spacing=(3.0, 3.0, 3.0), target=(3.0, 3.0, 3.0),
    scheme="CTNormalization", masked=False, transpose=(0, 1, 2), mirror=False, folds=1,
    channels=1, reader="SimpleITKIO", direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), patch=(16, 16, 16),
    scale=None, zero_border=0, classes=4,
)
CASES = {  # spacings of images are (i, j, k), targets are in network axes
    "ct_resampled": dict(target=(2.6, 2.2, 2.4)),
    "zscore_masked_crop": dict(scheme="ZScoreNormalization", masked=True, zero_border=4),
    "zscore_two_channels": dict(scheme="ZScoreNormalization", channels=2, target=(3.5, 3.2, 3.0)),
    "thick_slices": dict(spacing=(1.5, 1.5, 5.0), target=(2.5, 1.6, 1.7),
                         crop=((40, 54), (30, 58), (40, 64))),
    "thick_network": dict(spacing=(1.5, 1.6, 1.7), target=(5.2, 1.5, 1.5),
                          crop=((20, 66), (30, 52), (40, 62))),
    "smaller_than_the_patch": dict(scheme="RescaleTo01Normalization",
                                   crop=((40, 49), (30, 57), (40, 41))),
    "no_normalization": dict(scheme="NoNormalization", scale=1e-3, target=(3.3, 3.0, 2.8)),
    "transposed": dict(transpose=(2, 0, 1), spacing=(4.0, 1.1, 1.3), target=(2.0, 1.5, 1.2),
                       crop=((40, 62), (30, 54), (40, 54))),
    "mirrored": dict(mirror=True),
    "two_folds": dict(folds=2, scheme="ZScoreNormalization"),
    "reoriented": dict(reader="SimpleITKIOWithReorient", target=(3.4, 2.9, 2.7),
                       direction=(0, -0.98, 0.198997487421324, 1, 0, 0, 0, 0.198997487421324, 0.98)),
}
STRIDES = [[2, 2, 2], [2, 2, 2]]
CHANNELS = [6, 10, 12]


def images_of(case, ct):
    """The channels' arrays, (k, j, i)."""
    image = ct[tuple(slice(*range_) for range_ in case["crop"])].copy()
    border = case["zero_border"]
    if border:
        image[:border], image[-border:] = 0, 0
        image[:, :2], image[:, :, -3:] = 0, 0
        image[8:11, 9:12, 10:13] = 0  # a hole that the mask fills
    image = image.astype(np.int16) if case["scale"] is None else (image * case["scale"]).astype(np.float32)
    return [image if channel == 0 else image[::-1].copy() // 2 for channel in range(case["channels"])]


def run(name, ct, out):
    case = {**DEFAULTS, **CASES[name]}
    plans = plans_of(case["patch"], case["target"], [case["scheme"]] * case["channels"], STRIDES, CT,
                     case["masked"], case["transpose"], case["reader"])
    dataset = dataset_of(case["channels"],
                         [f"structure {i}" for i in range(1, case["classes"])])
    nets = [stunet_torch.seeded(
        stunet_torch.STUNet(case["channels"], case["classes"], CHANNELS, 1, STRIDES),
        fold, torch.half) for fold in range(case["folds"])]
    # Copies: the predictor loads every fold into the first network.
    states = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    images = images_of(case, ct)
    job = Job(nets[0], states, plans, dataset, case["mirror"])
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for channel, image in enumerate(images):
            volume = sitk.GetImageFromArray(image)
            volume.SetSpacing(case["spacing"])
            volume.SetDirection(case["direction"])
            files.append(os.path.join(folder, f"image_{channel:04}.nii.gz"))
            sitk.WriteImage(volume, files[-1])
        read_back = sitk.ReadImage(files[0])
        spacing, direction = read_back.GetSpacing(), read_back.GetDirection()
        pre = job.preprocess(files)
    labels = job.labels(job.scores(pre))
    with single_precision_sums():
        logits = job.scores(pre)
    assert logits.dtype == torch.float32
    labels_single = job.labels(logits)
    shares = np.bincount(labels.ravel(), minlength=case["classes"]) / labels.size
    print(name, "pre", pre.shape, "labels", labels.shape, np.round(shares, 3),
          "half and single precision differ in", (labels != labels_single).sum())
    save_file(
        dict(image=np.stack(images), pre=pre, logits=logits.numpy().astype(np.float16),
             labels=labels, labels_single=labels_single),
        os.path.join(out, f"{name}.safetensors"),
        dict(spacing=json.dumps(spacing), direction=json.dumps(direction),
             mirror=json.dumps(case["mirror"])),
    )
    with open(os.path.join(out, f"{name}.model.safetensors"), "wb") as file:
        file.write(pack(states, plans, dataset, dtype="f16", name=name, source="random numbers"))


def main(image, out, names):
    torch.set_num_threads(2)
    ct = sitk.GetArrayFromImage(sitk.ReadImage(image))
    for name in names or CASES:
        run(name, ct, out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
