"""The machine that benchmarks run on: what it is, and what it can compute."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "numpy")


def threads() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def description() -> dict:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(), "cores": os.cpu_count(), "threads": threads(), "memory_bytes": memory,
        "system": platform.system(), "python": platform.python_version(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def matmul_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 1024, tries: int = 20) -> float:
    """Operations per second of the best of several square products; a multiply-add is two operations."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
