#!/usr/bin/env python3
"""Writes a voxtile model package (docs/model-format.md) from STU-Net weights and nnU-Net v2 plans.

usage: pack.py WEIGHTS... --plans plans.json --dataset dataset.json -o MODEL.safetensors
               [--configuration 3d_fullres] [--folds 0 1 ...] [--dtype f32|f16|bf16]
               [--blend logits|softmax] [--orientation stored|ras] [--mirror-axes 0 1 2]
               [--labels FILE.json] [--name NAME] [--description TEXT] [--source TEXT]
               [--license ID] [--demo]

WEIGHTS are one file per fold: a PyTorch checkpoint (.pth, .pt, .model; opened with weights_only and
the few plain NumPy types that nnU-Net stores, so nothing in it is executed) or a .safetensors state dict. FILE.json maps label names to
{"color": [r, g, b], "code": "SCT:..."}. The same input gives the same bytes.

needs: pip install torch numpy safetensors
"""

import argparse
import codecs
import hashlib
import json
import os
import re

import numpy
import torch
from safetensors.torch import load_file, save

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
READERS = {  # nnU-Net's reader class -> the order of voxels the network was trained on
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "SimpleITKIOWithReorient": "ras",
    "NibabelIOWithReorient": "ras",
}


# What nnU-Net's checkpoints hold besides tensors.
PLAIN_TYPES = [numpy._core.multiarray.scalar, numpy.dtype, codecs.encode,
               *(type(numpy.dtype(name)) for name in ("f4", "f8", "i4", "i8"))]


def state_dict_of(path):
    """The tensors of a checkpoint, under their published names."""
    if path.endswith(".safetensors"):
        state = load_file(path)
    else:
        with torch.serialization.safe_globals(PLAIN_TYPES):
            state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("network_weights", "state_dict"):
            state = state.get(key, state)
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): t for name, t in state.items()}


def architecture_of(state, strides):
    """The shape of a STU-Net, read off its tensors; `strides` are those between resolutions."""
    stages = len(strides) + 1
    blocks = [
        sum(f"conv_blocks_context.{s}.{b}.conv1.weight" in state for b in range(64))
        for s in range(stages)
    ]
    first = state["conv_blocks_context.0.0.conv1.weight"]
    return dict(
        family="stunet",
        input_channels=first.shape[1],
        classes=state[f"seg_outputs.{stages - 2}.weight"].shape[0],
        channels=[
            state[f"conv_blocks_context.{s}.0.conv1.weight"].shape[0] for s in range(stages)
        ],
        blocks=blocks,
        strides=[list(map(int, s)) for s in strides],
        kernels=[[3, 3, 3]] * stages,
    )


def strides_of(configuration, state):
    """STU-Net's strides: those of the plans without the first, filled up with ones."""
    plain = configuration.get("strides") or configuration.get("pool_op_kernel_sizes")
    plain = plain or configuration["architecture"]["arch_kwargs"]["strides"]
    stages = 1 + max(int(re.match(r"conv_blocks_context\.(\d+)\.", n)[1]) for n in state
                     if n.startswith("conv_blocks_context."))
    strides = list(plain[1:stages])
    return strides + [[1, 1, 1]] * (stages - 1 - len(strides))


def normalization_of(plans, configuration):
    """One entry per channel."""
    numbers = plans.get("foreground_intensity_properties_per_channel")
    numbers = numbers or plans.get("foreground_intensity_properties_by_modality") or {}
    entries = []
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        if scheme == "CTNormalization":
            n = numbers[str(channel)]
            entries.append(dict(scheme="ct", lower=n["percentile_00_5"], upper=n["percentile_99_5"],
                                mean=n["mean"], deviation=n["std"]))
        elif scheme == "ZScoreNormalization":
            entries.append(dict(scheme="zscore", masked=bool(configuration["use_mask_for_norm"][channel])))
        elif scheme == "NoNormalization":
            entries.append(dict(scheme="none"))
        elif scheme == "RescaleTo01Normalization":
            entries.append(dict(scheme="rescale_to_01"))
        else:
            raise SystemExit(f"normalization scheme {scheme} is not supported")
    return entries


def configuration_of(plans, name):
    """A configuration with what it inherits."""
    configuration = dict(plans["configurations"][name])
    parent = configuration.pop("inherits_from", None)
    return {**configuration_of(plans, parent), **configuration} if parent else configuration


def pack(states, plans, dataset, *, configuration="3d_fullres", folds=None, dtype="f32",
         blend="logits", orientation=None, mirror_axes=(0, 1, 2), details=None, name=None,
         description="", source="", license="Apache-2.0", demo=False, files=()):
    """The bytes of a package; `states` are the state dicts of the folds."""
    config = configuration_of(plans, configuration)
    folds = folds or [str(i) for i in range(len(states))]
    architecture = architecture_of(states[0], strides_of(config, states[0]))
    last_head = f"seg_outputs.{len(architecture['strides']) - 1}."
    details = details or {}
    labels = [
        dict(value=value, name=label, **details.get(label, {}))
        for label, value in sorted(dataset["labels"].items(), key=lambda item: item[1])
        if label != "ignore"
    ]
    part = dict(
        name="main",
        architecture=architecture,
        folds=folds,
        patch=list(map(int, config["patch_size"])),
        spacing=list(map(float, config["spacing"])),
        axes=dict(orientation=orientation or READERS[plans["image_reader_writer"]],
                  transpose=list(map(int, plans["transpose_forward"]))),
        generation="nnunet_v2",
        normalization=normalization_of(plans, config),
        blend=blend,
        mirror_axes=list(mirror_axes),
        output=dict(classes=[label["value"] for label in labels]),
    )
    document = dict(
        format_version=1,
        name=name or plans["dataset_name"],
        description=description,
        demo=demo,
        labels=labels,
        parts=[part],
        provenance=dict(source=source or plans["dataset_name"], license=license,
                        files=[dict(name=n, sha256=d) for n, d in files]),
    )
    tensors = {}
    for fold, state in zip(folds, states):
        prefix = f"fold_{fold}." if len(states) > 1 else ""
        for key, tensor in state.items():
            if not key.startswith("seg_outputs.") or key.startswith(last_head):
                tensors[prefix + key] = tensor.to(DTYPES[dtype]).contiguous()
    return save(tensors, {"voxtile": json.dumps(document, ensure_ascii=False)})


def digest(path):
    with open(path, "rb") as file:
        return os.path.basename(path), hashlib.file_digest(file, "sha256").hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--plans", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--folds", nargs="*")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--blend", choices=["logits", "softmax"], default="logits")
    parser.add_argument("--orientation", choices=["stored", "ras"])
    parser.add_argument("--mirror-axes", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--labels")
    parser.add_argument("--name")
    parser.add_argument("--description", default="")
    parser.add_argument("--source", default="")
    parser.add_argument("--license", default="Apache-2.0")
    parser.add_argument("--demo", action="store_true")
    a = parser.parse_args()
    with open(a.plans) as plans, open(a.dataset) as dataset:
        plans, dataset = json.load(plans), json.load(dataset)
    details = None
    if a.labels:
        with open(a.labels) as file:
            details = json.load(file)
    package = pack([state_dict_of(path) for path in a.weights], plans, dataset,
                   configuration=a.configuration, folds=a.folds, dtype=a.dtype, blend=a.blend,
                   orientation=a.orientation, mirror_axes=a.mirror_axes, details=details,
                   name=a.name, description=a.description, source=a.source, license=a.license,
                   demo=a.demo, files=[digest(path) for path in [*a.weights, a.plans, a.dataset]])
    temporary = a.output + ".part"
    with open(temporary, "wb") as file:
        file.write(package)
    os.replace(temporary, a.output)


if __name__ == "__main__":
    main()
