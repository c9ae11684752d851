"""How far the policy has moved from the reference on a batch of pairs, by the tokens of the pairs' own answers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.models.completions import by_answer


@dataclass(frozen=True)
class Moved:
    """Of every answer, the chosen ones first, the log-ratio log policy - log reference and the number of tokens.

    reference: of every answer, its log-probability under the reference.
    squares: of every pair, the sum over both answers' tokens of the squared log-ratio of a token; None where the
    reference is known by whole answers alone.
    """

    log_ratios: Tensor
    tokens: Tensor
    reference: Tensor
    squares: Tensor | None


def moved_by(
    log_ratios: Tensor, whole: Tensor, policy: Tensor, reference: Tensor | None, batch: Mapping[str, Tensor]
) -> Moved:
    """log_ratios, whole: of every answer, the latter of the reference; policy, reference: of every token of them."""
    policy = policy.detach()
    squares = None
    if reference is not None:
        squares = torch.stack(by_answer((policy - reference) ** 2, batch).chunk(2)).sum(dim=0)
    return Moved(log_ratios.detach(), by_answer(torch.ones_like(policy), batch), whole, squares)
