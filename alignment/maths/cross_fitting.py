"""Every choice in fitting a hybrid reward, made on pairs that its parts weren't fitted on.

The training pairs are dealt into folds, and each fold is scored by fits to the other folds. By these scores are chosen
the cost of the SVMs, the layer of best_layer, how long probes and gate train together (early stopping), and the alpha
of the calibrated confidence. The fit that is kept is then made on all pairs, with these choices.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.maths.confidence import Temperature, calibrated_loss, fit_temperature
from alignment.maths.hybrid import Gate, Head, JointTraining, first_head, gaps, layer_scores, rescaled
from alignment.maths.probes import Probes, fit_probes

FOLDS = 5
COSTS = (0.005, 0.05, 0.5, 5.0, 50.0)
STEPS = 100  # of training, at most
PATIENCE = 10  # steps without a lower loss on held-out pairs


class Candidate(NamedTuple):
    """SVMs at one cost: a fold's probes are fitted on the other folds, and score the answers of their own fold."""

    cost: float
    fold_probes: list[Probes]
    scores: Float[Tensor, "2 pair layer"]

    @property
    def gaps(self) -> Float[Tensor, "pair layer"]:
        return self.scores[0] - self.scores[1]


class Start(NamedTuple):
    """The folds, and the probes fitted on them, from which the fit of every gate starts."""

    x: Float[Tensor, "layer row rank"]  # all chosen answers, then all rejected ones
    folds: list[Tensor]  # numbers of pairs
    candidates: list[Candidate]


class Fitted(NamedTuple):
    """A head, how it was fitted; and of every training pair, by the fit to the other folds, the gap R_c - R_r and its
    confidence gamma, with the alpha of the other folds."""

    head: Head
    cost: float
    steps: int
    temperature: Temperature
    heldout_gaps: Float[Tensor, " pair"]
    heldout_confidences: Float[Tensor, " pair"]


def fit_start(x: Float[Tensor, "layer row rank"], generator: torch.Generator) -> Start:
    """Deals the pairs into folds, and fits the probes of every fold at every cost."""
    pairs = x.shape[1] // 2
    order = torch.randperm(pairs, generator=generator)
    folds = [order[i::FOLDS].sort().values for i in range(FOLDS)]
    candidates = []
    for cost in COSTS:
        fold_probes = [fit_probes(_without(x, fold), _labels(pairs - len(fold)), cost) for fold in folds]
        scores = x.new_empty(2, pairs, x.shape[0])
        for fold, probes in zip(folds, fold_probes, strict=True):
            scores[:, fold] = torch.stack(layer_scores(_only(x, fold), *probes).chunk(2))
        candidates.append(Candidate(cost, fold_probes, scores))
    return Start(x, folds, candidates)


def choose(start: Start, gate: Gate) -> tuple[Candidate, int | None]:
    """The SVMs whose scores, combined as the gate starts, order held-out pairs best; and the layer of best_layer.

    best_layer takes each layer at its own best cost, and of these the one that orders most pairs right.
    """
    if gate == "last_layer":
        return min(start.candidates, key=lambda candidate: calibrated_loss(candidate.gaps[:, -1])), None
    if gate != "best_layer":
        return min(start.candidates, key=lambda candidate: calibrated_loss(candidate.gaps.mean(dim=1))), None
    ranked = []
    for layer in range(len(start.x)):
        losses = [calibrated_loss(candidate.gaps[:, layer]) for candidate in start.candidates]
        best = start.candidates[losses.index(min(losses))]
        ranked.append((-float((best.gaps[:, layer].sign() + 1).mean()), min(losses), layer, best))
    _, _, layer, best = min(ranked, key=lambda entry: entry[:3])
    return best, layer


def fit_gate(start: Start, gate: Gate, margin: float) -> Fitted:
    """Trains the gate alone, on scores of probes that didn't see their pairs; then probes and gate together, on eq. 7.

    On the pairs that probes were fitted on, all layers look perfect: a gate can only learn there which one is louder.
    """
    best, layer = choose(start, gate)
    picked = {"last_layer": -1, "best_layer": layer}
    scale = _scale(best.gaps[:, picked[gate]] if gate in picked else best.gaps.mean(dim=1), margin)
    probes = [*best.fold_probes, fit_probes(start.x, _labels(start.x.shape[1] // 2), best.cost)]
    heads = [rescaled(first_head(fitted, gate, layer), scale) for fitted in probes]
    if heads[0].vote is not None:
        heads = _with_votes(heads, best.scores, start.folds, margin)
    trainings = [
        *(JointTraining(_without(start.x, fold), head, margin) for fold, head in zip(start.folds, heads, strict=False)),
        JointTraining(start.x, heads[-1], margin),
    ]
    heads, steps, heldout = _stop_early(trainings, start.x, start.folds)
    scale = _scale(heldout, margin)
    heldout = scale * heldout
    temperature, confidences = fit_temperature(heldout), _confidences(heldout, start.folds)
    return Fitted(rescaled(heads[-1], scale), best.cost, steps, temperature, heldout, confidences)


def _confidences(heldout: Float[Tensor, " pair"], folds: list[Tensor]) -> Float[Tensor, " pair"]:
    """gamma of every pair; no pair has a part in the alpha of its own."""
    confidences = torch.empty_like(heldout)
    for fold in folds:
        others = torch.ones(len(heldout), dtype=torch.bool)
        others[fold] = False
        confidences[fold] = torch.sigmoid(fit_temperature(heldout[others]).alpha * heldout[fold])
    return confidences


def _with_votes(
    heads: list[Head], scores: Float[Tensor, "2 pair layer"], folds: list[Tensor], margin: float
) -> list[Head]:
    """The heads, each with a gate trained on the held-out scores of the folds that its probes were fitted on."""
    gate = heads[0].gate
    x = scores.flatten(0, 1).T[:, :, None].contiguous()
    identity = Probes(torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0, 0]))
    start = rescaled(first_head(identity, gate), _scale((scores[0] - scores[1]).mean(dim=1), margin))
    trainings = [JointTraining(_without(x, fold), start, margin, ["vote"]) for fold in folds]
    trainings.append(JointTraining(x, start, margin, ["vote"]))
    gates, _, _ = _stop_early(trainings, x, folds, least=1)
    return [head._replace(vote=trained.vote) for head, trained in zip(heads, gates, strict=True)]


def _stop_early(
    trainings: list[JointTraining],
    x: Float[Tensor, "layer row rank"],
    folds: list[Tensor],
    least: int = 0,
) -> tuple[list[Head], int, Float[Tensor, " pair"]]:
    """Trains a head per fold, on the other folds, and a last one on all pairs, as long as held-out pairs gain from it.

    Gaps also lower eq. 7 by growing; whether they order pairs better is judged by a loss that scale doesn't change.
    Returns the heads, the number of steps (`least` or more), and the gaps of all pairs, each by its fold's head.
    """
    heldout_rows = [_only(x, fold) for fold in folds]
    best: tuple[list[Head], int, Tensor] = ([], 0, torch.empty(0))
    lowest = float("inf")
    for step in range(STEPS + 1):
        heads = [training.head for training in trainings]
        heldout = x.new_empty(x.shape[1] // 2)
        for fold, rows, head in zip(folds, heldout_rows, heads, strict=False):
            heldout[fold] = gaps(rows, head)
        if step >= least and (loss := calibrated_loss(heldout)) < lowest:
            best, lowest = (heads, step, heldout), loss
        if step == min(max(best[1], least) + PATIENCE, STEPS):
            break
        for training in trainings:
            training.step()
    return best


def _scale(heldout: Float[Tensor, " pair"], margin: float) -> float:
    """The factor that brings gaps to the lowest eq. 7; 1 for gaps that mean nothing."""
    return fit_temperature(heldout, margin).alpha or 1.0


def _labels(pairs: int) -> Float[Tensor, " row"]:
    chosen = torch.ones(pairs, dtype=torch.float64)
    return torch.cat([chosen, -chosen])


def _only(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    return x[:, torch.cat([pairs, pairs + x.shape[1] // 2])]


def _without(x: Float[Tensor, "layer row rank"], pairs: Int[Tensor, " pair"]) -> Float[Tensor, "layer fewer rank"]:
    kept = torch.ones(x.shape[1] // 2, dtype=torch.bool)
    kept[pairs] = False
    return _only(x, kept.nonzero()[:, 0])
