"""Where an answer's hidden state is read: the one definition of its end, for annotation, reward and trainer.

A pooling is a span of token positions whose states are averaged:
    endpoint   the last completion token that ends a turn (end-of-text, the template's end of turn); without one, as in
               a truncated row, the last completion token
    last_text  the token before that (Legend reads the last token of the answer, no end token appended)
    mean       all completion tokens
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.types import Pooling


class Answers(NamedTuple):
    """Where answers stand in a batch of rows: at positions start <= i < stop of a row, which may hold several."""

    row: Int[Tensor, " answer"]
    start: Int[Tensor, " answer"]
    stop: Int[Tensor, " answer"]


class Spans(NamedTuple):
    """The span of each answer that is read. ended: has the answer an end token? single: is every span one position?"""

    row: Int[Tensor, " answer"]
    start: Int[Tensor, " answer"]
    stop: Int[Tensor, " answer"]
    ended: Bool[Tensor, " answer"]
    single: bool


def find_spans(
    ids: Int[Tensor, "row token"], answers: Answers, end_ids: Collection[int], pooling: Pooling = "endpoint"
) -> Spans:
    """The span to read of each answer; every answer needs at least one token."""
    row, start, stop = answers
    if not (start < stop).all():
        raise ValueError("an answer without tokens has no end")
    tokens = ids[row]
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(tokens)
    inside = (positions >= start[:, None]) & (positions < stop[:, None])
    ends = inside & torch.isin(tokens, torch.tensor(sorted(end_ids), device=ids.device, dtype=ids.dtype))
    ended = ends.any(dim=1)
    last_end = positions.masked_fill(~ends, -1).amax(dim=1)
    if pooling == "mean":
        return Spans(row, start, stop, ended, bool((stop - start == 1).all()))
    endpoint = torch.where(ended, last_end - int(pooling == "last_text"), stop - 1)
    return Spans(row, endpoint, endpoint + 1, ended, single=True)


def pool(hidden: Float[Tensor, "row token width"], spans: Spans) -> Float[Tensor, "answer width"]:
    """The mean state over each answer's span; positions outside it are never touched."""
    if spans.single:
        return hidden[spans.row, spans.start]
    means = [hidden[row, start:stop].mean(dim=0) for row, start, stop in zip(*spans[:3], strict=True)]
    return torch.stack(means)
