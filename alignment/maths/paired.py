"""Two models on the same prompts, before and after: how much they differ, and how sure that is."""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest

from alignment.maths.statistics import Interval, prompt_interval


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
    rate: bool = True,
) -> Interval:
    """mean(after - before), and its bootstrap interval over prompts.

    prompts: the number of each answer's prompt. rate: both are of answers that count or don't, so that a difference is
    between -1 and 1, and where no answer differs, some of those not asked for may.
    """
    return prompt_interval(after - before, prompts, generator, (-1.0, 1.0) if rate else None)
