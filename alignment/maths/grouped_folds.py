"""Deals rows into folds by what they share: rows of a group are never on both sides of a fit."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def deal(groups: Int[np.ndarray, " row"], folds: int, order: Sequence[int]) -> Int[np.ndarray, " row"]:
    """The fold of each row: about as many rows in each. Groups with most rows are dealt first, each to the fold that
    has fewest. order: in which groups of one size are dealt, as numbers of the distinct groups, smallest group first.
    """
    distinct, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    filled, fold_of = [0] * folds, np.empty(len(distinct), dtype=np.int64)
    for group in sorted(order, key=lambda group: -sizes[group]):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += int(sizes[group])
    return fold_of[place]
