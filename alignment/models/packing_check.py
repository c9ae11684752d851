"""Packed rows must give what padded ones give: compared on some of the data before anything long begins."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment.models.packing import Item, Layout, Packing, answer_order
from alignment.runs.once import once
from alignment.types import StageFailed

CHECKED = 4  # items that are read packed and padded, two answers of each
TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-2  # of the largest value; in half precision the order of additions shows

Read = Callable[[Layout, Sequence[Item]], Tensor]  # what a model gives for each answer, in answer_order


def checked_layout(
    what: str,
    read: Read,
    model: PreTrainedModel,
    packing: Packing,
    pad_id: int,
    items: Sequence[Item],
    say: Callable[[str], None],
) -> Layout:
    """How the model will read these items; `say` is told. Packed rows must give the same `what` as padded ones."""
    layout, line = packing.layout([model], model.device, pad_id, lambda: max(item.longest for item in items))
    if once.first(line):
        say(line)
    if layout.packed and items:
        some = [Item(item.prompt, item.answers[:2]) for item in items[:CHECKED]]
        answers = [Item(some[i].prompt, [some[i].answers[which]]) for i, which in answer_order(some)]
        padded_layout = replace(layout, packed=False)
        padded = torch.cat([read(padded_layout, [answer]) for answer in answers])  # one by one: little memory
        require_same(what, read(layout, some), padded, model.dtype != torch.float32)
    return layout


def require_same(what: str, packed: Tensor, padded: Tensor, half: bool) -> None:
    """StageFailed unless both are the same, up to rounding."""
    difference = float((packed.float() - padded).abs().max() / padded.abs().max().clamp(min=1e-6))
    if not difference <= (HALF_TOLERANCE if half else TOLERANCE):  # NaN fails too
        problem = f"the {what} of some rows differ by {difference:.1e} from those of padded rows"
        raise StageFailed("packing", problem, "set packing=off, and report the model")
