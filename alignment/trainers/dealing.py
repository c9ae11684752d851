"""Rows dealt to ranks so that each has about as many tokens: a step takes as long as its slowest rank.

accelerate deals an epoch's batches to ranks in turn, so that ranks x batch rows in a row are computed at the same time.
Among themselves they may stand in any order: the optimiser step has the same rows, and its mean is the same.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler


class BalancedSampler(Sampler[int]):
    """The order of another sampler, with the rows of every `ranks` batches of `size` dealt by their tokens."""

    def __init__(self, order: Sampler[int], tokens: Sequence[int], ranks: int, size: int) -> None:
        self._order, self._tokens, self._ranks, self._size = order, tokens, ranks, size

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        rows = iter(self._order)
        while together := list(islice(rows, self._ranks * self._size)):
            if len(together) == self._ranks * self._size:  # the rest of an epoch is filled up by its order
                together = deal(together, [self._tokens[row] for row in together], self._ranks)
            yield from together

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)


def seeded(order: Sampler[int], seed: int | None) -> Sampler[int]:
    """As accelerate makes it: it does so only with samplers that it knows."""
    return SeedableRandomSampler(order.data_source, data_seed=seed) if isinstance(order, RandomSampler) else order


def deal(rows: Sequence[int], tokens: Sequence[int], ranks: int) -> list[int]:
    """Rank after rank, as many rows each: the longest row left goes to the rank with the fewest tokens that has room.

    A rank's rows keep their order.
    """
    room, held = [len(rows) // ranks] * ranks, [0] * ranks
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for place in sorted(range(len(rows)), key=lambda place: -tokens[place]):
        rank = min((rank for rank in range(ranks) if room[rank]), key=lambda rank: held[rank])
        dealt[rank].append(place)
        room[rank] -= 1
        held[rank] += tokens[place]
    return [rows[place] for places in dealt for place in sorted(places)]
