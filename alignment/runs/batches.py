"""Planned batches: inference over a whole data set in parts, at which a killed run goes on.

The plan depends on the sizes of the items and nothing else, and whichever rank is free takes the next batch. So an item
always has the same neighbours and padding, and its result is the same bit for bit on any number of ranks, however fast
each of them is. Each batch is a file in the stage's work folder: a killed run goes on at the first one missing.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alignment.runs.artifacts import atomic_file
from alignment.runs.ranks import Ranks

Pending = Callable[[], bytes]  # gives a batch's content, once the device is done with it
DIGEST = 32  # bytes of sha256 before the content


@dataclass(frozen=True)
class Finished:
    """The computed batches of a plan; iterating reads (items, content) of one batch at a time."""

    folder: Path
    batches: list[list[int]]

    def __iter__(self) -> Iterator[tuple[list[int], bytes]]:
        for number, items in enumerate(self.batches):
            yield items, _path(self.folder, number).read_bytes()[DIGEST:]


def compute_in_batches(
    folder: Path,
    what: str,
    sizes: list[int],
    budget: int,
    compute: Callable[[list[int]], Pending | bytes],
    ranks: Ranks,
) -> Finished:
    """Computes the batches that are missing; returns when all ranks are done. If a rank is asked to stop, all stop
    after their batch.

    While a device computes a batch, the host writes the one before. What is there as bytes already is written at once.
    """
    batches = plan_batches(sizes, budget)
    unwritten: tuple[int, Pending | bytes] | None = None
    for number in ranks.dealt(len(batches), what):
        if not _intact(_path(folder, number)):
            pending = compute(batches[number])
            if unwritten is not None:
                _write(folder, *unwritten)
            unwritten = (number, pending)
            if isinstance(pending, bytes):
                _write(folder, *unwritten)
                unwritten = None
    if unwritten is not None:
        _write(folder, *unwritten)
    ranks.stop_if_asked(what)
    return Finished(folder, batches)


def _write(folder: Path, number: int, pending: Pending | bytes) -> None:
    content = pending if isinstance(pending, bytes) else pending()
    with atomic_file(_path(folder, number)) as file:
        file.write_bytes(hashlib.sha256(content).digest() + content)


def plan_batches(sizes: list[int], budget: int) -> list[list[int]]:
    """Items in batches of similar size, longest first, each padded to at most `budget` (a larger item gets its own)."""
    batches: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        longest = sizes[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _path(folder: Path, number: int) -> Path:
    return folder / f"batch-{number:06d}"


def _intact(path: Path) -> bool:
    if not path.exists():
        return False
    content = path.read_bytes()
    return hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]
