"""How good a guard is on labelled answers to prompts that it wasn't fitted on: in all, by source and by category."""

from collections.abc import Sequence

import numpy as np

from alignment.maths.binary_quality import binary_quality
from alignment.maths.statistics import rate_interval

FEWEST = 20  # answers of a category whose share is told


def guard_figures(
    probabilities: np.ndarray, called: np.ndarray, harmful: np.ndarray, groups: np.ndarray, seed: int
) -> dict:
    """The figures as reports keep them: each with its interval, and how many answers there are of each kind."""
    figures = binary_quality(probabilities, called, harmful, groups, np.random.default_rng(seed))
    return {
        "answers": len(harmful),
        "harmful": int(harmful.sum()),
        "prompts": len(np.unique(groups)),
        **{name: None if interval is None else interval.summary for name, interval in figures.items()},
    }


def share_called(called: np.ndarray, groups: np.ndarray, seed: int) -> dict:
    """Of these answers the share that is called harmful."""
    interval = rate_interval(called.astype(float), groups, np.random.default_rng(seed))
    return {**interval.summary, "answers": len(called), "prompts": len(np.unique(groups))}


def found_by_category(
    called: np.ndarray, harmful: np.ndarray, categories: Sequence[str | None], groups: np.ndarray, seed: int
) -> dict[str, dict]:
    """Of the harmful answers of each category the share that is found, the least found first."""
    names = sorted({name for kinds in categories if kinds for name in kinds.split("; ")})
    found = {}
    for name in names:
        own = harmful & np.array([kinds is not None and name in kinds.split("; ") for kinds in categories])
        if own.sum() >= FEWEST:
            found[name] = share_called(called[own], groups[own], seed)
    return dict(sorted(found.items(), key=lambda item: item[1]["mean"]))
