"""A language model as annotator of preference pairs (Legend): its direction, and the margin of every pair along it.

The direction is the standard margin vector (SMV): the mean difference between the states of the two answers of induced
pairs, a refusal and the model's own answer. The margin of a preference pair is the difference of its answers' states,
projected on it. Planned batches keep no more than that: a difference for each induced pair, a number for each
preference pair. With a fixed layer nothing above it is computed, and the language-model head never is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from alignment.data.cells import BadRow
from alignment.data.chat import Rendered
from alignment.maths.direction import StandardMarginVector, random_direction, separation
from alignment.maths.margins import cosine_margin, distance_margin, signed_margin
from alignment.models.activations import check_layers, layer_count, response_states, states_layout
from alignment.models.devices import to_host
from alignment.models.kept_states import KeptStates, not_kept, taken_line, text_key
from alignment.models.load import Loaded
from alignment.models.packing import Item, Layout, Packing
from alignment.runs.batches import Finished, Pending, compute_in_batches
from alignment.runs.ranks import Ranks
from alignment.types import DirectionKind, Pooling, PromptFormat, StageFailed, UserError

Pair = tuple[Rendered, Rendered]  # chosen and rejected, or positive and negative, to the same prompt


@dataclass(frozen=True)
class Direction:
    """A direction at one layer. The kinds "distance" and "cosine" compare states without one: they have no vector."""

    kind: DirectionKind
    layer: int
    vector: torch.Tensor | None = None
    separation_by_layer: dict[int, float] | None = None  # of held-out induced pairs, at the layers that were compared


@dataclass(frozen=True)
class RawMargins:
    """The raw margin of each pair and by how many tokens its chosen answer is longer.

    no_end, truncated: how many answers have no end token, or were cut off.
    """

    raw: np.ndarray
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
        layout = states_layout(model, packing, pad_id, [Item.of(pair) for pair in pairs], self.ranks.say)
        return replace(self, layout=layout)

    def render(self, row: dict, sides: tuple[str, str], joiner: str) -> Pair:
        """A row's prompt with both of its answers, as the model reads them; BadRow if an answer has no room.

        sides: the columns of the answers.
        """
        answers, format = [row[side] for side in sides], self.loaded.format
        if self.prompt == "chat":
            pair = format.render(row["prompt"], answers, self.max_length)
        else:
            pair = format.render_alpaca(row["prompt"], answers, joiner, self.max_length)
        for i, side in enumerate(sides):
            if not row.get(f"{side}_finished", True):
                pair[i] = format.without_end(pair[i], self.loaded.end_ids)
            if len(pair[i].ids) <= pair[i].prompt_length:
                raise BadRow(f"no token of its {side} answer fits into {self.max_length} tokens")
        return tuple(pair)

    def direction(self, kind: DirectionKind, layer: int | str, induced: list[Pair], seed: int) -> Direction:
        """The direction at a layer, at the "last" one, or ("auto") where it separates the induced pairs best."""
        check_layers(self.loaded.model, self.loaded.tokenizer.eos_token_id)
        count = layer_count(self.loaded.model)
        if type(layer) is int and layer > count:
            raise UserError("annotator.layer", f"the model has {count} layers", f"give 1 to {count}")
        layer = count if layer == "last" else layer
        width = self.loaded.model.config.get_text_config().hidden_size
        if kind in ("distance", "cosine"):
            return Direction(kind, layer)
        if kind == "random":
            return Direction(kind, layer, random_direction(1, width, torch.Generator().manual_seed(seed))[0])
        layers = list(range(1, count + 1)) if layer == "auto" else [layer]
        vectors, separations = self._standard_margin_vectors(induced, layers, width)
        if not (vectors.isfinite().all() and vectors.norm(dim=-1).all()):
            remedy = "look at the induced answers, and at model.dtype if it is float16"
            raise StageFailed("direction", "it is zero or not a number at some layer", remedy)
        best = max(range(len(layers)), key=lambda at: separations[at])
        return Direction(kind, layers[best], vectors[best], dict(zip(layers, separations, strict=True)))

    def margins(self, name: str, pairs: list[Pair], direction: Direction) -> RawMargins:
        """The pairs' raw margins along a direction, in their order. name: of the planned batches."""

        left = not_kept(pairs, _keys, self.kept)
        if self.kept is not None:
            self.ranks.say(taken_line(f"{name} pairs", len(pairs), len(left)))
        unread = [pairs[i] for i in left]

        def compute(batch: list[int]) -> Pending:
            answers = [unread[i][side] for side in (0, 1) for i in batch]
            states, ended = self._states([unread[i] for i in batch], [direction.layer])
            raw = to_host(_margin(direction, *states[:, 0].chunk(2)))
            facts = [(answer.truncated, len(answer.ids) - answer.prompt_length) for answer in answers]
            return lambda: json.dumps({"raw": raw().tolist(), "ended": ended.tolist(), "facts": facts}).encode()

        raw, length_difference = np.empty(len(pairs)), np.empty(len(pairs), dtype=int)
        no_end = truncated = 0
        for batch, content in self._in_batches(name, unread, compute):
            result = json.loads(content)
            truncated_answers, lengths = np.array(result["facts"]).T
            places = [left[i] for i in batch]
            raw[places] = result["raw"]
            length_difference[places] = lengths[: len(batch)] - lengths[len(batch) :]
            no_end += result["ended"].count(False)
            truncated += int(truncated_answers.sum())
        for i in sorted(set(range(len(pairs))) - set(left)):
            raw[i], length_difference[i], ended = self._from_kept(pairs[i], direction)
            no_end += ended.count(False)
        if not np.isfinite(raw).all():
            raise StageFailed("margins", "some are not numbers", "set model.dtype=float32 if it is float16")
        return RawMargins(raw, length_difference, no_end, truncated)

    def _from_kept(self, pair: Pair, direction: Direction) -> tuple[float, int, list[bool]]:
        """A whole pair's raw margin and difference of lengths, and whether its answers have an end token."""
        states = self.kept.states(_keys(pair), direction.layer)
        answers = [answer.ids[answer.prompt_length :].tolist() for answer in pair]
        ended = [not self.loaded.end_ids.isdisjoint(answer) for answer in answers]
        return float(_margin(direction, *states.split(1))), len(answers[0]) - len(answers[1]), ended

    def _standard_margin_vectors(
        self, induced: list[Pair], layers: list[int], width: int
    ) -> tuple[torch.Tensor, list[float]]:
        """For each layer: the SMV, and how well one of the other pairs separates held-out induced pairs."""

        def compute(batch: list[int]) -> Pending:
            positive, negative = self._states([induced[i] for i in batch], layers)[0].chunk(2)
            differences = to_host(positive - negative)
            return lambda: save({"differences": differences()})

        smv = StandardMarginVector(len(layers), width)
        batches = self._in_batches("induced", induced, compute)
        for batch, content in batches:
            smv.add(load(content)["differences"], batch)
        projections = [smv.heldout_projections(load(content)["differences"], batch) for batch, content in batches]
        return smv.vector.float(), separation(torch.cat(projections)).tolist()

    def _in_batches(self, name: str, pairs: list[Pair], compute: Callable[[list[int]], Pending]) -> Finished:
        """Computes the planned batches that are missing; both answers of a pair are in the same batch."""
        sizes = [self.layout.size(Item.of(pair)) for pair in pairs]
        what = f"reading {name} pairs"
        return compute_in_batches(self.work / name, what, sizes, self.batch_tokens, compute, self.ranks)

    def _states(self, pairs: list[Pair], layers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        items = [Item.of(pair) for pair in pairs]
        return response_states(self.loaded.model, self.layout, items, layers, self.pooling, self.loaded.end_ids)


def _keys(pair: Pair) -> list[bytes]:
    return [text_key(answer.ids) for answer in pair]


def _margin(direction: Direction, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    if direction.kind == "distance":
        return distance_margin(chosen, rejected)
    if direction.kind == "cosine":
        return cosine_margin(chosen, rejected)
    return signed_margin(chosen, rejected, direction.vector.to(chosen.device))
