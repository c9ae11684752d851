"""Every choice in fitting a hybrid reward, made on pairs that its parts weren't fitted on.

The training pairs are dealt into folds, and each fold is scored by fits to the other folds. By these scores are chosen
the cost of the SVMs, the layer of best_layer, how long probes and gate train together (early stopping), and the alpha
of the calibrated confidence. The fit that is kept is then made on all pairs, with these choices.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.maths.confidence import Temperature, calibrated_loss, fit_temperature
from alignment.maths.early_stopping import FoldTraining, Training, only, stop_early, without
from alignment.maths.grouped_folds import deal
from alignment.maths.hybrid import Gate, Head, first_head, layer_scores, rescaled
from alignment.maths.layers import each_layer
from alignment.maths.probes import Probes, fit_probes
from alignment.maths.row_training import RowTraining
from alignment.maths.span_probes import fit_span_probes
from alignment.maths.span_training import SpanTraining

FOLDS = 5
COSTS = (0.005, 0.05, 0.5, 5.0, 50.0)


class Candidate(NamedTuple):
    """SVMs at one cost: a fold's probes are fitted on the other folds, and score the answers of their own fold."""

    cost: float
    fold_probes: list[Probes]
    scores: Float[Tensor, "2 pair layer"]

    @property
    def gaps(self) -> Float[Tensor, "pair layer"]:
        return self.scores[0] - self.scores[1]


class Start(NamedTuple):
    """The folds, and the probes fitted on them, from which the fit of every gate starts.

    In the span of the answers, x holds their products K, and the weights of probes and heads are the a of
    span_probes.py: a score is x . weight + bias in either case.
    """

    x: Float[Tensor, "layer row rank"]  # all chosen answers, then all rejected ones
    folds: list[Tensor]  # numbers of pairs
    candidates: list[Candidate]
    whole: dict[float, Probes]  # fitted on all pairs, by their cost, as far as a gate asked for them
    span: bool = False
    workers: int = 1

    def probes(self, cost: float) -> Probes:
        """The probes of all pairs."""
        if cost not in self.whole and self.span:
            every = torch.ones(1, self.x.shape[1], dtype=torch.bool, device=self.x.device)
            labels = _labels(self.x.shape[1] // 2).to(self.x.device)
            fits = each_layer(
                lambda layer: fit_span_probes(self.x[layer], labels, every, [cost])[0][0][0], len(self.x), self.workers
            )
            self.whole[cost] = _probes(fits)
        elif cost not in self.whole:
            self.whole[cost] = fit_probes(self.x, _labels(self.x.shape[1] // 2), cost)
        return self.whole[cost]


class Fitted(NamedTuple):
    """A head, how it was fitted; and of every training pair, by the fit to the other folds, the gap R_c - R_r and its
    confidence gamma, with the alpha of the other folds."""

    head: Head
    cost: float
    steps: int
    temperature: Temperature
    heldout_gaps: Float[Tensor, " pair"]
    heldout_confidences: Float[Tensor, " pair"]


def fit_start(
    x: Float[Tensor, "layer row rank"], generator: torch.Generator, prompts: Int[Tensor, " pair"] | None = None
) -> Start:
    """Deals the pairs into folds, and fits the probes of every fold at every cost.

    prompts: a number for each pair; those of one number are dealt into one fold.
    """
    pairs = x.shape[1] // 2
    folds, candidates = _folds(pairs, generator, prompts), []
    for cost in COSTS:
        fold_probes = [fit_probes(without(x, fold), _labels(pairs - len(fold)), cost) for fold in folds]
        scores = x.new_empty(2, pairs, x.shape[0])
        for fold, probes in zip(folds, fold_probes, strict=True):
            scores[:, fold] = torch.stack(layer_scores(only(x, fold), *probes).chunk(2))
        candidates.append(Candidate(cost, fold_probes, scores))
    return Start(x, folds, candidates, {})


def fit_span_start(
    products_of: Callable[[int], Float[Tensor, "row row"]],
    x: Float[Tensor, "layer row row"],
    generator: torch.Generator,
    workers: int = 1,
    prompts: Int[Tensor, " pair"] | None = None,
) -> Start:
    """As fit_start, in the span of the answers. products_of: K of a layer, which is kept in x and fitted at once."""
    layers, pairs = x.shape[0], x.shape[1] // 2
    folds, candidates = _folds(pairs, generator, prompts), []
    trained, labels = _trained(folds, pairs)[:-1].repeat(1, 2).to(x.device), _labels(pairs).to(x.device)

    def fit(layer: int) -> list[tuple[Tensor, Tensor]]:
        x[layer] = products_of(layer)
        return fit_span_probes(x[layer], labels, trained, COSTS)

    fits = each_layer(fit, layers, workers)
    for number, cost in enumerate(COSTS):
        fold_probes = [_probes([of_layer[number][0][i] for of_layer in fits]) for i in range(FOLDS)]
        scores = torch.stack([of_layer[number][1] for of_layer in fits], dim=2)  # fold, row, layer
        heldout = scores.new_empty(2, pairs, layers)
        for fold, by_fold in zip(folds, scores, strict=True):
            heldout[:, fold] = by_fold.unflatten(0, (2, pairs))[:, fold]
        candidates.append(Candidate(cost, fold_probes, heldout))
    return Start(x, folds, candidates, {}, True, workers)


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
    """One gate alone."""
    return fit_gates(start, [gate], margin)[gate]


def fit_gates(
    start: Start, gates: Sequence[Gate], margin: float, done: Callable[[], object] = lambda: None
) -> dict[Gate, Fitted]:
    """Trains each gate alone, on scores of probes that didn't see their pairs; then probes and gate together, on eq. 7.

    On the pairs that probes were fitted on, all layers look perfect: a gate can only learn there which one is louder.
    done: is called for every gate that has learned all it will.
    """
    chosen, trainings = [], []
    for gate in gates:
        best, layer = choose(start, gate)
        picked = {"last_layer": -1, "best_layer": layer}
        scale = _scale(best.gaps[:, picked[gate]] if gate in picked else best.gaps.mean(dim=1), margin)
        heads = [
            rescaled(first_head(fitted, gate, layer), scale) for fitted in (*best.fold_probes, start.probes(best.cost))
        ]
        if heads[0].vote is not None:
            heads = _with_votes(heads, best.scores, start.folds, margin)
        chosen.append(best)
        trainings.append(_training(start, heads, margin))
    fitted = {}
    for gate, best, (heads, steps, heldout) in zip(gates, chosen, stop_early(trainings, done=done), strict=True):
        scale = _scale(heldout, margin)
        heldout = scale * heldout
        temperature, confidences = fit_temperature(heldout), _confidences(heldout, start.folds)
        fitted[gate] = Fitted(rescaled(heads[-1], scale), best.cost, steps, temperature, heldout, confidences)
    return fitted


def _training(start: Start, heads: list[Head], margin: float) -> Training:
    trained = _trained(start.folds, start.x.shape[1] // 2).to(start.x.device)
    kind = SpanTraining if start.span else RowTraining
    return kind(start.x, trained, heads, margin, start.workers)


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
    training = FoldTraining(x, folds, [start] * len(heads), margin, ["vote"])
    ((gates, _, _),) = stop_early([training], least=1)
    return [head._replace(vote=trained.vote) for head, trained in zip(heads, gates, strict=True)]


def _scale(heldout: Float[Tensor, " pair"], margin: float) -> float:
    """The factor that brings gaps to the lowest eq. 7; 1 for gaps that mean nothing."""
    return fit_temperature(heldout, margin).alpha or 1.0


def _folds(pairs: int, generator: torch.Generator, prompts: Int[Tensor, " pair"] | None) -> list[Tensor]:
    numbers = torch.arange(pairs) if prompts is None else prompts
    order = torch.randperm(len(numbers.unique()), generator=generator)
    dealt = torch.from_numpy(deal(numbers.numpy(), FOLDS, order.tolist()))
    return [(dealt == fold).nonzero()[:, 0] for fold in range(FOLDS)]


def _trained(folds: list[Tensor], pairs: int) -> Bool[Tensor, "head pair"]:
    """For each fold the pairs outside of it, and all pairs last."""
    trained = torch.ones(len(folds) + 1, pairs, dtype=torch.bool)
    for number, fold in enumerate(folds):
        trained[number, fold] = False
    return trained


def _probes(fits: list[Float[Tensor, " row"]]) -> Probes:
    """The probes of all layers from each layer's a (span_probes.py)."""
    weight = torch.stack(fits)
    return Probes(weight, weight.sum(dim=1))


def _labels(pairs: int) -> Float[Tensor, " row"]:
    chosen = torch.ones(pairs, dtype=torch.float64)
    return torch.cat([chosen, -chosen])
