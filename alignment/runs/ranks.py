"""The processes of a run: one on a laptop, several under torchrun or accelerate. The main process decides and writes.

They are built on accelerate's PartialState, which is imported only if there are several. No `Accelerator` is made here:
the first one fixes settings that are the trainers' to choose.
"""

import itertools
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alignment.runs import stopping
from alignment.types import Stopped, UserError

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch.distributed import Store
    from tqdm import tqdm

DRIVERS = ("nvidiactl", "nvidia0", "kfd", "dxg", "dri", "accel", "davinci0", "habanalabs")  # in /dev
T = TypeVar("T")
_deals = itertools.count()  # numbers the calls of `dealt`, which all ranks make in the same order


def process_state(timeout: timedelta | None = None) -> "PartialState":
    """accelerate's view of this process: its device, and its place among the ranks.

    The first call joins the process group; timeout: the longest that its ranks wait for each other.

    Without an accelerator PartialState has to be told so, in one of two ways, or it takes every rank for a run of its
    own.
    """
    from accelerate import PartialState

    options = {} if timeout is None else {"timeout": timeout}
    if accelerator() is not None:
        return PartialState(**options)
    return PartialState(backend="gloo", **options) if _under_deepspeed() else PartialState(cpu=True, **options)


def _set_default_timeout(timeout: timedelta) -> None:
    """Sets the timeout of the groups that libraries make later: torch doesn't hand the first group's on to them."""
    from torch.distributed import distributed_c10d

    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout


def has_accelerator() -> bool:
    """Is there one? Where there is no driver of any, torch, which is slow to import, need not be asked."""
    return any(Path("/dev", name).exists() for name in DRIVERS) and accelerator() is not None


def accelerator() -> str | None:
    """The kind of accelerator that we compute on; never Apple's, which has no float64, and rewards need that."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    return None if kind is None or kind.type == "mps" else kind.type


def on_cpu() -> bool:
    """Must a trainer be told to stay on the CPU? Not under DeepSpeed, which sees that by itself."""
    return accelerator() is None and not _under_deepspeed()


def cores() -> int:
    """The number of the CPU's cores that this process may use."""
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
    """This process is rank `rank` of `count`; `main` is rank 0.

    hosts: the machine of each rank. beside: other trainings run beside this one, and share a progress bar.
    """

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
        _set_default_timeout(timeout)
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
        """Is `here` true on any rank? All ranks must call this."""
        if self.count == 1:
            return here
        import torch
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor(int(here), device=process_state().device), "sum") > 0)

    def most(self, *here: int) -> tuple[int, ...]:
        """Each number as it is on the rank where it is largest; also waits for all ranks."""
        if self.count == 1:
            return here
        from accelerate.utils import gather_object

        return tuple(map(max, zip(*gather_object([here]), strict=True)))

    def stop_if_asked(self, what: str) -> None:
        """Raises Stopped on all ranks if one of them was asked to stop; called where everything is saved."""
        if self.any(stopping.asked()):
            raise Stopped(what)

    def from_main(self, decide: Callable[[], T]) -> T:
        """The main process's decision, on every rank. If `decide` fails, all ranks raise its error."""
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
        """The numbers below `count`, each on one rank: a rank that asks gets the next, until one was asked to stop.

        All ranks must make the same calls of this in the same order. The bar shows what all ranks together have taken.
        """
        store, key = self._store(), f"dealt {next(_deals)}"
        with self._bar(None, what, count, "batch") as bar:
            while not stopping.asked() and (number := store.add(key, 1) - 1) < count:
                yield number
                bar.update(number + 1 - bar.n)
        store.add(key, count)  # nothing is left for the others

    def _store(self) -> "Store":
        """The process group's store: numbers that all ranks see and add to."""
        from torch import distributed

        return distributed.HashStore() if self.count == 1 else distributed.group.WORLD.get_group_store()

    def progress(self, items: Iterable[T], what: str, total: int | None, unit: str = "batch") -> Iterator[T]:
        """The items, with a bar on the main process: it moves on a terminal, in a log file it shows twice a minute."""
        return iter(self._bar(items, what, total, unit))

    def _bar(self, items: Iterable[T] | None, what: str, total: int | None, unit: str) -> "tqdm":
        from alignment.runs.bars import bar

        return bar(items, what, total, unit, disable=not self.main or self.beside)

    def say(self, line: str) -> None:
        """One line on the terminal, from the main process alone."""
        if self.main:
            print(line, flush=True)


def batch_shape(batch_size: int, per_device: int | None, ranks: int, group: str) -> tuple[int, int]:
    """Pairs per forward and number of accumulated forwards: all ranks' pairs of a step are `batch_size`."""
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
