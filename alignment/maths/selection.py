"""Pairs out of ranked samples, and how good the best of n samples is."""

from math import comb

import numpy as np
from jaxtyping import Float

from alignment.types import Pairing


def pair_up(scores: Float[np.ndarray, " sample"], pairing: Pairing) -> list[tuple[int, int]]:
    """Pairs as (chosen, rejected) sample numbers; two samples of the same score are no pair.

    zip4: in ascending order the upper half against the lower, as the authors' code pairs 8 samples: (5th, worst),
    (6th, 2nd), (7th, 3rd), (best, 4th). Of an odd number the middle one is left out. best_worst: one pair.
    """
    order = np.argsort(scores, kind="stable")
    half = len(order) // 2
    lower, upper = (order[:1], order[-1:]) if pairing == "best_worst" else (order[:half], order[len(order) - half :])
    pairs = [(int(chosen), int(rejected)) for rejected, chosen in zip(lower, upper, strict=True)]
    return [(chosen, rejected) for chosen, rejected in pairs if scores[chosen] > scores[rejected]]


def best_of(scores: Float[np.ndarray, " sample"], values: Float[np.ndarray, " sample"], n: int) -> float:
    """The expected value of the best-scored of n samples, over all subsets of n of the given samples.

    The i-th best of N (from 0) is the best of comb(N - 1 - i, n - 1) of the comb(N, n) subsets. Samples of the same
    score share their values.
    """
    total = len(scores)
    order = np.argsort(-scores, kind="stable")
    shared = np.array([values[scores == scores[i]].mean() for i in order])
    weights = np.array([comb(total - 1 - i, n - 1) / comb(total, n) for i in range(total)])
    return float(weights @ shared)
