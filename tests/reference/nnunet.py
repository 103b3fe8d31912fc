"""Real nnU-Net v2 on any network, step by step; for the scripts beside this one.

needs: pip install nnunetv2==2.8.1 torch==2.11.0
"""

import contextlib
import os
import tempfile

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def plans_of(patch, spacing, schemes, strides, intensity, masked=False, transpose=(0, 1, 2),
             reader="SimpleITKIO"):
    """Plans as nnU-Net v2 writes them; patch, spacing and strides on the network's axes."""
    transpose = list(transpose)
    resample = "resample_data_or_seg_to_shape"
    kwargs = dict(is_seg=False, order_z=0, force_separate_z=None)
    configuration = dict(
        data_identifier="nnUNetPlans_3d_fullres", preprocessor_name="DefaultPreprocessor",
        batch_size=2, patch_size=list(patch), median_image_size_in_voxels=[64] * 3,
        spacing=list(spacing), normalization_schemes=list(schemes),
        use_mask_for_norm=[masked] * len(schemes),
        resampling_fn_data=resample, resampling_fn_seg=resample,
        resampling_fn_probabilities=resample,
        resampling_fn_data_kwargs=dict(kwargs, order=3),
        resampling_fn_seg_kwargs=dict(kwargs, is_seg=True, order=1),
        resampling_fn_probabilities_kwargs=dict(kwargs, order=1),
        architecture=dict(network_class_name="STUNet", _kw_requires_import=[],
                          arch_kwargs=dict(strides=[[1, 1, 1], *strides])),
        batch_dice=False,
    )
    return dict(
        dataset_name="Dataset900_Reference", plans_name="nnUNetPlans",
        original_median_spacing_after_transp=list(spacing),
        original_median_shape_after_transp=[64] * 3, image_reader_writer=reader,
        transpose_forward=transpose, transpose_backward=[transpose.index(i) for i in range(3)],
        configurations={"3d_fullres": configuration},
        experiment_planner_used="ExperimentPlanner", label_manager="LabelManager",
        foreground_intensity_properties_per_channel={
            str(channel): intensity for channel in range(len(schemes))},
    )


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


class Job:
    """nnU-Net's predictor with the weights of one or more folds."""

    def __init__(self, network, states, plans, dataset, mirror=False):
        self.dataset = dataset
        self.manager = PlansManager(plans)
        self.configuration = self.manager.get_configuration("3d_fullres")
        self.predictor = nnUNetPredictor(tile_step_size=0.5, use_gaussian=True,
                                         use_mirroring=mirror, perform_everything_on_device=False,
                                         device=torch.device("cpu"), allow_tqdm=False)
        self.predictor.manual_initialization(network, self.manager, self.configuration, states,
                                             dataset, "nnUNetTrainer", (0, 1, 2))

    def preprocess(self, files):
        """The image as the network sees it, float32 (channels, shape0, shape1, shape2)."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        data, _, self.properties = preprocessor.run_case(
            files, None, self.manager, self.configuration, self.dataset)
        return np.ascontiguousarray(np.asarray(data), dtype=np.float32)

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
