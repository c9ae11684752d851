"""All intervals, 95% each, by the kind of figure; docs/numbers.md says which figure has which, and why.

    rates of independent answers or pairs      wilson_interval; rate_interval picks between it and the next
    rates of answers that share prompts        prompt_interval, a bootstrap over prompts
    differences of answers to the same prompts paired_difference (maths/paired.py), the same from -1 to 1
    rates over seeds of training               rate_over_seeds, Student's t on the logit
    their differences, paired by seed          difference_over_seeds, the same on the inverse hyperbolic tangent
    their ratios, paired by seed               ratio_interval, the same on the logarithm
    figures without ends, over prompts         t_interval, Student's t
    other statistics of rows that share prompts  bootstrap

None is clipped, and none passes the ends of what it is an interval of. A single value has none. Where all values agree,
nothing is known of how they vary: a rate then has what Wilson's interval says of that many, any other figure has none.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, logit, ndtri, stdtrit  # scipy.stats takes a quarter of a second to import

RESAMPLES = 2000
LEVELS = (0.025, 0.975)
AT_ONCE = 2**22  # how many weights of resampled prompts are held in memory
_SAME = 1e-12  # values that are no further apart agree, rounding aside


class Interval(NamedTuple):
    """A mean with its 95% interval; None where there is none, as of a single value."""

    mean: float
    low: float | None
    high: float | None

    @property
    def summary(self) -> dict:
        """The interval as reports keep it."""
        return {"mean": self.mean, "ci95": [self.low, self.high]}


def wilson_interval(hits: int | float, count: int) -> Interval:
    """The rate of hits among independent answers, with the rates that a score test doesn't refuse (Wilson 1927).

    hits: a tie is half a hit.
    """
    share = float(hits / count)
    if count < 2:
        return Interval(share, None, None)
    z = float(ndtri(LEVELS[1]))
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = (middle - half) / scale, (middle + half) / scale
    return Interval(share, low if hits else 0.0, high if hits < count else 1.0)  # 0 and 1 but for rounding


def rate_interval(
    values: Float[np.ndarray, " answer"], prompts: Int[np.ndarray, " answer"], generator: np.random.Generator
) -> Interval:
    """A rate of answers (0, 1, or a half for a tie): Wilson's interval if no prompt has two, else over prompts."""
    if len(np.unique(prompts)) == len(values):
        return wilson_interval(float(values.sum()), len(values))
    return prompt_interval(values, prompts, generator, (0.0, 1.0))


def prompt_interval(
    values: Float[np.ndarray, " answer"],
    prompts: Int[np.ndarray, " answer"],
    generator: np.random.Generator,
    ends: tuple[float, float] | None,
) -> Interval:
    """The mean of answers, with a percentile bootstrap over prompts: answers to one are alike, and drawn together.

    ends: between which the values lie; None if there are no such ends.
    """
    place = np.unique(prompts, return_inverse=True)[1]
    sums, counts = np.bincount(place, weights=values), np.bincount(place).astype(float)
    return prompt_intervals(sums[:, None], counts[:, None], generator, ends)[0]


def prompt_intervals(
    sums: Float[np.ndarray, "prompt figure"],
    counts: Float[np.ndarray, "prompt figure"],
    generator: np.random.Generator,
    ends: tuple[float, float] | None,
) -> list[Interval]:
    """Several such means of the same prompts: of the values of each prompt their sum, and how many there are."""
    prompts = len(sums)
    draws: list[np.ndarray] = []
    most = max(1, AT_ONCE // prompts)
    even = np.full(prompts, 1 / prompts)
    for start in range(0, RESAMPLES if prompts > 1 else 0, most):
        drawn = generator.multinomial(prompts, even, min(most, RESAMPLES - start))
        with np.errstate(invalid="ignore"):  # a draw may have no value of a figure
            draws.append((drawn @ sums) / (drawn @ counts))
    intervals = []
    for figure, (total, count) in enumerate(zip(sums.T, counts.T, strict=True)):
        has, mean = count > 0, float(total.sum() / count.sum())
        if has.sum() < 2 or np.ptp(total[has] / count[has]) < _SAME:
            intervals.append(_agreed(mean, int(has.sum()), ends))
        else:
            drawn = np.concatenate([draw[:, figure] for draw in draws])
            intervals.append(Interval(mean, *map(float, np.nanquantile(drawn, LEVELS))))
    return intervals


def _agreed(value: float, count: int, ends: tuple[float, float] | None) -> Interval:
    """The interval of `count` values that are all the same, somewhere between two ends.

    Of the values not seen, as large a share may be elsewhere as Wilson's interval allows for none in `count`; they may
    all be at the one end or at the other. For a rate of 0 or 1 that is Wilson's own interval.
    """
    if count < 2 or ends is None:
        return Interval(value, None, None)
    unseen = wilson_interval(0, count).high
    low, high = ((1 - unseen) * value + unseen * end for end in ends)
    return Interval(value, low, high)


def rate_over_seeds(values: list[float], count: int | None) -> Interval:
    """Student's t, on the logit, of a rate's mean over seeds: logit(mean) -+ t * s / sqrt(n) / (mean * (1 - mean)).

    The logit is taken of the mean and not of every seed's rate, so that a seed of 0 or 1 is like any other, and the
    mean is always inside. count: of answers with a seed; where all seeds agree, they are what is left to go by, and the
    interval is Wilson's of one seed.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None)
    if np.ptp(values) < _SAME:
        return wilson_interval(mean * count, count) if count else Interval(mean, None, None)
    half = _half(values) / (mean * (1 - mean))
    return Interval(mean, float(expit(logit(mean) - half)), float(expit(logit(mean) + half)))


def difference_over_seeds(values: list[float]) -> Interval:
    """Student's t of a difference of rates over seeds, on the scale whose ends are -1 and 1 (Fisher's z).

    By the delta method, as of a rate: atanh(mean) -+ t * s / sqrt(n) / (1 - mean^2). Of differences of a few percent it
    is the plain interval to the digit that tables show.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) < _SAME:
        return Interval(mean, None, None)
    half = _half(values) / (1 - mean * mean)
    return Interval(mean, float(np.tanh(np.arctanh(mean) - half)), float(np.tanh(np.arctanh(mean) + half)))


def t_interval(values: list[float]) -> Interval:
    """Student's t interval over independent values, of no known ends: mean -+ t * s / sqrt(n)."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) < _SAME:
        return Interval(mean, None, None)
    half = _half(values)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(ours: list[float], theirs: list[float]) -> Interval:
    """mean(ours) / mean(theirs) of rates, paired: Student's t on the logarithm, whose ends are those of a ratio, 0 and
    infinity.

    The delta method carries the error of the difference ours - ratio * theirs, whose mean is 0, to the logarithm:
    log(ratio) -+ t * s / sqrt(n) / mean(ours). A mean of ratios would be ruled by the runs in which theirs is small.
    There is no interval where that difference is the same in all runs, nor where ours is always 0.
    """
    own, other = np.array(ours), np.array(theirs)
    ratio = float(own.mean() / other.mean())
    differences = own - ratio * other
    if len(ours) < 2 or ratio == 0 or np.ptp(differences) < _SAME:
        return Interval(ratio, None, None)
    half = _half(differences) / own.mean()
    return Interval(ratio, float(ratio * np.exp(-half)), float(ratio * np.exp(half)))


def _half(values: Sequence[float] | Float[np.ndarray, " value"]) -> float:
    """Half of the width of Student's t interval of a mean: t * s / sqrt(n)."""
    return float(stdtrit(len(values) - 1, LEVELS[1]) * np.std(values, ddof=1) / np.sqrt(len(values)))


def bootstrap(
    statistics: Callable[[Int[np.ndarray, " drawn"]], dict[str, float | None]],
    clusters: Int[np.ndarray, " row"],
    generator: np.random.Generator,
    draws: int = 1000,
) -> dict[str, Interval | None]:
    """Each statistic of all rows, with a percentile interval over whole clusters drawn with replacement.

    Rows of a cluster (answers to one prompt) are no independent evidence. A statistic may be None: where it is so of a
    draw, the draw is left out of its interval; where it is so of all rows, the result is None.
    """
    order = np.argsort(clusters, kind="stable")
    sizes = np.unique(clusters, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    values: dict[str, list[float]] = {}
    for _ in range(draws):
        chosen = generator.integers(len(sizes), size=len(sizes))
        lengths = sizes[chosen]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + np.repeat(starts[chosen], lengths)
        for name, value in statistics(order[places]).items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {
        name: None if value is None else of_draws(value, values.get(name, []))
        for name, value in statistics(np.arange(len(clusters))).items()
    }


def of_draws(value: float, drawn: Sequence[float] | Float[np.ndarray, " draw"]) -> Interval:
    """A statistic of all rows with the percentile interval of its values in draws; those that are NaN are left out."""
    known = np.asarray(drawn, dtype=float)
    known = known[~np.isnan(known)]
    if len(known) < 2 or np.ptp(known) < _SAME:
        return Interval(value, None, None)
    return Interval(value, *map(float, np.quantile(known, LEVELS)))
