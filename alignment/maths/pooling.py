"""Where an answer's hidden state is read: the one definition of "response end", for annotation, reward and trainer.

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


class Spans(NamedTuple):
    """Positions start <= i < stop of each row, and whether the row had an end token at all."""

    start: Int[Tensor, " row"]
    stop: Int[Tensor, " row"]
    ended: Bool[Tensor, " row"]


def find_spans(
    ids: Int[Tensor, "row token"],
    completion: Bool[Tensor, "row token"],
    end_ids: Collection[int],
    pooling: Pooling = "endpoint",
) -> Spans:
    """The span to read in each row; every row needs at least one completion token, wherever its padding is."""
    if not completion.any(dim=1).all():
        raise ValueError("a row without completion tokens has no response end")
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    ends = completion & torch.isin(ids, torch.tensor(sorted(end_ids), device=ids.device, dtype=ids.dtype))
    ended = ends.any(dim=1)
    last_completion = positions.masked_fill(~completion, -1).amax(dim=1)
    last_end = positions.masked_fill(~ends, -1).amax(dim=1)
    endpoint = torch.where(ended, last_end, last_completion)
    if pooling == "mean":
        first_completion = positions.masked_fill(~completion, ids.shape[1]).amin(dim=1)
        return Spans(first_completion, last_completion + 1, ended)
    if pooling == "last_text":
        endpoint = torch.where(ended, last_end - 1, last_completion)
    return Spans(endpoint, endpoint + 1, ended)


def pool(hidden: Float[Tensor, "row token width"], spans: Spans) -> Float[Tensor, "row width"]:
    """The mean state over each row's span; positions outside it are never touched."""
    if bool((spans.stop - spans.start == 1).all()):
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), spans.start]
    return torch.stack([row[start:stop].mean(dim=0) for row, start, stop in zip(hidden, *spans[:2], strict=True)])
