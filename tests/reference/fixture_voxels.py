"""Voxels and directions of the small images that the fixture scripts beside this write."""

import numpy as np

SHAPE = (5, 4, 3)


def rotation(x, y, z):
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def values(kind, shape=SHAPE):
    """Values that use the type's range, the extremes included."""
    count = int(np.prod(shape))
    kind = np.dtype(kind)
    if kind.kind == "f":
        flat = np.linspace(-1024.5, 3071.25, count)
    else:
        # Numbers beyond 2^53 are no doubles; a power of two is.
        limit = np.iinfo(kind)
        low = max(limit.min, -(2**40))
        flat = np.linspace(low, min(limit.max, 2**40), count).round()
        flat[0] = limit.min
    return flat.astype(kind).reshape(shape, order="F")
