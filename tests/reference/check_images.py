#!/usr/bin/env python3
"""Segments the example with the program given, into every format, and compares what SimpleITK and
slicerio read. Also checks the description for 3D Slicer with ctk-cli.

    python tests/reference/check_images.py target/release/voxtile

Needs numpy, SimpleITK, slicerio and ctk-cli.
"""

import logging
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import ctk_cli
import numpy as np
import SimpleITK as sitk
import slicerio

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = Path(sys.argv[1]).resolve()
MODEL = ROOT / "examples" / "demo.safetensors"


def voxtile(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def segment(image, output, *further):
    voxtile("segment", image, "-m", MODEL, "-o", output, "--quiet", *further)
    return sitk.ReadImage(str(output))


def same_grid(one, other, tolerance):
    assert one.GetSize() == other.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(one, get)(), getattr(other, get)(), atol=tolerance)


def check_formats(folder):
    source = sitk.ReadImage(str(ROOT / "examples" / "ct_part.nii.gz"))
    # Oblique: what the file says of the axes must come back in every format.
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1, -0.2, 0.3)
    turned = np.array(turn.GetMatrix()).reshape(3, 3) @ np.array(source.GetDirection()).reshape(3, 3)
    source.SetDirection(turned.ravel().tolist())
    expected = None
    for ending in ("nii.gz", "nrrd", "nhdr", "mha", "mhd"):
        for compressed in (False, True):
            name = folder / f"in_{compressed}.{ending}"
            sitk.WriteImage(source, str(name), useCompression=compressed)
            for out in (ending, "seg.nrrd"):
                labels = segment(name, folder / f"out.{out}")
                if expected is None:
                    expected = labels
                assert (sitk.GetArrayFromImage(labels) == sitk.GetArrayFromImage(expected)).all(), name
                same_grid(labels, source, 1e-4 if ending == "nii.gz" else 1e-9)
    for ending in ("nii", "nrrd", "mha"):
        path = folder / f"p.{ending}"
        segment(folder / "in_False.nrrd", folder / "labels.nrrd", "--probabilities", path)
        found = sitk.ReadImage(str(path))
        values = sitk.GetArrayFromImage(found)
        if found.GetNumberOfComponentsPerPixel() > 1:
            values = np.moveaxis(values, -1, 0)
        assert values.shape == (17, *sitk.GetArrayFromImage(source).shape), values.shape
        np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-4)
        assert (values.argmax(axis=0) == sitk.GetArrayFromImage(expected)).mean() > 0.99
    return sitk.GetArrayFromImage(expected)


def check_segmentation(folder, expected):
    segmentation = slicerio.read_segmentation(str(folder / "out.seg.nrrd"))
    # slicerio's axes are i, j, k.
    assert (segmentation["voxels"].transpose(2, 1, 0) == expected).all()
    segments = {segment["name"]: segment for segment in segmentation["segments"]}
    present = {int(value) for value in np.unique(expected)} - {0}
    assert {segment["labelValue"] for segment in segments.values()} == present
    kidney = segments["kidney_left"]
    assert kidney["terminology"]["type"] == ["SCT", "64033007", "Kidney"]
    assert kidney["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert kidney["terminology"]["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert kidney["layer"] == 0 and len(kidney["color"]) == 3
    assert segmentation["masterRepresentation"] == "Binary labelmap"
    # Written again by slicerio, its labels and names are read back here.
    slicerio.write_segmentation(str(folder / "again.seg.nrrd"), segmentation)
    assert "0 of" in voxtile("compare", folder / "again.seg.nrrd", folder / "out.seg.nrrd")
    assert "kidney_left" in voxtile("statistics", folder / "again.seg.nrrd")


def check_description():
    complaints = []
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())
    logging.getLogger("ctk_cli").addHandler(handler)
    module = ctk_cli.CLIModule(stream=BytesIO(voxtile("--xml").encode()))
    # It calls `reference`, which 3D Slicer knows, not part of its schema yet.
    complaints = [text for text in complaints if "CTK issue #623" not in text]
    assert not complaints, complaints
    arguments, options, outputs = module.classifyParameters()
    assert [parameter.name for parameter in arguments] == ["inputVolume", "outputLabels"]
    assert [parameter.name for parameter in outputs] == ["structures"]
    assert "model" in [parameter.name for parameter in options]


def main():
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    check_description()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        check_segmentation(folder, check_formats(folder))
    print("SimpleITK, slicerio and ctk-cli agree")


if __name__ == "__main__":
    main()
