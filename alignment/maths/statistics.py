"""Intervals."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student


class Interval(NamedTuple):
    """A mean with its 95% interval (None: a single value has none)."""

    mean: float
    low: float | None
    high: float | None


def t_interval(values: list[float]) -> Interval:
    """Student's t over independent values (runs with different seeds): mean -+ t * s / sqrt(n)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def rate_interval(shares: Float[np.ndarray, " prompt"]) -> Interval:
    """Wilson's interval of a rate, the mean of independent shares in [0, 1] (of one prompt's answers, say).

    Shares vary less than zeros and ones would: they count as the number of those that has the mean's variance. So the
    interval stays within [0, 1], and a rate of 0 over few prompts isn't taken for certain.
    """
    count, rate = len(shares), float(shares.mean())
    variance = float(shares.var()) / count
    if variance > 0:
        count = rate * (1 - rate) / variance
    z = float(norm.ppf(0.975))
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))
