"""Two models on the same prompts, before and after: how much they differ, and how sure that is."""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest

from alignment.maths.statistics import Interval

RESAMPLES = 2000
_AT_ONCE = 2**22  # how many weights of resampled prompts are held in memory


def wilson_interval(hits: int, count: int) -> Interval:
    """The rate of hits among independent answers, with the rates that a score test doesn't refuse (Wilson 1927)."""
    ends = binomtest(hits, count).proportion_ci(method="wilson")
    return Interval(hits / count, float(ends.low), float(ends.high))


def mcnemar(only_before: int, only_after: int) -> float:
    """The exact two-sided p-value of the hypothesis that changes go either way equally often (McNemar 1947).

    Prompts on which both models agree say nothing; each of the others is a fair coin under the hypothesis.
    """
    changed = only_before + only_after
    return float(binomtest(only_before, changed).pvalue) if changed else 1.0


def paired_difference(
    before: Float[np.ndarray, " answer"],
    after: Float[np.ndarray, " answer"],
    prompts: Int[np.ndarray, " answer"],
    generator: np.random.Generator,
) -> Interval:
    """mean(after - before), and its percentile bootstrap interval over prompts.

    prompts: the number of each answer's prompt. All answers to a prompt are drawn together, since they are alike. Where
    no answer differs, the interval is [0, 0]: the bootstrap knows nothing but the sample.
    """
    numbers, place = np.unique(prompts, return_inverse=True)
    sums = np.bincount(place, weights=after - before)
    counts = np.bincount(place).astype(float)
    means = []
    most = max(1, _AT_ONCE // len(numbers))
    for start in range(0, RESAMPLES, most):
        drawn = generator.multinomial(
            len(numbers), np.full(len(numbers), 1 / len(numbers)), min(most, RESAMPLES - start)
        )
        means.append((drawn @ sums) / (drawn @ counts))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))
