"""The C ABI (`voxtile.h`) by ctypes, which lets go of Python's global lock during a call.

ctypes rather than an extension module: one wheel serves every Python, and the library in it is the
one that C programs link.
"""

import ctypes
import os
import sys
from ctypes import POINTER, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t
from ctypes import c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

OK, CANCELLED = 0, 1
CPU, CUDA = 1, 2
PRECISIONS = {None: 0, "f32": 1, "f16": 2, "bf16": 3, "int8": 4}
E_ARGUMENT, E_IO, E_FORMAT, E_UNSUPPORTED, E_MEMORY = -1, -2, -3, -4, -5
E_DEVICE, E_BUSY, E_INTERNAL, E_NEWER = -6, -7, -8, -9


class Sized(ctypes.Structure):
    """A struct that begins with its size, zeroed otherwise."""

    def __init__(self, **values):
        super().__init__(**values)
        self.struct_size = ctypes.sizeof(self)


class Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("native", c_int32), ("message", c_char * 504)]


class Device(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("id", c_uint32),
        ("kind", c_uint32),
        ("ordinal", c_uint32),
        ("memory_total", c_uint64),
        ("memory_free", c_uint64),
        ("name", c_char * 96),
        ("capability_major", c_uint32),
        ("capability_minor", c_uint32),
        ("covered", c_uint32),
        ("reserved", c_uint32),
        ("driver", c_char * 16),
        ("kernels", c_char * 16),
    ]


class ModelInfo(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("channels", c_uint32),
        ("labels", c_uint32),
        ("folds", c_uint32),
        ("patch", c_int64 * 3),
        ("spacing", c_double * 3),
        ("parameters", c_uint64),
        ("demo", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char_p),
        ("description", c_char_p),
        ("family", c_char_p),
    ]


class Label(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("value", c_uint32),
        ("rgb", c_uint8 * 3),
        ("has_rgb", c_uint8),
        ("reserved", c_uint32),
        ("name", c_char_p),
        ("code", c_char_p),
    ]


LogFunction = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


class SessionOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("device", c_uint32),
        ("threads", c_uint32),
        ("precision", c_uint32),
        ("host_budget", c_uint64),
        ("log", LogFunction),
        ("log_user", c_void_p),
        ("device_budget", c_uint64),
    ]


class Volume(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("channels", c_uint32),
        ("reserved", c_uint32),
        ("data", c_void_p),
        ("dims", c_int64 * 3),
        ("strides", c_int64 * 3),
        ("channel_stride", c_int64),
        ("spacing", c_double * 3),
        ("origin", c_double * 3),
        ("direction", c_double * 9),
        ("slope", c_double),
        ("intercept", c_double),
    ]


class Progress(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("phase", c_uint32),
        ("done", c_uint64),
        ("total", c_uint64),
        ("seconds", c_double),
    ]


ProgressFunction = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(Progress))


CLEANUP_LARGEST_COMPONENT, CLEANUP_MINIMUM_SIZE, CLEANUP_FILL_HOLES = 1, 2, 3


class Cleanup(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("step", c_uint32),
        ("connectivity", c_uint32),
        ("label_count", c_uint32),
        ("labels", POINTER(c_uint32)),
        ("minimum_mm3", c_double),
    ]


class RunOptions(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mirror", c_uint32),
        ("tile_step", c_float),
        ("keep_count", c_uint32),
        ("keep", POINTER(c_uint32)),
        ("progress", ProgressFunction),
        ("progress_user", c_void_p),
        ("export_mode", c_uint32),
        ("raw", c_uint32),
        ("region_start", c_int64 * 3),
        ("region_size", c_int64 * 3),
        ("region_mask", c_void_p),
        ("skip_air", c_uint32),
        ("skip_air_below", c_float),
        ("accumulators", c_uint32),
        ("probability_grid", c_uint32),
        ("probability", c_void_p),
        ("probability_user", c_void_p),
        ("cleanup", POINTER(Cleanup)),
        ("cleanup_count", c_uint32),
        ("reserved", c_uint32),
    ]


class Estimate(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("tiles", c_uint64),
        ("passes", c_uint64),
        ("host_bytes", c_uint64),
        ("least_host_bytes", c_uint64),
        ("slab_planes", c_uint32),
        ("prepared_kept", c_uint32),
        ("memory_parts", c_uint32),
        ("reserved_too", c_uint32),
        ("skipped_tiles", c_uint64),
        ("device_bytes", c_uint64),
        ("least_device_bytes", c_uint64),
    ]


class Output(Sized):
    _fields_ = [
        ("struct_size", c_uint32),
        ("labels_dtype", c_uint32),
        ("labels", c_void_p),
        ("labels_size", c_size_t),
        ("probability_dtype", c_uint32),
        ("probability_count", c_uint32),
        ("probability_values", POINTER(c_uint32)),
        ("probabilities", c_void_p),
        ("probabilities_size", c_size_t),
    ]


# What they are called in C, for the test of their layout.
STRUCTS = {
    "voxtile_error": Error,
    "voxtile_device": Device,
    "voxtile_model_info": ModelInfo,
    "voxtile_label": Label,
    "voxtile_session_options": SessionOptions,
    "voxtile_volume": Volume,
    "voxtile_progress": Progress,
    "voxtile_run_options": RunOptions,
    "voxtile_estimate": Estimate,
    "voxtile_output": Output,
    "voxtile_cleanup": Cleanup,
}


def _load():
    names = {"win32": "voxtile.dll", "darwin": "libvoxtile.dylib"}
    name = names.get(sys.platform, "libvoxtile.so")
    # Developers name the library that they have built.
    path = os.environ.get("VOXTILE_LIBRARY") or Path(__file__).parent / name
    library = ctypes.CDLL(str(path))
    handle = c_void_p
    error = POINTER(Error)
    functions = {
        "voxtile_version": (c_uint32,),
        "voxtile_device_count": (c_uint32,),
        "voxtile_device_get": (c_int32, c_uint32, POINTER(Device), error),
        "voxtile_model_open": (c_int32, c_char_p, POINTER(handle), error),
        "voxtile_model_info_get": (c_int32, handle, POINTER(ModelInfo), error),
        "voxtile_model_label_get": (c_int32, handle, c_uint32, POINTER(Label), error),
        "voxtile_model_release": (None, handle),
        "voxtile_session_create": (c_int32, handle, POINTER(SessionOptions), POINTER(handle), error),
        "voxtile_session_release": (None, handle),
        "voxtile_session_cancel": (None, handle),
        "voxtile_run_estimate": (c_int32, handle, POINTER(Volume), POINTER(RunOptions), POINTER(Estimate), error),
        "voxtile_run": (c_int32, handle, POINTER(Volume), POINTER(RunOptions), POINTER(Output), error),
    }
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


library = _load()
