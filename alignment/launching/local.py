"""Runs stages in ranks on this machine, each in its own `accelerate launch`: between stages all memory is free."""

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
from alignment.runs import results, stopping
from alignment.runs.ranks import accelerator, cores
from alignment.runs.run_files import RunDir, locked
from alignment.stages import STAGES
from alignment.types import StageFailed, Stopped, UserError

PASS_ON = 2.0  # seconds between two signals to ranks that are to stop


def run_stages(cfg: DictConfig, run: RunDir, steps: list[Step], overrides: Sequence[str]) -> None:
    """Runs what isn't up to date; raises Stopped, StageFailed or SystemExit, depending on how a stage ended."""
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
        if steps[-1].cached or steps[-1].stage != "report":  # else that stage has said it
            print("", *results.link(run), sep="\n", flush=True)


def _gpus() -> int:
    if accelerator() is None:
        raise UserError("launch.processes", "there is no GPU to count", "say how many ranks, as launch.processes=2")
    import torch

    return torch.accelerator.device_count()


def _run(cfg: DictConfig, run: RunDir, stage: str, processes: int, overrides: Sequence[str]) -> None:
    exits.clear(run.root)
    arguments, alone = commands.arguments(cfg, stage, overrides, sys.argv[1:]), STAGES[stage].alone
    launcher = ["-m", "alignment.run"]
    if not alone:
        launcher = commands.accelerate(commands.layout(cfg, stage), processes, "--main_process_port", "0")
    ranks = subprocess.Popen(
        [sys.executable, *launcher, *arguments], env=_environment(processes), preexec_fn=_ignore_requests
    )
    if _wait(ranks, alone) == 0:
        return
    code = exits.exit_code(run.root, stage)
    if code == Stopped.exit_code:
        raise Stopped(stage)
    if code == exits.KILLED:
        problem = "one of its ranks was killed, or its launcher failed (see above)"
        raise StageFailed(stage, problem, "was memory short? the same command goes on")
    sys.exit(code)  # the rank has printed why


def _environment(processes: int) -> dict[str, str]:
    """Ranks on a CPU share its cores, where accelerate would give each of them one, and return the memory they free."""
    threads = max(1, cores() // processes)
    return {"OMP_NUM_THREADS": str(threads), **commands.GIVE_BACK, **os.environ}


def _ignore_requests() -> None:
    """Hides a request to stop from accelerate's launcher, which would end its ranks at once."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _wait(launcher: subprocess.Popen, alone: bool) -> int:
    """Waits for the launcher to end, and returns its exit code.

    A request to stop is passed on to its ranks again and again, since one that is still starting doesn't notice it. The
    ranks are the launcher's children; of a stage that runs alone, it is the rank itself.
    """
    while True:
        with suppress(subprocess.TimeoutExpired):
            return launcher.wait(timeout=PASS_ON)
        if stopping.asked():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(launcher.pid)
                for rank in [process] if alone else process.children():
                    rank.send_signal(signal.SIGUSR1)
