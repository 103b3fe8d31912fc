#!/usr/bin/env python3
"""Compiles kernels/voxtile.cu into kernels/images.zip, which the library embeds.

usage: kernels/build.py              compile and write images.zip
       kernels/build.py --check      compile and compare with images.zip, byte for byte
       kernels/build.py --digest     only check that images.zip was made of these sources

Needs Linux on x86-64, Python 3.8 and pip. The compilers are NVIDIA's run-time compiler (NVRTC) in
wheels of pinned versions and digests, kept in a cache folder ($VOXTILE_CUDA_TOOLS, by default
~/.cache/voxtile/cuda-tools); nothing is installed. Sources and options determine every byte.

CUDA 12 images load on drivers from 525 on; the driver compiles the PTX of CUDA 12.0 for cards that
no image was made for. Code for sm_80 also runs on 8.6 and 8.9, but those have images of their own:
the compiler schedules for each.

images.zip holds, each file but the last compressed by LZMA, in half the bytes of a zip's usual
compression:
  sm_80.cubin.lzma ... sm_120.cubin.lzma   machine code, named after the compute capability
  compute_80.ptx.lzma                      for every later card
  sources.sha256                 what they were made of: a line "<sha256 of the file>  <name>\\n" for
                                 each of kernels/*.cu and kernels/*.cuh, in ascending order of the
                                 names' bytes, as `sha256sum` prints it
"""

import argparse
import ctypes
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

KERNELS = Path(__file__).resolve().parent
IMAGES = KERNELS / "images.zip"
SOURCE = "voxtile.cu"
LIST = "sources.sha256"
ENDING = ".lzma"

# CUDA release -> wheels, each with the sha256 of its file for Linux on x86-64.
TOOLS = {
    "12.9": {
        "nvidia-cuda-nvrtc-cu12==12.9.86": "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
        "nvidia-cuda-runtime-cu12==12.9.79": "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
    },
    "12.0": {
        "nvidia-cuda-nvrtc-cu12==12.0.140": "8e94e991d85c422de4da87bdc7472fdc1364367bd4aace7000b559cd33122071",
        "nvidia-cuda-runtime-cu12==12.0.146": "18c038592af387684812fa712642aa9a26c12da80acb488b6709f7cced147f71",
    },
    # Disassembler, for check.py alone.
    "13.5": {
        "nvidia-cuda-cuobjdump==13.5.37": "38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58",
        "nvidia-cuda-nvdisasm==13.5.37": "d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca",
    },
}

# File of the archive -> CUDA release whose compiler makes it, and target.
TARGETS = {
    "sm_80.cubin": ("12.9", "sm_80"),
    "sm_86.cubin": ("12.9", "sm_86"),
    "sm_89.cubin": ("12.9", "sm_89"),
    "sm_90a.cubin": ("12.9", "sm_90a"),
    "sm_100.cubin": ("12.9", "sm_100"),
    "sm_120.cubin": ("12.9", "sm_120"),
    "compute_80.ptx": ("12.0", "compute_80"),
}

# The library that a user loads must stay small.
LARGEST_ARCHIVE = 2 << 20


class Failure(Exception):
    """What a person should read."""


def tools(release):
    """The folder that holds a release's wheels, unpacked; made if it is not there."""
    cache = os.environ.get("VOXTILE_CUDA_TOOLS")
    cache = Path(cache) if cache else Path.home() / ".cache" / "voxtile" / "cuda-tools"
    wheels = TOOLS[release]
    key = hashlib.sha256(repr(sorted(wheels.items())).encode()).hexdigest()[:8]
    folder = cache / f"{release}-{key}"
    if folder.exists():
        return folder / "nvidia"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        pins = Path(scratch) / "pins.txt"
        lines = [f"{pin} --hash=sha256:{digest}\n" for pin, digest in wheels.items()]
        pins.write_text("".join(lines))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"]
        pip += ["--root-user-action", "ignore"]
        pip += ["--target", f"{scratch}/unpacked", "-r", str(pins)]
        if subprocess.run(pip).returncode:
            raise Failure(f"pip could not fetch CUDA {release}'s compiler (see above)")
        try:
            os.rename(f"{scratch}/unpacked", folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder / "nvidia"


class Nvrtc:
    """NVRTC of one CUDA release."""

    def __init__(self, release):
        folder = tools(release)
        self.include = folder / "cuda_runtime" / "include"
        self.library = ctypes.CDLL(str(folder / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, result):
        if result:
            raise Failure(f"NVRTC: {self.library.nvrtcGetErrorString(result).decode()}")

    def bytes(self, program, size_of, get):
        size = ctypes.c_size_t()
        self.check(getattr(self.library, size_of)(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self.check(getattr(self.library, get)(program, buffer))
        return buffer.raw

    def compile(self, sources, target, extra=()):
        """`sources` (name -> bytes) as machine code or PTX, and what the compiler said."""
        headers = [name for name in sources if name != SOURCE]
        names = (ctypes.c_char_p * len(headers))(*[name.encode() for name in headers])
        texts = (ctypes.c_char_p * len(headers))(*[sources[name] for name in headers])
        program = ctypes.c_void_p()
        self.check(
            self.library.nvrtcCreateProgram(
                ctypes.byref(program),
                sources[SOURCE],
                SOURCE.encode(),
                len(headers),
                texts,
                names,
            )
        )
        options = [f"--gpu-architecture={target}", f"-I{self.include}", "--std=c++17", *extra]
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        try:
            result = self.library.nvrtcCompileProgram(program, len(options), arguments)
            log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            log = log.rstrip(b"\0").decode(errors="replace").strip()
            if result:
                reason = log or self.library.nvrtcGetErrorString(result).decode()
                raise Failure(f"{target}: {reason}")
            kind = "CUBIN" if target.startswith("sm_") else "PTX"
            image = self.bytes(program, f"nvrtcGet{kind}Size", f"nvrtcGet{kind}")
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return image, log


def read_sources(folder=KERNELS):
    """Name -> bytes of the kernels' sources, in ascending order of names."""
    found = [path for path in folder.iterdir() if path.suffix in (".cu", ".cuh")]
    found.sort(key=lambda path: path.name.encode())
    sources = {path.name: path.read_bytes() for path in found}
    if SOURCE not in sources:
        raise Failure(f"{folder} has no {SOURCE}")
    return sources


def source_list(sources):
    """The archive's sources.sha256."""
    lines = [f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in sources.items()]
    return "".join(lines)


def build(sources, log=print):
    """File -> bytes of the archive."""
    compilers = {}
    files = {}
    for file, (release, target) in TARGETS.items():
        if release not in compilers:
            compilers[release] = Nvrtc(release)
        files[file], messages = compilers[release].compile(sources, target)
        if messages:
            log(f"{file}: {messages}")
    files[LIST] = source_list(sources).encode()
    return files


def archive(files):
    """A zip of `files` whose bytes depend on nothing else but the version of liblzma."""
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 4 << 20}]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in files.items():
            if name != LIST:
                content = lzma.compress(content, lzma.FORMAT_ALONE, filters=filters)
                name += ENDING
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            out.writestr(entry, content, zipfile.ZIP_STORED)
    return buffer.getvalue()


def read_archive():
    """File -> bytes, as `build` returns them."""
    if not IMAGES.exists():
        raise Failure(f"{IMAGES} is missing: run kernels/build.py")
    files = {}
    with zipfile.ZipFile(IMAGES) as file:
        for name in file.namelist():
            content = file.read(name)
            if name.endswith(ENDING):
                name, content = name[: -len(ENDING)], lzma.decompress(content)
            files[name] = content
    return files


def check_digest(sources, committed):
    want, have = source_list(sources), committed.get(LIST, b"").decode()
    if want != have:
        changed = set(want.splitlines()) ^ set(have.splitlines())
        names = ", ".join(sorted({line.split("  ")[1] for line in changed}))
        raise Failure(f"images.zip is older than {names}: run kernels/build.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--digest", action="store_true", help="compare the sources' digests only")
    arguments = parser.parse_args()
    sources = read_sources()
    if arguments.check or arguments.digest:
        committed = read_archive()
        check_digest(sources, committed)
    if not arguments.digest:
        files = build(sources)
        packed = archive(files)
        if len(packed) > LARGEST_ARCHIVE:
            raise Failure(f"images.zip would have {len(packed)} bytes, more than {LARGEST_ARCHIVE}")
        if arguments.check:
            # Contents, not the archive: another liblzma may pack them differently.
            for name in sorted(files.keys() | committed.keys()):
                if files.get(name) != committed.get(name):
                    raise Failure(f"{name} in images.zip differs: run kernels/build.py")
        else:
            IMAGES.write_bytes(packed)
        for name, content in files.items():
            print(f"{name:16} {len(content):9} bytes")
        print(f"{'images.zip':16} {len(packed):9} bytes")
    if arguments.check or arguments.digest:
        print("images.zip is current")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"kernels/build.py: {failure}")
