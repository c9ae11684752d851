"""Two processes that take turns: each computes a step when it is asked to, so that only one of them computes at a time.

A side reads a line of its input for every step, and answers with a line of JSON when it is done: through a pipe of its
own, since libraries print what they like. What a side prints is shown if it fails.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch

from alignment.runs import peak_memory

ANSWERS = "BENCHMARK_ANSWERS"  # the variable that names the pipe
REPOSITORY = Path(__file__).resolve().parent.parent


class Turns:
    """A side's end. Made after the imports and before any model, so that the memory held in between is known."""

    def __init__(self, asked: TextIO | None = None, said: TextIO | None = None, device: str = "cpu") -> None:
        pipe = os.environ.get(ANSWERS)
        self._asked, self._said = asked or sys.stdin, said or (os.fdopen(int(pipe), "w") if pipe else sys.stdout)
        self._device = device
        peak_memory.forget_peak()
        self._baseline = peak_memory.held_bytes()
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
        peak = peak_memory.peak_bytes() if self._device == "cpu" else torch.accelerator.max_memory_allocated()
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
        self._ranks = [_Rank(command, _environment(threads, rank, ranks, port)) for rank in range(ranks)]
        ready = self._answers()
        self.baseline_bytes = sum(one["baseline_bytes"] for one in ready)
        self.settings = ready[0]["settings"] | {"threads": threads, "baseline_bytes": self.baseline_bytes}
        if ranks > 1:
            self.settings["ranks"] = ranks

    def step(self) -> dict:
        """One step: the time of the slowest rank, and of everything else the sum over ranks."""
        for rank in self._ranks:
            rank.ask()
        answers = self._answers()
        found = dict(answers[0])
        found["seconds"] = max(one["seconds"] for one in answers)
        found["pairs"] = [min(one["pairs"][0] for one in answers), max(one["pairs"][1] for one in answers)]
        for name in ("peak_bytes", "units", "tokens", "operations"):
            found[name] = sum(one[name] for one in answers)
        return found

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._kill()
        for rank in self._ranks:  # all of them first: they wait for each other
            rank.ask_no_more()
        for rank in self._ranks:
            rank.close()

    def _answers(self) -> list[dict]:
        try:
            return [rank.answer() for rank in self._ranks]
        except RuntimeError:
            self._kill()  # the others would wait for it
            raise

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.process.kill()


class _Rank:
    """One process, with a line to it and a line back."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        receive, send = os.pipe()
        self._printed = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (close ends it)
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment | {ANSWERS: str(send)}, pass_fds=[send], text=True,
            stdin=subprocess.PIPE, stdout=self._printed, stderr=self._printed,
        )  # fmt: skip
        os.close(send)  # so that its end is seen
        self._answers = os.fdopen(receive)

    def ask(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        line = self._answers.readline()
        if not line:
            self._printed.seek(0)
            raise RuntimeError(f"a side ended early:\n{self._printed.read()[-4000:]}")
        return json.loads(line)

    def ask_no_more(self) -> None:
        """Without a next line to read, a side ends."""
        with suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()

    def close(self) -> None:
        self.process.wait()
        self._answers.close()
        self._printed.close()


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
