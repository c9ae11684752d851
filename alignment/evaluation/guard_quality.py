"""How good a guard is on labelled answers to prompts that it wasn't fitted on: in all, by source and by category."""

from collections.abc import Mapping, Sequence

import numpy as np

from alignment.maths.binary_quality import binary_quality
from alignment.maths.statistics import rate_interval
from alignment.models.guard_fit import HeldOut, Labelled, kinds_of

FEWEST = 20  # answers of a category whose share is told


def cross_validated(by: Mapping[str, HeldOut], curve: Mapping[int, np.ndarray], answers: Labelled, seed: int) -> dict:
    """The report of fits to other prompts. Of answers to harmless prompts nobody labelled any, so that they count as
    false alarms alone, and not among the labelled ones."""
    labelled = answers.harmless == ""
    guard = by["guard"]
    return {
        "scorers": {name: _figures(of, answers, labelled, seed) for name, of in by.items()},
        "by_source": {
            source: guard_figures(
                *guard[:2], answers.harmful, answers.groups, seed, labelled & (answers.sources == source)
            )
            for source in np.unique(answers.sources[labelled]).tolist()
        },
        "false_alarms": {
            source: {name: share_called(of.called[own], answers.groups[own], seed) for name, of in by.items()}
            for source in np.unique(answers.harmless[~labelled]).tolist()
            for own in [answers.harmless == source]
        },
        "curve": {
            str(size): guard_figures(scores, scores >= 0, answers.harmful, answers.groups, seed, labelled)["auroc"]
            for size, scores in curve.items()
        },
        "found_by_category": found_by_category(guard.called, answers.harmful, answers.categories, answers.groups, seed),
    }


def _figures(of: HeldOut, answers: Labelled, which: np.ndarray, seed: int) -> dict:
    return guard_figures(of.probabilities, of.called, answers.harmful, answers.groups, seed, which)


def guard_figures(
    probabilities: np.ndarray,
    called: np.ndarray,
    harmful: np.ndarray,
    groups: np.ndarray,
    seed: int,
    which: np.ndarray | None = None,
) -> dict:
    """The figures as reports keep them: each with its interval, and how many answers there are of each kind."""
    if which is not None:
        probabilities, called, harmful, groups = (of[which] for of in (probabilities, called, harmful, groups))
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
    """Of the harmful answers of each category the share that is found."""
    kinds = [set(kinds_of(of)) for of in categories]
    found = {}
    for name in sorted(set().union(*kinds)):
        own = harmful & np.array([name in of for of in kinds])
        if own.sum() >= FEWEST:
            found[name] = share_called(called[own], groups[own], seed)
    return found
