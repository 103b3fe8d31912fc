#!/usr/bin/env python3
"""Writes tests/fixtures/images: small NRRD and MetaImage files, and expected.json with what
SimpleITK says of them.

    python tests/reference/make_image_fixtures.py

Needs numpy, SimpleITK, pynrrd and slicerio. Geometry is ITK's (mm, LPS); `values` are voxels, the
i axis fastest, channels slowest.
"""

import gzip
import json
import shutil
import zlib
from pathlib import Path

import nrrd
import numpy as np
import SimpleITK as sitk
import slicerio

from fixture_voxels import SHAPE, rotation, values

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "images"

TILTED = rotation(0.3, -0.2, 1.1)


def image(kind, vector=False):
    data = values(kind)
    if vector:
        data = np.stack([data, data[::-1], data * 0 + 7], axis=-1)
        made = sitk.GetImageFromArray(data.transpose(2, 1, 0, 3), isVector=True)
    else:
        made = sitk.GetImageFromArray(data.transpose(2, 1, 0))
    made.SetSpacing((0.7, 1.3, 2.5))
    made.SetOrigin((-81.25, 43.5, -310.75))
    made.SetDirection(TILTED.ravel().tolist())
    return made


def text(name, lines, data=b""):
    (FOLDER / name).write_bytes("\n".join(lines).encode() + b"\n" + data)


TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
RAW16 = values("int16").tobytes(order="F")
SWAPPED16 = values("int16").byteswap().tobytes(order="F")
NRRD = ["type: short", "dimension: 3", "sizes: 5 4 3", "endian: little", "encoding: raw"]
META = ["ObjectType = Image", "NDims = 3", "DimSize = 5 4 3", "ElementType = MET_SHORT"]


def by_itk():
    for kind in TYPES:
        sitk.WriteImage(image(kind), FOLDER / f"type_{kind}.nrrd", useCompression=True)
        sitk.WriteImage(image(kind), FOLDER / f"type_{kind}.mha", useCompression=True)
    for ending in ("nrrd", "mha"):
        sitk.WriteImage(image("int16"), FOLDER / f"plain.{ending}", useCompression=False)
        sitk.WriteImage(image("uint8", vector=True), FOLDER / f"vector.{ending}", useCompression=False)
    for name, compressed in (("itk", False), ("itk_compressed", True)):
        sitk.WriteImage(image("int16"), FOLDER / f"{name}.nhdr", useCompression=compressed)
        sitk.WriteImage(image("int16"), FOLDER / f"{name}.mhd", useCompression=compressed)


def nrrd_by_hand():
    axes = "(0,2,0) (-3,0,0) (0,0,4.5)"
    for name, space in (
        ("ras", "right-anterior-superior"),
        ("las", "LAS"),
        ("lps", "left-posterior-superior"),
        ("scanner", "scanner-xyz"),
    ):
        space = [f"space: {space}", f"space directions: {axes}", "space origin: (10,20.5,-30)", ""]
        text(f"{name}.nrrd", ["NRRD0004", "# a comment", *NRRD, *space], RAW16)
    text("no_space.nrrd", ["NRRD0001", *NRRD, "spacings: 1.5 2.5 nan", ""], RAW16)
    minima = ["spacings: 1.5 2.5 3.5", "axis mins: 10 20 30", "centers: cell node cell", ""]
    text("axis_mins.nrrd", ["NRRD0001", *NRRD, *minima], RAW16)
    big = [line.replace("little", "big") for line in NRRD]
    text("big_endian.nrrd", ["NRRD0004", *big, ""], SWAPPED16)
    text("windows.nrrd", ["NRRD0004\r", *[line + "\r" for line in NRRD], "\r"], RAW16)
    (FOLDER / "skipped.raw").write_bytes(b"two\nlines\n" + b"12345" + RAW16)
    skips = ["line skip: 2", "byte skip: 5", "data file: skipped.raw"]
    text("skipped.nhdr", ["NRRD0004", *NRRD, *skips])
    skips = ["byte skip: -1", "data file: skipped.raw"]
    text("at_the_end.nhdr", ["NRRD0004", *NRRD, *skips])
    gz = [line.replace("raw", "gzip") for line in NRRD]
    (FOLDER / "skipped.raw.gz").write_bytes(gzip.compress(b"12345" + RAW16, mtime=0))
    skips = ["byte skip: 5", "data file: ./skipped.raw.gz"]
    text("skipped_gzip.nhdr", ["NRRD0004", *gz, *skips])
    spelled = ["type: unsigned long long int", "dimension: 3", "sizes: 5 4 3", "endian: little"]
    text("spelled.nrrd", ["NRRD0004", *spelled, "Encoding: RAW", ""], values("uint64").tobytes("F"))
    nrrd.write(
        str(FOLDER / "pynrrd.nrrd"),
        values("float32"),
        {
            "space": "left-posterior-superior",
            "space directions": (TILTED * (0.7, 1.3, 2.5)).T,
            "space origin": (1.0, 2.0, 3.0),
        },
    )


def metaimage_by_hand():
    local = "ElementDataFile = LOCAL"
    text("bare.mha", [*META, local], RAW16)
    old = ["Position = 1 2 3", "Orientation = 0 1 0 -1 0 0 0 0 1", "ElementSize = 2 3 4"]
    text("old_names.mha", [*META, *old, "ElementByteOrderMSB = True", local], SWAPPED16)
    text("oriented.mha", [*META, "AnatomicalOrientation = RAI", "Offset = 1 2 3", local], RAW16)
    (FOLDER / "header.raw").write_bytes(b"12345" + RAW16)
    text("header_size.mhd", [*META, "HeaderSize = 5", "ElementDataFile = header.raw"])
    text("at_the_end.mhd", [*META, "HeaderSize = -1", "ElementDataFile = header.raw"])
    long = [line.replace("MET_SHORT", "MET_LONG") for line in META]
    text("long.mha", [*long, local], values("int32").tobytes("F"))
    stream = zlib.compress(RAW16)
    text("no_size.mhd", [*META, "CompressedData = True", "ElementDataFile = no_size.zraw"])
    (FOLDER / "no_size.zraw").write_bytes(stream)
    units = ["DistanceUnits = um", "ElementSpacing = 1 2 3"]
    text("units.mha", [*META, *units, local], RAW16)


def four_dimensions():
    """Volumes one after another, which SimpleITK reads as an image of four dimensions."""
    data = np.stack([values("int16"), values("int16")[::-1]], axis=-1)
    spatial = ["space: left-posterior-superior", "space origin: (1,2,3)"]
    directions = ["space directions: (2,0,0) (0,3,0) (0,0,4) none", "kinds: domain domain domain list"]
    head = ["type: short", "dimension: 4", "sizes: 5 4 3 2", "endian: little", "encoding: raw"]
    text("list_last.nrrd", ["NRRD0005", *head, *spatial, *directions, ""], data.tobytes(order="F"))
    meta = [line.replace("5 4 3", "5 4 3 2").replace("NDims = 3", "NDims = 4") for line in META]
    place = ["Offset = 1 2 3 0", "ElementSpacing = 2 3 4 1", "ElementDataFile = LOCAL"]
    text("four.mha", [*meta, *place], data.tobytes(order="F"))
    flat = data.transpose(3, 2, 1, 0).ravel().tolist()
    expected = {
        "dims": SHAPE,
        "channels": 2,
        "type": "int16",
        "spacing": [2.0, 3.0, 4.0],
        "origin": [1.0, 2.0, 3.0],
        "direction": np.eye(3).ravel().tolist(),
        "values": flat,
    }
    return {"list_last.nrrd": expected, "four.mha": expected}


def segmentations():
    """3D Slicer's own files that slicerio brings along, cut to a few voxels by slicerio."""
    data = Path(slicerio.__file__).parent / "data"
    found = {}
    for name in ("Segmentation", "SegmentationOverlapping"):
        segmentation = slicerio.read_segmentation(str(data / f"{name}.seg.nrrd"))
        cut = (slice(40, 80, 8), slice(40, 80, 8), slice(10, 20, 3))
        layers = segmentation["voxels"].ndim == 4
        segmentation["voxels"] = segmentation["voxels"][(slice(None), *cut) if layers else cut].copy()
        slicerio.write_segmentation(str(FOLDER / f"{name}.seg.nrrd"), segmentation)
        found[f"{name}.seg.nrrd"] = [
            {
                "value": segment["labelValue"],
                "layer": segment["layer"],
                "name": segment["name"],
                "color": [round(255 * part) for part in segment["color"]],
                "type": segment["terminology"]["type"],
                "modifier": segment["terminology"].get("typeModifier"),
            }
            for segment in segmentation["segments"]
        ]
    (FOLDER / "segments.json").write_text(json.dumps(found, indent=1) + "\n")


def expectation(path):
    read = sitk.ReadImage(str(path))
    channels = read.GetNumberOfComponentsPerPixel()
    array = sitk.GetArrayFromImage(read)
    array = np.moveaxis(array, -1, 0) if channels > 1 else array
    return {
        "dims": read.GetSize(),
        "channels": channels,
        "type": str(array.dtype),
        "spacing": read.GetSpacing(),
        "origin": read.GetOrigin(),
        "direction": read.GetDirection(),
        "values": array.ravel().tolist(),
    }


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    by_itk()
    nrrd_by_hand()
    metaimage_by_hand()
    expected = four_dimensions()
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in (".nrrd", ".nhdr", ".mha", ".mhd") and path.name not in expected:
            expected[path.name] = expectation(path)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(expected.items())]
    (FOLDER / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    segmentations()


if __name__ == "__main__":
    main()
