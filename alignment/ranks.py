"""The processes of a run: one on a laptop, several under torchrun or accelerate. The main one decides and writes.

Built on accelerate's PartialState, which is only imported when there are several; an `Accelerator` is never made here,
since the first one fixes settings that belong to the trainers.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def process_state() -> "PartialState":
    """accelerate's view of this process: its device, and its place among the ranks.

    Without an accelerator it has to be told so, in one of two ways, or it takes every rank for a run of its own.
    """
    import torch
    from accelerate import PartialState

    if torch.accelerator.is_available():
        return PartialState()
    return PartialState(backend="gloo") if _under_deepspeed() else PartialState(cpu=True)


def on_cpu() -> bool:
    """Must a trainer be told to stay on the CPU? DeepSpeed, which sees for itself, must not be."""
    import torch

    return not torch.accelerator.is_available() and not _under_deepspeed()


def _under_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


@dataclass(frozen=True)
class Ranks:
    """rank of count; `main` is rank 0."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """The ranks this process was started among; joins their process group."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = process_state()
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.count > 1:
            process_state().wait_for_everyone()

    def from_main(self, decide: Callable[[], T]) -> T:
        """What the main process decides, on every rank. An error of its decision is raised on all of them."""
        if self.count == 1:
            return decide()
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None]
        if self.main:
            try:
                outcome = [(decide(), None)]
            except Exception as error:
                outcome = [(None, error)]
        result, error = broadcast_object_list(outcome)[0]
        if error is not None:
            raise error
        return result

    def progress(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, with a bar on the main process: on a terminal as it moves, in a log file twice a minute."""
        from tqdm import tqdm

        every = 0.1 if sys.stderr.isatty() else 30
        return iter(tqdm(items, what, total, unit="batch", disable=not self.main, mininterval=every, leave=False))

    def say(self, line: str) -> None:
        """One line on the terminal, from the main process alone."""
        if self.main:
            print(line, flush=True)
