"""Trainings side by side on a CPU, each in a process of its own: a small model gains little from a second thread.

A worker takes the next training until none is left or somebody was asked to stop, and dies with the process that
started it. The world's model is trained on one thread, however many workers there are: the same bytes anywhere.
"""

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from alignment.trainers.quiet import quiet_libraries

if multiprocessing.parent_process() is not None:
    quiet_libraries()  # in a worker, before it imports libraries
    gc.disable()  # until they are there: millions of objects that stay

import torch
from transformers import TrainerCallback

from alignment.runs import stopping
from alignment.runs.agreements import agreements
from alignment.runs.bars import bar
from alignment.runs.once import once
from alignment.runs.peak_memory import add_beside, peak_bytes
from alignment.runs.ranks import Ranks, accelerator, cores
from alignment.types import StageFailed, Stopped, UserError

LOOK_AFTER = 0.5  # seconds, to see whether this process was asked to stop


class Shared:
    """What the workers and the process that started them share.

    No lock is held while a worker trains: if it were killed, nobody could unlock it.
    """

    def __init__(self, context: Any, count: int, workers: int, threads: int | None) -> None:
        self.count, self.threads = count, threads
        self.taken = context.Value("q", 0)
        self.done = context.RawArray("d", workers)  # trainings that each worker has done, with fractions
        self.held = context.RawArray("q", workers)  # bytes of memory that each worker held at most
        self.stop = context.Event()
        self.agreements = agreements.folder

    def tasks(self) -> Iterator[int]:
        """The numbers of the trainings; a worker takes the next one that no other has taken."""
        while not self.stop.is_set():
            with self.taken.get_lock():
                number = self.taken.value
                self.taken.value = min(number + 1, self.count)
            if number == self.count:
                return
            yield number


class Progress(TrainerCallback):
    """Adds the steps of a worker's training to the progress bar of all trainings."""

    def __init__(self, shared: Shared, worker: int) -> None:
        self._shared, self._worker = shared, worker

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._shared.done[self._worker] += state.global_step / state.max_steps

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._shared.done[self._worker] += 1 / state.max_steps

    def close(self) -> None:
        """Nothing to do: ProgressBar, which has a bar of its own, closes it here."""


@dataclass(frozen=True)
class Workers:
    """How many there are, and how many threads each computes on; None: as many as torch takes."""

    count: int
    threads: int | None

    @classmethod
    def of(cls, asked: int | None, world: bool, tasks: int, ranks: Ranks) -> "Workers":
        """As many as make sense here. asked: run.workers; world: is it the world's model that is trained?"""
        if accelerator() is not None or ranks.count > 1 or "LOCAL_RANK" in os.environ:  # which launchers set
            if asked is not None and asked > 1:
                raise UserError("run.workers", f"{asked}, where a launcher or a GPU is", "leave it out")
            return cls(1, None)
        count = max(1, min(tasks, asked or (cores() if world else 1)))
        if world:
            return cls(count, 1)
        return cls(count, None if count == 1 else max(1, cores() // count))

    @contextmanager
    def here(self) -> Iterator[None]:
        """Computes in this process on as many threads as a worker does."""
        before = torch.get_num_threads()
        torch.set_num_threads(before if self.threads is None else self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def side_by_side(work: Callable[[int, Progress], None], count: int, workers: Workers, what: str, stage: str) -> None:
    """Calls work(0) to work(count - 1) in processes of their own; `work` must be picklable.

    Raises the first error of a worker, after the others have saved and stopped.
    """
    context = multiprocessing.get_context("spawn")
    shared = Shared(context, count, workers.count, workers.threads)
    started = []
    for worker in range(workers.count):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(work, shared, worker, sender))
        process.start()
        sender.close()  # the worker has its own copy; while ours is open, the pipe has no end
        started.append((process, receiver))
    errors = _wait(started, shared, what)
    add_beside(sum(shared.held))
    for error in errors:
        if not isinstance(error, Stopped):  # the others were stopped because of it
            raise error
    if any(process.exitcode for process, _ in started):
        raise StageFailed(stage, "one of its processes was killed", "was memory short? the same command goes on")
    if errors:
        raise errors[0]
    if shared.stop.is_set() and shared.taken.value < count:
        raise Stopped(f"{what}, after {shared.taken.value} of {count}")


def _wait(started: list[tuple], shared: Shared, what: str) -> list[Exception]:
    """Waits until all workers have ended, and gives their errors.

    If a worker fails, or this process is asked to stop, all are told to stop.
    """
    errors, alive = [], {process.sentinel: (process, receiver) for process, receiver in started}
    with bar(None, what, shared.count, what, fractions=True) as shown:
        while alive:
            for sentinel in wait(list(alive), timeout=LOOK_AFTER):
                process, receiver = alive.pop(sentinel)
                process.join()
                with suppress(EOFError):  # it had no error to send
                    errors.append(receiver.recv())
            failed = any(process.exitcode for process, _ in started) or errors
            if failed or stopping.asked():
                shared.stop.set()
            shown.update(sum(shared.done) - shown.n)
    return errors


def _worker(work: Callable[[int, Progress], None], shared: Shared, worker: int, sender: Any) -> None:
    gc.freeze()
    gc.enable()
    stopping.follow(shared.stop)
    once.begin()
    agreements.folder = shared.agreements
    if shared.threads is not None:
        torch.set_num_threads(shared.threads)
    try:
        for number in shared.tasks():
            work(number, Progress(shared, worker))
            shared.held[worker] = peak_bytes()
    except Exception as error:
        shared.stop.set()
        picklable = isinstance(error, UserError | Stopped | OSError)  # others may not be
        sender.send(error if picklable else RuntimeError(traceback.format_exc()))
