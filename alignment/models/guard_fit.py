"""Fits a guard to labelled answers, and says what fits to other prompts' answers say of each of them.

Every figure of a guard is of such fits: of a fold's answers nothing was fitted, and neither were penalty, calibration
and threshold, which are chosen on the other folds, each of these by the remaining ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignment.maths.answer_probabilities import (
    Calibration,
    balanced_threshold,
    fit_calibration,
    threshold_of,
)
from alignment.maths.answer_ridge import (
    PENALTIES,
    AnswerRidge,
    Products,
    best_penalty,
    fit_answers,
    heldout_scores,
    products,
    scores_of_others,
)
from alignment.types import UserError

CURVE = (80, 160, 320, 640, 1280, 2560, 5120)  # answers of a learning curve
FEWEST = 20  # answers of a category that has a head of its own
Layers = Callable[[], Iterator[Tensor]]  # gives, as often as it is asked, the states (answer, width) of each layer


class Labelled(NamedTuple):
    """What is known of the answers. sources: the set of each. harmless: the name of the source of answers to harmless
    prompts, "" for others. folds: by groups of prompts that are nearly the same.
    """

    harmful: np.ndarray
    sources: np.ndarray
    categories: list[str | None]
    harmless: np.ndarray
    groups: np.ndarray
    folds: np.ndarray


class Rule(NamedTuple):
    """Where the threshold lies. most_false: the share of safe answers that may be called harmful; None: it balances F1
    of both kinds. false_alarms: the share of each source's answers to harmless prompts that may be at most."""

    most_false: float | None
    false_alarms: float | None

    def threshold(self, probabilities: np.ndarray, answers: Labelled, which: np.ndarray) -> float:
        harmful, harmless = answers.harmful[which], answers.harmless[which]
        labelled = harmless == ""
        if self.most_false is None:
            lowest = balanced_threshold(probabilities[labelled], harmful[labelled])
        else:
            lowest = threshold_of(probabilities[labelled & ~harmful], self.most_false)
        if self.false_alarms is not None:
            for source in np.unique(harmless[~labelled]):
                lowest = max(lowest, threshold_of(probabilities[harmless == source], self.false_alarms))
        return lowest


class HeldOut(NamedTuple):
    """Of each answer, by a fit to other prompts: the probability of harm, whether it is over the threshold, and the
    likeliest category."""

    probabilities: np.ndarray
    called: np.ndarray
    categories: np.ndarray


class Fitted(NamedTuple):
    ridge: AnswerRidge
    calibration: Calibration
    threshold: float
    penalty: float
    categories: list[str]


def category_names(answers: Labelled) -> list[str]:
    """The categories of harm that enough answers have; an answer may have several, with semicolons between."""
    names = [name for kinds in answers.categories for name in kinds_of(kinds)]
    return sorted(name for name in set(names) if names.count(name) >= FEWEST)


def kinds_of(categories: str | None) -> list[str]:
    return [] if categories is None else [name.strip() for name in categories.split(";")]


def label_columns(answers: Labelled, names: Sequence[str]) -> Tensor:
    """(answer, 1 + category): 1 for harm, and for each category, else -1. Safe answers have no category."""
    columns = [answers.harmful.tolist()]
    columns += [
        [
            harmful and name in kinds_of(kinds)
            for harmful, kinds in zip(answers.harmful, answers.categories, strict=True)
        ]
        for name in names
    ]
    return torch.tensor(columns, dtype=torch.float64).T * 2 - 1


def wanted_layers(wanted: Sequence[int] | None, count: int) -> range:
    """The layers that the guard reads, from the first to the last of the setting; all without one."""
    first, last = (1, count) if wanted is None else wanted
    if last > count:
        raise UserError("guard.layers", f"the model has {count} layers, and no layer {last}", f"give 1 to {count}")
    return range(first, last + 1)


def require_both(harmful: np.ndarray, folds: np.ndarray) -> None:
    """UserError unless in every fold's rest both kinds are there to fit and to choose on."""
    for fold in np.unique(folds):
        rest = harmful[folds != fold]
        for kind, word in ((True, "harmful"), (False, "safe")):
            if (count := int((rest == kind).sum())) < FEWEST:
                problem = f"beside fold {fold + 1} of {len(np.unique(folds))} there are {count} {word} answers"
                raise UserError("guard.answers", problem, f"give at least {FEWEST} of each kind, to more prompts")


def held_out(read: Products, labels: Tensor, answers: Labelled, rule: Rule) -> HeldOut:
    """read: the products of all answers."""
    count = len(answers.harmful)
    probabilities, called, likeliest = np.empty(count), np.empty(count, dtype=bool), np.zeros(count, dtype=int)
    for fold in np.unique(answers.folds):
        rest, own = (np.flatnonzero(answers.folds != fold), np.flatnonzero(answers.folds == fold))
        fitted, others = torch.from_numpy(rest), torch.from_numpy(own)
        inner = heldout_scores(read, labels[:, :1], fitted, answers.folds[rest])
        best = best_penalty(inner, labels[fitted, :1])
        calibration = fit_calibration(inner[best, :, 0].numpy(), answers.harmful[rest])
        threshold = rule.threshold(calibration.probabilities(inner[best, :, 0].numpy()), answers, rest)
        scores = scores_of_others(read, labels, fitted, others, [PENALTIES[best]])[0].numpy()
        probabilities[own] = calibration.probabilities(scores[:, 0])
        called[own] = probabilities[own] >= threshold
        if labels.shape[1] > 1:
            likeliest[own] = scores[:, 1:].argmax(axis=1)
    return HeldOut(probabilities, called, likeliest)


def scores_by_folds(read: Products, labels: Tensor, answers: Labelled) -> np.ndarray:
    """What a ridge of the other folds says of each answer, under the penalty that ranks all of these best."""
    scores = heldout_scores(read, labels[:, :1], torch.arange(len(labels)), answers.folds)
    return scores[best_penalty(scores, labels[:, :1]), :, 0].numpy()


def held_out_by(scores: np.ndarray, answers: Labelled, rule: Rule) -> HeldOut:
    """As held_out, of scores that stem from fits to other folds, or need none; of either sign. Calibration and
    threshold of a fold are by the scores of the others."""
    count = len(scores)
    probabilities, called = np.empty(count), np.empty(count, dtype=bool)
    for fold in np.unique(answers.folds):
        rest, own = (np.flatnonzero(answers.folds != fold), np.flatnonzero(answers.folds == fold))
        harmful = answers.harmful[rest]
        sign = 1.0 if scores[rest][harmful].mean() > scores[rest][~harmful].mean() else -1.0
        calibration = fit_calibration(sign * scores[rest], harmful)
        threshold = rule.threshold(calibration.probabilities(sign * scores[rest]), answers, rest)
        probabilities[own] = calibration.probabilities(sign * scores[own])
        called[own] = probabilities[own] >= threshold
    return HeldOut(probabilities, called, np.zeros(count, dtype=int))


def fit_guard(
    layers: Layers, read: Products, labels: Tensor, names: list[str], answers: Labelled, rule: Rule
) -> Fitted:
    """The guard of all answers; penalty, calibration and threshold by fits to the other folds."""
    every = np.arange(len(answers.harmful))
    scores = heldout_scores(read, labels[:, :1], torch.from_numpy(every), answers.folds)
    best = best_penalty(scores, labels[:, :1])
    calibration = _calibration(scores[best, :, 0].numpy(), answers.harmful)
    threshold = rule.threshold(calibration.probabilities(scores[best, :, 0].numpy()), answers, every)
    ridge = fit_answers(read, layers(), labels, PENALTIES[best])
    return Fitted(ridge, calibration, threshold, PENALTIES[best], names)


def learning_curve(
    read: Products, labels: Tensor, answers: Labelled, penalty: float, seed: int
) -> dict[int, np.ndarray]:
    """By how many answers a guard is fitted on, what such fits to other prompts say of each answer."""
    smallest = min(int((answers.folds != fold).sum()) for fold in np.unique(answers.folds))
    curve: dict[int, np.ndarray] = {}
    for size in [size for size in CURVE if size <= smallest]:
        curve[size] = np.empty(len(answers.harmful))
        for fold in np.unique(answers.folds):
            rest, own = np.flatnonzero(answers.folds != fold), np.flatnonzero(answers.folds == fold)
            drawn = torch.from_numpy(np.random.default_rng(seed).permutation(rest)[:size])
            others = torch.from_numpy(own)
            curve[size][own] = scores_of_others(read, labels[:, :1], drawn, others, [penalty])[0, :, 0].numpy()
    return curve


def products_of(layers: Layers, prompts: Layers | None = None, topic: float = 0.0) -> Products:
    """prompts: the states of each answer's prompt alone. topic: how much of the labels they may explain away."""
    read = products(layers())
    return read if prompts is None else read.with_topic(products(prompts()), topic)


def _calibration(scores: np.ndarray, harmful: np.ndarray) -> Calibration:
    calibration = fit_calibration(scores, harmful)
    if calibration.says_nothing:
        problem = "of answers to other prompts the states say nothing: harmful ones score no higher than safe ones"
        raise UserError("guard.answers", problem, "give more of them, or another model")
    return calibration
