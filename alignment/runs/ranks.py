"""The processes of a run: one on a laptop, several under torchrun or accelerate. The main one decides and writes.

Built on accelerate's PartialState, which is only imported when there are several; an `Accelerator` is never made here,
since the first one fixes settings that belong to the trainers.
"""

import itertools
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from alignment.runs import stopping
from alignment.types import Stopped, UserError

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch.distributed import Store
    from tqdm import tqdm

T = TypeVar("T")
_deals = itertools.count()  # all ranks come to the same ones in the same order


def process_state(timeout: timedelta | None = None) -> "PartialState":
    """accelerate's view of this process: its device, and its place among the ranks.

    timeout: of the process group that the first call joins, the longest that ranks wait for each other.

    Without an accelerator it has to be told so, in one of two ways, or it takes every rank for a run of its own.
    """
    from accelerate import PartialState

    more = {} if timeout is None else {"timeout": timeout}
    if accelerator() is not None:
        return PartialState(**more)
    return PartialState(backend="gloo", **more) if _under_deepspeed() else PartialState(cpu=True, **more)


def _wait_at_most(timeout: timedelta) -> None:
    """In groups that libraries make of the first one, too: torch has them wait its own default instead."""
    from torch.distributed import distributed_c10d

    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout


def accelerator() -> str | None:
    """The kind of accelerator that we compute on. Not Apple's: it has no float64, which rewards need."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return None if kind is None or kind.type == "mps" else kind.type


def on_cpu() -> bool:
    """Must a trainer be told to stay on the CPU? DeepSpeed, which sees for itself, must not be."""
    return accelerator() is None and not _under_deepspeed()


def cores() -> int:
    """Of the CPU, that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _under_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def host() -> str:
    """This machine's name, as Slurm calls it where there is Slurm."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class Ranks:
    """rank of count; `main` is rank 0. hosts: where each of them runs. beside: others train too, under one bar."""

    rank: int = 0
    count: int = 1
    hosts: tuple[str, ...] = ()
    beside: bool = False

    @classmethod
    def here(cls, timeout_seconds: float = 1800) -> "Ranks":
        """The ranks this process was started among; joins their process group."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate.utils import gather_object

        timeout = timedelta(seconds=timeout_seconds)
        _wait_at_most(timeout)
        state = process_state(timeout)
        return cls(state.process_index, state.num_processes, tuple(gather_object([host()])))

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.count > 1:
            process_state().wait_for_everyone()

    def any(self, here: bool) -> bool:
        """Is it so on one of the ranks? All of them come here."""
        if self.count == 1:
            return here
        import torch
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor(int(here), device=process_state().device), "sum") > 0)

    def stop_if_asked(self, what: str) -> None:
        """Raises Stopped on all ranks if one of them was asked to stop: for where everything is saved."""
        if self.any(stopping.asked()):
            raise Stopped(what)

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

    def dealt(self, count: int, what: str) -> Iterator[int]:
        """The numbers below `count`, each on one rank: whichever asks gets the next, until a rank was asked to stop.

        All of them come here, and to no two of these in different orders. The bar shows what all ranks have taken.
        """
        store, key = self._store(), f"dealt {next(_deals)}"
        with self._bar(None, what, count, "batch") as bar:
            while not stopping.asked() and (number := store.add(key, 1) - 1) < count:
                yield number
                bar.update(number + 1 - bar.n)
        store.add(key, count)  # nothing is left for the others

    def _store(self) -> "Store":
        """Numbers that all ranks see and add to: the process group's own."""
        from torch import distributed

        return distributed.HashStore() if self.count == 1 else distributed.group.WORLD.get_group_store()

    def progress(self, items: Iterable[T], what: str, total: int | None, unit: str = "batch") -> Iterator[T]:
        """The items, with a bar on the main process: on a terminal as it moves, in a log file twice a minute."""
        return iter(self._bar(items, what, total, unit))

    def _bar(self, items: Iterable[T] | None, what: str, total: int | None, unit: str) -> "tqdm":
        from tqdm import tqdm

        every = 0.1 if sys.stderr.isatty() else 30
        return tqdm(items, what, total, unit=unit, disable=not self.main or self.beside, mininterval=every, leave=False)

    def say(self, line: str) -> None:
        """One line on the terminal, from the main process alone."""
        if self.main:
            print(line, flush=True)


def batch_shape(batch_size: int, per_device: int | None, ranks: int, group: str) -> tuple[int, int]:
    """Pairs per forward and number of accumulated forwards, so that a step holds `batch_size` pairs on any ranks."""
    if batch_size % ranks:
        raise UserError(f"{group}.batch_size", f"{batch_size} pairs can't be dealt to {ranks} ranks", "give a multiple")
    micro_batch = min(per_device or batch_size, batch_size // ranks)
    if batch_size % (micro_batch * ranks):
        raise UserError(
            f"{group}.per_device_batch_size",
            f"{micro_batch} on {ranks} ranks doesn't divide {batch_size}",
            "give a divisor",
        )
    return micro_batch, batch_size // (micro_batch * ranks)
