"""How good a hybrid reward is on pairs it wasn't fitted on, by the labels that these pairs have."""

import numpy as np
import torch
from torch import Tensor

from alignment.maths.confidence import (
    calibration_error,
    paper_confidence,
    released_confidence,
    released_means,
    saturated_share,
)
from alignment.maths.hybrid import hybrid_score
from alignment.maths.statistics import Interval, prompt_intervals, rate_interval, wilson_interval
from alignment.models.hybrid_reward import HybridReward

RELEASED_BATCH = 8  # pairs that share one confidence under "released": the authors' micro-batch


@torch.no_grad()
def describe(reward: HybridReward, chosen: Tensor, rejected: Tensor, seed: int = 0) -> dict:
    """What the states (pair, layer, width) of chosen and rejected answers say of a reward:

    hard, soft, true: share of answers with the right sign, of pairs ordered right, of pairs with both signs right.
    layers: each probe's precision (of its "chosen" verdicts, None if it gives none), accuracy (signs), pair accuracy,
    and its mean weight in the gate. ece (calibration error), saturated_share: of each confidence. scoring: pair
    accuracy of R, of every layer, of the best and the worst of them in hindsight, of the last, and of one that the seed
    draws.
    """
    scores = [reward.layer_scores(states) for states in (chosen, rejected)]
    weights = [reward.gate_weights(side) for side in scores]
    rewards = [hybrid_score(*side) for side in zip(scores, weights, strict=True)]
    by_layer = ordered_right(*scores).mean(dim=0)
    confidences = {
        "paper": paper_confidence(*rewards),
        "released": _released(*rewards),
        **({} if reward.alpha is None else {"calibrated": paper_confidence(*rewards, reward.alpha)}),
    }
    agrees = ordered_right(*rewards)
    drawn = int(torch.randint(len(by_layer), (1,), generator=torch.Generator().manual_seed(seed)))
    return {
        "pairs": len(chosen),
        "hard": float(_right_signs(*rewards).mean()),
        "soft": float(agrees.mean()),
        "true": float(((rewards[0] > 0) & (rewards[1] < 0)).double().mean()),
        "layers": [
            {
                "layer": layer + 1,
                "precision": _precision(scores[0][:, layer], scores[1][:, layer]),
                "accuracy": float(_right_signs(scores[0][:, layer], scores[1][:, layer]).mean()),
                "pair_accuracy": float(by_layer[layer]),
                "gate_weight": float(torch.cat(weights)[:, layer].mean()),
            }
            for layer in range(len(by_layer))
        ],
        "alpha": reward.alpha,
        "ece": {name: calibration_error(gamma, agrees) for name, gamma in confidences.items()},
        "saturated_share": {name: saturated_share(gamma) for name, gamma in confidences.items()},
        "scoring": {
            "hybrid": float(agrees.mean()),
            "best": float(by_layer.max()),
            "worst": float(by_layer.min()),
            "last": float(by_layer[-1]),
            "random": float(by_layer[drawn]),
            "random_layer": drawn + 1,
            "by_layer": by_layer.tolist(),
        },
    }


@torch.no_grad()
def intervals(reward: HybridReward, chosen: Tensor, rejected: Tensor, prompts: np.ndarray, seed: int = 0) -> dict:
    """95% intervals of the pairs ordered right that `describe` has, by the reward and by each layer.

    prompts: a number for each pair. layers: of precision (None where a layer calls no answer chosen) and of pair
    accuracy, from the first layer on.
    """
    random = np.random.default_rng(seed)
    scores = [reward.layer_scores(states) for states in (chosen, rejected)]
    right = ordered_right(*scores).double().numpy()
    place = np.unique(prompts, return_inverse=True)[1]
    called = [(side > 0).double().numpy() for side in scores]
    chosen_right, both = (np.zeros((place.max() + 1, right.shape[1])) for _ in range(2))
    np.add.at(chosen_right, place, called[0])
    np.add.at(both, place, called[0] + called[1])
    known = both.sum(axis=0) > 0
    precisions: list[list | None] = [None] * right.shape[1]
    found = prompt_intervals(chosen_right[:, known], both[:, known], random, (0.0, 1.0))
    for layer, interval in zip(np.flatnonzero(known), found, strict=True):
        precisions[layer] = list(interval[1:])
    ordered = ordered_right(reward.score(chosen), reward.score(rejected)).double().numpy()
    return {
        "pair_accuracy": list(rate_interval(ordered, place, random)[1:]),
        "layers": [
            {"precision": precisions[layer], "pair_accuracy": list(interval[1:])}
            for layer, interval in enumerate(_rates(right, place, random))
        ],
    }


def _rates(right: np.ndarray, place: np.ndarray, random: np.random.Generator) -> list[Interval]:
    """The intervals of the shares of each layer, (pair, layer), by the kind that `rate_interval` picks."""
    counts = np.bincount(place).astype(float)
    if len(counts) == len(place):
        return [wilson_interval(float(hits), len(place)) for hits in right.sum(axis=0)]
    sums = np.zeros((len(counts), right.shape[1]))
    np.add.at(sums, place, right)
    return prompt_intervals(sums, np.repeat(counts[:, None], right.shape[1], axis=1), random, (0.0, 1.0))


def ordered_right(chosen: Tensor, rejected: Tensor | float) -> Tensor:
    """1 where chosen scores higher, 0 where rejected does, 1/2 where they tie."""
    return ((chosen - rejected).sign() + 1) / 2


def _right_signs(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 for each answer whose score has the sign of its side; a score of 0 is never right."""
    return torch.cat([chosen > 0, rejected < 0]).double()


def _precision(chosen: Tensor, rejected: Tensor) -> float | None:
    right, wrong = int((chosen > 0).sum()), int((rejected > 0).sum())
    return right / (right + wrong) if right + wrong else None


def _released(chosen: Tensor, rejected: Tensor) -> Tensor:
    """One confidence for each batch of pairs, in their order; it takes the labels' side, so it is never below 1/2."""
    batches = zip(chosen.split(RELEASED_BATCH), rejected.split(RELEASED_BATCH), strict=True)
    return torch.cat([released_confidence(released_means(c, r)).expand(len(c)) for c, r in batches])
