#!/usr/bin/env python3
"""Milliseconds for one 128^3 tile of STU-Net in PyTorch, half precision, on an NVIDIA GPU.

usage: pytorch_peers.py [--sizes S,B,L,H] [--modes eager,graph,compile,autotune] [--json FILE]

Each mode runs the same seeded network (1 channel in, 105 classes out) in inference mode, in the
channels-last format, with cudnn.benchmark: `eager` as it is, `graph` replayed as a CUDA graph,
`compile` through torch.compile, `autotune` with its max-autotune mode. The unused
deep-supervision heads do not run; the 105 class scores of the tile are written, as every sliding
window over PyTorch must. Inputs are random and rotate; times are medians between events.

The first lines are the machine's ceilings, a large product of matrices and a large copy. What fails
is said in FILE's `failures`, and by the exit code; the rest is measured.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "reference"))

import torch  # noqa: E402

import stunet_torch  # noqa: E402

SIZES = {"S": "small", "B": "base", "L": "large", "H": "huge"}
MODES = ("eager", "graph", "compile", "autotune")
CLASSES = 105
PATCH = 128


def milliseconds(run, inputs, seconds):
    """Median and 90th percentile of a call, over at least 10 calls and about `seconds`."""
    for values in [*inputs, *inputs]:
        run(values)
    torch.cuda.synchronize()
    times = []
    stop = time.monotonic() + seconds
    while len(times) < 10 or (time.monotonic() < stop and len(times) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(inputs[len(times) % len(inputs)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    times.sort()
    return statistics.median(times), times[len(times) * 9 // 10]


def ceilings():
    """TFLOP/s of an 8192^3 product in half precision, and GB/s of a copy, read and written."""
    matrices = [torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2)]
    product, _ = milliseconds(lambda matrix: matrix @ matrices[0], matrices, 1)
    source = torch.empty(1 << 31, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    copy, _ = milliseconds(target.copy_, [source], 1)
    return {
        "matrix_product_tflops": 2 * 8192**3 / product / 1e9,
        "copy_gb_per_s": 2 * source.numel() / copy / 1e6,
    }


def graph(network, values):
    """Calls `network` as a CUDA graph."""
    static = values.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(static)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        scores = network(static)

    def run(values):
        static.copy_(values)
        recorded.replay()
        return scores

    return run


def kernels(run, values):
    """The kernels that take longest, with their share of the time, and how many run."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run(values)
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1
    top = {event.key[:80]: event.self_device_time_total / total for event in events[:5]}
    return top, sum(event.count for event in events)


def multiplications(network, values):
    """Of all convolutions of one call."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output[0, 0].numel() * module.weight.numel()

    convs = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    network(values)
    for hook in hooks:
        hook.remove()
    return total


def measure(size, mode, seconds):
    """One mode of one size."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    layout = torch.channels_last_3d
    network = stunet_torch.stunet(SIZES[size], classes=CLASSES)
    network = network.half().cuda().to(memory_format=layout)
    shape = (1, 1, PATCH, PATCH, PATCH)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(4)]
    inputs = [values.to(memory_format=layout) for values in inputs]
    products = multiplications(network, inputs[0])
    if mode == "eager":
        run = network
    elif mode == "graph":
        run = graph(network, inputs[0])
    else:
        run = torch.compile(network, mode="max-autotune" if mode == "autotune" else "default")
    median, p90 = milliseconds(run, inputs, seconds)
    measured = {
        "size": size,
        "mode": mode,
        "tile_ms": median,
        "tile_ms_p90": p90,
        "tflops": 2 * products / median / 1e9,
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }
    try:
        measured["kernels"], measured["launches"] = kernels(run, inputs[0])
    except Exception as error:  # noqa: BLE001  what was timed is not lost with the profiler
        measured["profiler_error"] = text_of(error)
    return measured


def text_of(error):
    return f"{type(error).__name__}: {error}"[:300]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="S,B,L,H")
    parser.add_argument("--modes", default="eager,graph,compile")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "networks": [],
        "failures": [],
    }

    def failed(what, error):
        result["failures"].append(f"{what}: {error}")
        print(f"{what} failed: {error}", flush=True)

    print(f"{result['device']}, torch {result['torch']}, cuDNN {result['cudnn']}", flush=True)
    try:
        result |= ceilings()
        print(
            f"product {result['matrix_product_tflops']:.0f} TFLOP/s, "
            f"copy {result['copy_gb_per_s']:.0f} GB/s",
            flush=True,
        )
    except Exception as error:  # noqa: BLE001  the networks may run all the same
        failed("ceilings", text_of(error))
    for size in arguments.sizes.split(","):
        for mode in arguments.modes.split(","):
            name = f"STU-Net-{size} {mode}"
            try:
                with torch.inference_mode():
                    row = measure(size, mode, arguments.seconds)
                print(
                    f"{name:19} {row['tile_ms']:8.3f} ms  {row['tflops']:5.0f} TFLOP/s  "
                    f"{row['peak_bytes'] / 2**30:6.2f} GiB  {row.get('launches', '?')} launches",
                    flush=True,
                )
                if "profiler_error" in row:
                    failed(f"{name}, profiler", row["profiler_error"])
            except Exception as error:  # noqa: BLE001  one mode's failure must not end the rest
                row = {"size": size, "mode": mode, "error": text_of(error)}
                failed(name, row["error"])
            result["networks"].append(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1))
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
