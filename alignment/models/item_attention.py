"""Attention over packed rows on a CPU, item by item: what lies between two items of a row is never computed.

transformers' own sdpa attention, called for each item on its stretch of the row; for rows that aren't packed, and in
generation, it is that attention and nothing else. GPUs don't need it: there a kernel call an item would cost more.
"""

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_item"
# row, start, stop, and (1, 1, token, token) who sees whom
Stretch = tuple[int, int, int, Tensor]


def sdpa_by_item(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    stretches: list[Stretch] | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """(row, token, head, width) outputs; stretches in the order in which they stand, zeros where there is none."""
    if stretches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, width = query.shape[0], query.shape[2]
    sizes: list[list[int]] = [[] for _ in range(rows)]
    masks: list[list[Tensor]] = [[] for _ in range(rows)]
    for row, start, stop, mask in stretches:
        sizes[row].append(stop - start)
        masks[row].append(mask)
    outputs = []
    by_row = zip(*(one.split(1) for one in (query, key, value)), strict=True)
    for states, lengths, own in zip(by_row, sizes, masks, strict=True):
        rest = width - sum(lengths)
        split = (one.split([*lengths, rest], dim=2) for one in states)  # not slices: their gradients are of whole rows
        parts = zip(*split, strict=True)
        found = [
            sdpa_attention_forward(module, *part, mask, **kwargs)[0] for part, mask in zip(parts, own, strict=False)
        ]
        outputs.append(torch.cat([*found, found[0].new_zeros(1, rest, *found[0].shape[2:])], dim=1))
    return torch.cat(outputs), None


AttentionInterface.register(NAME, sdpa_by_item)
AttentionMaskInterface.register(NAME, sdpa_mask)
