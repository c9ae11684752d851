"""Intervals of means and of ratios over seeds, and of rates."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student


class Interval(NamedTuple):
    """A mean with its 95% interval; None where there is none, as of a single value."""

    mean: float
    low: float | None
    high: float | None

    @property
    def summary(self) -> dict:
        """The interval as reports keep it."""
        return {"mean": self.mean, "ci95": [self.low, self.high]}


def t_interval(values: list[float]) -> Interval:
    """Student's t interval over independent values (runs with different seeds): mean -+ t * s / sqrt(n)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(ours: list[float], theirs: list[float]) -> Interval:
    """mean(ours) / mean(theirs), paired: the ratios rho for which mean(ours - rho theirs) may be 0 (Fieller 1954).

    A mean of ratios would be ruled by the runs in which theirs is small. There is no interval where theirs isn't known
    to be above 0.
    """
    means = float(np.mean(ours)), float(np.mean(theirs))
    ratio = means[0] / means[1]
    if len(ours) < 2:
        return Interval(ratio, None, None)
    square = student.ppf(0.975, len(ours) - 1) ** 2 / len(ours)
    (own, both), (_, other) = square * np.cov(ours, theirs)
    # t^2 s^2(ours - rho theirs) / n >= mean(ours - rho theirs)^2, a quadratic in rho
    a, b, c = means[1] ** 2 - other, means[0] * means[1] - both, means[0] ** 2 - own
    if a <= 0:
        return Interval(ratio, None, None)
    root = np.sqrt(max(b * b - a * c, 0.0))  # below 0 by rounding alone: the ratio itself is inside
    return Interval(ratio, float((b - root) / a), float((b + root) / a))


def rate_interval(shares: Float[np.ndarray, " prompt"]) -> Interval:
    """A rate as the mean of independent shares in [0, 1], each of one prompt's answers, say.

    It is the normal interval with two hits and two misses added (Agresti and Coull 1998): a rate of 0 over few prompts
    is not certain.
    """
    added = np.concatenate([shares, [0.0, 0.0, 1.0, 1.0]])
    half = float(norm.ppf(0.975) * added.std() / np.sqrt(len(added)))
    middle = float(added.mean())
    return Interval(float(shares.mean()), max(0.0, middle - half), min(1.0, middle + half))
