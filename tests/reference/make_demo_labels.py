#!/usr/bin/env python3
"""Labels of the demonstration model on the whole example image, as nnU-Net v2 makes them.

usage: make_demo_labels.py EXAMPLES OUT_DIR    (examples and tests/fixtures/demo)

OUT_DIR receives labels.nii.gz, and labels_respaced.nii.gz for the same voxels with the spacing
RESPACED, which makes nnU-Net resample. The scores are added in half precision, as nnU-Net does.

needs: pip install nnunetv2==2.8.1 torch==2.11.0 safetensors
"""

import json
import os
import sys
import tempfile

import SimpleITK as sitk
import torch
from safetensors import safe_open

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from nnunet import Job, dataset_of, plans_of, single_precision_sums  # noqa: E402

RESPACED = (2.4, 2.7, 3.3)  # mm along i, j, k


def job_of(package):
    """nnU-Net with the weights of a package of one fold."""
    with safe_open(package, "pt") as file:
        document = json.loads(file.metadata()["voxtile"])
        state = {name: file.get_tensor(name).float() for name in file.keys()}
    shape = document["architecture"]
    net = stunet_torch.STUNet(shape["input_channels"], shape["classes"], shape["channels"],
                              shape["blocks"][0], shape["strides"])
    # A package has no deep-supervision heads.
    state = {**net.state_dict(), **state}
    (ct,) = document["normalization"]
    intensity = dict(mean=ct["mean"], std=ct["deviation"], percentile_00_5=ct["lower"],
                     percentile_99_5=ct["upper"])
    plans = plans_of(document["patch"], document["spacing"], ["CTNormalization"],
                     shape["strides"], intensity, transpose=document["axes"]["transpose"],
                     reader="SimpleITKIOWithReorient")
    dataset = dataset_of(1, [label["name"] for label in document["labels"][1:]])
    return Job(net.eval(), [state], plans, dataset)


def main(examples, out):
    torch.set_num_threads(2)
    os.makedirs(out, exist_ok=True)
    job = job_of(os.path.join(examples, "demo.safetensors"))
    image = sitk.ReadImage(os.path.join(examples, "ct.nii.gz"))
    for name, spacing in [("labels", image.GetSpacing()), ("labels_respaced", RESPACED)]:
        image.SetSpacing(spacing)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "image_0000.nii.gz")
            sitk.WriteImage(image, path)
            pre = job.preprocess([path])
        scores = job.scores(pre)
        job.write(scores, os.path.join(out, f"{name}.nii.gz"))
        half = job.labels(scores)
        with single_precision_sums():
            single = job.labels(job.scores(pre))
        print(name, pre.shape, half.shape, "labels", len(set(half.ravel())),
              "half and single precision differ in", (half != single).sum())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
