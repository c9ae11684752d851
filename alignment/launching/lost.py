"""Which rank is missing, when those that waited for it gave up.

All that a rank knows is that nobody answered. So whoever gave up says so in a file of the run folder, which all of them
see: who doesn't is the one that hangs or is gone; if nobody is missing, the network between them is what failed.
"""

import time
from pathlib import Path

from alignment.runs.ranks import Ranks

# Seconds, for the others to give up too: a step or a checkpoint of theirs may still be going on. Less than the 30 s
# after which torchrun kills what is left of its ranks when one of them has died.
PATIENCE = 20.0
SIGNS = ("gloo/transport", "imed out", "watchdog", "Connection closed", "Connection reset", "Broken pipe")


def gave_up(error: BaseException | None, ranks: Ranks) -> bool:
    """Is this error one of waiting for other ranks?"""
    import torch.distributed

    while ranks.count > 1 and error is not None:
        known = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
        if known or isinstance(error, torch.distributed.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False


def missing(folder: Path, ranks: Ranks) -> list[int]:
    """The ranks that have not given up as well; waits for them a moment."""
    folder.mkdir(exist_ok=True)
    mine = folder / str(ranks.rank)
    mine.write_text(ranks.hosts[ranks.rank])
    now, others = mine.stat().st_mtime, set(range(ranks.count)) - {ranks.rank}
    until = time.monotonic() + PATIENCE
    while others and time.monotonic() < until:
        time.sleep(0.1)
        others = {rank for rank in others if not _since(folder / str(rank), now - 2 * PATIENCE)}
    return sorted(others)


def message(stage: str, absent: list[int], ranks: Ranks, seconds: float, folder: Path) -> str:
    """One line, as every rank that gave up prints it."""
    here = f"rank {ranks.rank} on {ranks.hosts[ranks.rank]}"
    again = f"the same command goes on in {folder}"
    if absent:
        who = ", ".join(f"rank {rank} on {ranks.hosts[rank]}" for rank in absent)
        return f"{stage}: {who} did not answer {here}, gone or silent for {seconds:g} s; {again}"
    hosts = sorted(set(ranks.hosts))
    if len(hosts) == 1:
        return f"{stage}: the ranks on {hosts[0]} waited for each other for {seconds:g} s; {again}"
    return f"{stage}: {' and '.join(hosts)} don't reach each other any more, though all ranks are alive; {again}"


def _since(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime >= moment
    except FileNotFoundError:
        return False
