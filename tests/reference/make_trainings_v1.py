#!/usr/bin/env python3
"""Writes small nnU-Net v1 results folders and what nnU-Net v1 makes of an image with each of them.

usage: make_trainings_v1.py CT.nii.gz OUT_DIR [CASE ...]
       make_trainings_v1.py --check IMAGE.nii.gz FOLDER ...

CT.nii.gz is examples/ct.nii.gz; OUT_DIR is tests/fixtures/trainings_v1. Each case leaves NAME/ with
  3d_fullres/Task9xx_Name/TRAINER__nnUNetPlansv2.1/
                          plans.pkl, postprocessing.json (of some) and, in fold_X or all,
                          model_final_checkpoint.model and .model.pkl; seeded, not trained;
                          of the case stunet as PyTorch before 1.6 and NumPy 1 wrote them (the
                          same weights every time, but the file's keys are addresses)
  image_0000.nii.gz       a part of the CT
  expected.safetensors    pre: the preprocessed image (float32) and probabilities: those of all
                          tiles, flips and folds averaged (float16), both on the network's axes;
                          labels: what is written (k, j, i); raw: before the post-processing;
                          fast, fastest: labels of those modes
                          metadata "case": JSON with training, folds, mirror

nnunet_v1.py computes them. --check compares it with what nnU-Net 1.7.1 itself left in each
FOLDER for the IMAGE: model_final_checkpoint.model and .model.pkl of a STU-Net, pre.safetensors,
probabilities.safetensors, seg.nii.gz, and case.json that says whether flips were averaged.

needs: pip install nnunetv2==2.8.1 torch==2.11.0 safetensors
"""

import ast
import json
import os
import pickle
import shutil
import sys
from collections import OrderedDict

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.numpy import load_file, save_file
from scipy import ndimage

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from make_trainings import FLAT_FIRST, ONE_TWO, TWO, write_images  # noqa: E402
from nnunet_v1 import GenericUNet, Job  # noqa: E402

CT = dict(mean=np.float32(10), sd=np.float32(220), percentile_00_5=np.float32(-950),
          percentile_99_5=np.float32(700), median=np.float32(20), mn=np.float32(-1024),
          mx=np.float32(1500))
STUNET_CHANNELS = [4, 3, 3, 3, 3, 3]
STUNET_POOLS = [TWO, TWO, ONE_TWO, [1, 1, 1], [1, 1, 1]]
DEFAULTS = dict(
    seed=0, crop=((40, 56), (30, 48), (40, 60)), spacing=(3.0, 3.0, 3.0), zero_border=False,
    scheme="CT", transpose=(0, 1, 2), classes=4, patch=(16, 16, 16), target=(3.3, 3.2, 3.4),
    trainer="STUNetTrainer_small", pools=STUNET_POOLS, kernels=[[3, 3, 3]] * 6, folds=("fold_0",),
    mirror=False, legacy=False, postprocessing=None, fast=False,
)
CASES = {  # crop: (k, j, i); spacings of images: (i, j, k); patch and target: network axes
    "stunet": dict(seed=7, scheme="nonCT", folds=("all",), legacy=True),
    "stunet_mirrored": dict(seed=15, mirror=True, classes=3),
    "generic_unet": dict(
        seed=2, trainer="nnUNetTrainerV2", folds=("fold_0", "fold_1"), pools=[ONE_TWO, TWO],
        kernels=FLAT_FIRST, transpose=(1, 0, 2), patch=(8, 16, 16), target=(3.3, 3.6, 3.2),
        spacing=(3.0, 2.7, 3.2),
        postprocessing=dict(for_which_classes=[[1, 2, 3], 2],
                            min_valid_object_sizes=str({(1, 2, 3): 1e9, 2: 100.0}))),
    "generic_unet_fast": dict(
        seed=0, classes=3, trainer="nnUNetTrainerV2_noMirroring",
        pools=[ONE_TWO, ONE_TWO, TWO],
        kernels=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]], patch=(8, 16, 16), fast=True,
        crop=((40, 53), (30, 50), (40, 60)), spacing=(1.5, 1.6, 5.0), target=(6.5, 1.8, 1.7)),
}


def plans_of(case):
    """plans.pkl: Python's numbers and NumPy's side by side, as nnU-Net v1 leaves them."""
    stage = dict(
        batch_size=2,
        num_pool_per_axis=[np.int64(sum(pool[a] == 2 for pool in case["pools"])) for a in range(3)],
        patch_size=np.array(case["patch"]), median_patient_size_in_voxels=np.array([64] * 3),
        current_spacing=np.array(case["target"]), original_spacing=np.array(case["target"]),
        do_dummy_2D_data_aug=False, pool_op_kernel_sizes=case["pools"],
        conv_kernel_sizes=case["kernels"])
    transpose = list(case["transpose"])
    numbers = {0: CT} if case["scheme"] == "CT" else None
    return dict(
        num_stages=1, num_modalities=1, modalities={0: case["scheme"]},
        normalization_schemes=OrderedDict([(0, case["scheme"])]),
        dataset_properties=dict(intensityproperties=numbers), num_classes=case["classes"] - 1,
        all_classes=list(range(1, case["classes"])), base_num_features=4,
        use_mask_for_norm=OrderedDict([(0, False)]), keep_only_largest_region=None,
        min_region_size_per_class=None, min_size_per_class=None, transpose_forward=transpose,
        transpose_backward=[transpose.index(a) for a in range(3)],
        data_identifier="nnUNetData_plans_v2.1", plans_per_stage={0: stage},
        preprocessor_name="GenericPreprocessor", conv_per_stage=2)


def network_of(case, seed):
    if case["trainer"].startswith("STUNet"):
        net = stunet_torch.STUNet(1, case["classes"], STUNET_CHANNELS, 1, case["pools"])
    else:
        net = GenericUNet(1, case["classes"], 4, case["pools"], case["kernels"])
    return stunet_torch.seeded(net, seed, torch.half)


def write_checkpoint(case, plans, network, folder):
    os.makedirs(folder)
    path = os.path.join(folder, "model_final_checkpoint.model")
    history = ([np.float32(-0.25)], [np.float32(-0.125)], [], [np.float64(0.5)])
    torch.save(dict(
        epoch=1, state_dict=network.state_dict(), optimizer_state_dict=None,
        lr_scheduler_state_dict=None, plot_stuff=history,
        best_stuff=(0, np.float64(-0.125), np.float64(0.5))),
        path, _use_new_zipfile_serialization=not case["legacy"])
    fold = os.path.basename(folder)
    fold = int(fold[5:]) if fold.startswith("fold_") else fold
    information = OrderedDict(
        init=("plans.pkl", fold, "results", "preprocessed", False, 0, True, False, True),
        name=case["trainer"], plans=plans)
    information["class"] = f"<class 'nnunet.training.network_training.{case['trainer']}'>"
    write_pickle(information, f"{path}.pkl", case["legacy"])
    if case["legacy"]:
        rename_numpy(path)


def write_pickle(value, path, legacy):
    with open(path, "wb") as file:
        pickle.dump(value, file, 2 if legacy else 4)
    if legacy:
        rename_numpy(path)


def rename_numpy(path):
    """The module names of NumPy 1; in protocol 2 a name has no length before it."""
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content.replace(b"cnumpy._core.", b"cnumpy.core."))


def postprocessed(labels, settings, voxel):
    """Of every class or region the largest part, and others that are not too small."""
    labels = labels.copy()
    smallest = ast.literal_eval(settings["min_valid_object_sizes"])  # mm3
    for structure in settings["for_which_classes"]:
        key = tuple(structure) if isinstance(structure, list) else structure
        parts, _ = ndimage.label(np.isin(labels, structure))
        sizes = np.bincount(parts.ravel())[1:] * voxel
        removed = [part for part, size in enumerate(sizes, 1)
                   if size != sizes.max() and size < smallest[key]]
        labels[np.isin(parts, removed)] = 0
    return labels


def make(name, ct, out):
    case = {**DEFAULTS, **CASES[name], "schemes": [None]}
    plans = plans_of(case)
    root = os.path.join(out, name)
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    files = write_images(case, ct, root)
    training = os.path.join("3d_fullres", f"Task{900 + list(CASES).index(name)}_{name}",
                            f"{case['trainer']}__nnUNetPlansv2.1")
    networks = [network_of(case, case["seed"] + index) for index in range(len(case["folds"]))]
    for fold, network in zip(case["folds"], networks):
        write_checkpoint(case, plans, network, os.path.join(root, training, fold))
    write_pickle(plans, os.path.join(root, training, "plans.pkl"), case["legacy"])
    job = Job(networks, plans, mirror_axes=(0, 1, 2) if case["mirror"] else ())
    pre = job.preprocess(files)
    probabilities = job.probabilities(pre)
    labels = job.labels(probabilities)
    arrays = dict(pre=pre, probabilities=probabilities.astype(np.float16), labels=labels)
    if case["fast"]:
        arrays["fast"] = job.fast_labels(probabilities, 1)
        arrays["fastest"] = job.fast_labels(probabilities, 0)
    if case["postprocessing"]:
        with open(os.path.join(root, training, "postprocessing.json"), "w") as file:
            json.dump(case["postprocessing"], file, indent=4, sort_keys=True)
        arrays["raw"] = labels
        arrays["labels"] = postprocessed(labels, case["postprocessing"], np.prod(case["spacing"]))
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()},
              os.path.join(root, "expected.safetensors"),
              dict(case=json.dumps(dict(training=training, folds=case["folds"],
                                        mirror=case["mirror"]))))
    shares = np.bincount(labels.ravel(), minlength=case["classes"]) / labels.size
    print(f"{name:16} image {labels.shape} network {pre.shape} labels {np.round(shares, 3)}, "
          f"post-processing changes {(arrays['labels'] != labels).sum()}")
    return shares


def check(image, folder):
    """Compares with the files of nnU-Net 1.7.1."""
    checkpoint = os.path.join(folder, "model_final_checkpoint.model")
    with open(f"{checkpoint}.pkl", "rb") as file:
        plans = pickle.load(file)["plans"]
    with open(os.path.join(folder, "case.json")) as file:
        mirror = json.load(file)["mirror"]
    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    network = stunet_torch.stunet("tiny", 1, plans["num_classes"] + 1)
    network.load_state_dict(state)
    job = Job([network], plans, mirror_axes=(0, 1, 2) if mirror else ())
    pre = job.preprocess([image])
    probabilities = job.probabilities(pre)
    labels = job.labels(probabilities)
    stored = {key: load_file(os.path.join(folder, f"{key}.safetensors"))[key]
              for key in ("pre", "probabilities")}
    written = sitk.GetArrayFromImage(sitk.ReadImage(os.path.join(folder, "seg.nii.gz")))
    print(f"{folder}: preprocessed differ by {np.abs(pre - stored['pre']).max()}, probabilities "
          f"by {np.abs(probabilities - stored['probabilities']).max():.1e} (stored as float16), "
          f"labels in {(labels != written).sum()} voxels")


def main(image, out, names):
    ct = sitk.ReadImage(image)
    for name in names or CASES:
        assert min(make(name, ct, out)) >= 0.03, "a class is too rare"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    if sys.argv[1] == "--check":
        for folder in sys.argv[3:]:
            check(sys.argv[2], folder)
    else:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
