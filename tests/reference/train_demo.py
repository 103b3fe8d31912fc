#!/usr/bin/env python3
"""Trains the demonstration model on its own example image and packs it.

usage: train_demo.py IMAGE LABELS SNOMED.csv OUT.safetensors [--iterations 600]

IMAGE and LABELS are examples/ct_part.nii.gz and examples/ct_part_labels.nii.gz; SNOMED.csv is
TotalSegmentator's table of structures, codes and colours. The model is a STU-Net of test size at
3 mm. It has seen one image, the one it is shown on: it demonstrates the pipeline and must not be
used on patients. Minutes on two cores.

needs: pip install torch==2.11.0 SimpleITK safetensors
"""

import argparse
import csv
import os
import re
import sys
import time
import zlib

import numpy as np
import SimpleITK as sitk
import torch
from torch.nn import functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from pack import digest, pack  # noqa: E402

CHANNELS, STRIDES = [12, 24, 40, 56], [[2, 2, 2], [2, 2, 2], [2, 2, 2]]
PATCH, SPACING = [32, 64, 64], [3.0, 3.0, 3.0]
LEAST_VOXELS = 1300  # structures smaller than this in the image are left out


def label_table(path):
    """Names of the label values, from the table that the file carries."""
    with open(path, "rb") as file:
        text = zlib.decompress(file.read(), 31)[:65536].decode("latin-1")
    return {int(key): name
            for key, name in re.findall(r'<Label Key="(\d+)"[^>]*><!\[CDATA\[(\w+)\]\]>', text)}


def snomed_table(path):
    """Colour and code of each structure."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    kind = "SegmentedPropertyTypeCodeSequence."
    return {row["Structure"]: dict(color=[int(v) for v in row["DicomRGBColor"].split(",")],
                                   code=f"{row[kind + 'CodingSchemeDesignator']}:{row[kind + 'CodeValue']}")
            for row in rows}


def padded(array):
    """Zero padding to the patch along the slices, as inference pads."""
    missing = max(0, PATCH[0] - array.shape[0])
    before = missing // 2
    return np.pad(array, ((before, missing - before), (0, 0), (0, 0)))


def draw(generator, shape):
    """A random place of a patch; the corners, where inference's tiles lie, are likelier."""
    def start(length, patch):
        most = length - patch
        return int(torch.randint(-8, most + 9, (1,), generator=generator).clamp(0, most))
    return tuple(slice(s, s + p) for s, p in zip(map(start, shape, PATCH), PATCH))


def train(image, target, classes, iterations):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = stunet_torch.STUNet(1, classes, CHANNELS, 1, STRIDES)
    print(sum(p.numel() for p in net.parameters()), "parameters,", classes, "classes")
    heads = [p for name, p in net.named_parameters()
             if not name.startswith("seg_outputs.") or name.startswith("seg_outputs.2.")]
    optimizer = torch.optim.AdamW(heads, lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=iterations)
    clock = time.time()
    for iteration in range(iterations):
        place = draw(generator, image.shape)
        x, y = image[place][None, None], target[place][None]
        x = x + 0.05 * torch.randn(x.shape, generator=generator)
        scores = net(x)
        probability, truth = scores.softmax(1), F.one_hot(y, classes).movedim(-1, 1)
        overlap = (probability * truth).sum((0, 2, 3, 4))
        size = probability.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4))
        present = truth.sum((0, 2, 3, 4)) > 0
        dice = 1 - (2 * overlap[present] + 1).div(size[present] + 1).mean()
        loss = F.cross_entropy(scores, y) + dice
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(heads, 5.0)
        optimizer.step()
        schedule.step()
        if iteration % 25 == 0 or iteration + 1 == iterations:
            print(f"{iteration:5d}  loss {loss.item():.3f}  {time.time() - clock:.0f} s", flush=True)
    return net.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("labels")
    parser.add_argument("snomed")
    parser.add_argument("output")
    parser.add_argument("--iterations", type=int, default=600)
    a = parser.parse_args()
    torch.set_num_threads(2)

    hounsfield = sitk.GetArrayFromImage(sitk.ReadImage(a.image)).astype(np.float32)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(a.labels))
    names, details = label_table(a.labels), snomed_table(a.snomed)
    chosen = [v for v in np.unique(labels) if v and (labels == v).sum() >= LEAST_VOXELS]
    target = np.zeros(labels.shape, np.int64)
    for index, value in enumerate(chosen, 1):
        target[labels == value] = index

    inside = hounsfield[labels > 0]
    lower, upper = np.percentile(inside, [0.5, 99.5])
    numbers = dict(mean=round(float(inside.mean()), 3), std=round(float(inside.std()), 3),
                   percentile_00_5=float(lower), percentile_99_5=float(upper))
    normalized = (hounsfield.clip(lower, upper) - numbers["mean"]) / numbers["std"]
    net = train(torch.from_numpy(padded(normalized.astype(np.float32))),
                torch.from_numpy(padded(target)), len(chosen) + 1, a.iterations)

    plans = dict(
        dataset_name="demo", image_reader_writer="SimpleITKIOWithReorient",
        transpose_forward=[0, 1, 2],
        foreground_intensity_properties_per_channel={"0": numbers},
        configurations={"3d_fullres": dict(
            patch_size=PATCH, spacing=SPACING, strides=[[1, 1, 1]] + STRIDES,
            normalization_schemes=["CTNormalization"], use_mask_for_norm=[False])},
    )
    structures = [names[value] for value in chosen]
    dataset = dict(labels={"background": 0, **{n: i for i, n in enumerate(structures, 1)}})
    package = pack(
        [net.state_dict()], plans, dataset, dtype="f16", mirror_axes=[], demo=True,
        name="demo", details={n: details[n] for n in structures if n in details},
        description="Demonstration only: trained on the example image it is shown on. "
                    "Not for patients.",
        source="trained by tests/reference/train_demo.py on examples/ct_part.nii.gz",
        files=[digest(a.image), digest(a.labels)])
    with open(a.output, "wb") as file:
        file.write(package)
    print(a.output, len(package), "bytes:", ", ".join(structures))


if __name__ == "__main__":
    main()
