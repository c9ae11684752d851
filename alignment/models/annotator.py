"""A language model as annotator of preference pairs (Legend): its direction, and the margin of every pair along it.

The direction comes from the states of induced pairs, a refusal and the model's own answer (directions.py): their mean
difference (the standard margin vector, SMV), or a discriminant. The margin of a preference pair is the difference of
its answers' states, projected on it. Planned batches keep no more than that: the states of induced pairs, and of each
preference pair its margin, with what random directions would give it. With a fixed layer nothing above it is computed,
and the language-model head never is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from safetensors.torch import load, save

from alignment.data.cells import BadRow
from alignment.data.chat import Rendered
from alignment.maths.direction import random_direction, unit
from alignment.maths.margins import cosine_margin, distance_margin, signed_margin
from alignment.models.activations import check_layers, response_states, states_layout
from alignment.models.architecture import layer_count
from alignment.models.devices import to_device, to_host
from alignment.models.directions import DRAWN, Direction, SideStates, best_direction
from alignment.models.equal_lengths import equal_lengths
from alignment.models.kept_states import KeptStates, not_kept, taken_line, text_key
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing
from alignment.runs.batches import Finished, Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import DirectionKind, LayerChoice, Message, Pooling, PromptFormat, StageFailed, UserError

Pair = tuple[Rendered, Rendered]  # chosen and rejected, or positive and negative; labelled ones have a prompt each
RANDOM_DIRECTIONS = 20  # that margins are compared with, at the layer that was chosen


@dataclass(frozen=True)
class RawMargins:
    """The raw margin of each pair, and by how many tokens its chosen answer is longer.

    random: (pair, direction) what random directions give at the same layer. no_end, truncated: how many answers have no
    end token, or were cut off.
    """

    raw: np.ndarray
    random: np.ndarray
    length_difference: np.ndarray
    no_end: int
    truncated: int


@dataclass(frozen=True)
class Annotator:
    """The model, and how it reads pairs: induced and preference pairs alike.

    prompt: "chat" (the model's template) or "alpaca" (Legend's own format, with a joiner before the answer).
    work: where planned batches are kept until the stage is published. layout: how pairs become rows; see `laid_out`.
    kept: where the states of pairs are taken from that it has both answers of.
    """

    loaded: Loaded
    pooling: Pooling
    prompt: PromptFormat
    max_length: int
    batch_tokens: int
    work: Path
    ranks: Ranks
    layout: Layout | None = None
    kept: KeptStates | None = None

    def laid_out(self, packing: Packing, pairs: list[Pair]) -> "Annotator":
        """The same annotator with the layout in which it will read these pairs."""
        model, pad_id = self.loaded.model, self.loaded.tokenizer.pad_token_id
        layout = states_layout(model, packing, pad_id, _items(pairs), self.ranks)
        return replace(self, layout=layout)

    def render(self, row: dict, sides: tuple[str, str], joiner: str) -> Pair:
        """A row's prompt with both of its answers, as the model reads them; BadRow if an answer has no room.

        sides: the columns of the answers. A column of a side's own prompt stands for the row's.
        """
        format = self.loaded.format
        if row.get(f"{sides[1]}_prompt") is None:
            pair = self._written(row["prompt"], [row[side] for side in sides], joiner)
        else:
            prompts = row["prompt"], row[f"{sides[1]}_prompt"]
            pair = [
                *self._written(prompts[0], [row[sides[0]]], joiner),
                *self._written(prompts[1], [row[sides[1]]], joiner),
            ]
        for i, side in enumerate(sides):
            if not row.get(f"{side}_finished", True):
                pair[i] = format.without_end(pair[i], self.loaded.end_ids)
            if len(pair[i].ids) <= pair[i].prompt_length:
                raise BadRow(f"no token of its {side} answer fits into {self.max_length} tokens")
        return tuple(pair)

    def equally_long(self, pair: Pair) -> Pair:
        """The pair cut to the tokens of its shorter answer; BadRow if that has too few."""
        format = self.loaded.format
        return equal_lengths(pair, format, self.loaded.end_ids, format.ids_after if self.prompt == "chat" else [])

    def _written(self, prompt: list[Message], answers: list[list[Message]], joiner: str) -> list[Rendered]:
        if self.prompt == "chat":
            return self.loaded.format.render(prompt, answers, self.max_length)
        return self.loaded.format.render_alpaca(prompt, answers, joiner, self.max_length)

    def layers(self, layer: int | str, all_of_them: bool = False) -> list[int]:
        """The layers among which a direction's is chosen: the model's, the "last" one, or one by its number."""
        check_layers(self.loaded.model, self.loaded.tokenizer.eos_token_id)
        count = layer_count(self.loaded.model)
        if type(layer) is int and layer > count:
            raise UserError("annotator.layer", f"the model has {count} layers", f"give 1 to {count}")
        if all_of_them or layer in get_args(LayerChoice):
            return list(range(1, count + 1))
        return [count if layer == "last" else layer]

    def direction(self, kind: DirectionKind, layer: int | str, states: SideStates | None, seed: int) -> Direction:
        """The direction at a layer, at the "last" one, or where it separates the induced pairs best.

        states: of induced pairs, at these layers and maybe at others; None where the kind needs none.
        """
        layers = self.layers(layer)
        if kind in DRAWN:
            return best_direction(kind, states.at(layers), layer == "length_free")
        if kind == "random":
            width = self.loaded.model.config.get_text_config().hidden_size
            return Direction(kind, layers[0], random_direction(1, width, torch.Generator().manual_seed(seed))[0])
        return Direction(kind, layers[0])

    def margins(self, name: str, pairs: list[Pair], direction: Direction, seed: int) -> RawMargins:
        """The pairs' raw margins along a direction, in their order. name: of the planned batches."""
        model, generator = self.loaded.model, torch.Generator().manual_seed(seed + 1)  # a random direction has the seed
        width = model.config.get_text_config().hidden_size
        others = to_device(unit(random_direction(RANDOM_DIRECTIONS, width, generator)), model.device)

        left = not_kept(pairs, _keys, self.kept)
        if self.kept is not None:
            self.ranks.say(taken_line(f"{name} pairs", len(pairs), len(left)))
        unread = [pairs[i] for i in left]

        def compute(batch: list[int]) -> Pending:
            answers = [unread[i][side] for side in (0, 1) for i in batch]
            states, ended = self._states([unread[i] for i in batch], [direction.layer])
            chosen, rejected = states[:, 0].chunk(2)
            raw, random = to_host(_margin(direction, chosen, rejected)), to_host((chosen - rejected) @ others.T)
            facts = [(answer.truncated, len(answer.ids) - answer.prompt_length) for answer in answers]
            known = {"ended": ended.tolist(), "facts": facts}
            return lambda: json.dumps({"raw": raw().tolist(), "random": random().tolist(), **known}).encode()

        raw, length_difference = np.empty(len(pairs)), np.empty(len(pairs), dtype=int)
        random = np.empty((len(pairs), RANDOM_DIRECTIONS))
        no_end = truncated = 0
        for batch, content in self._in_batches(name, unread, compute):
            result = json.loads(content)
            truncated_answers, lengths = np.array(result["facts"]).T
            places = [left[i] for i in batch]
            raw[places], random[places] = result["raw"], result["random"]
            length_difference[places] = lengths[: len(batch)] - lengths[len(batch) :]
            no_end += result["ended"].count(False)
            truncated += int(truncated_answers.sum())
        for i in sorted(set(range(len(pairs))) - set(left)):
            raw[i], random[i], length_difference[i], ended = self._from_kept(pairs[i], direction, others.cpu())
            no_end += ended.count(False)
        if not np.isfinite(raw).all():
            raise StageFailed("margins", "some are not numbers", "set model.dtype=float32 if it is float16")
        return RawMargins(raw, random, length_difference, no_end, truncated)

    def _from_kept(
        self, pair: Pair, direction: Direction, others: torch.Tensor
    ) -> tuple[float, np.ndarray, int, list[bool]]:
        """A whole pair's raw margin, its margins along other directions, its difference of lengths, and whether its
        answers have an end token."""
        chosen, rejected = self.kept.states(_keys(pair), direction.layer).split(1)
        answers = [answer.ids[answer.prompt_length :].tolist() for answer in pair]
        ended = [not self.loaded.end_ids.isdisjoint(answer) for answer in answers]
        random = ((chosen - rejected) @ others.T)[0].numpy()
        return float(_margin(direction, chosen, rejected)), random, len(answers[0]) - len(answers[1]), ended

    def side_states(self, name: str, pairs: list[Pair], layers: list[int]) -> SideStates:
        """The states of both answers of the pairs at these layers. name: of the planned batches."""

        def compute(batch: list[int]) -> Pending:
            states = to_host(self._states([pairs[i] for i in batch], layers)[0])
            return lambda: save({"states": states()})

        positive, negative = torch.empty(
            2, len(pairs), len(layers), self.loaded.model.config.get_text_config().hidden_size
        )
        finished = self._in_batches(name, pairs, compute)
        for batch, content in finished:
            positive[batch], negative[batch] = load(content)["states"].chunk(2)
        lengths = torch.tensor([[len(answer.ids) - answer.prompt_length for answer in pair] for pair in pairs])
        return SideStates(layers, positive, negative, (lengths[:, 0] - lengths[:, 1]).float(), finished.batches)

    def _in_batches(self, name: str, pairs: list[Pair], compute: Callable[[list[int]], Pending]) -> Finished:
        """Computes the planned batches that are missing; both answers of a pair are in the same batch."""
        sizes = [sum(map(self.layout.size, _items([pair]))) for pair in pairs]
        what = f"reading {name} pairs"
        return compute_in_batches(self.work / name, what, sizes, self.batch_tokens, compute, self.ranks)

    def _states(self, pairs: list[Pair], layers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return response_states(self.loaded.model, self.layout, _items(pairs), layers, self.pooling, self.loaded.end_ids)


def _items(pairs: list[Pair]) -> list[Item]:
    """Pairs as the model reads them: their chosen answers are read first, then their rejected ones.

    Pairs whose answers have a prompt each, as labelled answers have, are two items each.
    """
    if all(_share_a_prompt(*pair) for pair in pairs):
        return [Item.of(pair) for pair in pairs]
    return [Item.of([pair[side]]) for side in (0, 1) for pair in pairs]


def _share_a_prompt(one: Rendered, other: Rendered) -> bool:
    start = min(one.prompt_length, other.prompt_length)
    return np.array_equal(one.ids[:start], other.ids[:start])


def _keys(pair: Pair) -> list[bytes]:
    return [text_key(answer.ids) for answer in pair]


def _margin(direction: Direction, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    if direction.kind == "distance":
        return distance_margin(chosen, rejected)
    if direction.kind == "cosine":
        return cosine_margin(chosen, rejected)
    return signed_margin(chosen, rejected, to_device(direction.vector, chosen.device))
