"""How well scores tell two kinds of answers apart, one by one: under weights, as draws of a bootstrap give them.

A row of weights says how often each answer was drawn; equal scores are told apart by no threshold.
"""

import numpy as np
from jaxtyping import Bool, Float

Scores = Float[np.ndarray, " answer"]
Drawn = Float[np.ndarray, "draw answer"]


def auroc(scores: Scores, positive: Bool[np.ndarray, " answer"], weights: Drawn) -> Float[np.ndarray, " draw"]:
    """How often a positive answer scores higher than a negative one, a tie counting half; NaN where a kind is missing.

    It is the area under the ROC curve.
    """
    above, below = _by_score(scores, positive, weights)
    lower = np.cumsum(below, axis=1) - below
    right = (above * (lower + below / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return right / (above.sum(axis=1) * below.sum(axis=1))


def true_positive_rate(
    scores: Scores, positive: Bool[np.ndarray, " answer"], weights: Drawn, most_false: float = 0.01
) -> Float[np.ndarray, " draw"]:
    """The share of positive answers that the lowest threshold finds that lets through so few of the negative ones."""
    above, below = _by_score(scores, positive, weights)
    false = np.cumsum(below[:, ::-1], axis=1)[:, ::-1]  # negative answers at this score or higher
    found = np.cumsum(above[:, ::-1], axis=1)[:, ::-1]
    allowed = false <= most_false * below.sum(axis=1, keepdims=True) + 1e-9
    with np.errstate(invalid="ignore"):
        return np.where(allowed, found, 0).max(axis=1) / above.sum(axis=1)


def _by_score(
    scores: Scores, positive: Bool[np.ndarray, " answer"], weights: Drawn
) -> tuple[Float[np.ndarray, "draw score"], Float[np.ndarray, "draw score"]]:
    """The weight of positive and of negative answers at every score that occurs, the lowest first."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    drawn, kind = weights[:, order], positive[order]
    return np.add.reduceat(drawn * kind, starts, axis=1), np.add.reduceat(drawn * ~kind, starts, axis=1)
