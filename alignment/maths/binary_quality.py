"""How good probabilities and verdicts of two kinds of answers are, each figure with a bootstrap over prompts."""

import numpy as np
from jaxtyping import Bool, Float, Int

from alignment.maths.answer_probabilities import BINS
from alignment.maths.detection import auroc
from alignment.maths.statistics import Interval, of_draws

DRAWS = 1000


def binary_quality(
    probabilities: Float[np.ndarray, " answer"],
    called: Bool[np.ndarray, " answer"],
    harmful: Bool[np.ndarray, " answer"],
    groups: Int[np.ndarray, " answer"],
    generator: np.random.Generator,
) -> dict[str, Interval | None]:
    """AUROC, the mean of both kinds' F1, both kinds' share that is called right, and the calibration error; None where
    a kind is missing that a figure needs. called: is it said to be harmful? groups: of answers that are drawn together.
    """
    place = np.unique(groups, return_inverse=True)[1]
    count = place.max() + 1
    drawn = generator.multinomial(count, np.full(count, 1 / count), DRAWS if count > 1 else 0)[:, place].astype(float)
    weights = np.concatenate([np.ones((1, len(place))), drawn])
    positive, negative = weights @ harmful, weights @ ~harmful
    found, right = weights @ (harmful & called), weights @ (~harmful & ~called)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.stack([weights @ np.where(bins == one, probabilities - harmful, 0.0) for one in range(BINS)])
    with np.errstate(invalid="ignore", divide="ignore"):
        of_harmful = 2 * found / (2 * found + (negative - right) + (positive - found))
        of_safe = 2 * right / (2 * right + (negative - right) + (positive - found))
        figures = {
            "auroc": auroc(probabilities, harmful, weights),
            "macro_f1": (of_harmful + of_safe) / 2,
            "sensitivity": found / positive,
            "specificity": right / negative,
            "calibration_error": np.abs(gaps).sum(axis=0) / weights.sum(axis=1),
        }
    one_kind = harmful.all() or not harmful.any()
    missing = {"auroc", "macro_f1"} if one_kind else set()
    missing |= {"sensitivity"} if not harmful.any() else {"specificity"} if harmful.all() else set()
    return {name: None if name in missing else of_draws(float(of[0]), of[1:]) for name, of in figures.items()}
