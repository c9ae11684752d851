"""Rows dealt to ranks so that all have about as many tokens: a step takes as long as its slowest rank.

accelerate deals an epoch's batches to the ranks in turn: one batch for each is computed at the same time. The rows of
these batches may be exchanged: the optimiser step has the same rows, and its mean is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler


class BalancedSampler(Sampler[int]):
    """The order of another sampler, but with the rows of every `ranks` batches of `size` dealt by their tokens.

    tokens: gives those of all rows; it is asked when an epoch begins.
    """

    def __init__(self, order: Sampler[int], tokens: Callable[[], Sequence[int]], ranks: int, size: int) -> None:
        self._order, self._tokens, self._ranks, self._size = order, tokens, ranks, size

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        rows, tokens = iter(self._order), self._tokens()
        while together := list(islice(rows, self._ranks * self._size)):
            if len(together) == self._ranks * self._size:  # accelerate fills up the last batches by their order
                together = deal(together, [tokens[row] for row in together], self._ranks)
            yield from together

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)


def seeded(order: Sampler[int], seed: int | None) -> Sampler[int]:
    """The seeded sampler that accelerate makes of a RandomSampler, which it wouldn't find inside ours."""
    return SeedableRandomSampler(order.data_source, data_seed=seed) if isinstance(order, RandomSampler) else order


def deal(rows: Sequence[int], tokens: Sequence[int], ranks: int) -> list[int]:
    """The rows in the order of the ranks that get them, as many for each rank, which keep their order there.

    From the longest row on, each goes to the rank with the fewest tokens so far that has room.
    """
    room, held = [len(rows) // ranks] * ranks, [0] * ranks
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for place in sorted(range(len(rows)), key=lambda place: -tokens[place]):
        rank = min((rank for rank in range(ranks) if room[rank]), key=lambda rank: held[rank])
        dealt[rank].append(place)
        room[rank] -= 1
        held[rank] += tokens[place]
    return [rows[place] for places in dealt for place in sorted(places)]
