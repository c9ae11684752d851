"""Rows of several texts are taken only where they give what padded ones give: tried on real data, whatever the model.

Whether they do is a matter of the architecture, the layout, and the precision, not of the weights: what was found is
kept in the run (runs/agreements.py), so that no later training or stage, and no resumed one, looks again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.models.architecture import architecture_hash, layer_count, without_adapters
from alignment.models.packing import PADDING, Item, Layout, Packing, answer_order, laid_out_padded
from alignment.runs.agreements import agreements
from alignment.runs.once import once
from alignment.runs.ranks import Ranks

CHECKED = 4  # items that inference reads in both layouts, two answers of each
ROUNDED = 16  # results in a block that are rounded, one after the other: norms, products, softmax, sums
FAR, FAR_BACK = 4, 8  # so many times what rounding does on average it may do to any one value, or gradient


def tolerance(model: PreTrainedModel, dtype: torch.dtype, backward: bool = False) -> float:
    """How far apart rounding alone may put two ways to the same values, relative to the largest of them.

    A rounded result is off by an eighth of eps on average. The errors of `ROUNDED` results a block add up as a walk at
    random does, to the root of their number; a backward pass is as long again. In float32 a sum of products rounds at
    every addition; half precision adds in float32 and rounds once. On 22 architectures the largest difference was 2.2
    times that, and 3.4 times of gradients, in float32 and in bfloat16. A wrong mask does far more, on SmolLM2 in
    bfloat16 to states 14 times that, and 23 times to gradients, and least to log-probabilities of whole answers. In
    float32 there is room for eight times as much: other processors add in other orders.
    """
    far, roundings = (FAR_BACK if backward else FAR), ROUNDED * layer_count(model) * (2 if backward else 1)
    if dtype in (torch.float32, torch.float64):
        return far * torch.finfo(dtype).eps * sqrt(roundings * model.config.get_text_config().hidden_size)
    return far * torch.finfo(dtype).eps / 8 * sqrt(roundings)


Values = Mapping[str, Tensor]  # what a model gives for answers, by name, in answer_order
Read = Callable[[Layout, Sequence[Item]], Values]


def checked_layout(
    what: str,
    read: Callable[[Layout, Sequence[Item]], Tensor],
    model: PreTrainedModel,
    packing: Packing,
    pad_id: int,
    items: Sequence[Item],
    ranks: Ranks | None,
) -> Layout:
    """How the model will read these items: several in a row if that gives the same `what` as padded rows.

    ranks: decide alike, and say it; None: this process decides for itself, and in silence.
    """
    longest = max((item.longest for item in items), default=0)
    layout, line = packing.layout([model], model.device, pad_id, lambda: longest)
    if layout.together and items:
        some = [Item(item.prompt, sorted(item.answers, key=len)[-2:]) for item in with_longest(items, CHECKED)]

        def find() -> str | None:
            return why_different(lambda *rows: {what: read(*rows)}, model, layout, some, model.dtype, gradient=False)

        key = agreement_key(model, layout, what, longest, model.dtype)
        if (why := agreements.why_not(key, find, ranks or Ranks())) is not None:
            layout, line = laid_out_padded(layout, [model], why)
    if ranks is not None and once.first(line):
        ranks.say(line)
    return layout


def with_longest(items: Sequence[Item], count: int) -> list[Item]:
    """So many items, the one with the longest text and the first others."""
    place = max(range(len(items)), key=lambda number: items[number].longest)
    return [items[place], *[item for number, item in enumerate(items[:count]) if number != place]][:count]


def agreement_key(model: PreTrainedModel, layout: Layout, *others: Any) -> str:
    """Names what was found for an architecture and a layout. others: what else it depends on."""
    facts = [architecture_hash(model), repr(layout), model.device.type, *map(str, others)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def why_different(
    read: Read, model: PreTrainedModel, layout: Layout, items: Sequence[Item], dtype: torch.dtype, gradient: bool
) -> str | None:
    """How rows of several texts differ from padded ones, by more than rounding; None if they are the same.

    Padded, every answer is read alone, which takes little memory. dtype: what is computed in. gradient: that of the
    values' sum is compared too, by the embedding of every token: it comes through all blocks, and no weight has one.
    """
    alone = [(number, Item(items[number].prompt, [items[number].answers[i]])) for number, i in answer_order(items)]
    try:
        together, slope = _tried(read, model, layout, items, gradient)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
            raise
        return f"rows of several texts are more than it can read ({(str(error) or repr(error)).splitlines()[0][:100]})"
    values: dict[str, list[Tensor]] = {name: [] for name in together}
    expected_slope = torch.zeros_like(slope)
    for number, item in alone:
        parts, part_slope = _tried(read, model, layout.padded(), [item], gradient)
        for name, value in parts.items():
            values[name].append(value)
        expected_slope[number, : part_slope.shape[1]] += part_slope[0]
    pairs = {name: (together[name], torch.cat(values[name]), False) for name in together}
    if gradient:
        pairs["gradients"] = (slope.flatten(1), expected_slope.flatten(1), True)
    for name, (found, expected, backward) in pairs.items():
        difference, allowed = _apart(found.float(), expected.float()), tolerance(model, dtype, backward)
        if not difference <= allowed:  # NaN fails too
            how = "packed" if layout.packed else "in segments"
            return f"{how}, {name} of some rows differ by {difference:.1e}, and rounding explains {allowed:.0e}"
    return None


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value; of states layer by layer, as some have larger ones."""
    found, expected = (
        values.flatten(2) if values.ndim > 2 else values.flatten()[None, None] for values in (found, expected)
    )
    largest = expected.abs().amax(dim=(0, 2)).clamp(min=1e-6)
    return float(((found - expected).abs().amax(dim=(0, 2)) / largest).max())


def _tried(
    read: Read, model: PreTrainedModel, layout: Layout, items: Sequence[Item], gradient: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """The values of one batch, and the gradient of their sum: (item, position, width), a zero where none is wanted."""
    places = layout.batch(items)
    if not gradient:
        values = read(layout, items)
        return {name: value.detach() for name, value in values.items()}, torch.zeros(len(items), 1, 1)
    with _leaves(without_adapters(model).get_input_embeddings()) as leaves, torch.enable_grad():
        values = read(layout, items)
        (slope,) = torch.autograd.grad([v.float().sum() for v in values.values() if v.requires_grad], leaves[:1])
    read_at = (places["item"] != PADDING).flatten()
    number, position = places["item"].flatten()[read_at], places["position_ids"].flatten()[read_at]
    by_place = torch.zeros(len(items), max(item.longest for item in items), slope.shape[-1], device=slope.device)
    at = (number.to(slope.device), position.to(slope.device))
    by_place.index_put_(at, slope.flatten(0, 1)[read_at.to(slope.device)].float(), accumulate=True)
    return {name: value.detach() for name, value in values.items()}, by_place


@contextmanager
def _leaves(embeddings: nn.Module) -> Iterator[list[Tensor]]:
    """What the embeddings give, as leaves of autograd's graph: nothing below them is given a gradient."""
    leaves: list[Tensor] = []

    def cut(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = embeddings.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()
