"""How far two sets of verdicts agree: with people's labels, or with another judge's.

A verdict is the number of a class, and class 0 is the harmless one; -1 is a verdict that couldn't be read, which agrees
with nothing.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

Classes = Int[np.ndarray, " row"]


def f1(judged: Classes, true: Classes) -> float | None:
    """2 TP / (2 TP + FP + FN), where every class but 0 is positive; None where neither side has a positive row."""
    hits = float(((judged > 0) & (true > 0)).sum())
    sum_of_both = float((judged > 0).sum() + (true > 0).sum())
    return 2 * hits / sum_of_both if sum_of_both else None


def cohen_kappa(first: Classes, second: Classes) -> float | None:
    """(p_o - p_e) / (1 - p_e): agreement beyond what the two judges' habits alone would give (Cohen 1960).

    None where both judges put every row into one and the same class: chance would agree as often.
    """
    if not len(first):
        return None
    classes = np.union1d(first, second)
    chance = sum(float((first == number).mean() * (second == number).mean()) for number in classes)
    return None if chance == 1 else (float((first == second).mean()) - chance) / (1 - chance)


def length_bias(lengths: Float[np.ndarray, " row"], judged: Classes, true: Classes) -> float | None:
    """How often the positive answer is the longer one, over pairs of which the judge calls exactly one positive.

    Both answers of a pair have the same true class, so at 1/2 length plays no part in the verdicts beyond its part in
    the truth. Ties count half; unread verdicts are left out. This is the Mann-Whitney statistic within every true
    class, summed, over the number of pairs.
    """
    wins = pairs = 0.0
    for number in np.unique(true):
        rows = (true == number) & (judged >= 0)
        positive = judged[rows] > 0
        pairs_of_class = float(positive.sum()) * float((~positive).sum())
        if pairs_of_class:
            ranks = rankdata(lengths[rows])[positive]
            wins += float(ranks.sum()) - len(ranks) * (len(ranks) + 1) / 2
            pairs += pairs_of_class
    return wins / pairs if pairs else None
