#!/usr/bin/env python3
"""Seconds for one 128^3 tile of STU-Net S, B or L: voxtile, OpenVINO, ONNX Runtime and PyTorch.

usage: compare.py [--sizes S B L] [--threads 2] [--runs 5] [--peers voxtile openvino ...]
       [--together 1 --rounds 2] [--networks FOLDER]
needs: pip install -r benches/peers/requirements.txt

Each runtime is a process of its own. Those that are loaded together take turns, one tile each, so
that whatever else the machine does meets all of them; after them come the next, and so on, for
every round. Of S and B all are loaded together, of L one at a time, unless --together says how many.
Whenever a runtime has been loaded, its first tile is for warming up and not counted.

Each has its least and its median time, and the most memory that it had resident in its turns, code
and weights included. One input channel, 105 classes, random weights; the heads of deep supervision
run in none. Peers apply the last layer to the tile, voxtile blends the features below.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "reference"))

SIZES = {"S": "small", "B": "base", "L": "large"}
SIDE = 128


def voxtile_program():
    """The bench `peers`, built."""
    command = ["cargo", "bench", "-q", "--bench", "peers", "--no-run", "--message-format=json"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in printed.stdout.splitlines()]
    targets = {message["target"]["name"]: message for message in messages if "target" in message}
    return targets["peers"]["executable"]


def export(size, path):
    """Writes the network as ONNX; in a process of its own, which takes its memory along."""
    import stunet_torch
    import torch

    patch = torch.zeros(1, 1, SIDE, SIDE, SIDE)
    # Else what training would need of each layer is kept: more than 20 GiB for L.
    network = stunet_torch.stunet(SIZES[size]).requires_grad_(False)
    torch.onnx.export(network, (patch,), path, dynamo=False)


def noise():
    import numpy

    return numpy.random.default_rng(1).standard_normal((1, 1, *3 * [SIDE]), dtype="float32")


def pytorch(size, _, threads, layout):
    import stunet_torch
    import torch

    torch.set_num_threads(threads)
    memory_format = getattr(torch, layout)
    network = stunet_torch.stunet(SIZES[size]).to(memory_format=memory_format)
    patch = torch.from_numpy(noise()).to(memory_format=memory_format)

    def run():
        with torch.inference_mode():
            network(patch)

    return f"PyTorch {torch.__version__}, {layout}", run


def onnx_runtime(_, path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: noise()}
    return f"ONNX Runtime {onnxruntime.__version__}", lambda: session.run(None, feed)


def openvino(_, path, threads, precision):
    import openvino

    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.compile_model(path, "CPU", config).create_infer_request()
    version = openvino.__version__.split("-")[0]
    feed = [noise()]
    return f"OpenVINO {version}, {precision}", lambda: request.infer(feed)


# What loads each peer; voxtile's own program answers as `serve` does.
VOXTILE = {"voxtile": "f32", "voxtile-bf16": "bf16", "voxtile-int8": "int8"}
PEERS = {
    "openvino": lambda *what: openvino(*what, "f32"),
    "openvino-bf16": lambda *what: openvino(*what, "bf16"),
    "onnxruntime": onnx_runtime,
    "pytorch": lambda *what: pytorch(*what, "contiguous_format"),
    "pytorch-channels-last": lambda *what: pytorch(*what, "channels_last_3d"),
}
EXPORTED = ["openvino", "openvino-bf16", "onnxruntime"]


def serve(peer, size, path, threads):
    """Loads a peer and says its name; then runs a tile for each line, and says its seconds."""
    name, run = PEERS[peer](size, path, threads)
    print(name, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


class Contestant:
    """A runtime's process, loaded."""

    def __init__(self, command):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.name = self.answer()
        # From here on the process's peak of memory is that of its turns.
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def answer(self):
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"no answer from {self.process.args}; it ended with {self.process.wait()}")
        return line

    def run(self):
        """The seconds that a tile takes, and what all threads had of the processor for it."""
        start = self.processor_seconds()
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        seconds = float(self.answer())
        return seconds, self.processor_seconds() - start

    def processor_seconds(self):
        total = 0
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/schedstat"):
            with open(path) as file:
                total += int(file.read().split()[0])
        return total * 1e-9

    def end(self):
        """Ends the process; gives the MiB that it had resident at most."""
        with open(f"/proc/{self.process.pid}/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
        self.process.stdin.close()
        self.process.wait()
        return peak / 1024


def compare(size, arguments, folder):
    """Prints the table of one size."""
    onnx = os.path.join(folder, f"{size}.onnx")
    me = [sys.executable, os.path.abspath(__file__)]
    if any(peer in EXPORTED for peer in arguments.peers) and not os.path.exists(onnx):
        subprocess.run([*me, "--export", size, onnx], check=True)

    def command(peer):
        if peer in VOXTILE:
            return [arguments.program, size, str(arguments.threads), VOXTILE[peer]]
        return [*me, "--serve", peer, size, onnx, str(arguments.threads)]

    peers = arguments.peers
    together = min(arguments.together or (1 if size == "L" else len(peers)), len(peers))
    names, peaks = {}, dict.fromkeys(peers, 0)
    times = {peer: [] for peer in peers}
    for _ in range(arguments.rounds):
        for first in range(0, len(peers), together):
            loaded = {peer: Contestant(command(peer)) for peer in peers[first : first + together]}
            for turn in range(arguments.runs + 1):
                for peer, contestant in loaded.items():
                    seconds = contestant.run()[arguments.processor]
                    if turn > 0:
                        times[peer].append(seconds)
            for peer, contestant in loaded.items():
                names[peer] = contestant.name
                peaks[peer] = max(peaks[peer], contestant.end())
    print(
        f"STU-Net-{size}, {arguments.threads} threads, {'processor ' * arguments.processor}seconds; "
        f"{arguments.rounds} x {arguments.runs} turns, {together} of {len(peers)} loaded together"
    )
    print(f"| | least | median | least / {peers[0]}'s | MiB |")
    print("|---|---|---|---|---|")
    for peer, seconds in times.items():
        least, median = min(seconds), statistics.median(seconds)
        ratio = least / min(times[peers[0]])
        print(f"| {names[peer]} | {least:.3f} | {median:.3f} | {ratio:.2f} | {peaks[peer]:.0f} |")
    print(flush=True)


def main():
    peers = [*VOXTILE, *PEERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["S", "B"], choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="turns of a peer that is loaded")
    parser.add_argument("--rounds", type=int, default=1, help="how often each peer is loaded")
    parser.add_argument("--together", type=int, help="how many peers are loaded at a time")
    parser.add_argument("--peers", nargs="+", default=peers, choices=peers)
    parser.add_argument("--networks", help="a folder in which exported networks are kept")
    parser.add_argument("--program", help="the bench `peers`, if it is built already")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count what a process has of the processor instead of the time that passes: for a "
        "busy machine, with one thread",
    )
    arguments = parser.parse_args()
    if any(peer in VOXTILE for peer in arguments.peers):
        arguments.program = arguments.program or voxtile_program()
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            compare(size, arguments, arguments.networks or folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    elif sys.argv[1:2] == ["--export"]:
        export(sys.argv[2], sys.argv[3])
    else:
        main()
