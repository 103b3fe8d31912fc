#!/usr/bin/env python3
"""Seconds for one 128^3 tile of STU-Net S, B or L: voxtile, OpenVINO, ONNX Runtime and PyTorch.

usage: compare.py [--sizes S B L] [--threads 2] [--runs 5] [--peers openvino ...]
needs: pip install -r benches/peers/requirements.txt; for L more than 24 GiB of memory

The runtimes take turns, one tile each, so that whatever else the machine does meets all of them;
each has its least and its median time. One input channel, 105 classes; the heads of deep
supervision run in none. Peers apply the last layer to the tile, voxtile blends the features below.
"""

import argparse
import glob
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))

SIZES = {"S": "small", "B": "base", "L": "large"}


class Voxtile:
    def __init__(self, size, threads, program, precision):
        command = ["cargo", "bench", "-q", "--bench", "peers", "--"]
        if program:
            command = [program]
        command += [size, str(threads), precision]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.name = f"voxtile {precision}, " + self.process.stdout.readline().strip()

    def run(self):
        start = self.processor_seconds()
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        seconds = float(self.process.stdout.readline())
        return seconds, self.processor_seconds() - start

    def processor_seconds(self):
        """What all threads have had of the processor so far."""
        total = 0
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/schedstat"):
            with open(path) as file:
                total += int(file.read().split()[0])
        return total * 1e-9


def timed(call):
    def run():
        start, processor = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - start, time.process_time() - processor

    return run


class PyTorch:
    def __init__(self, network, patch, memory_format):
        import torch

        network = network.to(memory_format=memory_format)
        patch = patch.to(memory_format=memory_format)

        def call():
            with torch.inference_mode():
                network(patch)

        layout = str(memory_format).removeprefix("torch.")
        self.name = f"PyTorch {torch.__version__}, {layout}"
        self.run = timed(call)


class OnnxRuntime:
    def __init__(self, path, patch, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: patch.numpy()}
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self.run = timed(lambda: session.run(None, feed))


class OpenVino:
    def __init__(self, path, patch, threads, precision):
        import openvino

        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.compile_model(path, "CPU", config).create_infer_request()
        version = openvino.__version__.split("-")[0]
        self.name = f"OpenVINO {version}, {precision}"
        feed = [patch.numpy()]
        self.run = timed(lambda: request.infer(feed))


def runtimes(size, threads, wanted, program):
    import stunet_torch
    import torch

    torch.set_num_threads(threads)
    yield Voxtile(size, threads, program, "f32")
    yield Voxtile(size, threads, program, "bf16")
    network = stunet_torch.stunet(SIZES[size])
    patch = torch.randn(1, 1, 128, 128, 128)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network.onnx")
        if any(not peer.startswith("pytorch") for peer in wanted):
            torch.onnx.export(network, (patch,), path, dynamo=False)
        if "openvino" in wanted:
            yield OpenVino(path, patch, threads, "f32")
        if "openvino-bf16" in wanted:
            yield OpenVino(path, patch, threads, "bf16")
        if "onnxruntime" in wanted:
            yield OnnxRuntime(path, patch, threads)
    if "pytorch" in wanted:
        yield PyTorch(network, patch, torch.contiguous_format)
    if "pytorch-channels-last" in wanted:
        # A network of its own: the other one has its weights in the other format.
        yield PyTorch(stunet_torch.stunet(SIZES[size]), patch, torch.channels_last_3d)


def main():
    peers = ["openvino", "openvino-bf16", "onnxruntime", "pytorch", "pytorch-channels-last"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "B"], choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="+", default=peers, choices=peers)
    parser.add_argument("--program", help="the bench `peers`, if it is built already")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count what a process has of the processor instead of the time that passes: for a "
        "busy machine, with one thread and --program",
    )
    arguments = parser.parse_args()
    for size in arguments.sizes:
        contestants = list(runtimes(size, arguments.threads, arguments.peers, arguments.program))
        times = [[] for _ in contestants]
        for turn in range(arguments.runs + 1):
            for contestant, seconds in zip(contestants, times):
                seconds.append(contestant.run())
        what = "processor seconds" if arguments.processor else "seconds"
        print(f"STU-Net-{size}, {arguments.threads} threads, {arguments.runs} turns, {what}")
        print("| | least | median | least / voxtile f32's |")
        print("|---|---|---|---|")
        # The first turn is for warming up.
        times = [[both[arguments.processor] for both in seconds[1:]] for seconds in times]
        ours = min(times[0])
        for contestant, seconds in zip(contestants, times):
            least, median = min(seconds), statistics.median(seconds)
            print(f"| {contestant.name} | {least:.3f} | {median:.3f} | {least / ours:.2f} |")
        print(flush=True)


if __name__ == "__main__":
    main()
