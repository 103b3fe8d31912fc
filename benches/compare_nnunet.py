#!/usr/bin/env python3
"""A whole job in voxtile and in nnU-Net v2, one after the other: seconds, peak memory, labels.

usage: compare_nnunet.py [--size S] [--threads 2] [--single] [--keep FOLDER]

The job: examples/ct.nii.gz (122x101x112 voxels of 3 mm) at 1.5 mm, a grid of 224x202x244, through
a seeded STU-Net of 105 classes with 128^3 patches. nnU-Net takes 13 GB of memory for it. --single
runs nnU-Net a second time with its scores added in single precision (20 GB), which tells near ties
of its half-precision sums from other differences.

needs: pip install nnunetv2==2.8.1 torch==2.11.0 safetensors; cargo
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))

import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402

import stunet_torch  # noqa: E402
from pack import pack  # noqa: E402

SIZES = {"S": "small", "B": "base"}
IMAGE = os.path.join(ROOT, "examples", "ct.nii.gz")
VOXTILE = os.path.join(ROOT, "target", "release", "voxtile")
CT = dict(mean=50.0, std=200.0, percentile_00_5=-900.0, percentile_99_5=900.0)


def parts(size):
    from nnunet import dataset_of, plans_of
    plans = plans_of((128,) * 3, (1.5,) * 3, ["CTNormalization"], stunet_torch.STRIDES, CT)
    return (stunet_torch.stunet(SIZES[size]), plans,
            dataset_of(1, [f"structure {i}" for i in range(1, 105)]))


def run_nnunet(size, threads, single, output):
    """In a process of its own; prints seconds per step."""
    import contextlib

    from nnunet import Job, single_precision_sums
    torch.set_num_threads(threads)
    network, plans, dataset = parts(size)
    job = Job(network, [network.state_dict()], plans, dataset)
    seconds, start = {}, time.perf_counter()

    def lap(step):
        nonlocal start
        now = time.perf_counter()
        seconds[step], start = round(now - start, 2), now

    pre = job.preprocess([IMAGE])
    lap("read and preprocess")
    with single_precision_sums() if single else contextlib.nullcontext():
        scores = job.scores(pre)
    lap("sliding window")
    job.write(scores, output)
    lap("resample, classify and write")
    print(json.dumps(seconds))


def run(command):
    """Seconds, peak memory (MiB) and standard output of a command."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(errors.decode())
        out.seek(0)
        return time.perf_counter() - start, usage.ru_maxrss // 1024, out.read()


def differing(a, b):
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (a, b))
    return f"{(a != b).sum()} of {a.size} labels ({(a != b).mean():.4%})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--keep", help="folder for the network and the label maps")
    parser.add_argument("--nnunet-job", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.nnunet_job:
        return run_nnunet(a.size, a.threads, a.single, a.nnunet_job)

    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = a.keep or folder
        os.makedirs(folder, exist_ok=True)
        model, ours, theirs, precise = (os.path.join(folder, name) for name in (
            "model.safetensors", "voxtile.nii.gz", "nnunet.nii.gz", "nnunet_single.nii.gz"))
        network, plans, dataset = parts(a.size)
        with open(model, "wb") as file:
            file.write(pack([network.state_dict()], plans, dataset, source="random numbers"))
        del network
        seconds, peak, text = run([VOXTILE, "segment", IMAGE, "-m", model, "-o", ours,
                                   "--threads", str(a.threads)])
        steps = next(line for line in text.splitlines() if line.startswith("time:"))
        print(f"voxtile     {seconds:7.1f} s, peak {peak:6} MiB;  {steps}", flush=True)

        job = [sys.executable, os.path.abspath(__file__), "--size", a.size,
               "--threads", str(a.threads), "--nnunet-job"]
        wall, their_peak, text = run([*job, theirs])
        steps = json.loads(text.splitlines()[-1])
        total = sum(steps.values())  # without starting Python and building the network
        print(f"nnU-Net v2  {total:7.1f} s, peak {their_peak:6} MiB;  {steps}; {wall:.1f} s with "
              "its start", flush=True)
        print(f"nnU-Net v2 / voxtile: {total / seconds:.1f} in time, {their_peak / peak:.1f} in "
              f"memory; {differing(ours, theirs)} differ", flush=True)
        if a.single:
            run([*job, precise, "--single"])
            print(f"with single-precision sums {differing(ours, precise)} differ; nnU-Net from "
                  f"itself: {differing(theirs, precise)}")


if __name__ == "__main__":
    main()
