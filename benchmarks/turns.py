"""Two processes that take turns: each computes a step when it is asked to, so that only one of them computes at a time.

A side reads a line of its input for every step, and writes a line of JSON when it is done. What it prints otherwise is
kept apart, and shown if it fails.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import torch

from benchmarks import machine

REPOSITORY = Path(__file__).resolve().parent.parent


class Turns:
    """A side's end. Made after the imports and before any model, so that the memory held in between is known."""

    def __init__(self, asked: TextIO | None = None, said: TextIO | None = None, device: str = "cpu") -> None:
        self._asked, self._said, self._device = asked or sys.stdin, said or sys.stdout, device
        if said is None:
            sys.stdout = sys.stderr  # what libraries print must not come between the lines of JSON
        machine.forget_peak()
        self._baseline = machine.held_bytes()
        self.number = -1
        self._started = 0.0

    def ready(self, **settings: object) -> None:
        """Everything is built."""
        self._say({"ready": True, "baseline_bytes": self._baseline, "settings": settings})

    def begin(self) -> bool:
        """Waits until the next step is wanted; False when no more are."""
        if not self._asked.readline():
            return False
        self.number += 1
        self._started = time.perf_counter()
        return True

    def end(self, pairs: range, units: int, tokens: int, operations: int, **more: object) -> None:
        """The step is done: with which pairs, how much of what is counted, needed tokens and needed operations."""
        if self._device != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - self._started
        peak = machine.peak_bytes() if self._device == "cpu" else torch.accelerator.max_memory_allocated()
        self._say({
            "seconds": seconds, "peak_bytes": peak, "pairs": [pairs.start, pairs.stop], "units": units,
            "tokens": tokens, "operations": operations, **more,
        })  # fmt: skip

    def _say(self, what: dict) -> None:
        print(json.dumps(what), file=self._said, flush=True)


class Side:
    """The other end: the process of a side, or one for each of its ranks, with the threads of each."""

    def __init__(self, module: str, arguments: dict[str, object], threads: int, ranks: int = 1) -> None:
        command = [sys.executable, "-m", f"benchmarks.{module}", *(f"{key}={arguments[key]}" for key in arguments)]
        port = _free_port() if ranks > 1 else 0
        self._errors = [tempfile.TemporaryFile(mode="w+") for _ in range(ranks)]  # noqa: SIM115 (close ends them)
        self._ranks = [
            subprocess.Popen(
                command, cwd=REPOSITORY, env=_environment(threads, rank, ranks, port), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors[rank],
            )
            for rank in range(ranks)
        ]  # fmt: skip
        ready = self._answers()
        self.baseline_bytes = sum(one["baseline_bytes"] for one in ready)
        self.settings = ready[0]["settings"] | {"threads": threads, "baseline_bytes": self.baseline_bytes}
        if ranks > 1:
            self.settings["ranks"] = ranks

    def step(self) -> dict:
        """One step: the time of the slowest rank, and of everything else the sum over ranks."""
        for process in self._ranks:
            process.stdin.write("step\n")
            process.stdin.flush()
        answers = self._answers()
        found = dict(answers[0])
        found["seconds"] = max(one["seconds"] for one in answers)
        found["pairs"] = [min(one["pairs"][0] for one in answers), max(one["pairs"][1] for one in answers)]
        for name in ("peak_bytes", "units", "tokens", "operations"):
            found[name] = sum(one[name] for one in answers)
        return found

    def close(self) -> None:
        for process in self._ranks:
            process.stdin.close()
        for process in self._ranks:
            process.wait()
            process.stdout.close()
        for errors in self._errors:
            errors.close()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            for process in self._ranks:
                process.kill()
        self.close()

    def _answers(self) -> list[dict]:
        return [self._answer(process, errors) for process, errors in zip(self._ranks, self._errors, strict=True)]

    def _answer(self, process: subprocess.Popen, errors: TextIO) -> dict:
        line = process.stdout.readline()
        if not line:
            errors.seek(0)
            for rank in self._ranks:
                rank.kill()
            raise RuntimeError(f"a side ended early:\n{errors.read()[-4000:]}")
        return json.loads(line)


def _environment(threads: int, rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would set for ranks on one machine; threads that wait must not keep the other side's cores busy."""
    own = {
        "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    if ranks > 1:
        own |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    return {**os.environ, **own}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
