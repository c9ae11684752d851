"""Preference pairs as a hybrid reward reads them: whole, in the model's chat template, the states of all layers.

A stage that needs (pair, 2, layer, width) states renders its rows with `whole_pairs` and reads them with `pair_states`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from alignment.data.cells import BadRow
from alignment.data.columns import Loaded as LoadedRows
from alignment.models.activations import layer_count, response_states, states_layout
from alignment.models.devices import to_host
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing
from alignment.runs.batches import Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import Pooling


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
) -> dict[str, Tensor]:
    """(pair, 2, layer, width) float32 states of the chosen and rejected answers of each part, on every rank.

    work: where planned batches are kept, in a folder for each part.
    """
    every = [item for items in parts.values() for item in items]
    layout = states_layout(loaded.model, packing, loaded.tokenizer.pad_token_id, every, ranks.say)
    return {
        name: _read(name, items, loaded, layout, pooling, batch_tokens, work, ranks) for name, items in parts.items()
    }


def _read(
    name: str,
    pairs: list[Item],
    loaded: Loaded,
    layout: Layout,
    pooling: Pooling,
    batch_tokens: int,
    work: Path,
    ranks: Ranks,
) -> Tensor:
    layers = range(1, layer_count(loaded.model) + 1)

    def compute(batch: list[int]) -> Pending:
        items = [pairs[i] for i in batch]
        states, _ = response_states(loaded.model, layout, items, layers, pooling, loaded.end_ids)
        both = to_host(torch.stack(states.chunk(2), dim=1))
        return lambda: save({"states": both()})

    sizes = [layout.size(pair) for pair in pairs]
    batches = compute_in_batches(work / name, f"reading {name} pairs", sizes, batch_tokens, compute, ranks)
    states = torch.empty(len(pairs), 2, len(layers), loaded.model.config.get_text_config().hidden_size)
    for batch, content in batches:
        states[batch] = load(content)["states"]
    return states
