"""Preference pairs as a hybrid reward reads them: whole, in the model's chat template, the states of all layers.

A stage that needs (pair, 2, layer, width) states renders its rows with `whole_pairs` and reads them with `pair_states`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded as LoadedRows
from alignment.models.activations import response_states, states_layout
from alignment.models.architecture import layer_count
from alignment.models.devices import to_host
from alignment.models.kept_states import KeptStates, item_keys, not_kept, taken_line
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import Pooling

AT_ONCE = 256  # pairs whose kept states are copied at once


def whole_pairs(part: LoadedRows, loaded: Loaded, max_length: int, most: int | None = None) -> list[Item]:
    """The first pairs that can be read whole, at most `most`; those that can't are set aside."""

    def whole(row: dict) -> Item:
        both = loaded.format.render(row["prompt"], [row["chosen"], row["rejected"]], max_length)
        if any(answer.truncated or len(answer.ids) <= answer.prompt_length for answer in both):
            raise BadRow(f"an answer doesn't fit into {max_length} tokens")
        return Item.of(both)

    return part.readable(whole, most=most)


def pair_states(
    parts: Mapping[str, list[Item]],
    loaded: Loaded,
    packing: Packing,
    pooling: Pooling,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
    kept: KeptStates | None = None,
) -> dict[str, Tensor]:
    """(pair, 2, layer, width) float32 states of the chosen and rejected answers of each part, on every rank.

    work: where planned batches are kept, in a folder for each part. kept: the states of pairs that it has both answers
    of are taken from there.
    """
    left = {name: not_kept(items, item_keys, kept) for name, items in parts.items()}
    if kept is not None:
        ranks.say(taken_line("all pairs", sum(map(len, parts.values())), sum(map(len, left.values()))))
    unread = {name: [parts[name][i] for i in numbers] for name, numbers in left.items()}
    shape = 2, layer_count(loaded.model), loaded.model.config.get_text_config().hidden_size
    states = {name: torch.empty(len(items), *shape) for name, items in parts.items()}
    every = [item for items in unread.values() for item in items]
    if every:
        layout = states_layout(loaded.model, packing, loaded.tokenizer.pad_token_id, every, ranks)
        for name, items in unread.items():
            for batch, read in _read(name, items, loaded, layout, pooling, batch_tokens, work, ranks):
                states[name][[left[name][i] for i in batch]] = read
    for name, items in parts.items() if kept is not None else ():
        found = sorted(set(range(len(items))) - set(left[name]))
        for start in range(0, len(found), AT_ONCE):
            some = found[start : start + AT_ONCE]
            keys = [key for i in some for key in item_keys(items[i])]
            states[name][some] = kept.states(keys).unflatten(0, (len(some), 2))
    return states


def _read(
    name: str,
    pairs: list[Item],
    loaded: Loaded,
    layout: Layout,
    pooling: Pooling,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> Iterator[tuple[list[int], Tensor]]:
    """The numbers of the pairs of each planned batch, and their states."""
    layers = range(1, layer_count(loaded.model) + 1)

    def compute(batch: list[int]) -> Pending:
        items = [pairs[i] for i in batch]
        states, _ = response_states(loaded.model, layout, items, layers, pooling, loaded.end_ids)
        both = to_host(torch.stack(states.chunk(2), dim=1))
        return lambda: save({"states": both()})

    sizes = [layout.size(pair) for pair in pairs]
    batches = compute_in_batches(work / name, f"reading {name} pairs", sizes, batch_tokens, compute, ranks)
    for batch, content in batches:
        yield batch, load(content)["states"]
