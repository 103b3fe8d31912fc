"""Builds the wheel: the library and the program that cargo builds, and the Python files around them.

A PEP 517 backend of the standard library alone. VOXTILE_BUILT names a folder with the library and
the program, if cargo is not to be run; VOXTILE_WHEEL_PLATFORM the wheel's platform tag, if it is not
to be this machine's.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIBRARY = {"win32": "voxtile.dll", "darwin": "libvoxtile.dylib"}.get(sys.platform, "libvoxtile.so")
PROGRAM = "voxtile.exe" if os.name == "nt" else "voxtile"


def _version():
    manifest = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "([^"]+)"', manifest, re.MULTILINE).group(1)


def _platform():
    platform = os.environ.get("VOXTILE_WHEEL_PLATFORM") or sysconfig.get_platform()
    return re.sub("[-.]", "_", platform)


def _built():
    folder = os.environ.get("VOXTILE_BUILT")
    if folder:
        return Path(folder)
    command = ["cargo", "build", "--release", "-p", "voxtile", "-p", "voxtile-capi"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return ROOT / target / "release"


def _binary(path, folder):
    """The bytes of a binary without its symbols for debuggers, where `strip` is there."""
    strip = shutil.which("strip")
    if strip and sys.platform == "linux":
        stripped = Path(folder) / path.name
        subprocess.run([strip, "-o", stripped, path], check=True)
        path = stripped
    return path.read_bytes()


def _metadata():
    readme = (HERE / "README.md").read_text()
    return (
        "Metadata-Version: 2.1\n"
        "Name: voxtile\n"
        f"Version: {_version()}\n"
        "Summary: Segments medical volumes with STU-Net / nnU-Net networks, without a framework\n"
        "License: Apache-2.0\n"
        "Requires-Python: >=3.9\n"
        "Requires-Dist: numpy>=1.21\n"
        "Description-Content-Type: text/markdown\n"
        f"\n{readme}"
    )


def get_requires_for_build_wheel(config_settings=None):
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    version, tag = _version(), f"py3-none-{_platform()}"
    name = f"voxtile-{version}-{tag}.whl"
    info = f"voxtile-{version}.dist-info"
    built = _built()
    sources = [path for path in (HERE / "voxtile").iterdir() if path.suffix == ".py" or path.name == "py.typed"]
    files = {f"voxtile/{path.name}": (path.read_bytes(), 0o644) for path in sources}
    with tempfile.TemporaryDirectory() as folder:
        files[f"voxtile/{LIBRARY}"] = (_binary(built / LIBRARY, folder), 0o755)
        program = _binary(built / PROGRAM, folder)
        files[f"voxtile-{version}.data/scripts/{PROGRAM}"] = (program, 0o755)
    wheel = f"Wheel-Version: 1.0\nGenerator: voxtile\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files[f"{info}/METADATA"] = (_metadata().encode(), 0o644)
    files[f"{info}/WHEEL"] = (wheel.encode(), 0o644)
    files[f"{info}/LICENSE"] = ((ROOT / "LICENSE").read_bytes(), 0o644)
    record = []
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, (data, mode) in sorted(files.items()):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}")
            _add(archive, path, data, mode)
        record.append(f"{info}/RECORD,,\n")
        _add(archive, f"{info}/RECORD", "\n".join(record).encode(), 0o644)
    return name


def _add(archive, path, data, mode):
    # A fixed time, so that the same files make the same wheel.
    entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("voxtile has no source distribution; build a wheel in a clone of its sources")
