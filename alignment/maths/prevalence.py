"""A rate that a judge found, corrected for the judge's errors (Rogan and Gladen 1978), and a difference likewise.

    rate         (raw + specificity - 1) / J    J = sensitivity + specificity - 1, Youden's index
    difference   raw / J                        of two systems that the same judge judged

Sensitivity and specificity are known from labelled answers, as few as there are. So an interval is that of 2,000 draws:
each draws the prompts of the judged answers anew and those of the labelled ones, all answers to a prompt together.
Where all prompts agree, as of a judge that missed nothing, a resample would never differ: there as large a share of
what wasn't seen is drawn as Wilson's interval allows for none in as many (maths/statistics.py).
"""

from math import log

import numpy as np
from jaxtyping import Bool, Float, Int

from alignment.maths.statistics import LEVELS, RESAMPLES, Interval, of_draws, wilson_interval

_SAME = 1e-12  # values that are no further apart agree, rounding aside
NEARLY_ALL = 0.95
_LEAST = 1e-9  # of J in a draw where the judge knows nothing, which sends the rate to an end


def counted_by_prompt(
    said: Bool[np.ndarray, " answer"], true: Bool[np.ndarray, " answer"], prompts: Int[np.ndarray, " answer"]
) -> list[list[int]]:
    """What a judge said of labelled answers, as `Errors` takes it: a row for all prompts that are alike.

    It has the number of these prompts; of the answers to each how many have what the judge looks for, and how many of
    these it found; how many don't have it, and how many of these it cleared.
    """
    place = np.unique(prompts, return_inverse=True)[1]
    columns = [np.bincount(place, weights=one) for one in (true, true & said, ~true, ~true & ~said)]
    kinds, alike = np.unique(np.array(columns, dtype=int), axis=1, return_counts=True)
    return [[int(count), *map(int, kind)] for kind, count in zip(kinds.T, alike, strict=True)]


class Errors:
    """Sensitivity and specificity of a judge, Youden's J, and draws of them. table: of counted_by_prompt.

    A figure without a labelled answer to know it from is None, and J then, too. The interval of J is None where one of
    the two comes from a single prompt.
    """

    def __init__(self, table: list[list[int]], generator: np.random.Generator) -> None:
        alike, kinds = np.array(table)[:, 0], np.array(table, dtype=float)[:, 1:]
        hits, answers = kinds[:, [1, 3]], kinds[:, [0, 2]]
        self.counts = [int(count) for count in alike @ answers]
        self.sensitivity, self.specificity, self.youden = None, None, None
        if not all(self.counts):
            return
        means, self.draws = _means(hits, answers, alike, generator, (0.0, 1.0))
        self.sensitivity, self.specificity = (
            wilson_interval(float(alike @ hits[:, i]), self.counts[i])
            if answers[:, i].max() == 1
            else of_draws(float(means[i]), self.draws[:, i])
            for i in range(2)
        )
        self.youden = of_draws(float(means.sum() - 1), self.draws.sum(axis=1) - 1)

    @property
    def informative(self) -> bool:
        """Is J clearly above 0, so that what the judge says tells something of the rate?"""
        return self.youden is not None and self.youden.low is not None and self.youden.low > 0


def corrected_rate(
    values: Float[np.ndarray, " answer"],
    prompts: Int[np.ndarray, " answer"],
    errors: Errors,
    generator: np.random.Generator,
) -> Interval | None:
    """The rate that there is behind what an informative judge said, between 0 and 1.

    values: what it said of each answer, 1 or 0, or a share of such. None if these errors hardly explain so low or high
    a raw rate: then they may not be those that the judge makes here.
    """
    raw, draws = _mean(values, prompts, generator, (0.0, 1.0))
    false = 1 - errors.specificity.mean
    rate = (raw - false) / errors.youden.mean
    return _between(rate, _divided(draws - (1 - errors.draws[:, 1]), errors), (0.0, 1.0))


def corrected_difference(
    before: Float[np.ndarray, " answer"],
    after: Float[np.ndarray, " answer"],
    prompts: Int[np.ndarray, " answer"],
    errors: Errors,
    generator: np.random.Generator,
) -> Interval | None:
    """The mean difference of answers to the same prompts likewise, between -1 and 1: false alarms cancel out.

    The judge's errors are the same on both sides, and so are their draws.
    """
    raw, draws = _mean(after - before, prompts, generator, (-1.0, 1.0))
    return _between(raw / errors.youden.mean, _divided(draws, errors), (-1.0, 1.0))


def _divided(draws: Float[np.ndarray, " draw"], errors: Errors) -> Float[np.ndarray, " draw"]:
    return draws / np.maximum(errors.draws.sum(axis=1) - 1, _LEAST)


def _between(value: float, draws: Float[np.ndarray, " draw"], ends: tuple[float, float]) -> Interval | None:
    """The corrected figure, clipped; None where nearly all draws lie beyond an end: it would feign certainty."""
    interval = of_draws(value, draws)
    if interval.low is None:
        return Interval(float(np.clip(value, *ends)), None, None)
    if max(np.mean(draws < ends[0]), np.mean(draws > ends[1])) > NEARLY_ALL:
        return None
    return Interval(*(float(np.clip(one, *ends)) for one in interval))


# ---- draws over prompts ---------------------------------------------------------------------------------------------


def _mean(
    values: Float[np.ndarray, " answer"],
    prompts: Int[np.ndarray, " answer"],
    generator: np.random.Generator,
    ends: tuple[float, float],
) -> tuple[float, Float[np.ndarray, " draw"]]:
    """The mean of answers, and its draws."""
    place = np.unique(prompts, return_inverse=True)[1]
    each = np.array([np.bincount(place, weights=values), np.bincount(place)], dtype=float)
    kinds, alike = np.unique(each, axis=1, return_counts=True)
    means, draws = _means(kinds[:1].T, kinds[1:].T, alike, generator, ends)
    return float(means[0]), draws[:, 0]


def _means(
    sums: Float[np.ndarray, "kind figure"],
    counts: Float[np.ndarray, "kind figure"],
    alike: Int[np.ndarray, " kind"],
    generator: np.random.Generator,
    ends: tuple[float, float],
) -> tuple[Float[np.ndarray, " figure"], Float[np.ndarray, "draw figure"]]:
    """Means over all answers, and their draws, the same prompts in all of them.

    sums, counts: of the answers to a prompt of each kind. alike: how many prompts are of that kind.
    """
    drawn = generator.multinomial(alike.sum(), alike / alike.sum(), RESAMPLES)
    means = (alike @ sums) / (alike @ counts)
    with np.errstate(invalid="ignore"):  # a draw may have no answer that a figure is of
        draws = (drawn @ sums) / (drawn @ counts)
    for i, mean in enumerate(means):
        has = counts[:, i] > 0
        if np.ptp(sums[has, i] / counts[has, i]) < _SAME:
            draws[:, i] = _agreed(float(mean), int(alike[has].sum()), generator, ends)
    return means, draws


def _agreed(
    value: float, count: int, generator: np.random.Generator, ends: tuple[float, float]
) -> Float[np.ndarray, " draw"]:
    """Draws of a mean whose `count` prompts all agree; their percentiles are its interval in maths/statistics.py.

    The share that is elsewhere, at an end drawn by a coin, passes Wilson's limit u for none in `count` in as many draws
    as its interval leaves out at that end: (1 - share)^k > 1 - u, with k so.
    """
    if count < 2:
        return np.full(RESAMPLES, np.nan)
    others = [end for end in ends if abs(end - value) > _SAME]
    unseen = wilson_interval(0, count).high
    power = log(LEVELS[0] * len(others)) / log(1 - unseen)
    share = 1 - generator.uniform(size=RESAMPLES) ** (1 / power)
    return value + share * (np.array(others)[generator.integers(len(others), size=RESAMPLES)] - value)
