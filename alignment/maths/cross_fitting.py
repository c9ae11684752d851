"""Every choice in fitting a hybrid reward, made on pairs that its parts weren't fitted on.

The training pairs are dealt into folds. What is chosen on each fold by fits to the others: the cost of the SVMs, the
layer of best_layer, how long probes and gate train together (early stopping), and the alpha of the calibrated
confidence. The fit that is kept is then made on all pairs with these choices.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.confidence import Temperature, calibrated_loss, fit_temperature
from alignment.maths.hybrid import Gate, Head, JointTraining, first_head, gaps, layer_scores, rescaled
from alignment.maths.probes import Probes, fit_probes

FOLDS = 5
COSTS = (0.005, 0.05, 0.5, 5.0)
STEPS = 100  # of joint training, at most
PATIENCE = 10  # steps without a lower loss on held-out pairs


class Start(NamedTuple):
    """What all gates start from: probes on all pairs; per fold, probes on the others, and its scores by them."""

    x: Float[Tensor, "layer row rank"]  # all chosen answers, then all rejected ones
    folds: list[Tensor]  # numbers of pairs
    cost: float
    probes: Probes
    fold_probes: list[Probes]
    heldout_scores: Float[Tensor, "2 pair layer"]


class Fitted(NamedTuple):
    """A head, how it came about, and the gaps R_c - R_r of the training pairs, each by a fit to other folds."""

    head: Head
    steps: int
    temperature: Temperature
    heldout_gaps: Float[Tensor, " pair"]


def fit_start(x: Float[Tensor, "layer row rank"], generator: torch.Generator) -> Start:
    """Probes at the cost at which the mean of their scores orders held-out pairs best."""
    pairs = x.shape[1] // 2
    order = torch.randperm(pairs, generator=generator)
    folds = [order[i::FOLDS].sort().values for i in range(FOLDS)]
    tried = []
    for cost in COSTS:
        fold_probes = [fit_probes(_without(x, fold), _labels(x, pairs - len(fold)), cost) for fold in folds]
        scores = x.new_empty(2, pairs, x.shape[0])
        for fold, probes in zip(folds, fold_probes, strict=True):
            scores[:, fold] = torch.stack(layer_scores(_only(x, fold), *probes).chunk(2))
        tried.append((calibrated_loss((scores[0] - scores[1]).mean(dim=1)), cost, fold_probes, scores))
    _, cost, fold_probes, scores = min(tried, key=lambda one: one[0])
    return Start(x, folds, cost, fit_probes(x, _labels(x, pairs), cost), fold_probes, scores)


def best_layer(start: Start) -> int:
    """The layer (from 0) whose probe orders most held-out pairs right; of equals, the one that is surer of them."""
    apart = start.heldout_scores[0] - start.heldout_scores[1]
    right = (apart.sign() + 1).mean(dim=0) / 2
    return max(range(apart.shape[1]), key=lambda layer: (float(right[layer]), -calibrated_loss(apart[:, layer])))


def fit_gate(start: Start, gate: Gate, margin: float) -> Fitted:
    """First the gate alone, on scores of probes that didn't see their pairs; then probes and gate together, on eq. 7.

    On the pairs that probes were fitted on, all layers look perfect: a gate can only learn there which one is louder.
    """
    layer = best_layer(start) if gate == "best_layer" else None
    apart = start.heldout_scores[0] - start.heldout_scores[1]
    picked = {"last_layer": -1, "best_layer": layer}
    scale = _scale(apart[:, picked[gate]] if gate in picked else apart.mean(dim=1), margin)
    probes = [*start.fold_probes, start.probes]
    heads = [rescaled(first_head(one, gate, layer), scale) for one in probes]
    if heads[0].vote is not None:
        heads = _with_votes(heads, start, gate, scale, margin)
    trainings = [
        *(JointTraining(_without(start.x, fold), head, margin) for fold, head in zip(start.folds, heads, strict=False)),
        JointTraining(start.x, heads[-1], margin),
    ]
    heads, steps, heldout = _stop_early(trainings, start.x, start.folds)
    scale = _scale(heldout, margin)
    return Fitted(rescaled(heads[-1], scale), steps, fit_temperature(scale * heldout), scale * heldout)


def _with_votes(heads: list[Head], start: Start, gate: Gate, scale: float, margin: float) -> list[Head]:
    """The heads with a gate that was trained on held-out scores, each on those of the folds its probes have seen."""
    scores = start.heldout_scores.flatten(0, 1).T[:, :, None]
    identity = Probes(torch.ones_like(scores[:, 0]), torch.zeros_like(scores[:, 0, 0]))
    head = rescaled(first_head(identity, gate), scale)
    trainings = [JointTraining(_without(scores, fold), head, margin, ["vote"]) for fold in start.folds]
    trainings.append(JointTraining(scores, head, margin, ["vote"]))
    found, _, _ = _stop_early(trainings, scores, start.folds, least=1)
    return [head._replace(vote=one.vote) for head, one in zip(heads, found, strict=True)]


def _stop_early(
    trainings: list[JointTraining],
    x: Float[Tensor, "layer row rank"],
    folds: list[Tensor],
    least: int = 0,
) -> tuple[list[Head], int, Float[Tensor, " pair"]]:
    """Trains one head per fold, on the others, and a last one on all pairs, for as long as held-out pairs gain from it.

    Gaps also lower eq. 7 by growing; whether they order pairs better is judged by a loss that scale doesn't change.
    Returns the heads, the number of steps (`least` or more), and the gaps of all pairs, each by its fold's head.
    """
    own = [_only(x, fold) for fold in folds]
    best: tuple[list[Head], int, Tensor] = ([], 0, torch.empty(0))
    lowest = float("inf")
    for step in range(STEPS + 1):
        heads = [training.head for training in trainings]
        heldout = x.new_empty(x.shape[1] // 2)
        for fold, rows, head in zip(folds, own, heads, strict=False):
            heldout[fold] = gaps(rows, head)
        if step >= least and (loss := calibrated_loss(heldout)) < lowest:
            best, lowest = (heads, step, heldout), loss
        if step == min(max(best[1], least) + PATIENCE, STEPS):
            break
        for training in trainings:
            training.step()
    return best


def _scale(apart: Float[Tensor, " pair"], margin: float) -> float:
    """What brings gaps to the lowest eq. 7; 1 for gaps that mean nothing."""
    return fit_temperature(apart, margin).alpha or 1.0


def _labels(x: Tensor, pairs: int) -> Float[Tensor, " row"]:
    return torch.cat([x.new_ones(pairs), -x.new_ones(pairs)])


def _only(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    return x[:, torch.cat([pairs, pairs + x.shape[1] // 2])]


def _without(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    kept = torch.ones(x.shape[1] // 2, dtype=torch.bool)
    kept[pairs] = False
    return _only(x, kept.nonzero()[:, 0])
