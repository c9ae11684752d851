"""How sure a preference is: its confidence gamma (confidence DPO, arXiv 2503.10093, eq. 8), and how good gamma is.

R_c and R_r are the rewards of the chosen and the rejected answer, sigma is the logistic function.

paper       gamma = sigma(alpha (R_c - R_r)), alpha = 7.5, pair by pair
released    c = mean sigma(R_c) - 1/2, r = mean sigma(R_r) - 1/2 over a micro-batch;
            gamma = max(sigma(alpha (c - r)), 1/2), one value for all its pairs
calibrated  the paper's formula with the alpha that fits best on pairs the reward wasn't fitted on (ours)
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

ALPHA = 7.5  # the paper's appendix A.3
LARGEST = 20.0  # the largest mean |alpha gap|: where all pairs are ordered right, every larger alpha fits better
SATURATED = 0.01  # a confidence this near to 0 or 1 hardly tells its pair from others


def paper_confidence(
    chosen: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"], alpha: float = ALPHA
) -> Float[Tensor, " pair"]:
    """gamma = sigma(alpha (R_c - R_r)); the confidences of a pair and of the same pair turned round add up to 1."""
    return torch.sigmoid(alpha * (chosen - rejected))


def released_means(chosen: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"]) -> Float[Tensor, "3"]:
    """The sums over a rank's pairs that the released confidence needs; add them up over the ranks of a micro-batch."""
    halves = torch.stack([torch.sigmoid(rewards) - 0.5 for rewards in (chosen, rejected)]).sum(dim=1)
    return torch.cat([halves, halves.new_tensor([len(chosen)])])


def released_confidence(sums: Float[Tensor, "3"], alpha: float = ALPHA) -> Float[Tensor, ""]:
    """One confidence for all the pairs that `released_means` summed up; 1/2 if there are none."""
    gap = (sums[0] - sums[1]) / sums[2].clamp_min(1)
    return torch.sigmoid(alpha * gap).clamp_min(0.5)


class Temperature(NamedTuple):
    """alpha, and whether it is the largest allowed because any larger one would fit better."""

    alpha: float
    capped: bool


def fit_temperature(gaps: Float[Tensor, " pair"], margin: float = 0.0) -> Temperature:
    """The alpha >= 0 with the largest mean log sigma(alpha gap - margin): concave, found by bisection of its slope.

    alpha is 0 where the gaps don't point the right way on average, so that every gamma is 1/2.
    """
    if gaps.sum() <= 0:  # the sign of the slope at 0
        return Temperature(0.0, False)
    largest = LARGEST / float(gaps.abs().mean())
    low, high, alpha = 0.0, largest, largest
    for _ in range(61):
        rises = float((gaps * torch.sigmoid(margin - alpha * gaps)).sum()) > 0
        if rises and alpha == largest:
            return Temperature(largest, True)
        low, high = (alpha, high) if rises else (low, alpha)
        alpha = (low + high) / 2
    return Temperature(alpha, False)


def calibrated_loss(gaps: Float[Tensor, " pair"]) -> float:
    """Mean -log gamma at the best alpha: how well gaps order pairs, whatever their scale. log 2: not at all."""
    return float(-logsigmoid(fit_temperature(gaps).alpha * gaps).mean())


def calibration_error(confidence: Float[Tensor, " pair"], agrees: Float[Tensor, " pair"], bins: int = 10) -> float:
    """Expected calibration error: |mean confidence - share that agrees|, averaged over bins by their pairs.

    The event is "the label agrees with the side the reward takes", and its confidence is max(gamma, 1 - gamma), taken
    here. agrees is 1, 0, or 1/2 for a tie. "The label is right" would be no event, since every pair has its chosen
    answer first. The bins have equal width, from 1/2 to 1.
    """
    side = torch.maximum(confidence, 1 - confidence)
    bin_number = ((side - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    total = torch.zeros(bins, dtype=side.dtype).index_add_(0, bin_number, side - agrees.to(side.dtype))
    return float(total.abs().sum() / len(side))


def saturated(confidence: Float[Tensor, " pair"]) -> Bool[Tensor, " pair"]:
    """Which confidences are within SATURATED of 0 or 1."""
    return (confidence < SATURATED) | (confidence > 1 - SATURATED)


def saturated_share(confidence: Float[Tensor, " pair"]) -> float:
    """The share of confidences within SATURATED of 0 or 1."""
    return float(saturated(confidence).double().mean())
