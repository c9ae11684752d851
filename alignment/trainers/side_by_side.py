"""Trainings side by side on a CPU, each in a process of its own: a small model gains little from a second thread.

A worker takes the next training until none is left or somebody was asked to stop, and dies with the process that
started it. The world's model is trained on one thread, however many workers there are: the same bytes anywhere.
"""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from alignment.trainers.quiet import quiet_libraries

if multiprocessing.parent_process() is not None:
    quiet_libraries()  # in a worker, before it imports those that talk as they are imported

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from alignment.runs import stopping
from alignment.runs.ranks import Ranks, accelerator, cores
from alignment.types import StageFailed, Stopped, UserError

LOOKS = 0.5  # seconds between two looks at whether this process was asked to stop


class Shared:
    """What the workers and the process that started them share; no lock is held while a worker trains, lest one that
    is killed leave it locked."""

    def __init__(self, context: Any, count: int, workers: int, threads: int | None) -> None:
        self.count, self.threads = count, threads
        self.taken = context.Value("q", 0)
        self.done = context.RawArray("d", workers)  # trainings by each worker, in part too
        self.stop = context.Event()

    def tasks(self) -> Iterator[int]:
        """The next of the trainings, each for one worker."""
        while not self.stop.is_set():
            with self.taken.get_lock():
                number = self.taken.value
                self.taken.value = min(number + 1, self.count)
            if number == self.count:
                return
            yield number


class Progress(TrainerCallback):
    """Adds the steps of a worker's trainings to the bar of all of them."""

    def __init__(self, shared: Shared, worker: int) -> None:
        self._shared, self._worker = shared, worker

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._shared.done[self._worker] += state.global_step / state.max_steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._shared.done[self._worker] += 1 / state.max_steps

    def close(self) -> None:
        """As a bar of its own would be."""


@dataclass(frozen=True)
class Workers:
    """How many, and on how many threads each computes; None: as many as torch likes."""

    count: int
    threads: int | None

    @classmethod
    def of(cls, asked: int | None, world: bool, tasks: int, ranks: Ranks) -> "Workers":
        """asked: run.workers; world: is it the world's model that is trained?"""
        if accelerator() is not None or ranks.count > 1 or "LOCAL_RANK" in os.environ:  # which launchers set
            if asked is not None and asked > 1:
                raise UserError("run.workers", f"{asked}, where a launcher or a GPU is", "leave it out")
            return cls(1, None)
        count = max(1, min(tasks, asked or (cores() if world else 1)))
        return cls(count, 1 if world else None if count == 1 else max(1, cores() // count))

    @contextmanager
    def here(self) -> Iterator[None]:
        """Computes in this process as they do."""
        before = torch.get_num_threads()
        torch.set_num_threads(before if self.threads is None else self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def side_by_side(work: Callable[[int, Progress], None], count: int, workers: Workers, what: str, stage: str) -> None:
    """Calls work(0) to work(count - 1), which can be pickled, in processes of their own.

    Raises what the first of them raised, after the others have saved and stopped.
    """
    context = multiprocessing.get_context("spawn")
    shared = Shared(context, count, workers.count, workers.threads)
    started = []
    for worker in range(workers.count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(work, shared, worker, there))
        process.start()
        there.close()  # the worker's end: ours would keep it open
        started.append((process, here))
    errors = _wait(started, shared, what)
    for error in errors:
        if not isinstance(error, Stopped):  # those stopped for its sake
            raise error
    if any(process.exitcode for process, _ in started):
        raise StageFailed(stage, "one of its processes was killed", "was memory short? the same command goes on")
    if errors:
        raise errors[0]
    if shared.stop.is_set() and shared.taken.value < count:
        raise Stopped(f"{what}, after {shared.taken.value} of {count}")


def _wait(started: list[tuple], shared: Shared, what: str) -> list[Exception]:
    """Until all of them have ended; if one fails, or this process is asked to stop, the others are told."""
    errors, alive = [], {process.sentinel: (process, here) for process, here in started}
    every = 0.1 if sys.stderr.isatty() else 30
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    with tqdm(total=shared.count, desc=what, bar_format=form, mininterval=every, leave=False) as bar:
        while alive:
            for sentinel in wait(list(alive), timeout=LOOKS):
                process, here = alive.pop(sentinel)
                process.join()
                with suppress(EOFError):  # it had nothing to say
                    errors.append(here.recv())
            failed = any(process.exitcode for process, _ in started) or errors
            if failed or stopping.asked():
                shared.stop.set()
            bar.update(sum(shared.done) - bar.n)
    return errors


def _worker(work: Callable[[int, Progress], None], shared: Shared, worker: int, outcome: Any) -> None:
    stopping.follow(shared.stop)
    if shared.threads is not None:
        torch.set_num_threads(shared.threads)
    try:
        for number in shared.tasks():
            work(number, Progress(shared, worker))
    except Exception as error:
        shared.stop.set()
        passed_on = isinstance(error, UserError | Stopped | OSError)  # others may not be to pickle
        outcome.send(error if passed_on else RuntimeError(traceback.format_exc()))
