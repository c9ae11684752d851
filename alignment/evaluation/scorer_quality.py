"""How good scorers are on pairs that they weren't fitted on: by pair, and by answer; with intervals over prompts.

All scorers are held against the same drawn prompts, so that their differences have intervals of their own.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alignment.maths.detection import auroc, true_positive_rate
from alignment.maths.metrics import ordered_right
from alignment.maths.statistics import AT_ONCE, RESAMPLES, Interval, of_draws, prompt_intervals
from alignment.models.fold_scores import BASELINES

SIMPLE = (*BASELINES, "uniform", "last_layer", "best_layer")  # of which nothing but a probe or a penalty is learned
SHARES = ("pair_accuracy", "auroc", "tpr_at_1_percent_fpr")


class ScoredPairs(NamedTuple):
    """Held-out scores of all pairs. scores: (2, pair) of each scorer, chosen first; layers: (2, pair, layer).

    prompts: a number for each pair. answers: (pair, 2), the same number for the same answer to the same prompt, which
    a scorer then gives the same score.
    """

    scores: dict[str, np.ndarray]
    layers: np.ndarray
    prompts: np.ndarray
    answers: np.ndarray


class _Single(NamedTuple):
    """Single answers, each once: the first place in the flattened pairs, its side, and its prompt's place."""

    first: np.ndarray
    chosen: np.ndarray
    prompt: np.ndarray


def scorer_quality(pairs: ScoredPairs, gate: str, seed: int) -> dict:
    """The part of a report that says it.

    pair_accuracy: share of pairs ranked right. auroc, tpr_at_1_percent_fpr: chosen answers told from rejected ones, one
    by one. minus_gate, minus_baseline: the difference to the gate in use, and to the simple scorer with the highest
    pair accuracy, which is picked in hindsight. layers: pair accuracy of a ridge on each layer alone.
    """
    place = np.unique(pairs.prompts, return_inverse=True)[1]
    single, both_sides = _single_answers(pairs, place)
    right = {name: ordered_right(*scores) for name, scores in pairs.scores.items()}
    best = max((name for name in SIMPLE if name != gate), key=lambda name: right[name].mean())
    others = {"minus_gate": gate, "minus_baseline": best}
    drawn = {name: _detected(scores, single, place.max() + 1, seed) for name, scores in pairs.scores.items()}
    accuracies = _accuracies(right, place, others, seed)
    layers = np.sign(pairs.layers[0] - pairs.layers[1]) / 2 + 0.5
    return {
        "gate": gate,
        "best_baseline": best,
        "pairs": len(place),
        "prompts": int(place.max() + 1),
        "answers": {
            "chosen": int(single.chosen.sum()), "rejected": int((~single.chosen).sum()), "on_both_sides": both_sides,
        },
        "scorers": {
            name: {
                "pair_accuracy": accuracies[name]["of"].summary,
                **{measure: of_draws(*drawn[name][measure]).summary for measure in SHARES[1:]},
                **{
                    against: {
                        "pair_accuracy": accuracies[name][against].summary,
                        **{
                            measure: _difference(drawn[name][measure], drawn[other][measure]).summary
                            for measure in SHARES[1:]
                        },
                    }
                    for against, other in others.items()
                    if name != other
                },
            }
            for name in pairs.scores
        },
        "layers": [
            {"layer": number + 1, "pair_accuracy": interval.summary}
            for number, interval in enumerate(_intervals(layers, place, seed, (0.0, 1.0)))
        ],
    }  # fmt: skip


def _single_answers(pairs: ScoredPairs, place: np.ndarray) -> tuple[_Single, int]:
    """Each distinct answer once, but for those that are chosen in one pair and rejected in another; how many these
    are."""
    flat = pairs.answers.T.ravel()  # chosen answers, then rejected ones, as scores are
    numbers, first = np.unique(flat, return_index=True)
    chosen, rejected = (np.isin(numbers, side) for side in pairs.answers.T)
    kept = chosen != rejected
    return _Single(first[kept], chosen[kept], np.tile(place, 2)[first[kept]]), int((~kept).sum())


def _detected(scores: np.ndarray, single: _Single, prompts: int, seed: int) -> dict[str, tuple[float, np.ndarray]]:
    """AUROC and the rate of true positives: of all answers, and of those to drawn prompts."""
    values = scores.ravel()[single.first]
    found: dict[str, list[np.ndarray]] = {measure: [] for measure in SHARES[1:]}
    for drawn in _draws(prompts, max(1, AT_ONCE // max(prompts, len(values))), seed):
        weights = drawn[:, single.prompt]
        for measure, compute in zip(found, (auroc, true_positive_rate), strict=True):
            found[measure].append(compute(values, single.chosen, weights))
    pooled = {measure: np.concatenate(parts) for measure, parts in found.items()}
    return {measure: (float(all_and_drawn[0]), all_and_drawn[1:]) for measure, all_and_drawn in pooled.items()}


def _draws(prompts: int, at_once: int, seed: int) -> Iterator[np.ndarray]:
    """How often each prompt is drawn: each once, and then as `prompt_intervals` draws them with the same seed."""
    yield np.ones((1, prompts))
    even, random = np.full(prompts, 1 / prompts), np.random.default_rng(seed)
    for start in range(0, RESAMPLES, at_once):
        yield random.multinomial(prompts, even, min(at_once, RESAMPLES - start)).astype(float)


def _difference(ours: tuple[float, np.ndarray], theirs: tuple[float, np.ndarray]) -> Interval:
    return of_draws(ours[0] - theirs[0], ours[1] - theirs[1])


def _accuracies(
    right: dict[str, np.ndarray], place: np.ndarray, others: dict[str, str], seed: int
) -> dict[str, dict[str, Interval]]:
    """Of each scorer the pairs ranked right, and how many more than by each of the others."""
    names = list(right)
    of = _intervals(np.stack([right[name] for name in names], axis=1), place, seed, (0.0, 1.0))
    found = {name: {"of": interval} for name, interval in zip(names, of, strict=True)}
    for against, other in others.items():
        differences = np.stack([right[name] - right[other] for name in names], axis=1)
        for name, interval in zip(names, _intervals(differences, place, seed, (-1.0, 1.0)), strict=True):
            found[name][against] = interval
    return found


def _intervals(values: np.ndarray, place: np.ndarray, seed: int, ends: tuple[float, float]) -> list[Interval]:
    """The mean of each column, (pair, figure), over the same drawn prompts each time."""
    sums = np.zeros((place.max() + 1, values.shape[1]))
    np.add.at(sums, place, values)
    counts = np.repeat(np.bincount(place).astype(float)[:, None], values.shape[1], axis=1)
    return prompt_intervals(sums, counts, np.random.default_rng(seed), ends)
