"""Stages in ranks on this machine, each as its own `accelerate launch`: between stages all memory is free."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil
from omegaconf import DictConfig

from alignment.launching import commands, exits
from alignment.plan import Step, keep_settings
from alignment.runs import stopping
from alignment.runs.ranks import accelerator, cores
from alignment.runs.run_files import RunDir, locked
from alignment.stages import STAGES
from alignment.types import StageFailed, Stopped, UserError

PASS_ON = 2.0  # seconds


def run_stages(cfg: DictConfig, run: RunDir, steps: list[Step], overrides: Sequence[str]) -> None:
    """Runs what isn't up to date; raises Stopped, StageFailed or SystemExit as the stage ended."""
    processes = cfg.launch.processes or _gpus()
    with locked(run, "launch"):
        keep_settings(cfg, run)
        for step in steps:
            if step.cached:
                print(f"{step.stage}: up to date", flush=True)
            elif stopping.asked():
                raise Stopped(step.stage)
            else:
                _run(cfg, run, step.stage, processes, overrides)
        exits.clear(run.root)


def _gpus() -> int:
    if accelerator() is None:
        raise UserError("launch.processes", "there is no GPU to count", "say how many ranks, as launch.processes=2")
    import torch

    return torch.accelerator.device_count()


def _run(cfg: DictConfig, run: RunDir, stage: str, processes: int, overrides: Sequence[str]) -> None:
    exits.clear(run.root)
    given = commands.arguments(cfg, stage, overrides, sys.argv[1:])
    if STAGES[stage].alone:
        command = [commands.python(), "-m", "alignment.run", *given]
    else:
        launch = commands.accelerate(commands.layout(cfg, stage), processes, "--main_process_port", "0")
        command = [commands.python(), *launch, *given]
    ranks = subprocess.Popen(command, env=_environment(processes), preexec_fn=_deaf)
    code = _wait(ranks, alone=STAGES[stage].alone)
    if code == 0:
        return
    said = exits.found(run.root, stage)
    if said == Stopped.exit_code:
        raise Stopped(stage)
    if said == exits.KILLED:
        raise StageFailed(
            stage, "one of its ranks was killed, or its launcher failed (see above)",
            "was memory short? the same command goes on",
        )  # fmt: skip
    sys.exit(said)  # the rank has said why


def _environment(processes: int) -> dict[str, str]:
    """Ranks on a CPU share its cores, of which accelerate would give each of them one, and its memory."""
    threads = max(1, cores() // processes)
    return {"OMP_NUM_THREADS": str(threads), **commands.GIVE_BACK, **os.environ}


def _deaf() -> None:
    """accelerate's launcher must hear nothing of a request to stop: it would end its ranks at once."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _wait(launcher: subprocess.Popen, alone: bool) -> int:
    """Until the launcher ends; what this process is asked meanwhile, its ranks are: again and again, since one that is
    still starting hears nothing. The ranks are the launcher's own children; alone, it is the rank."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return launcher.wait(timeout=PASS_ON)
        if stopping.asked():
            with suppress(psutil.NoSuchProcess):
                here = psutil.Process(launcher.pid)
                for rank in [here] if alone else here.children():
                    rank.send_signal(signal.SIGUSR1)
