"""Real nnU-Net v2 on any network, step by step; for the scripts beside this one.

needs: pip install nnunetv2==2.8.1 torch==2.11.0
"""

import contextlib
import os
import queue
import tempfile
import threading

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.data_iterators import preprocess_fromfiles_save_to_queue
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def resampling_of(function="resample_data_or_seg_to_shape", data=None, seg=None, scores=None):
    """How a configuration resamples; without arguments, as nnU-Net's default planner has it."""
    default = dict(is_seg=False, order_z=0, force_separate_z=None)
    return dict(
        resampling_fn_data=function, resampling_fn_seg=function,
        resampling_fn_data_kwargs=dict(default, order=3) if data is None else data,
        resampling_fn_seg_kwargs=dict(default, is_seg=True, order=1) if seg is None else seg,
        resampling_fn_probabilities=function,
        resampling_fn_probabilities_kwargs=dict(default, order=1) if scores is None else scores,
    )


def configuration_of(patch, spacing, schemes, network, masked=False, resampling=None,
                     name="3d_fullres"):
    """A configuration of plans; `network` holds the keys that describe it."""
    return dict(
        data_identifier=f"nnUNetPlans_{name}", preprocessor_name="DefaultPreprocessor",
        batch_size=2, patch_size=list(patch), median_image_size_in_voxels=[64] * len(patch),
        spacing=list(spacing), normalization_schemes=list(schemes),
        use_mask_for_norm=[masked] * len(schemes), **(resampling or resampling_of()), **network,
        batch_dice=False,
    )


def plans_with(configurations, spacing, intensities, transpose=(0, 1, 2), reader="SimpleITKIO",
               dataset="Dataset900_Reference", name="nnUNetPlans"):
    """Plans as nnU-Net v2 writes them; `spacing` on the network's axes."""
    transpose = list(transpose)
    return dict(
        dataset_name=dataset, plans_name=name,
        original_median_spacing_after_transp=list(spacing),
        original_median_shape_after_transp=[64] * 3, image_reader_writer=reader,
        transpose_forward=transpose, transpose_backward=[transpose.index(i) for i in range(3)],
        configurations=configurations,
        experiment_planner_used="ExperimentPlanner", label_manager="LabelManager",
        foreground_intensity_properties_per_channel={
            str(channel): intensity for channel, intensity in enumerate(intensities)},
    )


def plans_of(patch, spacing, schemes, strides, intensity, masked=False, transpose=(0, 1, 2),
             reader="SimpleITKIO"):
    """Plans of one configuration, 3d_fullres; all lengths on the network's axes."""
    network = dict(architecture=dict(network_class_name="STUNet", _kw_requires_import=[],
                                     arch_kwargs=dict(strides=[[1, 1, 1], *strides])))
    configuration = configuration_of(patch, spacing, schemes, network, masked)
    return plans_with({"3d_fullres": configuration}, spacing, [intensity] * len(schemes),
                      transpose, reader)


def dataset_of(channels, structures):
    labels = {"background": 0, **{name: i for i, name in enumerate(structures, 1)}}
    return dict(channel_names={str(i): "image" for i in range(channels)}, labels=labels,
                numTraining=1, file_ending=".nii.gz")


@contextlib.contextmanager
def single_precision_sums():
    """nnU-Net adds its scores in half precision; within this context it uses single precision."""
    half, torch.half = torch.half, torch.float32
    try:
        yield
    finally:
        torch.half = half


def predictor_of(mirror=False):
    return nnUNetPredictor(tile_step_size=0.5, use_gaussian=True, use_mirroring=mirror,
                           perform_everything_on_device=False, device=torch.device("cpu"),
                           allow_tqdm=False)


class Job:
    """nnU-Net's predictor on one image, step by step."""

    def __init__(self, network, states, plans, dataset, mirror=False):
        """With the weights of one or more folds."""
        manager = PlansManager(plans)
        predictor = predictor_of(mirror)
        predictor.manual_initialization(network, manager, manager.get_configuration("3d_fullres"),
                                        states, dataset, "nnUNetTrainer", (0, 1, 2))
        self.take(predictor)

    @classmethod
    def of_training(cls, folder, folds=None, mirror=False):
        """With the folds of a results folder; None: those that nnU-Net finds there."""
        predictor = predictor_of(mirror)
        predictor.initialize_from_trained_model_folder(folder, folds)
        job = cls.__new__(cls)
        job.take(predictor)
        return job

    def take(self, predictor):
        self.predictor = predictor
        self.manager = predictor.plans_manager
        self.configuration = predictor.configuration_manager
        self.dataset = predictor.dataset_json

    def preprocess(self, files, previous=None):
        """The image as the network sees it, float32 (channels, shape0, shape1, shape2).

        `previous` is the label map of a cascade's previous stage.
        """
        cases = queue.Queue()
        preprocess_fromfiles_save_to_queue(
            [files], [previous], None, self.manager, self.dataset, self.configuration, cases,
            threading.Event(), threading.Event())
        case = cases.get()
        self.properties = case["data_properties"]
        return np.ascontiguousarray(case["data"].numpy())

    def scores(self, preprocessed):
        """The blended class scores on the network's grid."""
        data = torch.as_tensor(preprocessed)
        return self.predictor.predict_logits_from_preprocessed_data(data).cpu()

    def write(self, scores, path):
        """The label map of the image that was preprocessed last."""
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            scores, self.manager, self.configuration, self.manager.get_label_manager(self.dataset),
            self.properties)
        self.manager.image_reader_writer_class().write_seg(labels, path, self.properties)

    def labels(self, scores):
        """As `write`, (k, j, i)."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "labels.nii.gz")
            self.write(scores, path)
            return sitk.GetArrayFromImage(sitk.ReadImage(path)).astype(np.uint8)
