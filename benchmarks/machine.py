"""The machine that benchmarks run on: what it is, what it can compute, and what a process holds of its memory."""

import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
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


def forget_peak() -> None:
    """From here on `peak_bytes` counts, where the system can forget what was before."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak_bytes() -> int:
    """The most memory this process has held."""
    if STATUS.exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def held_bytes() -> int:
    """The memory this process holds now; its peak where the system doesn't say."""
    return _status("VmRSS") if STATUS.exists() else peak_bytes()


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
