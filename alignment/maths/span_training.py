"""Joint training (hybrid.py) in the span of the answers: weights are x^T a, and only K = x x^T is read.

A step down the slope of x^T a is a step of a by the slope of the scores: the same training as on x, without x. All
heads that are trained read K once a step, those of several trainings too: in float32, for how far the step moves the
scores, which stay float64. The nearer training is to its end, the smaller is what float32 rounds. Each head learns from
its own pairs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignment.maths.hybrid import MOMENTUM, PARAMETERS, RATE, Head, gate_weights, hybrid_score, vote_slopes
from alignment.maths.layers import each_layer


class SpanTraining:
    """Trains a head for each row of `trained`, on the pairs that it names; products: K of every layer, chosen first."""

    def __init__(
        self,
        products: Float[Tensor, "layer row rank"],
        trained: Bool[Tensor, "head pair"],
        heads: Sequence[Head],
        margin: float,
        workers: int = 1,
    ) -> None:
        self._products, self._trained, self._margin, self._workers = products, trained, margin, workers
        self._heads = list(heads)
        self._velocities = [{name: torch.zeros_like(value) for name, value in _values(head)} for head in heads]
        layers = range(len(products))
        picked = {"last_layer": [layers[-1]], "best_layer": [heads[0].layer]}
        self._read = picked.get(heads[0].gate, list(layers))  # the layers that R depends on
        self._scores = products.new_zeros(len(heads), products.shape[1], len(products), dtype=torch.float64)
        _move_scores([self], [self._heads], torch.float64)
        self._sizes = [self._step_sizes(*each) for each in zip(heads, self._scores, trained, strict=True)]

    @property
    def heads(self) -> list[Head]:
        """The heads as they stand now; a step makes new ones."""
        return list(self._heads)

    def heldout_gaps(self) -> Float[Tensor, " pair"]:
        """R_c - R_r of every pair, by the head that wasn't trained on it."""
        heldout = self._scores.new_empty(self._trained.shape[1])
        for scores, head, trained in zip(self._scores, self._heads, self._trained, strict=True):
            heldout[~trained] = _gaps(scores, head, head.vote)[~trained]
        return heldout

    @staticmethod
    def step(trainings: "Sequence[SpanTraining]") -> None:
        """A step of each; they have the same products."""
        slopes = [
            list(map(training._slopes, training._scores, training._heads, training._trained)) for training in trainings
        ]
        trainings[0]._bring_to_weights(trainings, slopes)
        moves = [training._move(of_heads) for training, of_heads in zip(trainings, slopes, strict=True)]
        _move_scores(trainings, moves, trainings[0]._products.dtype)

    @staticmethod
    def _bring_to_weights(trainings: "Sequence[SpanTraining]", slopes: list[list[dict[str, Tensor]]]) -> None:
        """From slopes of scores to those of weights, in place: a step of x^T a is one of a."""

    def _move(self, slopes_of_heads: list[dict[str, Tensor]]) -> list[Head]:
        """Moves all heads; gives how far."""
        moves = []
        for number, (head, slopes) in enumerate(zip(self._heads, slopes_of_heads, strict=True)):
            move = {}
            for name, _ in _values(head):
                velocity = self._velocities[number][name].mul_(MOMENTUM).add_(slopes[name])
                move[name] = -self._sizes[number][name] * (slopes[name] + MOMENTUM * velocity)
            moves.append(head._replace(**move))
            self._heads[number] = head._replace(**{name: value + move[name] for name, value in _values(head)})
        return moves

    def _slopes(
        self, scores: Float[Tensor, "row layer"], head: Head, trained: Bool[Tensor, " pair"]
    ) -> dict[str, Tensor]:
        with torch.enable_grad():
            at = scores.clone().requires_grad_()
            vote = None if head.vote is None else head.vote.clone().requires_grad_()
            loss = -logsigmoid(_gaps(at, head, vote)[trained] - self._margin).mean()
            slope, *of_vote = torch.autograd.grad(loss, [at] if vote is None else [at, vote])
        return {"weight": slope.T, "bias": slope.sum(dim=0), **({"vote": of_vote[0]} if of_vote else {})}

    def _step_sizes(
        self, head: Head, scores: Float[Tensor, "row layer"], trained: Bool[Tensor, " pair"]
    ) -> dict[str, float]:
        """As in hybrid.py: RATE / mean over the trained pairs of |dgap/dparameter|^2 at the start."""
        weights = gate_weights(scores, head.gate, head.vote, head.layer)
        (chosen, rejected), pairs = weights.chunk(2), len(trained)
        square, across = self._squares(pairs)
        of_probes = (
            chosen.square() * square[:pairs] + rejected.square() * square[pairs:] - 2 * chosen * rejected * across
        )
        squares = {"probes": float(of_probes[trained].sum(dim=1).mean())}
        if head.vote is not None:
            of_chosen, of_rejected = vote_slopes(scores, weights, head.gate).chunk(2)
            squares["vote"] = float((of_chosen - of_rejected)[trained].square().sum(dim=(1, 2)).mean())
        sizes = {name: RATE[name] / value if value > 1e-12 else 0.0 for name, value in squares.items()}
        return {"weight": sizes["probes"], "bias": sizes["probes"], "vote": sizes.get("vote", 0.0)}

    def _squares(self, pairs: int) -> tuple[Float[Tensor, "row layer"], Float[Tensor, "pair layer"]]:
        """|x|^2 of every row, and x_c . x_r of every pair, with the constant of the bias."""
        square = self._products.diagonal(dim1=1, dim2=2).T.double() + 1
        return square, self._products.diagonal(pairs, dim1=1, dim2=2).T.double() + 1


def _move_scores(trainings: Sequence[SpanTraining], moves: list[list[Head]], dtype: torch.dtype) -> None:
    """Adds to the scores of each training what its heads' moves make of them."""
    products, workers = trainings[0]._products, trainings[0]._workers
    read = sorted({layer for training in trainings for layer in training._read})

    def moved(number: int) -> None:
        layer = read[number]
        reading = [each for each in zip(trainings, moves, strict=True) if layer in each[0]._read]
        weights = torch.stack([move.weight[layer] for _, of_training in reading for move in of_training], dim=1)
        found = products[layer].to(dtype) @ weights.to(dtype)
        widths = [len(of_training) for _, of_training in reading]
        for (training, of_training), columns in zip(reading, found.double().split(widths, dim=1), strict=True):
            biases = torch.stack([move.bias[layer] for move in of_training])
            training._scores[:, :, layer] += columns.T + biases[:, None]

    each_layer(moved, len(read), workers)


def _values(head: Head) -> list[tuple[str, Tensor]]:
    return [(name, getattr(head, name)) for name in PARAMETERS if getattr(head, name) is not None]


def _gaps(scores: Float[Tensor, "row layer"], head: Head, vote: Tensor | None) -> Float[Tensor, " pair"]:
    chosen, rejected = hybrid_score(scores, gate_weights(scores, head.gate, vote, head.layer)).chunk(2)
    return chosen - rejected
