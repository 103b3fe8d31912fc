"""Segments medical volumes with STU-Net / nnU-Net networks.

    import SimpleITK as sitk
    import voxtile

    model = voxtile.Model("organs.safetensors")
    session = voxtile.Session(model)
    labels = session.segment(sitk.ReadImage("ct.nrrd"))

A label map is of the same kind as the image: a NumPy array, an image of SimpleITK or of nibabel.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from . import _abi
from ._images import Picture, picture

__all__ = [
    "Cancelled",
    "Device",
    "Error",
    "Estimate",
    "FillHoles",
    "Label",
    "LargestComponent",
    "MinimumSize",
    "Model",
    "Progress",
    "Session",
    "devices",
]

_version = _abi.library.voxtile_version()
__version__ = f"{_version >> 16}.{_version >> 8 & 255}.{_version & 255}"


class Error(RuntimeError):
    """The library can't do what was asked; the text says what was found and what was expected."""


class Cancelled(Error):
    """The run was cancelled; there is no label map."""


_PYTHONS = {_abi.E_ARGUMENT: ValueError, _abi.E_IO: OSError, _abi.E_MEMORY: MemoryError}
# Of an error that is both what Python calls it and one of ours.
_KINDS = {status: type(f"Voxtile{kind.__name__}", (Error, kind), {}) for status, kind in _PYTHONS.items()}


def _check(function, *arguments) -> None:
    error = _abi.Error()
    status = function(*arguments, ctypes.byref(error))
    if status == _abi.CANCELLED:
        raise Cancelled("the run was cancelled")
    if status != _abi.OK:
        raise _KINDS.get(status, Error)(error.message.decode("utf-8", "replace"))


def _text(value: Optional[bytes]) -> Optional[str]:
    return None if value is None else value.decode("utf-8", "replace")


@dataclass(frozen=True)
class Device:
    """Where sessions run: `cpu`, or `cuda` with its number among the GPUs. Bytes are 0 if unknown.
    `covered` is False of a GPU that is too old for voxtile's kernels."""

    id: int
    name: str
    memory_total: int
    memory_free: int
    kind: str
    ordinal: int
    covered: bool


@dataclass(frozen=True)
class Label:
    """A label: its value in label maps, and what it is."""

    value: int
    name: str
    color: Optional[Tuple[int, int, int]]
    code: Optional[str]


@dataclass(frozen=True)
class Progress:
    """How far a run is: network passes done and in all, and seconds since it began."""

    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run needs at most: of the machine's memory and of a GPU's own, and the smallest bounds
    that would do."""

    tiles: int
    passes: int
    host_bytes: int
    least_host_bytes: int
    device_bytes: int
    least_device_bytes: int


def devices() -> List[Device]:
    """The devices of this machine: the processor, then the GPUs. Where none is named, a GPU that
    has room for the network is taken, else the processor."""
    found = []
    for index in range(_abi.library.voxtile_device_count()):
        device = _abi.Device()
        _check(_abi.library.voxtile_device_get, index, ctypes.byref(device))
        name = device.name.decode("utf-8", "replace")
        kind = "cuda" if device.kind == _abi.CUDA else "cpu"
        memory = device.memory_total, device.memory_free
        found.append(Device(device.id, name, *memory, kind, device.ordinal, bool(device.covered)))
    return found


def _device_id(device: Union[Device, str, None]) -> int:
    if isinstance(device, Device):
        return device.id
    if device is None or device == "auto":
        return 0
    known = {f"cuda:{one.ordinal}" if one.kind == "cuda" else "cpu": one for one in devices()}
    found = known.get("cuda:0" if device == "cuda" else device)
    if found is None:
        there = ", ".join(f"{name} ({one.name})" for name, one in known.items())
        raise ValueError(f"there is no device {device!r}; there is: {there}")
    return found.id


@dataclass(frozen=True)
class LargestComponent:
    """Of each label the largest component stays. `labels` are names or values, None for every label
    but the background; voxels of a component touch by faces, edges or corners (`connectivity` 26) or
    by faces (6)."""

    labels: Optional[Sequence[Union[int, str]]] = None
    connectivity: int = 26


@dataclass(frozen=True)
class MinimumSize:
    """Components smaller than `mm3` become background."""

    mm3: float
    labels: Optional[Sequence[Union[int, str]]] = None
    connectivity: int = 26


@dataclass(frozen=True)
class FillHoles:
    """Background that one label encloses by faces becomes that label."""

    labels: Optional[Sequence[Union[int, str]]] = None


CleanupStep = Union[LargestComponent, MinimumSize, FillHoles]


class _Handle:
    """Something of the library's that is released once."""

    _release: Callable
    _pointer: ctypes.c_void_p

    def close(self) -> None:
        """Releases it at once, rather than when Python finds that nobody uses it."""
        pointer, self._pointer = getattr(self, "_pointer", None), None
        if pointer:
            self._release(pointer)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _open(self) -> ctypes.c_void_p:
        if not self._pointer:
            raise ValueError(f"the {type(self).__name__.lower()} is closed")
        return self._pointer


class Model(_Handle):
    """A model package, one .safetensors file. It never changes; threads may share it."""

    _release = staticmethod(_abi.library.voxtile_model_release)

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        pointer = ctypes.c_void_p()
        _check(_abi.library.voxtile_model_open, os.fsencode(path), ctypes.byref(pointer))
        self._pointer = pointer
        info = _abi.ModelInfo()
        _check(_abi.library.voxtile_model_info_get, pointer, ctypes.byref(info))
        self.name: str = _text(info.name) or ""
        self.description: str = _text(info.description) or ""
        self.family: str = _text(info.family) or ""
        self.channels: int = info.channels
        self.folds: int = info.folds
        self.parameters: int = info.parameters
        self.demo: bool = bool(info.demo)
        self.labels: List[Label] = [self._label(index) for index in range(info.labels)]

    def _label(self, index: int) -> Label:
        label = _abi.Label()
        _check(_abi.library.voxtile_model_label_get, self._pointer, index, ctypes.byref(label))
        color = tuple(label.rgb) if label.has_rgb else None
        return Label(label.value, _text(label.name) or "", color, _text(label.code))

    def value(self, label: Union[int, str]) -> int:
        """The value of a label that is given by its name or value."""
        for known in self.labels:
            if label in (known.value, known.name):
                return known.value
        raise ValueError(f"the model {self.name} has no label {label!r}")

    def __repr__(self) -> str:
        return f"<voxtile.Model {self.name}: {self.family}, {len(self.labels)} labels>"


class Session(_Handle):
    """A model made ready on a device. One run at a time; other threads can `cancel` it.

    `device` is a Device or its name (`cpu`, `cuda`, `cuda:1`), or None for a GPU that has room for the
    network, else the processor. `threads` 0 is all. `memory` are the bytes that session and runs may
    take beyond the images and the model, `device_memory` those of a GPU's own memory; 0 is no limit
    and what is free. `precision` is how the network's values are held: `f16` on a GPU, `f32` on the
    processor, and on a GPU to check it; `bf16`, on the processor, is faster and smaller, and changes
    a few labels where two scores nearly tie; `int8` holds values as `bf16`, multiplies 8-bit integers
    where that is faster, and changes more labels. `log` is called with each message and whether it is a
    warning.
    """

    _release = staticmethod(_abi.library.voxtile_session_release)

    def __init__(
        self,
        model: Model,
        device: Union[Device, str, None] = None,
        threads: int = 0,
        memory: int = 0,
        log: Optional[Callable[[str, bool], Any]] = None,
        *,
        precision: Optional[str] = None,
        device_memory: int = 0,
    ) -> None:
        if precision not in _abi.PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected 'f32', 'f16', 'bf16', 'int8' or None")

        def told(_, level, message):
            log(_text(message), level == 2)

        # Kept as long as the library may call it.
        self._log = _abi.LogFunction(told) if log else _abi.LogFunction()
        options = _abi.SessionOptions(
            device=_device_id(device),
            threads=threads,
            precision=_abi.PRECISIONS[precision],
            host_budget=memory,
            log=self._log,
            device_budget=device_memory,
        )
        pointer = ctypes.c_void_p()
        create = _abi.library.voxtile_session_create
        _check(create, model._open(), ctypes.byref(options), ctypes.byref(pointer))
        self._pointer = pointer
        self.model = model

    def segment(
        self,
        image: Any,
        spacing: Optional[Sequence[float]] = None,
        origin: Optional[Sequence[float]] = None,
        direction: Optional[Sequence[Sequence[float]]] = None,
        *,
        step: float = 0.5,
        mirror: bool = False,
        labels: Optional[Iterable[Union[int, str]]] = None,
        raw: bool = False,
        cleanup: Sequence[CleanupStep] = (),
        progress: Optional[Callable[[Progress], Any]] = None,
    ) -> Any:
        """The label map of an image, of the same kind and on the same grid.

        `image` is of SimpleITK or nibabel, or an array `[k][j][i]` (`[channel][k][j][i]`) with
        `spacing` in mm and `origin` in mm, LPS, along i, j, k, and `direction` as ITK's. Labels are
        `uint8`, or `uint16` where the model has larger values. `labels` are those to keep, by name
        or value, `cleanup` the steps that tidy up before that. `progress` is called on this thread
        before each step; if it returns False, or raises, the run is cancelled, and what it raised
        is raised again.

        Other threads of Python go on meanwhile.
        """
        subject = picture(image, spacing, origin, direction)
        options = self._options(step, mirror, labels, raw, cleanup)
        failure: List[BaseException] = []

        def follow(_, told):
            try:
                done = progress(Progress(told[0].done, told[0].total, told[0].seconds))
                return 1 if done is False else 0
            except BaseException as error:  # it can't cross the library
                failure.append(error)
                return 1

        if progress:
            options.progress = _abi.ProgressFunction(follow)
        small = all(label.value <= 255 for label in self.model.labels)
        found = np.zeros(subject.shape, np.uint8 if small else np.uint16)
        output = _abi.Output(
            labels_dtype=1 if small else 3, labels=found.ctypes.data, labels_size=found.nbytes
        )
        volume, options, output = map(ctypes.byref, (subject.volume, options, output))
        try:
            _check(_abi.library.voxtile_run, self._open(), volume, options, output)
        finally:
            # Whatever the run came to: it may have ended before it was cancelled.
            if failure:
                raise failure[0]
        return subject.wrap(found)

    def estimate(
        self,
        image: Any,
        spacing: Optional[Sequence[float]] = None,
        origin: Optional[Sequence[float]] = None,
        direction: Optional[Sequence[Sequence[float]]] = None,
        *,
        step: float = 0.5,
        mirror: bool = False,
        cleanup: Sequence[CleanupStep] = (),
    ) -> Estimate:
        """What `segment` would need at most for such an image; reads no voxel."""
        subject: Picture = picture(image, spacing, origin, direction)
        options = self._options(step, mirror, None, False, cleanup)
        found = _abi.Estimate()
        volume, options, out = map(ctypes.byref, (subject.volume, options, found))
        _check(_abi.library.voxtile_run_estimate, self._open(), volume, options, out)
        host = found.host_bytes, found.least_host_bytes
        return Estimate(found.tiles, found.passes, *host, found.device_bytes, found.least_device_bytes)

    def _options(self, step, mirror, labels, raw, cleanup) -> _abi.RunOptions:
        options = _abi.RunOptions(tile_step=step, mirror=int(mirror), raw=int(raw))
        if labels is not None:
            values = self._values(labels)
            options.keep_count = len(values)
            options.keep = (ctypes.c_uint32 * len(values))(*values)
        if cleanup:
            options.cleanup_count = len(cleanup)
            # ctypes keeps what the fields point to.
            options.cleanup = (_abi.Cleanup * len(cleanup))(*map(self._step, cleanup))
        return options

    def _values(self, labels: Iterable[Union[int, str]]) -> List[int]:
        values = [] if isinstance(labels, str) else [self.model.value(label) for label in labels]
        if not values:
            raise ValueError(f"labels are {labels!r}; expected a list of names or values, or None for all")
        return values

    def _step(self, step: CleanupStep) -> _abi.Cleanup:
        kinds = {
            LargestComponent: _abi.CLEANUP_LARGEST_COMPONENT,
            MinimumSize: _abi.CLEANUP_MINIMUM_SIZE,
            FillHoles: _abi.CLEANUP_FILL_HOLES,
        }
        if type(step) not in kinds:
            raise TypeError(f"{step!r} is no step of clean-up; expected LargestComponent, MinimumSize or FillHoles")
        made = _abi.Cleanup(
            step=kinds[type(step)],
            connectivity=getattr(step, "connectivity", 0),
            minimum_mm3=getattr(step, "mm3", 0),
        )
        if step.labels is not None:
            values = self._values(step.labels)
            made.label_count = len(values)
            made.labels = (ctypes.c_uint32 * len(values))(*values)
        return made

    def cancel(self) -> None:
        """Asks the run that is on, if any, to stop after its current tile. From any thread."""
        _abi.library.voxtile_session_cancel(self._open())
