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
# of an item: row, start, stop, and its (1, 1, token, token) mask
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
    """(row, token, head, width) outputs, zeros where no item is. stretches: of all items, as they stand in the rows."""
    if stretches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, width = query.shape[0], query.shape[2]
    lengths: list[list[int]] = [[] for _ in range(rows)]
    masks: list[list[Tensor]] = [[] for _ in range(rows)]
    for row, start, stop, mask in stretches:
        lengths[row].append(stop - start)
        masks[row].append(mask)
    outputs = []
    for row, states in enumerate(zip(query.split(1), key.split(1), value.split(1), strict=True)):
        padding = width - sum(lengths[row])
        sizes = [*lengths[row], padding]
        parts = [tensor.split(sizes, dim=2) for tensor in states]  # not slices: their gradients are whole rows
        attended = [
            sdpa_attention_forward(module, *item, mask, **kwargs)[0]
            for *item, mask in zip(*parts, masks[row], strict=False)
        ]
        outputs.append(torch.cat([*attended, attended[0].new_zeros(1, padding, *attended[0].shape[2:])], dim=1))
    return torch.cat(outputs), None


AttentionInterface.register(NAME, sdpa_by_item)
AttentionMaskInterface.register(NAME, sdpa_mask)
