#!/usr/bin/env python3
"""Writes tests/fixtures/nifti: small NIfTI files, and expected.json with what SimpleITK says of them.

    python tests/reference/make_nifti_fixtures.py

Needs numpy, nibabel (writes most files) and SimpleITK (writes some, reads all). Geometry is ITK's
(mm, LPS); `values` are scaled voxels, the i axis fastest, channels slowest.
"""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from fixture_voxels import SHAPE, rotation, values

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "nifti"


def affine(direction, spacing, origin):
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = origin
    return matrix


OBLIQUE = affine(rotation(0.3, -0.2, 1.1), (0.7, 1.3, 2.5), (-81.25, 43.5, -310.75))
STRAIGHT = affine(np.eye(3), (2.0, 3.0, 4.0), (10, 20, 30))
MIRRORED = affine(np.diag([-1.0, 1, 1]), (2.0, 3.0, 4.0), (1, 2, 3))


def nifti(data, sform=None, qform=None, units=2, scaling=None, swapped=False, pair=False):
    """`sform` and `qform` are (matrix, code)."""
    image_class = nib.Nifti1Pair if pair else nib.Nifti1Image
    header = image_class.header_class(endianness=">" if swapped else "<")
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    image = image_class(data, None, header)
    image.header["pixdim"][1:4] = 2, 3, 4
    if qform is not None:
        image.set_qform(qform[0], qform[1])
    if sform is not None:
        image.set_sform(sform[0], sform[1])
        if qform is None:
            image.header["pixdim"][1:4] = np.linalg.norm(sform[0][:3, :3], axis=0)
    image.header["qform_code"] = 0 if qform is None else qform[1]
    image.header["sform_code"] = 0 if sform is None else sform[1]
    image.header["xyzt_units"] = units
    if scaling is not None:
        image.header["scl_slope"], image.header["scl_inter"] = scaling
    return image


def save(image, name):
    # The data are stored values: nibabel must not choose a scaling of its own.
    header = image.header
    slope, inter = header["scl_slope"].copy(), header["scl_inter"].copy()
    raw = np.asarray(image.dataobj)
    fields = header.copy()
    if "img" in name or name.endswith(".hdr"):
        fields["magic"], fields["vox_offset"] = b"ni1", 0
    else:
        fields["magic"], fields["vox_offset"] = b"n+1", 352
    fields["scl_slope"], fields["scl_inter"] = slope, inter
    order = fields.endianness
    body = raw.astype(raw.dtype.newbyteorder(order)).tobytes(order="F")
    if name.endswith(".hdr"):
        (FOLDER / name).write_bytes(fields.binaryblock)
        (FOLDER / name).with_suffix(".img").write_bytes(body)
        return
    content = fields.binaryblock + bytes(4) + body
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    (FOLDER / name).write_bytes(content)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    both = {"sform": (OBLIQUE, 1), "qform": (OBLIQUE, 1)}
    i16 = values("i2")
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"):
        save(nifti(values(kind), **both), f"type_{np.dtype(kind).name}.nii.gz")
    save(nifti(i16, scaling=(0.5, -1024.0), **both), "scaled.nii.gz")
    save(nifti(i16, scaling=(0.0, 0.0), **both), "slope_zero.nii")
    save(nifti(i16, swapped=True, **both), "big_endian_int16.nii.gz")
    save(nifti(values("f8"), swapped=True, scaling=(2.0, 1.0), **both), "big_endian_float64.nii")
    save(nifti(i16, pair=True, **both), "pair.hdr")
    save(nifti(i16, sform=(OBLIQUE, 2)), "sform_only.nii.gz")
    save(nifti(i16, qform=(OBLIQUE, 1)), "qform_only.nii.gz")
    save(nifti(i16), "no_form.nii.gz")
    save(nifti(i16, sform=(STRAIGHT, 1), qform=(MIRRORED, 1)), "scanner_sform_differs.nii.gz")
    save(nifti(i16, sform=(STRAIGHT, 2), qform=(MIRRORED, 1)), "aligned_sform_differs.nii.gz")
    sheared = STRAIGHT.copy()
    sheared[0, 1] = 0.4
    save(nifti(i16, sform=(sheared, 1), qform=(MIRRORED, 1)), "sheared_sform.nii.gz")
    left = affine(rotation(-2.8, 0.4, 0.9) @ np.diag([1.0, 1, -1]), (0.7, 1.3, 2.5), (5, -6, 700))
    save(nifti(i16, sform=(left, 1), qform=(left, 1)), "left_handed.nii.gz")
    save(nifti(i16, qform=(left, 1)), "left_handed_qform.nii.gz")
    save(nifti(i16, sform=(STRAIGHT, 1), qform=(STRAIGHT, 1), units=3), "micrometres.nii.gz")
    save(nifti(values("i2", SHAPE + (2,)), **both), "two_volumes.nii.gz")
    save(nifti(values("u1", SHAPE + (1, 2)), **both), "five_dimensions.nii.gz")
    save(nifti(values("u1", SHAPE[:2]), **both), "flat.nii.gz")

    image = sitk.GetImageFromArray(values("i2").transpose(2, 1, 0))
    image.SetSpacing((0.9765625, 0.9765625, 1.25))
    image.SetOrigin((-249.51171875, -428.51171875, 77.3))
    image.SetDirection((1, 0, 0, 0, 0.9986295, 0.0523360, 0, -0.0523360, 0.9986295))
    sitk.WriteImage(image, str(FOLDER / "itk_tilted.nii.gz"))

    expected = {}
    for path in sorted(FOLDER.glob("*.nii*")) + sorted(FOLDER.glob("*.hdr")):
        image = sitk.ReadImage(str(path))
        rank = image.GetDimension()
        direction = np.array(image.GetDirection()).reshape(rank, rank)
        spacing, origin = list(image.GetSpacing()), list(image.GetOrigin())
        stored = nib.load(path)
        data = stored.dataobj.get_unscaled().astype(np.float64)
        data = data * float(stored.dataobj.slope) + float(stored.dataobj.inter)
        itk = sitk.GetArrayFromImage(image).T.astype(np.float64)
        assert np.allclose(np.squeeze(itk), np.squeeze(data), rtol=1e-6), path.name
        expected[path.name] = {
            "type": stored.header.get_data_dtype().newbyteorder("=").name,
            "dims": (list(data.shape) + [1])[:3],
            "channels": int(np.prod(data.shape[3:])),
            "spacing": spacing[:3],
            "origin": origin[:3],
            "direction": direction[:3, :3].tolist(),
            "values": data.ravel(order="F").tolist(),
        }
    # ITK calls this image two-dimensional; as a volume it has the third axis of its header.
    flat = expected["flat.nii.gz"]
    full = expected["type_int16.nii.gz"]
    for name in ("spacing", "origin", "direction"):
        flat[name] = full[name]
    # ITK takes the compression from the name; the content decides here.
    (FOLDER / "compressed_without_saying.nii").write_bytes((FOLDER / "scaled.nii.gz").read_bytes())
    expected["compressed_without_saying.nii"] = expected["scaled.nii.gz"]
    (FOLDER / "plain_named_gz.nii.gz").write_bytes((FOLDER / "slope_zero.nii").read_bytes())
    expected["plain_named_gz.nii.gz"] = expected["slope_zero.nii"]
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in expected.items()]
    (FOLDER / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
