#!/usr/bin/env python3
"""Writes small nnU-Net v2 results folders and what nnU-Net makes of an image with each of them.

usage: make_trainings.py CT.nii.gz OUT_DIR [CASE ...]

CT.nii.gz is examples/ct.nii.gz; OUT_DIR is tests/fixtures/trainings. Each case leaves NAME/ with
  Dataset9xx_Name/TRAINER__PLANS__CONFIGURATION/
                          plans.json, dataset.json and fold_X/checkpoint_final.pth as nnU-Net's
                          own trainer writes them; the weights are seeded, not trained
  image_0000.nii.gz ...   a part of the CT, one file per channel
  expected.safetensors    labels: what nnU-Net writes (k, j, i), labels_single: the same with
                          scores that are added in single precision; of some cases also
                          logits: those blended scores on the network's grid (float16), and
                          pre: the preprocessed image on the network's axes (float32)
                          metadata "case": JSON with the trainings (paths, in the order in which
                          they run), folds (null: those that are found), mirror (whether
                          test-time augmentation was asked for), label_differences (voxels in
                          which labels and labels_single differ)
Cascades also have previous and previous_single, the labels of the first stage; postprocessed has
raw and raw_single, the labels before the post-processing.

needs: pip install nnunetv2==2.8.1 torch==2.11.0 safetensors
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

os.environ.setdefault("nnUNet_def_n_proc", "1")  # read when nnU-Net is imported

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402
from batchgenerators.utilities.file_and_folder_operations import load_pickle, save_json  # noqa: E402
from nnunetv2.inference import predict_from_raw_data  # noqa: E402
from nnunetv2.postprocessing.remove_connected_components import (  # noqa: E402
    apply_postprocessing, determine_postprocessing, remove_all_but_largest_component_from_segmentation)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name  # noqa: E402
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import stunet_torch  # noqa: E402
from nnunet import (  # noqa: E402
    Job, configuration_of, dataset_of, plans_with, resampling_of, single_precision_sums)

CT = dict(mean=10.0, std=220.0, percentile_00_5=-950.0, percentile_99_5=700.0, min=-1024.0,
          max=1500.0, median=20.0)
TWO, ONE_TWO = [2, 2, 2], [1, 2, 2]
FLAT_FIRST = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STUNET_CHANNELS = [2, 2, 3, 3, 3, 3]


def unet(family="PlainConvUNet", features=(3, 4, 6), blocks=(1, 1, 1), decoder=(1, 1),
         strides=(TWO, TWO), kernels=None, **changes):
    """The keys that describe a network in today's plans."""
    axes = len(strides[0])
    count = "n_conv_per_stage" if family == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": len(features),
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": kernels or [[3] * axes] * len(features),
        "strides": [[1] * axes, *strides],
        count: blocks,
        "n_conv_per_stage_decoder": decoder,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }
    return dict(architecture=dict(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{family}",
        arch_kwargs=arguments, _kw_requires_import=["conv_op", "norm_op", "dropout_op", "nonlin"]))


def old_unet(features, cap, convolutions, decoder, strides, kernels):
    """The same in the plans of nnU-Net 2.0 to 2.3; `features` are those of the first stage."""
    return dict(
        UNet_class_name="PlainConvUNet", UNet_base_num_features=features,
        unet_max_num_features=cap, n_conv_per_stage_encoder=convolutions,
        n_conv_per_stage_decoder=decoder, conv_kernel_sizes=kernels,
        pool_op_kernel_sizes=[[1, 1, 1], *strides],
        num_pool_per_axis=[sum(stride[axis] == 2 for stride in strides) for axis in range(3)])


def torch_resampling(**separate):
    kwargs = dict(is_seg=False, **separate, memefficient_seg_resampling=False)
    return resampling_of("resample_torch_fornnunet", kwargs, dict(kwargs, is_seg=True), kwargs)


class STUNetTrainer_small(nnUNetTrainer):
    """The trainer of STU-Net's fork: of the plans it reads the strides only."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels,
                                   num_output_channels, enable_deep_supervision=True):
        strides = configuration_manager.pool_op_kernel_sizes[1:]
        strides = strides + [[1, 1, 1]] * (5 - len(strides))
        return stunet_torch.STUNet(num_input_channels, num_output_channels, STUNET_CHANNELS, 1,
                                   strides)


def trainer_class(name):
    return {"STUNetTrainer_small": STUNetTrainer_small}.get(name) \
        or recursive_find_trainer_class_by_name(name)


predict_from_raw_data.recursive_find_trainer_class_by_name = trainer_class

DEFAULTS = dict(
    seed=0, crop=((40, 56), (30, 48), (40, 60)), spacing=(3.0, 3.0, 3.0), zero_border=False,
    schemes=["CTNormalization"], masked=False, transpose=(0, 1, 2), classes=4, dataset={},
    patch=(16, 16, 16), target=(3.3, 3.2, 3.4), network=unet(), resampling=None, more={},
    run=["3d_fullres"], trainer="nnUNetTrainer", plans="nnUNetPlans", old=False, gpu=False,
    folds=(0,), use_folds=None, mirror=False, postprocess=False, keep=("logits",),
)
CASES = {  # crop: (k, j, i); spacings of images: (i, j, k); patch and target: network axes
    "plain": dict(keep=("pre", "logits"), network=unet(blocks=(2, 2, 2), decoder=(2, 2))),
    "plain_old_plans": dict(
        seed=20, old=True, keep=(), patch=(8, 16, 16),
        network=old_unet(3, 8, [2, 1, 1], [1, 1], [ONE_TWO, TWO], FLAT_FIRST)),
    "resenc": dict(
        plans="nnUNetResEncUNetMPlans", mirror=True, classes=3,
        network=unet("ResidualEncoderUNet", (3, 4, 4), (1, 2, 1), strides=[ONE_TWO, TWO])),
    "batch_norm": dict(seed=11, trainer="nnUNetTrainerBN"),
    "two_folds": dict(seed=6, folds=(0, 1)),
    "mirrored": dict(seed=5, trainer="nnUNetTrainer_onlyMirror01", mirror=True, keep=()),
    "no_mirroring": dict(seed=3, trainer="nnUNetTrainerNoMirroring", mirror=True, keep=()),
    "regions": dict(
        seed=20, schemes=["ZScoreNormalization"], masked=True, zero_border=True,
        dataset=dict(labels={"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3],
                             "enhancing tumor": 3, "ignore": 4}, regions_class_order=[2, 1, 3])),
    "two_channels": dict(seed=4, schemes=["ZScoreNormalization", "CTNormalization"],
                         crop=((40, 53), (30, 48), (40, 58)), keep=("pre",)),
    "separate_z": dict(
        seed=13, spacing=(1.5, 1.6, 5.0), target=(6.5, 1.8, 1.7), patch=(8, 16, 16), keep=("pre",),
        crop=((40, 53), (30, 50), (40, 60)),
        network=unet(strides=[ONE_TWO, TWO], kernels=FLAT_FIRST)),
    "transposed": dict(seed=3, transpose=(2, 0, 1), spacing=(4.0, 1.1, 1.3), target=(3.6, 1.5, 1.2),
                       keep=("pre",)),
    "two_d": dict(seed=27, run=["2d"], patch=(16, 16), target=(3.2, 3.4), spacing=(3.0, 3.0, 4.0),
                  network=unet(features=(4, 6, 8), strides=[[2, 2], [2, 2]]), keep=("pre",),
                  mirror=True),
    "cascade": dict(
        seed=1, run=["3d_lowres", "3d_cascade_fullres"], keep=("pre", "logits"), classes=3,
        crop=((40, 53), (30, 46), (40, 58)),
        more={"3d_lowres": dict(spacing=[4.5, 4.4, 4.6], batch_dice=False,
                                next_stage="3d_cascade_fullres"),
              "3d_cascade_fullres": dict(inherits_from="3d_fullres", previous_stage="3d_lowres")}),
    "torchres": dict(seed=3, plans="nnUNetPlans_torchres", keep=("pre",),
                     resampling=torch_resampling(force_separate_z=False)),
    "torchres_separate_z": dict(
        seed=3, plans="nnUNetResEncUNetLPlans_torchres_sepz", keep=("pre",),
        spacing=(1.5, 1.6, 5.0), target=(3.5, 1.8, 1.7), crop=((40, 50), (30, 50), (40, 60)),
        resampling=torch_resampling(force_separate_z=None, separate_z_anisotropy_threshold=3)),
    "no_resampling": dict(seed=3, plans="nnUNetResEncUNetLPlans_noResampling", keep=(),
                          resampling=resampling_of("no_resampling_hack", {}, {}, {})),
    "inherits_from": dict(
        seed=3, run=["3d_fullres_fine"], keep=(),
        more={"3d_fullres_flat": dict(inherits_from="3d_fullres", patch_size=[12, 16, 16]),
              "3d_fullres_fine": dict(inherits_from="3d_fullres_flat", spacing=[2.7, 3.2, 3.1])}),
    "postprocessed": dict(seed=5, postprocess=True, keep=()),
    "fold_all": dict(seed=3, folds=("all",), use_folds=("all",), keep=()),
    "stunet_v2": dict(seed=37, trainer="STUNetTrainer_small", gpu=True,
                      network=unet(features=(2, 2, 2, 2), blocks=(1, 1, 1, 1), decoder=(1, 1, 1),
                                   strides=[TWO, TWO, ONE_TWO])),
    "resenc_relu": dict(
        seed=5, plans="nnUNetResEncUNetLPlans", patch=(8, 16, 16),
        network=unet("ResidualEncoderUNet", (4, 4, 6), (2, 1, 2), strides=[ONE_TWO, TWO],
                     kernels=FLAT_FIRST, nonlin="torch.nn.ReLU", conv_bias=False)),
}


def plans_of_case(name, case):
    """plans.json; configurations that `more` names without saying otherwise are 3d_fullres."""
    base = "2d" if len(case["patch"]) == 2 else "3d_fullres"
    first = configuration_of(case["patch"], case["target"], case["schemes"], case["network"],
                             case["masked"], case["resampling"], base)
    configurations = {base: first}
    for other, changes in case["more"].items():
        inherited = {} if "inherits_from" in changes else \
            dict(first, data_identifier=f"nnUNetPlans_{other}")
        configurations[other] = {**inherited, **changes}
    dataset = f"Dataset{900 + list(CASES).index(name)}_{name}"
    plans = plans_with(configurations, case["target"], [CT] * len(case["schemes"]),
                       case["transpose"], dataset=dataset, name=case["plans"])
    if case["old"]:
        plans["foreground_intensity_properties_by_modality"] = \
            plans.pop("foreground_intensity_properties_per_channel")
    return json.loads(json.dumps(plans))


def dataset_of_case(case):
    structures = [f"structure {i}" for i in range(1, case["classes"])]
    dataset = {**dataset_of(len(case["schemes"]), structures), **case["dataset"]}
    if case["old"]:
        dataset["modality"] = dataset.pop("channel_names")
    return dataset


def write_images(case, ct, folder):
    """The files of the channels."""
    k, j, i = (slice(*limits) for limits in case["crop"])
    part = sitk.Cast(ct[i, j, k], sitk.sitkInt16)
    part.SetSpacing(case["spacing"])
    first = sitk.GetArrayFromImage(part)
    if case["zero_border"]:
        first[:3], first[-2:], first[:, :2], first[:, :, -4:] = 0, 0, 0, 0
    files = []
    for channel, array in enumerate([first, first[::-1] // 2][:len(case["schemes"])]):
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(part)
        files.append(os.path.join(folder, f"image_{channel:04}.nii.gz"))
        sitk.WriteImage(image, files[-1], True)
    return files


def train(case, plans, dataset, configuration, fold, seed, results):
    """Has nnU-Net's trainer save a checkpoint of seeded weights; returns the training's folder."""
    os.environ["nnUNet_results"] = results
    trainer = trainer_class(case["trainer"])(
        {**plans, "continue_training": False}, configuration, fold, dataset, torch.device("cpu"))
    channels = determine_num_input_channels(
        trainer.plans_manager, trainer.configuration_manager, dataset)
    trainer.network = stunet_torch.seeded(
        trainer.build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, channels,
            trainer.label_manager.num_segmentation_heads, trainer.enable_deep_supervision),
        seed, torch.half)
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # sets the mirror axes
    structures = trainer.label_manager.foreground_regions if trainer.label_manager.has_regions \
        else trainer.label_manager.foreground_labels
    for key, value in dict(
            mean_fg_dice=np.float64(0.5), dice_per_class_or_region=[np.float64(0.5)] * len(structures),
            train_losses=np.float32(-0.25), val_losses=np.float32(-0.125), lrs=1e-2,
            epoch_start_timestamps=1.7e9, epoch_end_timestamps=1.7e9 + 60).items():
        trainer.logger.log(key, value, 0)
    trainer._best_ema = trainer.logger.get_value("ema_fg_dice", step=-1)
    path = os.path.join(trainer.output_folder, "checkpoint_final.pth")
    with contextlib.ExitStack() as stack:
        if case["gpu"]:  # a checkpoint as from a GPU, and of the older nnU-Net that STU-Net forked
            trainer.my_init_kwargs.update(unpack_dataset=True, device=torch.device("cuda", 0))
            trainer.grad_scaler = SimpleNamespace(state_dict=lambda: dict(
                scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000,
                _growth_tracker=1))
            stack.enter_context(mock.patch("torch.serialization.location_tag", lambda _: "cuda:0"))
        trainer.save_checkpoint(path)
    os.remove(trainer.log_file)
    folder = os.path.dirname(trainer.output_folder)
    save_json(plans, os.path.join(folder, "plans.json"), sort_keys=False)
    save_json(dataset, os.path.join(folder, "dataset.json"), sort_keys=False)
    return folder


def predict(job, files, previous, output):
    """The arrays of one run; the label map is also written to `output`."""
    pre = job.preprocess(files, previous)
    scores = job.scores(pre)
    job.write(scores, output)
    return dict(pre=pre, logits=scores.numpy().astype(np.float16), labels=array_of(output))


def array_of(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).astype(np.uint8)


def write_postprocessing(job, labels, training):
    """Has nnU-Net determine a post-processing that keeps the largest foreground and label 2."""
    target = os.path.join(training, "crossval_results_folds_0")
    os.makedirs(target)
    clean = labels
    for structures in ([1, 2, 3], 2):
        clean = remove_all_but_largest_component_from_segmentation(clean, structures)
    with tempfile.TemporaryDirectory() as folder:
        for kind, array in dict(predictions=labels, references=clean).items():
            os.makedirs(os.path.join(folder, kind))
            sitk.WriteImage(sitk.GetImageFromArray(array),
                            os.path.join(folder, kind, "case.nii.gz"))
        predictions, references = (os.path.join(folder, k) for k in ("predictions", "references"))
        determine_postprocessing(predictions, references, job.manager.plans, job.dataset, 1)
        for ending in ("json", "pkl"):
            shutil.copy(os.path.join(predictions, f"postprocessing.{ending}"), target)
    return load_pickle(os.path.join(target, "postprocessing.pkl"))


def make(name, ct, out):
    case = {**DEFAULTS, **CASES[name]}
    plans, dataset = plans_of_case(name, case), dataset_of_case(case)
    root = os.path.join(out, name)
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    files = write_images(case, ct, root)
    trainings = []
    arrays = {}
    previous = previous_single = None
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for stage, configuration in enumerate(case["run"]):
            for index, fold in enumerate(case["folds"]):
                training = train(case, plans, dataset, configuration, fold,
                                 case["seed"] + 100 * stage + index, root)
            trainings.append(os.path.relpath(training, root))
            job = Job.of_training(training, case["use_folds"], case["mirror"])
            if stage > 0:
                arrays = dict(previous=arrays["labels"], previous_single=arrays["labels_single"])
            half, single = (os.path.join(folder, f"{stage}_{kind}.nii.gz") for kind in "hs")
            labels = predict(job, files, previous, half)["labels"]
            with single_precision_sums():
                result = predict(job, files, previous_single, single)
            arrays.update({key: result[key] for key in case["keep"]}, labels=labels,
                          labels_single=result["labels"])
            previous, previous_single = half, single
        if case["postprocess"]:
            steps = write_postprocessing(job, labels, training)
            for key in ("labels", "labels_single"):
                arrays[key.replace("labels", "raw")] = arrays[key]
                arrays[key] = apply_postprocessing(arrays[key], *steps)
    values = job.manager.get_label_manager(dataset).all_labels
    differences = int((arrays["labels"] != arrays["labels_single"]).sum())
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()},
              os.path.join(root, "expected.safetensors"),
              dict(case=json.dumps(dict(trainings=trainings, folds=case["use_folds"],
                                        mirror=case["mirror"], label_differences=differences))))
    shares = np.array([(arrays["labels"] == value).mean() for value in values])
    size = sum(os.path.getsize(os.path.join(path, file))
               for path, _, files in os.walk(root) for file in files)
    print(f"{name:20} image {labels.shape} network {result['pre'].shape} {size // 1024} KiB, "
          f"labels {np.round(shares, 3)}, half and single precision differ in {differences}")
    return shares


def main(image, out, names):
    torch.set_num_threads(1)
    ct = sitk.ReadImage(image)
    for name in names or CASES:
        assert min(make(name, ct, out)) >= 0.03, "a class is too rare"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
