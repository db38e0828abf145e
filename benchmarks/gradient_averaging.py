"""What averaging the gradients of DeepLab-v2 R-101 costs beside a step, for docs/clusters.md.

    .venv/bin/python benchmarks/gradient_averaging.py

The table is arithmetic: bytes over bandwidths, beside a step's time, all of it stated. What is
measured is how long two processes of this machine take with gloo, in buckets, whole, and tensor by
tensor.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing

from segue.models import MODELS
from segue.runtime.processes import World, average, buckets

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
BEGIN, END = "<!-- gradient averaging: begin -->", "<!-- gradient averaging: end -->"
# Bytes a second, one way, of which a ring sees most; seconds that one call takes however small.
LINKS = {
    "NVLink, 300 GB/s": (300e9, 20e-6),
    "PCIe 4, 20 GB/s": (20e9, 30e-6),
    "100 Gb Ethernet": (12.5e9, 50e-6),
    "25 Gb Ethernet": (3.1e9, 50e-6),
    "10 Gb Ethernet": (1.25e9, 50e-6),
}
PROCESSES = (2, 4, 8)
# Assumed: an adversarial step on 1280x720 and 1024x512, an image of each for every process.
STEPS = {"0.5 s": 0.5, "0.1 s": 0.1}
AIM = 0.05
ROUNDS = 5


def shapes() -> list[Tensor]:
    """The gradients of DeepLab-v2 R-101 for 19 classes, without their memory."""
    with torch.device("meta"):
        segmenter = MODELS["deeplab_v2"](19, backbone="resnet101", weights=None)
    return [torch.empty_like(p) for p in segmenter.parameters() if p.requires_grad]


def seconds(size: int, processes: int, calls: int, bandwidth: float, latency: float) -> float:
    """How long a ring takes: 2 (n - 1) / n of the bytes pass each link, in 2 (n - 1) steps a call.

    Example:
        >>> seconds(1000, 2, 1, 1e3, 0.0)
        1.0
    """
    passes = 2 * (processes - 1)
    return passes / processes * size / bandwidth + calls * passes * latency


def table(tensors: list[Tensor]) -> str:
    """Shares of a step, by link and number of processes."""
    size = sum(tensor.nbytes for tensor in tensors)
    calls = len(list(buckets(tensors)))
    head = [f"{n} processes" for n in PROCESSES]
    shares = [f"of {step}, {n}" for step in STEPS for n in PROCESSES]
    lines = [
        f"{sum(t.numel() for t in tensors) / 1e6:.1f} million gradients in float32, "
        f"{size / 1e6:.0f} MB, {len(tensors)} tensors in {calls} buckets. A ring passes "
        "2 (n - 1) / n of the bytes over each link; each call costs 20 to 50 µs more for each of "
        "its 2 (n - 1) steps.",
        "",
        f"| link | {' | '.join(head)} | {' | '.join(shares)} | tensor by tensor, 8 |",
        f"| :-- |{' --: |' * (len(head) + len(shares) + 1)}",
    ]
    for link, (bandwidth, latency) in LINKS.items():
        whole = {n: seconds(size, n, calls, bandwidth, latency) for n in PROCESSES}
        apart = seconds(size, PROCESSES[-1], len(tensors), bandwidth, latency)
        cells = [f"{1000 * whole[n]:.0f} ms" for n in PROCESSES]
        cells += [percent(whole[n] / step) for step in STEPS.values() for n in PROCESSES]
        lines.append(f"| {link} | {' | '.join(cells)} | {1000 * apart:.0f} ms |")
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in per cent, bold where it is above the aim."""
    text = f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
    return f"**{text}**" if share > AIM else text


def rank(number: int, size: int, folder: str) -> None:
    """Measures as one of several processes, in turn, and leaves the medians."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=size
    )
    tensors, world = [torch.ones(one.shape) for one in shapes()], World(number, size)

    def whole() -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def apart() -> None:
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor /= size

    ways: dict[str, Callable[[], None]] = {
        "in buckets of 32 MB (ours)": lambda: average(tensors, world),
        "as one tensor": whole,
        "tensor by tensor": apart,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            distributed.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    if number == 0:
        medians = {
            # The first round warms up.
            name: [statistics.median(column) for column in zip(*times[1:], strict=True)]
            for name, times in found.items()
        }
        torch.save(medians, f"{folder}/medians.pt")
    distributed.destroy_process_group()


def measured() -> str:
    """Seconds of two processes on this machine, as a table."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(rank, (2, folder), nprocs=2)
        medians = torch.load(f"{folder}/medians.pt", weights_only=True)
    lines = [
        f"Two processes on this machine ({os.cpu_count()} cores shared with other work), gloo, "
        f"medians of {ROUNDS}:",
        "",
        "| way | seconds | CPU seconds of one process |",
        "| :-- | --: | --: |",
        *(f"| {name} | {wall:.2f} | {cpu:.2f} |" for name, (wall, cpu) in medians.items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints both tables and puts them between their marks in the page."""
    text = f"{table(shapes())}\n\n{measured()}"
    print(text)
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
