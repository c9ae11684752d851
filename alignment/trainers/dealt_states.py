"""The states of a data set's pairs by the policy in training, read by all ranks together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


def dealt_states(
    pairs: Any,
    numbers: Sequence[int],
    size: int,
    accelerator: Accelerator,
    states_of: Callable[[list[dict]], Tensor],
) -> Tensor:
    """(pair, 2, layer, width) of the pairs with these numbers, in float32 in memory, the same on every rank.

    They are dealt to the ranks in turn, `size` at a time. states_of: of rows; all ranks call it equally often, since
    ZeRO-3 and FSDP gather weights in it.
    """
    gathered, ranks = [], accelerator.num_processes
    for first in range(0, len(numbers), size * ranks):
        own = numbers[first + accelerator.process_index * size :][:size]
        states = states_of([pairs[i] for i in own or numbers[:1]]).float()  # a rank without pairs reads one, too
        filler = states.new_zeros(size - len(states), *states.shape[1:])
        together = accelerator.gather(torch.cat([states, filler]))
        gathered.append(together[: len(numbers) - first].cpu())  # the last round's pairs come first, then filler
    return torch.cat(gathered)
