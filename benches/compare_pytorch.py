#!/usr/bin/env python3
"""Seconds for one 128^3 tile of STU-Net S and B: voxtile next to PyTorch fp32, and their ratio.

usage: compare_pytorch.py [--threads 2]        (needs: pip install torch)

Both run in turn on this machine: criterion's bench `tile` first, then PyTorch in inference mode
with the memory format that suits it better. 1 input channel, 105 classes; the unused
deep-supervision heads run in neither.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))

import torch  # noqa: E402

import stunet_torch  # noqa: E402

SIZES = {"S": "small", "B": "base"}


def voxtile_seconds(threads):
    bench = ["cargo", "bench", "--bench", "tile", "--", f"/{threads} threads"]
    subprocess.run(bench, cwd=ROOT, check=True)
    seconds = {}
    for size in SIZES:
        folder = os.path.join(ROOT, "target", "criterion", "tile", f"{size}_{threads} threads")
        with open(os.path.join(folder, "new", "estimates.json")) as file:
            seconds[size] = json.load(file)["median"]["point_estimate"] * 1e-9
    return seconds


def pytorch_seconds(size, memory_format, runs=5):
    network = stunet_torch.stunet(SIZES[size]).to(memory_format=memory_format)
    patch = torch.randn(1, 1, 128, 128, 128).to(memory_format=memory_format)
    times = []
    with torch.inference_mode():
        for _ in range(runs + 1):
            start = time.perf_counter()
            network(patch)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, choices=[1, 2])
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    ours = voxtile_seconds(threads)
    print(f"torch {torch.__version__}, {threads} threads")
    for size in SIZES:
        peers = {
            "contiguous": pytorch_seconds(size, torch.contiguous_format),
            "channels_last_3d": pytorch_seconds(size, torch.channels_last_3d),
        }
        best = min(peers, key=peers.get)
        print(
            f"STU-Net-{size}: voxtile {ours[size]:.3f} s, PyTorch "
            + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in peers.items())
            + f"; PyTorch ({best}) / voxtile = {peers[best] / ours[size]:.2f}"
        )


if __name__ == "__main__":
    main()
