"""What happens to jobs on a cluster, done to a chain of Slurm jobs: each named for what it is."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.launching.slurm import Slurm


def ranks(folder: Path, stage: str | None = None) -> dict[int, psutil.Process]:
    """The processes that compute a stage of a run, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            line, environment = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        ours = f"run.dir={folder}" in line and "accelerate.commands.launch" not in line and "RANK" in environment
        if ours and (stage is None or f"run.stage={stage}" in line):
            found[int(environment["RANK"])] = process
    return found


def kill_a_rank(slurm: Slurm, job: str, folder: Path, chance: random.Random) -> None:
    """As for want of memory."""
    here = list(ranks(folder).values())
    if here:  # otherwise they have just ended
        with suppress(psutil.NoSuchProcess):
            chance.choice(here).kill()


def ask_ranks_at_different_moments(slurm: Slurm, job: str, folder: Path, chance: random.Random) -> None:
    """One of them hears of it seconds before the other."""
    here = list(ranks(folder).values())
    chance.shuffle(here)
    for process in here:
        _signal(process)
        time.sleep(chance.uniform(0, 3))


def stop_a_node(slurm: Slurm, job: str, folder: Path, chance: random.Random) -> None:
    """Its power is cut, and it comes back when Slurm has noticed."""
    node = chance.choice(["n1", "n2"])
    slurm.stop_node(node)
    slurm.until(lambda: slurm.state(job) != "RUNNING", timeout=90)
    slurm.start_node(node)


def reach_the_time_limit(slurm: Slurm, job: str, folder: Path, chance: random.Random) -> None:
    """Of the job, which from now on is a minute; the grace of the chain is most of it."""
    elapsed = slurm.show("job", job)["RunTime"].split(":")
    minutes = int(elapsed[-2]) + 1
    slurm.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"])


def cancel(slurm: Slurm, job: str, folder: Path, chance: random.Random) -> None:
    """By a user who submits it again later."""
    slurm.run(["scancel", job])
    slurm.until(lambda: slurm.state(job) in {"CANCELLED", "COMPLETED"}, timeout=60)


ALL: tuple[Callable, ...] = (
    kill_a_rank, ask_ranks_at_different_moments, stop_a_node, reach_the_time_limit, cancel,
)  # fmt: skip


def _signal(process: psutil.Process) -> None:
    with suppress(ProcessLookupError):  # it was done
        os.kill(process.pid, signal.SIGUSR1)
