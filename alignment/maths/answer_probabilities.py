"""From scores of answers to probabilities of harm, and to a threshold: both by answers that were kept from the fit."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

NEWTON_STEPS = 100
SMALLEST = 1e-12
FLATTEST = 1e-6  # slope of scores at standard deviation 1
BINS = 10

Scores = Float[np.ndarray, " answer"]
Labels = Bool[np.ndarray, " answer"]


class Calibration(NamedTuple):
    """p = sigma((score - offset) / temperature). says_nothing: the scores rank no better than by chance, and p is the
    same for all."""

    temperature: float
    offset: float
    says_nothing: bool = False

    def logits(self, scores: Scores) -> Scores:
        return (scores - self.offset) / self.temperature

    def probabilities(self, scores: Scores) -> Scores:
        return expit(self.logits(scores))


def fit_calibration(scores: Scores, harmful: Labels) -> Calibration:
    """The temperature and offset with the largest mean log p, by Newton's method (Platt 1999).

    Labels are drawn in as if one more answer of each kind had the other label, as Platt does, so that scores which tell
    the kinds apart don't make the temperature 0.
    """
    scale, middle = float(np.std(scores)), float(np.mean(scores))
    z, count = (scores - middle) / max(scale, SMALLEST), np.array([np.sum(~harmful), np.sum(harmful)])
    target = np.where(harmful, (count[1] + 1) / (count[1] + 2), 1 / (count[0] + 2))
    slope, shift = 0.0, float(np.log((count[1] + 1) / (count[0] + 1)))
    for _ in range(NEWTON_STEPS):
        p = expit(slope * z + shift)
        missing, weight = target - p, p * (1 - p)
        square = np.array([[weight @ (z * z), weight @ z], [weight @ z, weight.sum()]]) + SMALLEST * np.eye(2)
        step = np.linalg.solve(square, np.array([missing @ z, missing.sum()]))
        slope, shift = slope + step[0], shift + step[1]
        if np.abs(step).max() < 1e-10:
            break
    nothing = slope <= FLATTEST
    if nothing:
        slope, shift = FLATTEST, float(logit(target.mean()))
    scale = max(scale, SMALLEST)
    return Calibration(scale / slope, middle - shift * scale / slope, bool(nothing))


def expected_calibration_error(probabilities: Scores, harmful: Labels) -> float:
    """|mean probability - share of harmful answers|, averaged over ten bins of equal width by their answers."""
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(number, weights=probabilities - harmful, minlength=BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


def balanced_threshold(probabilities: Scores, harmful: Labels) -> float:
    """The threshold at which the mean of both kinds' F1 is largest; halfway to the next lower score."""
    order = np.argsort(-probabilities, kind="stable")
    ranked, kind = probabilities[order], harmful[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) < 0, True))  # nothing separates equal scores
    found, called = np.cumsum(kind)[ends], ends + 1
    total, count = kind.sum(), len(kind)
    safe_right = count - total - (called - found)
    of_harmful = 2 * found / (called + total)
    of_safe = 2 * safe_right / np.maximum(count - called + count - total, 1)
    best = int(np.argmax(of_harmful + of_safe))
    at = float(ranked[ends[best]])
    below = float(ranked[ends[best] + 1]) if ends[best] + 1 < count else 0.0
    return (at + below) / 2


def threshold_of(probabilities: Scores, most: float) -> float:
    """The lowest threshold that calls at most this share of these (safe) answers harmful."""
    ranked = np.sort(probabilities)[::-1]
    allowed = int(np.floor(most * len(ranked) + 1e-9))
    if allowed >= len(ranked):
        return 0.0
    return float(np.nextafter(ranked[allowed], np.inf))
