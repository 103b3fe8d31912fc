"""Run as ../README.md says."""

import base64
import csv
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

import voxtile
from voxtile import _abi

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "examples" / "demo.safetensors"
CT = ROOT / "examples" / "ct_part.nii.gz"


@pytest.fixture(scope="module")
def session():
    with voxtile.Session(voxtile.Model(MODEL)) as session:
        yield session


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the program makes of the same image."""
    sitk = pytest.importorskip("SimpleITK")
    program = os.environ.get("VOXTILE_PROGRAM") or shutil.which("voxtile")
    output = tmp_path_factory.mktemp("cli") / "labels.nii.gz"
    subprocess.run([program, "segment", CT, "-m", MODEL, "-o", output, "--quiet"], check=True)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(output)))


def test_simpleitk(session, expected):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(CT))
    labels = session.segment(image)
    assert (sitk.GetArrayFromImage(labels) == expected).all()
    assert labels.GetPixelID() == sitk.sitkUInt8
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(labels, get)() == getattr(image, get)()


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha"])
def test_files_at_a_slant(session, ending, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(CT))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix()
    direction = np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(direction.ravel().tolist())
    path, output = tmp_path / f"ct.{ending}", tmp_path / "labels.nrrd"
    sitk.WriteImage(image, str(path))
    program = os.environ.get("VOXTILE_PROGRAM") or shutil.which("voxtile")
    subprocess.run([program, "segment", path, "-m", MODEL, "-o", output, "--quiet"], check=True)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    image = sitk.ReadImage(str(path))
    labels = session.segment(image)
    assert (sitk.GetArrayFromImage(labels) == expected).all() and expected.any()
    assert labels.GetDirection() == image.GetDirection()


def test_nibabel(session, expected):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(CT)
    labels = session.segment(image)
    assert (np.asarray(labels.dataobj).T == expected).all()
    assert (labels.affine == image.affine).all()
    # Scaled voxels, in memory and from a file.
    voxels = np.asarray(image.dataobj).astype(np.int16)
    labels = session.segment(nibabel.Nifti1Image(voxels, image.affine))
    assert (np.asarray(labels.dataobj).T == expected).all()


def test_scaled_nibabel_files(session, expected, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(CT)
    half = nibabel.Nifti1Image((np.asarray(image.dataobj) + 1000).astype(np.int16), image.affine)
    half.header.set_slope_inter(1, 0)
    nibabel.save(half, tmp_path / "scaled.nii")
    header = bytearray((tmp_path / "scaled.nii").read_bytes())
    header[112:120] = np.array([1, -1000], "<f4").tobytes()
    (tmp_path / "scaled.nii").write_bytes(header)
    labels = session.segment(nibabel.load(tmp_path / "scaled.nii"))
    assert (np.asarray(labels.dataobj).T == expected).all()


def geometry():
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(CT))
    place = dict(spacing=image.GetSpacing(), origin=image.GetOrigin(), direction=image.GetDirection())
    return sitk.GetArrayFromImage(image), place


def test_arrays_of_any_strides_and_types(session, expected):
    array, place = geometry()
    for of in (
        array,
        np.asfortranarray(array),
        np.repeat(array, 2, axis=2)[:, :, ::2],
        array.astype(np.int64),
        array.astype(">i4"),
        array.astype(np.float32)[None],
    ):
        labels = session.segment(of, **place)
        assert labels.dtype == np.uint8 and labels.shape == array.shape
        assert (labels == expected).all()
    # Axes that run the other way: the image is the same, and so are its labels.
    flipped = dict(place)
    matrix = np.reshape(place["direction"], (3, 3)).copy()
    last = (array.shape[2] - 1) * place["spacing"][0]
    flipped["origin"] = np.array(place["origin"]) + matrix[:, 0] * last
    matrix[:, 0] *= -1
    flipped["direction"] = matrix
    labels = session.segment(array[:, :, ::-1], **flipped)
    assert (labels == expected[:, :, ::-1]).mean() > 0.999


def test_options(session, expected):
    array, place = geometry()
    liver = session.model.value("liver")
    labels = session.segment(array, **place, labels=["liver"])
    assert (labels == np.where(expected == liver, liver, 0)).all()
    coarse, fine = (session.estimate(array, **place, step=step) for step in (1, 0.25))
    assert 0 < coarse.tiles < fine.tiles and coarse.passes == coarse.tiles
    assert session.estimate(array, **place).least_host_bytes > 0
    alone = voxtile.Session(session.model, threads=1, device=voxtile.devices()[0])
    assert (alone.segment(array, **place) == expected).all()


def test_cleanup_is_the_program_s(session, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    program = os.environ.get("VOXTILE_PROGRAM") or shutil.which("voxtile")
    array, place = geometry()
    for steps, arguments in (
        ([voxtile.LargestComponent()], ["--largest-component"]),
        ([voxtile.MinimumSize(300, ["liver", 9])], ["--minimum-size", "liver=300,colon=300"]),
        (
            [voxtile.LargestComponent([5]), voxtile.MinimumSize(200), voxtile.FillHoles()],
            ["--largest-component=liver", "--minimum-size=200", "--fill-holes"],
        ),
    ):
        command = [program, "segment", CT, "-m", MODEL, "-o", tmp_path / "of.nrrd", "--quiet", *arguments]
        subprocess.run(command, check=True)
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "of.nrrd")))
        assert (session.segment(array, **place, cleanup=steps) == expected).all()
    assert session.estimate(array, **place, cleanup=steps).host_bytes > 0
    # By faces alone there are more components, and smaller ones.
    edges, faces = (
        session.segment(array, **place, cleanup=[voxtile.LargestComponent(connectivity=by)]) for by in (26, 6)
    )
    assert 0 < np.count_nonzero(faces) < np.count_nonzero(edges)
    for step, part in (
        (voxtile.LargestComponent(connectivity=18), "connectivity"),
        (voxtile.MinimumSize(-1), "mm"),
        (voxtile.FillHoles(["lever"]), "no label 'lever'"),
        (voxtile.FillHoles([]), "expected a list"),
        (voxtile.FillHoles("liver"), "expected a list"),
    ):
        with pytest.raises(ValueError, match=part):
            session.segment(array, **place, cleanup=[step])
    with pytest.raises(TypeError, match="no step of clean-up"):
        session.segment(array, **place, cleanup=["largest"])


def test_devices_are_named(session):
    array = np.zeros((8, 8, 8), np.int16)
    cpu = voxtile.devices()[0]
    assert (cpu.kind, cpu.ordinal, cpu.covered) == ("cpu", 0, True)
    for device in ("cpu", "auto", cpu):
        with voxtile.Session(session.model, device, precision="f32", device_memory=1 << 30) as made:
            made.segment(array, spacing=(3, 3, 3))
    with pytest.raises(ValueError, match="no device 'cuda:99'; there is: cpu"):
        voxtile.Session(session.model, device="cuda:99")
    with pytest.raises(ValueError, match="'f32', 'f16', 'bf16', 'int8' or None"):
        voxtile.Session(session.model, precision="half")
    with pytest.raises(voxtile.Error, match="half precision|f16"):
        voxtile.Session(session.model, "cpu", precision="f16")


def test_bf16_and_int8_find_nearly_the_same(session):
    array, place = geometry()
    single = session.segment(array, **place)
    for precision, share in [("bf16", 0.01), ("int8", 0.05)]:
        narrow = voxtile.Session(session.model, "cpu", precision=precision).segment(array, **place)
        assert (narrow != single).mean() < share


def test_progress_is_told_and_ends_the_run(session):
    array, place = geometry()
    shares = []
    session.segment(array, **place, progress=lambda told: shares.append(told.done / max(told.total, 1)))
    assert shares == sorted(shares) and shares[-1] == 1
    with pytest.raises(voxtile.Cancelled):
        session.segment(array, **place, progress=lambda told: told.done < 2)

    def fail(told):
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        session.segment(array, **place, progress=fail)

    def fail_at_the_end(told):
        if told.total and told.done == told.total:
            raise KeyError("too late to cancel")

    with pytest.raises(KeyError, match="too late"):
        session.segment(array, **place, progress=fail_at_the_end)
    assert session.segment(array, **place).any()


def test_other_threads_go_on_and_can_cancel(session):
    array, place = geometry()
    begun, ticks = threading.Event(), []

    def other():
        begun.wait()
        ticks.append(1)
        session.cancel()

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(voxtile.Cancelled):
        while True:  # a run may end before it is cancelled
            session.segment(array, **place, mirror=True, progress=lambda _: begun.set())
    thread.join()
    assert ticks


def test_models_describe_themselves():
    with voxtile.Model(MODEL) as model:
        assert (model.name, model.channels, model.demo) == ("demo", 1, True)
        assert len(model.labels) == 17
        liver = model.labels[model.value("liver")]
        assert (liver.name, liver.code) == ("liver", "SCT:10200004") and len(liver.color) == 3
        assert model.value(5) == 5
        with pytest.raises(ValueError, match="no label 'lever'"):
            model.value("lever")
    with pytest.raises(ValueError, match="closed"):
        voxtile.Session(model)
    messages = []
    session = voxtile.Session(voxtile.Model(MODEL), log=lambda text, warning: messages.append((text, warning)))
    session.segment(np.zeros((8, 8, 8), np.int16), spacing=(3, 3, 3))
    assert any(warning and "DEMONSTRATION" in text for text, warning in messages)
    assert voxtile.__version__.count(".") == 2 and voxtile.devices()[0].name


def test_mistakes_are_errors(session, tmp_path):
    array = np.zeros((4, 5, 6), np.int16)
    with pytest.raises(OSError, match="none.safetensors"):
        voxtile.Model(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(voxtile.Error, match="bad.safetensors"):
        voxtile.Model(tmp_path / "bad.safetensors")
    with pytest.raises(TypeError, match="spacing"):
        session.segment(array)
    with pytest.raises(ValueError, match="three numbers"):
        session.segment(array, spacing=(1, 2))
    with pytest.raises(ValueError, match="spacing"):
        session.segment(array, spacing=(1, 2, -3))
    with pytest.raises(ValueError, match="2 dimensions"):
        session.segment(array[0], spacing=(1, 1, 1))
    with pytest.raises(TypeError, match="complex"):
        session.segment(array.astype(complex), spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="channels"):
        session.segment(np.stack([array, array]), spacing=(1, 1, 1))
    for labels in ([], "liver"):  # not "all", and not five letters
        with pytest.raises(ValueError, match="expected a list"):
            session.segment(array, spacing=(1, 1, 1), labels=labels)
    with pytest.raises(MemoryError):
        voxtile.Session(session.model, memory=1000).segment(array, spacing=(1, 1, 1))


def test_structs_are_laid_out_as_in_the_header(tmp_path):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    lines = ["#include <stddef.h>", "#include <stdio.h>", '#include "voxtile.h"', "int main(void) {"]
    expected = []
    for name, struct in _abi.STRUCTS.items():
        lines.append(f'printf("%zu\\n", sizeof({name}));')
        expected.append(ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            lines.append(f'printf("%zu\\n", offsetof({name}, {field}));')
            expected.append(getattr(struct, field).offset)
    (tmp_path / "layout.c").write_text("\n".join([*lines, "return 0; }"]))
    program = tmp_path / "layout"
    subprocess.run([compiler, f"-I{ROOT / 'include'}", tmp_path / "layout.c", "-o", program], check=True)
    found = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in found.split()] == expected


def test_the_wheel_is_small_and_whole(tmp_path):
    folder = os.environ.get("VOXTILE_BUILT")
    if not folder:
        pytest.skip("VOXTILE_BUILT does not name a folder with the library and the program")
    # Of this machine's tools alone, as pip does it.
    script = "import backend, sys; print(backend.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", script, tmp_path]
    made = subprocess.run(command, cwd=ROOT / "bindings" / "python", check=True, capture_output=True, text=True)
    wheel = tmp_path / made.stdout.splitlines()[-1]
    assert wheel.stat().st_size < 10_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = next(name for name in names if name.endswith("/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert {row[0] for row in rows} == names
        for name, digest, size in rows:
            if digest:
                data = archive.read(name)
                found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={found}", len(data))
        assert {Path(name).name for name in names} >= {"voxtile", "libvoxtile.so", "py.typed", "__init__.py"}
