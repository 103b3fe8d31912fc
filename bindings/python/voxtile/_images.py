"""Images of NumPy, SimpleITK and nibabel as volumes of the C ABI, and label maps back."""

from __future__ import annotations

import sys
from typing import Any, Optional, Sequence

import numpy as np

from . import _abi

_TYPES = {
    np.dtype(name): code
    for name, code in {
        "uint8": 1,
        "int8": 2,
        "uint16": 3,
        "int16": 4,
        "int32": 5,
        "float16": 6,
        "float32": 7,
        "float64": 8,
        "uint32": 9,
    }.items()
}
# RAS to LPS and back.
_FLIP = np.diag([-1.0, -1.0, 1.0])


class Picture:
    """A volume, what its voxels lie in, and how a label map of its grid is made.

    `array` is `[k][j][i]` or `[channel][k][j][i]`, of any strides.
    """

    def __init__(self, array, spacing, origin, direction, wrap, slope=1.0, intercept=0.0):
        if array.ndim not in (3, 4):
            raise ValueError(f"an image of {array.ndim} dimensions; expected [k][j][i] or [channel][k][j][i]")
        if array.dtype == bool:
            array = array.view(np.uint8)
        native = array.dtype.newbyteorder("=")
        if native not in _TYPES:
            if array.dtype.kind not in "iuf":
                raise TypeError(f"voxels of type {array.dtype}; expected integers or floating point numbers")
            native = np.dtype(np.float64)
        self.array = array if array.dtype == native else array.astype(native)
        self.wrap = wrap
        strides = self.array.strides[::-1]
        self.volume = _abi.Volume(
            dtype=_TYPES[native],
            channels=self.array.shape[0] if array.ndim == 4 else 1,
            data=self.array.ctypes.data,
            dims=(_abi.c_int64 * 3)(*self.array.shape[::-1][:3]),
            strides=(_abi.c_int64 * 3)(*strides[:3]),
            channel_stride=strides[3] if array.ndim == 4 else 0,
            spacing=(_abi.c_double * 3)(*_three(spacing, "spacing")),
            origin=(_abi.c_double * 3)(*_three(origin, "origin")),
            direction=(_abi.c_double * 9)(*_nine(direction)),
            slope=slope,
            intercept=intercept,
        )
        self.shape = self.array.shape[-3:]


def _three(values: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape != (3,):
        raise ValueError(f"{name} is {values.tolist()}; expected three numbers, along i, j, k")
    return values


def _nine(direction) -> np.ndarray:
    values = np.asarray(direction, float)
    if values.size != 9:
        raise ValueError(f"direction has {values.size} numbers; expected a 3 x 3 matrix, row by row")
    return values.ravel()


def picture(
    image: Any,
    spacing: Optional[Sequence[float]] = None,
    origin: Optional[Sequence[float]] = None,
    direction: Optional[Sequence[Sequence[float]]] = None,
) -> Picture:
    """Of a NumPy array, or an image that says itself where it lies."""
    given = any(value is not None for value in (spacing, origin, direction))
    for module, function in (("SimpleITK", _simpleitk), ("nibabel", _nibabel)):
        # An image of a package exists only if the package has been imported.
        if module in sys.modules:
            found = function(sys.modules[module], image)
            if found is not None:
                if given:
                    raise TypeError(f"an image of {module} has its own spacing, origin and direction")
                return found
    array = np.asarray(image)
    if spacing is None:
        raise TypeError("a NumPy array needs its spacing: spacing=(i, j, k) in mm")
    origin = (0, 0, 0) if origin is None else origin
    direction = np.eye(3) if direction is None else direction
    return Picture(array, spacing, origin, direction, lambda labels: labels)


def _simpleitk(sitk, image) -> Optional[Picture]:
    if not isinstance(image, sitk.Image):
        return None
    if image.GetDimension() != 3:
        raise ValueError(f"an image of {image.GetDimension()} dimensions; expected 3")
    array = sitk.GetArrayViewFromImage(image)
    if array.ndim == 4:  # components last
        array = np.moveaxis(array, -1, 0)

    def wrap(labels):
        made = sitk.GetImageFromArray(labels)
        made.CopyInformation(image)
        return made

    return Picture(array, image.GetSpacing(), image.GetOrigin(), image.GetDirection(), wrap)


def _nibabel(nibabel, image) -> Optional[Picture]:
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        return None
    data, slope, intercept = image.dataobj, 1.0, 0.0
    if nibabel.is_proxy(data) and hasattr(data, "get_unscaled"):
        slope, intercept = float(data.slope), float(data.inter)
        array = data.get_unscaled()
    else:
        array = np.asanyarray(data)
    # nibabel's axes are i, j, k and then the channels.
    array = np.asarray(array).transpose()
    affine = np.asarray(image.affine, float)
    axes = _FLIP @ affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)

    def wrap(labels):
        return nibabel.Nifti1Image(labels.transpose(), image.affine)

    origin = _FLIP @ affine[:3, 3]
    return Picture(array, spacing, origin, axes / spacing, wrap, slope, intercept)
