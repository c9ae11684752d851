"""Which rank is missing, when those that waited for it gave up.

A rank that gave up knows only that nobody answered. So it leaves a file in the run folder, which all ranks see: a rank
without a file hangs or is gone, and if every rank has left one, the network between them has failed.
"""

import time
from pathlib import Path

from alignment.runs.ranks import Ranks

# Seconds that the other ranks have to give up too: they may be in a step or a checkpoint. torchrun kills the ranks that
# are left 30 s after one of them has died.
PATIENCE = 20.0
SIGNS = ("gloo/transport", "imed out", "watchdog", "Connection closed", "Connection reset", "Broken pipe")


def gave_up(error: BaseException | None, ranks: Ranks) -> bool:
    """Whether this rank failed by waiting for other ranks."""
    import torch.distributed

    while ranks.count > 1 and error is not None:
        waited = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
        if waited or isinstance(error, torch.distributed.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False


def missing(folder: Path, ranks: Ranks) -> list[int]:
    """The ranks that don't give up within a moment of this one."""
    folder.mkdir(exist_ok=True)
    own_file = folder / str(ranks.rank)
    own_file.write_text(ranks.hosts[ranks.rank])
    earliest, absent = own_file.stat().st_mtime - 2 * PATIENCE, set(range(ranks.count)) - {ranks.rank}
    until = time.monotonic() + PATIENCE
    while absent and time.monotonic() < until:
        time.sleep(0.1)
        absent = {rank for rank in absent if not _written_since(folder / str(rank), earliest)}
    return sorted(absent)


def message(stage: str, absent: list[int], ranks: Ranks, seconds: float, folder: Path) -> str:
    """The line that every rank that gave up prints."""
    again = f"the same command goes on in {folder}"
    if absent:
        own, *silent = (f"rank {rank} on {ranks.hosts[rank]}" for rank in [ranks.rank, *absent])
        return f"{stage}: {', '.join(silent)} did not answer {own}, gone or silent for {seconds:g} s; {again}"
    hosts = sorted(set(ranks.hosts))
    if len(hosts) == 1:
        return f"{stage}: the ranks on {hosts[0]} waited for each other for {seconds:g} s; {again}"
    return f"{stage}: {' and '.join(hosts)} don't reach each other any more, though all ranks are alive; {again}"


def _written_since(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime >= moment
    except FileNotFoundError:
        return False
