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
    """The span to read of each answer; every answer needs at least one token. On a device nothing waits for it."""
    row, start, stop = answers
    on_host = ids.device.type == "cpu"
    if on_host and not (start < stop).all():
        raise ValueError("an answer without tokens has no end")
    tokens = ids[row]
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(tokens)
    inside = (positions >= start[:, None]) & (positions < stop[:, None])
    is_end = torch.zeros_like(inside)
    for end in end_ids:
        is_end |= tokens == end
    ends = inside & is_end
    ended = ends.any(dim=1)
    last_end = positions.masked_fill(~ends, -1).amax(dim=1)
    if pooling == "mean":
        return Spans(row, start, stop, ended, on_host and bool((stop - start == 1).all()))
    endpoint = torch.where(ended, last_end - int(pooling == "last_text"), stop - 1)
    return Spans(row, endpoint, endpoint + 1, ended, single=True)


def pool(hidden: Float[Tensor, "row token width"], spans: Spans) -> Float[Tensor, "answer width"]:
    """The mean state over each answer's span; what stands outside it is in no sum.

    Spans of several tokens are slices where the host knows them. Where a device alone does, a slice would wait for it.
    """
    if spans.single:
        return hidden[spans.row, spans.start]
    if spans.row.device.type == "cpu":
        places = zip(*(part.tolist() for part in spans[:3]), strict=True)
        return torch.stack([hidden[row, start:stop].mean(dim=0) for row, start, stop in places])
    positions, means = torch.arange(hidden.shape[1], device=hidden.device), []
    for row, start, stop in zip(*(part.split(1) for part in spans[:3]), strict=True):
        outside = (positions < start) | (positions >= stop)
        total = hidden[row][0].masked_fill(outside[:, None], 0.0).sum(dim=0, dtype=torch.float32)
        means.append((total / (stop - start)).to(hidden.dtype))
    return torch.stack(means)
