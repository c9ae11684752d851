"""The most memory that a process holds at once, in bytes: what a stage took, beside what run.plan=true estimates.

Nothing here imports torch: only who has it already can hold memory of a GPU.
"""

import platform
import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_beside = 0  # of processes that were started by this one and have ended


def forget_peak() -> None:
    """From here on a peak counts, where the system can forget what was before."""
    global _beside
    _beside = 0
    if CLEAR.exists():
        CLEAR.write_text("5")
    if _has_gpu():
        sys.modules["torch"].accelerator.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    if STATUS.exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def add_beside(peaks: int) -> None:
    """Counts the peaks of processes that worked beside this one."""
    global _beside
    _beside = max(_beside, peaks)


def peaks() -> tuple[int, int]:
    """The most that this process and those beside it have held: of this machine, and of its GPU."""
    gpu = sys.modules["torch"].accelerator.max_memory_allocated() if _has_gpu() else 0
    return peak_bytes() + _beside, gpu


def in_words(memory: int, gpu: int) -> str:
    """`1.2 GB`, with a GPU `1.2 GB, 3.4 GB of its GPU`."""
    held = f"{memory / 1e9:.1f} GB"
    return f"{held}, {gpu / 1e9:.1f} GB of its GPU" if gpu else held


def held_bytes() -> int:
    """The memory that this process holds now; its peak where the system doesn't say."""
    return _status("VmRSS") if STATUS.exists() else peak_bytes()


def _has_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
