"""nnU-Net v1's inference in its default mode, step by step; for the scripts beside this one.

Written anew, because nnU-Net v1 does not install on current Python: crop to nonzero, resample,
then normalise; softmax of every tile and every flip, averaged with Gaussian weights in single
precision; probabilities resampled to the image. The resampling itself is nnU-Net v2's, which
computes the same. make_trainings_v1.py compares all of it with results of nnU-Net 1.7.1.

needs: pip install nnunetv2==2.8.1 torch==2.11.0
"""

import itertools
from functools import partial
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling import default_resampling
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape, resample_data_or_seg_to_shape)
from scipy.ndimage import gaussian_filter
from skimage.transform import resize
from torch import nn
from torch.nn import functional as F


def normalised(data, scheme, intensity):
    if scheme == "CT":
        clipped = np.clip(data, intensity["percentile_00_5"], intensity["percentile_99_5"])
        return ((clipped - intensity["mean"]) / intensity["sd"]).astype(np.float32)
    if scheme == "noNorm":
        return data
    return (data - data.mean()) / (data.std() + 1e-8)


def resized_labels(labels, shape, order):
    """batchgenerators' rule up to 0.25.3: a share of a half, of two the higher label."""
    resized = partial(resize, output_shape=shape, order=order, mode="edge", clip=True,
                      anti_aliasing=False)
    if order == 0:
        return resized(labels.astype(float))
    result = np.zeros(shape)
    for label in np.unique(labels):
        result[resized((labels == label).astype(float)) >= 0.5] = label
    return result


def gaussian(patch):
    delta = np.zeros(patch)
    delta[tuple(n // 2 for n in patch)] = 1
    weights = gaussian_filter(delta, [n / 8 for n in patch], 0, mode="constant", cval=0)
    weights = (weights / weights.max()).astype(np.float32)
    weights[weights == 0] = weights[weights != 0].min()
    return weights


class Job:
    """One image and the networks of one or more folds."""

    def __init__(self, networks, plans, stage=0, mirror_axes=()):
        self.networks = networks
        self.plans = plans
        self.stage = plans["plans_per_stage"][stage]
        self.mirror_axes = mirror_axes

    def preprocess(self, files):
        """The image as the network sees it, float32 (channels, shape0, shape1, shape2)."""
        images = [sitk.ReadImage(file) for file in files]
        data = np.stack([sitk.GetArrayFromImage(image) for image in images]).astype(np.float32)
        self.spacing = np.array(images[0].GetSpacing())[::-1]
        self.shape = data.shape[1:]
        data, _, self.box = crop_to_nonzero(data)
        self.cropped = data.shape[1:]
        order = list(self.plans["transpose_forward"])
        data = data.transpose([0, *(axis + 1 for axis in order)])
        data[np.isnan(data)] = 0
        spacing, target = self.spacing[order], np.asarray(self.stage["current_spacing"])
        data = resample_data_or_seg_to_shape(
            data, compute_new_shape(data.shape[1:], spacing, target), spacing, target,
            order=3, force_separate_z=None)
        numbers = self.plans["dataset_properties"]["intensityproperties"] or {}
        return np.stack([
            normalised(channel, self.plans["normalization_schemes"][c], numbers.get(c))
            for c, channel in enumerate(data)])

    @torch.inference_mode()
    def probabilities(self, preprocessed):
        """The averaged probabilities on the network's grid."""
        return np.mean([self.of_fold(network, preprocessed) for network in self.networks], 0,
                       dtype=np.float32)

    def of_fold(self, network, preprocessed):
        patch = tuple(map(int, self.stage["patch_size"]))
        data, padding = pad_nd_image(preprocessed, patch, "constant", {"constant_values": 0}, True)
        steps = compute_steps_for_sliding_window(data.shape[1:], patch, 0.5)
        tiles = list(itertools.product(*steps))
        weights = gaussian(patch) if len(tiles) > 1 else np.ones(patch, np.float32)
        total = sums = 0
        for corner in tiles:
            tile = tuple(slice(start, start + n) for start, n in zip(corner, patch))
            result = self.of_tile(network, torch.from_numpy(data[(slice(None), *tile)])[None])
            if np.isscalar(total):
                total = np.zeros((len(result), *data.shape[1:]), np.float32)
                sums = np.zeros(data.shape[1:], np.float32)
            total[(slice(None), *tile)] += result * weights
            sums[tile] += weights
        return (total / sums)[(slice(None), *padding[1:])]

    def of_tile(self, network, tile):
        flips = [axes for n in range(len(self.mirror_axes) + 1)
                 for axes in itertools.combinations([a + 2 for a in self.mirror_axes], n)]
        results = [torch.flip(torch.softmax(network(torch.flip(tile, axes)), 1), axes)
                   for axes in flips]
        return sum(result / len(flips) for result in results)[0].numpy()

    def labels(self, probabilities):
        """The label map of the image that was preprocessed last, (k, j, i)."""
        back = np.argsort(self.plans["transpose_forward"])
        probabilities = probabilities.transpose([0, *(axis + 1 for axis in back)])
        target = np.asarray(self.stage["current_spacing"])
        # Image spacing first; the other one stays on the network's axes, as in nnU-Net v1.
        probabilities = resample_data_or_seg_to_shape(
            probabilities, self.cropped, self.spacing, target, order=1, force_separate_z=None)
        labels = np.zeros(self.shape, np.uint8)
        labels[bounding_box_to_slice(self.box)] = probabilities.argmax(0)
        return labels

    def fast_labels(self, probabilities, order):
        """The fast (order 1) and fastest (0) modes: labels, not probabilities, come back."""
        found = probabilities.argmax(0).transpose(np.argsort(self.plans["transpose_forward"]))
        labels = np.zeros(self.shape, np.uint8)
        with mock.patch.object(default_resampling, "resize_segmentation", resized_labels):
            labels[bounding_box_to_slice(self.box)] = resample_data_or_seg_to_shape(
                found[None].astype(np.float32), self.cropped, self.spacing,
                np.asarray(self.stage["current_spacing"]), is_seg=True, order=order,
                force_separate_z=None)[0]
        return labels


class Block(nn.Module):
    """conv-norm-act, under nnU-Net v1's names."""

    def __init__(self, cin, cout, kernel, stride):
        super().__init__()
        self.conv = nn.Conv3d(cin, cout, kernel, stride, [int(n == 3) for n in kernel])
        self.instnorm = nn.InstanceNorm3d(cout, affine=True)

    def forward(self, x):
        return F.leaky_relu(self.instnorm(self.conv(x)))


class Stack(nn.Module):
    def __init__(self, cin, cout, count, kernel, stride=1):
        super().__init__()
        self.blocks = nn.Sequential(
            Block(cin, cout, kernel, stride),
            *(Block(cout, cout, kernel, 1) for _ in range(count - 1)))

    def forward(self, x):
        return self.blocks(x)


class GenericUNet(nn.Module):
    """nnU-Net v1's own network. A decoder stage has the kernels of the encoder stage below it."""

    def __init__(self, in_channels, classes, features, pools, kernels, convolutions=2):
        super().__init__()
        features = [min(features * 2 ** stage, 320) for stage in range(len(kernels))]
        pairs = list(zip(features, features[1:]))
        self.conv_blocks_localization = nn.ModuleList(
            [nn.Sequential(Stack(2 * here, here, convolutions - 1, kernel),
                           Stack(here, here, 1, kernel))
             for (here, _), kernel in zip(pairs[::-1], kernels[::-1])])
        self.conv_blocks_context = nn.ModuleList(
            [Stack(in_channels, features[0], convolutions, kernels[0])]
            + [Stack(*pairs[d], convolutions, kernels[d + 1], pools[d])
               for d in range(len(pools) - 1)]
            + [nn.Sequential(Stack(*pairs[-1], convolutions - 1, kernels[-1], pools[-1]),
                             Stack(features[-1], features[-1], 1, kernels[-1]))])
        self.tu = nn.ModuleList(
            [nn.ConvTranspose3d(below, here, pool, pool, bias=False)
             for (here, below), pool in zip(pairs[::-1], pools[::-1])])
        self.seg_outputs = nn.ModuleList(
            [nn.Conv3d(here, classes, 1, bias=False) for here, _ in pairs[::-1]])

    def forward(self, x):
        skips = []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.tu, self.conv_blocks_localization):
            x = stage(torch.cat((up(x), skips.pop()), 1))
        return self.seg_outputs[-1](x)
