"""Intervals."""

from typing import NamedTuple

import numpy as np
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
