"""What benches of scoring share: how long a way takes, in how much memory, on which machine, and how close ways
must be."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

SHORTEST_S = 0.4  # the least time that a way runs in a round
MAX_POSTS = {"cpu": 2, "cuda": 64}  # in a step
# Log-odds between ways. With random weights, bfloat16 is far off.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.5}


def seconds(run: Callable[[], object]) -> float:
    """The mean time of a call, over as many calls as SHORTEST_S takes."""
    started, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - started < SHORTEST_S:
        run()
        times += 1
    return (time.perf_counter() - started) / times


def peak_mb(where: torch.device) -> float:
    """The most memory that was in use so far, in MB: on CUDA torch's tensors, else the whole process."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def command() -> str:
    """The command of this process, to run it again."""
    return f"moderation bench engine {' '.join(sys.argv[3:])}".strip()


def machine(where: torch.device, *others: str) -> dict[str, str]:
    """The device, and the versions of Python, torch, this package and other packages."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else _cpu()
    return {
        "device": f"{name}, {torch.get_num_threads()} threads" if where.type == "cpu" else name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in (*others, "moderation")},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    best = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({best})"
